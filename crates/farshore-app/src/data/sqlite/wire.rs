//! What a replica asks and what its source answers.
//!
//! A message is a byte for its version, its CRC-32C, and the value in postcard's format. Unknown versions are refused: both
//! regions of an app run releases that know each other.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::wal::Sum;
use crate::data::{DataError, Position};

/// Changes with every change of a type in this file.
const VERSION: u8 = 1;
/// Most bytes of pages or frames in an answer.
pub(super) const PIECE_MAX: usize = 4 << 20;
/// Bytes of a page's hash: SHA-256 cut to what makes an accident impossible.
pub(super) const HASH: usize = 16;
/// Most pages that one answer tells the hashes of: 256 MiB of usual pages in 1 MiB.
pub(super) const HASHES_MAX: u32 = 65_536;
/// Most ranges of pages that one request names.
pub(super) const RANGES_MAX: usize = 1024;

/// A place in a chain of frames, and the checksum of the frame before it: two that differ in what came before differ in this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) chain: u64,
    /// Frames before it.
    pub(super) frames: u64,
    pub(super) sum: (u32, u32),
}

/// From a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Request {
    /// What is durable there and can be restored.
    pub(super) position: Position,
    pub(super) want: Want,
}

/// What a replica lacks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Want {
    /// It has nothing that could be continued.
    Snapshot,
    /// Hashes of the snapshot's pages from this index on.
    Hashes { snapshot: u64, from: u32 },
    /// These pages: first index and count.
    Pages { snapshot: u64, ranges: Vec<(u32, u32)> },
    /// What follows a place, up to which everything is durable there. `whole`: it can be restored at that place.
    Frames { from: Place, whole: bool },
}

/// From a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// How far it is.
    pub(super) theirs: Position,
    pub(super) body: Body,
}

/// What a source has for a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Body {
    /// Nothing new yet.
    Nothing,
    /// A snapshot to begin with.
    Offer(Offer),
    /// [`HASH`] bytes for each page.
    Hashes { snapshot: u64, from: u32, hashes: Bytes },
    /// The pages of these ranges, one behind the other. Fewer ranges than were asked for when they are large.
    Pages { snapshot: u64, ranges: Vec<(u32, u32)>, pages: Bytes },
    /// Whole frames that follow `from`. They may end inside a transaction that is committed.
    Frames { chain: u64, from: u64, at: farshore_core::moment::Moment, frames: Bytes },
}

/// A snapshot, and where frames go on from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) snapshot: u64,
    /// Frames from here on follow it. Some of the first may be in it already: writing them again changes nothing.
    pub(super) from: Place,
    /// With the frames up to here it is what was once committed.
    pub(super) whole_at: u64,
    /// The position at `from`.
    pub(super) base: Position,
    pub(super) page_size: u32,
    pub(super) pages: u32,
    /// Of all its pages.
    pub(super) sha256: [u8; 32],
}

impl From<Sum> for (u32, u32) {
    fn from(sum: Sum) -> Self {
        (sum.0, sum.1)
    }
}

/// A value as bytes.
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let body = postcard::to_allocvec(value).expect("these types have no fallible encoding");
    let mut bytes = Vec::with_capacity(5 + body.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// The value in these bytes.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DataError> {
    let Some(([version, crc @ ..], body)) = bytes.split_first_chunk::<5>() else {
        return Err(DataError::Foreign(format!("{} bytes, which is no message", bytes.len())));
    };
    if *version != VERSION {
        return Err(DataError::Foreign(format!(
            "version {version} of its messages; this region knows {VERSION}"
        )));
    }
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(DataError::Foreign("a message that was damaged on its way".to_owned()));
    }
    postcard::from_bytes(body).map_err(|error| DataError::Foreign(format!("an unreadable message: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_damaged_ones_do_not() {
        let from = Place { chain: 7, frames: 9, sum: (1, 2) };
        let request = Request { position: Position::default(), want: Want::Frames { from, whole: true } };
        let bytes = encode(&request);
        assert_eq!(decode::<Request>(&bytes).unwrap(), request);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(decode::<Request>(&bad).is_err(), "byte {at}");
            assert!(decode::<Request>(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
