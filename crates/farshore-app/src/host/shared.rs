//! What the instances of a host share: the board on which each writes how it is doing, and what follows from it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farshore_core::moment::Moment;
use tokio::sync::watch;

use super::failure::{Ending, StartFailure};
use super::log::AppLog;
use super::options::{HostOptions, Limits};
use super::pace::{FAILED_STARTS_MAX, Pace};
use super::procfs;
use super::view::{Enforcement, HostView, InstanceState, InstanceView};

/// How one instance is doing.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) state: InstanceState,
    pub(super) since: Moment,
    pub(super) pid: Option<u32>,
    pub(super) port: Option<u16>,
    /// Where it was seen to answer.
    pub(super) address: Option<SocketAddr>,
    /// It may be given requests.
    pub(super) takes_requests: bool,
    pub(super) restarts: u32,
    /// Starts in a row that ended before an answer.
    pub(super) failed_starts: u32,
    pub(super) memory_bytes: u64,
    /// What the probe saw last, when that was no answer.
    pub(super) look: Option<String>,
    pub(super) last_ending: Option<Ending>,
    /// What it printed last.
    pub(super) lines: Vec<String>,
}

impl Status {
    fn new() -> Self {
        Self {
            state: InstanceState::Starting,
            since: now(),
            pid: None,
            port: None,
            address: None,
            takes_requests: false,
            restarts: 0,
            failed_starts: 0,
            memory_bytes: 0,
            look: None,
            last_ending: None,
            lines: Vec::new(),
        }
    }

    /// The state, and since when.
    pub(super) fn enter(&mut self, state: InstanceState) {
        if self.state != state {
            self.state = state;
            self.since = now();
        }
        self.takes_requests &= matches!(state, InstanceState::Up | InstanceState::Unresponsive);
    }

    /// Nothing of it runs any more.
    pub(super) fn gone(&mut self) {
        (self.pid, self.port, self.address) = (None, None, None);
        (self.takes_requests, self.memory_bytes) = (false, 0);
    }
}

/// What all instances together are.
#[derive(Debug)]
pub(super) enum Readiness {
    /// Every one that is wanted answers.
    Up,
    /// Some do not yet.
    Waiting,
    /// Waiting longer cannot help.
    Hopeless(StartFailure),
}

/// What is wanted, and what is.
#[derive(Debug)]
struct Board {
    instances: u32,
    limits: Limits,
    is_stopped: bool,
    statuses: BTreeMap<u32, Status>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: HostOptions,
    pub(super) pace: Pace,
    pub(super) log: AppLog,
    board: Mutex<Board>,
    addresses: watch::Sender<Arc<[SocketAddr]>>,
    changed: watch::Sender<()>,
}

