//! All machines of a region, and their asynchronous face.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use farshore_core::ids::{ItemId, Kind, Region, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::{Action, BootTime, Leased, Observation, Order, Role, StepError, Workload};

use super::leases::Leases;
use subtle::ConstantTimeEq;

use super::machine::{Body, Machine, Surroundings, fatal};
use super::spec::MachineSpec;
use crate::nbd::{Exports, Options as NbdOptions, Server};
use crate::replica::Options as ReplicaOptions;
use crate::sink::Sink;
use crate::source::Options as SourceOptions;
use crate::tls::{MachineTls, ReplicationClient};
use crate::wire::frame::{Hello, Reason, Refused};
use crate::wire::receiver::{Receiver, Sinks};

/// How often points are thinned and the base of each replica is moved forward.
const RETAIN_EVERY: Duration = Duration::from_secs(10);
/// Journal read in search of damage each time: 6 MB/s, so that a day's journal at 20 MB/s is read in less than four.
const SCRUB_BYTES: u64 = 64 << 20;
/// Names of directories that are not machines start like this.
const ASIDE: char = '.';

/// Where and how a region keeps its machines.
#[derive(Debug, Clone)]
pub struct MachinesOptions {
    /// The region.
    pub region: Region,
    /// Its directory for machines.
    pub dir: PathBuf,
    /// Where disks are served; loopback, unless there is `tls`.
    pub nbd: SocketAddr,
    /// Also served here, if given.
    pub nbd_socket: Option<PathBuf>,
    /// Where replication is received; loopback, unless there is `tls`.
    pub replication: SocketAddr,
    /// Certificates. `None`: plain text.
    pub tls: Option<MachineTls>,
    /// Shared by all regions: who does not know it may not replicate.
    pub secret: String,
    /// How the sending side works.
    pub source: SourceOptions,
    /// How the receiving side works.
    pub replica: ReplicaOptions,
}

/// Why a region's machines could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory.
    #[error("cannot use {path}: {source}")]
    Dir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A listener.
    #[error(
        "cannot listen on {address} for {what}: {source}; is another node running? choose another address"
    )]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
}

/// The machines of a region.
#[derive(Debug)]
pub struct Machines {
    shared: Arc<Shared>,
    server: Server,
    nbd: SocketAddr,
    replication: SocketAddr,
    retaining: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    around: Surroundings,
    machines: Mutex<BTreeMap<ItemId, Arc<Mutex<Machine>>>>,
    /// Set once, right after the start.
    receiver: OnceLock<Receiver>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machines {
    /// Wakes up every machine found in the directory; none serves writes before it is told to.
    ///
    /// A machine whose directory is damaged is reported in its observation and does not stop the others.
    pub fn open(options: MachinesOptions) -> Result<Arc<Self>, OpenError> {
        let in_dir = |source| OpenError::Dir { path: options.dir.clone(), source };
        fs::create_dir_all(&options.dir).map_err(in_dir)?;
        let exports = Exports::new();
        let nbd_tls = options.tls.as_ref().map(|tls| Arc::clone(&tls.nbd_server));
        let in_nbd = |source| OpenError::Listen { what: "NBD", address: options.nbd.to_string(), source };
        let server = Server::start(NbdOptions {
            unix: options.nbd_socket.clone(),
            tcp: Some(options.nbd),
            tls: nbd_tls.clone(),
            exports: exports.clone(),
            ..NbdOptions::default()
        })
        .map_err(in_nbd)?;
        let nbd = server.tcp_addr().unwrap_or(options.nbd);
        let around = Surroundings {
            region: options.region.clone(),
            exports,
            nbd,
            tls: nbd_tls,
            secret: options.secret.clone(),
            source: SourceOptions {
                tls: options.tls.as_ref().map(|tls| ReplicationClient(Arc::clone(&tls.replication_client))),
                ..options.source.clone()
            },
            leases: Leases::default(),
            replica: options.replica,
        };
        let machines = Mutex::new(open_all(&options.dir, &around).map_err(in_dir)?);
        let shared =
            Arc::new(Shared { dir: options.dir.clone(), around, machines, receiver: OnceLock::new() });
        let in_replication = |source| OpenError::Listen {
            what: "replication",
            address: options.replication.to_string(),
            source,
        };
        let listener = TcpListener::bind(options.replication).map_err(in_replication)?;
        let replication = listener.local_addr().map_err(in_replication)?;
        let tls = options.tls.as_ref().map(|tls| Arc::clone(&tls.replication_server));
        let receiver =
            Receiver::start(listener, Arc::clone(&shared) as Arc<dyn Sinks>, tls).map_err(in_replication)?;
        let _ = shared.receiver.set(receiver);
        let retaining = Mutex::new(Some(retain_regularly(&shared).map_err(in_dir)?));
        Ok(Arc::new(Self { shared, server, nbd, replication, retaining }))
    }

    /// Where disks are served.
    #[must_use]
    pub fn nbd_addr(&self) -> SocketAddr {
        self.nbd
    }

    /// Where replication is received.
    #[must_use]
    pub fn replication_addr(&self) -> SocketAddr {
        self.replication
    }

    /// Ends everything, cleanly: a machine that was active will not need a catch-up. Blocks.
    pub fn stop(&self) {
        if let Some((quit, thread)) = lock(&self.retaining).take() {
            drop(quit);
            let _ = thread.join();
        }
        if let Some(receiver) = self.shared.receiver.get() {
            receiver.stop();
        }
        // Taken out, so that the disks are free for whoever opens them next.
        let machines = std::mem::take(&mut *lock(&self.shared.machines));
        for machine in machines.values() {
            lock(machine).close();
        }
        self.server.stop();
    }
}

impl Shared {
    fn obey(&self, order: &Order) -> Result<(), StepError> {
        match &order.action {
            Action::Create { spec } => self.make(order, spec, Machine::create),
            Action::PrepareTarget { shape, .. } => self.make(order, shape, Machine::prepare),
            Action::Delete => self.delete(order),
            action => {
                let machine = self.machine(&order.item).ok_or(StepError::Unknown)?;
                let mut machine = lock(&machine);
                if matches!(action, Action::Promote { .. }) {
                    // The token first, so that the session that is ended here cannot come back.
                    machine.admit(order.token)?;
                    self.end_sessions(&order.item);
                }
                machine.obey(order)
            }
        }
    }

