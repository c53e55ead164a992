//! One region's log, or a copy of it: its segments in order, and the pen that writes at its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::error::{Damage, TelemetryError};
use super::frame::Head;
use super::head::{HEAD_BYTES, Mark};
use super::marks::Ranges;
use super::segment::{ENDING, Piece, Segment};

/// How much is allocated ahead: a write into allocated space needs no new blocks, and cannot meet a full disk.
const AHEAD_BYTES: u64 = 8 << 20;

/// What readers see of a log.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) region: Region,
    /// Its number in this process.
    pub(super) number: u16,
    dir: PathBuf,
    segments: RwLock<Vec<Arc<Segment>>>,
    /// Offset after the last durable event.
    end: AtomicU64,
    /// The highest epoch of an event in it, as far as it was read.
    epoch: AtomicU64,
    pub(super) late: RwLock<Ranges>,
}

/// Where an event is to be read.
#[derive(Debug)]
pub(super) enum Found {
    /// In this segment, and from this offset on: it is higher than what was asked for if that is no longer kept.
    In(Arc<Segment>, u64),
    /// Not yet written.
    End,
}

impl Log {
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub(super) fn see_epoch(&self, epoch: Epoch) {
        self.epoch.fetch_max(epoch.0, Ordering::AcqRel);
    }

    /// The first offset that is kept.
    pub(super) fn start(&self) -> u64 {
        self.segments().first().map_or(0, |segment| segment.first())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments().iter().map(|segment| segment.bytes() - HEAD_BYTES).sum()
    }

    /// All segments, the newest last.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those that nothing is added to any more.
    pub(super) fn sealed(&self) -> Vec<Arc<Segment>> {
        let mut segments = self.segments();
        segments.pop();
        segments
    }

    /// Where to read `offset`, or what comes next after it.
    pub(super) fn find(&self, offset: u64) -> Found {
        let end = self.end();
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.first() <= offset);
        for segment in &segments[after.saturating_sub(1)..] {
            let from = offset.max(segment.first());
            if from < segment.next().min(end) {
                return Found::In(Arc::clone(segment), from);
            }
        }
        Found::End
    }

    /// The frames from `offset` on. Empty: nothing is there yet.
    pub(super) fn read(&self, offset: u64, bytes_max: usize) -> Result<Option<Piece>, TelemetryError> {
        match self.find(offset) {
            Found::End => Ok(None),
            Found::In(segment, from) => segment.read(from, bytes_max).map(Some),
        }
    }

    /// How many bytes of frames are at and after `offset`; exact at segments' ends, else to one step of the index.
    pub(super) fn bytes_from(&self, offset: u64) -> Result<u64, TelemetryError> {
        let mut bytes = 0;
        for segment in self.segments().iter().rev() {
            if segment.next() <= offset {
                break;
            }
            bytes += segment.bytes_from(offset)?;
        }
        Ok(bytes)
    }

    /// When its last event came in.
    pub(super) fn newest(&self) -> Result<Moment, TelemetryError> {
        for segment in self.segments().iter().rev() {
            if segment.next() > segment.first() {
                return segment.newest();
            }
        }
        Ok(Moment(0))
    }

    /// The first offset that was enqueued at `moment` or later; the end, if none was yet.
    pub(super) fn since(&self, moment: Moment) -> Result<u64, TelemetryError> {
        let segments = self.segments();
        let mut low = 0;
        let mut high = segments.len();
        // The first segment whose newest event is not before the moment holds it.
        while low < high {
            let middle = usize::midpoint(low, high);
            if segments[middle].newest()? < moment { low = middle + 1 } else { high = middle }
        }
        match segments.get(low) {
            None => Ok(self.end()),
            Some(segment) => segment.since(moment),
        }
    }

    /// Damaged places that were met so far.
    pub(super) fn damages(&self) -> Vec<Damage> {
        self.segments().iter().flat_map(|segment| segment.damages()).collect()
    }

    /// Deletes the oldest segment.
    pub(super) fn drop_first(&self) -> Result<(), TelemetryError> {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = segments.first() else { return Ok(()) };
        std::fs::remove_file(first.path()).map_err(TelemetryError::disk("delete", first.path()))?;
        segments.remove(0);
        Ok(())
    }

    fn push(&self, segment: Segment) -> Arc<Segment> {
        let segment = Arc::new(segment);
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.retain(|other| other.first() != segment.first());
        segments.push(Arc::clone(&segment));
        self.end.store(segment.next(), Ordering::Release);
        segment
    }
}

