//! The write-order oracle: can what these disks hold have come about by the writes that they were given?
//!
//! Every block that is written carries its number in the order of all writes to all disks, its place, and a checksum. So
//! the blocks themselves say which writes are there, and [`Oracle::prefix`] says whether they are *exactly* the first n writes:
//! the promise of every recovery point. A raw disk after a power cut promises less: [`Oracle::nothing_flushed_is_lost`].

use std::fmt;

/// Bytes of a stamped block.
pub const BLOCK: usize = 4096;

const MAGIC: [u8; 8] = *b"farshore";
const HEADER: usize = 32;

/// What a block says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Never written: all zeroes.
    Nothing,
    /// The write with this number, whole.
    Write(u64),
    /// Neither: torn, flipped, or from another place.
    Damaged,
}

/// Every write that was asked for, in order.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    /// Disk and block of write number `index + 1`.
    writes: Vec<(u16, u64)>,
    /// How many of them were flushed.
    flushed: u64,
}

/// What cannot have come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which disk.
    pub disk: u16,
    /// Which block.
    pub block: u64,
    /// What the block holds.
    pub held: Held,
    /// What it should hold, or hold at least.
    pub expected: Held,
    /// After how many writes.
    pub after: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disk, block, held, expected, after } = self;
        write!(f, "disk {disk}, block {block} holds {held:?}, but after write {after} it is {expected:?}")
    }
}

impl std::error::Error for Violation {}

/// The content of the block that write `number` puts at this place.
#[must_use]
pub fn stamped(number: u64, disk: u16, block: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes[16..24].copy_from_slice(&block.to_le_bytes());
    bytes[24..26].copy_from_slice(&disk.to_le_bytes());
    // The rest differs from write to write, so that a torn block shows.
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes[HEADER..].chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    bytes
}

/// Reads a block's stamp and checks all of it. A short block (the last of a disk) is held against the part that fits.
#[must_use]
pub fn held(bytes: &[u8], disk: u16, block: u64) -> Held {
    if bytes.iter().all(|byte| *byte == 0) {
        return Held::Nothing;
    }
    let Some(number) = bytes.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    else {
        return Held::Damaged;
    };
    if stamped(number, disk, block).starts_with(bytes) { Held::Write(number) } else { Held::Damaged }
}

