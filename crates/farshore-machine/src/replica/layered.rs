//! A disk made of sheets: what was written since, over what the journal says, over the base.
//!
//! Before the commit, writes go to the copy-on-write layer and the base is not touched. After it they go to the base, and
//! blocks that are right there are marked done; the folding thread brings the others down. When all are done the layers go
//! away and only the base is left. A block never changes its content by moving down, so readers need no lock.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::blockmap::BlockMap;
use super::index::{Content, Piece, View};
use super::sheet::Sheet;
use super::shelf::Shelf;
use crate::disk::{Disk, Extent, ExtentKind};
use crate::record::BLOCK;

/// Locks over stripes of a disk: enough that sixteen writers seldom meet.
const LOCKS: usize = 64;
/// Width of a stripe: a write of 32 MiB, the longest of NBD, takes 33 of the 64 locks.
const STRIPE: u64 = 1 << 20;

/// Where the bytes of a disk come from.
#[derive(Debug, Clone)]
pub(super) enum Sheets {
    /// Writes go to `layer`.
    Layer {
        /// The journal's part.
        view: Arc<View>,
        /// Copy on write.
        layer: Arc<Sheet>,
    },
    /// Committed: writes go to the base.
    Folding {
        /// The journal's part.
        view: Arc<View>,
        /// What was written before the commit; no longer written.
        layer: Arc<Sheet>,
        /// Blocks that are right in the base.
        done: Arc<BlockMap>,
    },
    /// Only the base is left.
    Base,
}

/// A disk of a promoted machine or of a drill.
#[derive(Debug)]
pub(super) struct Layered {
    number: u16,
    base: Arc<dyn Disk>,
    shelf: Arc<Shelf>,
    sheets: RwLock<Sheets>,
    locks: Vec<Mutex<()>>,
    is_closed: AtomicBool,
}

/// Which sheet holds a run of bytes.
#[derive(Debug, Clone, Copy)]
enum From {
    Base,
    Layer,
    Journal(Piece),
}

impl Sheets {
    /// Who holds `offset`, and up to where that holds; looks no further than `limit`.
    fn at(&self, offset: u64, limit: u64) -> (From, u64) {
        let (view, layer, done) = match self {
            Self::Layer { view, layer } => (view, layer, None),
            Self::Folding { view, layer, done } => (view, layer, Some(done)),
            Self::Base => return (From::Base, limit),
        };
        // The view first: its answer bounds how far the maps are searched, so that going through a whole disk stays linear.
        let (piece, end) = view.at(offset);
        let mut limit = limit.min(end);
        if let Some(done) = done {
            let (is_done, end) = done.run(offset, limit);
            limit = limit.min(end);
            if is_done {
                return (From::Base, limit);
            }
        }
        let (is_layer, end) = layer.map.run(offset, limit);
        let from = if is_layer { From::Layer } else { piece.map_or(From::Base, From::Journal) };
        (from, end.min(limit))
    }

