//! What the tests of the replica share: a disk in memory, and a model that knows every state the machine ever had.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(unreachable_pub, reason = "a module of a test binary has nobody to be reached by")]

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use farshore_core::ids::Epoch;
use farshore_core::moment::Moment;
use farshore_core::workload::Watermark;
use farshore_machine::disk::{Disk, Extent, ExtentKind};
use farshore_machine::record::{Block, Op, Record};

/// A disk in memory. Clones share the bytes, so that a "restart" finds them again.
#[derive(Debug, Clone)]
pub struct MemDisk(Arc<Mutex<Vec<u8>>>);

impl MemDisk {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
    fn with<T>(&self, offset: u64, len: u64, f: impl FnOnce(&mut [u8]) -> T) -> io::Result<T> {
        let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + len).unwrap());
        match self.0.lock().unwrap().get_mut(start..end) {
            Some(part) => Ok(f(part)),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Disk for MemDisk {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(offset, buf.len() as u64, |part| buf.copy_from_slice(part))
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.with(offset, buf.len() as u64, |part| part.copy_from_slice(buf))
    }
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.with(offset, len, |part| part.fill(0))
    }
    fn zero(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        self.trim(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        const STEP: u64 = 4096;
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        while at < offset + len {
            let step = (STEP - at % STEP).min(offset + len - at);
            let zero = self.with(at, step, |part| part.iter().all(|&byte| byte == 0))?;
            let kind = if zero { ExtentKind::Hole } else { ExtentKind::Data };
            let count = extents.len();
            match extents.last_mut() {
                Some(last) if last.kind == kind => last.len += step,
                _ if count == max => break,
                _ => extents.push(Extent { len: step, kind }),
            }
            at += step;
        }
        Ok(extents)
    }
}

pub type Bytes = Vec<Vec<u8>>;

pub fn handles(disks: &[MemDisk]) -> Vec<Arc<dyn Disk>> {
    disks.iter().map(|disk| Arc::new(disk.clone()) as Arc<dyn Disk>).collect()
}

pub fn empty(sizes: &[usize]) -> Vec<MemDisk> {
    sizes.iter().map(|&size| MemDisk::new(vec![0; size])).collect()
}

/// Reads whole disks; also checks that holes and zeroes are told truly and cover everything.
pub fn contents(disks: &[Arc<dyn Disk>]) -> Bytes {
    disks.iter().map(|disk| content(&**disk)).collect()
}

fn content(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(disk.size()).unwrap()];
    disk.read_at(&mut bytes, 0).unwrap();
    let mut at = 0;
    while at < disk.size() {
        for extent in disk.extents(at, disk.size() - at, 3).unwrap() {
            let range = usize::try_from(at).unwrap()..usize::try_from(at + extent.len).unwrap();
            assert!(
                extent.kind == ExtentKind::Data || bytes[range.clone()].iter().all(|&b| b == 0),
                "{range:?} told as {:?}",
                extent.kind
            );
            at += extent.len;
        }
    }
    bytes
}

/// Asserts with a readable difference.
pub fn assert_same(got: &Bytes, want: &Bytes, what: &str) {
    for (disk, (got, want)) in got.iter().zip(want).enumerate() {
        let differs = got.iter().zip(want).position(|(got, want)| got != want);
        assert_eq!(differs, None, "{what}: disk {disk} differs first at this byte");
    }
}

/// The source: numbers writes and knows its content.
#[derive(Debug, Clone)]
pub struct Source {
    pub disks: Bytes,
    pub head: Watermark,
}

impl Source {
    pub fn new(sizes: &[usize]) -> Self {
        Self { disks: sizes.iter().map(|&size| vec![0; size]).collect(), head: Watermark::default() }
    }

    /// Accepts a write; `kind` 0 writes, 1 trims, 2 zeroes. Ranges are cut to the disk.
    pub fn write(&mut self, disk: usize, offset: usize, len: usize, kind: u8, fill: u8) -> Record {
        let disk = disk % self.disks.len();
        let size = self.disks[disk].len();
        let offset = offset % size;
        let len = len.clamp(1, size - offset);
        let part = &mut self.disks[disk][offset..offset + len];
        let op = match kind % 3 {
            0 => {
                part.iter_mut().enumerate().for_each(|(i, byte)| *byte = pattern(fill, i));
                Op::Write(part.to_vec().into())
            }
            1 => Op::Trim,
            _ => Op::Zero,
        };
        if !matches!(op, Op::Write(_)) {
            part.fill(0);
        }
        self.head.epoch = Epoch(self.head.epoch.0.max(1));
        self.head.seq += 1;
        self.head.bytes += len as u64;
        self.head.at = Moment(self.head.at.0 + 1_000_000);
        Record {
            seq: self.head.seq,
            epoch: self.head.epoch,
            at: self.head.at,
            bytes: self.head.bytes,
            disk: u16::try_from(disk).unwrap(),
            offset: offset as u64,
            len: len as u64,
            op,
        }
    }

    /// A part of a disk as it is now.
    pub fn block(&self, disk: usize, offset: usize, len: usize) -> Block {
        let len = len.min(self.disks[disk].len() - offset);
        let data = &self.disks[disk][offset..offset + len];
        let op = if data.iter().all(|&b| b == 0) { Op::Trim } else { Op::Write(data.into()) };
        Block { disk: u16::try_from(disk).unwrap(), offset: offset as u64, len: len as u64, op }
    }

    /// Everything, in blocks.
    pub fn all_blocks(&self, len: usize) -> Vec<Block> {
        let disk = |disk: usize| {
            (0..self.disks[disk].len()).step_by(len).map(move |offset| self.block(disk, offset, len))
        };
        (0..self.disks.len()).flat_map(disk).collect()
    }
}

fn pattern(fill: u8, i: usize) -> u8 {
    fill.wrapping_add(u8::try_from(i % 251).unwrap()) | 1
}

/// A disk in a file, for what must outlive a process.
#[derive(Debug)]
pub struct FileDisk(std::fs::File);

impl FileDisk {
    pub fn open(path: &std::path::Path, size: usize) -> Arc<dyn Disk> {
        let file =
            std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        file.set_len(size as u64).unwrap();
        Arc::new(Self(file))
    }
}

impl Disk for FileDisk {
    fn size(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.write_all_at(&vec![0; usize::try_from(len).unwrap()], offset)
    }
    fn zero(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        self.trim(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn extents(&self, _: u64, len: u64, _: usize) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { len, kind: ExtentKind::Data }])
    }
}

/// The n-th write of a source whose whole history follows from the number.
pub fn numbered_write(source: &mut Source) -> Record {
    let n = source.head.seq + 1;
    let mixed = usize::try_from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).unwrap();
    let kind = if mixed.is_multiple_of(5) { 1 + u8::try_from(mixed / 5 % 2).unwrap() } else { 0 };
    let fill = u8::try_from(n % 256).unwrap();
    source.write(mixed % 2, mixed / 64, 1 + mixed / 7 % 9000, kind, fill)
}

/// A source after `seq` numbered writes.
pub fn source_at(sizes: &[usize], seq: u64) -> Source {
    let mut source = Source::new(sizes);
    while source.head.seq < seq {
        let _ = numbered_write(&mut source);
    }
    source
}
