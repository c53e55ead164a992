//! Power loss: which coarse extents of the disks may hold writes that the log forgot.
//!
//! A power cut may take the tail of the log and writes that were never flushed. Before the first write into a cold
//! extent its bit is made durable; after a power cut everything in hot extents counts as different.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use super::map::{self, BlockMap};
use crate::record::{BLOCK, Range};

/// Size of an extent. Large enough that a busy guest heats few, small enough that a crash of the machine costs little.
const EXTENT: u64 = 16 << 20;

/// The hot extents. Extents are kept as blocks of a map that is as many times smaller than the disk.
#[derive(Debug)]
pub(super) struct Extents {
    path: PathBuf,
    /// Durable in the file.
    hot: RwLock<BlockMap>,
    /// Wanted by writers that wait for the one who holds `file`.
    wanted: Mutex<BTreeSet<(u16, u64)>>,
    file: Mutex<()>,
}

fn scaled(sizes: &[u64]) -> Vec<u64> {
    sizes.iter().map(|size| size.div_ceil(EXTENT) * BLOCK).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn extent(disk: u16, index: u64) -> Range {
    Range { disk, offset: index * BLOCK, len: BLOCK }
}

impl Extents {
    pub(super) fn new(path: PathBuf, sizes: &[u64]) -> Self {
        let hot = RwLock::new(BlockMap::new(&scaled(sizes)));
        Self { path, hot, wanted: Mutex::default(), file: Mutex::default() }
    }

    /// Reads the file. A missing or damaged one counts as all hot when `trusted` says that one should be there.
    pub(super) fn open(path: PathBuf, sizes: &[u64], expected: bool) -> io::Result<Self> {
        let extents = Self::new(path, sizes);
        let loaded = match map::load(&extents.path, &scaled(sizes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => other?.map(|(_, map)| map),
        };
        {
            let mut hot = extents.hot.write().unwrap_or_else(PoisonError::into_inner);
            match loaded {
                Some(map) => *hot = map,
                None if expected => hot.mark_all(),
                None => {}
            }
        }
        Ok(extents)
    }

    fn is_hot(&self, disk: u16, first: u64, end: u64) -> bool {
        let hot = self.hot.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = (end - first) * BLOCK;
        hot.describe(disk, first * BLOCK, bytes, 1).first() == Some(&(bytes, true))
    }

    /// Returns once every extent of the range is durably hot. One writer syncs for all that wait.
    pub(super) fn heat(&self, range: Range) -> io::Result<()> {
        let (first, end) = (range.offset / EXTENT, (range.offset + range.len).div_ceil(EXTENT));
        if self.is_hot(range.disk, first, end) {
            return Ok(());
        }
        lock(&self.wanted).extend((first..end).map(|index| (range.disk, index)));
        let _file = lock(&self.file);
        if self.is_hot(range.disk, first, end) {
            return Ok(());
        }
        let mut wanted = std::mem::take(&mut *lock(&self.wanted));
        // Cooling may have come between.
        wanted.extend((first..end).map(|index| (range.disk, index)));
        let mut next = self.hot.read().unwrap_or_else(PoisonError::into_inner).clone();
        wanted.into_iter().for_each(|(disk, index)| next.mark(extent(disk, index)));
        self.publish(next)
    }

    fn publish(&self, next: BlockMap) -> io::Result<()> {
        map::save(&self.path, b"", &next)?;
        *self.hot.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Makes all extents cold if `quiet` still says that nothing differs after the extents were closed to writers.
    /// `settle` must make the disks durable.
    pub(super) fn cool(
        &self,
        quiet: impl Fn() -> bool,
        settle: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let _file = lock(&self.file);
        let before = {
            let mut hot = self.hot.write().unwrap_or_else(PoisonError::into_inner);
            if hot.is_empty() {
                return Ok(());
            }
            let before = hot.clone();
            // From here on every new write waits in `heat` for the file.
            hot.clear();
            before
        };
        let result = if quiet() {
            settle().and_then(|()| {
                let mut empty = before.clone();
                empty.clear();
                self.publish(empty).map(|()| true)
            })
        } else {
            Ok(false)
        };
        if !matches!(result, Ok(true)) {
            *self.hot.write().unwrap_or_else(PoisonError::into_inner) = before;
        }
        result.map(|_| ())
    }

    /// The hot extents as ranges of the disks.
    pub(super) fn ranges(&self) -> Vec<Range> {
        let runs = self.hot.read().unwrap_or_else(PoisonError::into_inner).runs();
        let scale = |value: u64| value / BLOCK * EXTENT;
        runs.into_iter()
            .map(|run| Range { disk: run.disk, offset: scale(run.offset), len: scale(run.len) })
            .collect()
    }

    /// Removes the file: nothing is tracked any more.
    pub(super) fn remove(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 2] = [100 << 20, 5];

    #[test]
    fn heat_is_durable_before_it_returns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("extents");
        let extents = Extents::new(path.clone(), &SIZES);
        extents.heat(Range { disk: 0, offset: EXTENT - 1, len: 2 }).unwrap();
        extents.heat(Range { disk: 1, offset: 0, len: 5 }).unwrap();
        let expected =
            [Range { disk: 0, offset: 0, len: 2 * EXTENT }, Range { disk: 1, offset: 0, len: EXTENT }];
        assert_eq!(Extents::open(path.clone(), &SIZES, true).unwrap().ranges(), expected);

        extents.cool(|| false, || Ok(())).unwrap();
        assert_eq!(extents.ranges(), expected);
        extents.cool(|| true, || Ok(())).unwrap();
        assert_eq!(Extents::open(path, &SIZES, true).unwrap().ranges(), []);
    }

    #[test]
    fn a_lost_file_counts_as_all_hot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("extents");
        assert_eq!(Extents::open(path.clone(), &SIZES, true).unwrap().ranges().len(), 2);
        assert_eq!(Extents::open(path, &SIZES, false).unwrap().ranges(), []);
    }
}
