//! A cluster across real failure domains: in each of three network namespaces a member of etcd and a `farshore node`, made as a
//! person would make it, with `farshore init` in paris and `farshore join` in the others.
//!
//! Every process is killed by its id when the cluster is dropped, and ends by itself when the test is killed: nodes when their
//! standard input closes, members under a shell that waits for the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use farshore::demo::client::{Broken, Client};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cluster_lan::{Lan, REGIONS};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_farshore");
/// Nothing here takes as long: only a hang does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What opens the API.
const TOKEN: &str = "farshore-0123456789abcdef0123456789abcdef";
/// The item of most tests.
pub(crate) const ITEM: &str = "machine/web-1";

/// Runs the member and kills it when standard input ends.
const SUPERVISOR: &str = r#"log="$1"; shift; "$@" </dev/null >>"$log" 2>&1 & member=$!; echo "$member"; exec >/dev/null
read -r _; kill -9 "$member" 2>/dev/null; wait "$member""#;

/// Starts in a region's namespace.
#[derive(Debug, Default)]
struct Place {
    /// The node; with a shifted clock, the program that shifted it.
    node: Option<Child>,
    /// The shell over the member of etcd, and the member.
    etcd: Option<(Child, Pid)>,
}

/// The cluster; gone when dropped.
#[derive(Debug)]
pub(crate) struct Net {
    places: BTreeMap<&'static str, Place>,
    lan: Lan,
    dir: tempfile::TempDir,
}

/// Waits until it holds.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "{what} was not seen in {PATIENCE:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks for a change until the control plane takes changes: for a while after a member of the store was lost or came back there is
/// no leader, it is read-only and refuses.
pub(crate) async fn when_writable<T>(mut ask: impl AsyncFnMut() -> Result<T, Broken>) -> Result<T, Broken> {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(refused) if refused.to_string().contains("read-only") && Instant::now() < end => {}
            answered => return answered,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Both outputs of a program, for messages.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    output
}

