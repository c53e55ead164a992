//! One bit per block, kept through SIGKILL at every change and through power loss at every flush.
//!
//! Two files. `NAME.map` is written only after the data that its bits speak of was made durable. `NAME.hot` is written
//! with each change, together with the boot of the kernel: a killed process finds all its bits there, in the same page
//! cache as its data; after a power loss it counts for nothing, because its pages may have reached the disk before the
//! data did. After a failed flush it is emptied for the same reason: the kernel may forget what it could not write.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::shelf::read_up_to;

/// Where the bits start in the hot file, after the boot's name.
const HOT_BITS_AT: u64 = 4096;

/// A persistent bitmap over the blocks of one disk.
#[derive(Debug)]
pub(super) struct BlockMap {
    /// Bytes per block.
    block: u64,
    /// Bytes in the disk.
    size: u64,
    words: Vec<AtomicU64>,
    /// `None`: a drill's, which is forgotten with its process.
    files: Option<Files>,
    changes: Mutex<Changes>,
    /// One flush at a time: an older one must not overwrite the words of a newer one.
    flushing: Mutex<()>,
}

#[derive(Debug)]
struct Files {
    durable: File,
    hot: File,
}

#[derive(Debug, Default)]
struct Changes {
    unflushed: BTreeSet<usize>,
    failed: bool,
}

impl BlockMap {
    /// A map that lives in memory only.
    pub(super) fn in_memory(size: u64, block: u64) -> Self {
        let words = size.div_ceil(block).div_ceil(64);
        let words = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { block, size, words, files: None, changes: Mutex::default(), flushing: Mutex::default() }
    }

    /// Opens or makes the map `path`.map with `path`.hot.
    pub(super) fn open(path: &Path, size: u64, block: u64) -> io::Result<Self> {
        let mut map = Self::in_memory(size, block);
        let durable = open_file(&path.with_extension("map"))?;
        let hot = open_file(&path.with_extension("hot"))?;
        map.load(&durable, 0)?;
        let boot = boot_name();
        let mut told = vec![0; boot.len()];
        let same_boot = !boot.is_empty() && read_up_to(&hot, &mut told, 0)? == boot.len() && told == boot;
        if same_boot {
            let changed = map.load(&hot, HOT_BITS_AT)?;
            map.changes.get_mut().unwrap_or_else(PoisonError::into_inner).unflushed = changed;
        } else {
            hot.set_len(0)?;
            hot.write_all_at(&boot, 0)?;
        }
        map.files = Some(Files { durable, hot });
        Ok(map)
    }

    /// Adds the bits of a file; returns the words that changed.
    fn load(&mut self, file: &File, at: u64) -> io::Result<BTreeSet<usize>> {
        let mut changed = BTreeSet::new();
        let mut bytes = vec![0; 1 << 20];
        let mut first = 0;
        while first < self.words.len() {
            let have = read_up_to(file, &mut bytes, at + first as u64 * 8)?;
            for (i, word) in bytes[..have].as_chunks().0.iter().enumerate() {
                let bits = u64::from_le_bytes(*word);
                let Some(word) = self.words.get(first + i) else { break };
                if word.fetch_or(bits, Ordering::Relaxed) & bits != bits {
                    changed.insert(first + i);
                }
            }
            if have < bytes.len() {
                break;
            }
            first += have / 8;
        }
        Ok(changed)
    }

    /// Whether the block that holds `offset` is set, and the byte up to which all following blocks are alike; looks no
    /// further than `limit`.
    pub(super) fn run(&self, offset: u64, limit: u64) -> (bool, u64) {
        let mut number = offset / self.block;
        let blocks = limit.min(self.size).div_ceil(self.block);
        let flip = if self.is_set(number) { u64::MAX } else { 0 };
        while number < blocks {
            let word = self.word(number) ^ flip;
            let rest = word >> (number % 64);
            if rest != 0 {
                number += u64::from(rest.trailing_zeros());
                break;
            }
            number = (number / 64 + 1) * 64;
        }
        (flip != 0, (number.min(blocks) * self.block).min(self.size))
    }

    fn is_set(&self, number: u64) -> bool {
        self.word(number) >> (number % 64) & 1 == 1
    }

    fn word(&self, number: u64) -> u64 {
        self.words[index(number / 64)].load(Ordering::Acquire)
    }

