//! The bytes of a journal segment: header, entries, and the footer that a full segment is sealed with.
//!
//! Pure: turns values into bytes and back, and says what is wrong with bytes that do not fit. `docs/formats/journal.md`
//! shows the same as a table. All numbers are little-endian; every structure carries a CRC-32C of itself.

use farshore_core::ids::Epoch;
use farshore_core::moment::Moment;
use farshore_core::workload::Watermark;
use serde::{Deserialize, Serialize};

/// Length of a segment's header; the first entry starts here.
pub(super) const SEGMENT_HEADER_LEN: usize = 64;
/// Length of an entry's header.
pub(super) const ENTRY_LEN: usize = 80;
/// Length of the trailer that ends a sealed segment.
pub(super) const TRAILER_LEN: usize = 80;
/// Length of one entry in the footer's index.
pub(super) const INDEX_LEN: usize = 24;
/// Payloads longer than this carry a checksum per chunk, so that reading 4 KiB out of 32 MiB checks one chunk only.
pub(super) const CHUNK: usize = 64 * 1024;
/// Longest payload of one write: twice what an NBD client may send.
pub(super) const PAYLOAD_MAX: usize = 64 * 1024 * 1024;

const SEGMENT_MAGIC: &[u8; 8] = b"FSJSEG01";
const TRAILER_MAGIC: &[u8; 8] = b"FSJEND01";
const ENTRY_MAGIC: &[u8; 4] = b"FSJe";

/// Where an entry starts: segment number and byte position in it. Ordered as the entries were appended. Also used as an
/// exclusive bound: "everything before this place".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub(super) struct Place {
    /// The segment's number; numbers start at 1 and rise by one.
    pub(super) segment: u32,
    /// Byte position in the segment's file; a multiple of 8.
    pub(super) pos: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A record: bytes were written.
    Write,
    /// A record: the range was trimmed.
    Trim,
    /// A record: the range was zeroed and stays allocated.
    Zero,
    /// A block of a catch-up with content.
    Block,
    /// A block of a catch-up that is not allocated.
    BlockTrim,
    /// A block of a catch-up that is allocated and zero.
    BlockZero,
    /// From here on the state is between two moments.
    BeginCatchUp,
    /// The state is a prefix of the writes again.
    EndCatchUp,
    /// A recovery point.
    Point,
}

impl EntryKind {
    fn code(self) -> u8 {
        match self {
            Self::Write => 1,
            Self::Trim => 2,
            Self::Zero => 3,
            Self::Block => 4,
            Self::BlockTrim => 5,
            Self::BlockZero => 6,
            Self::BeginCatchUp => 16,
            Self::EndCatchUp => 17,
            Self::Point => 18,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Write,
            2 => Self::Trim,
            3 => Self::Zero,
            4 => Self::Block,
            5 => Self::BlockTrim,
            6 => Self::BlockZero,
            16 => Self::BeginCatchUp,
            17 => Self::EndCatchUp,
            18 => Self::Point,
            _ => return None,
        })
    }

    /// Whether it changes a disk (as opposed to marking a moment).
    pub(super) fn is_data(self) -> bool {
        !matches!(self, Self::BeginCatchUp | Self::EndCatchUp | Self::Point)
    }

    /// Whether it is one of the source's numbered records.
    pub(super) fn is_record(self) -> bool {
        matches!(self, Self::Write | Self::Trim | Self::Zero)
    }
}

/// The header of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    pub(super) place: Place,
    /// The machine's position after this entry.
    pub(super) watermark: Watermark,
    pub(super) disk: u16,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Stored bytes that follow the header (with the chunk table, without padding).
    pub(super) payload_len: u32,
    /// CRC-32C of the payload, or of the chunk table when there is one.
    pub(super) payload_crc: u32,
}

