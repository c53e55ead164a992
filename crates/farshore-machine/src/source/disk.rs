//! One disk of a source, as its clients see it.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use farshore_core::workload::ReplicationMode;

use super::core::Ticket;
use super::log::{Did, Entry};
use super::shared::{Gate, Shared, Tracked, shut_down};
use crate::disk::Extent;
use crate::record::{Op, Range};

/// Longest single write that is numbered as one: the longest that NBD clients send.
const WRITE_LEN_MAX: usize = 32 << 20;

/// One disk of a [`super::Source`]. Cheap to clone; calls may come from many threads.
#[derive(Debug, Clone)]
pub struct SourceDisk {
    pub(super) shared: Arc<Shared>,
    pub(super) index: u16,
}

/// What a write does, before it has a number.
enum Change<'a> {
    Write(&'a mut Vec<u8>),
    Trim,
    Zero { no_hole: bool },
}

impl Change<'_> {
    fn did(&self) -> Did {
        match self {
            Self::Write(data) => Did::Write(crc32c::crc32c(data)),
            Self::Trim => Did::Trim,
            Self::Zero { .. } => Did::Zero,
        }
    }

    fn apply(&self, disk: &dyn crate::disk::Disk, range: Range) -> io::Result<()> {
        match self {
            Self::Write(data) => disk.write_at(data, range.offset),
            Self::Trim => disk.trim(range.offset, range.len),
            Self::Zero { no_hole } => disk.zero(range.offset, range.len, *no_hole),
        }
    }

    fn into_op(self) -> Op {
        match self {
            Self::Write(data) => Op::Write(Arc::from(std::mem::take(data))),
            Self::Trim => Op::Trim,
            Self::Zero { .. } => Op::Zero,
        }
    }
}

impl SourceDisk {
    fn tracked(&self) -> &Tracked {
        &self.shared.disks[usize::from(self.index)]
    }

    /// An error when nothing may be acknowledged now.
    pub fn check_lease(&self) -> io::Result<()> {
        super::lease::check(&self.shared.lease)
    }

    /// What was done by a right that ended meanwhile is not acknowledged.
    fn within_lease<T>(&self, request: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.check_lease()?;
        let done = request()?;
        self.check_lease()?;
        Ok(done)
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tracked().disk.size()
    }

