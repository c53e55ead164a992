//! The replica of one machine: what ties journal, points and disks together.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::moment::Moment;
use farshore_core::workload::{Point, PointChoice, Watermark};

use super::divergence::{self, Keeping};
use super::drill::Drill;
use super::error::ReplicaError;
use super::head::Head;
use super::journal::Journal;
use super::points::{self, Offered, Retention};
use super::promoted::Promoted;
use super::recover::{Recovered, Stream, journal_dir, keeping, recover};
use super::segment::Place;
use super::state::{self, Chosen, DivergenceInfo, Phase, State};
use crate::disk::Disk;
use crate::record::Range;

/// How a replica keeps its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// A segment is sealed when it has grown to this. Small enough that space comes back soon after points expire, large
    /// enough that a day of 20 MB/s is below 30,000 files.
    pub segment_bytes: u64,
    /// Which points are kept.
    pub retention: Retention,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, retention: Retention::default() }
    }
}

/// How a replica stands.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaStatus {
    /// The newest position that is durable here.
    pub durable: Watermark,
    /// What is here is only consistent at earlier points: a seed or catch-up has not ended.
    pub catching_up: bool,
    /// The highest position that the source is known to have reached.
    pub source_last_known: Watermark,
    /// When the source was last heard of, on this side's clock.
    pub source_last_seen: Moment,
    /// Size of the journal on the disk.
    pub journal_bytes: u64,
    /// Records in it.
    pub records: u64,
    /// The oldest point that can be chosen.
    pub oldest: Option<Point>,
    /// The newest.
    pub newest: Option<Point>,
    /// Damage that was found, and what is safe.
    pub damaged: Option<String>,
}

/// The receiving side of one machine. Clones are handles to the same replica.
#[derive(Debug, Clone)]
pub struct Replica(pub(super) Arc<Inner>);

/// What the handles share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) disks: Vec<Arc<Keeping>>,
    pub(super) core: Mutex<Core>,
    /// Held by whoever moves the base or relies on it staying where it is for a while.
    pub(super) folding: Mutex<()>,
    /// Open drills: while there are any, the base does not move.
    pub(super) drills: Arc<AtomicUsize>,
    /// How many wait for `folding`: a fold in progress stops for them and goes on later.
    pub(super) waiting: AtomicUsize,
    drill_number: AtomicU64,
    /// Where the next scrub goes on.
    pub(super) scrubbed: Mutex<Place>,
}

/// What changes.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) state: State,
    pub(super) journal: Journal,
    /// Recorded points, oldest first, those not yet durable too.
    pub(super) points: Vec<Offered>,
    pub(super) stream: Stream,
    /// Writes that only this side had before it became the target.
    pub(super) own: Vec<Range>,
    /// The newest state, while a catch-up compares with it.
    pub(super) head: Option<Head>,
    pub(super) durable: Watermark,
    pub(super) durable_end: Place,
    /// Last record of a seed, which has no journal.
    pub(super) seeded: Watermark,
    /// Why nothing is accepted any longer.
    pub(super) failed: Option<String>,
    pub(super) damaged_at: Option<Place>,
    pub(super) promoted: Option<Promoted>,
}

impl Replica {
    /// Makes a replica that has received nothing. What is on `disks` is of no interest and goes away with the seed.
    pub fn create(dir: &Path, disks: Vec<Arc<dyn Disk>>, options: Options) -> Result<Self, ReplicaError> {
        let sizes = disks.iter().map(|disk| disk.size()).collect();
        let state = State::new(sizes, Phase::Virgin { seeding: false }, Watermark::default(), false);
        Self::make(dir, disks, options, state, Vec::new())
    }

    /// Makes a replica of an old source, whose `disks` hold the history up to `after` and in the ranges `own` writes that
    /// the new source never had. With `divergence` the disks as they are now stay browsable until
    /// [`Replica::drop_divergence`].
    pub fn adopt(
        dir: &Path,
        disks: Vec<Arc<dyn Disk>>,
        options: Options,
        after: Watermark,
        own: Vec<Range>,
        divergence: Option<DivergenceInfo>,
    ) -> Result<Self, ReplicaError> {
        let sizes = disks.iter().map(|disk| disk.size()).collect();
        let mut state = State::new(sizes, Phase::Following, after, own.is_empty());
        state.divergence = divergence;
        Self::make(dir, disks, options, state, own)
    }

