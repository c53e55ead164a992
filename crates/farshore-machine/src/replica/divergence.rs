//! What an old source had that the new one never got, kept browsable while the disks underneath follow the new history.
//!
//! Nothing is copied up front. Every write to the base goes through [`Keeping`], which first saves the old content of the
//! region it touches, durably. A divergence disk reads what was saved, and for the rest the base.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::sheet::Sheet;
use super::state::remove;
use crate::disk::{Disk, Extent, ExtentKind};

/// Saved at once around a first write: one pair of syncs per 64 KiB instead of per 4 KiB.
const REGION: u64 = 64 * 1024;

/// A disk whose old content is saved before it is overwritten, while a divergence is kept.
#[derive(Debug)]
pub(super) struct Keeping {
    base: Arc<dyn Disk>,
    kept: RwLock<Option<Arc<Sheet>>>,
    saving: Mutex<()>,
}

impl Keeping {
    /// Over `base`, saving nothing yet.
    pub(super) fn new(base: Arc<dyn Disk>) -> Self {
        Self { base, kept: RwLock::default(), saving: Mutex::default() }
    }

    /// Starts saving, or goes on with what was saved before a restart.
    pub(super) fn keep(&self, dir: &Path, disk: usize) -> io::Result<()> {
        let sheet = Sheet::open(&directory(dir), disk, self.base.size(), REGION)?;
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(sheet));
        Ok(())
    }

    /// Stops saving.
    pub(super) fn stop(&self) {
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn kept(&self) -> Option<Arc<Sheet>> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Saves what `[offset, offset + len)` holds, unless it was saved before.
    fn save(&self, offset: u64, len: u64) -> io::Result<()> {
        let Some(kept) = self.kept().filter(|_| len > 0) else { return Ok(()) };
        let end = offset.saturating_add(len).next_multiple_of(REGION).min(self.base.size());
        let mut at = offset / REGION * REGION;
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut saved = false;
        while at < end {
            let (is_kept, until) = kept.map.run(at, end);
            let until = until.min(end);
            if !is_kept {
                copy(&*self.base, &kept, at, until)?;
                saved = true;
            }
            at = until;
        }
        if saved { kept.flush() } else { kept.map.check() }
    }
}

/// Copies a range, leaving holes as holes.
fn copy(base: &dyn Disk, kept: &Sheet, start: u64, end: u64) -> io::Result<()> {
    let mut at = start;
    while at < end {
        for extent in base.extents(at, end - at, 64)? {
            let mut left = extent.len;
            while left > 0 && extent.kind == ExtentKind::Data {
                let len = left.min(1 << 20);
                let mut bytes = vec![0; usize::try_from(len).expect("one MiB")];
                let from = at + extent.len - left;
                base.read_at(&mut bytes, from)?;
                kept.fill(&bytes, from)?;
                left -= len;
            }
            at += extent.len;
        }
    }
    kept.map.set(start, end)
}

impl Disk for Keeping {
    fn size(&self) -> u64 {
        self.base.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.base.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.save(offset, buf.len() as u64)?;
        self.base.write_at(buf, offset)
    }
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.save(offset, len)?;
        self.base.trim(offset, len)
    }
    fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        self.save(offset, len)?;
        self.base.zero(offset, len, no_hole)
    }
    fn sync(&self) -> io::Result<()> {
        self.base.sync()
    }
    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        self.base.extents(offset, len, max)
    }
    fn prefetch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.base.prefetch(offset, len)
    }
}

/// The disk as it was when the divergence was found, read-only.
struct Diverged(Arc<Keeping>);

impl fmt::Debug for Diverged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Diverged").field(&self.0.size()).finish()
    }
}

/// The read-only view of what `disk` diverged to.
pub(super) fn browse(disk: &Arc<Keeping>) -> Arc<dyn Disk> {
    Arc::new(Diverged(Arc::clone(disk)))
}

/// Removes what was saved.
pub(super) fn forget(dir: &Path) -> io::Result<()> {
    remove(&directory(dir))
}

fn directory(dir: &Path) -> PathBuf {
    dir.join("diverged")
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a kept divergence is read-only")
}

impl Diverged {
    fn sheet(&self) -> io::Result<Arc<Sheet>> {
        self.0.kept().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the divergence was dropped"))
    }
}

impl Disk for Diverged {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let sheet = self.sheet()?;
        // The whole range from the base first: what is overwritten meanwhile is marked as kept before, and read again.
        self.0.read_at(buf, offset)?;
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let (is_kept, until) = sheet.map.run(at, end);
            let until = until.min(end);
            if is_kept {
                let within = |byte: u64| usize::try_from(byte - offset).expect("inside the buffer");
                sheet.read(&mut buf[within(at)..within(until)], at)?;
            }
            at = until;
        }
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(read_only())
    }
    fn trim(&self, _: u64, _: u64) -> io::Result<()> {
        Err(read_only())
    }
    fn zero(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Err(read_only())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        let sheet = self.sheet()?;
        let end = offset + len;
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < max {
            let (is_kept, until) = sheet.map.run(at, end);
            let (len, left) = (until.min(end) - at, max - extents.len());
            let found =
                if is_kept { sheet.extents(at, len, left)? } else { self.0.extents(at, len, left)? };
            at += found.iter().map(|extent| extent.len).sum::<u64>();
            extents.extend(found);
        }
        Ok(extents)
    }
}
