//! Frames to bytes and back.

use bytes::{Buf, Bytes, BytesMut};
use fe2o3_amqp_types::performatives::Performative;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::shape::{self, Malformed};

/// Largest frame in either direction: a message for a device and its properties fit into two.
pub(super) const FRAME_BYTES_MAX: usize = 64 * 1024;
/// The frame's size, where its body begins, its type and its channel.
const HEADER_BYTES: usize = 8;
/// What the performative of a transfer takes at most, beside the payload.
const TRANSFER_BYTES: usize = 128;

/// The header that opens an AMQP connection, and the one that opens SASL before it.
pub(super) const AMQP: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
pub(super) const SASL: [u8; 8] = *b"AMQP\x03\x01\x00\x00";

/// Which of the two protocols a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Amqp,
    Sasl,
}

/// One frame as it came; the body is not looked at yet.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) channel: u16,
    pub(super) body: Bytes,
}

/// Bytes that are no frame this hub can read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadFrame {
    #[error("a frame of {0} bytes; {HEADER_BYTES} to {FRAME_BYTES_MAX} are possible")]
    Size(usize),
    #[error("the body of a frame begins at byte {0}, outside it")]
    Offset(usize),
    #[error("frame type {0} is neither AMQP nor SASL")]
    Kind(u8),
    #[error(transparent)]
    Shape(#[from] Malformed),
    #[error("the frame is none of the protocol's: {0}")]
    Content(#[from] serde_amqp::Error),
}

/// Takes the next frame off `buffer`; `None` until all of it is there.
pub(super) fn next_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, BadFrame> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let size = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&size) {
        return Err(BadFrame::Size(size));
    }
    let begins = usize::from(header[4]) * 4;
    if !(HEADER_BYTES..=size).contains(&begins) {
        return Err(BadFrame::Offset(begins));
    }
    let kind = match header[5] {
        0 => Kind::Amqp,
        1 => Kind::Sasl,
        other => return Err(BadFrame::Kind(other)),
    };
    let channel = u16::from_be_bytes([header[6], header[7]]);
    if buffer.len() < size {
        return Ok(None);
    }
    let mut body = buffer.split_to(size);
    body.advance(begins);
    Ok(Some(Frame { kind, channel, body: body.freeze() }))
}

/// What a frame says, and the payload after it; `None`: it is empty and only shows that the peer is alive.
pub(super) fn performative(mut body: Bytes) -> Result<Option<(Performative, Bytes)>, BadFrame> {
    if body.is_empty() {
        return Ok(None);
    }
    let said = body.split_to(shape::end_of_value(&body)?);
    Ok(Some((serde_amqp::from_slice(&said)?, body)))
}

/// One value, after its shape was found harmless.
pub(super) fn value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadFrame> {
    let end = shape::end_of_value(bytes)?;
    Ok(serde_amqp::from_slice(&bytes[..end])?)
}

/// A frame with one value and a payload.
pub(super) fn frame(
    kind: Kind,
    channel: u16,
    said: &impl Serialize,
    payload: &[u8],
) -> Result<Vec<u8>, serde_amqp::Error> {
    let said = serde_amqp::to_vec(said)?;
    let size = HEADER_BYTES + said.len() + payload.len();
    let mut frame = Vec::with_capacity(size);
    frame.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&[2, u8::from(kind == Kind::Sasl)]);
    frame.extend_from_slice(&channel.to_be_bytes());
    frame.extend_from_slice(&said);
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// The frame that says nothing but that this side is alive.
pub(super) const EMPTY: [u8; HEADER_BYTES] = [0, 0, 0, 8, 2, 0, 0, 0];

/// How much payload fits into one transfer to a peer that takes frames of `frame_max` bytes.
pub(super) fn payload_max(frame_max: usize) -> usize {
    frame_max - HEADER_BYTES - TRANSFER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_or_not_at_all() {
        let mut buffer = BytesMut::new();
        for byte in [0, 0, 0, 9, 2, 0, 0, 3] {
            assert!(next_frame(&mut buffer).unwrap().is_none());
            buffer.extend_from_slice(&[byte]);
        }
        assert!(next_frame(&mut buffer).unwrap().is_none());
        buffer.extend_from_slice(&[0x45, 1]);
        let frame = next_frame(&mut buffer).unwrap().unwrap();
        assert_eq!((frame.kind, frame.channel, &frame.body[..]), (Kind::Amqp, 3, &[0x45][..]));
        assert_eq!(&buffer[..], [1]);
    }

    #[test]
    fn what_is_no_frame_is_named() {
        let rows: [([u8; 8], &str); 6] = [
            ([0, 0, 0, 7, 2, 0, 0, 0], "a frame of 7 bytes"),
            ([0, 0, 0, 4, 2, 0, 0, 0], "a frame of 4 bytes"),
            ([0xFF, 0xFF, 0xFF, 0xFF, 2, 0, 0, 0], "4294967295 bytes"),
            ([0, 0, 0, 8, 1, 0, 0, 0], "at byte 4"),
            ([0, 0, 0, 8, 9, 0, 0, 0], "at byte 36"),
            ([0, 0, 0, 8, 2, 7, 0, 0], "frame type 7"),
        ];
        for (bytes, why) in rows {
            let error = next_frame(&mut BytesMut::from(&bytes[..])).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(performative(Bytes::from_static(&[0x40])).is_err());
        assert!(performative(Bytes::from_static(&[0; 64])).is_err());
        assert!(performative(Bytes::new()).unwrap().is_none());
    }
}
