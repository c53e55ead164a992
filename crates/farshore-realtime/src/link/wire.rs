//! The bytes between two regions: frames with a length, each under the item's token, in postcard.
//!
//! `length: u32, big endian`, then that many bytes of [`Frame`]. What comes before the first frame is in [`super::greeting`].
//!
//! Must always hold: memory grows with the bytes that came, never with a length that was only announced; a frame that does
//! not decode to its last byte ends the connection.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use farshore_core::ids::{Region, Token};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::snapshot::Part;
use crate::hub::record::{Position, Record};
use crate::names::{ConnectionId, HubName};

/// The longest frame: a session with everything that is kept for it (16 MiB), its names, and as much again for other things.
pub(super) const FRAME_MAX: usize = 32 * 1024 * 1024;
/// The longest first frame, of a peer that is not known to be the right one.
pub(super) const HELLO_MAX: usize = 64 * 1024;
/// Room that is made for one read.
const READ_BYTES: usize = 64 * 1024;

/// Why a connection between regions ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The peer closed it between two frames.
    #[error("the other region closed the connection")]
    Ended,
    /// The peer closed it within a frame.
    #[error("the connection ended within a frame")]
    Truncated,
    /// Nothing came, or nothing could be written, for too long.
    #[error("the other region was silent for {0:?}")]
    Silent(Duration),
    /// A frame is longer than the limit.
    #[error("a frame of {len} bytes is longer than {max}")]
    TooLong {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A frame does not decode.
    #[error("a frame does not decode: {0}: run the same version in both regions")]
    Rubbish(String),
}

/// Everything that regions send to each other, under the highest token that the sender has seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Frame<R = Record> {
    pub(super) token: Token,
    pub(super) message: Message<R>,
}

/// One thing said. Variants are only ever added, at the end. `R` is a [`Record`], owned or borrowed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Message<R = Record> {
    /// The first of each side.
    Hello(Box<Hello>),
    /// Instead of an answer: it goes no further, and why.
    Refused(String),
    /// What operators have set, as JSON. The newest version holds.
    Settings(Vec<u8>),
    /// A snapshot begins.
    Begin(Begin),
    /// A part of it.
    Part(Part),
    /// It is whole.
    End,
    /// Records, without a gap after what came before.
    Records { first: Position, records: Vec<R> },
    /// The sender has everything of the receiver up to here.
    Has(Position),
    /// The client of this session is with the sender, which asks for it. The answer is a [`Record::Released`] or
    /// [`Message::NotMine`].
    Claim(ConnectionId),
    /// The session that was asked for is not the sender's.
    NotMine(ConnectionId),
    /// A sign of life that wants an answer.
    Ping,
    /// The answer: everything before the ping was read.
    Pong,
}

/// Who is speaking, to whom, about what, and where it can go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) hub: HubName,
    pub(super) from: Region,
    pub(super) to: Region,
    /// Which start of its hub.
    pub(super) start: u128,
    /// Up to where it has the receiver's records.
    pub(super) applied: Option<Applied>,
}

/// Up to where the records of one start of a hub were applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    pub(super) start: u128,
    pub(super) position: Position,
}

/// The head of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Begin {
    pub(super) start: u128,
    pub(super) position: Position,
    pub(super) seen: Vec<u128>,
}

/// Appends a frame. On an error `out` is as it was.
pub(super) fn encode<R: Serialize>(frame: &Frame<R>, out: &mut Vec<u8>) -> Result<(), WireError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let whole = std::mem::take(out);
    *out = postcard::to_extend(frame, whole).map_err(|error| WireError::Rubbish(error.to_string()))?;
    let len = out.len() - start - 4;
    match u32::try_from(len) {
        Ok(announced) if len <= FRAME_MAX => {
            out[start..start + 4].copy_from_slice(&announced.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(WireError::TooLong { len, max: FRAME_MAX })
        }
    }
}

/// Takes one frame from the front, if a whole one is there.
pub(super) fn decode(buf: &mut BytesMut, max: usize) -> Result<Option<Frame>, WireError> {
    let Some(announced) = buf.first_chunk::<4>() else { return Ok(None) };
    let len = usize::try_from(u32::from_be_bytes(*announced)).unwrap_or(usize::MAX);
    if len > max {
        return Err(WireError::TooLong { len, max });
    }
    if buf.len() - 4 < len {
        return Ok(None);
    }
    buf.advance(4);
    let body = buf.split_to(len);
    match postcard::take_from_bytes::<Frame>(&body) {
        Ok((frame, [])) => Ok(Some(frame)),
        Ok((_, rest)) => Err(WireError::Rubbish(format!("{} bytes are left over", rest.len()))),
        Err(error) => Err(WireError::Rubbish(error.to_string())),
    }
}

/// Frames that come.
pub(super) struct FrameReader {
    read: Box<dyn AsyncRead + Send + Unpin>,
    buf: BytesMut,
}

impl FrameReader {
    /// The next frame. `silence`: the longest time without a byte. `heard` is called when bytes came.
    pub(super) async fn next(
        &mut self,
        max: usize,
        silence: Duration,
        mut heard: impl FnMut(usize),
    ) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = decode(&mut self.buf, max)? {
                return Ok(frame);
            }
            self.buf.reserve(READ_BYTES);
            match timeout(silence, self.read.read_buf(&mut self.buf)).await {
                Err(_) => return Err(WireError::Silent(silence)),
                Ok(Ok(0)) if self.buf.is_empty() => return Err(WireError::Ended),
                Ok(Ok(0)) => return Err(WireError::Truncated),
                Ok(read) => heard(read?),
            }
        }
    }

    /// Fills the buffer, before there are frames.
    pub(super) async fn exact(&mut self, buf: &mut [u8]) -> Result<(), WireError> {
        self.read.read_exact(buf).await?;
        Ok(())
    }
}

/// Frames that go.
pub(super) struct FrameWriter {
    write: Box<dyn AsyncWrite + Send + Unpin>,
}

impl FrameWriter {
    /// Writes everything. `stall`: the longest time in which the peer takes nothing.
    pub(super) async fn write(&mut self, mut bytes: &[u8], stall: Duration) -> Result<(), WireError> {
        while !bytes.is_empty() {
            match timeout(stall, self.write.write(bytes)).await {
                Err(_) => return Err(WireError::Silent(stall)),
                Ok(Ok(0)) => return Err(WireError::Ended),
                Ok(wrote) => bytes = &bytes[wrote?..],
            }
        }
        timeout(stall, self.write.flush()).await.map_err(|_| WireError::Silent(stall))??;
        Ok(())
    }

    /// Writes one frame.
    pub(super) async fn say(&mut self, frame: &Frame, stall: Duration) -> Result<(), WireError> {
        let mut bytes = Vec::new();
        encode(frame, &mut bytes)?;
        self.write(&bytes, stall).await
    }
}

/// A connection in its two directions, whatever carries it.
pub(super) fn halves<S>(stream: S) -> (FrameReader, FrameWriter)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let reader = FrameReader { read: Box::new(read), buf: BytesMut::new() };
    (reader, FrameWriter { write: Box::new(write) })
}
