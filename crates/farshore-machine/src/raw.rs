//! A disk in a raw file or on a block device.
//!
//! Must always hold: one process at a time has a disk open; once a sync has failed, nothing written later is
//! acknowledged, since the kernel drops the dirty pages of a failed write-back and reports it only once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use crate::disk::{Disk, Extent, ExtentKind};

/// Zeroes are written in pieces of this size where the file system cannot make them: large enough for the system
/// call not to count, small enough for a static buffer.
const ZEROES: &[u8] = &[0; 64 * 1024];

/// A [`Disk`] in a raw file or block device, open for this process alone.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    path: PathBuf,
    size: u64,
    /// The file system knows `RWF_NOWAIT`; cleared at the first refusal.
    nowait: AtomicBool,
    /// A sync failed: see [`RawFile::failure`].
    failed: AtomicBool,
    /// Callers of `sync` so far.
    sync_asked: AtomicU64,
    /// All callers up to this one are covered by a sync that succeeded.
    sync_done: Mutex<u64>,
}

impl RawFile {
    /// Makes a sparse file of `size` bytes and opens it. An existing file is an error and stays untouched.
    pub fn create(path: impl AsRef<Path>, size: u64) -> io::Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| explain(error, path, "cannot be created"))?;
        let made = Self::lock(&file, path).and_then(|()| {
            file.set_len(size)
                .and_then(|()| file.sync_all())
                .map_err(|error| explain(error, path, &format!("cannot be given a size of {size} bytes")))
        });
        if let Err(error) = made {
            drop(std::fs::remove_file(path));
            return Err(error);
        }
        sync_directory(path)?;
        Ok(Self::new(file, path, size))
    }

    /// Opens an existing file or block device. One that is in use is an error that names it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| explain(error, path, "cannot be opened"))?;
        let kind = file.metadata().map_err(|error| explain(error, path, "cannot be examined"))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let error = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(explain(error, path, "is neither a regular file nor a block device"));
        }
        Self::lock(&file, path)?;
        let size = rustix::fs::seek(&file, SeekFrom::End(0))
            .map_err(|error| explain(error.into(), path, "does not tell its size"))?;
        Ok(Self::new(file, path, size))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn new(file: File, path: &Path, size: u64) -> Self {
        Self {
            file,
            path: path.to_owned(),
            size,
            nowait: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            sync_asked: AtomicU64::new(0),
            sync_done: Mutex::new(0),
        }
    }

    fn lock(file: &File, path: &Path) -> io::Result<()> {
        rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!(
                    "disk {} is in use by another process or machine: stop that one first",
                    path.display()
                ),
            ),
            other => explain(other.into(), path, "cannot be locked"),
        })
    }

    fn check_range(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{len} bytes at {offset} are outside disk {} of {} bytes",
                    self.path.display(),
                    self.size
                ),
            )),
        }
    }

    fn check_writable(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_range(offset, len)?;
        if self.failed.load(Ordering::Acquire) { Err(self.failure()) } else { Ok(()) }
    }

    fn failure(&self) -> io::Error {
        io::Error::other(format!(
            "disk {} lost writes when a sync failed and takes no more: check the device, then open it again",
            self.path.display()
        ))
    }

    /// Zeroes a range without writing it. `false`: the file system or device cannot.
    fn deallocate(&self, offset: u64, len: u64, how: FallocateFlags) -> io::Result<bool> {
        match rustix::fs::fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, len) {
            Ok(()) => Ok(true),
            // Block devices refuse what is not aligned to their sectors with EINVAL.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn write_zeroes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let piece = usize::try_from(len).map_or(ZEROES.len(), |len| len.min(ZEROES.len()));
            self.file.write_all_at(&ZEROES[..piece], offset)?;
            offset += piece as u64;
            len -= piece as u64;
        }
        Ok(())
    }

    /// The first run at `offset`, which ends at `end` at the latest.
    fn extent_at(&self, offset: u64, end: u64) -> io::Result<Extent> {
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data.min(end),
            Err(Errno::NXIO) => end,
            // Block devices and some file systems do not know.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                return Ok(Extent { len: end - offset, kind: ExtentKind::Data });
            }
            Err(error) => return Err(error.into()),
        };
        if data > offset {
            return Ok(Extent { len: data - offset, kind: ExtentKind::Hole });
        }
        let hole = match rustix::fs::seek(&self.file, SeekFrom::Hole(offset)) {
            Ok(hole) => hole.min(end),
            Err(Errno::NXIO) => end,
            Err(error) => return Err(error.into()),
        };
        // A hole punched between the two calls: calling it data is never wrong.
        let hole = if hole <= offset { end } else { hole };
        Ok(Extent { len: hole - offset, kind: ExtentKind::Data })
    }
}

