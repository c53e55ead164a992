//! Frames of RFC 6455 as they are sent: encoded into one buffer, or only what stands before a payload.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{CONTROL_MAX, Opcode};

/// What a close frame leaves for the reason beside its code.
pub const CLOSE_REASON_MAX: usize = CONTROL_MAX - 2;

/// The bytes before the payload of an unmasked frame.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    bytes: [u8; 10],
    len: u8,
}

impl Head {
    /// Two, four or ten bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The header of an unmasked, unfragmented frame with a payload of `len` bytes.
#[must_use]
pub fn head(opcode: Opcode, len: usize) -> Head {
    head_with(opcode, len, 0)
}

fn head_with(opcode: Opcode, len: usize, mask_bit: u8) -> Head {
    let mut bytes = [0; 10];
    bytes[0] = 0x80 | opcode.bits();
    let used = if let Some(short) = u8::try_from(len).ok().filter(|short| *short < 126) {
        bytes[1] = mask_bit | short;
        2
    } else if let Ok(medium) = u16::try_from(len) {
        bytes[1] = mask_bit | 126;
        bytes[2..4].copy_from_slice(&medium.to_be_bytes());
        4
    } else {
        bytes[1] = mask_bit | 127;
        bytes[2..].copy_from_slice(&(len as u64).to_be_bytes());
        10
    };
    Head { bytes, len: used }
}

/// A whole unmasked frame.
#[must_use]
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let head = head(opcode, payload.len());
    let mut out = BytesMut::with_capacity(head.as_slice().len() + payload.len());
    out.put_slice(head.as_slice());
    out.put_slice(payload);
    out.freeze()
}

/// A whole frame as a client sends it. `mask` must be unpredictable to whoever chose the payload (RFC 6455, 10.3).
#[must_use]
pub fn masked_frame(opcode: Opcode, payload: &[u8], mut mask: [u8; 4]) -> Vec<u8> {
    let head = head_with(opcode, payload.len(), 0x80);
    let mut out = Vec::with_capacity(head.as_slice().len() + mask.len() + payload.len());
    out.extend_from_slice(head.as_slice());
    out.extend_from_slice(&mask);
    let at = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[at..], &mut mask);
    out
}

/// A whole close frame; a reason that is too long is cut between two characters.
#[must_use]
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    frame(Opcode::Close, &close_payload(code, reason))
}

/// What a close frame carries.
#[must_use]
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), cut(reason, CLOSE_REASON_MAX).as_bytes()].concat()
}

/// The beginning of `text` that fits into `max` bytes.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// Eight bytes at a time; turns `mask` so that it fits what comes next.
pub(super) fn apply_mask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip([a, b, c, d].into_iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(tail.len() % 4);
}