impl Shared {
    pub(super) fn new(options: HostOptions, pace: Pace) -> Self {
        let log = AppLog::open(&options.log_dir);
        let (instances, limits) = (options.instances, options.limits);
        let board = Board { instances, limits, is_stopped: false, statuses: BTreeMap::new() };
        let shared = Self {
            options,
            pace,
            log,
            board: Mutex::new(board),
            addresses: watch::Sender::new(Arc::new([])),
            changed: watch::Sender::new(()),
        };
        shared.expect(instances, limits);
        shared
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many are wanted from now on; the others get no requests any more. False when none is wanted ever again.
    pub(super) fn expect(&self, instances: u32, limits: Limits) -> bool {
        self.change(|board| {
            if board.is_stopped {
                return false;
            }
            (board.instances, board.limits) = (instances, limits);
            for number in 1..=instances {
                board.statuses.entry(number).or_insert_with(Status::new);
            }
            for (_, status) in board.statuses.range_mut(instances.saturating_add(1)..) {
                status.enter(InstanceState::Stopping);
            }
            true
        })
    }

    /// None is wanted, and none ever will be.
    pub(super) fn stopped(&self) {
        let limits = self.board().limits;
        self.expect(0, limits);
        self.change(|board| board.is_stopped = true);
    }

    /// Whether instance `number` has not ended for good.
    pub(super) fn remembers(&self, number: u32) -> bool {
        self.board().statuses.contains_key(&number)
    }

    /// Writes how instance `number` is doing.
    pub(super) fn report(&self, number: u32, write: impl FnOnce(&mut Status)) {
        self.change(|board| {
            if let Some(status) = board.statuses.get_mut(&number) {
                write(status);
            }
        });
    }

    /// Instance `number` ended for good.
    pub(super) fn forget(&self, number: u32) {
        self.change(|board| board.statuses.remove(&number));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        let mut board = self.board();
        let changed = change(&mut board);
        let answering = board.statuses.values().filter(|status| status.takes_requests);
        let addresses: Arc<[SocketAddr]> = answering.filter_map(|status| status.address).collect();
        // Under the lock, so that the newest list is the last that is sent.
        self.addresses.send_if_modified(|old| {
            let is_new = *old != addresses;
            *old = addresses;
            is_new
        });
        drop(board);
        self.changed.send_replace(());
        changed
    }

    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn addresses(&self) -> watch::Receiver<Arc<[SocketAddr]>> {
        self.addresses.subscribe()
    }

    pub(super) fn readiness(&self) -> Readiness {
        let board = self.board();
        if board.is_stopped {
            return Readiness::Hopeless(StartFailure::Stopped { name: self.options.name.clone() });
        }
        let wanted = || board.statuses.range(1..=board.instances);
        for (number, status) in wanted() {
            if let Some(failure) = self.hopeless(*number, status) {
                return Readiness::Hopeless(failure);
            }
        }
        let is_up = wanted().all(|(_, status)| status.state == InstanceState::Up);
        if is_up { Readiness::Up } else { Readiness::Waiting }
    }

    fn hopeless(&self, number: u32, status: &Status) -> Option<StartFailure> {
        let ending = status.last_ending.as_ref().filter(|_| status.failed_starts > 0)?;
        if status.failed_starts < FAILED_STARTS_MAX && !ending.is_final() {
            return None;
        }
        Some(self.ended(number, status, ending))
    }

    fn ended(&self, instance: u32, status: &Status, ending: &Ending) -> StartFailure {
        StartFailure::Ended {
            name: self.options.name.clone(),
            instance,
            ending: ending.clone(),
            starts: status.failed_starts,
            lines: status.lines.clone(),
        }
    }

    /// The time is over: what to say of the first instance that is not up.
    pub(super) fn late(&self, within: Duration) -> Result<(), StartFailure> {
        let board = self.board();
        let mut wanted = board.statuses.range(1..=board.instances);
        let Some((number, status)) = wanted.find(|(_, status)| status.state != InstanceState::Up) else {
            return Ok(());
        };
        match &status.last_ending {
            Some(ending) if status.failed_starts > 0 => Err(self.ended(*number, status, ending)),
            _ => Err(StartFailure::Late {
                name: self.options.name.clone(),
                instance: *number,
                within,
                look: seen_of(status),
                lines: status.lines.clone(),
            }),
        }
    }

    pub(super) fn view(&self) -> HostView {
        let board = self.board();
        let by = |limit: u64, without_cgroup| match (limit, &self.options.cgroup) {
            (0, _) => Enforcement::None,
            (_, Some(_)) => Enforcement::Cgroup,
            (_, None) => without_cgroup,
        };
        HostView {
            name: self.options.name.clone(),
            memory_limit: by(board.limits.memory_bytes, Enforcement::Watched),
            cpu_limit: by(u64::from(board.limits.cpu_percent), Enforcement::None),
            instances: board.statuses.iter().map(|(number, status)| view(*number, status)).collect(),
        }
    }
}

/// What the probe saw last, and where it listens instead, if it does.
fn seen_of(status: &Status) -> String {
    let look = status.look.clone().unwrap_or_else(|| "it was not looked at yet".to_owned());
    let ports = status.pid.map(|pid| procfs::listening_of(&procfs::tree(pid))).unwrap_or_default();
    match ports.first() {
        Some(port) if !ports.iter().any(|port| Some(*port) == status.port) => {
            format!("{look} (it listens on port {port})")
        }
        _ => look,
    }
}

fn view(instance: u32, status: &Status) -> InstanceView {
    InstanceView {
        instance,
        state: status.state,
        pid: status.pid,
        port: status.port,
        restarts: status.restarts,
        memory_bytes: status.memory_bytes,
        since_ms: status.since.0 / 1000,
        last_ending: status.last_ending.clone(),
    }
}

/// The time of day.
pub(super) fn now() -> Moment {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX))
}