    /// Calls `each` with every run of `[offset, end)`.
    fn runs(
        &self,
        offset: u64,
        end: u64,
        mut each: impl FnMut(From, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = offset;
        while at < end {
            let (from, until) = self.at(at, end);
            each(from, at, until)?;
            at = until;
        }
        Ok(())
    }
}

impl Layered {
    pub(super) fn new(number: usize, base: Arc<dyn Disk>, shelf: Arc<Shelf>, sheets: Sheets) -> Self {
        Self {
            number: u16::try_from(number).expect("a machine has few disks"),
            base,
            shelf,
            sheets: RwLock::new(sheets),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Ends all use: whoever still holds the disk gets errors, not the bytes of a base that has moved on.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        drop(self.sheets.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Replaces the sheets; waits for running calls.
    pub(super) fn swap(&self, sheets: Sheets) {
        *self.sheets.write().unwrap_or_else(PoisonError::into_inner) = sheets;
    }

    /// The present sheets.
    pub(super) fn sheets(&self) -> Sheets {
        self.sheets.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ranges that a fold must bring down, whole blocks, in order and disjoint.
    pub(super) fn to_fold(&self) -> Vec<(u64, u64)> {
        let Sheets::Folding { view, layer, .. } = self.sheets() else { return Vec::new() };
        let size = self.size();
        let mut ranges: Vec<(u64, u64)> = view
            .pieces()
            .iter()
            .map(|piece| (piece.start / BLOCK * BLOCK, piece.end.next_multiple_of(BLOCK).min(size)))
            .collect();
        let mut at = 0;
        while at < size {
            let (is_layer, end) = layer.map.run(at, size);
            if is_layer {
                ranges.push((at, end));
            }
            at = end;
        }
        ranges.sort_unstable();
        ranges.dedup_by(|later, earlier| {
            let touches = later.0 <= earlier.1;
            if touches {
                earlier.1 = earlier.1.max(later.1);
            }
            touches
        });
        ranges
    }

    /// Brings the blocks of `[start, end)` down to the base. Nothing changes for readers.
    pub(super) fn fold(&self, start: u64, end: u64) -> io::Result<()> {
        // Before the locks: a writer that waits for a stripe holds the sheets, and a swap may be waiting for it.
        let sheets = self.sheets();
        let Sheets::Folding { layer, done, .. } = &sheets else { return Ok(()) };
        let _locks = self.lock(start, end - start);
        sheets.runs(start, end, |from, at, until| match from {
            From::Base => Ok(()),
            From::Layer => self.fold_layer(layer, at, until),
            From::Journal(piece) => self.fold_piece(piece, at, until),
        })?;
        done.set(start, end)
    }

    fn fold_layer(&self, layer: &Sheet, start: u64, end: u64) -> io::Result<()> {
        let mut at = start;
        while at < end {
            for extent in layer.extents(at, end - at, 64)? {
                if extent.kind == ExtentKind::Data {
                    let mut bytes = buffer(extent.len);
                    layer.read(&mut bytes, at)?;
                    self.base.write_at(&bytes, at)?;
                } else {
                    self.base.trim(at, extent.len)?;
                }
                at += extent.len;
            }
        }
        Ok(())
    }

    fn fold_piece(&self, piece: Piece, start: u64, end: u64) -> io::Result<()> {
        match piece.content() {
            Content::Data => {
                let mut bytes = buffer(end - start);
                self.shelf.read(piece.place(), self.number, start, &mut bytes)?;
                self.base.write_at(&bytes, start)
            }
            Content::Trim => self.base.trim(start, end - start),
            Content::Zero => self.base.zero(start, end - start, true),
        }
    }

    /// Makes what was folded or written after the commit durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self.sheets() {
            Sheets::Layer { layer, .. } => layer.flush(),
            Sheets::Folding { done, .. } => done.flush(|| self.base.sync()),
            Sheets::Base => self.base.sync(),
        }
    }

    /// Locks all stripes that a range touches, always in the same order.
    fn lock(&self, offset: u64, len: u64) -> Vec<MutexGuard<'_, ()>> {
        let (first, last) = (offset / STRIPE, (offset + len - 1) / STRIPE);
        let mut numbers: Vec<usize> = (first..=last)
            .take(LOCKS)
            .map(|stripe| usize::try_from(stripe % LOCKS as u64).expect("below 64"))
            .collect();
        numbers.sort_unstable();
        numbers.iter().map(|&n| self.locks[n].lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the test failover was cleaned up"));
        }
        if offset.checked_add(len).is_some_and(|end| end <= self.size()) {
            return Ok(());
        }
        let size = self.size();
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("bytes {offset} to {offset}+{len} are outside of a disk of {size} bytes"),
        ))
    }

    fn read_from(&self, sheets: &Sheets, buf: &mut [u8], offset: u64) -> io::Result<()> {
        sheets.runs(offset, offset + buf.len() as u64, |from, at, until| {
            let part = &mut buf[within(at - offset)..within(until - offset)];
            match from {
                From::Base => self.base.read_at(part, at),
                From::Layer => match sheets {
                    Sheets::Layer { layer, .. } | Sheets::Folding { layer, .. } => layer.read(part, at),
                    Sheets::Base => self.base.read_at(part, at),
                },
                From::Journal(piece) if piece.content() == Content::Data => {
                    self.shelf.read(piece.place(), self.number, at, part)
                }
                From::Journal(_) => {
                    part.fill(0);
                    Ok(())
                }
            }
        })
    }

