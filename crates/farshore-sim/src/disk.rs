//! A disk in memory with the faults of real ones.
//!
//! - **Unsynced writes may be lost**: at [`SimDisk::lose_power`] every write since the last sync is kept, lost or torn at
//!   512 bytes, each by chance; so later writes may survive earlier ones.
//! - **A failed sync has lost something**: what was unsynced then is readable until the cache is dropped ([`SimDisk::evict`]) or
//!   the power goes, and never durable, however often sync succeeds afterwards (as Linux does it).
//! - **A failed write may have happened in part.**
//! - **Space runs out** in blocks that were never written; overwriting needs none.
//!
//! The death of a process loses nothing: keep the disk and open it again.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_machine::disk::{Disk, Extent, ExtentKind};

use crate::seed::Chance;

/// What a disk writes at once: a torn write ends at such a boundary.
pub const SECTOR: u64 = 512;
/// Space is given out in blocks of this size.
pub const BLOCK: u64 = 4096;

/// Operations that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// [`Disk::read_at`].
    Read,
    /// [`Disk::write_at`], [`Disk::trim`] and [`Disk::zero`].
    Write,
    /// [`Disk::sync`].
    Sync,
}

/// A simulated disk. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// As readers see it.
    now: Vec<u8>,
    /// As it is after the power has gone.
    durable: Vec<u8>,
    /// Written since the last sync, in order.
    unsynced: Vec<Written>,
    /// Blocks that take space.
    taken: BTreeSet<u64>,
    /// How many may be taken.
    space: Option<usize>,
    /// The operation that fails, after so many more of its sort.
    failures: Vec<(Op, u64)>,
    chance: Chance,
}

#[derive(Debug)]
struct Written {
    offset: usize,
    bytes: Vec<u8>,
    /// A sync failed over it: it will not be made durable any more.
    doomed: bool,
}

impl SimDisk {
    /// A disk full of zeroes, whose accidents follow from the seed.
    #[must_use]
    pub fn new(size: usize, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: vec![0; size],
            durable: vec![0; size],
            unsynced: Vec::new(),
            taken: BTreeSet::new(),
            space: None,
            failures: Vec::new(),
            chance: Chance::new(seed),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a reader sees.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.state().now.clone()
    }

    /// Makes one operation of this sort fail with an I/O error: the next one after `after` more.
    pub fn fail(&self, op: Op, after: u64) {
        self.state().failures.push((op, after));
    }

    /// Takes back all failures that have not come yet.
    pub fn mend(&self) {
        let mut state = self.state();
        state.failures.clear();
        state.space = None;
    }

    /// From now on no more than `blocks` blocks more can be taken.
    pub fn limit_space(&self, blocks: usize) {
        let mut state = self.state();
        state.space = Some(state.taken.len() + blocks);
    }

    /// The power goes and comes back: see the module.
    pub fn lose_power(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        for written in std::mem::take(&mut state.unsynced) {
            if !written.doomed {
                written.survive(&mut state.durable, &mut state.chance);
            }
        }
        state.now.clone_from(&state.durable);
    }

    /// The cache drops what it could not sync, without a power cut: readers see it no more. What is only unsynced stays.
    pub fn evict(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.unsynced.retain(|written| !written.doomed);
        state.now.clone_from(&state.durable);
        for written in &state.unsynced {
            state.now[written.offset..written.offset + written.bytes.len()].copy_from_slice(&written.bytes);
        }
    }

    /// One bit turns over, for readers and for ever.
    pub fn flip_bit(&self, offset: usize, bit: u8) {
        let mut state = self.state();
        let mask = 1 << (bit % 8);
        state.now[offset] ^= mask;
        state.durable[offset] ^= mask;
    }
}

