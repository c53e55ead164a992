//! One event in the log: a header of 32 bytes and a payload. All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | length of the payload; 0: the log ends here |
//! | 4..8 | CRC-32C of bytes 0..4 and of everything from byte 8 to the end of the payload |
//! | 8..16 | offset |
//! | 16..24 | epoch |
//! | 24..32 | enqueued, microseconds since 1970 |
//! | 32.. | payload |

use farshore_core::ids::Epoch;
use farshore_core::moment::Moment;

/// Bytes before a payload.
pub(super) const HEADER_BYTES: usize = 32;

/// Largest payload: a message of 256 KiB, which the contract allows, with more properties than anyone sends.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: usize,
    crc: u32,
    pub(super) offset: u64,
    pub(super) epoch: Epoch,
    pub(super) enqueued: Moment,
}

impl Head {
    /// Bytes of the whole frame.
    pub(super) fn total(&self) -> usize {
        HEADER_BYTES + self.len
    }
}

/// What bytes are, read as a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// A whole frame that reads as it was written.
    Frame(Head, &'a [u8]),
    /// There are fewer bytes than the frame has; it may be whole in a longer slice.
    Short {
        /// How many are needed.
        need: usize,
    },
    /// Nothing was written here.
    End,
    /// Something else than what was written.
    Bad(&'static str),
}

/// Writes a frame at the end of `out`.
pub(super) fn write(out: &mut Vec<u8>, offset: u64, epoch: Epoch, enqueued: Moment, payload: &[u8]) -> Head {
    let len = u32::try_from(payload.len()).expect("payloads are at most FRAME_BYTES_MAX").to_le_bytes();
    let mut rest = [0; HEADER_BYTES - 8];
    rest[..8].copy_from_slice(&offset.to_le_bytes());
    rest[8..16].copy_from_slice(&epoch.0.to_le_bytes());
    rest[16..].copy_from_slice(&enqueued.0.to_le_bytes());
    let crc = checksum(&len, &rest, payload);
    out.extend_from_slice(&len);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&rest);
    out.extend_from_slice(payload);
    Head { len: payload.len(), crc, offset, epoch, enqueued }
}

/// Reads the frame at the start of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return match bytes.first_chunk::<4>() {
            Some([0, 0, 0, 0]) => Parsed::End,
            _ => Parsed::Short { need: HEADER_BYTES },
        };
    };
    let head = head(header);
    if head.len == 0 {
        return if head.crc == 0 { Parsed::End } else { Parsed::Bad("its length is zero") };
    }
    if head.len > FRAME_BYTES_MAX {
        return Parsed::Bad("its length is larger than any frame's");
    }
    let Some(payload) = rest.get(..head.len) else { return Parsed::Short { need: head.total() } };
    if checksum(&header[..4], &header[8..], payload) != head.crc {
        return Parsed::Bad("its checksum does not match");
    }
    Parsed::Frame(head, payload)
}

fn head(header: &[u8; HEADER_BYTES]) -> Head {
    let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
    let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
    Head {
        len: short(0) as usize,
        crc: short(4),
        offset: long(8),
        epoch: Epoch(long(16)),
        enqueued: Moment(long(24)),
    }
}

fn checksum(len: &[u8], rest: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(len), rest), payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_frame_is_read_as_written_and_no_changed_byte_passes(
            offset: u64, epoch: u64, at: u64, payload in prop::collection::vec(any::<u8>(), 1..80),
            place: prop::sample::Index, bit in 0..8u8
        ) {
            let mut bytes = Vec::new();
            write(&mut bytes, offset, Epoch(epoch), Moment(at), &payload);
            match parse(&bytes) {
                Parsed::Frame(head, read) => {
                    prop_assert_eq!((head.offset, head.epoch.0, head.enqueued.0), (offset, epoch, at));
                    prop_assert_eq!((read, head.total()), (payload.as_slice(), bytes.len()));
                }
                other => prop_assert!(false, "{other:?}"),
            }
            for short in 0..bytes.len() {
                prop_assert!(matches!(parse(&bytes[..short]), Parsed::Short { .. }), "{short}");
            }
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(!matches!(parse(&bytes), Parsed::Frame(..)));
        }
    }

    #[test]
    fn zeros_are_the_end() {
        assert_eq!(parse(&[0; 64]), Parsed::End);
        assert_eq!(parse(&[0; 5]), Parsed::End);
        assert_eq!(parse(&[]), Parsed::Short { need: HEADER_BYTES });
    }
}
