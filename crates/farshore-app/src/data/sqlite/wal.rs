//! The write-ahead log's file as SQLite writes it: a header, then frames, each a page with its number and a running checksum.
//!
//! A frame belongs to the log when it carries the header's salts and its checksum follows from all before it. The last frame
//! of a transaction says how large the database is now. **That does not make it committed**: SQLite writes the frames, waits
//! for the disk, and only then tells its index, which is what readers go by. A writer that ends in between leaves frames that
//! look like a commit, that nobody has ever read, and that the next writer overwrites. So whoever reads here asks the index
//! how far the log goes ([`super::pins::Pins::committed`]), and believes no frame behind that.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of the file's header.
pub(super) const HEADER: usize = 32;
/// Bytes before the page in a frame.
pub(super) const FRAME_HEAD: usize = 24;
/// Frames that are read at once: 256 KiB of usual pages.
const FRAMES_READ: u64 = 64;

/// Tell one use of the file from the next: both change when the log starts again from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Salts(pub(super) u32, pub(super) u32);

/// The running checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum(pub(super) u32, pub(super) u32);

/// What the file's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) page_size: u32,
    pub(super) salts: Salts,
    /// Where the first frame's checksum goes on from.
    pub(super) sum: Sum,
    big_endian: bool,
}

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// The page's number, from 1.
    pub(super) page: u32,
    /// Pages of the database after the transaction that this frame ends; 0 when it ends none.
    pub(super) pages_after: u32,
    pub(super) salts: Salts,
    pub(super) sum: Sum,
}

/// How far a log has been read: to the end of a committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Frames before it.
    pub(super) frames: u64,
    /// The checksum of the last of them.
    pub(super) sum: Sum,
}

/// What a scan found behind a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The end of the last committed transaction.
    pub(super) cursor: Cursor,
    /// Transactions that end between the two.
    pub(super) commits: u64,
}

impl Header {
    /// Reads it. Nothing when the file is empty, or the header is being written at this moment.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEADER];
        let whole = read_whole(file, &mut bytes, 0)?;
        Ok(if whole { Self::parse(&bytes) } else { None })
    }

    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let big_endian = match number(bytes, 0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let page_size = number(bytes, 8);
        let usual = (512..=65_536).contains(&page_size) && page_size.is_power_of_two();
        let sum = Sum(number(bytes, 24), number(bytes, 28));
        let right = checksum(big_endian, Sum::default(), &bytes[..24]) == sum;
        let salts = Salts(number(bytes, 16), number(bytes, 20));
        (usual && right).then_some(Self { page_size, salts, sum, big_endian })
    }

    /// Bytes of a frame.
    pub(super) fn frame_bytes(&self) -> u64 {
        frame_bytes(self.page_size)
    }

    /// Where a frame starts in the file.
    pub(super) fn offset(&self, frame: u64) -> u64 {
        HEADER as u64 + frame * self.frame_bytes()
    }

    /// Where a scan of this log starts.
    pub(super) fn start(&self) -> Cursor {
        Cursor { frames: 0, sum: self.sum }
    }

    /// Reads transactions behind `from`, up to frame `limit`: as far as the index says that the log goes.
    pub(super) fn scan(&self, file: &File, from: Cursor, limit: u64) -> io::Result<Found> {
        let mut found = Found { cursor: from, commits: 0 };
        let mut cursor = from;
        let size = usize::try_from(self.frame_bytes()).unwrap_or(usize::MAX);
        let mut buffer = Vec::new();
        while cursor.frames < limit {
            let wanted = size * (limit - cursor.frames).min(FRAMES_READ) as usize;
            buffer.resize(wanted, 0);
            let read = read_some(file, &mut buffer, self.offset(cursor.frames))?;
            for frame in buffer[..read].chunks_exact(size) {
                let Some((head, sum)) = self.follows(cursor.sum, frame) else { return Ok(found) };
                cursor = Cursor { frames: cursor.frames + 1, sum };
                if head.pages_after > 0 {
                    found = Found { cursor, commits: found.commits + 1 };
                }
            }
            if read < wanted {
                return Ok(found);
            }
        }
        Ok(found)
    }

    /// The checksum after `frames`, if they are this log's and each continues it from `before` on.
    pub(super) fn sum_after(&self, before: Sum, frames: &[u8]) -> Option<Sum> {
        let size = usize::try_from(self.frame_bytes()).unwrap_or(usize::MAX);
        frames.chunks_exact(size).try_fold(before, |sum, frame| self.follows(sum, frame).map(|(_, sum)| sum))
    }

    /// Whether this frame continues the log, and with what checksum.
    fn follows(&self, before: Sum, frame: &[u8]) -> Option<(FrameHead, Sum)> {
        let head = FrameHead::parse(frame)?;
        if head.salts != self.salts || head.page == 0 {
            return None;
        }
        let sum = checksum(self.big_endian, before, &frame[..8]);
        let sum = checksum(self.big_endian, sum, &frame[FRAME_HEAD..]);
        (sum == head.sum).then_some((head, sum))
    }

    /// Whether a frame from `from` on looks as if it ended a transaction of this log.
    pub(super) fn shows_commit(&self, file: &File, from: u64) -> io::Result<bool> {
        for frame in from.. {
            let Some(head) = self.head(file, frame)? else { return Ok(false) };
            if head.pages_after > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The head of a frame that carries this log's salts. Nothing is known of its checksum.
    pub(super) fn head(&self, file: &File, frame: u64) -> io::Result<Option<FrameHead>> {
        let mut bytes = [0; FRAME_HEAD];
        if !read_whole(file, &mut bytes, self.offset(frame))? {
            return Ok(None);
        }
        Ok(FrameHead::parse(&bytes).filter(|head| head.salts == self.salts))
    }
}

impl FrameHead {
    /// Reads the head of a frame.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let bytes = frame.first_chunk::<FRAME_HEAD>()?;
        Some(Self {
            page: number(bytes, 0),
            pages_after: number(bytes, 4),
            salts: Salts(number(bytes, 8), number(bytes, 12)),
            sum: Sum(number(bytes, 16), number(bytes, 20)),
        })
    }
}

