//! What the server serves.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use crate::disk::{Disk, Extent};
use crate::source::SourceDisk;

/// One disk as its clients see it. The server has checked ranges and permission before it calls. Calls come from many
/// threads at once.
pub trait Export: Send + Sync + Debug {
    /// Size in bytes; must not change while served.
    fn size(&self) -> u64;
    /// Refuse whatever changes it.
    fn read_only(&self) -> bool;
    /// Fills `buf`.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Like [`Export::read`], but may refuse with `WouldBlock` where it would wait for a disk or peer: the server
    /// then repeats it with `read` on a thread that holds up no other request.
    fn read_nowait(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read(offset, buf)
    }
    /// Writes all of `data`. May take the buffer (`mem::take`) instead of copying it; the server then makes another.
    fn write(&self, offset: u64, data: &mut Vec<u8>) -> io::Result<()>;
    /// On return, every write that was acknowledged before the call, on whatever connection, is durable.
    fn flush(&self) -> io::Result<()>;
    /// Makes the range read as zeroes and gives its space back where possible.
    fn trim(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes the range read as zeroes; with `no_hole`, keeps it allocated.
    fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()>;
    /// Like [`Export::zero`], but refuses with `Unsupported`, changing nothing, where that is no faster than a write.
    fn zero_fast(&self, _offset: u64, _len: u64, _no_hole: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Describes the range in order, at most `max` extents.
    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>>;
    /// Hints that the range will be read soon.
    fn prefetch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Asked right before replies are sent: on an error nothing of them leaves, and the connection is closed.
    fn may_reply(&self) -> io::Result<()> {
        Ok(())
    }
    /// Runs of `(length, changed since last replicated)`, in order, at most `max`; `None` where changes are not tracked.
    /// Whether it is `None` must not change while served.
    fn dirty(&self, _offset: u64, _len: u64, _max: usize) -> Option<io::Result<Vec<(u64, bool)>>> {
        None
    }
}

/// A plain [`Disk`] as an export: not replicated, or a drill's or a divergence's layer.
#[derive(Debug)]
pub struct DiskExport {
    disk: Arc<dyn Disk>,
    read_only: bool,
}

impl DiskExport {
    /// Serves `disk`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, read_only: bool) -> Self {
        Self { disk, read_only }
    }
}

impl Export for DiskExport {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(buf, offset)
    }
    fn read_nowait(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_nowait(buf, offset)
    }
    fn write(&self, offset: u64, data: &mut Vec<u8>) -> io::Result<()> {
        self.disk.write_at(data, offset)
    }
    fn flush(&self) -> io::Result<()> {
        self.disk.sync()
    }
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.trim(offset, len)
    }
    fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        self.disk.zero(offset, len, no_hole)
    }
    fn zero_fast(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        self.disk.zero_fast(offset, len, no_hole)
    }
    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        self.disk.extents(offset, len, max)
    }
    fn prefetch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.prefetch(offset, len)
    }
}

/// A replicated disk: the source numbers, logs and ships what is written. A fast zero is not promised, because a zero
/// that has to be written out must not be logged first and refused then.
impl Export for SourceDisk {
    fn size(&self) -> u64 {
        Self::size(self)
    }
    fn read_only(&self) -> bool {
        Self::read_only(self)
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Self::read(self, offset, buf)
    }
    fn read_nowait(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Self::read_nowait(self, offset, buf)
    }
    fn write(&self, offset: u64, data: &mut Vec<u8>) -> io::Result<()> {
        Self::write(self, offset, data)
    }
    fn flush(&self) -> io::Result<()> {
        Self::flush(self)
    }
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        Self::trim(self, offset, len)
    }
    fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        Self::zero(self, offset, len, no_hole)
    }
    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        Self::extents(self, offset, len, max)
    }
    fn prefetch(&self, offset: u64, len: u64) -> io::Result<()> {
        Self::prefetch(self, offset, len)
    }
    fn may_reply(&self) -> io::Result<()> {
        self.check_lease()
    }
    fn dirty(&self, offset: u64, len: u64, max: usize) -> Option<io::Result<Vec<(u64, bool)>>> {
        Self::dirty(self, offset, len, max)
    }
}