    fn make(
        &self,
        order: &Order,
        description: &serde_json::Value,
        build: fn(&Path, Surroundings, &Order, &MachineSpec) -> Result<Machine, StepError>,
    ) -> Result<(), StepError> {
        let mut machines = lock(&self.machines);
        if let Some(machine) = machines.get(&order.item) {
            let machine = Arc::clone(machine);
            drop(machines);
            return lock(&machine).obey(order);
        }
        let spec = MachineSpec::parse(description)?;
        let machine = build(&self.machine_dir(&order.item), self.around.clone(), order, &spec)?;
        machines.insert(order.item.clone(), Arc::new(Mutex::new(machine)));
        Ok(())
    }

    /// Disks that the operator brought stay where they are. A region that keeps writes which nobody else has moves them
    /// aside instead of removing them.
    fn delete(&self, order: &Order) -> Result<(), StepError> {
        let Some(machine) = self.machine(&order.item) else { return Ok(()) };
        let mut machine = lock(&machine);
        machine.admit(order.token)?;
        self.end_sessions(&order.item);
        machine.close();
        let kept = machine.card.lost.is_some_and(|lost| lost.loss.writes > 0);
        let aside = self.dir.join(format!(
            "{ASIDE}{}-{}-{}",
            if kept { "kept" } else { "removed" },
            order.item.name,
            machine.card.token.epoch
        ));
        let dir = machine.dir.clone();
        if aside.exists() {
            fs::remove_dir_all(&aside)
                .map_err(|error| fatal(format!("cannot clear {}: {error}", aside.display())))?;
        }
        fs::rename(&dir, &aside)
            .map_err(|error| fatal(format!("cannot remove {}: {error}", dir.display())))?;
        lock(&self.machines).remove(&order.item);
        self.around.leases.forget(&order.item);
        if kept {
            tracing::warn!(item = %order.item, dir = %aside.display(), "writes that only this region had are kept");
            return Ok(());
        }
        fs::remove_dir_all(&aside)
            .map_err(|error| fatal(format!("cannot remove {}: {error}", aside.display())))
    }

    /// Nothing more is received for the item from whoever was sending.
    fn end_sessions(&self, item: &ItemId) {
        if let Some(receiver) = self.receiver.get() {
            receiver.end_sessions(&item.to_string());
        }
    }

    fn machine(&self, item: &ItemId) -> Option<Arc<Mutex<Machine>>> {
        lock(&self.machines).get(item).cloned()
    }

    fn machine_dir(&self, item: &ItemId) -> PathBuf {
        self.dir.join(item.name.as_str())
    }

