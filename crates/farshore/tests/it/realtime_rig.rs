//! Programs written against the official clients, run against regions as real processes.
//!
//! The programs are in `tests/realtime`: each prints one line of JSON for each of its checks and fails when one failed. The
//! official packages are installed by `./test`, next to what cargo builds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use farshore::demo::client::Client;
use farshore::up::{Cluster, ClusterOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Nothing here takes as long: only a hang does.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A port is lost to another program once in a hundred starts.
const STARTS_MAX: u32 = 5;
/// The program under test.
const FARSHORE: &str = env!("CARGO_BIN_EXE_farshore");
/// The hub of all tests here.
const HUB: &str = "chat";
const ITEM: &str = "realtime/chat";
/// A name under which applications know the hub though no region has it: that of a proxy, for example.
const AUDIENCE: &str = "http://hub.example.test";

/// Paris and oslo with one hub, made as a person would make it; gone when dropped.
pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    api: Client,
    dir: tempfile::TempDir,
}

/// Regions on ports that were free a moment ago: now and then another program has one of them by the time it is wanted.
async fn begin(regions: fn(&Path) -> ClusterOptions) -> (Cluster, tempfile::TempDir) {
    let mut attempts = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let options = ClusterOptions { program: Some(FARSHORE.into()), ..regions(dir.path()) };
        match Cluster::start(options).await {
            Ok(cluster) => return (cluster, dir),
            Err(error) => assert!(attempts < STARTS_MAX && error.to_string().contains("in use"), "{error}"),
        }
        attempts += 1;
    }
}

impl Rig {
    /// A hub at home in paris and kept in oslo.
    pub(crate) async fn start(mode: &str) -> Self {
        Self::start_in(ClusterOptions::new, mode).await
    }

    /// The same in a cluster with three regions, etcd, and mutual TLS between all of them.
    pub(crate) async fn start_with_tls(mode: &str) -> Self {
        Self::start_in(ClusterOptions::with_etcd, mode).await
    }

    async fn start_in(regions: fn(&Path) -> ClusterOptions, mode: &str) -> Self {
        let (cluster, dir) = begin(regions).await;
        let api = Client::of(cluster.apis(), cluster.token(), cluster.ca_file()).unwrap();
        let rig = Self { cluster, api, dir };
        let create =
            format!("create {HUB} --region paris --secondary oslo --mode {mode} --hub-audience {AUDIENCE}");
        rig.farshore(&create).await;
        rig.at_home().await;
        rig
    }

    /// Where the cluster keeps everything.
    pub(crate) fn data(&self) -> &Path {
        self.dir.path()
    }

    /// What `farshore realtime` with these words prints.
    pub(crate) async fn farshore(&self, words: &str) -> String {
        let mut command = Command::new(FARSHORE);
        command.arg("realtime").args(words.split(' ')).env("FARSHORE_DATA", self.dir.path());
        let output = command.output().await.unwrap();
        let (said, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "farshore realtime {words}: {said}{error}");
        said.trim().to_owned()
    }

    /// Where a program finds the hub: an endpoint (`region` or `pair`) of a region.
    pub(crate) async fn given(&self, region: &str, of: &str) -> Value {
        let string = async |key| {
            self.farshore(&format!("connection-string {HUB} --of {of} --region {region} --key {key}")).await
        };
        json!({
            "hub": HUB,
            "connection": string("primary").await,
            "secondary": string("secondary").await,
            "audience": AUDIENCE,
            "ca": self.cluster.ca_file(),
        })
    }

    /// Tells the hub who handles its events.
    pub(crate) async fn handler(&self, url: &str) {
        self.farshore(&format!("handler set {HUB} --url {url} --system connect,connected,disconnected"))
            .await;
    }

    /// Waits until the hub is served in paris and followed in oslo.
    pub(crate) async fn at_home(&self) {
        self.item_is("paris", "Protected").await;
    }

    /// Waits until it is on record that the hub is served in oslo, because paris is lost.
    pub(crate) async fn away(&self) {
        self.item_is("oslo", "FailedOver").await;
    }