impl Written {
    /// Puts on the disk what chance leaves of it: all, nothing, or some of its sectors.
    fn survive(&self, durable: &mut [u8], chance: &mut Chance) {
        let fate = chance.below(3);
        let sector = usize::try_from(SECTOR).expect("512");
        let mut at = self.offset;
        let end = self.offset + self.bytes.len();
        while at < end {
            let until = end.min((at / sector + 1) * sector);
            let kept = match fate {
                0 => true,
                1 => false,
                _ => chance.one_in(2),
            };
            if kept {
                durable[at..until].copy_from_slice(&self.bytes[at - self.offset..until - self.offset]);
            }
            at = until;
        }
    }
}

impl State {
    fn check(&mut self, op: Op) -> io::Result<()> {
        let mut failed = false;
        self.failures.retain_mut(|(failing, after)| {
            let hit = *failing == op && *after == 0;
            if *failing == op {
                *after = after.saturating_sub(1);
            }
            failed |= hit;
            !hit
        });
        if failed { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    fn range(&self, offset: u64, len: u64) -> io::Result<std::ops::Range<usize>> {
        let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok());
        match (usize::try_from(offset), end) {
            (Ok(start), Some(end)) if end <= self.now.len() => Ok(start..end),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "outside of the simulated disk")),
        }
    }

    /// Takes the blocks of the range. An error leaves those that there was room for.
    fn take_space(&mut self, offset: u64, len: u64) -> io::Result<()> {
        for block in offset / BLOCK..(offset + len).div_ceil(BLOCK) {
            let full = self.space.is_some_and(|space| self.taken.len() >= space);
            if full && !self.taken.contains(&block) {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            self.taken.insert(block);
        }
        Ok(())
    }

    fn put(&mut self, offset: usize, bytes: Vec<u8>) {
        self.now[offset..offset + bytes.len()].copy_from_slice(&bytes);
        self.unsynced.push(Written { offset, bytes, doomed: false });
    }

    fn change(&mut self, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        let range = self.range(offset, bytes.len() as u64)?;
        if let Err(error) = self.check(Op::Write) {
            // What an unlucky disk did before it gave up.
            let sectors = bytes.len() as u64 / SECTOR;
            let done = self.chance.below(sectors + 1) * SECTOR;
            let done = usize::try_from(done).expect("at most the length");
            self.put(range.start, bytes[..done].to_vec());
            return Err(error);
        }
        self.put(range.start, bytes);
        Ok(())
    }
}

/// `EIO` of Linux.
const EIO: i32 = 5;
/// `ENOSPC` of Linux.
const ENOSPC: i32 = 28;

