//! `farshore node`: one process of a region. The composition root: here, and only here, the rooms are put together.
//!
//! Read in this order: this file (what a node consists of, and its start and end), `control` (the part that needs the store),
//! `names` (DNS and concierge), `realtime` (real-time hubs), `hubs` (device hubs), `apps` (app services).

mod apps;
mod control;
mod hubs;
mod names;
mod realtime;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use farshore_app::workload::Apps;
use farshore_core::ids::{Kind, Region};
use farshore_core::workload::Workload;
use farshore_hub::workload::DeviceHubs;
use farshore_machine::replica::{Options as ReplicaOptions, Retention};
use farshore_machine::source::Options as SourceOptions;
use farshore_machine::workload::{MachineTls, Machines, MachinesOptions};
use farshore_realtime::workload::Realtime;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::access::keys::Keys;
use crate::agent::{
    self, AgentState, Callers, ControlNodes, Credentials, LeaseKeeper, Ledger, Peers, RegionAgents, Workloads,
};
use crate::api::{Compat, router_with};
use crate::config::{NodeConfig, NodeRole, RegionConfig, StoreKind};
use crate::engine::Control;
use crate::serve::{self, ServeLimits};
use crate::trust::{self, JoinTokens, Trust};
use crate::up::make_secret;
use control::{Late, Plan};
use names::Names;

pub use control::open_store;

/// `node.json` in the node's data directory: written when it is ready, so that whoever started it can wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReady {
    /// Process id.
    pub pid: u32,
    /// The region.
    pub region: Region,
    /// Where API and agent listen.
    pub http: SocketAddr,
    /// Where disks are served.
    pub nbd: Option<SocketAddr>,
    /// Where replication is received.
    pub replication: Option<SocketAddr>,
    /// Where real-time hubs are served.
    #[serde(default)]
    pub realtime: Option<RealtimeReady>,
    /// Where device hubs are served.
    #[serde(default)]
    pub hubs: Option<HubsReady>,
    /// Where apps are served.
    #[serde(default)]
    pub apps: Option<AppsReady>,
}

/// Where a node serves apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppsReady {
    /// Clients on the same host.
    pub http: SocketAddr,
    /// Clients.
    pub https: Option<SocketAddr>,
}

/// Where a node serves device hubs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubsReady {
    /// Devices.
    pub mqtt: SocketAddr,
    /// Back ends, and devices by WebSocket.
    pub https: SocketAddr,
    /// Back ends by AMQP.
    pub amqp: SocketAddr,
}

/// Where a node serves real-time hubs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealtimeReady {
    /// Clients and REST calls of the region.
    pub listen: SocketAddr,
    /// The pair's endpoint.
    pub pair: SocketAddr,
    /// Sessions of the partner region.
    pub link: SocketAddr,
}

/// The name of [`NodeReady`]'s file.
pub const READY_FILE: &str = "node.json";

/// Why a node did not start, or did not stop well. The text names the thing and the way out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(String);

fn wrong(what: impl std::fmt::Display) -> NodeError {
    NodeError(what.to_string())
}

/// When a node ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// SIGTERM or Ctrl-C.
    Signal,
    /// Also when standard input closes: the process that started it is gone.
    StdinCloses,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it cannot start: nothing was changed but its own directory made.
pub async fn run(config_path: &Path, until: Until) -> Result<(), NodeError> {
    let config = NodeConfig::load(config_path, std::env::vars()).map_err(wrong)?;
    fs::create_dir_all(&config.data)
        .map_err(|error| wrong(format!("cannot use {}: {error}", config.data.display())))?;
    let _only_one = lock(&config.data)?;
    let ready_path = config.data.join(READY_FILE);
    remove_if_there(&ready_path)?;
    let credentials = credentials(&config)?;
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        wrong(format!(
            "cannot listen on {}: {error}; is another node running? set another address for listen",
            config.listen
        ))
    })?;
    let http = listener.local_addr().map_err(wrong)?;
    let node = Node::open(config, credentials).await?;
    let mut tasks = JoinSet::new();
    let routes = node.start(&mut tasks).await?;
    let ready = NodeReady {
        pid: std::process::id(),
        region: node.config.region.clone(),
        http,
        nbd: node.machines.as_ref().map(|machines| machines.nbd_addr()),
        replication: node.machines.as_ref().map(|machines| machines.replication_addr()),
        realtime: node.realtime.as_deref().map(realtime::ready),
        hubs: node.hubs.as_deref().map(hubs::ready),
        apps: node.apps.as_deref().map(apps::ready),
    };
    write_whole(&ready_path, &serde_json::to_vec_pretty(&ready).map_err(wrong)?)?;
    tracing::info!(region = %node.config.region, %http, "ready");

    serve(listener, node.tls(), routes, until).await?;
    tracing::info!(region = %node.config.region, "stopping");
    tasks.shutdown().await;
    node.stop().await?;
    remove_if_there(&ready_path)
}