    fn make(
        dir: &Path,
        disks: Vec<Arc<dyn Disk>>,
        options: Options,
        state: State,
        own: Vec<Range>,
    ) -> Result<Self, ReplicaError> {
        if State::exists(dir) {
            let text = format!("{} already holds a replica: open it, or remove it first", dir.display());
            return Err(ReplicaError::WrongState(text));
        }
        let io = |what| ReplicaError::io(what, dir);
        state::make_dir(dir).map_err(io("make"))?;
        // What a directory without a state holds was never finished, or belongs to an earlier life.
        for leftover in ["journal", "layers", "fold", "diverged", "drill", "own.json", "received.json"] {
            state::remove(&dir.join(leftover)).map_err(io("clear"))?;
        }
        let journal = Journal::create(&journal_dir(dir), options.segment_bytes, state.base_watermark)
            .map_err(io("make the journal in"))?;
        let disks = keeping(dir, disks, state.divergence.is_some())?;
        store_own(dir, &own).map_err(io("write to"))?;
        state.store(dir).map_err(io("write to"))?;
        let stream = Stream::new(state.base_consistent);
        let recovered = Recovered { state, journal, disks, points: Vec::new(), stream, damaged_at: None };
        Ok(Self::assemble(dir, options, recovered, own))
    }

    /// Opens a replica as a stop, a SIGKILL or a power loss left it. What was never acknowledged may be gone; damage to
    /// what was acknowledged does not prevent opening: the status says so, and only points before it are offered.
    pub fn open(dir: &Path, disks: Vec<Arc<dyn Disk>>, options: Options) -> Result<Self, ReplicaError> {
        let mut recovered = recover(dir, disks, &options)?;
        if !matches!(recovered.state.phase, Phase::Virgin { .. } | Phase::Following) {
            let text = format!("the replica in {} was promoted: open it as promoted", dir.display());
            return Err(ReplicaError::WrongState(text));
        }
        if recovered.damaged_at.is_none() {
            if let Some(file) = recovered.journal.unsynced_file() {
                file.sync_data().map_err(ReplicaError::io("sync the journal in", dir))?;
            }
            let end = recovered.journal.end();
            recovered.journal.synced(end)?;
        }
        let own = if recovered.stream == Stream::Whole { Vec::new() } else { load_own(dir)? };
        Ok(Self::assemble(dir, options, recovered, own))
    }

    fn assemble(dir: &Path, options: Options, recovered: Recovered, own: Vec<Range>) -> Self {
        let Recovered { state, journal, disks, points, stream, damaged_at } = recovered;
        let core = Core {
            state,
            durable: journal.last(),
            durable_end: journal.end(),
            journal,
            points,
            stream,
            own,
            head: None,
            seeded: Watermark::default(),
            failed: None,
            damaged_at,
            promoted: None,
        };
        Self(Arc::new(Inner {
            dir: dir.to_owned(),
            options,
            disks,
            core: Mutex::new(core),
            folding: Mutex::default(),
            drills: Arc::default(),
            waiting: AtomicUsize::new(0),
            drill_number: AtomicU64::new(0),
            scrubbed: Mutex::default(),
        }))
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let core = self.0.core();
        let (source_last_known, source_last_seen) = core.journal.source();
        let offered = core.offered();
        ReplicaStatus {
            durable: core.durable,
            catching_up: core.stream != Stream::Whole,
            source_last_known,
            source_last_seen,
            journal_bytes: core.journal.bytes(),
            records: core.journal.records(),
            oldest: offered.first().map(|offered| offered.point.clone()),
            newest: offered.last().map(|offered| offered.point.clone()),
            damaged: core.journal.shelf().damaged().or_else(|| core.failed.clone()),
        }
    }

    /// The points that can be chosen, oldest first.
    #[must_use]
    pub fn points(&self) -> Vec<Point> {
        self.0.core().offered().iter().map(|offered| offered.point.clone()).collect()
    }

    /// Which point a choice means now.
    pub fn choose(&self, choice: &PointChoice) -> Result<Point, ReplicaError> {
        self.0.settle();
        self.0.core().choose(choice).map(|offered| offered.point)
    }

    /// Stops receiving, durably, and opens the disks for writes at the chosen point. Repeated, whatever the choice, it
    /// returns the same.
    pub fn promote(&self, choice: &PointChoice) -> Result<Promoted, ReplicaError> {
        self.0.settle();
        let _base_stays = self.0.hold_base();
        let mut core = self.0.core();
        if let Some(promoted) = &core.promoted {
            return Ok(promoted.clone());
        }
        let Offered { point, until } = core.choose(choice)?;
        let mut state = core.state.clone();
        state.phase = Phase::Promoted(Chosen { point, until });
        let promoted =
            Promoted::start(&self.0.dir, self.0.disks.clone(), self.0.options, state, &self.0.drills)?;
        core.head = None;
        core.promoted = Some(promoted.clone());
        Ok(promoted)
    }

