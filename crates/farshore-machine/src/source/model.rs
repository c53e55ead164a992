//! A disk in memory and a target in memory, for tests: obvious where the real ones are fast.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use farshore_core::ids::Token;
use farshore_core::moment::Moment;
use farshore_core::workload::{PointKind, Watermark};

use super::shared::locked;
use crate::disk::{Disk, Extent, ExtentKind};
use crate::record::{Block, Op, Range, Record};
use crate::sink::{Resume, Sink};
use crate::wire::frame::{Hello, Reason, Refused};
use crate::wire::receiver::Sinks;

/// A disk that is a vector. Holes are whole 4 KiB blocks never written.
#[derive(Debug)]
pub(super) struct MemDisk {
    bytes: Mutex<(Vec<u8>, Vec<bool>)>,
    pub(super) failing: AtomicBool,
    pub(super) sync_failing: AtomicBool,
}

impl MemDisk {
    pub(super) fn new(size: usize) -> Arc<Self> {
        let bytes = Mutex::new((vec![0; size], vec![false; size.div_ceil(4096)]));
        Arc::new(Self { bytes, failing: AtomicBool::new(false), sync_failing: AtomicBool::new(false) })
    }

    pub(super) fn content(&self) -> Vec<u8> {
        locked(&self.bytes).0.clone()
    }

    fn fill(&self, offset: u64, len: u64, data: Option<&[u8]>, allocated: Option<bool>) -> io::Result<()> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let (start, end) = (offset as usize, (offset + len) as usize);
        let mut guard = locked(&self.bytes);
        let (bytes, map) = &mut *guard;
        match data {
            Some(data) => bytes[start..end].copy_from_slice(data),
            None => bytes[start..end].fill(0),
        }
        match allocated {
            Some(true) => map[start / 4096..end.div_ceil(4096)].fill(true),
            _ => {
                let (first, last) = (start.div_ceil(4096), end / 4096);
                if first < last {
                    map[first..last].fill(false);
                }
            }
        }
        Ok(())
    }
}

impl Disk for MemDisk {
    fn size(&self) -> u64 {
        locked(&self.bytes).0.len() as u64
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        buf.copy_from_slice(&locked(&self.bytes).0[start..start + buf.len()]);
        Ok(())
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.fill(offset, buf.len() as u64, Some(buf), Some(true))
    }
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.fill(offset, len, None, None)
    }
    fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        self.fill(offset, len, None, no_hole.then_some(true))
    }
    fn sync(&self) -> io::Result<()> {
        if self.sync_failing.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        let guard = locked(&self.bytes);
        let end = offset + len;
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        while at < end {
            let next = (at / 4096 * 4096 + 4096).min(end);
            let kind = if guard.1[(at / 4096) as usize] { ExtentKind::Data } else { ExtentKind::Hole };
            if let Some(last) = extents.last_mut().filter(|last| last.kind == kind) {
                last.len += next - at;
            } else if extents.len() == max {
                break;
            } else {
                extents.push(Extent { len: next - at, kind });
            }
            at = next;
        }
        Ok(extents)
    }
}

/// What a target has, volatile or durable.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    pub(super) disks: Vec<Vec<u8>>,
    pub(super) at: Option<Watermark>,
    pub(super) catching_up: bool,
    /// Every point with the content it stands for.
    pub(super) points: Vec<(Watermark, Option<String>, Vec<Vec<u8>>)>,
    /// Records and blocks taken in, in bytes.
    pub(super) taken: u64,
    pub(super) diverged: Vec<Range>,
}

/// One item's target.
#[derive(Debug, Default)]
pub(super) struct ModelSink {
    pub(super) volatile: Mutex<Held>,
    pub(super) durable: Mutex<Held>,
    pub(super) hold_syncs: AtomicBool,
    pub(super) head: AtomicU64,
}

impl ModelSink {
    pub(super) fn new(sizes: &[usize]) -> Arc<Self> {
        let held = Held { disks: sizes.iter().map(|size| vec![0; *size]).collect(), ..Held::default() };
        Arc::new(Self { volatile: Mutex::new(held.clone()), durable: Mutex::new(held), ..Self::default() })
    }

    /// The target's process dies.
    pub(super) fn crash(&self) {
        *locked(&self.volatile) = locked(&self.durable).clone();
    }

    pub(super) fn durable(&self) -> Held {
        locked(&self.durable).clone()
    }
}

fn apply(held: &mut Held, disk: u16, offset: u64, len: u64, op: &Op) {
    let bytes = &mut held.disks[usize::from(disk)][offset as usize..(offset + len) as usize];
    match op {
        Op::Write(data) => bytes.copy_from_slice(data),
        Op::Trim | Op::Zero => bytes.fill(0),
    }
}

