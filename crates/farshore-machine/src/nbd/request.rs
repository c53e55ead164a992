//! Requests of the transmission phase, from foreign bytes to types. Pure.

use super::errno::{EINVAL, ENOSPC, EPERM};
use super::proto::{PAYLOAD_MAX, REQUEST_MAGIC, cmd};

/// Bytes of a request before its payload.
pub(super) const HEADER_LEN: usize = 28;

/// Clients that count in sectors take a disk of odd size for one that ends with this.
const SECTOR: u64 = 512;

/// A request header, as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// What the client lost track of: there is no way to find the next request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a request starts with {0:#010x}, which is not the protocol's magic")]
pub(super) struct BadMagic(u32);

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, BadMagic> {
        let [m0, m1, m2, m3, f0, f1, t0, t1, cookie_offset_len @ ..] = *bytes;
        let [c0, c1, c2, c3, c4, c5, c6, c7, o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] =
            cookie_offset_len;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        if magic != REQUEST_MAGIC {
            return Err(BadMagic(magic));
        }
        Ok(Self {
            flags: u16::from_be_bytes([f0, f1]),
            command: u16::from_be_bytes([t0, t1]),
            cookie: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// Bytes that follow the header, whether or not the request is good.
    pub(super) fn payload_len(&self) -> u32 {
        if self.command == cmd::WRITE { self.len } else { 0 }
    }

    /// How much of the range is beyond the end of a disk of `size`: not 0 only where [`Command::check`] lets clients that
    /// count in sectors write whole ones.
    pub(super) fn overhang(&self, size: u64) -> u32 {
        let inside = size.saturating_sub(self.offset);
        u64::from(self.len).checked_sub(inside).and_then(|len| u32::try_from(len).ok()).unwrap_or_default()
    }

    /// Without what is beyond the end.
    pub(super) fn within(&self, size: u64) -> Self {
        Self { len: self.len - self.overhang(size), ..*self }
    }
}

/// A request that may be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Read { whole: bool },
    Write { fua: bool },
    Disconnect,
    Flush,
    Trim { fua: bool },
    Cache,
    Zero { fua: bool, no_hole: bool, fast: bool },
    BlockStatus { one: bool },
}

/// Why a request is refused before it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: u32,
    pub(super) why: &'static str,
}

/// What the rules depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) size: u64,
    pub(super) read_only: bool,
    /// Structured replies were agreed on, and with them `DF`.
    pub(super) structured: bool,
    /// At least one meta context was agreed on.
    pub(super) contexts: bool,
}

impl Command {
    /// Checks everything about a request that can be checked without the disk.
    pub(super) fn check(header: &Header, terms: &Terms) -> Result<Self, Refusal> {
        let (command, allowed) = Self::decode(header)?;
        if header.flags & !allowed != 0 {
            return refuse(EINVAL, "unknown flag for this request");
        }
        match command {
            Self::Disconnect => return Ok(command),
            Self::Flush if header.offset != 0 || header.len != 0 => {
                return refuse(EINVAL, "a flush has neither offset nor length");
            }
            Self::Flush => return Ok(command),
            Self::Read { whole: true } if !terms.structured => {
                return refuse(EINVAL, "DF without structured replies");
            }
            Self::BlockStatus { .. } if !terms.contexts => {
                return refuse(EINVAL, "no meta context was negotiated");
            }
            Self::Write { .. } | Self::Trim { .. } | Self::Zero { .. } if terms.read_only => {
                return refuse(EPERM, "the export is read-only");
            }
            Self::Read { .. } | Self::Write { .. } if header.len > PAYLOAD_MAX => {
                return refuse(EINVAL, "longer than 32 MiB");
            }
            _ => {}
        }
        if header.len == 0 {
            return refuse(EINVAL, "a length of 0");
        }
        // QEMU writes the last sector whole, filled up with zeroes; a guest that is told of no space would stop.
        let changes = matches!(command, Self::Write { .. } | Self::Trim { .. } | Self::Zero { .. });
        let limit = match terms.size.checked_next_multiple_of(SECTOR) {
            Some(limit) if changes && header.offset < terms.size => limit,
            _ => terms.size,
        };
        match header.offset.checked_add(u64::from(header.len)) {
            Some(end) if end <= limit => Ok(command),
            _ if matches!(command, Self::Write { .. } | Self::Zero { .. }) => {
                refuse(ENOSPC, "beyond the end of the disk")
            }
            _ => refuse(EINVAL, "beyond the end of the disk"),
        }
    }

    /// The command, and the flags it may have.
    fn decode(header: &Header) -> Result<(Self, u16), Refusal> {
        let has = |flag: u16| header.flags & flag != 0;
        let fua = has(cmd::FLAG_FUA);
        // Clients that learnt of FUA set it on anything; where there is nothing to be made durable it means nothing.
        Ok(match header.command {
            cmd::READ => (Self::Read { whole: has(cmd::FLAG_DF) }, cmd::FLAG_DF | cmd::FLAG_FUA),
            cmd::WRITE => (Self::Write { fua }, cmd::FLAG_FUA),
            cmd::DISC => (Self::Disconnect, u16::MAX),
            cmd::FLUSH => (Self::Flush, cmd::FLAG_FUA),
            cmd::TRIM => (Self::Trim { fua }, cmd::FLAG_FUA),
            cmd::CACHE => (Self::Cache, cmd::FLAG_FUA),
            cmd::WRITE_ZEROES => (
                Self::Zero { fua, no_hole: has(cmd::FLAG_NO_HOLE), fast: has(cmd::FLAG_FAST_ZERO) },
                cmd::FLAG_FUA | cmd::FLAG_NO_HOLE | cmd::FLAG_FAST_ZERO,
            ),
            cmd::BLOCK_STATUS => {
                (Self::BlockStatus { one: has(cmd::FLAG_REQ_ONE) }, cmd::FLAG_REQ_ONE | cmd::FLAG_FUA)
            }
            _ => return refuse(EINVAL, "unknown request"),
        })
    }
}

