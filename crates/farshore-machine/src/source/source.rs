//! The source of one machine: what the rest of the house calls.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use farshore_core::ids::{Region, Token};
use farshore_core::workload::{Loss, PointKind, Replication, ReplicationMode, ReplicationState, Watermark};

use super::core::Core;
use super::disk::SourceDisk;
use super::extents::Extents;
use super::flow::Phase;
use super::log::{self, Did, Log};
use super::map::BlockMap;
use super::recovery::{self, Facts};
use super::sender;
use super::shared::{Gate, Options, Shared, Tracked, locked};
use crate::disk::Disk;
use crate::record::Range;

/// How long [`Source::mark_point`] waits for the target to have the point.
const POINT_DEADLINE: Duration = Duration::from_secs(10);

/// Why a source cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file or disk failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There is no source in the directory.
    #[error("{} holds no source: create the machine first", dir.display())]
    Missing {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// There already is one.
    #[error("{} already holds a source: open it, or remove the machine first", dir.display())]
    Exists {
        /// Where.
        dir: PathBuf,
    },
    /// Another process has it open.
    #[error("{} is in use by another process: stop that one first", dir.display())]
    InUse {
        /// Where.
        dir: PathBuf,
    },
    /// A file is damaged; the disks themselves are not touched by that.
    #[error("{} is damaged ({why}): the disks are not; remove the directory it is in and protect the machine again, which sends everything once more", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// The disks are not the ones it was made for.
    #[error(
        "the disks have {found:?} bytes but {expected:?} are expected: give the machine its own disks, in order"
    )]
    WrongShape {
        /// Sizes as remembered.
        expected: Vec<u64>,
        /// Sizes as given.
        found: Vec<u64>,
    },
}

/// Where to ship to, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// Who receives.
    pub target: Region,
    /// `HOST:PORT` of its replication listener.
    pub address: String,
    /// The item's id, `machine/NAME`.
    pub item: String,
    /// Carried by every frame.
    pub token: Token,
    /// When a flush returns.
    pub mode: ReplicationMode,
    /// Shared by the two regions.
    pub secret: String,
    /// Send everything, unless this target was already consistent with this history.
    pub full: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("target", &self.target)
            .field("address", &self.address)
            .field("item", &self.item)
            .field("token", &self.token)
            .field("mode", &self.mode)
            .field("full", &self.full)
            .finish_non_exhaustive()
    }
}

/// A handle; clones are the same source. When the last is dropped, shipping stops and nothing else is tidied:
/// [`Source::close`] does that.
#[derive(Debug, Clone)]
pub struct Source {
    shared: Arc<Shared>,
    sender: Arc<Sender>,
}

#[derive(Debug)]
struct Sender {
    shared: Arc<Shared>,
    running: Mutex<Option<(Link, JoinHandle<()>)>>,
}

impl Sender {
    fn stop(&self, running: &mut Option<(Link, JoinHandle<()>)>) {
        if let Some((_, thread)) = running.take() {
            sender::stop(&self.shared);
            let _ = thread.join();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.stop(&mut running);
    }
}

impl Source {
    /// Makes the source's directory; its history goes on after `start`. It does not serve yet.
    pub fn create(
        dir: &Path,
        disks: Vec<Arc<dyn Disk>>,
        start: Watermark,
        options: Options,
    ) -> Result<Self, SourceError> {
        fs::create_dir_all(dir)?;
        let lock = recovery::lock_dir(dir)?;
        if dir.join("source.json").exists() {
            return Err(SourceError::Exists { dir: dir.to_owned() });
        }
        Log::remove(&dir.join("log"))?;
        Extents::remove(&dir.join("extents"))?;
        let sizes: Vec<u64> = disks.iter().map(|disk| disk.size()).collect();
        let mut facts = Facts::new(start, sizes.clone())?;
        facts.clean = false;
        facts.save(dir)?;
        let core = Core::new(&sizes, start, options.outbox_bytes);
        let extents = Extents::new(dir.join("extents"), &sizes);
        Ok(Self::assemble(dir, disks, options, lock, recovery::Opened { facts, core, extents }))
    }

    /// Opens what [`Source::create`] made, however it ended. It does not serve yet.
    pub fn open(dir: &Path, disks: Vec<Arc<dyn Disk>>, options: Options) -> Result<Self, SourceError> {
        if !dir.is_dir() {
            return Err(SourceError::Missing { dir: dir.to_owned() });
        }
        let lock = recovery::lock_dir(dir)?;
        let mut opened = recovery::open(dir, &disks, &options)?;
        opened.core.flow.estimated = true;
        Ok(Self::assemble(dir, disks, options, lock, opened))
    }