impl Oracle {
    /// Nothing written yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many writes there were.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.writes.len() as u64
    }

    /// The content of the next write, to this block of this disk.
    pub fn write(&mut self, disk: u16, block: u64) -> Vec<u8> {
        self.writes.push((disk, block));
        stamped(self.written(), disk, block)
    }

    /// Takes back the last write: it was refused and has changed nothing.
    pub fn refused(&mut self) {
        self.writes.pop();
    }

    /// Everything written so far was flushed, and the flush was acknowledged.
    pub fn flush(&mut self) {
        self.flushed = self.written();
    }

    /// The number of the newest write to each block, among the first `after`.
    fn expected(&self, disk: u16, block: u64, after: u64) -> Held {
        let among = usize::try_from(after).map_or(self.writes.len(), |after| after.min(self.writes.len()));
        match self.writes[..among].iter().rposition(|place| *place == (disk, block)) {
            Some(index) => Held::Write(index as u64 + 1),
            None => Held::Nothing,
        }
    }

    fn blocks<'a>(images: &'a [Vec<u8>]) -> impl Iterator<Item = (u16, u64, Held)> + 'a {
        images.iter().zip(0u16..).flat_map(|(image, disk)| {
            image.chunks(BLOCK).zip(0u64..).map(move |(bytes, block)| (disk, block, held(bytes, disk, block)))
        })
    }

    /// The number n for which the images are exactly the first n writes, all disks together.
    ///
    /// # Errors
    /// The first block that does not fit any n.
    pub fn prefix(&self, images: &[Vec<u8>]) -> Result<u64, Violation> {
        // The newest write that shows is the last one there was: nothing later can have hidden it.
        let after = Self::blocks(images)
            .filter_map(|(_, _, held)| if let Held::Write(number) = held { Some(number) } else { None })
            .max()
            .unwrap_or(0);
        for (disk, block, held) in Self::blocks(images) {
            let expected = self.expected(disk, block, after);
            if held != expected {
                return Err(Violation { disk, block, held, expected, after });
            }
        }
        Ok(after)
    }

    /// Whether a raw disk after a power cut keeps what a flush has promised: each block holds its newest flushed write or a
    /// later one of its own; only a block with later writes may be damaged.
    ///
    /// # Errors
    /// The first block that breaks the promise.
    pub fn nothing_flushed_is_lost(&self, images: &[Vec<u8>]) -> Result<(), Violation> {
        for (disk, block, held) in Self::blocks(images) {
            let expected = self.expected(disk, block, self.flushed);
            let newest = self.expected(disk, block, self.written());
            let fits = match held {
                _ if held == expected => true,
                Held::Write(number) => {
                    number > self.flushed
                        && usize::try_from(number - 1)
                            .is_ok_and(|index| self.writes.get(index) == Some(&(disk, block)))
                }
                Held::Damaged => newest != expected,
                Held::Nothing => false,
            };
            if !fits {
                return Err(Violation { disk, block, held, expected, after: self.flushed });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Chance, for_seeds};

    /// Two disks, the second with a short last block.
    fn empty() -> Vec<Vec<u8>> {
        vec![vec![0; 5 * BLOCK], vec![0; 3 * BLOCK + 700]]
    }

    fn put(images: &mut [Vec<u8>], disk: u16, block: u64, bytes: &[u8]) {
        let image = &mut images[usize::from(disk)];
        let start = usize::try_from(block).unwrap() * BLOCK;
        let end = image.len().min(start + BLOCK);
        image[start..end].copy_from_slice(&bytes[..end - start]);
    }

    /// A history of `count` writes: the oracle, and the images after each.
    fn history(seed: u64, count: u64) -> (Oracle, Vec<Vec<Vec<u8>>>) {
        let (mut chance, mut oracle, mut images) = (Chance::new(seed), Oracle::new(), empty());
        let mut states = vec![images.clone()];
        for _ in 0..count {
            let disk = u16::try_from(chance.below(2)).unwrap();
            let block = chance.below(4);
            let bytes = oracle.write(disk, block);
            put(&mut images, disk, block, &bytes);
            states.push(images.clone());
        }
        (oracle, states)
    }

    #[test]
    fn every_state_that_there_was_is_a_prefix_of_its_own_length() {
        for_seeds(20, |seed| {
            let (oracle, states) = history(seed, 60);
            for (after, images) in (0u64..).zip(&states) {
                assert_eq!(oracle.prefix(images), Ok(after));
            }
        });
    }

    #[test]
    fn a_missing_a_flipped_and_a_misplaced_block_are_found() {
        for_seeds(20, |seed| {
            let (oracle, states) = history(seed, 60);
            let last = states.last().unwrap();
            let (mut old, mut flipped, mut moved) = (last.clone(), last.clone(), last.clone());
            let Held::Write(number) = held(&last[0][..BLOCK], 0, 0) else { return };
            if number != 60 {
                old[0][..BLOCK].copy_from_slice(&states[usize::try_from(number).unwrap() - 1][0][..BLOCK]);
                assert!(oracle.prefix(&old).is_err(), "write {number} is missing");
            }
            flipped[0][100] ^= 4;
            assert_eq!(oracle.prefix(&flipped).unwrap_err().held, Held::Damaged);
            moved[0].copy_within(..BLOCK, 4 * BLOCK);
            assert_eq!(oracle.prefix(&moved).unwrap_err().held, Held::Damaged);
        });
    }

    #[test]
    fn one_disk_ahead_of_the_other_is_no_prefix() {
        let mut oracle = Oracle::new();
        let mut images = empty();
        let (first, second) = (oracle.write(0, 0), oracle.write(1, 0));
        put(&mut images, 1, 0, &second);
        let violation = oracle.prefix(&images).unwrap_err();
        assert_eq!(violation.to_string(), "disk 0, block 0 holds Nothing, but after write 2 it is Write(1)");
        put(&mut images, 0, 0, &first);
        assert_eq!(oracle.prefix(&images), Ok(2));
    }

    #[test]
    fn a_power_cut_may_take_what_was_not_flushed_and_nothing_else() {
        let mut oracle = Oracle::new();
        let mut images = empty();
        let one = oracle.write(0, 0);
        put(&mut images, 0, 0, &one);
        oracle.flush();
        let (two, three) = (oracle.write(0, 0), oracle.write(0, 1));
        assert_eq!(oracle.nothing_flushed_is_lost(&images), Ok(()), "both later ones lost");
        let mut kept = images.clone();
        put(&mut kept, 0, 1, &three);
        assert_eq!(oracle.nothing_flushed_is_lost(&kept), Ok(()), "the later one kept, the earlier lost");
        kept[0][..512].copy_from_slice(&two[..512]);
        assert_eq!(oracle.nothing_flushed_is_lost(&kept), Ok(()), "torn");
        images[0][..BLOCK].fill(0);
        assert!(oracle.nothing_flushed_is_lost(&images).is_err(), "the flushed one lost");
        put(&mut images, 0, 0, &one);
        images[1][5] = 1;
        assert!(oracle.nothing_flushed_is_lost(&images).is_err(), "damage where nobody wrote");
    }
}
