//! The append-only journal: staging, appending, sealing, syncing, and what is found again after a crash.
//!
//! One thread appends. Entries are staged in memory and written in one call; a write that fails leaves the journal as it
//! was before. Nothing is promised before [`Journal::synced`] was told that the bytes are durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_core::moment::Moment;
use farshore_core::workload::Watermark;

use super::segment::{
    ENTRY_LEN, Entry, EntryKind, IndexEntry, PAYLOAD_MAX, Place, SEGMENT_HEADER_LEN, SLOT_LEN, SegmentHeader,
    Slot, Trailer, checksums, stored_len,
};
use super::shelf::{Shelf, read_up_to};
use super::state::{make_dir, sync_dir};

/// Staged bytes that are written out at once: large enough for the disk, small enough for memory.
const STAGED_MAX: usize = 4 * 1024 * 1024;

/// What is to be appended: an entry without its place.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) kind: EntryKind,
    pub(super) watermark: Watermark,
    pub(super) disk: u16,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) data: &'a [u8],
}

/// A sealed segment.
#[derive(Debug, Clone, Copy)]
struct Sealed {
    number: u32,
    entries_end: u32,
    bytes: u64,
    records: u64,
}

/// The segment that is being written.
#[derive(Debug)]
struct Current {
    number: u32,
    file: Arc<File>,
    end: u32,
    index: Vec<IndexEntry>,
    marks: Vec<u32>,
    records: u32,
}

/// Entries waiting to be written, and what the current segment will be after that.
#[derive(Debug, Default)]
struct Staged {
    bytes: Vec<u8>,
    index: Vec<IndexEntry>,
    marks: Vec<u32>,
    records: u32,
    last: Option<Watermark>,
}

/// The journal of one machine.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    shelf: Arc<Shelf>,
    segment_bytes: u64,
    sealed: Vec<Sealed>,
    current: Option<Current>,
    staged: Staged,
    last: Watermark,
    synced_file: File,
    slot: Slot,
}

/// A mark found in the journal: a point or the bounds of a catch-up.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) entry: Entry,
    pub(super) payload: Vec<u8>,
}

/// What was found when the journal was opened.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) journal: Journal,
    pub(super) marks: Vec<Mark>,
    /// Everything from here on is damaged or unreachable.
    pub(super) damaged_at: Option<Place>,
}