impl Entry {
    /// The header as bytes.
    pub(super) fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        bytes[0..4].copy_from_slice(ENTRY_MAGIC);
        bytes[4] = self.kind.code();
        bytes[6..8].copy_from_slice(&self.disk.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.place.segment.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.place.pos.to_le_bytes());
        put_watermark(&mut bytes[16..48], self.watermark);
        bytes[48..56].copy_from_slice(&self.offset.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.len.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[68..72].copy_from_slice(&self.payload_crc.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// Reads a header that should stand at `place`.
    pub(super) fn decode(bytes: &[u8], place: Place) -> Result<Self, &'static str> {
        let bytes: &[u8; ENTRY_LEN] = bytes.first_chunk().ok_or("the entry's header is cut short")?;
        if bytes[0..4] != *ENTRY_MAGIC {
            return Err("there is no entry here");
        }
        if !is_sealed(bytes) {
            return Err("the entry's header does not match its checksum");
        }
        let found = Place { segment: u32_at(bytes, 8), pos: u32_at(bytes, 12) };
        if found != place {
            return Err("the entry belongs to another place");
        }
        Ok(Self {
            kind: EntryKind::from_code(bytes[4]).ok_or("the entry's kind is unknown to this version")?,
            place,
            watermark: watermark_at(bytes, 16),
            disk: u16::from_le_bytes([bytes[6], bytes[7]]),
            offset: u64_at(bytes, 48),
            len: u64_at(bytes, 56),
            payload_len: u32_at(bytes, 64),
            payload_crc: u32_at(bytes, 68),
        })
    }

    /// Where the next entry starts.
    pub(super) fn next_pos(&self) -> u64 {
        u64::from(self.place.pos) + stored_len(u64::from(self.payload_len))
    }

    /// Length of the chunk table at the payload's start.
    pub(super) fn table_len(&self) -> usize {
        if self.has_table() { table_len(self.payload_len as usize) } else { 0 }
    }

    fn has_table(&self) -> bool {
        self.payload_len as usize > CHUNK
    }
}

/// What an entry with this payload takes in the file: header, payload, padding to 8.
pub(super) fn stored_len(payload_len: u64) -> u64 {
    (ENTRY_LEN as u64 + payload_len).next_multiple_of(8)
}

/// Length of the table of a stored payload (table and data) of `stored` bytes.
fn table_len(stored: usize) -> usize {
    // Each chunk brings its 4 bytes of table with it, so the stored length alone tells how many chunks there are.
    stored.div_ceil(CHUNK + 4) * 4
}

/// A payload as it is stored: an optional chunk table before the data, and the checksum for the header.
pub(super) struct Payload {
    /// CRC-32C of each chunk, empty for data of one chunk.
    pub(super) table: Vec<u8>,
    /// What the header says.
    pub(super) crc: u32,
}

/// The checksums of `data`.
pub(super) fn checksums(data: &[u8]) -> Payload {
    if data.len() <= CHUNK {
        return Payload { table: Vec::new(), crc: crc32c::crc32c(data) };
    }
    let table: Vec<u8> = data.chunks(CHUNK).flat_map(|chunk| crc32c::crc32c(chunk).to_le_bytes()).collect();
    let crc = crc32c::crc32c(&table);
    Payload { table, crc }
}

/// The start of a segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u32,
    /// Where the entries of the segment before this one end; 0 for the first.
    pub(super) previous_end: u32,
    /// The machine's position before the first entry.
    pub(super) before: Watermark,
}

impl SegmentHeader {
    /// The header as bytes.
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        bytes[0..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.previous_end.to_le_bytes());
        put_watermark(&mut bytes[16..48], self.before);
        seal(&mut bytes);
        bytes
    }

    /// Reads the header of segment `number`.
    pub(super) fn decode(bytes: &[u8], number: u32) -> Result<Self, &'static str> {
        let bytes: &[u8; SEGMENT_HEADER_LEN] =
            bytes.first_chunk().ok_or("the segment's header is cut short")?;
        if bytes[0..8] != *SEGMENT_MAGIC {
            return Err("this is not a journal segment of this version");
        }
        if !is_sealed(bytes) {
            return Err("the segment's header does not match its checksum");
        }
        if u32_at(bytes, 8) != number {
            return Err("the segment's number is not that of its file name");
        }
        Ok(Self { number, previous_end: u32_at(bytes, 12), before: watermark_at(bytes, 16) })
    }
}

/// One data entry in the footer: enough to build a view without touching the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) pos: u32,
    pub(super) kind: EntryKind,
    pub(super) disk: u16,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl IndexEntry {
    /// Appends its bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.pos.to_le_bytes());
        out.push(self.kind.code());
        out.push(0);
        out.extend_from_slice(&self.disk.to_le_bytes());
    }

    /// Reads one; the caller has checked the index's checksum.
    pub(super) fn decode(bytes: &[u8; INDEX_LEN]) -> Option<Self> {
        Some(Self {
            offset: u64_at(bytes, 0),
            len: u64_at(bytes, 8),
            pos: u32_at(bytes, 16),
            kind: EntryKind::from_code(bytes[20])?,
            disk: u16::from_le_bytes([bytes[22], bytes[23]]),
        })
    }
}

/// The last bytes of a sealed segment: where its index is and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) number: u32,
    /// Data entries in the index.
    pub(super) data: u32,
    /// Marks (points, catch-up bounds): 4 bytes of position each, after the index.
    pub(super) marks: u32,
    /// Where the entries end and the index starts.
    pub(super) entries_end: u32,
    pub(super) index_crc: u32,
    pub(super) marks_crc: u32,
    /// How many of the data entries are records.
    pub(super) records: u32,
    /// The machine's position after the last entry.
    pub(super) after: Watermark,
}

impl Trailer {
    /// The trailer as bytes.
    pub(super) fn encode(&self) -> [u8; TRAILER_LEN] {
        let mut bytes = [0; TRAILER_LEN];
        bytes[0..8].copy_from_slice(TRAILER_MAGIC);
        let numbers = [
            self.number,
            self.data,
            self.marks,
            self.entries_end,
            self.index_crc,
            self.marks_crc,
            self.records,
        ];
        for (i, number) in numbers.iter().enumerate() {
            bytes[8 + i * 4..12 + i * 4].copy_from_slice(&number.to_le_bytes());
        }
        put_watermark(&mut bytes[40..72], self.after);
        seal(&mut bytes);
        bytes
    }

