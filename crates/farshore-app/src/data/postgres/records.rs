//! What a write-ahead log says: its records, found and checked as the bytes arrive.
//!
//! The log is a row of pages of 8 KiB in segments of 16 MiB. Each page begins with a header that names its own position;
//! records lie between the headers, aligned to eight bytes, and go on from page to page. Each has a checksum and the
//! position of the one before it, so that what is left of an older use of the file is never taken for a record.
//!
//! The reader must begin where a record begins; from there it counts committed transactions exactly. They are all those
//! that wrote something: also the server's own (a table that it analyzed by itself is one commit).

use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use crate::data::Position;

/// Bytes of a page; how the server was built everywhere.
pub(super) const PAGE: u64 = 8192;
/// Bytes of a segment: what `initdb` chooses when it is not told otherwise, and we do not tell it.
pub(super) const SEGMENT: u64 = 16 * 1024 * 1024;
/// A record's own header.
const RECORD_HEAD: u64 = 24;
/// Of each record, this much is looked at: its header, and in a commit the few bytes up to the time.
const LOOKED_AT: usize = 64;
/// No record is longer: the server's own limit, rounded up.
const RECORD_BYTES_MAX: u64 = 1100 * 1024 * 1024;
/// The page begins with the rest of a record.
const PAGE_CONTINUES: u16 = 0x0001;
/// The page begins anew: what the pages before it began was lost in a crash, and is void.
const PAGE_OVERWRITES: u16 = 0x0008;
/// Microseconds from 1970 to 2000, where the server's clock begins.
const SERVER_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Where a log stops being one. After a crash that is simply its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no valid record of the write-ahead log at {}: {what}", lsn_text(*.at))]
pub(super) struct Damage {
    /// The position of the page or record.
    pub(super) at: u64,
    /// What is wrong.
    pub(super) what: &'static str,
}

/// A position as the server writes it: `16/B374D848`.
pub(super) fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// Reads a position as the server writes it.
pub(super) fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.trim().split_once('/')?;
    let high = u32::from_str_radix(high, 16).ok()?;
    let low = u32::from_str_radix(low, 16).ok()?;
    Some(u64::from(high) << 32 | u64::from(low))
}

/// The name of the segment that holds `lsn`.
pub(super) fn segment_name(timeline: u32, lsn: u64) -> String {
    let number = lsn / SEGMENT;
    let per_id = (1 << 32) / SEGMENT;
    format!("{timeline:08X}{:08X}{:08X}", number / per_id, number % per_id)
}

/// Where the segment that holds `lsn` begins.
pub(super) fn segment_start(lsn: u64) -> u64 {
    lsn - lsn % SEGMENT
}

/// Turns where the next record would begin into where the last one ended: a page's header belongs to nobody.
pub(super) fn end_before(lsn: u64) -> u64 {
    let within = lsn % PAGE;
    if within == page_head_len(lsn - within) { lsn - within } else { lsn }
}

fn page_head_len(page: u64) -> u64 {
    if page.is_multiple_of(SEGMENT) { 40 } else { 24 }
}

/// How far a log was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Reach {
    /// Here the last whole record ended; the next begins here.
    pub(super) boundary: u64,
    /// Here the last commit ended. Records after it (of transactions under way, of the server itself) change nothing yet.
    pub(super) position: Position,
    /// How much farther `position.bytes` is than the log: an app's numbers go on rising when its database is exchanged for one
    /// whose log is shorter.
    pub(super) ahead: u64,
}

impl Reach {
    /// Of a log that was never read.
    pub(super) fn at(boundary: u64, position: Position) -> Self {
        Self { boundary, position, ahead: 0 }
    }

    /// Where in the log `position` is.
    pub(super) fn lsn_of(self, position: Position) -> u64 {
        position.bytes.saturating_sub(self.ahead)
    }

    /// The log begins to count at `boundary`; the numbers stay.
    pub(super) fn begin_at(&mut self, boundary: u64) {
        self.boundary = boundary;
        self.ahead = self.ahead.max(self.position.bytes.saturating_sub(boundary));
    }

    /// Raises the numbers so that they go on from `from`. True: they were lower.
    pub(super) fn go_on_from(&mut self, from: Position) -> bool {
        let is_lower = !self.position.covers(from);
        if is_lower {
            self.position.commits = self.position.commits.max(from.commits);
            self.position.bytes = self.position.bytes.max(from.bytes);
            self.begin_at(self.boundary);
        }
        is_lower
    }
}

/// Reads a log from one record on.
#[derive(Debug, Clone)]
pub(super) struct Records {
    at: u64,
    reach: Reach,
    previous: Option<u64>,
    page_head: [u8; 40],
    partial: Option<Partial>,
}

/// A record of which not everything is here.
#[derive(Debug, Clone)]
struct Partial {
    start: u64,
    head: [u8; LOOKED_AT],
    have: u64,
    crc: u32,
}

impl Records {
    /// A reader that goes on from `reach`.
    pub(super) fn from(reach: Reach) -> Self {
        Self { at: reach.boundary, reach, previous: None, page_head: [0; 40], partial: None }
    }