    fn assemble(
        dir: &Path,
        disks: Vec<Arc<dyn Disk>>,
        options: Options,
        lock: fs::File,
        opened: recovery::Opened,
    ) -> Self {
        let gate = Gate { tracking: opened.facts.tracking, ..Gate::default() };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            lease: options.lease.clone().unwrap_or_else(super::lease::holding),
            options,
            disks: disks.into_iter().map(Tracked::new).collect(),
            gate: RwLock::new(gate),
            core: Mutex::new(opened.core),
            room: Condvar::new(),
            wake: Condvar::new(),
            acked: Condvar::new(),
            extents: opened.extents,
            broken: std::sync::OnceLock::new(),
            saving: Mutex::new(()),
            facts: Mutex::new(opened.facts),
            _lock: lock,
        });
        let sender = Arc::new(Sender { shared: Arc::clone(&shared), running: Mutex::new(None) });
        Self { shared, sender }
    }

    /// Accepts writes under `token`.
    pub fn serve(&self, token: Token) {
        self.shared.change_gate(|gate| gate.serving = Some(token));
        self.shared.core().fenced = false;
    }

    /// Stops to accept writes, waits for those under way, makes them durable and returns the final position. No write
    /// is acknowledged after it has returned. What was accepted is still shipped.
    pub fn fence(&self) -> io::Result<Watermark> {
        {
            self.shared.core().fenced = true;
            self.shared.acked.notify_all();
        }
        self.shared.change_gate(|gate| gate.serving = None);
        self.shared.sync(None)?;
        Ok(self.watermark())
    }

    /// The highest token that a target has refused this source with: someone else has taken over.
    #[must_use]
    pub fn superseded(&self) -> Option<Token> {
        self.shared.core().flow.superseded
    }

    /// Why the source has stopped for good, if a sync has failed.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.shared.broken.get().cloned()
    }

    /// One of its disks.
    ///
    /// # Panics
    /// When there is no disk with this index.
    #[must_use]
    pub fn disk(&self, index: usize) -> SourceDisk {
        assert!(index < self.shared.disks.len(), "the machine has {} disks", self.shared.disks.len());
        let index = u16::try_from(index).expect("machines have few disks");
        SourceDisk { shared: Arc::clone(&self.shared), index }
    }

    /// Starts to number and log writes without a target: everything written from now on differs.
    pub fn track(&self) -> io::Result<()> {
        let _running = locked(&self.sender.running);
        self.start_tracking()
    }

    fn start_tracking(&self) -> io::Result<()> {
        if self.shared.gate().tracking {
            return Ok(());
        }
        let shared = &self.shared;
        // No untracked write may be under way when the first tracked one is numbered.
        shared.change_gate(|gate| {
            let mut core = shared.core();
            let head = core.head;
            core.log = Some(Log::create(&shared.dir.join("log"), head, shared.options.log_segment_bytes)?);
            core.note = super::core::Note { base: head, ..super::core::Note::default() };
            drop(core);
            shared.save_map()?;
            let mut facts = locked(&shared.facts);
            facts.tracking = true;
            facts.head = head;
            facts.exact = true;
            facts.save(&shared.dir)?;
            gate.tracking = true;
            Ok(())
        })
    }

    /// Adds differences from the target that are known from elsewhere.
    pub fn mark_dirty(&self, ranges: &[Range]) -> io::Result<()> {
        self.track()?;
        {
            let mut core = self.shared.core();
            core.stop_collecting();
            ranges.iter().for_each(|range| core.dirty.mark(*range));
        }
        self.shared.wake.notify_all();
        self.shared.save_map()
    }

    /// Ships to the target from now on, again after every cut. The same link again changes nothing.
    pub fn replicate(&self, link: Link) -> io::Result<()> {
        let mut running = locked(&self.sender.running);
        if running.as_ref().is_some_and(|(old, thread)| *old == link && !thread.is_finished()) {
            return Ok(());
        }
        self.sender.stop(&mut running);
        self.start_tracking()?;
        self.shared.change_gate(|gate| gate.mode = link.mode);
        let peer = format!("{} {}", link.target, link.item);
        {
            let mut core = self.shared.core();
            core.flow.stop = false;
            core.flow.moved = 0;
            core.flow.note = None;
            if core.note.peer.as_ref() != Some(&peer) {
                core.stop_collecting();
                core.note.peer = Some(peer);
                core.note.catch_up_open = false;
                core.note.seeding = false;
                core.note.seeded = None;
            }
        }
        let (shared, its_link) = (Arc::clone(&self.shared), link.clone());
        let thread = std::thread::Builder::new()
            .name("replicate".into())
            .spawn(move || sender::run(&shared, &its_link))?;
        *running = Some((link, thread));
        Ok(())
    }

    /// Forgets the target: stops shipping and tracking, goes on serving.
    pub fn stop_replicating(&self) -> io::Result<()> {
        let mut running = locked(&self.sender.running);
        self.sender.stop(&mut running);
        let shared = &self.shared;
        shared.change_gate(|gate| {
            gate.tracking = false;
            gate.mode = ReplicationMode::Async;
            let head = {
                let mut core = shared.core();
                core.stop_collecting();
                core.dirty.clear();
                core.sending.clear();
                core.remaining.clear();
                core.log = None;
                core.note = super::core::Note::default();
                core.head
            };
            let mut facts = locked(&shared.facts);
            facts.tracking = false;
            facts.head = head;
            facts.untrusted = None;
            facts.renumber = false;
            facts.save(&shared.dir)
        })?;
        shared.acked.notify_all();
        Log::remove(&shared.dir.join("log"))
    }

    /// Stops shipping and forgets where to, but goes on tracking: what the target lacks stays known.
    pub fn stop_shipping(&self) {
        self.sender.stop(&mut locked(&self.sender.running));
    }

    /// Cuts a recovery point after everything written so far, and returns once the target durably has it.
    pub fn mark_point(&self, kind: PointKind, name: Option<String>) -> io::Result<Watermark> {
        let until = Instant::now() + POINT_DEADLINE;
        let mut core = self.shared.core();
        if core.flow.phase != Phase::Streaming || !core.collecting {
            let text = "no point can be made while the target is not consistent: wait until replication is streaming";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        let cut = core.cut_point(kind, name);
        core.flow.flush_goal = core.flow.flush_goal.max(cut.point.at.seq);
        self.shared.wake.notify_all();
        while core.flow.points_done < cut.id {
            let left = until.saturating_duration_since(Instant::now());
            if !core.flow.has_point(cut.id) || core.flow.stop {
                return Err(io::Error::other(
                    "the point was lost with the link: try again when it is streaming",
                ));
            }
            if left.is_zero() {
                let text = "the target has not confirmed the point in time; it may still get it";
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            core = self.shared.acked.wait_timeout(core, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(cut.point.at)
    }

    /// The last write accepted.
    #[must_use]
    pub fn watermark(&self) -> Watermark {
        self.shared.core().head
    }

    /// How replication stands; `None` without a target.
    #[must_use]
    pub fn replication(&self) -> Option<Replication> {
        let running = locked(&self.sender.running);
        let (link, _) = running.as_ref()?;
        let core = self.shared.core();
        let state = match core.flow.phase {
            Phase::Idle => ReplicationState::Disconnected,
            Phase::Streaming if core.flow.ending.is_none() => ReplicationState::Streaming,
            _ if core.note.seeding => ReplicationState::Seeding,
            _ => ReplicationState::CatchingUp,
        };
        let behind = core.dirty.bytes() + core.remaining.bytes() + core.outbox_bytes() as u64;
        let base = core.note.base;
        let mut notes: Vec<String> = core.flow.note.iter().cloned().collect();
        if link.mode == ReplicationMode::Sync && core.is_seeded() {
            notes.push("flushes wait for the target (sync): stop replication to release them".to_owned());
        }
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        Some(Replication {
            target: link.target.clone(),
            state,
            behind_bytes: if state == ReplicationState::Streaming { 0 } else { behind },
            total_bytes: core.flow.total,
            moved_bytes: core.flow.moved,
            differed_bytes: core.flow.differed_bytes(),
            acknowledged: base,
            lag: between(base, core.head),
            note: if state == ReplicationState::Streaming { None } else { note },
        })
    }

    /// True when the target durably has every accepted write.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.shared.core().settled()
    }

    /// The writes after `after`, that only this side has: how many, whether that is exact, and where. Where the log
    /// does not reach back that far, the ranges hold all that is not known to be at the target.
    pub fn lost_after(&self, after: Watermark) -> io::Result<(Loss, bool, Vec<Range>)> {
        let (segments, start, head, mut map) = {
            let core = self.shared.core();
            let segments = core.log.as_ref().map(Log::segments).unwrap_or_default();
            let start = core.log.as_ref().map_or(core.head, Log::start);
            (segments, start, core.head, core.map_to_save())
        };
        if start.seq <= after.seq {
            map = BlockMap::new(&self.shared.sizes());
        }
        let mut loss = if start.seq > after.seq { between(after, start) } else { Loss::default() };
        let damaged = log::scan(&segments, after.seq, |entry| {
            map.mark(entry.range);
            if entry.did != Did::Void {
                loss.writes += 1;
                loss.bytes += entry.payload();
            }
        })?;
        loss.seconds = if loss.writes > 0 { head.at.since(after.at).as_secs_f64() } else { 0.0 };
        let exact = damaged == 0 && locked(&self.shared.facts).exact;
        Ok((loss, exact, map.runs()))
    }

    /// Stops everything in order: opened again, nothing needs to be looked at.
    pub fn close(&self) -> io::Result<()> {
        self.sender.stop(&mut locked(&self.sender.running));
        self.fence()?;
        if self.shared.gate().tracking {
            self.shared.core().stop_collecting();
            self.shared.save_map()?;
        }
        let mut facts = locked(&self.shared.facts);
        facts.clean = true;
        facts.head = self.watermark();
        facts.save(&self.shared.dir)
    }
}

fn between(from: Watermark, to: Watermark) -> Loss {
    let writes = to.seq.saturating_sub(from.seq);
    Loss {
        writes,
        bytes: to.bytes.saturating_sub(from.bytes),
        seconds: if writes > 0 { to.at.since(from.at).as_secs_f64() } else { 0.0 },
    }
}

#[cfg(test)]
impl Source {
    /// The log's files, as the oracle of the order of writes.
    pub(super) fn segments(&self) -> Vec<Arc<log::Segment>> {
        self.shared.core().log.as_ref().map(Log::segments).unwrap_or_default()
    }
}