impl Sink for ModelSink {
    fn resume(&self) -> io::Result<Resume> {
        self.crash();
        let held = locked(&self.durable);
        Ok(Resume { durable: held.at, catching_up: held.catching_up, diverged: held.diverged.clone() })
    }
    fn source_alive(&self, head: Watermark, _now: Moment) {
        self.head.fetch_max(head.seq, Ordering::SeqCst);
    }
    fn append(&self, records: &[Record]) -> io::Result<()> {
        let mut held = locked(&self.volatile);
        for record in records {
            let at = held.at.map_or(0, |at| at.seq);
            if record.seq <= at {
                continue;
            }
            assert_eq!(record.seq, at + 1, "a gap in the records");
            apply(&mut held, record.disk, record.offset, record.len, &record.op);
            held.at = Some(record.watermark());
            held.taken += record.len;
        }
        Ok(())
    }
    fn begin_catch_up(&self, from: Watermark) -> io::Result<()> {
        let mut held = locked(&self.volatile);
        held.catching_up = true;
        held.at = Some(from);
        Ok(())
    }
    fn blocks(&self, blocks: &[Block]) -> io::Result<u64> {
        let mut held = locked(&self.volatile);
        assert!(held.catching_up, "blocks outside of a catch-up");
        let mut differed = 0;
        for block in blocks {
            let range = block.offset as usize..(block.offset + block.len) as usize;
            let before = held.disks[usize::from(block.disk)][range.clone()].to_vec();
            apply(&mut held, block.disk, block.offset, block.len, &block.op);
            let after = &held.disks[usize::from(block.disk)][range];
            let pairs = before.chunks(4096).zip(after.chunks(4096));
            differed += pairs.filter(|(a, b)| a != b).map(|(a, _)| a.len() as u64).sum::<u64>();
            held.taken += if matches!(block.op, Op::Write(_)) { block.len } else { 0 };
        }
        Ok(differed)
    }
    fn end_catch_up(&self, at: Watermark) -> io::Result<()> {
        let mut held = locked(&self.volatile);
        assert!(held.catching_up);
        assert_eq!(held.at.map(|at| at.seq), Some(at.seq), "records up to the end have come");
        held.catching_up = false;
        held.diverged.clear();
        Ok(())
    }
    fn point(&self, at: Watermark, _taken: Moment, _kind: PointKind, name: Option<&str>) -> io::Result<()> {
        let mut held = locked(&self.volatile);
        assert!(!held.catching_up, "a point inside of a catch-up");
        assert_eq!(held.at.map(|at| at.seq), Some(at.seq), "a point out of its place");
        let content = held.disks.clone();
        held.points.push((at, name.map(str::to_owned), content));
        Ok(())
    }
    fn sync(&self) -> io::Result<Watermark> {
        if self.hold_syncs.load(Ordering::SeqCst) {
            return Ok(locked(&self.durable).at.unwrap_or_default());
        }
        let held = locked(&self.volatile).clone();
        let at = held.at.unwrap_or_default();
        let mut durable = locked(&self.durable);
        let unbroken = durable.at;
        *durable = held;
        if durable.catching_up {
            // Nothing is known to be whole until the end; a first copy stays "nothing yet".
            durable.at = unbroken;
        }
        Ok(at)
    }
}

/// Targets by name.
#[derive(Debug)]
pub(super) struct ModelSinks {
    pub(super) sink: Arc<ModelSink>,
    pub(super) highest: Mutex<Token>,
}

impl Sinks for ModelSinks {
    fn open(&self, hello: &Hello) -> Result<Arc<dyn Sink>, Refused> {
        if hello.secret != "secret" {
            return Err(Refused { reason: Reason::WrongSecret, text: "wrong secret".into() });
        }
        let sizes: Vec<u64> = self.sink.durable().disks.iter().map(|disk| disk.len() as u64).collect();
        if hello.disks != sizes {
            return Err(Refused { reason: Reason::WrongShape, text: "wrong shape".into() });
        }
        Ok(Arc::clone(&self.sink) as Arc<dyn Sink>)
    }
    fn check_token(&self, _item: &str, token: Token) -> Result<(), Refused> {
        let mut highest = locked(&self.highest);
        if token < *highest {
            let reason = Reason::Stale { highest: *highest };
            return Err(Refused { reason, text: format!("{token} is lower than {highest}") });
        }
        *highest = token;
        Ok(())
    }
}