    /// Opens a throw-away copy at the chosen point. The journal keeps growing; only folding waits for the copy's end.
    pub fn test_failover(&self, choice: &PointChoice) -> Result<Drill, ReplicaError> {
        self.0.settle();
        let _base_stays = self.0.hold_base();
        let core = self.0.core();
        if core.promoted.is_some() {
            return Err(promoted_already());
        }
        let offered = core.choose(choice)?;
        let views = super::head::views(&core.journal, self.0.disks.len(), core.state.base, offered.until)?;
        let number = self.0.drill_number.fetch_add(1, Ordering::Relaxed);
        let dir = self.0.dir.join("drill").join(number.to_string());
        let shelf = core.journal.shelf();
        Drill::open(dir, offered.point, &self.0.disks, shelf, views, Arc::clone(&self.0.drills))
    }

    /// What is known of the kept divergence, if there is one.
    #[must_use]
    pub fn divergence(&self) -> Option<DivergenceInfo> {
        self.0.core().state.divergence
    }

    /// The disks as they were when the divergence was found, read-only. Empty without one.
    #[must_use]
    pub fn divergence_disks(&self) -> Vec<Arc<dyn Disk>> {
        match self.divergence() {
            Some(_) => self.0.disks.iter().map(divergence::browse).collect(),
            None => Vec::new(),
        }
    }

    /// Gives up the kept divergence. Repeated it changes nothing.
    pub fn drop_divergence(&self) -> Result<(), ReplicaError> {
        let mut core = self.0.core();
        if let Some(promoted) = &core.promoted {
            return promoted.drop_divergence();
        }
        core.state.divergence = None;
        core.state.store(&self.0.dir)?;
        drop_kept(&self.0.dir, &self.0.disks)
    }
}

/// Stops saving and removes what was saved.
pub(super) fn drop_kept(dir: &Path, disks: &[Arc<Keeping>]) -> Result<(), ReplicaError> {
    disks.iter().for_each(|disk| disk.stop());
    divergence::forget(dir).map_err(ReplicaError::io("remove the divergence in", dir))
}

pub(super) fn promoted_already() -> ReplicaError {
    ReplicaError::WrongState("the replica was promoted and receives no longer".to_owned())
}

impl Inner {
    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the base where it is; a fold in progress makes way at once, because people wait for a failover.
    fn hold_base(&self) -> MutexGuard<'_, ()> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let held = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        held
    }

    /// Makes what has arrived durable, if that is possible: the choice of the latest point then includes it.
    fn settle(&self) {
        if let Err(error) = self.sync_all() {
            tracing::debug!(%error, "not everything that has arrived can be made durable");
        }
    }
}

impl Core {
    /// Recorded points that are durable.
    fn offered(&self) -> &[Offered] {
        let end = self.points.partition_point(|offered| offered.until < self.durable_end);
        &self.points[..end]
    }

    fn choose(&self, choice: &PointChoice) -> Result<Offered, ReplicaError> {
        let latest = match (&self.state.phase, self.damaged_at) {
            (Phase::Virgin { .. }, _) => None,
            (_, Some(_)) if *choice == PointChoice::Latest => return Err(self.damage()),
            (_, Some(_)) => None,
            _ => self.stream.latest(self.durable, self.durable_end),
        };
        points::choose(choice, self.offered(), latest)
    }

    pub(super) fn damage(&self) -> ReplicaError {
        let text = self.journal.shelf().damaged();
        ReplicaError::WrongState(text.unwrap_or_else(|| "the journal is damaged".to_owned()))
    }
}

fn own_path(dir: &Path) -> PathBuf {
    dir.join("own.json")
}

fn store_own(dir: &Path, own: &[Range]) -> io::Result<()> {
    if own.is_empty() {
        return state::remove(&own_path(dir));
    }
    state::store(&own_path(dir), &pack(own))
}

/// Forgets the ranges: a catch-up has brought the disks onto the source's history.
pub(super) fn forget_own(dir: &Path) -> io::Result<()> {
    state::remove(&own_path(dir))
}

fn load_own(dir: &Path) -> Result<Vec<Range>, ReplicaError> {
    if !own_path(dir).exists() {
        return Ok(Vec::new());
    }
    state::load::<Vec<(u16, u64, u64)>>(&own_path(dir)).map(unpack)
}

/// Ranges as they are stored.
pub(super) fn pack(ranges: &[Range]) -> Vec<(u16, u64, u64)> {
    ranges.iter().map(|range| (range.disk, range.offset, range.len)).collect()
}

/// Ranges as they were stored.
pub(super) fn unpack(ranges: Vec<(u16, u64, u64)>) -> Vec<Range> {
    ranges.into_iter().map(|(disk, offset, len)| Range { disk, offset, len }).collect()
}