/// Bytes of a frame whose page has `page_size` bytes.
pub(super) fn frame_bytes(page_size: u32) -> u64 {
    FRAME_HEAD as u64 + u64::from(page_size)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |four| u32::from_be_bytes(*four))
}

/// SQLite's running checksum over pairs of 32-bit words, in the byte order that the file's magic number names.
fn checksum(big_endian: bool, from: Sum, bytes: &[u8]) -> Sum {
    let Sum(mut first, mut second) = from;
    let (pairs, _) = bytes.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in pairs {
        let (one, two) = if big_endian {
            (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
        } else {
            (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
        };
        first = first.wrapping_add(one).wrapping_add(second);
        second = second.wrapping_add(two).wrapping_add(first);
    }
    Sum(first, second)
}

/// Fills `buffer` from `at`. False when the file ends before.
fn read_whole(file: &File, buffer: &mut [u8], at: u64) -> io::Result<bool> {
    Ok(read_some(file, buffer, at)? == buffer.len())
}

/// Fills `buffer` from `at` as far as the file goes.
pub(super) fn read_some(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// A database in WAL mode whose log holds `rows` transactions of one row each.
    fn written(dir: &std::path::Path, rows: u32) -> (Connection, File) {
        let db = Connection::open(dir.join("a.db")).unwrap();
        db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)").unwrap();
        for row in 0..rows {
            db.execute("INSERT INTO t VALUES (?1)", [row]).unwrap();
        }
        let log = File::options().read(true).write(true).open(dir.join("a.db-wal")).unwrap();
        (db, log)
    }

    #[test]
    fn each_committed_transaction_is_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let (db, log) = written(dir.path(), 5);
        let header = Header::read(&log).unwrap().unwrap();
        assert_eq!(header.page_size, 4096);
        let found = header.scan(&log, header.start(), u64::MAX).unwrap();
        assert_eq!(found.commits, 6, "the table and five rows");
        assert_eq!(header.scan(&log, found.cursor, u64::MAX).unwrap(), Found { commits: 0, ..found });
        db.execute("INSERT INTO t VALUES (7)", []).unwrap();
        assert_eq!(header.scan(&log, found.cursor, u64::MAX).unwrap().commits, 1);
    }

    #[test]
    fn nothing_behind_the_limit_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let (_db, log) = written(dir.path(), 200);
        let header = Header::read(&log).unwrap().unwrap();
        let whole = header.scan(&log, header.start(), u64::MAX).unwrap();
        let mut cursor = header.start();
        for limit in [0, 1, 2, 70, 70, 71, whole.cursor.frames] {
            cursor = header.scan(&log, cursor, limit).unwrap().cursor;
            assert!(cursor.frames <= limit);
            assert_eq!(header.shows_commit(&log, cursor.frames).unwrap(), cursor != whole.cursor);
        }
        assert_eq!(cursor, whole.cursor);
    }

    #[test]
    fn a_transaction_that_was_rolled_back_after_it_had_spilled_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let (db, log) = written(dir.path(), 1);
        let header = Header::read(&log).unwrap().unwrap();
        let before = header.scan(&log, header.start(), u64::MAX).unwrap();
        db.execute_batch("PRAGMA cache_size=10; BEGIN").unwrap();
        for row in 0..200 {
            db.execute("INSERT INTO t VALUES (?1 || hex(zeroblob(2000)))", [row]).unwrap();
        }
        assert!(header.head(&log, before.cursor.frames).unwrap().is_some(), "it did spill");
        assert_eq!(header.scan(&log, before.cursor, u64::MAX).unwrap().commits, 0);
        db.execute_batch("ROLLBACK").unwrap();
        db.execute("INSERT INTO t VALUES (8)", []).unwrap();
        assert_eq!(header.scan(&log, before.cursor, u64::MAX).unwrap().commits, 1);
    }

    #[test]
    fn a_flipped_bit_ends_the_log_before_the_transaction_that_it_is_in() {
        let dir = tempfile::tempdir().unwrap();
        let (_db, log) = written(dir.path(), 5);
        let header = Header::read(&log).unwrap().unwrap();
        let whole = header.scan(&log, header.start(), u64::MAX).unwrap();
        let mut byte = [0];
        let at = header.offset(whole.cursor.frames - 2) + 1000;
        log.read_exact_at(&mut byte, at).unwrap();
        log.write_all_at(&[byte[0] ^ 4], at).unwrap();
        let found = header.scan(&log, header.start(), u64::MAX).unwrap();
        assert!(found.commits < whole.commits && found.cursor.frames <= whole.cursor.frames - 2);
    }

    #[test]
    fn half_a_header_and_another_file_are_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let (_db, log) = written(dir.path(), 1);
        log.write_all_at(&[0xff], 17).unwrap();
        assert_eq!(Header::read(&log).unwrap(), None);
        log.set_len(20).unwrap();
        assert_eq!(Header::read(&log).unwrap(), None);
    }
}
