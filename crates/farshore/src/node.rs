//! `farshore node`: one process of a region. The composition root: here, and only here, the rooms are put together.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::{Kind, Region};
use farshore_core::moment::Moment;
use farshore_core::store::Store;
use farshore_core::workload::Workload;
use farshore_machine::replica::{Options as ReplicaOptions, Retention};
use farshore_machine::source::Options as SourceOptions;
use farshore_machine::workload::{Machines, MachinesOptions};
use farshore_store::redb::RedbStore;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::agent::{self, AgentState, Ledger, RegionAgents, Workloads};
use crate::config::{NodeConfig, NodeRole, StoreKind};
use crate::engine::{Control, Options, RegionRecord, now};

/// After the order to stop, requests under way (job streams, above all) get this long.
const STOP_GRACE: Duration = Duration::from_secs(2);

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
    let secret = read_secret(config.secret_file.as_deref().unwrap_or(Path::new("")))?;
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        wrong(format!(
            "cannot listen on {}: {error}; is another node running? set another address for listen",
            config.listen
        ))
    })?;
    let http = listener.local_addr().map_err(wrong)?;

    let machines = open_machines(&config, &secret).await?;
    let ledger = Ledger::open(&config.data.join("ledger")).map_err(wrong)?;
    let mut workloads = Workloads::new();
    if let Some(machines) = &machines {
        workloads.insert(Kind::Machine, Arc::clone(machines) as Arc<dyn Workload>);
    }
    let state = AgentState::new(workloads, ledger, &secret);
    let mut routes = agent::router(state.clone());
    let control = match config.has(NodeRole::Control) {
        true => {
            let control = start_control(&config, &state, &secret).await?;
            let token = read_secret(config.token_file.as_deref().unwrap_or(Path::new("")))?;
            routes = routes.merge(crate::api::router(control.clone(), &token));
            Some(control)
        }
        false => None,
    };
    let ready = NodeReady {
        pid: std::process::id(),
        region: config.region.clone(),
        http,
        nbd: machines.as_ref().map(|machines| machines.nbd_addr()),
        replication: machines.as_ref().map(|machines| machines.replication_addr()),
    };
    write_whole(&ready_path, &serde_json::to_vec_pretty(&ready).map_err(wrong)?)?;
    tracing::info!(region = %config.region, %http, "ready");

    serve(listener, routes, until).await?;
    tracing::info!(region = %config.region, "stopping");
    if let Some(control) = control {
        control.shutdown().await;
    }
    if let Some(machines) = machines {
        tokio::task::spawn_blocking(move || machines.stop()).await.map_err(wrong)?;
    }
    remove_if_there(&ready_path)
}

async fn serve(listener: TcpListener, routes: axum::Router, until: Until) -> Result<(), NodeError> {
    let (told, mut stop) = watch::channel(false);
    let mut stopping = stop.clone();
    let server = axum::serve(listener, routes).with_graceful_shutdown(async move {
        let _ = stop.wait_for(|stop| *stop).await;
    });
    let waiting = tokio::spawn(async move {
        wait_until(until).await;
        let _ = told.send(true);
    });
    let late = async {
        let _ = stopping.wait_for(|stop| *stop).await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    let result = tokio::select! {
        served = async { server.await } => served.map_err(|error| wrong(format!("the server ended: {error}"))),
        () = late => Ok(()),
    };
    waiting.abort();
    result
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

async fn open_machines(config: &NodeConfig, secret: &str) -> Result<Option<Arc<Machines>>, NodeError> {
    if !config.has(NodeRole::Machines) {
        return Ok(None);
    }
    let options = MachinesOptions {
        region: config.region.clone(),
        dir: config.data.join("machines"),
        nbd: config.nbd,
        nbd_socket: config.nbd_socket.clone(),
        replication: config.replication,
        secret: secret.to_owned(),
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

/// Opens what the control plane remembers in. Members of etcd need not be reachable yet.
///
/// # Errors
/// When the file is damaged or in use, or the options cannot be right.
pub fn open_store(config: &NodeConfig) -> Result<Arc<dyn Store>, NodeError> {
    match config.store {
        StoreKind::Redb => Ok(Arc::new(RedbStore::open(&config.store_path()).map_err(wrong)?)),
        StoreKind::Etcd => Err(wrong("this version cannot open etcd")),
    }
}

async fn start_control(config: &NodeConfig, agent: &AgentState, secret: &str) -> Result<Control, NodeError> {
    let store = open_store(config)?;
    let others: BTreeMap<Region, String> = config
        .regions
        .iter()
        .filter(|region| region.name != config.region)
        .map(|region| (region.name.clone(), region.agent.clone()))
        .collect();
    let agents = RegionAgents::new(config.region.clone(), agent.clone(), others, secret).map_err(wrong)?;
    let since: Moment = now();
    let regions = config
        .regions
        .iter()
        .map(|region| RegionRecord {
            name: region.name.clone(),
            agent_url: region.agent.clone(),
            replication: region.replication.to_string(),
            since,
        })
        .collect();
    Control::start(store, Arc::new(agents), regions, Options::default()).await.map_err(wrong)
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
