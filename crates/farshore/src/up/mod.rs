//! `farshore up`: regions as real processes on one machine, for trying out, for the demo and for tests.
//!
//! Read in this order: this file (starting, killing and stopping regions), `configure` (their configuration, on free ports).
//!
//! With the embedded store the last region is the recovery region: it has the control plane. With etcd every region has a control
//! node and a member, and everything is mutual TLS. A node ends when its standard input closes, so nothing is left behind when
//! `up` itself is killed.

mod configure;
mod devices;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use configure::Files;
use farshore_core::ids::Region;
use farshore_store::etcd::local::Members;
use farshore_store::etcd::ports::HeldPort;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use crate::config::{HubsConfig, StoreKind};
use crate::node::{NodeReady, READY_FILE, interrupted};

/// A node that is not ready by then will not be. A journal of a day is indexed in a few seconds.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often it is looked whether a node is ready.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A node that is told to stop closes its disks cleanly within this.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Lines of a node's log that are shown when it did not start.
const LOG_LINES: usize = 8;

/// What a cluster on one machine consists of.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Where everything lives.
    pub data: PathBuf,
    /// The regions; with the embedded store the last one is the recovery region.
    pub regions: Vec<Region>,
    /// What the control plane remembers in. With etcd a member runs in each region: name an odd number of them.
    pub store: StoreKind,
    /// Seconds between recovery points, for regions that are made now.
    pub point_seconds: u64,
    /// The program; by default the running one.
    pub program: Option<PathBuf>,
    /// Each region has an address of its own, 127.0.0.2 and on, where it listens for devices at the ports that official SDKs
    /// know, and for questions about names at port 53: for regions that are made now, by root.
    pub device_ports: bool,
    /// Puts something between the first two regions: before the second one's replication listener, before the first one's agent,
    /// and before the second one's agent for the first region. Given an address, it says where to connect instead.
    pub line: Option<Line>,
}

/// See [`ClusterOptions::line`].
#[derive(Clone)]
pub struct Line(pub std::sync::Arc<dyn Fn(SocketAddr) -> io::Result<SocketAddr> + Send + Sync>);

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl ClusterOptions {
    /// Paris and oslo under `data`.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        let regions = ["paris", "oslo"].iter().filter_map(|name| Region::parse(name).ok()).collect();
        Self {
            data: data.to_owned(),
            regions,
            store: StoreKind::Redb,
            point_seconds: 5,
            program: None,
            device_ports: false,
            line: None,
        }
    }

    /// Paris, oslo and bergen under `data`, with a member of etcd and a control node in each.
    #[must_use]
    pub fn with_etcd(data: &Path) -> Self {
        let regions =
            ["paris", "oslo", "bergen"].iter().filter_map(|name| Region::parse(name).ok()).collect();
        Self { regions, store: StoreKind::Etcd, ..Self::new(data) }
    }
}

/// `client.json`: how the CLI finds the API without being told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFile {
    /// Base URL.
    pub api: String,
    /// Base URLs of other control nodes, asked when that one does not answer.
    #[serde(default)]
    pub others: Vec<String>,
    /// File with the token.
    pub token_file: PathBuf,
    /// The cluster's certificate authority, for https.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// The name of [`ClientFile`]'s file in the data directory.
pub const CLIENT_FILE: &str = "client.json";

/// Why regions did not start or stop. The text names the thing and the way out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UpError(String);

fn wrong(what: impl std::fmt::Display) -> UpError {
    UpError(what.to_string())
}

fn at<'a>(what: &'a str, path: &'a Path) -> impl Fn(io::Error) -> UpError + 'a {
    move |error| wrong(format!("cannot {what} {}: {error}", path.display()))
}

/// Regions that run.
#[derive(Debug)]
pub struct Cluster {
    data: PathBuf,
    program: PathBuf,
    nodes: Vec<Node>,
    /// Members of etcd, named as the regions.
    members: Option<Members>,
    /// Base URLs of the control nodes.
    apis: Vec<String>,
    http: reqwest::Client,
    token: String,
    client: ClientFile,
    /// Those that were chosen for the nodes: nobody else gets them while a node is down.
    _ports: Vec<HeldPort>,
    _only_one: File,
}

#[derive(Debug)]
struct Node {
    region: Region,
    child: Option<Child>,
    /// Length of its log when it was started: what is after it is about this start.
    log_from: usize,
}