impl Net {
    /// The cluster, ready in every region.
    pub(crate) async fn start() -> Self {
        let net = Self {
            places: REGIONS.map(|region| (region, Place::default())).into(),
            lan: Lan::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        net.begin().await
    }

    async fn begin(mut self) -> Self {
        write_private(&self.dir.path().join("token"), TOKEN);
        for region in REGIONS {
            fs::create_dir(self.data(region)).unwrap();
            fs::write(self.config(region), self.configuration(region)).unwrap();
            self.start_etcd(region);
        }
        let address = self.address("paris");
        let mut init = self.program("paris");
        init.args(["init", "--cluster", "net", "--region", "paris", "--address", &address]);
        let made: Value = serde_json::from_slice(&done(&mut init).stdout).unwrap();
        self.start_node("paris").await;
        for region in &REGIONS[1..] {
            self.join(region, made["ca_hash"].as_str().unwrap()).await;
        }
        for region in &REGIONS[1..] {
            self.spawn_node(region, &[]);
        }
        for region in &REGIONS[1..] {
            self.wait_ready(region).await;
        }
        self
    }

    async fn join(&self, region: &str, ca_hash: &str) {
        let asked = json!({"role": "control", "region": region});
        let made = self.api("paris").post("join-tokens", &asked).await.unwrap();
        let (url, address) = (self.url("paris"), self.address(region));
        let mut join = self.program(region);
        join.args(["join", &url, "--ca-hash", ca_hash, "--region", region, "--role", "control"]);
        join.args(["--address", &address, "--token", made["token"].as_str().unwrap()]);
        done(&mut join);
    }

    fn configuration(&self, region: &str) -> String {
        let (data, at) = (self.data(region), self.address(region));
        let etcd = REGIONS.map(|name| format!("{name} = \"{}\"", self.etcd_url(name))).join(", ");
        let regions = REGIONS.map(|name| {
            let at = self.address(name);
            format!("[[regions]]\nname = \"{name}\"\nagent = \"https://{at}:7000\"\nreplication = \"{at}:7001\"\ncontrol = true\n")
        });
        format!(
            "region = \"{region}\"\ndata = \"{data}\"\nlisten = \"{at}:7000\"\nnbd = \"127.0.0.1:10809\"\n\
             replication = \"{at}:7001\"\ntrust = \"{data}/trust\"\ntoken_file = \"{token}\"\npoint_seconds = 1\n\
             store = \"etcd\"\n[etcd]\nendpoints = {{ {etcd} }}\n[fencing]\nrenew_seconds = 1\n\
             call_timeout_seconds = 1\nvalid_seconds = 6\nstop_seconds = 2\n[dns]\nlisten = \"{at}:53\"\n{regions}",
            data = data.display(),
            token = self.dir.path().join("token").display(),
            regions = regions.concat(),
        )
    }

    /// The cables.
    pub(crate) fn lan(&self) -> &Lan {
        &self.lan
    }

    /// The region's address, as text.
    pub(crate) fn address(&self, region: &str) -> String {
        self.lan.address(region).to_string()
    }

    /// Where its node listens.
    pub(crate) fn url(&self, region: &str) -> String {
        format!("https://{}:7000", self.address(region))
    }

    /// Where its member of etcd listens.
    pub(crate) fn etcd_url(&self, region: &str) -> String {
        format!("http://{}:2379", self.address(region))
    }

    /// What its node keeps.
    pub(crate) fn data(&self, region: &str) -> PathBuf {
        self.dir.path().join(region)
    }

    /// Its node's configuration.
    pub(crate) fn config(&self, region: &str) -> PathBuf {
        self.data(region).join("region.toml")
    }

    /// The certificate of the cluster's authority.
    pub(crate) fn ca(&self) -> PathBuf {
        self.data("paris").join("trust/ca.crt")
    }

    /// `farshore` inside the region, as a client of that region's control node, with results in JSON.
    pub(crate) fn program(&self, region: &str) -> Command {
        let mut command = self.lan.command(region, PROGRAM);
        command.arg("--data").arg(self.data(region)).args(["--output", "json", "--yes"]);
        command.env("FARSHORE_API", self.url(region)).env("FARSHORE_CA", self.ca());
        command.env("FARSHORE_TOKEN_FILE", self.dir.path().join("token"));
        command
    }

    /// `farshore` with these words; what it printed.
    pub(crate) fn farshore(&self, region: &str, words: &str) -> Output {
        self.program(region).args(words.split_whitespace()).output().unwrap()
    }

    /// Any program inside the region.
    pub(crate) fn exec(&self, region: &str, words: &str) -> Output {
        let mut words = words.split_whitespace();
        self.lan.command(region, words.next().unwrap()).args(words).output().unwrap()
    }

    /// A client of one region's control node and of no other.
    pub(crate) fn api(&self, region: &str) -> Client {
        Client::of(&[self.url(region)], TOKEN, Some(&self.ca())).unwrap()
    }

    /// A client that asks these control nodes in turn.
    pub(crate) fn api_of(&self, regions: &[&str]) -> Client {
        let urls: Vec<String> = regions.iter().map(|region| self.url(region)).collect();
        Client::of(&urls, TOKEN, Some(&self.ca())).unwrap()
    }

    fn start_etcd(&mut self, region: &'static str) {
        let peer = |name: &str| format!("http://{}:2380", self.address(name));
        let cluster = REGIONS.map(|name| format!("{name}={}", peer(name))).join(",");
        let mut command = self.lan.command(region, "sh");
        command.args(["-c", SUPERVISOR, "etcd-supervisor"]).arg(self.data(region).join("etcd.log"));
        command.args(["etcd", "--name", region, "--data-dir"]).arg(self.data(region).join("etcd"));
        let url = self.etcd_url(region);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer(region)]);
        command.args(["--initial-advertise-peer-urls", &peer(region), "--initial-cluster", &cluster]);
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let pid = Pid::from_raw(said.trim().parse().unwrap()).unwrap();
        self.places.get_mut(region).unwrap().etcd = Some((shell, pid));
    }

    /// Starts the region's node on what it left behind, behind these words.
    fn spawn_node(&mut self, region: &str, before: &[&str]) {
        let _ = fs::remove_file(self.data(region).join("node.json"));
        let log = self.data(region).join("node.log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut words = before.to_vec();
        words.push(PROGRAM);
        let mut command = self.lan.command(region, words[0]);
        command.args(&words[1..]).args(["node", "--until-stdin-closes", "--config"]).arg(self.config(region));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.places.get_mut(region).unwrap().node = Some(command.spawn().unwrap());
    }

    /// Waits until the node's control plane answers.
    async fn wait_ready(&self, region: &str) {
        let api = self.api(region);
        let what = format!("a ready node in {region}");
        let look = async || {
            self.node_pid(region)?;
            api.get("version").await.ok()
        };
        until(&what, look).await;
    }

    /// Starts the region's node and waits until its control plane answers.
    pub(crate) async fn start_node(&mut self, region: &str) {
        self.spawn_node(region, &[]);
        self.wait_ready(region).await;
    }

    /// Starts the region's node on clocks that were started so many seconds earlier.
    pub(crate) async fn start_node_later(&mut self, region: &str, seconds: u32) {
        let seconds = seconds.to_string();
        let before =
            ["unshare", "--time", "--fork", "--kill-child", "--boottime", &seconds, "--monotonic", &seconds];
        self.spawn_node(region, &before);
        self.wait_ready(region).await;
    }

    /// Starts what was killed.
    pub(crate) async fn start_region(&mut self, region: &'static str) {
        if self.places[region].etcd.is_none() {
            self.start_etcd(region);
        }
        if self.places[region].node.is_none() {
            self.start_node(region).await;
        }
    }

    fn node_pid(&self, region: &str) -> Option<Pid> {
        let ready = fs::read(self.data(region).join("node.json")).ok()?;
        let ready: Value = serde_json::from_slice(&ready).ok()?;
        Pid::from_raw(i32::try_from(ready["pid"].as_i64()?).ok()?)
    }

    /// SIGKILL to the node.
    pub(crate) fn kill_node(&mut self, region: &str) {
        let pid = self.node_pid(region);
        if let Some(mut node) = self.places.get_mut(region).unwrap().node.take() {
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = node.kill();
            let _ = node.wait();
        }
    }

    /// SIGKILL to the member of etcd.
    pub(crate) fn kill_etcd(&mut self, region: &str) {
        if let Some((mut shell, pid)) = self.places.get_mut(region).unwrap().etcd.take() {
            let _ = kill_process(pid, Signal::KILL);
            drop(shell.stdin.take());
            let _ = shell.wait();
        }
    }

    /// SIGKILL to everything in the region.
    pub(crate) fn kill(&mut self, region: &str) {
        self.kill_node(region);
        self.kill_etcd(region);
    }

    fn signal(&self, region: &str, signal: Signal) {
        let etcd = self.places[region].etcd.as_ref().map(|(_, pid)| *pid);
        for pid in self.node_pid(region).into_iter().chain(etcd) {
            kill_process(pid, signal).unwrap();
        }
    }

    /// SIGSTOP to everything in the region.
    pub(crate) fn stop(&self, region: &str) {
        self.signal(region, Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn cont(&self, region: &str) {
        self.signal(region, Signal::CONT);
    }

    /// SIGSTOP to the node only.
    pub(crate) fn stop_node(&self, region: &str) {
        kill_process(self.node_pid(region).unwrap(), Signal::STOP).unwrap();
    }

    /// The region whose member leads, as `etcdctl` says.
    pub(crate) fn etcd_leader(&self) -> Option<&'static str> {
        REGIONS.into_iter().find(|region| {
            let url = self.etcd_url(region);
            let said =
                self.exec(region, &format!("timeout 5 etcdctl --endpoints {url} endpoint status -w json"));
            let said: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
            let status = &said[0]["Status"];
            status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
        })
    }

    /// The end of every node's log, for a failing test.
    fn logs(&self) -> String {
        let end = |region: &str| {
            let log = fs::read_to_string(self.data(region).join("node.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("== {region}\n{}\n", lines[lines.len().saturating_sub(30)..].join("\n"))
        };
        REGIONS.map(end).concat()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for region in REGIONS {
            self.kill(region);
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
