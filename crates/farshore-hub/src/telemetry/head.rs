//! The first 4 KiB of a file of frames: whose it is, which event is its first, and two *marks* of up to where it was durable.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `FSTELEM1`; the last digit is the version |
//! | 8..16 | the first offset |
//! | 16..64 | the region, then zeros |
//! | 64..68 | CRC-32C of what is before |
//! | 1024.., 2048.. | a mark: place, offset, CRC-32C; in sectors of their own, so that a torn write spoils one at most |

use farshore_core::ids::Region;

use super::frame::{self, Parsed};

/// Bytes before the first frame.
pub(super) const HEAD_BYTES: u64 = 4096;

/// What a file of this kind starts with; the last digit is the version.
const MAGIC: [u8; 8] = *b"FSTELEM1";

/// Bytes that name the file, and the checksum of these.
const NAMED: usize = 64;

/// Where the two marks are.
pub(super) const MARKS_AT: [u64; 2] = [1024, 2048];

/// A place in a segment that is known to be the start of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: u64,
    pub(super) offset: u64,
}

/// Whether this is the head of the file that begins with event `first` of `region`.
pub(super) fn is_named(start: &[u8; HEAD_BYTES as usize], region: &Region, first: u64) -> bool {
    start[..NAMED + 4] == head(region, first)[..NAMED + 4]
}

/// Whether what is no head was that of the file that begins with event `first`: nobody's head, and this file's marks or first event,
/// which is in `frames`.
pub(super) fn is_spoilt(start: &[u8; HEAD_BYTES as usize], frames: &[u8], first: u64) -> bool {
    let is_whole = crc32c::crc32c(&start[..NAMED]).to_le_bytes() == start[NAMED..NAMED + 4];
    let begins_well = match frame::parse(frames) {
        Parsed::Frame(head, _) => head.offset == first,
        _ => false,
    };
    let is_marked = best_mark(start).is_some_and(|mark| mark.offset >= first);
    !is_whole && (begins_well || is_marked)
}

/// The part of a head that never changes.
pub(super) fn head(region: &Region, first: u64) -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES as usize];
    let name = region.as_str().as_bytes();
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&first.to_le_bytes());
    bytes[16..16 + name.len()].copy_from_slice(name);
    let crc = crc32c::crc32c(&bytes[..64]);
    bytes[64..68].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn mark_bytes(mark: Mark) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&mark.at.to_le_bytes());
    bytes[8..16].copy_from_slice(&mark.offset.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn marks(head: &[u8; HEAD_BYTES as usize]) -> [Option<Mark>; 2] {
    MARKS_AT.map(|at| {
        let bytes = head.get(usize::try_from(at).ok()?..)?.first_chunk::<20>()?;
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let mark = Mark { at: long(0), offset: long(8) };
        (mark.at >= HEAD_BYTES && mark_bytes(mark) == *bytes).then_some(mark)
    })
}

pub(super) fn best_mark(head: &[u8; HEAD_BYTES as usize]) -> Option<Mark> {
    marks(head).into_iter().flatten().max_by_key(|mark| mark.at)
}