impl Cluster {
    /// Starts all regions, on the directory's state if it has one, and waits until they are ready.
    ///
    /// # Errors
    /// When one does not start; those that did are stopped again.
    pub async fn start(options: ClusterOptions) -> Result<Self, UpError> {
        if options.regions.is_empty() {
            return Err(wrong("name at least one region"));
        }
        if options.data.is_file() {
            return Err(wrong(format!("{} is a file: name a directory with --data", options.data.display())));
        }
        fs::create_dir_all(&options.data).map_err(at("use", &options.data))?;
        let data = options.data.canonicalize().map_err(at("use", &options.data))?;
        let only_one = lock(&data)?;
        let token_file = data.join("token");
        let secret_file = data.join("secret");
        make_secret(&secret_file, "")?;
        let token = make_secret(&token_file, "farshore-")?;
        let program = options.program.clone().map_or_else(std::env::current_exe, Ok).map_err(wrong)?;
        let members = start_members(&options, &data).await?;
        let devices = devices::certificate(&data, &HubsConfig::default().domain)?;
        let files = Files { secret: secret_file, token: token_file, devices };
        let (configs, ports) = configure::configure(&options, &data, &files, members.as_ref())?;
        let client = configure::client_file(&configs, &data, &files, options.store);
        let apis: Vec<String> = std::iter::once(&client.api).chain(&client.others).cloned().collect();
        let http = client_for(client.ca_file.as_deref())?;
        let nodes = configs
            .iter()
            .map(|config| Node { region: config.region.clone(), child: None, log_from: 0 })
            .collect();
        let mut cluster = Self {
            data,
            program,
            nodes,
            members,
            apis,
            http,
            token,
            client,
            _ports: ports,
            _only_one: only_one,
        };
        let regions: Vec<Region> = cluster.nodes.iter().map(|node| node.region.clone()).collect();
        for region in &regions {
            cluster.spawn(region)?;
        }
        for region in &regions {
            cluster.wait_ready(region).await?;
        }
        cluster.wait_api().await?;
        let path = cluster.data.join(CLIENT_FILE);
        fs::write(&path, serde_json::to_vec_pretty(&cluster.client).map_err(wrong)?)
            .map_err(at("write", &path))?;
        Ok(cluster)
    }

    /// Base URL of the API.
    #[must_use]
    pub fn api_url(&self) -> &str {
        &self.client.api
    }

    /// Base URLs of the API at all control nodes, with the region of each.
    #[must_use]
    pub fn apis(&self) -> &[String] {
        &self.apis
    }

    /// The cluster's certificate authority, when everything is TLS.
    #[must_use]
    pub fn ca_file(&self) -> Option<&Path> {
        self.client.ca_file.as_deref()
    }

    /// The API's token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Process id of a region's node, while it runs.
    #[must_use]
    pub fn pid(&self, region: &str) -> Option<u32> {
        self.nodes.iter().find(|node| node.region.as_str() == region)?.child.as_ref()?.id()
    }

    /// SIGKILL to every process of the region: its node and its member of etcd.
    pub async fn kill(&mut self, region: &str) -> io::Result<()> {
        self.kill_node(region)?;
        match &mut self.members {
            Some(members) => members.kill(region).await.map_err(io::Error::other),
            None => Ok(()),
        }
    }

    /// SIGKILL to the region's node only.
    pub fn kill_node(&mut self, region: &str) -> io::Result<()> {
        let node = self.node(region).map_err(io::Error::other)?;
        let Some(child) = &mut node.child else { return Ok(()) };
        child.start_kill()?;
        // Reaped here, so that nobody takes a zombie for a live process.
        while child.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        node.child = None;
        Ok(())
    }

    /// Starts a region that was killed, on what it left behind.
    pub async fn start_region(&mut self, region: &str) -> Result<(), UpError> {
        let region = self.node(region)?.region.clone();
        if let Some(members) = &mut self.members
            && members.pid(region.as_str()).is_none()
        {
            members.restart(region.as_str()).await.map_err(wrong)?;
        }
        self.spawn(&region)?;
        self.wait_ready(&region).await
    }

    fn node(&mut self, region: &str) -> Result<&mut Node, UpError> {
        let known: Vec<String> = self.nodes.iter().map(|node| node.region.to_string()).collect();
        self.nodes
            .iter_mut()
            .find(|node| node.region.as_str() == region)
            .ok_or_else(|| wrong(format!("there is no region {region}; there are: {}", known.join(", "))))
    }

