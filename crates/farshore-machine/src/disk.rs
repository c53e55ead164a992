//! Bytes at offsets: the port between everything above and what holds the bytes.
//!
//! Real: a raw file or block device. Simulated (`farshore-sim`): torn writes, EIO, lost unsynced writes.

use std::fmt::Debug;
use std::io;

/// A run of bytes of one sort, as `BLOCK_STATUS` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes; never 0.
    pub len: u64,
    /// What is there.
    pub kind: ExtentKind,
}

/// Sort of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Allocated, content unknown without reading.
    Data,
    /// Not allocated, reads as zeroes.
    Hole,
    /// Allocated, reads as zeroes.
    Zero,
}

/// Random access to a disk of fixed size. Calls may come from many threads; calls that overlap and run at the same time
/// may be ordered either way. Out of range is an `InvalidInput` error that changes nothing. Offsets and lengths need no
/// alignment.
pub trait Disk: Send + Sync + Debug {
    /// Size in bytes; need not be a multiple of anything.
    fn size(&self) -> u64;
    /// Fills `buf`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buf`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the range read as zeroes and gives its space back where possible.
    fn trim(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes the range read as zeroes; with `no_hole`, keeps it allocated.
    fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()>;
    /// On return, everything written before the call is durable. An error must be treated as loss of all unsynced data.
    fn sync(&self) -> io::Result<()>;
    /// Describes `[offset, offset + len)` in order, at most `max` extents (then it covers a shorter range).
    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>>;
    /// Like [`Disk::zero`], but refuses with `Unsupported`, changing nothing, where that would take as long as writing
    /// the zeroes.
    fn zero_fast(&self, _offset: u64, _len: u64, _no_hole: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Like [`Disk::read_at`], but may refuse with `WouldBlock` where the bytes are not in memory; `buf` is then
    /// undefined, and the caller repeats it with `read_at` where waiting hurts nobody.
    fn read_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(buf, offset)
    }
    /// Hints that the range will be read soon.
    fn prefetch(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
