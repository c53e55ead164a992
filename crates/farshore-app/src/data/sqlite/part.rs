//! One copy of a database at a replica: a file of pages, and the frames that follow it.
//!
//! Files in its directory: `base-F.db`, the pages as they were when `F` frames had been; `frames-F.log`, the frames from number
//! `F` on; `mark`, how many frames were made durable: what is missing below it was damaged, not torn by a crash.
//!
//! The pages are never written in place: when the frames have become many, a new file is made of both, and the old ones go when
//! it is durable.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::frame_log::{FrameLog, Record};
use super::wal::{FRAME_HEAD, FrameHead, frame_bytes, read_some};
use super::wire::Place;
use crate::data::{DataError, Position};

/// Frames are put into the pages when they are half as many bytes, and at least so many.
const FOLD_BYTES: u64 = 16 << 20;
/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;
const MEND: &str = "while the source lives a new copy is fetched by itself; else restore the newest backup";

/// What is remembered of a copy, apart from its files.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct PartRecord {
    /// The snapshot that it began with.
    pub(super) snapshot: u64,
    pub(super) page_size: u32,
    /// With the frames up to here it is what was once committed.
    pub(super) whole_at: u64,
    pub(super) base: Base,
}

/// The file of pages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Base {
    pub(super) place: Place,
    pub(super) position: Position,
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
}

/// A copy that frames are added to.
#[derive(Debug)]
pub(super) struct Part {
    dir: PathBuf,
    pub(super) record: PartRecord,
    logs: Vec<FrameLog>,
    mark: File,
    tail: Tail,
    /// Why it cannot be restored any more.
    pub(super) damage: Option<String>,
}

/// The end of the frames.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tail {
    place: Place,
    /// Frames up to the last that ends a transaction.
    commit: u64,
    /// There.
    position: Position,
    /// Bytes of the database there.
    bytes: u64,
    /// Frames since then have put so many bytes into the log.
    open_bytes: u64,
}

/// All that is needed to write a copy out, while it goes on.
#[derive(Debug)]
pub(super) struct View {
    base: File,
    path: PathBuf,
    record: PartRecord,
    logs: Vec<FrameLog>,
    tail: Tail,
}

impl Part {
    /// A copy whose base is there and durable, and that has no frames yet.
    pub(super) fn begin(dir: &Path, record: PartRecord) -> Result<Self, DataError> {
        let log = new_log(dir, &record, record.base.place.frames)?;
        let part = Self {
            dir: dir.to_owned(),
            record,
            logs: vec![log],
            mark: open_mark(dir)?,
            tail: Tail::at(&record.base),
            damage: None,
        };
        part.write_mark()?;
        sync_dir(dir)?;
        Ok(part)
    }

    /// Opens what [`Self::begin`] began, and reads all its frames.
    pub(super) fn open(dir: &Path, record: PartRecord) -> Result<Self, DataError> {
        let mut tail = Tail::at(&record.base);
        let (logs, mut damage) = open_logs(dir, &record, &mut tail)?;
        let mark = open_mark(dir)?;
        let marked = read_mark(&mark).unwrap_or(0);
        if damage.is_none() && tail.place.frames < marked {
            damage = Some(format!("frames from {} to {marked} are not what was written", tail.place.frames));
        }
        if damage.is_none() && !base_file(dir, &record.base).exists() {
            damage = Some("its file of pages is missing".to_owned());
        }
        let mut part = Self { dir: dir.to_owned(), record, logs, mark, tail, damage };
        if part.damage.is_none() {
            match part.logs.last() {
                Some(last) => last.cut()?,
                None => part.logs.push(new_log(dir, &record, tail.place.frames)?),
            }
        }
        part.remove_leftovers();
        Ok(part)
    }

    /// Where the frames end.
    pub(super) fn place(&self) -> Place {
        self.tail.place
    }

    /// What can be restored, once it is whole.
    pub(super) fn position(&self) -> Position {
        self.tail.position
    }