    /// True while this side is not serving.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.shared.gate().serving.is_none()
    }

    /// Fills `buf`. Works on a fenced source too: what it has may be looked at.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.within_lease(|| self.tracked().disk.read_at(buf, offset))
    }

    /// Fills `buf` if that needs no waiting; `WouldBlock` otherwise.
    pub fn read_nowait(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.within_lease(|| self.tracked().disk.read_nowait(buf, offset))
    }

    /// Writes all of `data`, which may be taken.
    pub fn write(&self, offset: u64, data: &mut Vec<u8>) -> io::Result<()> {
        if data.len() > WRITE_LEN_MAX {
            let mut rest = data.split_off(WRITE_LEN_MAX);
            self.write(offset, data)?;
            std::mem::swap(data, &mut rest);
            return self.write(offset + WRITE_LEN_MAX as u64, data);
        }
        let len = data.len() as u64;
        self.change(offset, len, Change::Write(data))
    }

    /// Makes the range read as zeroes and gives its space back where possible.
    pub fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(offset, len, Change::Trim)
    }

    /// Makes the range read as zeroes; with `no_hole`, keeps it allocated.
    pub fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        self.change(offset, len, Change::Zero { no_hole })
    }

    /// Everything written before the call is durable on return; in sync mode also at the target.
    pub fn flush(&self) -> io::Result<()> {
        self.within_lease(|| self.flush_held())
    }

    fn flush_held(&self) -> io::Result<()> {
        let (gate, goal) = {
            let gate = self.shared.gate.read().unwrap_or_else(PoisonError::into_inner);
            if gate.serving.is_none() {
                return Err(shut_down());
            }
            self.shared.sync(Some(usize::from(self.index)))?;
            (*gate, self.shared.core().head)
        };
        match gate.mode {
            ReplicationMode::Sync if gate.tracking => self.shared.await_target(goal),
            _ => Ok(()),
        }
    }

    /// Describes `[offset, offset + len)`.
    pub fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        self.within_lease(|| self.tracked().disk.extents(offset, len, max))
    }

    /// Hints that the range will be read soon.
    pub fn prefetch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.tracked().disk.prefetch(offset, len)
    }

    /// Runs of what differs from the target (`true`) and what does not. Without a target, everything differs.
    #[must_use]
    pub fn dirty(&self, offset: u64, len: u64, max: usize) -> Option<io::Result<Vec<(u64, bool)>>> {
        let len = len.min(self.size().saturating_sub(offset));
        if !self.shared.gate().tracking {
            return Some(Ok(if len > 0 { vec![(len, true)] } else { Vec::new() }));
        }
        Some(Ok(self.shared.core().differing().describe(self.index, offset, len, max)))
    }

    fn change(&self, offset: u64, len: u64, change: Change<'_>) -> io::Result<()> {
        let tracked = self.tracked();
        if offset.checked_add(len).is_none_or(|end| end > tracked.disk.size()) {
            let text = format!(
                "bytes {offset} to {offset} + {len} are outside of the disk of {}",
                tracked.disk.size()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.within_lease(|| self.change_held(offset, len, change))
    }

    fn change_held(&self, offset: u64, len: u64, change: Change<'_>) -> io::Result<()> {
        let tracked = self.tracked();
        let gate = self.shared.gate.read().unwrap_or_else(PoisonError::into_inner);
        if gate.serving.is_none() {
            return Err(shut_down());
        }
        self.shared.check_broken()?;
        if len == 0 {
            return Ok(());
        }
        let range = Range { disk: self.index, offset, len };
        let result = if gate.tracking {
            self.change_tracked(&gate, range, change)
        } else {
            change.apply(&*tracked.disk, range)
        };
        tracked.changes.fetch_add(1, Ordering::AcqRel);
        result
    }

    fn change_tracked(&self, gate: &Gate, range: Range, change: Change<'_>) -> io::Result<()> {
        let did = change.did();
        let ticket = self.admit(gate, range, did)?;
        let entry = Entry { mark: ticket.mark, range, did };
        let result = ticket
            .segment
            .put(entry)
            .and_then(|()| self.shared.extents.heat(range))
            .and_then(|()| change.apply(&*self.tracked().disk, range));
        let done = match result {
            Ok(()) => Some(ticket.collect.then(|| change.into_op())),
            Err(_) => {
                // Never acknowledged, so not to be counted; if even that cannot be written, it counts as lost.
                let _ = ticket.segment.put(Entry { did: Did::Void, ..entry });
                None
            }
        };
        let starts_segment = self.finish(&ticket, done);
        if starts_segment && let Err(error) = self.shared.fold_log() {
            tracing::warn!(%error, "the write log cannot be shortened");
        }
        result
    }

    fn admit(&self, gate: &Gate, range: Range, did: Did) -> io::Result<Ticket> {
        let epoch = gate.serving.map(|token| token.epoch).unwrap_or_default();
        let payload = if matches!(did, Did::Write(_)) { range.len } else { 0 };
        let mut core = self.shared.core();
        while core.must_wait(range) {
            core.waiting += 1;
            core = self.shared.room.wait(core).unwrap_or_else(PoisonError::into_inner);
            core.waiting -= 1;
        }
        core.admit(epoch, range, payload)
    }

    /// Hands the write on; true when its segment was new, so that the log's size is worth a look.
    fn finish(&self, ticket: &Ticket, done: Option<Option<Op>>) -> bool {
        let mut core = self.shared.core();
        core.finish(ticket.mark.seq, done);
        let wake = std::mem::take(&mut core.flow.sleeping);
        let waiting = core.waiting > 0;
        let starts_segment =
            core.log.as_ref().is_some_and(|log| log.newest_before().seq + 1 == ticket.mark.seq);
        drop(core);
        if wake {
            self.shared.wake.notify_one();
        }
        if waiting {
            self.shared.room.notify_all();
        }
        starts_segment
    }
}