impl Disk for SimDisk {
    fn size(&self) -> u64 {
        self.state().now.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let range = state.range(offset, buf.len() as u64)?;
        state.check(Op::Read)?;
        buf.copy_from_slice(&state.now[range]);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        state.range(offset, buf.len() as u64)?;
        state.take_space(offset, buf.len() as u64)?;
        state.change(offset, buf.to_vec())
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let zeroes = vec![0; state.range(offset, len)?.len()];
        state.change(offset, zeroes)?;
        // Whole blocks give their space back.
        for block in offset.div_ceil(BLOCK)..(offset + len) / BLOCK {
            state.taken.remove(&block);
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        if !no_hole {
            return self.trim(offset, len);
        }
        let mut state = self.state();
        let zeroes = vec![0; state.range(offset, len)?.len()];
        state.take_space(offset, len)?;
        state.change(offset, zeroes)
    }

    fn sync(&self) -> io::Result<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        if let Err(error) = state.check(Op::Sync) {
            state.unsynced.iter_mut().for_each(|written| written.doomed = true);
            return Err(error);
        }
        for written in &state.unsynced {
            if !written.doomed {
                let end = written.offset + written.bytes.len();
                state.durable[written.offset..end].copy_from_slice(&written.bytes);
            }
        }
        state.unsynced.retain(|written| written.doomed);
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        let state = self.state();
        state.range(offset, len)?;
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        while at < offset + len {
            let until = (offset + len).min((at / BLOCK + 1) * BLOCK);
            let kind = if state.taken.contains(&(at / BLOCK)) { ExtentKind::Data } else { ExtentKind::Hole };
            let count = extents.len();
            match extents.last_mut() {
                Some(last) if last.kind == kind => last.len += until - at,
                _ if count == max => break,
                _ => extents.push(Extent { len: until - at, kind }),
            }
            at = until;
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::for_seeds;

    const SIZE: usize = 64 * 1024 + 100;

    fn read(disk: &SimDisk, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        disk.read_at(&mut bytes, offset).unwrap();
        bytes
    }

    #[test]
    fn what_was_synced_survives_and_what_was_not_may_go_in_sectors() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let disk = SimDisk::new(SIZE, seed);
            disk.write_at(&[1; 9000], 100).unwrap();
            disk.sync().unwrap();
            disk.write_at(&[2; 4096], 512).unwrap();
            disk.lose_power();
            assert_eq!(read(&disk, 100, 412), [1; 412]);
            assert_eq!(read(&disk, 4608, 4492), [1; 4492]);
            let twos: Vec<bool> = read(&disk, 512, 4096)
                .chunks(512)
                .map(|sector| {
                    assert!(sector == [1; 512] || sector == [2; 512], "a sector is never torn itself");
                    sector[0] == 2
                })
                .collect();
            match twos.iter().filter(|two| **two).count() {
                0 => lost += 1,
                8 => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 20 && kept > 20 && torn > 20, "{lost} {kept} {torn}");
    }

    #[test]
    fn the_same_seed_has_the_same_accidents() {
        let run = |seed| {
            let disk = SimDisk::new(SIZE, seed);
            for n in 0..40u8 {
                disk.write_at(&vec![n; 3000], u64::from(n) * 1500).unwrap();
            }
            disk.lose_power();
            disk.bytes()
        };
        for_seeds(20, |seed| assert_eq!(run(seed), run(seed)));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_a_later_one() {
        let disk = SimDisk::new(SIZE, 1);
        disk.fail(Op::Sync, 0);
        disk.write_at(&[7; 512], 0).unwrap();
        assert_eq!(disk.sync().unwrap_err().raw_os_error(), Some(EIO));
        disk.sync().unwrap();
        assert_eq!(read(&disk, 0, 512), [7; 512], "still readable");
        disk.write_at(&[8; 512], 512).unwrap();
        disk.evict();
        assert_eq!(read(&disk, 0, 1024), [[0; 512], [8; 512]].concat());
        disk.lose_power();
        assert_eq!(read(&disk, 0, 512), [0; 512]);
    }

    #[test]
    fn the_chosen_operation_fails_once() {
        let disk = SimDisk::new(SIZE, 1);
        disk.fail(Op::Write, 1);
        disk.fail(Op::Read, 0);
        disk.write_at(&[1; 10], 0).unwrap();
        assert!(disk.write_at(&[2; 4096], 0).is_err());
        disk.write_at(&[3; 10], 0).unwrap();
        assert!(disk.read_at(&mut [0; 10], 0).is_err());
        assert_eq!(read(&disk, 0, 10), [3; 10]);
        disk.fail(Op::Sync, 0);
        disk.mend();
        disk.sync().unwrap();
    }

    #[test]
    fn a_full_disk_takes_only_what_it_has_room_for_until_space_is_given_back() {
        let disk = SimDisk::new(SIZE, 1);
        disk.write_at(&[1; 4096], 0).unwrap();
        disk.limit_space(1);
        disk.write_at(&[1; 4096], 4096).unwrap();
        let error = disk.write_at(&[1; 1], 8192).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.write_at(&[2; 8192], 0).unwrap();
        disk.trim(0, 4096).unwrap();
        disk.write_at(&[1; 1], 8192).unwrap();
        assert!(disk.zero(0, 4096, true).is_err());
        assert_eq!(disk.extents(0, 12_288, 9).unwrap().len(), 2);
    }

    #[test]
    fn out_of_range_changes_nothing() {
        let disk = SimDisk::new(SIZE, 1);
        for (offset, len) in [(SIZE as u64, 1), (u64::MAX, 2), (0, SIZE + 1)] {
            let error = disk.write_at(&vec![1; len], offset).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        assert!(disk.bytes().iter().all(|byte| *byte == 0));
    }
}