/// Writes at the end of one log. There is one for each.
#[derive(Debug)]
pub(super) struct Pen {
    pub(super) log: Arc<Log>,
    /// `None`: the last segment cannot be trusted to take more; the next write begins another.
    active: Option<Active>,
    segment_bytes: u64,
}

#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    allocated: u64,
    marks: usize,
}

/// Frames that go to the disk together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) heads: Vec<(u64, Head)>,
}

impl Batch {
    /// Notes a frame that begins at `at` in the bytes.
    pub(super) fn note(&mut self, at: usize, head: Head) {
        self.heads.push((at as u64, head));
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.heads.clear();
    }
}

impl Pen {
    /// Opens a region's log, or begins one. What was not durable is cut from its end, and told in words.
    pub(super) fn open(
        dir: &Path,
        region: &Region,
        number: u16,
        segment_bytes: u64,
    ) -> Result<(Self, Vec<String>), TelemetryError> {
        let disk = |error| TelemetryError::disk("open", dir)(error);
        std::fs::create_dir_all(dir).map_err(disk)?;
        // The name of the directory must be as durable as what will be in it.
        if let Some(above) = dir.parent() {
            File::open(above).and_then(|above| above.sync_all()).map_err(disk)?;
        }
        let mut segments = Vec::new();
        let mut following = None;
        for (first, path) in segment_files(dir)?.into_iter().rev() {
            segments.insert(0, Arc::new(Segment::open(&path, region, following)?));
            following = Some(first);
        }
        let log = Log {
            region: region.clone(),
            number,
            dir: dir.to_owned(),
            segments: RwLock::new(segments),
            end: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            late: RwLock::default(),
        };
        let mut pen = Self { log: Arc::new(log), active: None, segment_bytes };
        let torn = pen.recover()?;
        Ok((pen, torn))
    }

    fn recover(&mut self) -> Result<Vec<String>, TelemetryError> {
        let mut cut = Vec::new();
        let segments = self.log.segments();
        for segment in &segments {
            let torn = segment.recover()?;
            if torn > 0 {
                let (at, path) = (segment.bytes(), segment.path().display());
                cut.push(format!("cut {torn} bytes that were never acknowledged from {path} at byte {at}"));
            }
        }
        let Some(last) = segments.last().map(Arc::clone) else {
            self.begin(0)?;
            return Ok(cut);
        };
        last.scan(&mut |head, _| self.log.see_epoch(head.epoch))?;
        self.log.end.store(last.next(), Ordering::Release);
        self.active = Some(Active { allocated: last.bytes(), segment: last, marks: 0 });
        Ok(cut)
    }

    /// Whether a frame of `bytes` goes into the segment after `pending` bytes that are not written yet. The rule looks at
    /// nothing but sizes, so that a copy is cut into files where the original is.
    pub(super) fn has_room(&self, pending: usize, bytes: usize) -> bool {
        let Some(active) = &self.active else { return true };
        let at = active.segment.bytes() + pending as u64;
        at == HEAD_BYTES || at + bytes as u64 <= self.segment_bytes
    }

