//! A small asynchronous client: for health probes, demonstrations, tests and load.
//!
//! It keeps no buffer while it waits: bytes are read into the stack of whoever polls, and only a message in part is held.
//! Ten thousand of them cost what their sockets cost.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::codec::{Decoder, Incoming, Opcode, close_payload, masked_frame};
use upgrade::Target;

#[cfg(test)]
mod tests;
mod upgrade;

/// Connecting and the handshake together. Longer than any paced admission keeps a client waiting; callers that know better
/// set a shorter one around the call.
const CONNECT_DEADLINE: Duration = Duration::from_secs(60);
/// Read at once; lies on the stack.
const READ_MAX: usize = 16 * 1024;
/// Twice what a hub sends in one message.
const MESSAGE_MAX: usize = 2 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither ws:// nor wss://, or no host.
    #[error("{0:?} is not the URL of a WebSocket: write it like ws://host:port/path")]
    Url(String),
    /// A header that cannot be sent.
    #[error("{0:?} is not a valid header")]
    Header(String),
    /// wss:// without a configuration.
    #[error("wss:// needs a TLS configuration: give the certificates to trust")]
    NoTls,
    /// The network failed.
    #[error("cannot connect to {host}")]
    Io {
        /// Where to.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server answered, but with something else than the upgrade.
    #[error("the server answered {status} instead of opening a WebSocket")]
    Refused {
        /// The status of its answer.
        status: u16,
        /// The beginning of the answer's body.
        body: Bytes,
    },
    /// The server's answer breaks the protocol.
    #[error("the server's answer is no WebSocket handshake: {0}")]
    Handshake(&'static str),
}

impl ConnectError {
    /// The HTTP status with which the server refused.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// What came in, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedIncoming {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// A ping.
    Ping(Bytes),
    /// A pong.
    Pong(Bytes),
    /// The server closes: nothing follows.
    Close {
        /// Absent when the frame was empty.
        code: Option<u16>,
        /// Empty when none was given.
        reason: String,
    },
}

impl From<Incoming<'_>> for OwnedIncoming {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(text) => Self::Text(text.to_owned()),
            Incoming::Binary(bytes) => Self::Binary(Bytes::copy_from_slice(bytes)),
            Incoming::Ping(bytes) => Self::Ping(Bytes::copy_from_slice(bytes)),
            Incoming::Pong(bytes) => Self::Pong(Bytes::copy_from_slice(bytes)),
            Incoming::Close { code, reason } => Self::Close { code, reason: reason.to_owned() },
        }
    }
}

/// A TLS configuration that trusts these certificates (and no others), with the provider that the whole program uses.
///
/// # Errors
///
/// A certificate is not one.
pub fn tls_trusting(
    certificates: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// An open connection.
#[derive(Debug)]
pub struct WsClient {
    reader: WsReader,
    writer: WsWriter,
    subprotocol: Option<String>,
}

impl WsClient {
    /// Opens a connection. `tls` is used for `wss://` only.
    ///
    /// # Errors
    ///
    /// Says whether the URL, the network, or the server's answer was the reason.
    pub async fn connect(
        url: &str,
        subprotocols: &[&str],
        headers: &[(&str, &str)],
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, ConnectError> {
        Self::open(None, url, subprotocols, headers, tls).await
    }

    /// As [`WsClient::connect`], but to this address, whatever the URL's host resolves to.
    ///
    /// # Errors
    ///
    /// As [`WsClient::connect`].
    pub async fn connect_at(
        address: SocketAddr,
        url: &str,
        subprotocols: &[&str],
        headers: &[(&str, &str)],
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, ConnectError> {
        Self::open(Some(address), url, subprotocols, headers, tls).await
    }

    async fn open(
        address: Option<SocketAddr>,
        url: &str,
        subprotocols: &[&str],
        headers: &[(&str, &str)],
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, ConnectError> {
        let target = Target::parse(url)?;
        let key = upgrade::key(rand::random());
        let request = target.request(&key, subprotocols, headers)?;
        let tls = match (target.tls, tls) {
            (true, None) => return Err(ConnectError::NoTls),
            (true, tls) => tls,
            (false, _) => None,
        };
        let opening = async {
            let (mut read, mut write) = dial(&target, address, tls).await?;
            write.write_all(request.as_bytes()).await?;
            write.flush().await?;
            let answer = upgrade::read_answer(&mut read).await?;
            Ok::<_, io::Error>((read, write, answer))
        };
        let opened = tokio::time::timeout(CONNECT_DEADLINE, opening).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_DEADLINE:?}")))
        });
        let (read, write, answer) =
            opened.map_err(|source| ConnectError::Io { host: target.host.clone(), source })?;
        let subprotocol = answer.check(&key, subprotocols)?;
        let mut reader =
            WsReader { read, decoder: Decoder::client(MESSAGE_MAX), ready: VecDeque::new(), first: None };
        reader.first = (!answer.rest.is_empty()).then_some(answer.rest);
        Ok(Self { reader, writer: WsWriter { write }, subprotocol })
    }

    /// The subprotocol that the server chose.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Sends a text message.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn send_text(&mut self, text: &str) -> io::Result<()> {
        self.writer.send(Opcode::Text, text.as_bytes()).await
    }

    /// Sends a binary message.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn send_binary(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.send(Opcode::Binary, bytes).await
    }

    /// Sends a ping.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn ping(&mut self, payload: &[u8]) -> io::Result<()> {
        self.writer.send(Opcode::Ping, payload).await
    }

    /// Sends a close frame; the server's own is still to be read.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn close(&mut self, code: u16, reason: &str) -> io::Result<()> {
        self.writer.close(code, reason).await
    }

    /// The next message or control frame; nothing when the connection has ended. Pings are answered, and told too. Nothing
    /// is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// The connection broke, or the server breaks the protocol.
    pub async fn next(&mut self) -> io::Result<Option<OwnedIncoming>> {
        let next = self.reader.next().await?;
        if let Some(OwnedIncoming::Ping(payload)) = &next {
            self.writer.send(Opcode::Pong, payload).await?;
        }
        Ok(next)
    }

    /// Both halves, for two tasks. Pings are then the caller's to answer.
    #[must_use]
    pub fn split(self) -> (WsReader, WsWriter) {
        (self.reader, self.writer)
    }
}

