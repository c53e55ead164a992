//! Retention: points expire, and the disks move forward to the oldest that is kept.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use farshore_core::moment::Moment;

use super::head::content;
use super::index::Content;
use super::points::{self, Offered};
use super::recover::Stream;
use super::replica::{Inner, Replica};
use super::segment::{IndexEntry, Place};
use super::shelf::Shelf;
use super::state::Phase;
use crate::disk::Disk;

impl Replica {
    /// Drops the points that the policy no longer keeps and folds what lies before the oldest kept one into the disks.
    /// Called now and then by the owner. Waits for nothing: while a drill or a catch-up is open, only points are dropped.
    pub fn retain(&self, now: Moment) -> io::Result<()> {
        let inner = &*self.0;
        let _base_moves = inner.folding.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = {
            let mut core = inner.core();
            if core.promoted.is_some() || core.state.phase != Phase::Following {
                return Ok(());
            }
            points::thin(&mut core.points, now, &inner.options.retention);
            let end = core.durable_end;
            let is_still = core.stream == Stream::Whole && inner.drills.load(Ordering::Acquire) == 0;
            let oldest = core.points.first().filter(|oldest| oldest.until < end);
            oldest.filter(|oldest| is_still && oldest.until > core.state.base).cloned()
        };
        match oldest {
            Some(oldest) if inner.fold_to(&oldest)? => inner.settle_base(&oldest),
            _ => Ok(()),
        }
    }
}

impl Inner {
    /// Writes what lies before a point into the disks. `false`: somebody needs the base to stay where it is, now.
    ///
    /// Everything is repeatable: after a stop in the middle, views of the kept points cover whatever was already folded.
    fn fold_to(&self, oldest: &Offered) -> io::Result<bool> {
        let (from, to, shelf) = {
            let mut core = self.core();
            // First the promise that nobody will ask for an earlier point, then the deed.
            core.state.folding_to = Some(oldest.until);
            core.state.store(&self.dir)?;
            (core.state.base, oldest.until, Arc::clone(core.journal.shelf()))
        };
        for number in from.segment..=to.segment {
            let mut entries: Vec<IndexEntry> = Vec::new();
            self.core().journal.for_each_in(number, from, to, |found| entries.extend_from_slice(found))?;
            for entry in &entries {
                if self.waiting.load(Ordering::Acquire) > 0 {
                    return Ok(false);
                }
                self.fold_entry(&shelf, number, entry)?;
            }
        }
        self.disks.iter().try_for_each(|disk| disk.sync())?;
        Ok(true)
    }

    /// The disks durably hold everything before the point.
    fn settle_base(&self, oldest: &Offered) -> io::Result<()> {
        let mut core = self.core();
        core.state.base = oldest.until;
        core.state.base_watermark = oldest.point.watermark;
        core.state.base_consistent = true;
        core.state.folding_to = None;
        core.state.store(&self.dir)?;
        if core.stream != Stream::Whole {
            // A catch-up that was begun meanwhile reads from the old segments; the next fold removes them.
            return Ok(());
        }
        core.journal.delete_before(oldest.until)
    }

    fn fold_entry(&self, shelf: &Shelf, segment: u32, entry: &IndexEntry) -> io::Result<()> {
        let Some(disk) = self.disks.get(usize::from(entry.disk)) else { return Ok(()) };
        let place = Place { segment, pos: entry.pos };
        match content(entry.kind) {
            Content::Trim => disk.trim(entry.offset, entry.len),
            Content::Zero => disk.zero(entry.offset, entry.len, true),
            Content::Data => {
                let mut data = vec![0; usize::try_from(entry.len).expect("payloads fit in memory")];
                shelf.read(place, entry.disk, entry.offset, &mut data)?;
                disk.write_at(&data, entry.offset)
            }
        }
    }
}