/// The parts of a node.
#[derive(Debug)]
struct Node {
    config: NodeConfig,
    credentials: Credentials,
    machines: Option<Arc<Machines>>,
    realtime: Option<Arc<Realtime>>,
    hubs: Option<Arc<DeviceHubs>>,
    apps: Option<Arc<Apps>>,
    /// Filled with the control plane's tokens when it is up.
    keys: Arc<OnceLock<Keys>>,
    agent: AgentState,
    peers: Peers,
    /// Filled when the control plane is up.
    control: Arc<OnceLock<Control>>,
}

impl Node {
    async fn open(config: NodeConfig, credentials: Credentials) -> Result<Self, NodeError> {
        let machines = open_machines(&config, &credentials).await?;
        let realtime = realtime::open(&config, &credentials).await?;
        let others = config.regions.iter().filter(|region| region.name != config.region);
        let urls: BTreeMap<Region, String> =
            others.map(|region| (region.name.clone(), region.agent.clone())).collect();
        let peers = Peers::new(urls, &credentials).map_err(wrong)?;
        let hubs = hubs::open(&config, &credentials, &peers).await?;
        let keys = Arc::default();
        let apps = apps::open(&config, &credentials, &peers, &keys).await?;
        let ledger = Ledger::open(&config.data.join("ledger")).map_err(wrong)?;
        let mut workloads = Workloads::new();
        if let Some(machines) = &machines {
            workloads.insert(Kind::Machine, Arc::clone(machines) as Arc<dyn Workload>);
        }
        if let Some(realtime) = &realtime {
            workloads.insert(Kind::Realtime, Arc::clone(realtime) as Arc<dyn Workload>);
        }
        if let Some(hubs) = &hubs {
            workloads.insert(Kind::Hub, Arc::clone(hubs) as Arc<dyn Workload>);
        }
        if let Some(apps) = &apps {
            workloads.insert(Kind::App, Arc::clone(apps) as Arc<dyn Workload>);
        }
        let agent = AgentState::new(workloads, ledger);
        Ok(Self {
            config,
            credentials,
            machines,
            realtime,
            hubs,
            apps,
            keys,
            agent,
            peers,
            control: Arc::default(),
        })
    }

    fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        match &self.credentials {
            Credentials::Secret(_) => None,
            Credentials::Trust(trust) => Some(trust.server()),
        }
    }

    fn callers(&self) -> Callers {
        match &self.credentials {
            Credentials::Secret(secret) => Callers::Secret(secret.as_str().into()),
            Credentials::Trust(trust) => Callers::Cluster(trust.identity().cluster.as_str().into()),
        }
    }

    /// Starts everything that runs beside the listener, and returns what is served on it.
    async fn start(&self, tasks: &mut JoinSet<()>) -> Result<Router, NodeError> {
        let looks = agent::view_router(self.agent.clone(), self.peers.clone(), self.callers());
        let mut routes = agent::router(self.agent.clone(), self.callers()).merge(looks);
        let is_control = self.config.has(NodeRole::Control);
        if is_control {
            let late = Late::new();
            routes = routes.fallback_service(late.router());
            self.start_control(late, &mut routes, tasks).await?;
        }
        let renewals = ControlNodes::new(
            is_control.then(|| Arc::clone(&self.control)),
            self.peers.clone(),
            self.controls().map(|region| region.name.clone()).collect(),
        );
        let keeper = LeaseKeeper::new(self.config.region.clone(), self.agent.clone(), Arc::new(renewals));
        tasks.spawn(keeper.run());
        if let Credentials::Trust(trust) = &self.credentials {
            let controls = self.controls().map(|region| region.agent.clone()).collect();
            let trust = trust.clone();
            tasks.spawn(async move {
                // Ended with the other tasks: nobody says stop.
                let (_silent, stop) = watch::channel(false);
                trust.renew_loop(controls, stop).await;
            });
        }
        Ok(routes)
    }

    /// The regions with a control node, without the own one.
    fn controls(&self) -> impl Iterator<Item = &RegionConfig> {
        self.config.regions.iter().filter(|region| region.control && region.name != self.config.region)
    }

    /// An embedded store is there or the node does not start; etcd may come later, and what the region serves goes on.
    async fn start_control(
        &self,
        late: Late,
        routes: &mut Router,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), NodeError> {
        let agents = RegionAgents::new(self.config.region.clone(), self.agent.clone(), self.peers.clone());
        let mut plan = Plan::new(&self.config, agents)?;
        let names = Names::new(&self.config, Arc::clone(&plan.store))?;
        tasks.spawn(names.run(late.clone()));
        // Certificates are renewed without the store, so these do not wait for it.
        if let Credentials::Trust(trust) = &self.credentials {
            let tokens = JoinTokens::new(Arc::clone(&plan.store));
            *routes = std::mem::take(routes).merge(trust::router(trust.clone(), tokens));
            let trust = trust.clone();
            let ends = move || Some(crate::engine::moment_of(trust.expires_at()));
            plan.options.certificate_ends = Some(crate::engine::CertificateEnds(Arc::new(ends)));
        }
        let token_file = self.config.token_file.as_deref().unwrap_or(Path::new(""));
        if self.config.trust.is_some() {
            make_secret(token_file, "farshore-").map_err(wrong)?;
        }
        let token = read_secret(token_file)?;
        let (cell, callers, keys) = (Arc::clone(&self.control), self.callers(), Arc::clone(&self.keys));
        let compat = Compat { mobile_services: self.config.compat.mobile_services };
        let arrive = move |control: Control| {
            crate::migrate::start(&control);
            let routes = router_with(control.clone(), &token, compat)
                .merge(agent::renewal_router(control.clone(), callers));
            let _ = keys.set(Keys::new(control.clone(), &token));
            let _ = cell.set(control);
            late.control_arrives(routes);
        };
        if self.config.store == StoreKind::Redb {
            arrive(plan.start().await.map_err(wrong)?);
            return Ok(());
        }
        tasks.spawn(async move { arrive(plan.start_patiently().await) });
        Ok(())
    }

    async fn stop(self) -> Result<(), NodeError> {
        if let Some(control) = self.control.get() {
            control.clone().shutdown().await;
        }
        if let Some(realtime) = &self.realtime {
            realtime.stop().await;
        }
        if let Some(hubs) = &self.hubs {
            hubs.stop().await;
        }
        if let Some(apps) = &self.apps {
            apps.stop().await;
        }
        match self.machines {
            Some(machines) => tokio::task::spawn_blocking(move || machines.stop()).await.map_err(wrong),
            None => Ok(()),
        }
    }
}

/// What this node proves itself with.
fn credentials(config: &NodeConfig) -> Result<Credentials, NodeError> {
    let Some(dir) = &config.trust else {
        let file = config.secret_file.as_deref().unwrap_or(Path::new(""));
        return Ok(Credentials::Secret(read_secret(file)?));
    };
    let trust = Trust::open(dir).map_err(wrong)?;
    let identity = trust.identity();
    if identity.region != config.region {
        return Err(wrong(format!(
            "the certificate in {} is of region {}, but this node is in {}: run farshore join for {}",
            dir.display(),
            identity.region,
            config.region,
            config.region
        )));
    }
    Ok(Credentials::Trust(trust))
}

async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    routes: Router,
    until: Until,
) -> Result<(), NodeError> {
    let (told, stop) = watch::channel(false);
    let waiting = tokio::spawn(async move {
        wait_until(until).await;
        let _ = told.send(true);
    });
    let served = serve::listen(listener, tls, routes, stop, ServeLimits::default()).await;
    waiting.abort();
    served.map_err(|error| wrong(format!("the server ended: {error}")))
}