    fn retain(&self) {
        let machines: Vec<_> = lock(&self.machines).values().cloned().collect();
        for machine in machines {
            // A fold takes long: the machine must stay free for orders meanwhile.
            let replica = match &lock(&machine).body {
                Body::Target { replica } => replica.clone(),
                _ => continue,
            };
            if let Err(error) = replica.retain(now()) {
                tracing::warn!(%error, "recovery points could not be thinned");
            }
            if let Err(error) = replica.scrub(SCRUB_BYTES) {
                tracing::error!(%error, "the journal cannot be read whole");
            }
        }
    }
}

impl Sinks for Shared {
    fn open(&self, hello: &Hello) -> Result<Arc<dyn Sink>, Refused> {
        let same: bool = hello.secret.as_bytes().ct_eq(self.around.secret.as_bytes()).into();
        if !same {
            return Err(refused(
                Reason::WrongSecret,
                "the secret is not this cluster's: use the same secret file in all regions",
            ));
        }
        self.check_token(&hello.item, hello.token)?;
        let machine = ItemId::parse(&hello.item).ok().and_then(|item| self.machine(&item));
        let Some(machine) = machine else { return Err(no_replica(&hello.item)) };
        let machine = lock(&machine);
        match &machine.body {
            Body::Target { replica } => Ok(Arc::new(replica.clone())),
            _ => Err(no_replica(&hello.item)),
        }
    }

    fn check_token(&self, item: &str, token: Token) -> Result<(), Refused> {
        let machine = ItemId::parse(item).ok().and_then(|item| self.machine(&item));
        let Some(machine) = machine else { return Err(no_replica(item)) };
        match lock(&machine).admit(token) {
            Ok(()) => Ok(()),
            Err(StepError::Fenced { current }) => Err(refused(
                Reason::Stale { highest: current },
                &format!("{item} is owned under the higher token {current}"),
            )),
            Err(error) => Err(refused(Reason::Failed, &error.to_string())),
        }
    }
}

fn refused(reason: Reason, text: &str) -> Refused {
    Refused { reason, text: text.to_owned() }
}

fn no_replica(item: &str) -> Refused {
    refused(Reason::UnknownItem, &format!("{item} has no replica here: protect it to this region first"))
}

fn open_all(dir: &Path, around: &Surroundings) -> io::Result<BTreeMap<ItemId, Arc<Mutex<Machine>>>> {
    let mut machines = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.ends_with(".making") || name.starts_with(".removed-") {
            // Left by a crash in mid-way; nobody was told that it exists.
            fs::remove_dir_all(&path)?;
            continue;
        }
        if name.starts_with(ASIDE) || !path.is_dir() {
            continue;
        }
        match Machine::open(&path, around.clone()) {
            Ok(machine) => {
                machines.insert(machine.card.item.clone(), Arc::new(Mutex::new(machine)));
            }
            Err(error) => tracing::error!(dir = %path.display(), %error, "a machine could not be opened"),
        }
    }
    Ok(machines)
}

fn retain_regularly(shared: &Arc<Shared>) -> io::Result<(Sender<()>, JoinHandle<()>)> {
    let (quit, asked) = channel::<()>();
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("retain".into()).spawn(move || {
        while asked.recv_timeout(RETAIN_EVERY) == Err(RecvTimeoutError::Timeout) {
            shared.retain();
        }
    })?;
    Ok((quit, thread))
}

/// This side's clock, for reports only.
pub(super) fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The asynchronous face: everything that may touch a disk runs on a thread that may block.
#[async_trait]
impl Workload for Machines {
    fn kind(&self) -> Kind {
        Kind::Machine
    }

    async fn known(&self) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        let machines: Vec<_> = lock(&self.shared.machines).values().cloned().collect();
        blocking(move || Ok(machines.iter().map(|machine| lock(machine).known()).collect())).await
    }

    async fn observe(&self, item: &ItemId) -> Result<Observation, StepError> {
        let machine = self.shared.machine(item).ok_or(StepError::Unknown)?;
        blocking(move || Ok(lock(&machine).look())).await
    }

    async fn act(&self, order: &Order) -> Result<(), StepError> {
        let (shared, order) = (Arc::clone(&self.shared), order.clone());
        blocking(move || shared.obey(&order)).await
    }

    async fn leased(&self) -> Result<Vec<Leased>, StepError> {
        Ok(self.shared.around.leases.leased())
    }

    async fn renewed(&self, item: &ItemId, token: Token, until: BootTime) -> Result<(), StepError> {
        self.shared.around.leases.get(item).ok_or(StepError::Unknown)?.renew(token, until)
    }

    async fn expired(&self, item: &ItemId, token: Token) -> Result<(), StepError> {
        let machine = self.shared.machine(item).ok_or(StepError::Unknown)?;
        blocking(move || lock(&machine).expire(token)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(fatal(format!("a defect ended the order: {error}"))))
}
