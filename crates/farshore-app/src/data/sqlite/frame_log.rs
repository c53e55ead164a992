//! Frames of a write-ahead log in a file of our own, in records that each carry a checksum.
//!
//! A replica keeps here what follows its copy of the database; a source keeps here what its replica has not confirmed when
//! the write-ahead log is about to start again. Frames have numbers that go on rising along a *chain*: the same number means
//! the same frame in both regions.
//!
//! | bytes | header | | bytes | each record |
//! |---|---|---|---|---|
//! | 8 | `FSFRAME1` | | 4 | length of its frames |
//! | 8 | chain | | 4 | CRC-32C of the next two and the frames |
//! | 8 | number of the first frame | | 8 | number of its first frame |
//! | 4 | page size | | 8 | when its last commit was seen |
//! | 4 | CRC-32C of the above | | n | frames: head and page |

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_core::moment::Moment;

use super::wal::{frame_bytes, read_some};
use crate::data::DataError;

const MAGIC: [u8; 8] = *b"FSFRAME1";
const HEAD: usize = 32;
const RECORD_HEAD: usize = 24;
/// No record is longer: an answer carries at most 4 MiB, and a frame may straddle that.
pub(super) const RECORD_MAX: usize = 5 << 20;

/// An open file of frames.
#[derive(Debug)]
pub(super) struct FrameLog {
    file: File,
    path: PathBuf,
    pub(super) chain: u64,
    pub(super) page_size: u32,
    /// Number of its first frame.
    pub(super) start: u64,
    /// Number of the frame that will follow its last one.
    pub(super) end: u64,
    /// Where the next record goes.
    bytes: u64,
    /// First frame and place of each record.
    records: Vec<(u64, u64)>,
}

/// Some frames, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The number of the first.
    pub(super) from: u64,
    /// When the last commit in it was seen.
    pub(super) at: Moment,
    pub(super) frames: Vec<u8>,
}

impl FrameLog {
    /// A new file without frames; an old one at its place is gone.
    pub(super) fn create(path: PathBuf, chain: u64, page_size: u32, start: u64) -> Result<Self, DataError> {
        let made = || -> io::Result<File> {
            let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            file.write_all(&head(chain, page_size, start))?;
            Ok(file)
        };
        let file = made().map_err(DataError::io("create the frame log", &path))?;
        Ok(Self { file, path, chain, page_size, start, end: start, bytes: HEAD as u64, records: Vec::new() })
    }

    /// Opens a file and reads all of it: `each` gets every record that is whole and follows. What comes behind the last of
    /// them is left as it is: who knows how far the file once was can tell a torn tail ([`Self::cut`]) from damage.
    pub(super) fn open(
        path: PathBuf,
        mut each: impl FnMut(&Record) -> Result<(), DataError>,
    ) -> Result<Self, DataError> {
        let (file, (chain, page_size, start)) =
            open_head(&path).map_err(DataError::io("read the frame log", &path))?;
        let mut log =
            Self { file, path, chain, page_size, start, end: start, bytes: HEAD as u64, records: Vec::new() };
        while let Some(record) = log.record_at(log.bytes)?.filter(|record| record.from == log.end) {
            each(&record)?;
            log.took(&record.frames);
        }
        Ok(log)
    }

    /// Cuts off what a crash left behind the last whole record.
    pub(super) fn cut(&self) -> Result<(), DataError> {
        self.file.set_len(self.bytes).map_err(DataError::io("cut the frame log", &self.path))
    }

    /// Another handle, which sees what is here now; also when the file is removed.
    pub(super) fn view(&self) -> Result<Self, DataError> {
        let file = self.file.try_clone().map_err(DataError::io("open the frame log", &self.path))?;
        let (path, records) = (self.path.clone(), self.records.clone());
        let Self { chain, page_size, start, end, bytes, .. } = *self;
        Ok(Self { file, path, chain, page_size, start, end, bytes, records })
    }

