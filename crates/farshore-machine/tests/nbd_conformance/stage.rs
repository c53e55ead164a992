//! Disks on a server, and the tools that are let loose on them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_core::ids::{Epoch, ItemId, Region, StepKey, Token};
use farshore_core::workload::{
    Action, Observation, Order, PointChoice, ReplicationMode, ReplicationState, Role, Workload,
};
use farshore_machine::nbd::{Client, DiskExport, Exports, Limits, Options, Server};
use farshore_machine::raw::RawFile;
use farshore_machine::workload::{Machines, MachinesOptions};
use serde_json::json;

/// No multiple of anything, and room for two requests of the largest size.
pub(crate) const SIZE: u64 = (80 << 20) + 4_321;
/// Longest that anything here may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// What serves the disk `uri`, which is as new: all zeroes, and sparse where that can be seen.
pub(crate) struct Stage {
    pub(crate) kind: Kind,
    pub(crate) uri: String,
    pub(crate) dir: tempfile::TempDir,
    _serving: Serving,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A raw file.
    Plain,
    /// A raw file that replicates, numbered and logged.
    Replicating,
    /// The far side of a machine after a failover: a base, a journal and a copy-on-write layer.
    Promoted,
}

#[expect(dead_code, reason = "held so that they serve")]
enum Serving {
    Plain(Server),
    Regions { paris: Place, oslo: Place, runtime: tokio::runtime::Runtime },
}

impl Stage {
    pub(crate) fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (uri, serving) = match kind {
            Kind::Plain => {
                let socket = dir.path().join("nbd.sock");
                let (server, _) = serve(&socket, dir.path(), Limits::default());
                (uri(&socket, ""), Serving::Plain(server))
            }
            Kind::Replicating | Kind::Promoted => regions(kind, dir.path()),
        };
        Self { kind, uri, dir, _serving: serving }
    }

    /// One of each kind, one after the other.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Kind::Plain, Kind::Replicating, Kind::Promoted].into_iter().map(Self::new)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

/// The empty name is a fresh disk, `locked` a read-only one, `name with spaces/and ünïcode` a small one.
pub(crate) fn serve(socket: &Path, dir: &Path, limits: Limits) -> (Server, Exports) {
    let disk = |name: &str, size: u64| Arc::new(RawFile::create(dir.join(name), size).unwrap());
    let exports = Exports::new();
    exports.insert("", Arc::new(DiskExport::new(disk("plain.raw", SIZE), false)));
    exports.insert("locked", Arc::new(DiskExport::new(disk("locked.raw", 1 << 20), true)));
    exports.insert("name with spaces/and ünïcode", Arc::new(DiskExport::new(disk("odd.raw", 513), false)));
    let options =
        Options { unix: Some(socket.to_owned()), exports: exports.clone(), limits, ..Options::default() };
    (Server::start(options).unwrap(), exports)
}

pub(crate) fn uri(socket: &Path, name: &str) -> String {
    format!("nbd+unix:///{name}?socket={}", socket.display())
}

/// Runs a tool to its end; returns what it printed. `package` is what a person has to install if it is not there.
pub(crate) fn run(package: &str, tool: &str, arguments: &[&str]) -> String {
    let (good, text) = attempt(package, tool, arguments);
    assert!(good, "{tool} {arguments:?} failed:\n{text}");
    text
}

/// Like [`run`], for what may fail; both outputs together.
pub(crate) fn attempt(package: &str, tool: &str, arguments: &[&str]) -> (bool, String) {
    // nbdsh runs whichever python3 comes first; its module belongs to the system's.
    let path = format!("/usr/bin:/bin:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(tool)
        .args(arguments)
        .env("PATH", path)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{tool} cannot be run ({error}): apt-get install {package}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

struct Place {
    machines: Arc<Machines>,
    socket: PathBuf,
}

fn regions(kind: Kind, dir: &Path) -> (String, Serving) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (paris, oslo) = (Place::open("paris", dir), Place::open("oslo", dir));
    runtime.block_on(protect(&paris, &oslo));
    let socket = if kind == Kind::Replicating {
        &paris.socket
    } else {
        runtime.block_on(fail_over(&paris, &oslo));
        &oslo.socket
    };
    (uri(socket, "web-1/root"), Serving::Regions { paris, oslo, runtime })
}

async fn protect(paris: &Place, oslo: &Place) {
    let disks = json!({"disks": [{"name": "root", "size_bytes": SIZE}]});
    paris.act(1, "create", Action::Create { spec: disks }).await;
    let shape = paris.look().await.shape;
    let source = Region::parse("paris").unwrap();
    oslo.act(1, "prepare", Action::PrepareTarget { source, shape }).await;
    let address = oslo.machines.replication_addr().to_string();
    let target = Region::parse("oslo").unwrap();
    paris.act(1, "replicate", Action::Replicate { target, address, mode: ReplicationMode::Async }).await;
    paris
        .wait(|seen| seen.replication.as_ref().is_some_and(|it| it.state == ReplicationState::Streaming))
        .await;
}

/// Leaves something in the journal for the promoted disk to hide below what is written to it: zeroes over old data.
async fn fail_over(paris: &Place, oslo: &Place) {
    let uri = paris.look().await.endpoints[0].uri.clone();
    let mut client = Client::connect(&uri, DEADLINE).unwrap();
    client.write(100_000, &[7; 300_000], false).unwrap();
    client.zero(100_000, 300_000, false).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    let head = paris.look().await.watermark;
    oslo.wait(|seen| seen.watermark.seq >= head.seq).await;
    oslo.act(2, "promote", Action::Promote { point: PointChoice::Latest }).await;
    oslo.wait(|seen| seen.role == Role::Active && seen.ready).await;
}

impl Place {
    fn open(name: &str, dir: &Path) -> Self {
        let region = Region::parse(name).unwrap();
        let loopback = "127.0.0.1:0".parse().unwrap();
        let socket = dir.join(format!("{name}.sock"));
        let source = farshore_machine::source::Options { region: Some(region.clone()), ..Default::default() };
        let machines = Machines::open(MachinesOptions {
            dir: dir.join(name),
            nbd: loopback,
            nbd_socket: Some(socket.clone()),
            replication: loopback,
            tls: None,
            secret: "secret".into(),
            replica: farshore_machine::replica::Options::default(),
            source,
            region,
        });
        Self { machines: machines.unwrap(), socket }
    }

    async fn act(&self, epoch: u64, step: &str, action: Action) {
        let (key, token) = (StepKey(format!("test/{step}")), Token::new(1, Epoch(epoch)));
        self.machines
            .act(&Order { key, item: item(), token, action, only_if: None, lease: None, by: None })
            .await
            .unwrap();
    }

    async fn look(&self) -> Observation {
        self.machines.observe(&item()).await.unwrap()
    }

    async fn wait(&self, holds: impl Fn(&Observation) -> bool) {
        let until = Instant::now() + DEADLINE;
        loop {
            let seen = self.look().await;
            if holds(&seen) {
                return;
            }
            assert!(Instant::now() < until, "not seen in time: {seen:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn item() -> ItemId {
    ItemId::parse("machine/web-1").unwrap()
}