async fn wait_until(until: Until) {
    let closed = async {
        match until {
            Until::Signal => std::future::pending().await,
            Until::StdinCloses => {
                // A thread of its own: a blocking read must not hold up the runtime's end.
                let (gone, here) = tokio::sync::oneshot::channel::<()>();
                std::thread::spawn(move || {
                    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
                    drop(gone);
                });
                let _ = here.await;
            }
        }
    };
    tokio::select! {
        () = interrupted() => {}
        () = closed => {}
    }
}

/// Returns at SIGTERM or Ctrl-C.
pub(crate) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn lock(data: &Path) -> Result<File, NodeError> {
    let path = data.join("node.lock");
    let file =
        File::create(&path).map_err(|error| wrong(format!("cannot make {}: {error}", path.display())))?;
    file.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => {
            let pid = fs::read(data.join(READY_FILE))
                .ok()
                .and_then(|text| serde_json::from_slice::<NodeReady>(&text).ok());
            let who = pid.map_or_else(
                || "another node".to_owned(),
                |ready| format!("a node with process id {}", ready.pid),
            );
            wrong(format!(
                "{} is in use by {who}: stop it first, or give this node another data directory",
                data.display()
            ))
        }
        fs::TryLockError::Error(error) => wrong(format!("cannot lock {}: {error}", path.display())),
    })?;
    Ok(file)
}

/// Reads a secret and refuses one that others on the machine could read.
fn read_secret(path: &Path) -> Result<String, NodeError> {
    use std::os::unix::fs::PermissionsExt;
    let problem = |error: io::Error| wrong(format!("cannot read {}: {error}", path.display()));
    let mode = fs::metadata(path).map_err(problem)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(wrong(format!(
            "{} can be read by others (mode {:o}): run chmod 600 {}",
            path.display(),
            mode & 0o777,
            path.display()
        )));
    }
    let secret = fs::read_to_string(path).map_err(problem)?.trim().to_owned();
    if secret.len() < 16 {
        return Err(wrong(format!(
            "{} holds less than 16 characters: put a long random text into it",
            path.display()
        )));
    }
    Ok(secret)
}

/// Whom the region's machines believe: nodes with replication, everybody of the cluster with disks.
fn machine_tls(trust: &Trust) -> MachineTls {
    let to = trust.clone();
    MachineTls {
        nbd_server: trust.server_strict(),
        replication_server: trust.server_nodes(),
        replication_client: Arc::new(move |region| to.client(region)),
    }
}

async fn open_machines(
    config: &NodeConfig,
    credentials: &Credentials,
) -> Result<Option<Arc<Machines>>, NodeError> {
    if !config.has(NodeRole::Machines) {
        return Ok(None);
    }
    let options = MachinesOptions {
        region: config.region.clone(),
        dir: config.data.join("machines"),
        nbd: config.nbd,
        nbd_socket: config.nbd_socket.clone(),
        replication: config.replication,
        secret: match credentials {
            Credentials::Secret(secret) => secret.clone(),
            // Certificates tell who is who; this only tells clusters apart.
            Credentials::Trust(trust) => trust.ca_hash(),
        },
        tls: match credentials {
            Credentials::Secret(_) => None,
            Credentials::Trust(trust) => Some(machine_tls(trust)),
        },
        source: SourceOptions {
            region: Some(config.region.clone()),
            point_every: Duration::from_secs(config.point_seconds),
            ..SourceOptions::default()
        },
        replica: ReplicaOptions {
            retention: Retention { keep: config.retention(), ..Retention::default() },
            ..ReplicaOptions::default()
        },
    };
    let opened = tokio::task::spawn_blocking(move || Machines::open(options)).await.map_err(wrong)?;
    opened.map(Some).map_err(wrong)
}

/// Replaces the file as a whole.
pub(crate) fn write_whole(path: &PathBuf, text: &[u8]) -> Result<(), NodeError> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| wrong(format!("cannot write {}: {error}", path.display())))
}

fn remove_if_there(path: &Path) -> Result<(), NodeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(wrong(format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}