    /// Reads the trailer of segment `number` whose file is `file_len` long. `None`: not sealed, or not readable.
    pub(super) fn decode(bytes: &[u8], number: u32, file_len: u64) -> Option<Self> {
        let bytes: &[u8; TRAILER_LEN] = bytes.first_chunk()?;
        if bytes[0..8] != *TRAILER_MAGIC || !is_sealed(bytes) || u32_at(bytes, 8) != number {
            return None;
        }
        let trailer = Self {
            number,
            data: u32_at(bytes, 12),
            marks: u32_at(bytes, 16),
            entries_end: u32_at(bytes, 20),
            index_crc: u32_at(bytes, 24),
            marks_crc: u32_at(bytes, 28),
            records: u32_at(bytes, 32),
            after: watermark_at(bytes, 40),
        };
        let whole = trailer.marks_at() + u64::from(trailer.marks) * 4 + TRAILER_LEN as u64;
        (whole == file_len).then_some(trailer)
    }

    /// Where the marks start.
    pub(super) fn marks_at(&self) -> u64 {
        u64::from(self.entries_end) + u64::from(self.data) * INDEX_LEN as u64
    }
}

fn put_watermark(out: &mut [u8], watermark: Watermark) {
    out[0..8].copy_from_slice(&watermark.epoch.0.to_le_bytes());
    out[8..16].copy_from_slice(&watermark.seq.to_le_bytes());
    out[16..24].copy_from_slice(&watermark.bytes.to_le_bytes());
    out[24..32].copy_from_slice(&watermark.at.0.to_le_bytes());
}

fn watermark_at(bytes: &[u8], at: usize) -> Watermark {
    Watermark {
        epoch: Epoch(u64_at(bytes, at)),
        seq: u64_at(bytes, at + 8),
        bytes: u64_at(bytes, at + 16),
        at: Moment(u64_at(bytes, at + 24)),
    }
}

/// Puts the CRC-32C of everything before them into the last four bytes.
fn seal(bytes: &mut [u8]) {
    let body = bytes.len() - 4;
    let crc = crc32c::crc32c(&bytes[..body]);
    bytes[body..].copy_from_slice(&crc.to_le_bytes());
}

fn is_sealed(bytes: &[u8]) -> bool {
    let body = bytes.len() - 4;
    u32_at(bytes, body) == crc32c::crc32c(&bytes[..body])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes of a structure of fixed length"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes of a structure of fixed length"))
}

/// Slot of the `synced` file: everything before `place` was acknowledged as durable, and what is known of the source.
/// Two slots are written in turn, so that one damaged slot leaves the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Slot {
    /// Rises with each write; the higher valid slot counts.
    pub(super) turn: u64,
    pub(super) place: Place,
    /// The highest position the source is known to have reached.
    pub(super) source: Watermark,
    /// When it was last heard of, on this side's clock.
    pub(super) seen: Moment,
}

/// Length of a [`Slot`].
pub(super) const SLOT_LEN: usize = 64;

impl Slot {
    /// The slot as bytes.
    pub(super) fn encode(&self) -> [u8; SLOT_LEN] {
        let mut bytes = [0; SLOT_LEN];
        bytes[0..8].copy_from_slice(&self.turn.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.place.segment.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.place.pos.to_le_bytes());
        put_watermark(&mut bytes[16..48], self.source);
        bytes[48..56].copy_from_slice(&self.seen.0.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// Reads a slot; `None` when it was never written or is damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SLOT_LEN] = bytes.first_chunk()?;
        is_sealed(bytes).then(|| Self {
            turn: u64_at(bytes, 0),
            place: Place { segment: u32_at(bytes, 8), pos: u32_at(bytes, 12) },
            source: watermark_at(bytes, 16),
            seen: Moment(u64_at(bytes, 48)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_of_a_header_is_seen() {
        let place = Place { segment: 3, pos: 64 };
        let watermark =
            Watermark { epoch: Epoch(2), seq: 77, bytes: 4096, at: Moment::from_millis(1_700_000_000_000) };
        let entry = Entry {
            kind: EntryKind::Write,
            place,
            watermark,
            disk: 1,
            offset: 513,
            len: 4096,
            payload_len: 4096,
            payload_crc: 5,
        };
        let good = entry.encode();
        assert_eq!(Entry::decode(&good, place), Ok(entry));
        for bit in 0..ENTRY_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::decode(&bad, place).is_err(), "bit {bit}");
        }
        assert!(Entry::decode(&good, Place { segment: 4, pos: 64 }).is_err());
    }

    #[test]
    fn the_stored_length_tells_the_table() {
        for len in [CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 5 * CHUNK - 3, 512 * CHUNK] {
            let chunks = len.div_ceil(CHUNK);
            assert_eq!(table_len(len + chunks * 4), chunks * 4, "{len}");
            assert_eq!(checksums(&vec![7; len]).table.len(), chunks * 4);
        }
    }
}