    /// Whether it can be restored.
    pub(super) fn is_whole(&self) -> bool {
        self.damage.is_none() && self.tail.commit >= self.record.whole_at
    }

    /// Adds frames. Durable on return. False when they do not follow: a repetition, or another chain.
    pub(super) fn take(
        &mut self,
        chain: u64,
        from: u64,
        at: Moment,
        frames: &[u8],
    ) -> Result<bool, DataError> {
        if chain != self.tail.place.chain || from != self.tail.place.frames || self.damage.is_some() {
            return Ok(false);
        }
        let mut tail = self.tail;
        tail.take(at, frames, self.record.page_size)?;
        let Some(log) = self.logs.last_mut() else { return Ok(false) };
        log.append_durably(at, frames)?;
        self.tail = tail;
        self.write_mark()?;
        Ok(true)
    }

    fn write_mark(&self) -> Result<(), DataError> {
        let frames = self.tail.place.frames.to_le_bytes();
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&frames);
        bytes[8..].copy_from_slice(&crc32c::crc32c(&frames).to_le_bytes());
        // Not synced: after a power cut it may say too little, never too much.
        self.mark.write_all_at(&bytes, 0).map_err(DataError::io("mark what is durable in", &self.dir))
    }

    /// What is here now, for whoever writes it out.
    pub(super) fn view(&self) -> Result<View, DataError> {
        let path = base_file(&self.dir, &self.record.base);
        if let Some(what) = &self.damage {
            return Err(DataError::Corrupt { what: what.clone(), path: self.dir.clone(), mend: MEND });
        }
        let base = File::open(&path).map_err(DataError::io("open the pages", &path))?;
        let logs = self.logs.iter().map(FrameLog::view).collect::<Result<_, _>>()?;
        Ok(View { base, path, record: self.record, logs, tail: self.tail })
    }

    /// Whether the frames have become many. Only between two transactions: a file of pages is as after one.
    pub(super) fn wants_folding(&self) -> bool {
        let frames: u64 = self.logs.iter().map(FrameLog::bytes).sum();
        let between = self.tail.commit == self.tail.place.frames;
        // Of no frames the same file would be made again, in its own place.
        let has_frames = self.tail.place.frames > self.record.base.place.frames;
        between && has_frames && self.is_whole() && frames >= FOLD_BYTES.max(self.record.base.bytes / 2)
    }

    /// Begins a new file of frames, and hands out what is to be made one file of pages. The file that an earlier fold began,
    /// which failed, serves again while it is empty: a second one would be made in its place.
    pub(super) fn begin_fold(&mut self) -> Result<View, DataError> {
        let view = self.view()?;
        let start = self.tail.place.frames;
        if self.logs.last().is_none_or(|last| last.start < start) {
            self.logs.push(new_log(&self.dir, &self.record, start)?);
        }
        Ok(view)
    }

    /// The file of pages that [`View::fold`] has made takes the place of what it was made of, after the caller has stored
    /// [`Self::record`]; then [`Self::forget_folded`].
    pub(super) fn end_fold(&mut self, base: Base) {
        self.record.base = base;
    }

    /// Removes files that the present base has taken in.
    pub(super) fn forget_folded(&mut self) {
        self.remove_leftovers();
        while self.logs.len() > 1 && self.logs[0].end <= self.record.base.place.frames {
            self.logs.remove(0).remove();
        }
    }

    /// Removes what nothing names: files of pages from before the last fold, or of one that was broken off, and a file of
    /// frames that was never begun. What cannot be removed costs room and nothing else.
    fn remove_leftovers(&self) {
        let base = base_file(&self.dir, &self.record.base);
        let is_leftover = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_base = name.starts_with("base-") && name.ends_with(".db");
            (is_base && *path != base) || (name.starts_with("frames-") && name.ends_with(".new"))
        };
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(is_leftover) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a file that is not needed any more stays");
            }
        }
    }

    /// Something in it is not what was written: a new copy is needed.
    pub(super) fn note_damage(&mut self, error: &DataError) {
        if let DataError::Corrupt { what, .. } = error {
            self.damage = Some(what.clone());
        }
    }

    /// Its directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Tail {
    fn at(base: &Base) -> Self {
        let frames = base.place.frames;
        Self { place: base.place, commit: frames, position: base.position, bytes: base.bytes, open_bytes: 0 }
    }

    fn take(&mut self, at: Moment, frames: &[u8], page_size: u32) -> Result<(), DataError> {
        let size = frame_bytes(page_size);
        let whole = frames.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX));
        if !whole.remainder().is_empty() || frames.is_empty() {
            return Err(DataError::Foreign("frames that are cut".to_owned()));
        }
        for frame in whole {
            let head = FrameHead::parse(frame).filter(|head| head.page > 0);
            let head = head.ok_or_else(|| DataError::Foreign("a frame of no page".to_owned()))?;
            self.place.frames += 1;
            self.place.sum = head.sum.into();
            self.open_bytes += size;
            if head.pages_after > 0 {
                self.commit = self.place.frames;
                self.position.commits += 1;
                self.position.bytes += self.open_bytes;
                self.position.at = at;
                self.bytes = u64::from(head.pages_after) * u64::from(page_size);
                self.open_bytes = 0;
            }
        }
        Ok(())
    }
}

