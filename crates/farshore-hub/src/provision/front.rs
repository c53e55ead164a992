//! One port for both: devices that ask where they belong, and devices of the hub. The first packet's user name tells them apart,
//! so that one address and one certificate are enough; an official SDK knows only one port.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::proof;
use crate::mqtt::listener::{Arrived, Serve, Stop};
use crate::mqtt::wire::Link;

/// For the beginning of the first packet after the transport stands.
const HELLO_WITHIN: Duration = Duration::from_secs(30);
/// A user name that begins later than this is none of provisioning: before it come a client id, and no will.
const LOOKED_AT_MAX: usize = 2048;
/// The flags of a CONNECT that say there is a will, and a user name.
const WILL: u8 = 0x04;
const USER_NAME: u8 = 0x80;
/// Read at once; a first packet with its token fits.
const READ_BYTES: usize = 1024;

/// Serves provisioning to those who ask for it, and the hub to everybody else.
pub struct Front {
    provisioning: Arc<dyn Serve>,
    hub: Arc<dyn Serve>,
}

impl Front {
    /// Of the two.
    #[must_use]
    pub fn new(provisioning: Arc<dyn Serve>, hub: Arc<dyn Serve>) -> Self {
        Self { provisioning, hub }
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("provisioning", &self.provisioning).field("hub", &self.hub).finish()
    }
}

impl Serve for Front {
    fn serve(&self, arrived: Arrived, mut stop: Stop) -> BoxFuture<'static, ()> {
        let (provisioning, hub) = (Arc::clone(&self.provisioning), Arc::clone(&self.hub));
        Box::pin(async move {
            let Arrived { mut link, origin, place } = arrived;
            let looked = tokio::select! {
                looked = timeout(HELLO_WITHIN, look(&mut link)) => looked,
                () = stop.soon() => return,
            };
            let Ok(Ok((wanted, read))) = looked else { return };
            let link: Box<dyn Link> = Box::new(Replayed { read, link });
            let serve = match wanted {
                Wanted::Provisioning => provisioning,
                Wanted::Hub => hub,
            };
            serve.serve(Arrived { link, origin, place }, stop).await;
        })
    }
}

/// Whom a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Provisioning,
    Hub,
}

/// Reads until it can be said whom the connection is for, and gives back what was read.
async fn look(link: &mut Box<dyn Link>) -> io::Result<(Wanted, BytesMut)> {
    let mut read = BytesMut::with_capacity(READ_BYTES);
    loop {
        if let Some(wanted) = wanted(&read) {
            return Ok((wanted, read));
        }
        if link.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Whom a first packet is for, by its beginning; `None`: there is too little of it. What is wrong with a packet is for the hub
/// to say.
fn wanted(packet: &[u8]) -> Option<Wanted> {
    match user_name(packet) {
        Ok(name) => Some(match proof::username(name) {
            Some(_) => Wanted::Provisioning,
            None => Wanted::Hub,
        }),
        Err(Unclear::Short) if packet.len() < LOOKED_AT_MAX => None,
        Err(_) => Some(Wanted::Hub),
    }
}

/// Why there is no user name.
enum Unclear {
    /// The packet is not here yet.
    Short,
    /// It is none that could have one, or has none.
    None,
}

/// The user name of a CONNECT without a will.
fn user_name(packet: &[u8]) -> Result<&str, Unclear> {
    let mut rest = packet;
    if take(&mut rest, 1)? != [0x10] {
        return Err(Unclear::None);
    }
    // Four bytes at most say how long it is; the last one has no highest bit.
    let length = rest.iter().take(4).position(|byte| byte & 0x80 == 0);
    match length {
        Some(last) => take(&mut rest, last + 1)?,
        None if rest.len() < 4 => return Err(Unclear::Short),
        None => return Err(Unclear::None),
    };
    text(&mut rest)?;
    let level_flags_and_keep_alive = take(&mut rest, 4)?;
    let flags = level_flags_and_keep_alive[1];
    if flags & WILL != 0 || flags & USER_NAME == 0 {
        return Err(Unclear::None);
    }
    text(&mut rest)?;
    std::str::from_utf8(text(&mut rest)?).map_err(|_| Unclear::None)
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Unclear> {
    let length = take(rest, 2)?;
    take(rest, usize::from(u16::from_be_bytes([length[0], length[1]])))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Unclear> {
    let (taken, after) = rest.split_at_checked(count).ok_or(Unclear::Short)?;
    *rest = after;
    Ok(taken)
}

/// A link of which something was read already.
struct Replayed {
    read: BytesMut,
    link: Box<dyn Link>,
}

impl AsyncRead for Replayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.link).poll_read(cx, buffer);
        }
        let count = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..count]);
        self.read.advance(count);
        if self.read.is_empty() {
            // Connections live for months: nothing of this one's beginning is kept.
            self.read = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rmqtt_codec::types::QoS;
    use rmqtt_codec::v3::{Codec, Connect, LastWill, Packet};
    use tokio_util::codec::Encoder;

    use super::*;

    fn connect(user_name: Option<&str>, will: bool) -> Vec<u8> {
        let last_will = will.then(|| LastWill {
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "devices/pump/messages/events/".into(),
            message: Bytes::from_static(b"gone"),
        });
        let packet = Connect {
            client_id: "pump".into(),
            username: user_name.map(Into::into),
            password: user_name.map(|_| Bytes::from_static(b"a token")),
            last_will,
            ..Connect::default()
        };
        let mut bytes = BytesMut::new();
        Codec::new(0).encode(Packet::from(packet), &mut bytes).unwrap();
        bytes.to_vec()
    }

    #[test]
    fn the_user_name_says_whom_a_device_wants() {
        let asks = "0ne1/registrations/pump/api-version=2019-03-31&ClientVersion=1";
        let device = "hub.example/pump/?api-version=2019-10-01";
        let mut endless = vec![0x10, 0xFF, 0x7F, 0, 4];
        endless.resize(LOOKED_AT_MAX, 0xFF);
        let rows = [
            ("one that asks", connect(Some(asks), false), Some(Wanted::Provisioning)),
            ("a device", connect(Some(device), false), Some(Wanted::Hub)),
            ("a device with a will", connect(Some(asks), true), Some(Wanted::Hub)),
            ("a nameless one", connect(None, false), Some(Wanted::Hub)),
            ("no CONNECT", vec![0xC0, 0], Some(Wanted::Hub)),
            ("no length", vec![0x10, 0xFF, 0xFF, 0xFF, 0xFF], Some(Wanted::Hub)),
            ("a long one", endless, Some(Wanted::Hub)),
            ("nothing yet", Vec::new(), None),
        ];
        for (what, packet, expected) in rows {
            assert_eq!(wanted(&packet), expected, "{what}");
        }
        let whole = connect(Some(asks), false);
        let name_ends = whole.len() - 2 - "a token".len();
        for end in 0..name_ends {
            assert_eq!(wanted(&whole[..end]), None, "{end}");
        }
    }
}
