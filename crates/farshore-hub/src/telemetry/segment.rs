//! One file of a log: a head of 4 KiB, then frames, then zeros up to what is allocated ahead.
//!
//! The head names the region and the first offset, which never change, and holds two *marks*: up to where the file was
//! durable when the mark was written, and which offset comes there. A mark is written after each batch and becomes
//! durable with the next one at the latest. What is before the mark and does not read is damage; after it, a torn tail.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use farshore_core::ids::Region;
use farshore_core::moment::Moment;

use super::error::{Damage, TelemetryError};
use super::frame::{self, FRAME_BYTES_MAX, Head, Parsed};
use super::head::{HEAD_BYTES, MARKS_AT, Mark, best_mark, head, is_named, is_spoilt, mark_bytes, marks};

/// An entry of the index for at least so many bytes: what is read in vain to find an event.
const INDEX_STEP: u64 = 16 * 1024;

/// What is written of a spoilt head: not its marks.
const SECTOR: usize = 512;

/// What is read at once.
const CHUNK_BYTES: usize = 128 * 1024;

/// Ending of a segment's file name.
pub(super) const ENDING: &str = "log";

#[derive(Debug, Clone, Copy)]
struct Entry {
    mark: Mark,
    enqueued: Moment,
}

/// What is known of the frames. For a file that was only named so far, nothing.
#[derive(Debug, Default)]
struct Known {
    index: Vec<Entry>,
    damage: Vec<Damage>,
    newest: Moment,
    is_scanned: bool,
}

/// A file of frames that are durable up to `end`.
#[derive(Debug)]
pub(super) struct Segment {
    region: Region,
    path: PathBuf,
    file: File,
    first: u64,
    end: RwLock<Mark>,
    known: RwLock<Known>,
}