    /// Writes frames that continue the log; they are durable and can be read on return. After an error none of them is
    /// part of the log; another attempt may be made at any time.
    pub(super) fn write(&mut self, batch: &Batch) -> Result<(), TelemetryError> {
        let Some((_, last)) = batch.heads.last() else { return Ok(()) };
        if self.active.is_none() {
            self.begin(self.log.end())?;
        }
        let active = self.active.as_mut().expect("it was just begun");
        let start = active.segment.end();
        let end = Mark { at: start.at + batch.bytes.len() as u64, offset: last.offset + 1 };
        active.allocate(end.at, self.segment_bytes)?;
        if let Err(error) = active.write(&batch.bytes, start) {
            // After a failed sync nobody knows what is on the disk: this file is closed where it was durable.
            let _ = active.segment.file().set_len(start.at);
            let _ = active.segment.file().sync_all();
            self.active = None;
            return Err(error);
        }
        let heads: Vec<_> = batch.heads.iter().map(|(at, head)| (start.at + at, *head)).collect();
        active.segment.publish(&heads, end);
        active.marks += 1;
        if let Err(error) = active.segment.write_mark(end, active.marks) {
            tracing::warn!(%error, "what is durable could not be marked; the mark before it holds");
        }
        let epoch = heads.iter().map(|(_, head)| head.epoch).max();
        self.log.see_epoch(epoch.unwrap_or_default());
        self.log.end.store(end.offset, Ordering::Release);
        Ok(())
    }

    /// Seals the segment and begins another one, at the end or, after a gap, at `at`.
    pub(super) fn roll(&mut self, at: u64) -> Result<(), TelemetryError> {
        if let Some(active) = &mut self.active {
            active.seal()?;
        }
        self.begin(at)
    }

    fn begin(&mut self, first: u64) -> Result<(), TelemetryError> {
        let segment = Segment::create(&self.log.dir, &self.log.region, first)?;
        let segment = self.log.push(segment);
        self.active = Some(Active { segment, allocated: HEAD_BYTES, marks: 0 });
        Ok(())
    }
}

impl Active {
    /// Makes sure that there is room up to `end`.
    fn allocate(&mut self, end: u64, segment_bytes: u64) -> Result<(), TelemetryError> {
        if end <= self.allocated {
            return Ok(());
        }
        let ahead = end.max((self.allocated + AHEAD_BYTES).min(segment_bytes));
        let file = self.segment.file();
        let reach = |to: u64| {
            fallocate(file, FallocateFlags::empty(), self.allocated, to - self.allocated).map(|()| to)
        };
        let reached = match reach(ahead) {
            Err(Errno::NOSPC) => reach(end),
            // A file system that cannot allocate ahead finds out as it writes.
            Err(Errno::OPNOTSUPP) => Ok(end),
            other => other,
        };
        self.allocated = reached
            .map_err(|errno| TelemetryError::disk("make room in", self.segment.path())(errno.into()))?;
        Ok(())
    }

    fn write(&self, bytes: &[u8], start: Mark) -> Result<(), TelemetryError> {
        use std::os::unix::fs::FileExt as _;
        let file = self.segment.file();
        let written = file.write_all_at(bytes, start.at).and_then(|()| file.sync_data());
        written.map_err(TelemetryError::disk("write", self.segment.path()))
    }

    /// Ends the file where it is durable, for good. Repeating it changes nothing.
    fn seal(&mut self) -> Result<(), TelemetryError> {
        let end = self.segment.end();
        self.marks += 1;
        self.segment.write_mark(end, self.marks)?;
        let file = self.segment.file();
        let sealed = file.set_len(end.at).and_then(|()| file.sync_all());
        sealed.map_err(TelemetryError::disk("seal", self.segment.path()))?;
        self.allocated = end.at;
        Ok(())
    }
}

/// The segments in a directory, by first offset. What was never finished is removed.
fn segment_files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, TelemetryError> {
    let disk = |error| TelemetryError::disk("list", dir)(error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(disk)? {
        let path = entry.map_err(disk)?.path();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("new") => std::fs::remove_file(&path).map_err(TelemetryError::disk("delete", &path))?,
            Some(ENDING) => {
                let first = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
                let why = "its name is no offset";
                files.push((first.ok_or(TelemetryError::Foreign { path: path.clone(), why })?, path));
            }
            _ => {}
        }
    }
    files.sort_unstable();
    Ok(files)
}