    /// Writes with the stripes locked.
    fn write_locked(&self, sheets: &Sheets, buf: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        let start_whole = offset / BLOCK * BLOCK;
        let end_whole = end.next_multiple_of(BLOCK).min(self.size());
        let is_own = |at: u64| match sheets {
            Sheets::Layer { layer, .. } => layer.map.run(at, at + 1).0,
            Sheets::Folding { done, .. } => done.run(at, at + 1).0,
            Sheets::Base => true,
        };
        let head = if start_whole < offset && !is_own(offset) { start_whole } else { offset };
        let tail = if end < end_whole && !is_own(end - 1) { end_whole } else { end };
        if head == offset && tail == end {
            return self.put(sheets, buf, offset);
        }
        // A block that is not here yet comes as a whole: what surrounds the write is taken from below.
        let mut whole = buffer(tail - head);
        self.read_from(sheets, &mut whole[..within(offset - head)], head)?;
        self.read_from(sheets, &mut whole[within(end - head)..], end)?;
        whole[within(offset - head)..within(end - head)].copy_from_slice(buf);
        self.put(sheets, &whole, head)
    }

    fn put(&self, sheets: &Sheets, buf: &[u8], offset: u64) -> io::Result<()> {
        match sheets {
            Sheets::Layer { layer, .. } => layer.write(buf, offset),
            Sheets::Folding { done, .. } => {
                self.base.write_at(buf, offset)?;
                done.set(offset, offset + buf.len() as u64)
            }
            Sheets::Base => self.base.write_at(buf, offset),
        }
    }

    /// Zeroes with whole blocks taken out of the sheets, and the parts of blocks at both ends written.
    fn clear(
        &self,
        offset: u64,
        len: u64,
        base: impl Fn(&dyn Disk, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let sheets = self.sheets.read().unwrap_or_else(PoisonError::into_inner);
        self.check(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        if let Sheets::Base = *sheets {
            return base(&*self.base, offset, len);
        }
        let _locks = self.lock(offset, len);
        let end = offset + len;
        let first = offset.next_multiple_of(BLOCK).min(end);
        let last = if end == self.size() { end } else { (end / BLOCK * BLOCK).max(first) };
        for (from, to) in [(offset, first), (last, end)] {
            if from < to {
                self.write_locked(&sheets, &buffer(to - from), from)?;
            }
        }
        if first == last {
            return Ok(());
        }
        match &*sheets {
            Sheets::Layer { layer, .. } => layer.punch(first, last - first),
            Sheets::Folding { done, .. } => {
                base(&*self.base, first, last - first)?;
                done.set(first, last)
            }
            Sheets::Base => Ok(()),
        }
    }
}

impl Disk for Layered {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let sheets = self.sheets.read().unwrap_or_else(PoisonError::into_inner);
        self.check(offset, buf.len() as u64)?;
        self.read_from(&sheets, buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let sheets = self.sheets.read().unwrap_or_else(PoisonError::into_inner);
        self.check(offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        if let Sheets::Base = *sheets {
            return self.base.write_at(buf, offset);
        }
        let _locks = self.lock(offset, buf.len() as u64);
        self.write_locked(&sheets, buf, offset)
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.clear(offset, len, |base, offset, len| base.trim(offset, len))
    }

    fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        self.clear(offset, len, |base, offset, len| base.zero(offset, len, no_hole))
    }

    fn sync(&self) -> io::Result<()> {
        self.flush()
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        let sheets = self.sheets.read().unwrap_or_else(PoisonError::into_inner);
        self.check(offset, len)?;
        let mut extents: Vec<Extent> = Vec::new();
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let (from, until) = sheets.at(at, end);
            let found = match (from, &*sheets) {
                (From::Layer, Sheets::Layer { layer, .. } | Sheets::Folding { layer, .. }) => {
                    layer.extents(at, until - at, max)?
                }
                (From::Base | From::Layer, _) => self.base.extents(at, until - at, max)?,
                (From::Journal(piece), _) => vec![Extent { len: until - at, kind: kind_of(piece) }],
            };
            for extent in found {
                let count = extents.len();
                match extents.last_mut() {
                    Some(last) if last.kind == extent.kind => last.len += extent.len,
                    _ if count == max => return Ok(extents),
                    _ => extents.push(extent),
                }
                at += extent.len;
            }
        }
        Ok(extents)
    }
}

fn kind_of(piece: Piece) -> ExtentKind {
    match piece.content() {
        Content::Data => ExtentKind::Data,
        Content::Trim => ExtentKind::Hole,
        Content::Zero => ExtentKind::Zero,
    }
}

fn within(distance: u64) -> usize {
    usize::try_from(distance).expect("inside a buffer")
}

fn buffer(len: u64) -> Vec<u8> {
    vec![0; within(len)]
}