    async fn item_is(&self, source: &str, phase: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let item = self.api.get(&format!("items/{ITEM}")).await.unwrap();
            if item["source"] == source && item["phase"] == phase {
                return;
            }
            assert!(Instant::now() < end, "not {phase} in {source} in {PATIENCE:?}: {item}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until so many clients are connected in paris, and in oslo.
    pub(crate) async fn clients_are(&self, expected: [u64; 2]) {
        self.clients_are_now(expected.map(Some)).await;
    }

    /// The same; `None`: that region does not answer.
    pub(crate) async fn clients_are_now(&self, expected: [Option<u64>; 2]) {
        let end = Instant::now() + PATIENCE;
        loop {
            let connected = self.clients().await;
            if connected == expected {
                return;
            }
            assert!(
                Instant::now() < end,
                "not {expected:?} clients in paris and oslo in {PATIENCE:?}, but {connected:?}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How many clients are connected in paris, and in oslo, where these answer.
    pub(crate) async fn clients(&self) -> [Option<u64>; 2] {
        self.figures("connections").await
    }

    /// One of the hub's figures in paris, and in oslo, where these answer.
    pub(crate) async fn figures(&self, name: &str) -> [Option<u64>; 2] {
        let stats = self.api.get(&format!("realtime/{HUB}/stats")).await.unwrap();
        ["paris", "oslo"].map(|region| {
            let all = stats["regions"].as_array().unwrap().iter();
            all.filter(|one| one["region"] == region).find_map(|one| one["stats"][name].as_u64())
        })
    }
}

/// A program under way; it ends with its test.
pub(crate) struct Program {
    name: String,
    child: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    said: Vec<Value>,
}

/// Where the official packages are.
fn packages() -> PathBuf {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let sdk = built.join("sdk");
    let mark = sdk.join("installed");
    assert!(
        mark.exists(),
        "{} is missing: run ./test once, it installs the official clients that these tests run",
        mark.display()
    );
    sdk
}

/// The program's interpreter, by its name's ending.
fn interpreter(program: &str) -> Command {
    let sdk = packages();
    if program.ends_with(".py") {
        let mut command = Command::new(sdk.join("venv/bin/python"));
        // Nothing is to be left behind among the sources.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        return command;
    }
    let mut command = Command::new("node");
    command.env("NODE_PATH", sdk.join("node_modules"));
    command
}

impl Program {
    /// Starts a program of `tests/realtime` and tells it where the hub is.
    pub(crate) fn start(name: &str, given: &Value) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/realtime").join(name);
        let mut command = interpreter(name);
        command.arg(path).env("RIG", given.to_string()).kill_on_drop(true);
        if let Some(authority) = given["ca"].as_str() {
            command.env("NODE_EXTRA_CA_CERTS", authority);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { name: name.to_owned(), child, orders, lines, said: Vec::new() }
    }

    /// The next line of the program; `None` when it has ended.
    async fn next(&mut self) -> Option<Value> {
        let read = timeout(PATIENCE, self.lines.next_line()).await;
        let line = read.unwrap_or_else(|_| panic!("{} says nothing after {:?}", self.name, self.said));
        let line: Value = serde_json::from_str(&line.unwrap()?).unwrap();
        assert_ne!(
            line["ok"],
            false,
            "{}: {}: {}",
            self.name,
            line["name"],
            line["detail"].as_str().unwrap()
        );
        self.said.push(line.clone());
        Some(line)
    }

    /// Reads until the program says what is wanted.
    pub(crate) async fn says(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.next().await;
            let line = line.unwrap_or_else(|| panic!("{} has ended after {:?}", self.name, self.said));
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Reads until the program has published so many messages more.
    pub(crate) async fn publishes(&mut self, more: u64) {
        let so_far = |line: &Value| line["acknowledged"].as_u64();
        let before = self.said.iter().rev().find_map(so_far).unwrap_or(0);
        self.says(|line| so_far(line) >= Some(before + more)).await;
    }

    /// Tells the program to go on.
    pub(crate) async fn go_on(&mut self) {
        self.orders.write_all(b"go on\n").await.unwrap();
    }

    /// Waits for the program's end, which must be a good one with at least so many checks; returns all that it said.
    pub(crate) async fn ends_well(mut self, checks: usize) -> Vec<Value> {
        while self.next().await.is_some() {}
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{} ended with {status} after {:?}", self.name, self.said);
        let done = self.said.iter().filter(|line| line["ok"] == true).count();
        assert!(done >= checks, "{done} checks instead of {checks}: {:?}", self.said);
        self.said
    }
}
