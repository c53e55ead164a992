//! Two nodes of one region share its hubs through a bus: official clients of both hear each other, and go on at the other node
//! when theirs dies.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use farshore::node::{NodeReady, READY_FILE};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::realtime_rig::{Program, Rig};

/// Nothing here takes as long: only a hang does.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Clients of each node of paris, and of oslo.
const EACH: u64 = 5;

/// Waits until `done` is true.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < end, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Debian's nats-server on loopback; it ends with its test.
struct Nats {
    _server: Child,
    url: String,
}

impl Nats {
    async fn start() -> Self {
        let at = free_address();
        let mut command = Command::new("nats-server");
        command.args(["-a", &at.ip().to_string(), "-p", &at.port().to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let server = command.spawn().expect("nats-server is needed: apt-get install nats-server");
        until("the bus greets", async || {
            let Ok(mut stream) = TcpStream::connect(at).await else { return false };
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).await.is_ok() && greeting == *b"INFO"
        })
        .await;
        Self { _server: server, url: format!("nats://{at}") }
    }
}

/// A further node of a region, configured as the page on several nodes says; it ends with its test.
struct FurtherNode {
    process: Child,
    ready: NodeReady,
    _dir: tempfile::TempDir,
}

impl FurtherNode {
    /// `cluster`: where paris' own node has its configuration, which lists the regions.
    async fn start(cluster: &Path, bus: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = fs::read_to_string(cluster.join("paris/region.toml")).unwrap();
        let regions = &own[own.find("[[regions]]").unwrap()..];
        let secret = cluster.join("secret");
        let (config, log) = (dir.path().join("region.toml"), dir.path().join("node.log"));
        let text = format!(
            "region = \"paris\"\ndata = {data:?}\nroles = [\"realtime\"]\nsecret_file = {secret:?}\n\n[realtime]\nbus = {bus:?}\n\n{regions}",
            data = dir.path(),
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore"));
        command.arg("node").arg("--config").arg(&config).arg("--until-stdin-closes").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let mut process = command.spawn().unwrap();
        let mut ready = None;
        until("the further node is ready", async || {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {}", fs::read_to_string(&log).unwrap());
            ready = fs::read(dir.path().join(READY_FILE))
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok());
            ready.is_some()
        })
        .await;
        Self { process, ready: ready.unwrap(), _dir: dir }
    }

    fn listen(&self) -> SocketAddr {
        self.ready.realtime.unwrap().listen
    }

    /// SIGKILL.
    async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }
}

/// One address for several nodes: connections go to each in turn, or to the next that takes them.
struct Balancer {
    at: SocketAddr,
    task: JoinHandle<()>,
}

impl Balancer {
    async fn before(nodes: [SocketAddr; 2]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let turn = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let turn = Arc::clone(&turn);
                tokio::spawn(async move { join(near, nodes, turn.fetch_add(1, Ordering::Relaxed)).await });
            }
        });
        Self { at, task }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn join(mut near: TcpStream, nodes: [SocketAddr; 2], turn: usize) {
    for step in 0..nodes.len() {
        let Ok(mut far) = TcpStream::connect(nodes[(turn + step) % nodes.len()]).await else { continue };
        // Either side may end without a word.
        let _ = copy_bidirectional(&mut near, &mut far).await;
        return;
    }
}

/// Paris' own node is told of the bus, as an operator would do it: in its configuration, with a restart.
async fn with_bus(rig: &mut Rig, bus: &str) {
    let path = rig.data().join("paris/region.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\n[realtime]\n"), "{text}");
    fs::write(&path, text.replace("\n[realtime]\n", &format!("\n[realtime]\nbus = {bus:?}\n"))).unwrap();
    rig.cluster.kill("paris").await.unwrap();
    rig.cluster.start_region("paris").await.unwrap();
    rig.at_home().await;
}

/// The connection string of a node's endpoint, by that of another one.
fn at(connection: &Value, node: SocketAddr) -> String {
    let (_, rest) = connection.as_str().unwrap().split_once(';').unwrap();
    format!("Endpoint=http://{node};{rest}")
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_two_nodes_hear_each_other_and_go_on_when_one_dies() {
    let nats = Nats::start().await;
    let mut rig = Rig::start("active-active").await;
    with_bus(&mut rig, &nats.url).await;
    let mut further = FurtherNode::start(rig.data(), &nats.url).await;
    let own = rig.given("paris", "region").await["connection"].take();
    let first = own.as_str().unwrap().split([';', '/']).nth(2).unwrap().parse().unwrap();
    let balancer = Balancer::before([first, further.listen()]).await;

    let mut given = rig.given("oslo", "region").await;
    given["far"] = given["connection"].clone();
    given["near"] = at(&own, balancer.at).into();
    given["nodes"] = json!([own, at(&own, further.listen()), given["connection"]]);
    given["each"] = EACH.into();
    let further_pair = at(&own, further.ready.realtime.unwrap().pair);
    given["further"] = further_pair.as_str().into();
    given["publish"] = json!({
        "the pair in paris": rig.given("paris", "pair").await["connection"],
        "the pair in oslo": rig.given("oslo", "pair").await["connection"],
        "the pair at the further node": further_pair,
    });
    let mut program = Program::start("nodes.js", &given);
    program.says(|line| line["ready"] == "two").await;
    // What the region's own node counts are its own clients.
    rig.clients_are([EACH, EACH]).await;
    further.kill().await;
    rig.clients_are([2 * EACH, EACH]).await;
    program.go_on().await;
    let said = program.ends_well(9).await;
    println!("{}", said.last().unwrap());
}
