//! What the handles, the disks and the sender of one source share.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use farshore_core::ids::{Region, Token};
use farshore_core::lease::Lease;
use farshore_core::workload::{ReplicationMode, Watermark};

use super::core::Core;
use super::extents::Extents;
use super::{log, map};
use crate::disk::Disk;
use crate::tls::ReplicationClient;

/// Settings of a source.
#[derive(Debug, Clone)]
pub struct Options {
    /// The region it runs in, as told to targets.
    pub region: Option<Region>,
    /// Payload bytes kept for a target that is slow or away, before its map takes over.
    pub outbox_bytes: usize,
    /// Size of a segment of the write log.
    pub log_segment_bytes: u64,
    /// Above this the oldest segments are folded into the map, acknowledged or not.
    pub log_bytes_max: u64,
    /// A recovery point is cut this often.
    pub point_every: Duration,
    /// A target that says nothing for so long is taken for dead. It speaks twice a second.
    pub dead_after: Duration,
    /// First pause before connecting again; doubles up to 5 s.
    pub retry_after: Duration,
    /// The machine's right to serve. `None`: it holds.
    pub lease: Option<Arc<Lease>>,
    /// With what it shows targets who it is. `None`: plain text, to loopback only.
    pub tls: Option<ReplicationClient>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            region: None,
            outbox_bytes: 64 << 20,
            log_segment_bytes: 16 << 20,
            log_bytes_max: 256 << 20,
            point_every: Duration::from_secs(5),
            dead_after: Duration::from_secs(8),
            retry_after: Duration::from_millis(100),
            lease: None,
            tls: None,
        }
    }
}

/// Who may write.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gate {
    /// Writes are accepted under this token.
    pub(super) serving: Option<Token>,
    /// Writes are numbered, logged and kept for a target.
    pub(super) tracking: bool,
    /// A flush waits for the target.
    pub(super) mode: ReplicationMode,
}

/// One disk and what was flushed of it.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) disk: Arc<dyn Disk>,
    /// Rises with every change.
    pub(super) changes: AtomicU64,
    synced: AtomicU64,
}

impl Tracked {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        // Another process may have left unsynced changes: the first flush always syncs.
        Self { disk, changes: AtomicU64::new(1), synced: AtomicU64::new(0) }
    }

    fn sync(&self) -> io::Result<()> {
        let changes = self.changes.load(Ordering::Acquire);
        if self.synced.load(Ordering::Acquire) < changes {
            self.disk.sync()?;
            self.synced.fetch_max(changes, Ordering::AcqRel);
        }
        Ok(())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) disks: Vec<Tracked>,
    /// Held for reading by every write from check to end: whoever holds it for writing knows that none is under way.
    pub(super) gate: RwLock<Gate>,
    /// Until when it may serve: asked before each request and again before each reply.
    pub(super) lease: Arc<Lease>,
    pub(super) core: Mutex<Core>,
    /// Writers that wait for room.
    pub(super) room: Condvar,
    /// The sender, waiting for something to send.
    pub(super) wake: Condvar,
    /// Flushes, drains and points that wait for the target.
    pub(super) acked: Condvar,
    pub(super) extents: Extents,
    /// Why nothing works any more: a sync failed, so nobody knows what is on the disk.
    pub(super) broken: OnceLock<String>,
    /// One writer of the map's file at a time.
    pub(super) saving: Mutex<()>,
    /// What recovery found; see there.
    pub(super) facts: Mutex<super::recovery::Facts>,
    /// Keeps other processes out of the directory.
    pub(super) _lock: File,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        locked(&self.core)
    }

    pub(super) fn gate(&self) -> Gate {
        *self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the gate while no write is under way.
    pub(super) fn change_gate<T>(&self, change: impl FnOnce(&mut Gate) -> T) -> T {
        change(&mut self.gate.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn sizes(&self) -> Vec<u64> {
        self.disks.iter().map(|tracked| tracked.disk.size()).collect()
    }

    /// An error if an earlier sync failed.
    pub(super) fn check_broken(&self) -> io::Result<()> {
        self.broken.get().map_or(Ok(()), |why| Err(io::Error::other(why.clone())))
    }

    /// Makes one disk, or all, and the log durable. After one failure, nothing is believed any more.
    pub(super) fn sync(&self, disk: Option<usize>) -> io::Result<()> {
        self.check_broken()?;
        let segments = self.core().log.as_ref().map(log::Log::segments).unwrap_or_default();
        let disks = self.disks.iter().enumerate();
        let wanted = disks.filter(|(index, _)| disk.is_none_or(|disk| disk == *index));
        let result = wanted
            .map(|(index, tracked)| (format!("disk {index}"), tracked.sync()))
            .chain(std::iter::once_with(|| {
                ("the write log".to_owned(), segments.iter().try_for_each(|segment| segment.sync()))
            }))
            .find_map(|(what, result)| result.err().map(|error| (what, error)));
        let Some((what, error)) = result else { return Ok(()) };
        let why = format!(
            "syncing {what} failed ({error}): what is on it is unknown, so this source stops; mend the storage, then restart or fail over"
        );
        tracing::error!("{why}");
        let _ = self.broken.set(why);
        self.check_broken()
    }

    /// Writes the map's file from what is known now.
    pub(super) fn save_map(&self) -> io::Result<()> {
        let _saving = locked(&self.saving);
        let (note, map) = {
            let core = self.core();
            (core.note.clone(), core.map_to_save())
        };
        map::save(&self.dir.join("map"), &serde_json::to_vec(&note)?, &map)
    }

    /// Removes log segments that were acknowledged.
    pub(super) fn prune_log(&self) -> io::Result<()> {
        let taken = {
            let mut core = self.core();
            let base = core.note.base.seq;
            core.log.as_mut().map(|log| log.take_up_to(base)).unwrap_or_default()
        };
        log::unlink(&taken)
    }

    /// Keeps the log bounded: folds its oldest segments into the map.
    pub(super) fn fold_log(&self) -> io::Result<()> {
        let taken = {
            let mut core = self.core();
            let complete = core.complete.seq;
            let core = &mut *core;
            let Some(log) = core.log.as_mut() else { return Ok(()) };
            if log.len() <= self.options.log_bytes_max {
                return Ok(());
            }
            let before = log.newest_before().seq;
            let taken = log.take_up_to(before.min(complete));
            core.note.folded_to = log.start().seq;
            taken
        };
        if taken.is_empty() {
            return Ok(());
        }
        self.save_map()?;
        log::unlink(&taken)
    }

    /// What a flush in sync mode waits for: returns once the target durably has everything up to `goal`.
    pub(super) fn await_target(&self, goal: Watermark) -> io::Result<()> {
        let mut core = self.core();
        while core.note.base.seq < goal.seq {
            if core.fenced {
                return Err(shut_down());
            }
            // Before its first copy is complete the target protects nothing yet.
            if !core.is_seeded() || core.flow.stop {
                return Ok(());
            }
            core.flow.flush_goal = core.flow.flush_goal.max(goal.seq);
            self.wake.notify_all();
            core = self.acked.wait(core).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

/// What a client gets when this side no longer serves.
pub(super) fn shut_down() -> io::Error {
    rustix::io::Errno::SHUTDOWN.into()
}