impl View {
    /// What will be written out.
    pub(super) fn position(&self) -> Position {
        self.tail.position
    }

    /// Writes the database as it was after the last whole transaction into the new file `into`, and syncs it. Every byte
    /// that is read is checked.
    pub(super) fn write(&self, into: &Path) -> Result<File, DataError> {
        let failed = DataError::io("write the database", into);
        let made = File::options().read(true).write(true).create(true).truncate(true).open(into);
        let file = made.map_err(DataError::io("create the database", into))?;
        self.copy_base(&file, into)?;
        for log in &self.logs {
            log.each(|record| self.copy_frames(&record, &file, into))?;
        }
        file.set_len(self.tail.bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(file)
    }

    fn copy_base(&self, file: &File, into: &Path) -> Result<(), DataError> {
        let (mut buffer, mut at, mut crc) = (vec![0; COPY_BYTES], 0, 0);
        loop {
            let read = read_some(&self.base, &mut buffer, at)
                .map_err(DataError::io("read the pages", &self.path))?;
            crc = crc32c::crc32c_append(crc, &buffer[..read]);
            file.write_all_at(&buffer[..read], at).map_err(DataError::io("write the database", into))?;
            at += read as u64;
            if read < buffer.len() {
                break;
            }
        }
        let base = &self.record.base;
        if (at, crc) != (base.bytes, base.crc32c) {
            let what = "its pages are not what was written".to_owned();
            return Err(DataError::Corrupt { what, path: self.path.clone(), mend: MEND });
        }
        Ok(())
    }

    fn copy_frames(&self, record: &Record, file: &File, into: &Path) -> Result<(), DataError> {
        let page_size = u64::from(self.record.page_size);
        let size = usize::try_from(frame_bytes(self.record.page_size)).unwrap_or(usize::MAX);
        for (number, frame) in (record.from..self.tail.commit).zip(record.frames.chunks_exact(size)) {
            let Some(head) = FrameHead::parse(frame).filter(|_| number >= self.record.base.place.frames)
            else {
                continue;
            };
            let at = u64::from(head.page - 1) * page_size;
            file.write_all_at(&frame[FRAME_HEAD..], at).map_err(DataError::io("write the database", into))?;
        }
        Ok(())
    }

    /// Makes one file of pages of all this, beside the present one. When it fails it leaves nothing: a half of a file may take
    /// the room that the next frames need.
    pub(super) fn fold(&self, dir: &Path) -> Result<Base, DataError> {
        let base =
            Base { place: self.tail.place, position: self.tail.position, bytes: self.tail.bytes, crc32c: 0 };
        let path = base_file(dir, &base);
        let made = self.write_base(&path, dir);
        if made.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        Ok(Base { crc32c: made?, ..base })
    }

    fn write_base(&self, path: &Path, dir: &Path) -> Result<u32, DataError> {
        let file = self.write(path)?;
        let crc32c = crc_of(&file).map_err(DataError::io("read the pages", path))?;
        sync_dir(dir)?;
        Ok(crc32c)
    }
}

/// The file of pages of a base.
pub(super) fn base_file(dir: &Path, base: &Base) -> PathBuf {
    dir.join(format!("base-{:020}.db", base.place.frames))
}

/// The CRC-32C of a whole file.
pub(super) fn crc_of(file: &File) -> io::Result<u32> {
    let (mut buffer, mut at, mut crc) = (vec![0; COPY_BYTES], 0, 0);
    loop {
        let read = read_some(file, &mut buffer, at)?;
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
        at += read as u64;
        if read < buffer.len() {
            return Ok(crc);
        }
    }
}

/// A file for the frames from number `start` on. Durable on return, and all or nothing: a half of its header would be taken
/// for damage.
fn new_log(dir: &Path, record: &PartRecord, start: u64) -> Result<FrameLog, DataError> {
    let path = dir.join(format!("frames-{start:020}.log"));
    let mut log =
        FrameLog::create(path.with_extension("new"), record.base.place.chain, record.page_size, start)?;
    let placed = log.sync().and_then(|()| log.rename(path)).and_then(|()| sync_dir(dir));
    match placed {
        Ok(()) => Ok(log),
        Err(error) => {
            log.remove();
            Err(error)
        }
    }
}

/// The frames from the base on, without a gap; else why not. Files that the base has taken in are removed.
fn open_logs(
    dir: &Path,
    record: &PartRecord,
    tail: &mut Tail,
) -> Result<(Vec<FrameLog>, Option<String>), DataError> {
    let (mut logs, mut damage) = (Vec::<FrameLog>::new(), None);
    for (start, path) in list_logs(dir)? {
        let expected = logs.last().map_or(record.base.place.frames, |log| log.end);
        let mut reached = *tail;
        let log = FrameLog::open(path.clone(), |frames| {
            // Of a file that the base has taken in, nothing counts.
            if frames.from >= record.base.place.frames {
                reached.take(frames.at, &frames.frames, record.page_size)?;
            }
            Ok(())
        });
        let log = match log {
            Ok(log) => log,
            Err(error) => {
                damage = damage.or(Some(error.to_string()));
                continue;
            }
        };
        if log.end <= record.base.place.frames && log.start < record.base.place.frames {
            log.remove();
            continue;
        }
        if start != log.start || log.chain != record.base.place.chain || log.start != expected {
            damage = damage.or(Some(format!("frames from {expected} to {} are missing", log.start)));
            continue;
        }
        *tail = reached;
        logs.push(log);
    }
    Ok((logs, damage))
}

fn list_logs(dir: &Path) -> Result<BTreeMap<u64, PathBuf>, DataError> {
    let failed = DataError::io("list", dir);
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
    let number =
        |path: &Path| path.file_name()?.to_str()?.strip_prefix("frames-")?.strip_suffix(".log")?.parse().ok();
    let logs = entries.iter().map(std::fs::DirEntry::path);
    Ok(logs.filter_map(|path| Some((number(&path)?, path))).collect())
}

fn open_mark(dir: &Path) -> Result<File, DataError> {
    let path = dir.join("mark");
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    open.map_err(DataError::io("open", &path))
}

fn read_mark(mark: &File) -> Option<u64> {
    let mut bytes = [0; 12];
    mark.read_exact_at(&mut bytes, 0).ok()?;
    let (frames, crc) = bytes.split_first_chunk::<8>()?;
    (crc == crc32c::crc32c(frames).to_le_bytes()).then(|| u64::from_le_bytes(*frames))
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), DataError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(DataError::io("sync the directory", dir))
}

/// Puts a small file in place of an old one, durably.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(DataError::io("write", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

#[cfg(test)]
mod tests;
