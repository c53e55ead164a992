//! A connection's bytes as packets: bounded, batched, and without any buffer while nothing happens.
//!
//! Reading goes through one scratch buffer per thread, so that a connection holds memory only for what it has received and not yet
//! understood, and has queued and not yet written. The codec is only asked about packets that are whole and within the limit: left
//! alone it would reserve what a header announces.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rmqtt_codec::error::{DecodeError, EncodeError};
use rmqtt_codec::v3::{Codec, Packet};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::codec::{Decoder, Encoder};

/// Read at once, by whichever connection of a thread has something: a few hundred messages under load.
const SCRATCH_LEN: usize = 64 * 1024;
/// A length of a packet has at most four bytes.
const LENGTH_BYTES_MAX: usize = 4;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_LEN].into_boxed_slice());
}

/// What a connection runs over: TCP, TLS, WebSocket, or a pipe in tests.
pub trait Link: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Link for T {}

/// Packets over a link. `fill` and `flush` may be dropped at any time and lose nothing.
pub struct Wire {
    link: Box<dyn Link>,
    codec: Codec,
    inbox: BytesMut,
    outbox: BytesMut,
    packet_max: usize,
    flushed: bool,
}

/// What [`Wire::turn`] has done.
#[derive(Debug)]
pub enum Turn {
    /// Some of what is queued has left, maybe all.
    Written(io::Result<()>),
    /// So many bytes were read; zero: the other side has ended.
    Filled(io::Result<usize>),
}

/// What came is no packet that may come.
#[derive(Debug, thiserror::Error)]
pub enum BadPacket {
    /// Longer than is allowed.
    #[error("a packet of {len} bytes, of which {max} are allowed")]
    TooLong {
        /// As announced.
        len: usize,
        /// As allowed.
        max: usize,
    },
    /// Not understood.
    #[error("no packet of MQTT 3.1.1: {0}")]
    Malformed(#[from] DecodeError),
}

impl Wire {
    /// Over `link`, for packets of up to `packet_max` bytes.
    #[must_use]
    pub fn new(link: Box<dyn Link>, packet_max: usize) -> Self {
        Self {
            link,
            codec: Codec::new(0),
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            packet_max,
            flushed: true,
        }
    }

    /// From now on packets may have up to `packet_max` bytes.
    pub fn allow(&mut self, packet_max: usize) {
        self.packet_max = packet_max;
    }

    /// The next packet of what has been read; `None`: more must be read first.
    ///
    /// # Errors
    /// [`BadPacket`]: the connection cannot go on.
    pub fn packet(&mut self) -> Result<Option<Packet>, BadPacket> {
        let Some(len) = packet_len(&self.inbox)? else { return Ok(None) };
        if len > self.packet_max {
            return Err(BadPacket::TooLong { len, max: self.packet_max });
        }
        if self.inbox.len() < len {
            return Ok(None);
        }
        let packet = self.codec.decode(&mut self.inbox)?.map(|(packet, _)| packet);
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        Ok(packet)
    }

    /// What has been read and not been taken as a packet yet.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.inbox
    }

    /// Reads what there is; zero: the other side has ended.
    ///
    /// # Errors
    /// The link is broken.
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.link).poll_read(cx, &mut read))?;
            self.inbox.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// Adds a packet to what will be written with the next `flush`.
    ///
    /// # Errors
    /// The packet cannot be written: its topic is longer than MQTT allows. Nothing was added.
    pub fn queue(&mut self, packet: Packet) -> Result<(), EncodeError> {
        let before = self.outbox.len();
        self.codec.encode(packet, &mut self.outbox).inspect_err(|_| self.outbox.truncate(before))?;
        self.flushed = false;
        Ok(())
    }

    /// How many bytes are queued.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.outbox.len()
    }

    /// Whether everything queued has left.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.flushed
    }

    /// Writes everything queued.
    ///
    /// # Errors
    /// The link is broken.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.flushed {
            poll_fn(|cx| self.poll_write(cx)).await?;
        }
        Ok(())
    }

    /// Writes as much as the link takes at once.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.outbox.is_empty() {
            let taken = ready!(Pin::new(&mut self.link).poll_write(cx, &self.outbox))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(taken);
            if !self.outbox.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.outbox = BytesMut::new();
        }
        ready!(Pin::new(&mut self.link).poll_flush(cx))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
    }

    /// Whatever comes first: some of what is queued has left, or, if `read`, something was read. May be dropped and asked again.
    pub async fn turn(&mut self, read: bool) -> Turn {
        poll_fn(|cx| {
            if !self.flushed
                && let Poll::Ready(written) = self.poll_write(cx)
            {
                return Poll::Ready(Turn::Written(written));
            }
            if read { self.poll_fill(cx).map(Turn::Filled) } else { Poll::Pending }
        })
        .await
    }

    /// Writes everything queued and says that no more will come.
    ///
    /// # Errors
    /// The link is broken.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.link.shutdown().await
    }

    /// Throws away what has been read.
    pub fn discard(&mut self) {
        self.inbox = BytesMut::new();
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("unread", &self.inbox.len())
            .field("queued", &self.outbox.len())
            .finish_non_exhaustive()
    }
}

/// The length of the packet that begins here, with its header; `None` while that cannot be said.
fn packet_len(bytes: &[u8]) -> Result<Option<usize>, BadPacket> {
    let mut len = 0;
    for (nth, byte) in bytes.iter().skip(1).take(LENGTH_BYTES_MAX).enumerate() {
        len |= usize::from(byte & 0x7F) << (7 * nth);
        if byte & 0x80 == 0 {
            return Ok(Some(2 + nth + len));
        }
    }
    if bytes.len() > LENGTH_BYTES_MAX { Err(DecodeError::InvalidLength.into()) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Wire {
        let mut wire = Wire::new(Box::new(tokio::io::empty()), 1000);
        wire.inbox.extend_from_slice(bytes);
        wire
    }

    #[test]
    fn a_header_reserves_nothing_and_a_long_packet_is_refused_by_its_header() {
        let mut wire = read(&[0x30, 0xE0, 0x07]);
        assert!(wire.packet().unwrap().is_none());
        assert!(wire.inbox.capacity() < 100);
        let error = read(&[0x30, 0xFF, 0xFF, 0x7F]).packet().unwrap_err().to_string();
        assert_eq!(error, "a packet of 2097155 bytes, of which 1000 are allowed");
        assert!(read(&[0x30, 0xFF, 0xFF, 0xFF]).packet().unwrap().is_none());
        assert!(read(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF]).packet().is_err());
    }

    #[test]
    fn packets_are_taken_one_by_one_and_nothing_is_kept() {
        let mut wire = read(&[0xC0, 0, 0xE0, 0, 0xC0]);
        assert_eq!(wire.packet().unwrap(), Some(Packet::PingRequest));
        assert_eq!(wire.packet().unwrap(), Some(Packet::Disconnect));
        assert_eq!(wire.packet().unwrap(), None);
        wire.inbox.extend_from_slice(&[0]);
        assert_eq!(wire.packet().unwrap(), Some(Packet::PingRequest));
        assert_eq!(wire.inbox.capacity(), 0);
    }

    proptest! {
        #[test]
        fn rubbish_is_refused_or_understood_and_never_panics(first in any::<u8>(), rest in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut framed = vec![first, u8::try_from(rest.len()).unwrap()];
            framed.extend_from_slice(&rest);
            let mut wire = read(&framed);
            let _ = wire.packet();
            let mut wire = read(&rest);
            while let Ok(Some(_)) = wire.packet() {}
        }
    }
}
