//! The write log: the header of every accepted write, in the page cache before the write reaches its disk.
//!
//! A row of files (segments) of fixed-size entries; an entry's place follows from its sequence number, so writers need
//! no order among themselves. The log survives the death of the process; a power cut may take its tail.
//! `docs/formats/write-log.md` shows the bytes.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use farshore_core::ids::Epoch;
use farshore_core::moment::Moment;
use farshore_core::workload::Watermark;

use crate::record::Range;

/// Bytes of one entry and of a segment's header.
pub(super) const ENTRY_LEN: u64 = 64;
/// First bytes of a segment: `FSLOG`, version 1.
const SEGMENT_MAGIC: &[u8; 8] = b"FSLOG\0\0\x01";
/// First bytes of an entry; a slot never written is all zero.
const ENTRY_MAGIC: u32 = 0x5245_5346;

/// What an entry says was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Did {
    /// Bytes with this checksum were set.
    Write(u32),
    /// The range was made to read as zeroes.
    Trim,
    /// The same, staying allocated.
    Zero,
    /// It failed, or was found undone after a crash: never acknowledged, but the range's content is unknown.
    Void,
}

/// One accepted write, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) mark: Watermark,
    pub(super) range: Range,
    pub(super) did: Did,
}

impl Entry {
    /// Payload bytes that count as written.
    pub(super) fn payload(&self) -> u64 {
        if matches!(self.did, Did::Write(_)) { self.range.len } else { 0 }
    }

    fn to_bytes(self) -> [u8; ENTRY_LEN as usize] {
        let (kind, crc) = match self.did {
            Did::Write(crc) => (1, crc),
            Did::Trim => (2, 0),
            Did::Zero => (3, 0),
            Did::Void => (4, 0),
        };
        let mut out = [0; ENTRY_LEN as usize];
        out[0..4].copy_from_slice(&ENTRY_MAGIC.to_le_bytes());
        out[4] = kind;
        out[6..8].copy_from_slice(&self.range.disk.to_le_bytes());
        let words = [
            self.mark.epoch.0,
            self.mark.seq,
            self.mark.at.0,
            self.mark.bytes,
            self.range.offset,
            self.range.len,
        ];
        for (index, word) in words.iter().enumerate() {
            out[8 + index * 8..16 + index * 8].copy_from_slice(&word.to_le_bytes());
        }
        out[56..60].copy_from_slice(&crc.to_le_bytes());
        let own = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&own.to_le_bytes());
        out
    }

    fn from_bytes(bytes: &[u8; ENTRY_LEN as usize]) -> Option<Self> {
        if word32(bytes, 0) != ENTRY_MAGIC || crc32c::crc32c(&bytes[..60]) != word32(bytes, 60) {
            return None;
        }
        let did = match bytes[4] {
            1 => Did::Write(word32(bytes, 56)),
            2 => Did::Trim,
            3 => Did::Zero,
            4 => Did::Void,
            _ => return None,
        };
        let mark = Watermark {
            epoch: Epoch(word64(bytes, 8)),
            seq: word64(bytes, 16),
            at: Moment(word64(bytes, 24)),
            bytes: word64(bytes, 32),
        };
        let disk = u16::from_le_bytes([bytes[6], bytes[7]]);
        Some(Self { mark, range: Range { disk, offset: word64(bytes, 40), len: word64(bytes, 48) }, did })
    }
}

