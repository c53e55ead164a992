//! Which entry of the journal holds each byte: a sorted, gapless-where-covered list of pieces per disk.
//!
//! Built in one sweep over all entries up to a place; the cost is that of sorting them and does not depend on the size
//! of the disk. 24 bytes per piece. A view that must follow an ongoing catch-up takes new pieces into a small tree first
//! and merges them in batches.

use std::collections::{BTreeMap, BinaryHeap};

use super::segment::Place;

/// New pieces that wait in the tree before they are merged into the list: 64 Ki pieces are about 4 MiB of tree.
const RECENT_MAX: usize = 64 * 1024;

/// What a piece says about its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// They are in the payload of the entry at the piece's place.
    Data,
    /// They read as zeroes and are not allocated.
    Trim,
    /// They read as zeroes and are allocated.
    Zero,
}

/// A run of bytes of one disk and the entry that wrote them last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Segment, position and content in one word, so that a piece has 24 bytes: positions are multiples of 8, and the
    /// content takes the free low bits. Comparing two of them compares their ages.
    source: u64,
}

impl Piece {
    /// A piece of the entry at `place`.
    pub(super) fn new(start: u64, end: u64, place: Place, content: Content) -> Self {
        let low = match content {
            Content::Data => 0,
            Content::Trim => 1,
            Content::Zero => 2,
        };
        Self { start, end, source: u64::from(place.segment) << 32 | u64::from(place.pos) | low }
    }

    /// The entry.
    pub(super) fn place(&self) -> Place {
        let pos = u32::try_from(self.source & 0xffff_fff8).expect("masked to 32 bits");
        Place { segment: u32::try_from(self.source >> 32).expect("shifted to 32 bits"), pos }
    }

    /// What it says.
    pub(super) fn content(&self) -> Content {
        match self.source & 7 {
            0 => Content::Data,
            1 => Content::Trim,
            _ => Content::Zero,
        }
    }
}

/// Turns overlapping pieces in any order into disjoint ones sorted by start, newest on top.
pub(super) fn flatten(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_unstable_by_key(|piece| piece.start);
    let mut flat: Vec<Piece> = Vec::with_capacity(pieces.len());
    // The covering pieces at `at`, newest on top; those that ended are dropped when they come up.
    let mut open: BinaryHeap<(u64, u64)> = BinaryHeap::new();
    let mut at = 0;
    let mut coming = pieces.iter().peekable();
    loop {
        while open.peek().is_some_and(|&(_, end)| end <= at) {
            open.pop();
        }
        let next_start = coming.peek().map(|piece| piece.start);
        let Some(&(source, end)) = open.peek() else {
            let Some(piece) = coming.next() else { return flat };
            at = piece.start;
            open.push((piece.source, piece.end));
            continue;
        };
        let until = next_start.map_or(end, |start| start.min(end));
        push_piece(&mut flat, Piece { start: at, end: until, source });
        at = until;
        if next_start == Some(until)
            && let Some(piece) = coming.next()
        {
            open.push((piece.source, piece.end));
        }
    }
}

fn push_piece(flat: &mut Vec<Piece>, piece: Piece) {
    if piece.start == piece.end {
        return;
    }
    match flat.last_mut() {
        Some(last) if last.end == piece.start && last.source == piece.source => last.end = piece.end,
        _ => flat.push(piece),
    }
}

/// Which entry holds each byte of one disk, at one place of the journal.
#[derive(Debug, Default)]
pub(super) struct View {
    pieces: Vec<Piece>,
    recent: BTreeMap<u64, Piece>,
}

impl View {
    /// From the pieces of all entries, in any order.
    pub(super) fn build(pieces: Vec<Piece>) -> Self {
        let mut pieces = flatten(pieces);
        pieces.shrink_to_fit();
        Self { pieces, recent: BTreeMap::new() }
    }

    /// The disjoint pieces in order. Only for views that nothing was put on top of.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Puts a newer piece on top.
    pub(super) fn insert(&mut self, piece: Piece) {
        let before = self.recent.range(..piece.start).next_back().map(|(_, old)| *old);
        if let Some(old) = before.filter(|old| old.end > piece.start) {
            self.recent.insert(old.start, Piece { end: piece.start, ..old });
            if old.end > piece.end {
                self.recent.insert(piece.end, Piece { start: piece.end, ..old });
            }
        }
        while let Some((&start, &old)) = self.recent.range(piece.start..piece.end).next() {
            self.recent.remove(&start);
            if old.end > piece.end {
                self.recent.insert(piece.end, Piece { start: piece.end, ..old });
            }
        }
        self.recent.insert(piece.start, piece);
        if self.recent.len() > RECENT_MAX {
            let mut all = std::mem::take(&mut self.pieces);
            all.extend(std::mem::take(&mut self.recent).into_values());
            self.pieces = flatten(all);
        }
    }

    /// What covers `offset`, and up to where that answer holds (`u64::MAX`: to the end).
    pub(super) fn at(&self, offset: u64) -> (Option<Piece>, u64) {
        let top = self.recent.range(..=offset).next_back().map(|(_, piece)| *piece);
        if let Some(piece) = top.filter(|piece| piece.end > offset) {
            return (Some(piece), piece.end);
        }
        let limit = self.recent.range(offset..).next().map_or(u64::MAX, |(&start, _)| start);
        let index = self.pieces.partition_point(|piece| piece.end <= offset);
        match self.pieces.get(index) {
            Some(piece) if piece.start <= offset => (Some(*piece), piece.end.min(limit)),
            Some(piece) => (None, piece.start.min(limit)),
            None => (None, limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(n: usize) -> Place {
        Place { segment: 1, pos: u32::try_from(n * 8).unwrap() }
    }

    proptest! {
        #[test]
        fn the_newest_piece_wins_everywhere(
            runs in proptest::collection::vec((0u64..200, 1u64..60, 0u8..3), 0..60),
            split in 0usize..60,
        ) {
            let mut model = vec![None; 300];
            let mut first = Vec::new();
            let mut late = Vec::new();
            for (n, (start, len, sort)) in runs.iter().enumerate() {
                let content = [Content::Data, Content::Trim, Content::Zero][usize::from(*sort)];
                let piece = Piece::new(*start, start + len, place(n), content);
                model[usize::try_from(*start).unwrap()..usize::try_from(start + len).unwrap()].fill(Some(n));
                if n < split { first.push(piece) } else { late.push(piece) }
            }
            first.reverse();
            let mut view = View::build(first);
            for piece in late {
                view.insert(piece);
            }
            let mut offset = 0;
            while offset < 300 {
                let (piece, end) = view.at(offset);
                prop_assert!(end > offset);
                for byte in offset..end.min(300) {
                    let want = model[usize::try_from(byte).unwrap()].map(place);
                    prop_assert_eq!(piece.map(|piece| piece.place()), want, "byte {}", byte);
                }
                offset = end.min(300);
            }
        }
    }
}