impl Disk for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset)
    }

    fn read_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if !self.nowait.load(Ordering::Relaxed) {
            return self.read_at(buf, offset);
        }
        self.check_range(offset, buf.len() as u64)?;
        let want = buf.len();
        let mut parts = [io::IoSliceMut::new(buf)];
        match rustix::io::preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
            Ok(have) if have == want => Ok(()),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Err(io::ErrorKind::WouldBlock.into()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.nowait.store(false, Ordering::Relaxed);
                self.read_at(buf, offset)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable(offset, buf.len() as u64)?;
        self.file.write_all_at(buf, offset)
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len, false)
    }

    fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        match self.zero_fast(offset, len, no_hole) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_zeroes(offset, len),
            done => done,
        }
    }

    fn zero_fast(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        self.check_writable(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let how = if no_hole { FallocateFlags::ZERO_RANGE } else { FallocateFlags::PUNCH_HOLE };
        if self.deallocate(offset, len, how)? { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    fn sync(&self) -> io::Result<()> {
        // Callers that arrive while a sync runs share the next one. One at a time, because the kernel tells only one
        // of several concurrent callers that write-back failed.
        let mine = self.sync_asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut done = self.sync_done.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failed.load(Ordering::Acquire) {
            return Err(self.failure());
        }
        if *done >= mine {
            return Ok(());
        }
        let covers = self.sync_asked.load(Ordering::Acquire);
        if let Err(error) = rustix::fs::fdatasync(&self.file) {
            self.failed.store(true, Ordering::Release);
            tracing::error!(disk = %self.path.display(), %error, "sync failed; the disk takes no more writes");
            return Err(explain(error.into(), &self.path, "could not be made durable"));
        }
        *done = covers;
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        self.check_range(offset, len)?;
        let end = offset + len;
        let mut at = offset;
        let mut extents: Vec<Extent> = Vec::new();
        while at < end && extents.len() < max {
            let extent = self.extent_at(at, end)?;
            at += extent.len;
            extents.push(extent);
        }
        Ok(extents)
    }

    fn prefetch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_range(offset, len)?;
        let len = std::num::NonZeroU64::new(len);
        match rustix::fs::fadvise(&self.file, offset, len, rustix::fs::Advice::WillNeed) {
            Ok(()) | Err(Errno::INVAL | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A new file is durable only once its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| explain(error, parent, "cannot be made durable"))
}

fn explain(error: io::Error, path: &Path, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("disk {} {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk(size: u64) -> (tempfile::TempDir, RawFile) {
        let dir = tempfile::tempdir().unwrap();
        let disk = RawFile::create(dir.path().join("disk.raw"), size).unwrap();
        (dir, disk)
    }

    #[test]
    fn what_was_written_is_read_back_at_odd_places() {
        let (_dir, disk) = disk(MIB + 7);
        disk.write_at(b"hello", MIB + 2).unwrap();
        let mut buf = [0; 7];
        disk.read_at(&mut buf, MIB).unwrap();
        assert_eq!(&buf, b"\0\0hello");
        disk.read_nowait(&mut buf, MIB).unwrap();
        assert_eq!(&buf, b"\0\0hello");
        disk.sync().unwrap();
    }

    #[test]
    fn out_of_range_is_invalid_input_and_changes_nothing() {
        let (_dir, disk) = disk(4096);
        for error in [
            disk.write_at(&[1; 2], 4095).unwrap_err(),
            disk.read_at(&mut [0; 2], 4095).unwrap_err(),
            disk.zero(4096, 1, false).unwrap_err(),
            disk.trim(u64::MAX, 2).unwrap_err(),
            disk.extents(0, 4097, 9).unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let mut last = [9];
        disk.read_at(&mut last, 4095).unwrap();
        assert_eq!(last, [0]);
    }

    #[test]
    fn zeroes_and_trims_read_as_zeroes() {
        let (_dir, disk) = disk(MIB + 13);
        disk.write_at(&vec![0xaa; 1_048_589], 0).unwrap();
        disk.trim(1, 70_000).unwrap();
        disk.zero(100_003, MIB + 13 - 100_003, true).unwrap();
        let mut buf = vec![1; 1_048_589];
        disk.read_at(&mut buf, 0).unwrap();
        for (at, byte) in buf.iter().enumerate() {
            let kept = at == 0 || (70_001..100_003).contains(&at);
            assert_eq!(*byte, if kept { 0xaa } else { 0 }, "byte {at}");
        }
    }

    #[test]
    fn extents_tell_holes_from_data_and_cover_the_range() {
        let (_dir, disk) = disk(4 * MIB);
        disk.write_at(&vec![1; 65536], MIB).unwrap();
        let extents = disk.extents(0, 4 * MIB, 100).unwrap();
        assert_eq!(extents.iter().map(|extent| extent.len).sum::<u64>(), 4 * MIB);
        assert_eq!(extents[0].kind, ExtentKind::Hole);
        assert!(extents.iter().any(|extent| extent.kind == ExtentKind::Data));
        assert_eq!(disk.extents(0, 4 * MIB, 1).unwrap().len(), 1);
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let (dir, disk) = disk(4096);
        disk.write_at(b"kept", 0).unwrap();
        let error = RawFile::create(dir.path().join("disk.raw"), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("disk.raw"), "{error}");
        let mut buf = [0; 4];
        disk.read_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"kept");
    }

    #[test]
    fn a_disk_in_use_is_refused_by_name() {
        let (dir, disk) = disk(4096);
        let path = dir.path().join("disk.raw");
        let error = RawFile::open(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert!(error.to_string().contains("disk.raw"), "{error}");
        drop(disk);
        assert_eq!(RawFile::open(&path).unwrap().size(), 4096);
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RawFile::open(dir.path()).is_err());
        assert_eq!(RawFile::open(dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn after_a_failed_sync_nothing_is_acknowledged() {
        let (_dir, disk) = disk(4096);
        disk.failed.store(true, Ordering::Release);
        assert!(disk.sync().is_err());
        assert!(disk.write_at(&[1], 0).is_err());
        assert!(disk.zero(0, 1, false).is_err());
        disk.read_at(&mut [0], 0).unwrap();
    }
}
