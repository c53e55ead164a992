//! How the database's bytes reach the disk, and what is known after an error.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// The first error of a file's writing side, and what it says about the commit that met it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The file could not grow or take a page. What was synced before is intact: it may be opened again.
    NoSpace(String),
    /// Anything else. After a failed sync nobody can say what of the page cache is on the disk, and a second sync
    /// that succeeds proves nothing: this process must not write the file again.
    Broken(String),
}

/// Where a [`Tracked`] file leaves its first [`Fault`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    first: Arc<Mutex<Option<Fault>>>,
    /// What the disk does not want to do any longer.
    #[cfg(test)]
    pub(crate) injected: Arc<Mutex<Option<(&'static str, io::ErrorKind)>>>,
}

impl Faults {
    /// The first fault, if there was one.
    pub(crate) fn first(&self) -> Option<Fault> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn attempt<T>(&self, doing: &str, what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let result = self.injected(doing).and_then(|()| what());
        if let Err(error) = &result {
            let text = format!("{doing}: {error}");
            let space = is_no_space(error) && doing != SYNCING;
            let fault = if space { Fault::NoSpace(text) } else { Fault::Broken(text) };
            self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
        }
        result
    }

    #[cfg(test)]
    fn injected(&self, doing: &str) -> io::Result<()> {
        match *self.injected.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((refused, kind)) if refused == doing => Err(kind.into()),
            _ => Ok(()),
        }
    }

    #[cfg(not(test))]
    fn injected(&self, _doing: &str) -> io::Result<()> {
        Ok(())
    }
}

const GROWING: &str = "growing";
pub(crate) const WRITING: &str = "writing";
pub(crate) const SYNCING: &str = "syncing";

fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// A file whose faults are remembered.
#[derive(Debug)]
pub(crate) struct Tracked<F> {
    file: F,
    faults: Faults,
}

impl<F> Tracked<F> {
    pub(crate) fn new(file: F, faults: Faults) -> Self {
        Self { file, faults }
    }
}

impl<F: StorageBackend> StorageBackend for Tracked<F> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.faults.attempt(GROWING, || self.file.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.faults.attempt(SYNCING, || self.file.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.faults.attempt(WRITING, || self.file.write(offset, data))
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

/// Bytes in a page of [`Rehearsal`]'s memory.
const PAGE: u64 = 4096;

/// A file that is read and locked but never written: what redb writes (repairs, flags) stays in memory.
///
/// With it a database is opened, repaired and verified without a trace; then it can be opened in earnest, or refused.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    file: FileBackend,
    access: Access,
    memory: Mutex<Memory>,
}

/// Who else may have a rehearsed file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody.
    Alone,
    /// Others that only read; the file may be opened for reading only.
    Shared,
}

#[derive(Debug)]
struct Memory {
    len: u64,
    /// Bytes of the file that still count; a file cut short and grown again reads as zeroes above.
    below: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Rehearsal {
    pub(crate) fn new(file: FileBackend, access: Access) -> io::Result<Self> {
        let len = file.len()?;
        let memory = Mutex::new(Memory { len, below: len, pages: BTreeMap::new() });
        Ok(Self { file, access, memory })
    }

    fn page(&self, memory: &Memory, index: u64) -> io::Result<Box<[u8]>> {
        if let Some(page) = memory.pages.get(&index) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE as usize].into_boxed_slice();
        let start = index * PAGE;
        let there = memory.below.saturating_sub(start).min(PAGE) as usize;
        if there > 0 {
            self.file.read(start, &mut page[..there])?;
        }
        Ok(page)
    }
}

/// Cuts `[offset, offset + len)` at page borders: page, start in the page, start in the buffer, length.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % PAGE) as usize;
        let piece = (PAGE as usize - within).min(len - done);
        let start = done;
        done += piece;
        Some((at / PAGE, within, start, piece))
    })
}

impl StorageBackend for Rehearsal {
    fn len(&self) -> io::Result<u64> {
        Ok(self.memory.lock().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > memory.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (index, within, start, len) in pieces(offset, out.len()) {
            let page = self.page(&memory, index)?;
            out[start..start + len].copy_from_slice(&page[within..within + len]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if len < memory.len {
            memory.below = memory.below.min(len);
            memory.pages.split_off(&len.div_ceil(PAGE));
            if let Some(page) = memory.pages.get_mut(&(len / PAGE)) {
                page[(len % PAGE) as usize..].fill(0);
            }
        }
        memory.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, within, start, len) in pieces(offset, data.len()) {
            let mut page = self.page(&memory, index)?;
            page[within..within + len].copy_from_slice(&data[start..start + len]);
            memory.pages.insert(index, page);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        match self.access {
            Access::Alone => self.file.try_lock_range(start, end),
            Access::Shared => self.file.try_lock_shared_range(start, end),
        }
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