    fn spawn(&mut self, region: &Region) -> Result<(), UpError> {
        let dir = self.data.join(region.as_str());
        let ready = dir.join(READY_FILE);
        let _ = fs::remove_file(&ready);
        let log = dir.join("node.log");
        let log_file = OpenOptions::new().create(true).append(true).open(&log).map_err(at("write", &log))?;
        let log_from = log_file.metadata().map_err(at("read", &log))?.len();
        let mut command = Command::new(&self.program);
        command.arg("node").arg("--config").arg(dir.join("region.toml")).arg("--until-stdin-closes");
        // What is set for the clients of this cluster must not change its nodes.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FARSHORE_NODE_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log_file).kill_on_drop(true);
        // Ctrl-C on the terminal is for `up`, which stops its nodes in order.
        command.process_group(0);
        let child = command.spawn().map_err(at("run", &self.program))?;
        let node = self.node(region.as_str())?;
        node.child = Some(child);
        node.log_from = usize::try_from(log_from).unwrap_or(usize::MAX);
        Ok(())
    }

    async fn wait_ready(&mut self, region: &Region) -> Result<(), UpError> {
        let until = Instant::now() + READY_DEADLINE;
        let dir = self.data.join(region.as_str());
        loop {
            let node = self.node(region.as_str())?;
            let log_from = node.log_from;
            let Some(child) = &mut node.child else {
                return Err(wrong("the node was not started"));
            };
            if let Some(status) = child.try_wait().map_err(wrong)? {
                return Err(wrong(format!(
                    "the node of {region} ended ({status}): {}",
                    log_tail(&dir.join("node.log"), log_from)
                )));
            }
            let pid = child.id();
            let ready = fs::read(dir.join(READY_FILE))
                .ok()
                .and_then(|text| serde_json::from_slice::<NodeReady>(&text).ok());
            if ready.is_some_and(|ready| Some(ready.pid) == pid) {
                return Ok(());
            }
            if Instant::now() > until {
                let log = dir.join("node.log");
                return Err(wrong(format!(
                    "the node of {region} is not ready after {READY_DEADLINE:?}: see {}",
                    log.display()
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every control node answers as ready.
    async fn wait_api(&self) -> Result<(), UpError> {
        let until = Instant::now() + READY_DEADLINE;
        for api in &self.apis {
            while !self.is_ready(api).await {
                if Instant::now() > until {
                    return Err(wrong(format!("the API at {api} is not ready after {READY_DEADLINE:?}")));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    async fn is_ready(&self, api: &str) -> bool {
        let ask = self.http.get(format!("{api}/readyz")).timeout(Duration::from_secs(2)).send();
        ask.await.is_ok_and(|answer| answer.status().is_success())
    }

    /// Whether the region's control node answers as ready now.
    pub async fn control_answers(&self, region: &str) -> bool {
        let at = self.nodes.iter().filter(|node| self.is_control(&node.region));
        let at = at.zip(&self.apis).find(|(node, _)| node.region.as_str() == region);
        match at {
            Some((_, api)) => self.is_ready(api).await,
            None => false,
        }
    }

    fn is_control(&self, region: &Region) -> bool {
        self.members.is_some() || self.nodes.last().is_some_and(|node| node.region == *region)
    }

    /// Stops all regions in order and waits for them.
    ///
    /// # Errors
    /// When one had to be killed.
    pub async fn stop(&mut self) -> Result<(), UpError> {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                drop(child.stdin.take());
            }
        }
        let mut late = Vec::new();
        for node in &mut self.nodes {
            let Some(mut child) = node.child.take() else { continue };
            if tokio::time::timeout(STOP_DEADLINE, child.wait()).await.is_err() {
                let _ = child.kill().await;
                late.push(node.region.to_string());
            }
        }
        if let Some(members) = &mut self.members {
            members.stop().await.map_err(wrong)?;
        }
        if late.is_empty() {
            return Ok(());
        }
        Err(wrong(format!(
            "{} did not stop in {STOP_DEADLINE:?} and had to be killed; nothing acknowledged is lost",
            late.join(", ")
        )))
    }

    /// How to reach it, with commands that work as they stand.
    #[must_use]
    pub fn how_to_use(&self) -> String {
        let regions: Vec<&str> = self.nodes.iter().map(|node| node.region.as_str()).collect();
        let (first, last) = (regions.first().copied().unwrap_or(""), regions.last().copied().unwrap_or(""));
        let program = self.program.display();
        format!(
            "regions     {regions}\nAPI         {api}/api/v1 (document: {api}/api/v1/openapi.json)\ntoken file  {token}\nstate       {data}\n\n\
             export FARSHORE_DATA={data}\n\
             {program} machine create web-1 --region {first} --disk root=1G --disk data=512M\n\
             {program} protect machine/web-1 --to {last}\n\
             {program} points machine/web-1\n\
             {program} test-failover machine/web-1 && {program} cleanup machine/web-1\n\
             {program} status\n",
            regions = regions.join(", "),
            api = self.client.api,
            token = self.client.token_file.display(),
            data = self.data.display(),
        )
    }

    /// Returns at Ctrl-C or SIGTERM. Says it when a region ends by itself meanwhile.
    pub async fn wait_for_interrupt(&mut self) -> io::Result<()> {
        let interrupted = interrupted();
        tokio::pin!(interrupted);
        loop {
            tokio::select! {
                () = &mut interrupted => return Ok(()),
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    for node in &mut self.nodes {
                        if let Some(status) = node.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                            eprintln!("{}", how_to_restart(&self.program, &self.data.join(node.region.as_str()), &node.region, status));
                            node.child = None;
                        }
                    }
                }
            }
        }
    }
}

/// What to say when a node ended that nobody had stopped, with the command that starts it again.
fn how_to_restart(program: &Path, dir: &Path, region: &Region, status: ExitStatus) -> String {
    format!(
        "the node of {region} ended ({status}): see {}\nto start it again: {} node --config {}",
        dir.join("node.log").display(),
        program.display(),
        dir.join("region.toml").display(),
    )
}

/// Starts regions, says how to use them, and stops them at Ctrl-C.
///
/// # Errors
/// When they do not start or stop.
pub async fn run(options: ClusterOptions) -> Result<(), UpError> {
    let mut cluster = Cluster::start(options).await?;
    println!("{}", cluster.how_to_use());
    io::stdout().flush().map_err(wrong)?;
    eprintln!("running; Ctrl-C stops everything and keeps the state");
    cluster.wait_for_interrupt().await.map_err(wrong)?;
    eprintln!("stopping");
    cluster.stop().await
}

fn lock(data: &Path) -> Result<File, UpError> {
    let path = data.join("up.lock");
    let file = File::create(&path).map_err(at("make", &path))?;
    file.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => wrong(format!(
            "{} is in use by another farshore up: stop it first, or choose another directory with --data",
            data.display()
        )),
        fs::TryLockError::Error(error) => at("lock", &path)(error),
    })?;
    Ok(file)
}

/// Reads the secret in the file, or makes one that only its owner can read.
pub(crate) fn make_secret(path: &Path, prefix: &str) -> Result<String, UpError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let bytes: [u8; 32] = rand::random();
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            file.write_all(format!("{prefix}{text}\n").as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(at("write", path))?;
            Ok(format!("{prefix}{text}"))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(at("read", path))
        }
        Err(error) => Err(at("make", path)(error)),
    }
}

/// Starts a member of etcd for each region, on what it left behind.
async fn start_members(options: &ClusterOptions, data: &Path) -> Result<Option<Members>, UpError> {
    if options.store == StoreKind::Redb {
        return Ok(None);
    }
    let names: Vec<&str> = options.regions.iter().map(Region::as_str).collect();
    Members::start(&data.join("etcd"), &names, None).await.map(Some).map_err(wrong)
}

/// A client that believes the cluster's nodes and nobody else.
fn client_for(ca_file: Option<&Path>) -> Result<reqwest::Client, UpError> {
    crate::trust::provider();
    let builder = reqwest::Client::builder().no_proxy();
    let builder = match ca_file {
        None => builder,
        Some(path) => {
            let pem = fs::read(path).map_err(at("read", path))?;
            builder.tls_certs_only([reqwest::Certificate::from_pem(&pem).map_err(wrong)?])
        }
    };
    builder.build().map_err(wrong)
}

/// The last lines that were written after `from`.
fn log_tail(path: &Path, from: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_log_is_about_this_start() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("node.log");
        fs::write(&log, "old\nerror: new\n").unwrap();
        assert_eq!(log_tail(&log, 4), "error: new");
        assert_eq!(log_tail(&log, 400), "");
    }

    #[tokio::test]
    async fn a_file_is_no_directory_to_live_in() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Cluster::start(ClusterOptions::new(file.path())).await.unwrap_err();
        assert!(error.to_string().ends_with("is a file: name a directory with --data"), "{error}");
    }
}