impl Journal {
    /// Makes an empty journal; the position before its first entry is `before`.
    pub(super) fn create(dir: &Path, segment_bytes: u64, before: Watermark) -> io::Result<Self> {
        make_dir(dir)?;
        let synced_file = open_synced(dir)?;
        sync_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            shelf: Arc::new(Shelf::new(dir)),
            segment_bytes,
            sealed: Vec::new(),
            current: None,
            staged: Staged::default(),
            last: before,
            synced_file,
            slot: Slot::default(),
        })
    }

    /// Opens the journal as a crash left it. `base`: everything before it is folded into the disks and may be gone;
    /// `before` is the position there.
    pub(super) fn open(dir: &Path, segment_bytes: u64, base: Place, before: Watermark) -> io::Result<Found> {
        let mut journal = Self::create(dir, segment_bytes, before)?;
        journal.slot = read_slot(&journal.synced_file)?;
        let numbers = segment_numbers(dir)?;
        let mut found = Found { journal, marks: Vec::new(), damaged_at: None };
        let first = base.segment.max(1);
        for number in numbers.iter().filter(|&&number| number < first) {
            found.journal.remove_segment(*number)?;
        }
        let last =
            numbers.last().copied().unwrap_or(0).max(found.journal.slot.place.segment).max(base.segment);
        for number in first..=last {
            found.damaged_at = found.journal.take_in(number, number == last, &mut found.marks)?;
            if found.damaged_at.is_some() {
                break;
            }
        }
        found.marks.retain(|mark| mark.entry.place >= base);
        Ok(found)
    }

    /// Reads one segment in. Returns where it is damaged; the entries before the damage were taken.
    fn take_in(&mut self, number: u32, is_last: bool, marks: &mut Vec<Mark>) -> io::Result<Option<Place>> {
        let acknowledged = self.slot.place.segment >= number;
        let start = Place { segment: number, pos: 0 };
        if !self.shelf.path(number).exists() {
            self.shelf.damage(start, "the file is missing");
            return Ok(Some(start));
        }
        if let Some(trailer) = self.shelf.trailer(number)?
            && let Some(positions) = self.shelf.marks(&trailer)?
        {
            return self.take_sealed(&trailer, &positions, marks);
        }
        if let Err(what) = self.shelf.header(number)? {
            if is_last && !acknowledged {
                // The crash came while the segment was being made: nothing in it was acknowledged.
                self.remove_segment(number)?;
                return Ok(None);
            }
            self.shelf.damage(start, what);
            return Ok(Some(start));
        }
        self.scan(number, is_last, marks)
    }

    fn take_sealed(
        &mut self,
        trailer: &Trailer,
        positions: &[u32],
        marks: &mut Vec<Mark>,
    ) -> io::Result<Option<Place>> {
        self.last = trailer.after;
        self.sealed.push(Sealed {
            number: trailer.number,
            entries_end: trailer.entries_end,
            bytes: self.shelf.file(trailer.number)?.metadata()?.len(),
            records: u64::from(trailer.records),
        });
        for &pos in positions {
            let place = Place { segment: trailer.number, pos };
            let read = self
                .shelf
                .entry(place)
                .and_then(|entry| Ok(Mark { entry, payload: self.shelf.payload(&entry)? }));
            match read {
                Ok(mark) => marks.push(mark),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Some(place)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads the entries of a segment without a usable footer one by one.
    fn scan(&mut self, number: u32, is_last: bool, marks: &mut Vec<Mark>) -> io::Result<Option<Place>> {
        let file = OpenOptions::new().read(true).write(true).open(self.shelf.path(number))?;
        let mut current = Current {
            number,
            file: Arc::new(file),
            end: u32::try_from(SEGMENT_HEADER_LEN).expect("small"),
            index: Vec::new(),
            marks: Vec::new(),
            records: 0,
        };
        let file_len = current.file.metadata()?.len();
        let mut window = Window::new(Arc::clone(&current.file));
        let mut problem = None;
        while u64::from(current.end) < file_len {
            let place = Place { segment: number, pos: current.end };
            let entry = match Entry::decode(window.at(u64::from(place.pos))?, place) {
                Ok(entry) => entry,
                Err(what) => {
                    problem = Some(what);
                    break;
                }
            };
            if !self.check_scanned(&entry, file_len, marks)? {
                problem = Some("the payload is damaged or cut short");
                break;
            }
            self.last = entry.watermark;
            current.take(&entry);
        }
        let place = Place { segment: number, pos: current.end };
        let complete = place >= self.slot.place;
        if is_last && complete {
            // What stands behind was being written when the crash came: nobody was told that it is safe.
            current.file.set_len(u64::from(current.end))?;
            self.current = Some(current);
            return Ok(None);
        }
        if !is_last && self.continues(place)? {
            self.put_away(current)?;
            return Ok(None);
        }
        self.shelf.damage(place, problem.unwrap_or("the file is cut short"));
        self.current = Some(current);
        Ok(Some(place))
    }

    /// Checks what the header alone does not prove. Payloads that were acknowledged are checked when they are read.
    fn check_scanned(&self, entry: &Entry, file_len: u64, marks: &mut Vec<Mark>) -> io::Result<bool> {
        if entry.next_pos() > file_len.next_multiple_of(8) {
            return Ok(false);
        }
        if entry.kind.is_data() && entry.place < self.slot.place {
            return Ok(true);
        }
        match self.shelf_quietly().payload(entry) {
            Ok(payload) => {
                if !entry.kind.is_data() {
                    marks.push(Mark { entry: *entry, payload });
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A shelf whose findings are not remembered: a torn tail is no damage.
    fn shelf_quietly(&self) -> Shelf {
        Shelf::new(&self.dir)
    }

    /// Whether the segment after that of `end` says that its predecessor's entries ended there.
    fn continues(&self, end: Place) -> io::Result<bool> {
        let next = end.segment + 1;
        if !self.shelf.path(next).exists() {
            return Ok(false);
        }
        Ok(self.shelf.header(next)?.is_ok_and(|header| header.previous_end == end.pos))
    }

    /// Writes the footer of a scanned segment anew, so that its index is found from now on.
    fn put_away(&mut self, current: Current) -> io::Result<()> {
        current.file.set_len(u64::from(current.end))?;
        self.current = Some(current);
        self.seal()
    }

    /// The segments, for reading.
    pub(super) fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// The position after the last entry written.
    pub(super) fn last(&self) -> Watermark {
        self.last
    }

    /// The place after the last entry written.
    pub(super) fn end(&self) -> Place {
        match (&self.current, self.sealed.last()) {
            (Some(current), _) => Place { segment: current.number, pos: current.end },
            (None, Some(sealed)) => Place { segment: sealed.number, pos: sealed.entries_end },
            (None, None) => Place::default(),
        }
    }

    /// Bytes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, |current| u64::from(current.end));
        current + self.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>()
    }

    /// Records in all segments that are still there.
    pub(super) fn records(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, |current| u64::from(current.records));
        current + self.sealed.iter().map(|sealed| sealed.records).sum::<u64>()
    }

    /// What was last heard of the source.
    pub(super) fn source(&self) -> (Watermark, Moment) {
        (self.slot.source, self.slot.seen)
    }

    /// Says where the history starts; only for an empty journal.
    pub(super) fn start_at(&mut self, at: Watermark) {
        self.last = at;
    }

    /// Puts an entry into the stage and returns where it will stand.
    pub(super) fn stage(&mut self, draft: &Draft<'_>) -> io::Result<Place> {
        if draft.data.len() > PAYLOAD_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a write of {} bytes is longer than {PAYLOAD_MAX}: split it", draft.data.len()),
            ));
        }
        if self.staged.bytes.len() >= STAGED_MAX {
            self.write_out()?;
        }
        let checks = checksums(draft.data);
        let payload_len = checks.table.len() + draft.data.len();
        let place = self.make_room()?;
        let entry = Entry {
            kind: draft.kind,
            place,
            watermark: draft.watermark,
            disk: draft.disk,
            offset: draft.offset,
            len: draft.len,
            payload_len: u32::try_from(payload_len).expect("payloads are limited to 64 MiB"),
            payload_crc: checks.crc,
        };
        let staged = &mut self.staged;
        let before = staged.bytes.len();
        staged.bytes.extend_from_slice(&entry.encode());
        staged.bytes.extend_from_slice(&checks.table);
        staged.bytes.extend_from_slice(draft.data);
        let stored = usize::try_from(stored_len(payload_len as u64)).expect("payloads fit in memory");
        staged.bytes.resize(before + stored, 0);
        match IndexEntry::of(&entry) {
            Some(index) => staged.index.push(index),
            None => staged.marks.push(place.pos),
        }
        staged.records += u32::from(entry.kind.is_record());
        staged.last = Some(draft.watermark);
        Ok(place)
    }

    /// Makes sure that there is a segment with room, and returns where the next entry will stand.
    fn make_room(&mut self) -> io::Result<Place> {
        let staged = self.staged.bytes.len() as u64;
        let is_full = self
            .current
            .as_ref()
            .is_some_and(|current| u64::from(current.end) + staged >= self.segment_bytes);
        if is_full {
            self.write_out()?;
            self.seal()?;
        }
        if self.current.is_none() {
            self.start_segment()?;
        }
        let current = self.current.as_ref().expect("started above");
        let pos = u64::from(current.end) + self.staged.bytes.len() as u64;
        Ok(Place { segment: current.number, pos: u32::try_from(pos).expect("segments are far below 4 GiB") })
    }

    fn start_segment(&mut self) -> io::Result<()> {
        let number = self.sealed.last().map_or(self.slot.place.segment, |sealed| sealed.number) + 1;
        let path = self.shelf.path(number);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let previous_end = self.sealed.last().map_or(0, |sealed| sealed.entries_end);
        let header = SegmentHeader { number, previous_end, before: self.last };
        let written = file.write_all_at(&header.encode(), 0).and_then(|()| sync_dir(&self.dir));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        self.current = Some(Current {
            number,
            file: Arc::new(file),
            end: u32::try_from(SEGMENT_HEADER_LEN).expect("small"),
            index: Vec::new(),
            marks: Vec::new(),
            records: 0,
        });
        Ok(())
    }

    /// Writes what is staged. On an error the journal is as it was before the first staged entry.
    pub(super) fn write_out(&mut self) -> io::Result<()> {
        let staged = std::mem::take(&mut self.staged);
        let (Some(last), Some(current)) = (staged.last, self.current.as_mut()) else { return Ok(()) };
        if let Err(error) = current.file.write_all_at(&staged.bytes, u64::from(current.end)) {
            let _ = current.file.set_len(u64::from(current.end));
            return Err(error);
        }
        current.end += u32::try_from(staged.bytes.len()).expect("segments are far below 4 GiB");
        current.index.extend(staged.index);
        current.marks.extend(staged.marks);
        current.records += staged.records;
        self.last = last;
        Ok(())
    }

    /// Forgets what is staged.
    pub(super) fn drop_staged(&mut self) {
        self.staged = Staged::default();
    }

    /// Ends the current segment with its footer and makes it durable.
    fn seal(&mut self) -> io::Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let mut index = Vec::with_capacity(current.index.len() * super::segment::INDEX_LEN);
        for entry in &current.index {
            entry.encode(&mut index);
        }
        let marks: Vec<u8> = current.marks.iter().flat_map(|pos| pos.to_le_bytes()).collect();
        let trailer = Trailer {
            number: current.number,
            data: u32::try_from(current.index.len()).expect("an entry has 80 bytes, a segment under 4 GiB"),
            marks: u32::try_from(current.marks.len()).expect("an entry has 80 bytes, a segment under 4 GiB"),
            entries_end: current.end,
            index_crc: crc32c::crc32c(&index),
            marks_crc: crc32c::crc32c(&marks),
            records: current.records,
            after: self.last,
        };
        index.extend_from_slice(&marks);
        index.extend_from_slice(&trailer.encode());
        if let Err(error) = current.file.write_all_at(&index, u64::from(current.end)) {
            let _ = current.file.set_len(u64::from(current.end));
            return Err(error);
        }
        current.file.sync_data().map_err(SyncFailed::wrap)?;
        self.sealed.push(Sealed {
            number: current.number,
            entries_end: current.end,
            bytes: u64::from(current.end) + index.len() as u64,
            records: u64::from(current.records),
        });
        self.current = None;
        Ok(())
    }

    /// The file to sync so that everything before [`Journal::end`] is durable. `None`: it already is.
    pub(super) fn unsynced_file(&self) -> Option<Arc<File>> {
        self.current.as_ref().map(|current| Arc::clone(&current.file))
    }

    /// Remembers that everything before `place` is durable and will be acknowledged.
    pub(super) fn synced(&mut self, place: Place) -> io::Result<()> {
        if place <= self.slot.place {
            return Ok(());
        }
        self.slot.place = place;
        self.write_slot()
    }

    /// Remembers the source's last sign of life.
    pub(super) fn source_alive(&mut self, head: Watermark, now: Moment) -> io::Result<()> {
        self.slot.source = self.slot.source.max(head);
        self.slot.seen = self.slot.seen.max(now);
        self.write_slot()
    }

    fn write_slot(&mut self) -> io::Result<()> {
        self.slot.turn += 1;
        self.synced_file.write_all_at(&self.slot.encode(), (self.slot.turn % 2) * SLOT_LEN as u64)
    }

    /// All data entries from `from` (inclusive) to `to` (exclusive), segment by segment.
    pub(super) fn for_each_segment(
        &self,
        from: Place,
        to: Place,
        mut each: impl FnMut(u32, &[IndexEntry]) -> io::Result<()>,
    ) -> io::Result<()> {
        let current = self.current.as_ref().map(|current| current.number);
        for number in self.sealed.iter().map(|sealed| sealed.number).chain(current) {
            let mut result = Ok(());
            self.for_each_in(number, from, to, |entries| result = each(number, entries))?;
            result?;
        }
        Ok(())
    }

    /// The data entries of one segment that lie from `from` (inclusive) to `to` (exclusive).
    pub(super) fn for_each_in(
        &self,
        number: u32,
        from: Place,
        to: Place,
        each: impl FnOnce(&[IndexEntry]),
    ) -> io::Result<()> {
        if number < from.segment || number > to.segment {
            return Ok(());
        }
        let inside = |entries: &[IndexEntry]| {
            let place = |entry: &IndexEntry| Place { segment: number, pos: entry.pos };
            let start = entries.partition_point(|entry| place(entry) < from);
            let end = entries.partition_point(|entry| place(entry) < to);
            start..end.max(start)
        };
        if let Some(current) = self.current.as_ref().filter(|current| current.number == number) {
            each(&current.index[inside(&current.index)]);
        } else if let Some(sealed) = self.sealed.iter().find(|sealed| sealed.number == number) {
            let entries = self.sealed_index(sealed)?;
            each(&entries[inside(&entries)]);
        }
        Ok(())
    }

    /// The index of a sealed segment; when its footer is damaged, from the entries themselves.
    fn sealed_index(&self, sealed: &Sealed) -> io::Result<Vec<IndexEntry>> {
        if let Some(trailer) = self.shelf.trailer(sealed.number)?
            && let Some(index) = self.shelf.index(&trailer)?
        {
            return Ok(index);
        }
        let mut index = Vec::new();
        let mut pos = u32::try_from(SEGMENT_HEADER_LEN).expect("small");
        while pos < sealed.entries_end {
            let entry = self.shelf.entry(Place { segment: sealed.number, pos })?;
            index.extend(IndexEntry::of(&entry));
            pos = u32::try_from(entry.next_pos()).unwrap_or(u32::MAX);
        }
        Ok(index)
    }

    /// Deletes the sealed segments that lie wholly before `place`.
    pub(super) fn delete_before(&mut self, place: Place) -> io::Result<()> {
        while let Some(first) = self.sealed.first().copied() {
            if first.number >= place.segment {
                break;
            }
            self.remove_segment(first.number)?;
            self.sealed.remove(0);
        }
        Ok(())
    }

    fn remove_segment(&self, number: u32) -> io::Result<()> {
        self.shelf.forget(number);
        match std::fs::remove_file(self.shelf.path(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_dir(&self.dir),
        }
    }
}

impl Current {
    fn take(&mut self, entry: &Entry) {
        self.end = u32::try_from(entry.next_pos()).expect("checked against the file's length");
        match IndexEntry::of(entry) {
            Some(index) => self.index.push(index),
            None => self.marks.push(entry.place.pos),
        }
        self.records += u32::from(entry.kind.is_record());
    }
}

impl IndexEntry {
    /// What the footer keeps of a data entry; `None` for a mark.
    fn of(entry: &Entry) -> Option<Self> {
        entry.kind.is_data().then_some(Self {
            pos: entry.place.pos,
            kind: entry.kind,
            disk: entry.disk,
            offset: entry.offset,
            len: entry.len,
        })
    }
}

/// Marks an error after which what is on the disk is unknown: the kernel may have dropped the pages.
#[derive(Debug, thiserror::Error)]
#[error(
    "the disk under the replica failed to make data durable ({0}): nothing more is accepted; check the disk"
)]
pub(super) struct SyncFailed(io::Error);

