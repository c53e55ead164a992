//! The newest state of the disks during a catch-up: base and everything in the journal. Tells which bytes of an arriving
//! block really differ, so that only those are kept.

use std::io;
use std::sync::Arc;

use super::divergence::Keeping;
use super::index::{Content, Piece, View};
use super::journal::Journal;
use super::segment::{EntryKind, IndexEntry, Place};
use super::shelf::Shelf;
use crate::disk::{Disk, ExtentKind};
use crate::record::{BLOCK, Block, Op};

/// Compared at once.
const COMPARED: u64 = 1 << 20;

/// One view per disk, and where to read.
#[derive(Debug)]
pub(super) struct Head {
    views: Vec<View>,
    disks: Vec<Arc<Keeping>>,
    shelf: Arc<Shelf>,
}

/// The views of all disks for the entries from `from` to `to`.
pub(super) fn views(journal: &Journal, disks: usize, from: Place, to: Place) -> io::Result<Vec<View>> {
    let mut pieces: Vec<Vec<Piece>> = vec![Vec::new(); disks];
    journal.for_each_segment(from, to, |segment, entries| {
        for entry in entries {
            if let Some(pieces) = pieces.get_mut(usize::from(entry.disk)) {
                pieces.push(piece(segment, entry));
            }
        }
        Ok(())
    })?;
    Ok(pieces.into_iter().map(View::build).collect())
}

fn piece(segment: u32, entry: &IndexEntry) -> Piece {
    let place = Place { segment, pos: entry.pos };
    Piece::new(entry.offset, entry.offset + entry.len, place, content(entry.kind))
}

/// What an entry says about its bytes.
pub(super) fn content(kind: EntryKind) -> Content {
    match kind {
        EntryKind::Write | EntryKind::Block => Content::Data,
        EntryKind::Zero | EntryKind::BlockZero => Content::Zero,
        _ => Content::Trim,
    }
}

impl Head {
    /// Everything from `base` to the journal's end.
    pub(super) fn build(journal: &Journal, disks: &[Arc<Keeping>], base: Place) -> io::Result<Self> {
        Ok(Self {
            views: views(journal, disks.len(), base, journal.end())?,
            disks: disks.to_vec(),
            shelf: Arc::clone(journal.shelf()),
        })
    }

    /// An entry was appended.
    pub(super) fn insert(&mut self, disk: u16, offset: u64, len: u64, place: Place, content: Content) {
        self.views[usize::from(disk)].insert(Piece::new(offset, offset + len, place, content));
    }

    /// The runs of a block, in steps of 4 KiB, whose content is not what is here.
    pub(super) fn differing(&self, block: &Block) -> io::Result<Vec<(u64, u64)>> {
        let mut runs = Vec::new();
        let end = block.offset + block.len;
        let mut at = block.offset;
        while at < end {
            let until = match &block.op {
                Op::Write(_) => end.min(at + COMPARED),
                Op::Trim | Op::Zero => {
                    let (is_zero, until) = self.zeroes(block.disk, at, end.min(at + COMPARED), end)?;
                    if is_zero {
                        at = until;
                        continue;
                    }
                    until
                }
            };
            let mut here = vec![0; within(until - at)];
            self.read(block.disk, &mut here, at)?;
            let want = match &block.op {
                Op::Write(data) => Some(&data[within(at - block.offset)..within(until - block.offset)]),
                Op::Trim | Op::Zero => None,
            };
            compare(&here, want, at, &mut runs);
            at = until;
        }
        Ok(runs)
    }

    /// Whether `at` is known to be zero without reading, and up to where: `data_end` at most for data, `end` for zeroes.
    fn zeroes(&self, disk: u16, at: u64, data_end: u64, end: u64) -> io::Result<(bool, u64)> {
        let (piece, until) = self.views[usize::from(disk)].at(at);
        let until = until.min(end);
        match piece {
            Some(piece) if piece.content() == Content::Data => Ok((false, until.min(data_end))),
            Some(_) => Ok((true, until)),
            None => {
                let found = self.disks[usize::from(disk)].extents(at, until - at, 1)?;
                let extent = found.first().ok_or_else(|| io::Error::other("a disk described no extent"))?;
                let is_zero = extent.kind != ExtentKind::Data;
                let until = at + extent.len;
                Ok((is_zero, if is_zero { until } else { until.min(data_end) }))
            }
        }
    }

    fn read(&self, disk: u16, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let number = usize::from(disk);
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let (piece, until) = self.views[number].at(at);
            let until = until.min(end);
            let part = &mut buf[within(at - offset)..within(until - offset)];
            match piece {
                Some(piece) if piece.content() == Content::Data => {
                    self.shelf.read(piece.place(), disk, at, part)?;
                }
                Some(_) => part.fill(0),
                None => self.disks[number].read_at(part, at)?,
            }
            at = until;
        }
        Ok(())
    }
}

/// Adds the runs of 4 KiB blocks that differ; `want` of `None` is all zeroes.
fn compare(here: &[u8], want: Option<&[u8]>, start: u64, runs: &mut Vec<(u64, u64)>) {
    let mut from = 0;
    while from < here.len() {
        let at = start + from as u64;
        let to = here.len().min(from + within(BLOCK - at % BLOCK));
        let same = match want {
            Some(want) => here[from..to] == want[from..to],
            None => here[from..to].iter().all(|&byte| byte == 0),
        };
        if !same {
            let end = start + to as u64;
            match runs.last_mut() {
                Some(last) if last.1 == at => last.1 = end,
                _ => runs.push((at, end)),
            }
        }
        from = to;
    }
}

fn within(distance: u64) -> usize {
    usize::try_from(distance).expect("inside a buffer")
}