impl Segment {
    /// Makes an empty one. On return it is durable, with its name.
    pub(super) fn create(dir: &Path, region: &Region, first: u64) -> Result<Self, TelemetryError> {
        let path = dir.join(format!("{first:020}.{ENDING}"));
        let unready = path.with_extension("new");
        let make = || -> std::io::Result<File> {
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unready)?;
            file.write_all_at(&head(region, first), 0)?;
            file.sync_all()?;
            std::fs::rename(&unready, &path)?;
            File::open(dir)?.sync_all()?;
            Ok(file)
        };
        let file = make().map_err(|error| {
            let _ = std::fs::remove_file(&unready);
            TelemetryError::disk("create", &path)(error)
        })?;
        let known = Known { is_scanned: true, ..Known::default() };
        let end = Mark { at: HEAD_BYTES, offset: first };
        Ok(Self {
            region: region.clone(),
            path,
            file,
            first,
            end: RwLock::new(end),
            known: RwLock::new(known),
        })
    }

    /// Opens one that exists, without reading its frames. `following`: first offset of the next segment, if there is one.
    pub(super) fn open(path: &Path, region: &Region, following: Option<u64>) -> Result<Self, TelemetryError> {
        let foreign = |why| TelemetryError::Foreign { path: path.to_owned(), why };
        let disk = |error| TelemetryError::disk("open", path)(error);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(disk)?;
        let mut bytes = [0; HEAD_BYTES as usize];
        file.read_exact_at(&mut bytes, 0).map_err(|_| foreign("it is shorter than its head"))?;
        let first = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok())
            .ok_or_else(|| foreign("its name is no offset"))?;
        let len = file.metadata().map_err(disk)?.len();
        if !is_named(&bytes, region, first) {
            if !is_spoilt(&bytes, &first_frame(&file, len).map_err(disk)?, first) {
                return Err(foreign("its head does not name this region and offset"));
            }
            tracing::error!(path = %path.display(), "the head of a file of telemetry was spoilt, and is written again");
            let written = file.write_all_at(&head(region, first)[..SECTOR], 0).and_then(|()| file.sync_all());
            written.map_err(disk)?;
        }
        let end = match (best_mark(&bytes), following) {
            (Some(mark), _) => mark,
            (None, Some(next)) => Mark { at: len, offset: next },
            (None, None) => Mark { at: HEAD_BYTES, offset: first },
        };
        Ok(Self {
            region: region.clone(),
            path: path.to_owned(),
            file,
            first,
            end: RwLock::new(end),
            known: RwLock::default(),
        })
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The offset after the last durable event.
    pub(super) fn next(&self) -> u64 {
        self.end().offset
    }

    /// Durable bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.end().at
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn end(&self) -> Mark {
        *self.end.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the mark of what is durable. It need not be durable itself.
    pub(super) fn write_mark(&self, mark: Mark, slot: usize) -> Result<(), TelemetryError> {
        let place = MARKS_AT[slot % MARKS_AT.len()];
        self.file.write_all_at(&mark_bytes(mark), place).map_err(TelemetryError::disk("mark", &self.path))
    }

    /// Tells readers of frames that are durable now. `heads`: each with where it starts.
    pub(super) fn publish(&self, heads: &[(u64, Head)], end: Mark) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (at, head) in heads {
            known.note(*at, head);
        }
        drop(known);
        *self.end.write().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// Reads all frames, once; `visit` is given each. Damaged places are returned, and met again by who reads there.
    pub(super) fn scan(&self, visit: &mut dyn FnMut(&Head, &[u8])) -> Result<Vec<Damage>, TelemetryError> {
        let end = self.end();
        let bytes = self.bytes_to(end.at)?;
        let mut known = Known { is_scanned: true, ..Known::default() };
        let mut start = Mark { at: HEAD_BYTES, offset: self.first };
        for trusted in self.trusted(end) {
            let walk = walk(&bytes, start, trusted.at, &mut |at, head, payload| {
                known.note(at, head);
                visit(head, payload);
            });
            if walk.end != trusted {
                let why = walk.why.unwrap_or("its events are not those that the mark names");
                known.damage.push(self.damage(walk.end, trusted.offset, why));
            }
            start = trusted;
        }
        let damage = known.damage.clone();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(damage)
    }

    /// Finds the end of a file that was not sealed: everything after the mark that reads as a frame; the rest is cut.
    /// Returns how many bytes were cut, without the zeros at the end.
    pub(super) fn recover(&self) -> Result<u64, TelemetryError> {
        let disk = |error| TelemetryError::disk("recover", &self.path)(error);
        let len = self.file.metadata().map_err(disk)?.len();
        let mark = self.end();
        if len <= mark.at {
            return Ok(0);
        }
        let bytes = self.bytes_to(len)?;
        let end = walk(&bytes, mark, len, &mut |_, _, _| {}).end;
        let torn =
            bytes[place(end.at)..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        self.file.set_len(end.at).map_err(disk)?;
        self.file.sync_all().map_err(disk)?;
        *self.end.write().unwrap_or_else(PoisonError::into_inner) = end;
        Ok(torn)
    }

    /// The frames from `offset` on, as one piece of at most `bytes_max` bytes, but at least one frame. Empty at the end.
    pub(super) fn read(&self, offset: u64, bytes_max: usize) -> Result<Piece, TelemetryError> {
        self.ensure_scanned()?;
        let end = self.end();
        let from = self.locate(offset)?;
        let mut want = (end.at - from.at).min(bytes_max.clamp(CHUNK_BYTES / 8, CHUNK_BYTES) as u64);
        loop {
            let mut bytes = vec![0; usize::try_from(want).expect("segments fit in memory")];
            self.file.read_exact_at(&mut bytes, from.at).map_err(TelemetryError::disk("read", &self.path))?;
            match self.piece(bytes.into(), from, offset, end) {
                Ok(piece) => return Ok(piece),
                Err(Unread::Longer(need)) => want = need,
                Err(Unread::Damaged(at, why)) => {
                    let damage = self.damage(at, self.trusted_after(at, end).offset, why);
                    return Err(TelemetryError::Damaged(self.met(damage)));
                }
            }
        }
    }

    /// The first offset that was enqueued at `moment` or later.
    pub(super) fn since(&self, moment: Moment) -> Result<u64, TelemetryError> {
        self.ensure_scanned()?;
        let mut at = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let later = known.index.partition_point(|entry| entry.enqueued < moment);
            known.index.get(later.saturating_sub(1)).map_or(self.first, |entry| entry.mark.offset)
        };
        while at < self.next() {
            let piece = match self.read(at, CHUNK_BYTES) {
                Err(TelemetryError::Damaged(damage)) => {
                    at = damage.next;
                    continue;
                }
                read => read?,
            };
            for (head, _) in piece.frames() {
                if head.enqueued >= moment {
                    return Ok(head.offset);
                }
                at = head.offset + 1;
            }
        }
        Ok(at)
    }

    /// How many bytes of frames are at and after `offset`, give or take a step of the index.
    pub(super) fn bytes_from(&self, offset: u64) -> Result<u64, TelemetryError> {
        self.ensure_scanned()?;
        let from = match self.locate(offset.max(self.first)) {
            Err(TelemetryError::Damaged(damage)) => damage.at,
            mark => mark?.at,
        };
        Ok(self.end().at.saturating_sub(from))
    }

    /// When its last readable event came in. It is never underestimated for a file that was written here.
    pub(super) fn newest(&self) -> Result<Moment, TelemetryError> {
        self.ensure_scanned()?;
        Ok(self.known.read().unwrap_or_else(PoisonError::into_inner).newest)
    }

    /// Damaged places that were met so far.
    pub(super) fn damages(&self) -> Vec<Damage> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).damage.clone()
    }

    /// Remembers a damaged place.
    fn met(&self, damage: Damage) -> Damage {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if !known.damage.iter().any(|other| other.offset == damage.offset) {
            tracing::error!("{damage}");
            known.damage.push(damage.clone());
        }
        damage
    }

    /// Reads a file that is not written any more once again, and tells of damage that nobody had met.
    pub(super) fn check(&self) -> Result<(), TelemetryError> {
        let before = self.damages();
        let is_new = |damage: &&Damage| before.iter().all(|known| known.offset != damage.offset);
        self.scan(&mut |_, _| {})?.iter().filter(is_new).for_each(|damage| tracing::error!("{damage}"));
        Ok(())
    }

    /// Writes frames over a damaged place, and looks at the file again. Frames are the same in every copy, so they fit.
    pub(super) fn mend(&self, at: u64, frames: &[u8]) -> Result<Vec<Damage>, TelemetryError> {
        let room = self.end().at.saturating_sub(at);
        if frames.len() as u64 <= room {
            let written = self.file.write_all_at(frames, at).and_then(|()| self.file.sync_data());
            written.map_err(TelemetryError::disk("mend", &self.path))?;
        }
        self.scan(&mut |_, _| {})
    }

    fn ensure_scanned(&self) -> Result<(), TelemetryError> {
        if !self.known.read().unwrap_or_else(PoisonError::into_inner).is_scanned {
            self.scan(&mut |_, _| {})?;
        }
        Ok(())
    }

    /// A start of a frame at or before `offset`, as near as is known; past a damaged place if that is where it lies.
    fn locate(&self, offset: u64) -> Result<Mark, TelemetryError> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(damage) =
            known.damage.iter().find(|damage| (damage.offset..damage.next).contains(&offset))
        {
            return Err(TelemetryError::Damaged(Damage { offset, ..damage.clone() }));
        }
        let after = known.index.partition_point(|entry| entry.mark.offset <= offset);
        let first = Mark { at: HEAD_BYTES, offset: self.first };
        Ok(known.index.get(after.wrapping_sub(1)).map_or(first, |entry| entry.mark))
    }

    fn piece(&self, bytes: Bytes, from: Mark, offset: u64, end: Mark) -> Result<Piece, Unread> {
        let (mut at, mut wanted, mut start) = (0, from.offset, None);
        let stop = loop {
            if from.at + at as u64 >= end.at {
                break Ok(());
            }
            match frame::parse(&bytes[at..]) {
                Parsed::Frame(head, _) if head.offset == wanted => {
                    if wanted == offset {
                        start = Some(at);
                    }
                    at += head.total();
                    wanted += 1;
                }
                Parsed::Short { need } => break Err(Unread::Longer((at + need) as u64)),
                Parsed::Frame(..) => {
                    break Err(Unread::Damaged(here(from, at, wanted), "another event is there"));
                }
                Parsed::End => break Err(Unread::Damaged(here(from, at, wanted), "there is nothing")),
                Parsed::Bad(why) => break Err(Unread::Damaged(here(from, at, wanted), why)),
            }
        };
        match (start, stop) {
            (Some(start), _) => Ok(Piece { bytes: bytes.slice(start..at) }),
            (None, Ok(())) => Ok(Piece { bytes: Bytes::new() }),
            (None, Err(Unread::Longer(need))) if from.at + need > end.at => {
                Err(Unread::Damaged(here(from, at, wanted), "it is longer than the file"))
            }
            (None, Err(unread)) => Err(unread),
        }
    }

    fn damage(&self, from: Mark, next: u64, why: &'static str) -> Damage {
        Damage {
            region: self.region.clone(),
            offset: from.offset,
            next,
            file: self.path.clone(),
            at: from.at,
            why,
        }
    }

    /// Places that are known to be starts of frames without reading what is before them, in order; the end is the last.
    fn trusted(&self, end: Mark) -> Vec<Mark> {
        let mut bytes = [0; HEAD_BYTES as usize];
        let mut marks: Vec<_> = match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => marks(&bytes).into_iter().flatten().filter(|mark| mark.at < end.at).collect(),
            Err(_) => Vec::new(),
        };
        // What was seen or written by this process: a damaged place does not hide more than is between two of these.
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        marks.extend(known.index.iter().map(|entry| entry.mark));
        drop(known);
        marks.retain(|mark| mark.at > HEAD_BYTES && mark.at < end.at && mark.offset < end.offset);
        marks.sort_unstable_by_key(|mark| mark.at);
        marks.dedup();
        marks.push(end);
        marks
    }

    fn trusted_after(&self, at: Mark, end: Mark) -> Mark {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let after = known.index.partition_point(|entry| entry.mark.offset <= at.offset);
        known.index.get(after).map_or(end, |entry| entry.mark)
    }

    /// The file from its start to `end`, or to where it really ends.
    fn bytes_to(&self, end: u64) -> Result<Vec<u8>, TelemetryError> {
        let disk = |error| TelemetryError::disk("read", &self.path)(error);
        let len = self.file.metadata().map_err(disk)?.len().min(end);
        let mut bytes = vec![0; place(len)];
        self.file.read_exact_at(&mut bytes, 0).map_err(disk)?;
        Ok(bytes)
    }
}

