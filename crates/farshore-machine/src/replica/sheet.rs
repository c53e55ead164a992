//! A sparse file of a disk's size and a map that says which of its blocks count: what lies over a disk.
//!
//! Used for the copy-on-write layers of promoted machines and drills, and for what a divergence keeps.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use super::blockmap::BlockMap;
use super::state::{make_dir, sync_dir};
use crate::disk::{Extent, ExtentKind};

/// The file and its map.
#[derive(Debug)]
pub(super) struct Sheet {
    file: File,
    pub(super) map: BlockMap,
}

impl Sheet {
    /// Opens or makes `dir/disk-N.raw` and its map.
    pub(super) fn open(dir: &Path, disk: usize, size: u64, block: u64) -> io::Result<Self> {
        make_dir(dir)?;
        let path = dir.join(format!("disk-{disk}.raw"));
        let file = open_sparse(&path, size)?;
        let map = BlockMap::open(&path, size, block)?;
        sync_dir(dir)?;
        Ok(Self { file, map })
    }

    /// Makes one that will not be found again.
    pub(super) fn throw_away(dir: &Path, disk: usize, size: u64, block: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let file = open_sparse(&dir.join(format!("disk-{disk}.raw")), size)?;
        Ok(Self { file, map: BlockMap::in_memory(size, block) })
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Writes and then counts the blocks it touches; parts of blocks must be completed by the caller first.
    pub(super) fn write(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)?;
        self.map.set(offset, offset + buf.len() as u64)
    }

    /// Writes without counting anything yet.
    pub(super) fn fill(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    /// Makes the range zero and takes no space for it.
    pub(super) fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?;
        self.map.set(offset, offset + len)
    }

    /// Makes data and map durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.map.flush(|| self.file.sync_data())
    }

    /// Where the file holds data and where holes.
    pub(super) fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        let end = offset + len;
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < max {
            let data = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                Err(rustix::io::Errno::NXIO) => end,
                Err(error) => return Err(error.into()),
            };
            if data > at {
                extents.push(Extent { len: data - at, kind: ExtentKind::Hole });
                at = data;
                continue;
            }
            let hole = seek(&self.file, SeekFrom::Hole(at))?.min(end);
            extents.push(Extent { len: hole - at, kind: ExtentKind::Data });
            at = hole;
        }
        Ok(extents)
    }
}

fn open_sparse(path: &Path, size: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() != size {
        file.set_len(size)?;
    }
    Ok(file)
}