    /// The position of the next byte to feed.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// All whole records.
    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// Takes bytes in that lie at [`Records::at`]. After damage it takes no more: the reach stays good.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Damage> {
        while !bytes.is_empty() {
            let within = self.at % PAGE;
            let head_len = page_head_len(self.at - within);
            let until = if within < head_len { head_len } else { PAGE };
            let take = usize::try_from(until - within).unwrap_or(usize::MAX).min(bytes.len());
            let (run, rest) = bytes.split_at(take);
            if within < head_len {
                self.take_page_head(run, within, head_len)?;
            } else {
                self.take_content(run)?;
            }
            bytes = rest;
        }
        Ok(())
    }

    fn take_page_head(&mut self, run: &[u8], within: u64, head_len: u64) -> Result<(), Damage> {
        let from = usize::try_from(within).unwrap_or(0);
        self.page_head[from..from + run.len()].copy_from_slice(run);
        if (from + run.len()) as u64 == head_len {
            self.check_page_head(self.at - within)?;
        }
        self.at += run.len() as u64;
        Ok(())
    }

    fn check_page_head(&mut self, page: u64) -> Result<(), Damage> {
        let damage = |what| Err(Damage { at: page, what });
        let flags = u16::from_le_bytes([self.page_head[2], self.page_head[3]]);
        if page < self.reach.boundary {
            return Ok(()); // Behind a switch to the next segment: zeros, or empty pages.
        }
        if u64_at(&self.page_head, 8) != page {
            return damage("the page belongs elsewhere");
        }
        if flags & PAGE_OVERWRITES != 0 {
            self.partial = None;
            return Ok(());
        }
        match &self.partial {
            None if flags & PAGE_CONTINUES != 0 => {
                damage("the page goes on with a record that did not begin")
            }
            Some(_) if flags & PAGE_CONTINUES == 0 => {
                damage("the page does not go on with the record before it")
            }
            Some(partial) if u64::from(u32_at(&self.page_head, 16)) != partial.len() - partial.have => {
                damage("the page goes on with another record")
            }
            _ => Ok(()),
        }
    }

    fn take_content(&mut self, mut run: &[u8]) -> Result<(), Damage> {
        while !run.is_empty() {
            let took = match &mut self.partial {
                _ if self.at < self.reach.boundary => skip(self.reach.boundary - self.at, run),
                None => {
                    self.partial = Some(Partial::new(self.at));
                    0
                }
                Some(partial) => partial.take(run)?,
            };
            self.at += took as u64;
            run = &run[took..];
            if self.partial.as_ref().is_some_and(Partial::is_whole) {
                self.finish()?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Damage> {
        let Some(record) = self.partial.take() else { return Ok(()) };
        record.check(self.previous)?;
        self.previous = Some(record.start);
        self.reach.boundary = self.at.next_multiple_of(8);
        if let Some(at) = record.commit_time() {
            let commits = self.reach.position.commits + 1;
            self.reach.position = Position { commits, bytes: self.reach.boundary + self.reach.ahead, at };
        }
        if record.is_switch() {
            self.reach.boundary = self.reach.boundary.next_multiple_of(SEGMENT);
        }
        Ok(())
    }
}

fn skip(bytes: u64, run: &[u8]) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).min(run.len())
}

impl Partial {
    fn new(start: u64) -> Self {
        Self { start, head: [0; LOOKED_AT], have: 0, crc: 0 }
    }

    /// A record's length comes first and is never torn: records are aligned, and so are pages.
    fn len(&self) -> u64 {
        u64::from(u32_at(&self.head, 0))
    }

    fn is_whole(&self) -> bool {
        self.have >= RECORD_HEAD && self.have == self.len()
    }

    fn take(&mut self, run: &[u8]) -> Result<usize, Damage> {
        let until = if self.have < RECORD_HEAD { RECORD_HEAD } else { self.len() };
        let take = skip(until - self.have, run);
        let have = usize::try_from(self.have).unwrap_or(usize::MAX);
        if have < LOOKED_AT {
            let look = take.min(LOOKED_AT - have);
            self.head[have..have + look].copy_from_slice(&run[..look]);
        }
        if self.have >= RECORD_HEAD {
            self.crc = crc32c::crc32c_append(self.crc, &run[..take]);
        }
        self.have += take as u64;
        let len_is_known = self.have >= 4;
        if len_is_known && !(RECORD_HEAD..RECORD_BYTES_MAX).contains(&self.len()) {
            return Err(Damage { at: self.start, what: "its length is impossible" });
        }
        Ok(take)
    }

    fn check(&self, previous: Option<u64>) -> Result<(), Damage> {
        let damage = |what| Err(Damage { at: self.start, what });
        if crc32c::crc32c_append(self.crc, &self.head[..20]) != u32_at(&self.head, 20) {
            return damage("its checksum is wrong");
        }
        if previous.is_some_and(|previous| previous != u64_at(&self.head, 8)) {
            return damage("it follows another record than the one before it");
        }
        Ok(())
    }

    fn is_switch(&self) -> bool {
        self.head[17] == 0 && self.head[16] & 0xF0 == 0x40
    }

    /// When it committed, if it is a commit (of a transaction, or of one that was prepared before).
    fn commit_time(&self) -> Option<Moment> {
        let is_commit = self.head[17] == 1 && matches!(self.head[16] & 0x70, 0x00 | 0x30);
        is_commit.then(|| self.main_data_time().unwrap_or_default())
    }

    fn main_data_time(&self) -> Option<Moment> {
        let mut at = usize::try_from(RECORD_HEAD).unwrap_or(0);
        loop {
            at = match self.head.get(at)? {
                0xFD => at + 3,
                0xFC => at + 5,
                0xFF => {
                    at += 2;
                    break;
                }
                0xFE => {
                    at += 5;
                    break;
                }
                _ => return None,
            };
        }
        let micros = i64::from_le_bytes(*self.head.get(at..)?.first_chunk()?);
        u64::try_from(micros.saturating_add(SERVER_EPOCH_MICROS)).ok().map(Moment)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