fn refuse<T>(errno: u32, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms { size: 10_000, read_only: false, structured: true, contexts: true };

    fn header(command: u16, flags: u16, offset: u64, len: u32) -> Header {
        Header { flags, command, cookie: 7, offset, len }
    }

    fn errno(header: &Header, terms: &Terms) -> Option<u32> {
        Command::check(header, terms).err().map(|refusal| refusal.errno)
    }

    #[test]
    fn rules_of_the_protocol() {
        let read_only = Terms { read_only: true, ..TERMS };
        let plain = Terms { structured: false, contexts: false, ..TERMS };
        let rows: [(Header, &Terms, Option<u32>); 24] = [
            (header(cmd::READ, 0, 0, 10_000), &TERMS, None),
            (header(cmd::READ, 0, 9_999, 1), &TERMS, None),
            (header(cmd::READ, 0, 9_999, 2), &TERMS, Some(EINVAL)),
            (header(cmd::READ, 0, u64::MAX, 1), &TERMS, Some(EINVAL)),
            (header(cmd::READ, 0, 0, 0), &TERMS, Some(EINVAL)),
            (header(cmd::READ, cmd::FLAG_DF, 0, 1), &TERMS, None),
            (header(cmd::READ, cmd::FLAG_DF, 0, 1), &plain, Some(EINVAL)),
            (header(cmd::READ, 1 << 9, 0, 1), &TERMS, Some(EINVAL)),
            (header(cmd::WRITE, cmd::FLAG_FUA, 3, 5), &TERMS, None),
            (header(cmd::WRITE, 0, 9_999, 241), &TERMS, None),
            (header(cmd::WRITE, 0, 9_999, 242), &TERMS, Some(ENOSPC)),
            (header(cmd::WRITE, 0, 10_000, 1), &TERMS, Some(ENOSPC)),
            (header(cmd::WRITE, 0, 0, 1), &read_only, Some(EPERM)),
            (header(cmd::TRIM, 0, 0, 1), &read_only, Some(EPERM)),
            (header(cmd::WRITE_ZEROES, 0, 0, 1), &read_only, Some(EPERM)),
            (header(cmd::WRITE_ZEROES, 0, 10_000, 1), &TERMS, Some(ENOSPC)),
            (header(cmd::TRIM, 0, 10_000, 1), &TERMS, Some(EINVAL)),
            (header(cmd::WRITE_ZEROES, 0x13, 0, 1), &TERMS, None),
            (header(cmd::FLUSH, 0, 0, 0), &read_only, None),
            (header(cmd::FLUSH, 0, 1, 0), &TERMS, Some(EINVAL)),
            (header(cmd::BLOCK_STATUS, cmd::FLAG_REQ_ONE, 0, 1), &TERMS, None),
            (header(cmd::BLOCK_STATUS, 0, 0, 1), &plain, Some(EINVAL)),
            (header(cmd::CACHE, 0, 0, 1), &read_only, None),
            (header(99, 0, 0, 1), &TERMS, Some(EINVAL)),
        ];
        for (header, terms, expected) in rows {
            assert_eq!(errno(&header, terms), expected, "{header:?} {terms:?}");
        }
    }

    #[test]
    fn payloads_up_to_32_mib_are_taken() {
        let terms = Terms { size: u64::MAX, ..TERMS };
        assert_eq!(errno(&header(cmd::WRITE, 0, 0, PAYLOAD_MAX), &terms), None);
        assert_eq!(errno(&header(cmd::WRITE, 0, 0, PAYLOAD_MAX + 1), &terms), Some(EINVAL));
        assert_eq!(errno(&header(cmd::READ, 0, 0, PAYLOAD_MAX + 1), &terms), Some(EINVAL));
        assert_eq!(errno(&header(cmd::WRITE_ZEROES, 0, 0, u32::MAX), &terms), None);
    }

    proptest! {
        #[test]
        fn rubbish_never_panics_and_never_leaves_the_disk(
            bytes in proptest::array::uniform28(any::<u8>()), magic in any::<bool>(), kind in 0_u8..10,
        ) {
            let mut bytes = bytes;
            if magic {
                bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
                bytes[6..8].copy_from_slice(&[0, kind]);
            }
            let Ok(header) = Header::parse(&bytes) else { return Ok(()) };
            let Ok(command) = Command::check(&header, &TERMS) else { return Ok(()) };
            if !matches!(command, Command::Disconnect | Command::Flush) {
                let header = header.within(TERMS.size);
                prop_assert!(header.len > 0);
                prop_assert!(header.offset + u64::from(header.len) <= TERMS.size);
            }
        }
    }
}