    /// Puts frames behind the last. Not durable until [`Self::sync`].
    pub(super) fn append(&mut self, at: Moment, frames: &[u8]) -> Result<(), DataError> {
        let mut record = Vec::with_capacity(RECORD_HEAD + frames.len());
        record.extend_from_slice(&u32::try_from(frames.len()).unwrap_or(u32::MAX).to_le_bytes());
        record.extend_from_slice(&[0; 4]);
        record.extend_from_slice(&self.end.to_le_bytes());
        record.extend_from_slice(&at.0.to_le_bytes());
        record.extend_from_slice(frames);
        let crc = crc32c::crc32c(&record[8..]);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        self.file
            .write_all_at(&record, self.bytes)
            .map_err(DataError::io("append to the frame log", &self.path))?;
        self.took(frames);
        Ok(())
    }

    /// The same, durable on return. When it fails nothing was appended: the next try writes the same place again. It has to
    /// write, not only to sync: after a sync that failed the system may take the bytes for written.
    pub(super) fn append_durably(&mut self, at: Moment, frames: &[u8]) -> Result<(), DataError> {
        let (end, bytes, records) = (self.end, self.bytes, self.records.len());
        let done = self.append(at, frames).and_then(|()| self.sync());
        if done.is_err() {
            (self.end, self.bytes) = (end, bytes);
            self.records.truncate(records);
        }
        done
    }

    fn took(&mut self, frames: &[u8]) {
        self.records.push((self.end, self.bytes));
        self.end += frames.len() as u64 / frame_bytes(self.page_size);
        self.bytes += (RECORD_HEAD + frames.len()) as u64;
    }

    /// Makes all that was appended durable.
    pub(super) fn sync(&self) -> Result<(), DataError> {
        self.file.sync_data().map_err(DataError::io("sync the frame log", &self.path))
    }

    /// Frames from number `from` on, as many as one record holds. Nothing when it is not here.
    pub(super) fn read(&self, from: u64) -> Result<Option<Record>, DataError> {
        if from < self.start || from >= self.end {
            return Ok(None);
        }
        let index = self.records.partition_point(|(first, _)| *first <= from);
        let Some((first, at)) = index.checked_sub(1).and_then(|index| self.records.get(index)) else {
            return Ok(None);
        };
        let mut record = self.record_at(*at)?.ok_or_else(|| self.damaged(*first))?;
        let skip = (from - first) * frame_bytes(self.page_size);
        record.frames.drain(..usize::try_from(skip).unwrap_or(usize::MAX).min(record.frames.len()));
        record.from = from;
        Ok(Some(record))
    }

    /// Reads every record again, from the first.
    pub(super) fn each(
        &self,
        mut each: impl FnMut(Record) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        for (first, at) in &self.records {
            each(self.record_at(*at)?.ok_or_else(|| self.damaged(*first))?)?;
        }
        Ok(())
    }

    fn damaged(&self, frame: u64) -> DataError {
        DataError::Corrupt {
            what: format!("the record of frame {frame} is not what was written"),
            path: self.path.clone(),
            mend: "while the source lives a new copy is fetched by itself; else restore the newest backup",
        }
    }

    /// The record at a place. Nothing when it is not whole, or not what was written.
    fn record_at(&self, at: u64) -> Result<Option<Record>, DataError> {
        let failed = DataError::io("read the frame log", &self.path);
        match read_record(&self.file, at, frame_bytes(self.page_size)) {
            Ok(record) => Ok(record),
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives the file another name, at which nothing of use is.
    pub(super) fn rename(&mut self, to: PathBuf) -> Result<(), DataError> {
        std::fs::rename(&self.path, &to).map_err(DataError::io("put the frame log to", &to))?;
        self.path = to;
        Ok(())
    }

    /// Reads and writes another file from now on; the one until now is returned.
    #[cfg(test)]
    pub(super) fn exchange_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets the file. A file that cannot be removed costs room and nothing else.
    pub(super) fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an old frame log stays");
        }
    }
}