impl Known {
    fn note(&mut self, at: u64, head: &Head) {
        let is_far = self.index.last().is_none_or(|last| at >= last.mark.at + INDEX_STEP);
        if is_far {
            self.index.push(Entry { mark: Mark { at, offset: head.offset }, enqueued: head.enqueued });
        }
        self.newest = self.newest.max(head.enqueued);
    }
}

enum Unread {
    Longer(u64),
    Damaged(Mark, &'static str),
}

fn here(from: Mark, at: usize, offset: u64) -> Mark {
    Mark { at: from.at + at as u64, offset }
}

/// Frames that follow each other, checked.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
}

impl Piece {
    /// Each frame: its header, and where its payload is.
    pub(super) fn frames(&self) -> impl Iterator<Item = (Head, Bytes)> + Send + use<> {
        let mut rest = self.bytes.clone();
        std::iter::from_fn(move || {
            let Parsed::Frame(head, _) = frame::parse(&rest) else { return None };
            let mut whole = rest.split_to(head.total());
            Some((head, whole.split_off(frame::HEADER_BYTES)))
        })
    }
}

/// As many bytes after the head as a frame can have.
fn first_frame(file: &File, len: u64) -> std::io::Result<Vec<u8>> {
    let most = (frame::HEADER_BYTES + FRAME_BYTES_MAX) as u64;
    let mut bytes = vec![0; place(len.saturating_sub(HEAD_BYTES).min(most))];
    file.read_exact_at(&mut bytes, HEAD_BYTES)?;
    Ok(bytes)
}

struct Walk {
    end: Mark,
    why: Option<&'static str>,
}

/// Goes from frame to frame, up to byte `limit` or to the first place that is not the next frame.
fn walk(bytes: &[u8], start: Mark, limit: u64, visit: &mut dyn FnMut(u64, &Head, &[u8])) -> Walk {
    let mut end = start;
    let why = loop {
        if end.at >= limit {
            break None;
        }
        let rest = bytes.get(place(end.at)..).unwrap_or_default();
        match frame::parse(rest) {
            Parsed::Frame(head, payload) if head.offset == end.offset => {
                visit(end.at, &head, payload);
                end = Mark { at: end.at + head.total() as u64, offset: end.offset + 1 };
            }
            Parsed::Frame(..) => break Some("another event is there"),
            Parsed::Short { .. } => break Some("it is longer than the file"),
            Parsed::End => break Some("there is nothing"),
            Parsed::Bad(why) => break Some(why),
        }
    };
    Walk { end, why }
}

fn place(at: u64) -> usize {
    usize::try_from(at).expect("segments fit in memory")
}