impl SyncFailed {
    pub(super) fn wrap(error: io::Error) -> io::Error {
        io::Error::new(error.kind(), Self(error))
    }

    pub(super) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// Reads entry headers through a buffer, so that a scan of small entries costs few calls.
struct Window {
    file: Arc<File>,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn new(file: Arc<File>) -> Self {
        Self { file, start: 0, bytes: Vec::new() }
    }

    /// The bytes of a header at `offset`, fewer at the end of the file.
    fn at(&mut self, offset: u64) -> io::Result<&[u8]> {
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + ENTRY_LEN as u64 > end {
            self.bytes.resize(256 * 1024, 0);
            let have = read_up_to(&self.file, &mut self.bytes, offset)?;
            self.bytes.truncate(have);
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).expect("inside the window");
        Ok(&self.bytes[from..self.bytes.len().min(from + ENTRY_LEN)])
    }
}

fn open_synced(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join("synced"))
}

fn read_slot(file: &File) -> io::Result<Slot> {
    let mut bytes = [0; 2 * SLOT_LEN];
    let have = read_up_to(file, &mut bytes, 0)?;
    let slots = bytes[..have].chunks(SLOT_LEN).filter_map(Slot::decode);
    Ok(slots.max_by_key(|slot| slot.turn).unwrap_or_default())
}

/// Numbers of the segments in the directory, sorted.
fn segment_numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let name = file?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("seg-")?.strip_suffix(".fsj"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