fn head(chain: u64, page_size: u32, start: u64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..16].copy_from_slice(&chain.to_le_bytes());
    head[16..24].copy_from_slice(&start.to_le_bytes());
    head[24..28].copy_from_slice(&page_size.to_le_bytes());
    let crc = crc32c::crc32c(&head[..28]);
    head[28..].copy_from_slice(&crc.to_le_bytes());
    head
}

fn open_head(path: &Path) -> io::Result<(File, (u64, u32, u64))> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut bytes = [0; HEAD];
    file.read_exact_at(&mut bytes, 0)?;
    let (chain, start) = (long(&bytes, 8), long(&bytes, 16));
    let page_size = word(&bytes, 24);
    if bytes != head(chain, page_size, start) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its header is not what was written"));
    }
    Ok((file, (chain, page_size, start)))
}

fn read_record(file: &File, at: u64, frame_bytes: u64) -> io::Result<Option<Record>> {
    let mut head = [0; RECORD_HEAD];
    if read_some(file, &mut head, at)? < RECORD_HEAD {
        return Ok(None);
    }
    let length = word(&head, 0) as usize;
    if length == 0 || length > RECORD_MAX || !(length as u64).is_multiple_of(frame_bytes) {
        return Ok(None);
    }
    let mut frames = vec![0; length];
    if read_some(file, &mut frames, at + RECORD_HEAD as u64)? < length {
        return Ok(None);
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[8..]), &frames);
    let record = Record { from: long(&head, 8), at: Moment(long(&head, 16)), frames };
    Ok((crc == word(&head, 4)).then_some(record))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(count: usize, fill: u8) -> Vec<u8> {
        vec![fill; count * 536]
    }

    fn written(dir: &Path) -> FrameLog {
        let mut log = FrameLog::create(dir.join("log"), 9, 512, 100).unwrap();
        log.append(Moment(1), &frames(3, 1)).unwrap();
        log.append(Moment(2), &frames(2, 2)).unwrap();
        log.sync().unwrap();
        log
    }

    fn reopened(dir: &Path) -> (FrameLog, Vec<Record>) {
        let mut seen = Vec::new();
        let log = FrameLog::open(dir.join("log"), |record| {
            seen.push(record.clone());
            Ok(())
        });
        (log.unwrap(), seen)
    }

    #[test]
    fn what_was_appended_is_read_from_any_frame() {
        let dir = tempfile::tempdir().unwrap();
        let log = written(dir.path());
        assert_eq!((log.start, log.end), (100, 105));
        let (again, seen) = reopened(dir.path());
        assert_eq!((again.chain, again.page_size, again.start, again.end), (9, 512, 100, 105));
        assert_eq!(seen.len(), 2);
        let middle = again.read(101).unwrap().unwrap();
        assert_eq!((middle.from, middle.frames), (101, frames(2, 1)));
        assert_eq!(again.read(103).unwrap().unwrap(), seen[1]);
        assert_eq!((again.read(99).unwrap(), again.read(105).unwrap()), (None, None));
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let log = written(dir.path());
        log.file.set_len(log.bytes - 1).unwrap();
        let (mut again, seen) = reopened(dir.path());
        assert_eq!((again.end, seen.len()), (103, 1));
        again.cut().unwrap();
        again.append(Moment(3), &frames(1, 7)).unwrap();
        assert_eq!(reopened(dir.path()).0.end, 104);
    }

    #[test]
    fn a_flipped_bit_is_never_read_as_data() {
        let dir = tempfile::tempdir().unwrap();
        let log = written(dir.path());
        log.file.write_all_at(&[9], HEAD as u64 + 700).unwrap();
        let error = log.read(100).unwrap_err();
        assert!(matches!(error, DataError::Corrupt { .. }), "{error}");
        assert_eq!(reopened(dir.path()).0.end, 100);
    }
}