type Read = Box<dyn AsyncRead + Send + Unpin>;
type Write = Box<dyn AsyncWrite + Send + Unpin>;

async fn dial(
    target: &Target,
    address: Option<SocketAddr>,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> io::Result<(Read, Write)> {
    let stream = match address {
        Some(address) => TcpStream::connect(address).await?,
        None => TcpStream::connect((target.host.as_str(), target.port)).await?,
    };
    stream.set_nodelay(true)?;
    let Some(config) = tls else {
        let (read, write) = stream.into_split();
        return Ok((Box::new(read), Box::new(write)));
    };
    let name = ServerName::try_from(target.host.clone())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
    let (read, write) = tokio::io::split(stream);
    Ok((Box::new(read), Box::new(write)))
}

/// The receiving half.
pub struct WsReader {
    read: Read,
    decoder: Decoder,
    ready: VecDeque<OwnedIncoming>,
    /// What came right behind the server's answer.
    first: Option<Vec<u8>>,
}

impl std::fmt::Debug for WsReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WsReader").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

impl WsReader {
    /// The next message or control frame; nothing when the connection has ended. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// The connection broke, or the server breaks the protocol.
    pub async fn next(&mut self) -> io::Result<Option<OwnedIncoming>> {
        poll_fn(|context| {
            loop {
                if let Some(incoming) = self.ready.pop_front() {
                    return Poll::Ready(Ok(Some(incoming)));
                }
                let mut ready = std::mem::take(&mut self.ready);
                let polled = self.poll_some(context, &mut |incoming| ready.push_back(incoming.into()));
                self.ready = ready;
                if !ready!(polled)? {
                    return Poll::Ready(Ok(None));
                }
            }
        })
        .await
    }

    /// Waits for bytes and hands what they complete to `on`, without a copy; false when the connection has ended. Not to be
    /// mixed with [`WsReader::next`].
    ///
    /// # Errors
    ///
    /// As [`WsReader::next`].
    pub async fn read(&mut self, on: &mut (dyn FnMut(Incoming<'_>) + Send)) -> io::Result<bool> {
        poll_fn(|context| self.poll_some(context, on)).await
    }

    fn poll_some(
        &mut self,
        context: &mut Context<'_>,
        on: &mut dyn FnMut(Incoming<'_>),
    ) -> Poll<io::Result<bool>> {
        let bad = |violation| io::Error::new(io::ErrorKind::InvalidData, violation);
        if let Some(mut first) = self.first.take() {
            self.decoder.feed(&mut first, on).map_err(bad)?;
            return Poll::Ready(Ok(true));
        }
        let mut space = [MaybeUninit::uninit(); READ_MAX];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.read).poll_read(context, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Ok(false));
        }
        self.decoder.feed(buffer.filled_mut(), on).map_err(bad)?;
        Poll::Ready(Ok(true))
    }
}

/// The sending half.
pub struct WsWriter {
    write: Write,
}

impl std::fmt::Debug for WsWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WsWriter").finish_non_exhaustive()
    }
}

impl WsWriter {
    /// Sends one frame, under a mask of its own. A future that is dropped midway leaves half a frame: end the connection.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn send(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        self.write.write_all(&masked_frame(opcode, payload, rand::random())).await?;
        self.write.flush().await
    }

    /// Sends a close frame.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn close(&mut self, code: u16, reason: &str) -> io::Result<()> {
        self.send(Opcode::Close, &close_payload(code, reason)).await
    }
}