    /// Sets the bits of all blocks that `[start, end)` touches. On return a killed process will find them again; call
    /// it after the data was written.
    pub(super) fn set(&self, start: u64, end: u64) -> io::Result<()> {
        let (first, last) = (start / self.block, (end - 1) / self.block);
        let words = index(first / 64)..=index(last / 64);
        let mask = |word: usize| {
            let low = if word == *words.start() { u64::MAX << (first % 64) } else { u64::MAX };
            let high = if word == *words.end() { u64::MAX >> (63 - last % 64) } else { u64::MAX };
            low & high
        };
        let missing = |word: usize| self.words[word].load(Ordering::Acquire) & mask(word) != mask(word);
        if !words.clone().any(missing) {
            return Ok(());
        }
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &self.files {
            let bytes: Vec<u8> = words
                .clone()
                .flat_map(|word| (self.words[word].load(Ordering::Acquire) | mask(word)).to_le_bytes())
                .collect();
            files.hot.write_all_at(&bytes, HOT_BITS_AT + *words.start() as u64 * 8)?;
            changes.unflushed.extend(words.clone().filter(|word| missing(*word)));
        }
        for word in words.clone() {
            self.words[word].fetch_or(mask(word), Ordering::AcqRel);
        }
        Ok(())
    }

    /// Whether all flushes so far went well. After one that did not, nothing is known of what it should have kept.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.changes.lock().unwrap_or_else(PoisonError::into_inner).failed {
            return Err(io::Error::other("an earlier flush failed: what is on the disk is unknown"));
        }
        Ok(())
    }

    /// Makes everything durable: what `sync_data` syncs, then the bits that were set before this call.
    pub(super) fn flush(&self, sync_data: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        let words: Vec<(usize, u64)> = {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let words = std::mem::take(&mut changes.unflushed);
            words.into_iter().map(|word| (word, self.words[word].load(Ordering::Acquire))).collect()
        };
        let done = sync_data().and_then(|()| self.write_durable(&words));
        if done.is_err() {
            self.changes.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
            // The kernel may now drop the data from its cache: a restarted process must not believe bits that speak of it.
            // If even this fails, the disk of the map is broken too.
            if let Some(files) = &self.files {
                files.hot.set_len(0)?;
            }
        }
        done
    }

    fn write_durable(&self, words: &[(usize, u64)]) -> io::Result<()> {
        let Some(files) = self.files.as_ref().filter(|_| !words.is_empty()) else { return Ok(()) };
        for run in words.chunk_by(|a, b| a.0 + 1 == b.0) {
            let bytes: Vec<u8> = run.iter().flat_map(|(_, bits)| bits.to_le_bytes()).collect();
            files.durable.write_all_at(&bytes, run[0].0 as u64 * 8)?;
        }
        files.durable.sync_data()
    }
}

fn index(word: u64) -> usize {
    usize::try_from(word).expect("a map fits in memory")
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// The kernel's name for the time since it was started; empty when it does not tell.
fn boot_name() -> Vec<u8> {
    fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_what_was_set(sets in proptest::collection::vec((0u64..70_000, 1u64..9_000), 0..12)) {
            let size = 70_001;
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk-0");
            let map = BlockMap::open(&path, size, 100).unwrap();
            let mut model = vec![false; 701];
            for (start, len) in &sets {
                let end = (start + len).min(size);
                map.set(*start, end).unwrap();
                for block in start / 100..=(end - 1) / 100 {
                    model[usize::try_from(block).unwrap()] = true;
                }
            }
            drop(map);
            let map = BlockMap::open(&path, size, 100).unwrap();
            let mut offset = 0;
            while offset < size {
                let (set, end) = map.run(offset, size);
                prop_assert!(end > offset);
                for block in offset / 100..end.div_ceil(100) {
                    prop_assert_eq!(model[usize::try_from(block).unwrap()], set, "block {}", block);
                }
                offset = end;
            }
        }
    }

    #[test]
    fn another_boot_sees_only_what_was_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk-0");
        let map = BlockMap::open(&path, 1 << 20, 4096).unwrap();
        map.set(0, 4096).unwrap();
        map.flush(|| Ok(())).unwrap();
        map.set(8192, 12288).unwrap();
        drop(map);
        fs::write(path.with_extension("hot"), b"an earlier boot").unwrap();
        let map = BlockMap::open(&path, 1 << 20, 4096).unwrap();
        assert_eq!(map.run(0, 1 << 20), (true, 4096));
        assert_eq!(map.run(4096, 1 << 20), (false, 1 << 20));
    }
}