fn word32(bytes: &[u8; ENTRY_LEN as usize], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn word64(bytes: &[u8; ENTRY_LEN as usize], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

/// One file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    /// The position before the segment's first entry.
    before: Watermark,
    slots: u64,
    touched: AtomicBool,
}

impl Segment {
    fn create(dir: &Path, before: Watermark, slots: u64) -> io::Result<Self> {
        let path = dir.join(format!("{:020}.log", before.seq + 1));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.set_len((slots + 1) * ENTRY_LEN)?;
        let mut header = [0; ENTRY_LEN as usize];
        header[..8].copy_from_slice(SEGMENT_MAGIC);
        let words = [before.epoch.0, before.seq, before.at.0, before.bytes];
        for (index, word) in words.iter().enumerate() {
            header[8 + index * 8..16 + index * 8].copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&header, 0)?;
        Ok(Self { file, path, before, slots, touched: AtomicBool::new(true) })
    }

    fn open(path: PathBuf) -> Result<Self, LogError> {
        let damaged = || LogError::Damaged(path.clone());
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut header = [0; ENTRY_LEN as usize];
        file.read_exact_at(&mut header, 0).map_err(|_| damaged())?;
        if header[..8] != *SEGMENT_MAGIC || crc32c::crc32c(&header[..60]) != word32(&header, 60) {
            return Err(damaged());
        }
        let before = Watermark {
            epoch: Epoch(word64(&header, 8)),
            seq: word64(&header, 16),
            at: Moment(word64(&header, 24)),
            bytes: word64(&header, 32),
        };
        let slots = (file.metadata()?.len() / ENTRY_LEN).saturating_sub(1);
        Ok(Self { file, path, before, slots, touched: AtomicBool::new(true) })
    }

    /// The last sequence number that fits.
    fn last(&self) -> u64 {
        self.before.seq + self.slots
    }

    /// Writes an entry into its place.
    pub(super) fn put(&self, entry: Entry) -> io::Result<()> {
        let slot = entry.mark.seq - self.before.seq;
        self.file.write_all_at(&entry.to_bytes(), slot * ENTRY_LEN)?;
        self.touched.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes the entries written before the call durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.touched.swap(false, Ordering::AcqRel) {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Visits the entries in order; returns how many are damaged.
    fn scan(&self, after: u64, see: &mut impl FnMut(Entry)) -> io::Result<u64> {
        let mut damaged = 0;
        let mut chunk = vec![0; 1 << 20];
        let mut slot = after.saturating_sub(self.before.seq) + 1;
        while slot <= self.slots {
            let count = (self.slots + 1 - slot).min(chunk.len() as u64 / ENTRY_LEN);
            let bytes = &mut chunk[..(count * ENTRY_LEN) as usize];
            self.file.read_exact_at(bytes, slot * ENTRY_LEN)?;
            for (index, bytes) in bytes.as_chunks::<{ ENTRY_LEN as usize }>().0.iter().enumerate() {
                let expected = self.before.seq + slot + index as u64;
                match Entry::from_bytes(bytes) {
                    Some(entry) if entry.mark.seq == expected => see(entry),
                    _ if bytes.iter().all(|byte| *byte == 0) => {}
                    _ => damaged += 1,
                }
            }
            slot += count;
        }
        Ok(damaged)
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A segment's header is not one.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
}

/// The row of segments, oldest first; never empty.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    slots: u64,
    segments: VecDeque<Arc<Segment>>,
}

impl Log {
    /// An empty log in `dir` (whatever was there is removed) that goes on from `before`.
    pub(super) fn create(dir: &Path, before: Watermark, segment_len: u64) -> io::Result<Self> {
        Self::remove(dir)?;
        fs::create_dir_all(dir)?;
        let mut log = Self { dir: dir.to_owned(), slots: slots(segment_len), segments: VecDeque::new() };
        log.roll(before)?;
        Ok(log)
    }

    /// Removes the log's files.
    pub(super) fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn open(dir: &Path, segment_len: u64) -> Result<Self, LogError> {
        let mut paths = Vec::new();
        for file in fs::read_dir(dir)? {
            let path = file?.path();
            if path.extension().is_some_and(|end| end == "log") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut segments = VecDeque::new();
        let newest = paths.len().saturating_sub(1);
        for (index, path) in paths.into_iter().enumerate() {
            match Segment::open(path) {
                Ok(segment) => segments.push_back(Arc::new(segment)),
                // Killed while the newest segment was being made: nothing was in it yet.
                Err(LogError::Damaged(path)) if index == newest && index > 0 => fs::remove_file(path)?,
                Err(error) => return Err(error),
            }
        }
        if segments.is_empty() {
            return Err(LogError::Damaged(dir.to_owned()));
        }
        Ok(Self { dir: dir.to_owned(), slots: slots(segment_len), segments })
    }

    /// The position before the oldest entry still kept.
    pub(super) fn start(&self) -> Watermark {
        self.segments.front().map(|segment| segment.before).unwrap_or_default()
    }

    /// The position before the newest segment.
    pub(super) fn newest_before(&self) -> Watermark {
        self.segments.back().map(|segment| segment.before).unwrap_or_default()
    }

    /// The segment for the entry after `previous`; a new one when the newest is full or does not reach on from it.
    pub(super) fn segment_after(&mut self, previous: Watermark) -> io::Result<Arc<Segment>> {
        if let Some(segment) = self.segments.back()
            && (segment.before.seq..segment.last()).contains(&previous.seq)
        {
            return Ok(Arc::clone(segment));
        }
        self.roll(previous)?;
        self.segments.back().cloned().ok_or_else(|| io::Error::other("the write log has no segment"))
    }

    fn roll(&mut self, before: Watermark) -> io::Result<()> {
        self.segments.push_back(Arc::new(Segment::create(&self.dir, before, self.slots)?));
        Ok(())
    }

    /// The segments as they are now, for a scan or a sync outside of any lock.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.iter().cloned().collect()
    }

    /// How many bytes the segments take.
    pub(super) fn len(&self) -> u64 {
        self.segments.iter().map(|segment| (segment.slots + 1) * ENTRY_LEN).sum()
    }

    /// Takes out the oldest segments that hold nothing after `seq`; the newest always stays.
    pub(super) fn take_up_to(&mut self, seq: u64) -> Vec<Arc<Segment>> {
        let mut taken = Vec::new();
        while let Some(next) = self.segments.get(1)
            && next.before.seq <= seq
        {
            taken.extend(self.segments.pop_front());
        }
        taken
    }

    /// True when [`Log::take_up_to`] would take something.
    pub(super) fn can_take_up_to(&self, seq: u64) -> bool {
        self.segments.get(1).is_some_and(|next| next.before.seq <= seq)
    }

    /// Overwrites an entry that turned out not to have happened.
    pub(super) fn void(&self, mut entry: Entry) -> io::Result<()> {
        entry.did = Did::Void;
        let seq = entry.mark.seq;
        let holds = |segment: &&Arc<Segment>| segment.before.seq < seq && seq <= segment.last();
        self.segments.iter().rev().find(holds).map_or(Ok(()), |segment| segment.put(entry))
    }
}

fn slots(segment_len: u64) -> u64 {
    (segment_len / ENTRY_LEN).saturating_sub(1).max(1)
}

/// Removes the files of segments taken out of the log.
pub(super) fn unlink(segments: &[Arc<Segment>]) -> io::Result<()> {
    segments.iter().try_for_each(|segment| fs::remove_file(&segment.path))
}

/// Visits all entries after `seq`, in order; returns how many are damaged.
pub(super) fn scan(segments: &[Arc<Segment>], seq: u64, mut see: impl FnMut(Entry)) -> io::Result<u64> {
    let mut damaged = 0;
    for (index, segment) in segments.iter().enumerate() {
        let end = segments.get(index + 1).map_or(segment.last(), |next| next.before.seq);
        if end > seq {
            damaged += segment.scan(seq, &mut see)?;
        }
    }
    Ok(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64) -> Entry {
        let mark = Watermark { epoch: Epoch(3), seq, bytes: seq * 10, at: Moment(seq * 7) };
        Entry { mark, range: Range { disk: 1, offset: seq * 512, len: 10 }, did: Did::Write(99) }
    }

    fn append(log: &mut Log, seq: u64) {
        let segment = log.segment_after(entry(seq - 1).mark).unwrap();
        segment.put(entry(seq)).unwrap();
    }

    fn seqs(log: &Log, after: u64) -> Vec<u64> {
        let mut seqs = Vec::new();
        assert_eq!(scan(&log.segments(), after, |entry| seqs.push(entry.mark.seq)).unwrap(), 0);
        seqs
    }

    #[test]
    fn entries_round_trip_and_damage_is_seen() {
        for did in [Did::Write(7), Did::Trim, Did::Zero, Did::Void] {
            let entry = Entry { did, ..entry(5) };
            let mut bytes = entry.to_bytes();
            assert_eq!(Entry::from_bytes(&bytes), Some(entry));
            bytes[20] ^= 1;
            assert_eq!(Entry::from_bytes(&bytes), None);
        }
    }

    #[test]
    fn a_log_rolls_prunes_and_comes_back_with_holes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::create(&path, entry(0).mark, 5 * ENTRY_LEN).unwrap();
        // Four entries to a segment; 6 was assigned but its writer was killed first; 20 follows a renumbering.
        for seq in [1, 2, 3, 4, 5, 7, 8, 9, 10] {
            append(&mut log, seq);
        }
        append(&mut log, 20);
        assert_eq!(seqs(&log, 0), [1, 2, 3, 4, 5, 7, 8, 9, 10, 20]);
        assert_eq!(seqs(&log, 7), [8, 9, 10, 20]);
        assert_eq!(log.take_up_to(3).len(), 0);
        assert!(log.can_take_up_to(4));
        unlink(&log.take_up_to(8)).unwrap();
        log.void(entry(9)).unwrap();
        let log = Log::open(&path, 5 * ENTRY_LEN).unwrap();
        assert_eq!(log.start(), entry(8).mark);
        assert_eq!(log.newest_before(), entry(19).mark);
        let mut dids = Vec::new();
        scan(&log.segments(), 0, |entry| dids.push((entry.mark.seq, entry.did))).unwrap();
        assert_eq!(dids, [(9, Did::Void), (10, Did::Write(99)), (20, Did::Write(99))]);
    }
}
