//! Which blocks of a machine's disks differ from the target: bitmaps, and the file that keeps one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::record::{BLOCK, Range};

/// One bit for each block of [`BLOCK`] bytes of each disk: 2 MiB for a disk of 64 GiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockMap {
    disks: Vec<Bits>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Bits {
    size: u64,
    words: Vec<u64>,
    set: u64,
}

impl Bits {
    fn new(size: u64) -> Self {
        let words = size.div_ceil(BLOCK).div_ceil(64);
        Self { size, words: vec![0; usize::try_from(words).expect("bitmaps fit the memory")], set: 0 }
    }

    fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    /// Sets or clears the blocks `[first, end)`, a word at a time.
    fn change(&mut self, first: u64, end: u64, to: bool) {
        let end = end.min(self.blocks());
        let mut block = first;
        while block < end {
            let bit = block % 64;
            let count = (64 - bit).min(end - block);
            let mask = (u64::MAX >> (64 - count)) << bit;
            let word = &mut self.words[(block / 64) as usize];
            if to {
                self.set += u64::from((mask & !*word).count_ones());
                *word |= mask;
            } else {
                self.set -= u64::from((mask & *word).count_ones());
                *word &= !mask;
            }
            block += count;
        }
    }

    /// The first block at or after `from` whose bit is `wanted`.
    fn find(&self, from: u64, wanted: bool) -> Option<u64> {
        let mut block = from;
        while block < self.blocks() {
            let word = self.words[(block / 64) as usize];
            let word = (if wanted { word } else { !word }) >> (block % 64);
            if word != 0 {
                let found = block + u64::from(word.trailing_zeros());
                return (found < self.blocks()).then_some(found);
            }
            block = (block / 64 + 1) * 64;
        }
        None
    }

    /// The first run of set blocks at or after `from`, as `[first, end)`.
    fn run(&self, from: u64) -> Option<(u64, u64)> {
        let first = self.find(from, true)?;
        Some((first, self.find(first, false).unwrap_or_else(|| self.blocks())))
    }
}

impl BlockMap {
    pub(super) fn new(sizes: &[u64]) -> Self {
        Self { disks: sizes.iter().map(|size| Bits::new(*size)).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.disks.iter().all(|bits| bits.set == 0)
    }

    /// How many bytes the marked blocks have (a short last block counts in full).
    pub(super) fn bytes(&self) -> u64 {
        self.disks.iter().map(|bits| bits.set * BLOCK).sum()
    }

    /// Marks every block that the range touches. Ranges outside the disks are cut.
    pub(super) fn mark(&mut self, range: Range) {
        self.change(range, true);
    }

    /// Clears every block that the range touches.
    pub(super) fn clear_range(&mut self, range: Range) {
        self.change(range, false);
    }

    fn change(&mut self, range: Range, to: bool) {
        if let Some(bits) = self.disks.get_mut(usize::from(range.disk))
            && range.len > 0
        {
            let end = range.offset.saturating_add(range.len);
            bits.change(range.offset / BLOCK, end.div_ceil(BLOCK), to);
        }
    }

    pub(super) fn mark_all(&mut self) {
        for bits in &mut self.disks {
            bits.change(0, bits.blocks(), true);
        }
    }

    pub(super) fn clear(&mut self) {
        for bits in &mut self.disks {
            bits.words.fill(0);
            bits.set = 0;
        }
    }

    /// Adds all of `other`, which has the same shape.
    pub(super) fn union(&mut self, other: &Self) {
        for (mine, theirs) in self.disks.iter_mut().zip(&other.disks) {
            if theirs.set == 0 {
                continue;
            }
            mine.set = 0;
            for (word, more) in mine.words.iter_mut().zip(&theirs.words) {
                *word |= more;
                mine.set += u64::from(word.count_ones());
            }
        }
    }

    /// The first marked run at or after byte `offset` of `disk`, going on to later disks.
    pub(super) fn next_run(&self, disk: u16, offset: u64) -> Option<Range> {
        let mut from = offset / BLOCK;
        for (index, bits) in self.disks.iter().enumerate().skip(usize::from(disk)) {
            if bits.set > 0
                && let Some((first, end)) = bits.run(from)
            {
                let start = first * BLOCK;
                let len = (end * BLOCK).min(bits.size) - start;
                return Some(Range { disk: u16::try_from(index).ok()?, offset: start, len });
            }
            from = 0;
        }
        None
    }

    /// All marked runs.
    pub(super) fn runs(&self) -> Vec<Range> {
        let mut runs = Vec::new();
        let (mut disk, mut offset) = (0, 0);
        while let Some(run) = self.next_run(disk, offset) {
            (disk, offset) = (run.disk, run.offset + run.len.next_multiple_of(BLOCK));
            runs.push(run);
        }
        runs
    }

    /// Describes `[offset, offset + len)` of one disk as runs of equal sort, at most `max`.
    pub(super) fn describe(&self, disk: u16, offset: u64, len: u64, max: usize) -> Vec<(u64, bool)> {
        let Some(bits) = self.disks.get(usize::from(disk)) else { return Vec::new() };
        let end = offset.saturating_add(len).min(bits.size);
        let (mut at, mut runs) = (offset, Vec::new());
        while at < end && runs.len() < max {
            let block = at / BLOCK;
            let marked = bits.find(block, true) == Some(block);
            let next = bits.find(block, !marked).map_or(end, |next| (next * BLOCK).min(end));
            runs.push((next - at, marked));
            at = next;
        }
        runs
    }

    fn to_bytes(&self, out: &mut Vec<u8>) {
        for bits in &self.disks {
            out.extend_from_slice(&bits.size.to_le_bytes());
            bits.words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        }
    }

    fn from_bytes(sizes: &[u64], mut bytes: &[u8]) -> Option<Self> {
        let mut map = Self::new(sizes);
        let mut next = || -> Option<u64> {
            let (word, rest) = bytes.split_first_chunk::<8>()?;
            bytes = rest;
            Some(u64::from_le_bytes(*word))
        };
        for bits in &mut map.disks {
            if next()? != bits.size {
                return None;
            }
            for word in &mut bits.words {
                *word = next()?;
                bits.set += u64::from(word.count_ones());
            }
            // Bits past the end of the disk would be found as blocks that do not exist.
            let extra = bits.words.len() as u64 * 64 - bits.blocks();
            if extra > 0 && bits.words.last().is_some_and(|word| word >> (64 - extra) != 0) {
                return None;
            }
        }
        bytes.is_empty().then_some(map)
    }
}

/// First bytes of the map's file: `FSMAP`, version 1.
const MAGIC: &[u8; 8] = b"FSMAP\0\0\x01";

/// Replaces the file by `note` (what the map belongs to) and the map, durably, or leaves it as it was.
pub(super) fn save(path: &Path, note: &[u8], map: &BlockMap) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    let len = u32::try_from(note.len()).map_err(io::Error::other)?;
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(note);
    map.to_bytes(&mut bytes);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    replace(path, &bytes)
}

