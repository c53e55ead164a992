//! Replies of the transmission phase, from types to bytes. Pure.

use super::proto::{
    EXTENTS_MAX, SIMPLE_REPLY_MAGIC, STATE_DIRTY, STATE_HOLE, STATE_ZERO, STRUCTURED_REPLY_MAGIC, chunk,
};
use super::request::Refusal;
use crate::disk::{Extent, ExtentKind};

/// Bytes of a chunk before its payload.
pub(super) const CHUNK_HEADER_LEN: usize = 20;
/// Longest explanation in an error chunk: the protocol allows more, nobody reads it.
const MESSAGE_MAX: usize = 512;

/// Whom a reply is for, and in which form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) cookie: u64,
    pub(super) structured: bool,
}

/// Replies that wait to be sent. Its memory is kept for the next ones, already zeroed.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    buf: Vec<u8>,
    len: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All that waits.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.buf[..self.len]
    }

    /// Forgets what waits and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes back everything after the first `len` bytes.
    pub(super) fn rewind(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Memory in use.
    pub(super) fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Gives memory beyond `keep` back; only when nothing waits.
    pub(super) fn shrink(&mut self, keep: usize) {
        self.buf.truncate(self.len.max(keep));
        self.buf.shrink_to(keep);
    }

    /// The next `len` bytes, to be filled; what is in them does not matter.
    pub(super) fn space(&mut self, len: usize) -> &mut [u8] {
        let end = self.len + len;
        if self.buf.len() < end {
            self.buf.resize(end, 0);
        }
        let space = &mut self.buf[self.len..end];
        self.len = end;
        space
    }

    fn put(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
    }

    /// What precedes the data of a whole read; the data follows at once.
    pub(super) fn data_header(&mut self, to: Address, offset: u64, len: u32) {
        if to.structured {
            self.data_chunk(chunk::FLAG_DONE, to.cookie, offset, len);
        } else {
            self.simple(to.cookie, 0);
        }
    }

    /// What precedes the data of one part of a read.
    pub(super) fn data_chunk(&mut self, flags: u16, cookie: u64, offset: u64, len: u32) {
        self.chunk_header(flags, chunk::OFFSET_DATA, cookie, len + 8);
        self.put(&offset.to_be_bytes());
    }

    /// A part of a read that is all zeroes.
    pub(super) fn hole_chunk(&mut self, flags: u16, cookie: u64, offset: u64, len: u32) {
        self.chunk_header(flags, chunk::OFFSET_HOLE, cookie, 12);
        self.put(&offset.to_be_bytes());
        self.put(&len.to_be_bytes());
    }

    /// Success without data. The short form is allowed in either case.
    pub(super) fn done(&mut self, to: Address) {
        self.simple(to.cookie, 0);
    }

    /// An error; where structured replies were agreed on, with an explanation and, if known, the offset.
    pub(super) fn error(&mut self, to: Address, refusal: Refusal, at: Option<u64>) {
        if !to.structured {
            return self.simple(to.cookie, refusal.errno);
        }
        let why = refusal.why.as_bytes();
        let why = why.get(..MESSAGE_MAX).unwrap_or(why);
        let message_len = u16::try_from(why.len()).expect("no longer than MESSAGE_MAX");
        let (kind, extra) = match at {
            Some(_) => (chunk::ERROR_OFFSET, 8),
            None => (chunk::ERROR, 0),
        };
        self.chunk_header(chunk::FLAG_DONE, kind, to.cookie, 6 + u32::from(message_len) + extra);
        self.put(&refusal.errno.to_be_bytes());
        self.put(&message_len.to_be_bytes());
        self.put(why);
        if let Some(offset) = at {
            self.put(&offset.to_be_bytes());
        }
    }

    /// The extents of one meta context, as `(length, flags)`.
    pub(super) fn status_chunk(&mut self, flags: u16, cookie: u64, context: u32, runs: &[(u32, u32)]) {
        let len = u32::try_from(4 + 8 * runs.len()).expect("at most 2^20 extents");
        self.chunk_header(flags, chunk::BLOCK_STATUS, cookie, len);
        self.put(&context.to_be_bytes());
        for (len, flags) in runs {
            self.put(&len.to_be_bytes());
            self.put(&flags.to_be_bytes());
        }
    }

    fn simple(&mut self, cookie: u64, errno: u32) {
        self.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        self.put(&errno.to_be_bytes());
        self.put(&cookie.to_be_bytes());
    }

    fn chunk_header(&mut self, flags: u16, kind: u16, cookie: u64, len: u32) {
        let mut header = [0; CHUNK_HEADER_LEN];
        header[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        header[4..6].copy_from_slice(&flags.to_be_bytes());
        header[6..8].copy_from_slice(&kind.to_be_bytes());
        header[8..16].copy_from_slice(&cookie.to_be_bytes());
        header[16..].copy_from_slice(&len.to_be_bytes());
        self.put(&header);
    }
}

/// `base:allocation` of the extents, cut to `len` bytes; neighbours of one sort are one run.
pub(super) fn allocation_runs(extents: &[Extent], len: u32) -> Vec<(u32, u32)> {
    runs(
        extents.iter().map(|extent| {
            let flags = match extent.kind {
                ExtentKind::Data => 0,
                ExtentKind::Hole => STATE_HOLE | STATE_ZERO,
                ExtentKind::Zero => STATE_ZERO,
            };
            (extent.len, flags)
        }),
        len,
    )
}

/// `farshore:dirty`: 1 where the target lacks something.
pub(super) fn dirty_runs(ranges: &[(u64, bool)], len: u32) -> Vec<(u32, u32)> {
    runs(ranges.iter().map(|(len, dirty)| (*len, if *dirty { STATE_DIRTY } else { 0 })), len)
}

fn runs(pieces: impl Iterator<Item = (u64, u32)>, len: u32) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let mut left = len;
    for (piece, flags) in pieces {
        let piece = u32::try_from(piece).unwrap_or(u32::MAX).min(left);
        if piece == 0 {
            continue;
        }
        left -= piece;
        if let Some((len, last)) = runs.last_mut()
            && *last == flags
        {
            *len += piece;
        } else if runs.len() < EXTENTS_MAX {
            runs.push((piece, flags));
        } else {
            break;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRUCTURED: Address = Address { cookie: 0x0102_0304_0506_0708, structured: true };
    const SIMPLE: Address = Address { cookie: 1, structured: false };

    #[test]
    fn replies_have_the_bytes_of_the_protocol() {
        let mut out = Outbox::default();
        out.data_header(STRUCTURED, 4096, 512);
        assert_eq!(
            out.as_slice(),
            [
                &[0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8][..],
                &520_u32.to_be_bytes(),
                &4096_u64.to_be_bytes()
            ]
            .concat()
        );
        out.clear();
        out.data_header(SIMPLE, 4096, 512);
        assert_eq!(out.as_slice(), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn errors_carry_their_message_and_offset() {
        let mut out = Outbox::default();
        out.error(STRUCTURED, Refusal { errno: 5, why: "no" }, Some(9));
        assert_eq!(out.as_slice()[6..8], [0x80, 0x02]);
        assert_eq!(
            out.as_slice()[CHUNK_HEADER_LEN..],
            [0, 0, 0, 5, 0, 2, b'n', b'o', 0, 0, 0, 0, 0, 0, 0, 9]
        );
        out.clear();
        out.error(SIMPLE, Refusal { errno: 5, why: "no" }, Some(9));
        assert_eq!(out.len(), 16);
    }

    #[test]
    fn extents_become_runs_within_the_request() {
        let extent = |len, kind| Extent { len, kind };
        let extents = [
            extent(100, ExtentKind::Data),
            extent(50, ExtentKind::Data),
            extent(10, ExtentKind::Hole),
            extent(1 << 40, ExtentKind::Zero),
        ];
        assert_eq!(allocation_runs(&extents, 1000), [(150, 0), (10, 3), (840, 2)]);
        assert_eq!(dirty_runs(&[(4096, true), (4096, true), (10, false)], 8200), [(8192, 1), (8, 0)]);
        assert!(allocation_runs(&extents, 0).is_empty());
    }

    #[test]
    fn a_failed_reply_is_taken_back_and_memory_is_kept_within_bounds() {
        let mut out = Outbox::default();
        out.done(SIMPLE);
        let before = out.len();
        out.space(1 << 20).fill(1);
        out.rewind(before);
        assert_eq!(out.len(), 16);
        out.clear();
        out.shrink(4096);
        assert!(out.capacity() < 1 << 20);
    }
}
