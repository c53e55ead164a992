//! Looking for damage before somebody needs what is damaged.
//!
//! Opening a journal checks headers and indexes; the payloads are checked whenever they are read. A payload that nobody reads
//! until the failover would be found out too late: so all of them are read in turn, a little at a time.

use std::io;
use std::sync::{Arc, PoisonError};

use super::head::content;
use super::index::Content;
use super::replica::Replica;
use super::segment::{IndexEntry, Place};

impl Replica {
    /// Checks the next `bytes` or so of the journal's payloads, going round for ever. What does not match its checksum is in
    /// [`super::ReplicaStatus::damaged`] from then on, and is the error; the next call goes on behind it.
    pub fn scrub(&self, bytes: u64) -> io::Result<()> {
        let inner = &*self.0;
        let mut next = inner.scrubbed.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, to, shelf) = {
            let core = inner.core();
            if core.promoted.is_some() {
                return Ok(());
            }
            ((*next).max(core.state.base), core.durable_end, Arc::clone(core.journal.shelf()))
        };
        let mut left = bytes;
        for number in from.segment..=to.segment {
            let mut entries: Vec<IndexEntry> = Vec::new();
            inner.core().journal.for_each_in(number, from, to, |found| entries.extend_from_slice(found))?;
            for entry in entries.iter().filter(|entry| content(entry.kind) == Content::Data) {
                if left == 0 {
                    return Ok(());
                }
                left = left.saturating_sub(entry.len);
                let place = Place { segment: number, pos: entry.pos };
                *next = Place { pos: place.pos + 1, ..place };
                shelf.payload(&shelf.entry(place)?)?;
            }
        }
        *next = Place::default();
        Ok(())
    }
}