/// Writes a file so that a crash leaves the old or the new content.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&fresh, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Reads what [`save`] wrote; `None` in the result when the content is damaged or of another shape.
pub(super) fn load(path: &Path, sizes: &[u64]) -> io::Result<Option<(Vec<u8>, BlockMap)>> {
    let bytes = fs::read(path)?;
    Ok(parse(&bytes, sizes))
}

fn parse(bytes: &[u8], sizes: &[u64]) -> Option<(Vec<u8>, BlockMap)> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (note, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((note.to_vec(), BlockMap::from_bytes(sizes, rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZES: [u64; 3] = [BLOCK * 130 + 7, 0, BLOCK * 64];

    fn naive(ranges: &[(Range, bool)]) -> Vec<Vec<bool>> {
        let mut disks: Vec<Vec<bool>> =
            SIZES.iter().map(|size| vec![false; size.div_ceil(BLOCK) as usize]).collect();
        for (range, to) in ranges {
            let Some(disk) = disks.get_mut(range.disk as usize) else { continue };
            for (index, bit) in disk.iter_mut().enumerate() {
                let start = index as u64 * BLOCK;
                if range.len > 0 && start < range.offset + range.len && range.offset < start + BLOCK {
                    *bit = *to;
                }
            }
        }
        disks
    }

    proptest! {
        #[test]
        fn a_map_is_a_set_of_blocks(
            changes in prop::collection::vec((0u16..4, 0..BLOCK * 140, 0..BLOCK * 70, any::<bool>()), 0..30)
        ) {
            let changes: Vec<_> = changes.into_iter()
                .map(|(disk, offset, len, to)| (Range { disk, offset, len }, to)).collect();
            let mut map = BlockMap::new(&SIZES);
            for (range, to) in &changes {
                if *to { map.mark(*range) } else { map.clear_range(*range) }
            }
            let expected = naive(&changes);
            let count: usize = expected.iter().flatten().filter(|bit| **bit).count();
            prop_assert_eq!(map.bytes(), count as u64 * BLOCK);
            prop_assert_eq!(map.is_empty(), count == 0);
            let mut rebuilt = BlockMap::new(&SIZES);
            map.runs().into_iter().for_each(|run| rebuilt.mark(run));
            prop_assert_eq!(&rebuilt, &map);
            for (disk, bits) in expected.iter().enumerate() {
                let mut at = 0;
                for (len, marked) in map.describe(disk as u16, 0, u64::MAX, usize::MAX) {
                    prop_assert_eq!(bits[(at / BLOCK) as usize], marked);
                    at += len;
                }
                prop_assert_eq!(at, SIZES[disk]);
            }
        }
    }

    #[test]
    fn a_saved_map_comes_back_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let mut map = BlockMap::new(&SIZES);
        map.mark(Range { disk: 0, offset: BLOCK * 129, len: BLOCK + 7 });
        save(&path, b"note", &map).unwrap();
        assert_eq!(load(&path, &SIZES).unwrap(), Some((b"note".to_vec(), map)));
        assert_eq!(load(&path, &SIZES[..2]).unwrap(), None);
        let mut bytes = fs::read(&path).unwrap();
        bytes[40] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(load(&path, &SIZES).unwrap(), None);
    }
}
