//! A small blocking client: one request at a time, every call with a deadline.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::proto::{
    CONTEXT_ALLOCATION, FIXED_NEWSTYLE, NBD_MAGIC, NO_ZEROES, OPTION_MAGIC, OPTION_REPLY_MAGIC, PAYLOAD_MAX,
    REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STATE_HOLE, STATE_ZERO, STRUCTURED_REPLY_MAGIC, chunk, cmd, flag,
    info, opt, rep,
};
use super::stream::Stream;
use crate::disk::{Extent, ExtentKind};

/// Longest reply to an option that is believed: names and messages are at most 4 KiB.
const OPTION_REPLY_MAX: u32 = 64 << 10;
/// Longest reply to `BLOCK_STATUS` that is believed: 2^20 extents.
const STATUS_REPLY_MAX: u32 = 4 + (8 << 20);

/// Why a request or connection failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one.
    #[error("{uri:?} is no NBD address: write nbd://HOST:PORT/NAME or nbd+unix:///NAME?socket=PATH")]
    Uri {
        /// As it was given.
        uri: String,
    },
    /// The server does not offer this export.
    #[error("{uri} refused the connection: {message}")]
    Refused {
        /// As it was given.
        uri: String,
        /// The server's words.
        message: String,
    },
    /// The server carried the request out with an error; the connection is good.
    #[error("{what} failed on the server with error {errno}: {message}")]
    Server {
        /// Which request.
        what: &'static str,
        /// The protocol's number; see [`super::errno`].
        errno: u32,
        /// The server's words, if any.
        message: String,
    },
    /// The other end does not speak the protocol.
    #[error("not an NBD server, or a broken one: {0}")]
    Protocol(&'static str),
    /// The connection failed or the deadline passed; the connection is of no use any more.
    #[error("nbd connection failed: {0}")]
    Io(#[from] io::Error),
}

impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::Io(inner) => inner.kind(),
            ClientError::Uri { .. } => io::ErrorKind::InvalidInput,
            ClientError::Refused { .. } => io::ErrorKind::ConnectionRefused,
            ClientError::Protocol(_) => io::ErrorKind::InvalidData,
            ClientError::Server { errno, .. } => {
                io::Error::from_raw_os_error(i32::try_from(*errno).unwrap_or(i32::MAX)).kind()
            }
        };
        io::Error::new(kind, error)
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// A connection to one export.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    timeout: Duration,
    size: u64,
    flags: u16,
    structured: bool,
    /// The identifier that the server gave to `base:allocation`.
    allocation: Option<u32>,
    cookie: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
    /// `nbds://`.
    Tls(String),
}

impl Client {
    /// Connects to `nbd://HOST:PORT/NAME` or `nbd+unix:///NAME?socket=PATH`. This and each later call take at most
    /// `timeout`.
    pub fn connect(uri: &str, timeout: Duration) -> Result<Self> {
        Self::connect_with(uri, timeout, None)
    }

    /// Like [`Client::connect`], also to `nbds://HOST:PORT/NAME`. The server is asked for the host's name.
    pub fn connect_tls(uri: &str, timeout: Duration, config: Arc<ClientConfig>) -> Result<Self> {
        Self::connect_with(uri, timeout, Some(config))
    }

    fn connect_with(uri: &str, timeout: Duration, config: Option<Arc<ClientConfig>>) -> Result<Self> {
        let (address, name) = parse_uri(uri).ok_or_else(|| ClientError::Uri { uri: uri.to_owned() })?;
        let deadline = Instant::now() + timeout;
        let refused = |why: &str| ClientError::Refused { uri: uri.to_owned(), message: why.to_owned() };
        let mut secured = None;
        let stream: Stream = match address {
            Address::Unix(path) => Stream::Unix(UnixStream::connect(&path).map_err(|error| {
                io::Error::new(error.kind(), format!("socket {}: {error}", path.display()))
            })?),
            Address::Tcp(host) => connect_tcp(&host, deadline)?.into(),
            Address::Tls(host) => {
                let config = config.ok_or_else(|| refused("nbds:// needs certificates"))?;
                let name = host.rsplit_once(':').map_or(&host[..], |(name, _)| name);
                let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned());
                let name = name.map_err(|_| refused("the host has no name that TLS knows"))?;
                secured = Some(ClientConnection::new(config, name).map_err(io::Error::other)?);
                connect_tcp(&host, deadline)?.into()
            }
        };
        stream.tune();
        let mut client =
            Self { stream, timeout, size: 0, flags: 0, structured: false, allocation: None, cookie: 0 };
        client.negotiate(uri, &name, secured, deadline)?;
        Ok(client)
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The server takes no writes.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.flags & flag::READ_ONLY != 0
    }

    /// Gives later calls another timeout.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Fills `buf`, of any length.
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut at = offset;
        for piece in buf.chunks_mut(PAYLOAD_MAX as usize) {
            let len = u32::try_from(piece.len()).expect("chunks are no longer than PAYLOAD_MAX");
            let deadline = self.send("read", cmd::READ, 0, at, len, &[])?;
            self.reply("read", deadline, Some((at, &mut *piece)))?;
            at += u64::from(len);
        }
        Ok(())
    }

    /// Writes all of `data`, of any length; with `fua`, it is durable on return.
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<()> {
        let flags = if fua { cmd::FLAG_FUA } else { 0 };
        let mut at = offset;
        for piece in data.chunks(PAYLOAD_MAX as usize) {
            let len = u32::try_from(piece.len()).expect("chunks are no longer than PAYLOAD_MAX");
            let deadline = self.send("write", cmd::WRITE, flags, at, len, piece)?;
            self.reply("write", deadline, None)?;
            at += u64::from(len);
        }
        Ok(())
    }

    /// Makes everything durable that was acknowledged before.
    pub fn flush(&mut self) -> Result<()> {
        self.simple("flush", cmd::FLUSH, 0, 0, 0)
    }

    /// Gives the range's space back.
    pub fn trim(&mut self, offset: u64, len: u32) -> Result<()> {
        self.simple("trim", cmd::TRIM, 0, offset, len)
    }

    /// Makes the range read as zeroes; with `no_hole`, keeps it allocated.
    pub fn zero(&mut self, offset: u64, len: u32, no_hole: bool) -> Result<()> {
        let flags = if no_hole { cmd::FLAG_NO_HOLE } else { 0 };
        self.simple("write zeroes", cmd::WRITE_ZEROES, flags, offset, len)
    }

    /// Describes the start of the range, at least one extent.
    pub fn block_status(&mut self, offset: u64, len: u32) -> Result<Vec<Extent>> {
        const WHAT: &str = "block status";
        let deadline = self.send(WHAT, cmd::BLOCK_STATUS, 0, offset, len, &[])?;
        let mut extents = Vec::new();
        loop {
            let header = self.chunk_header(deadline)?;
            match header.kind {
                chunk::BLOCK_STATUS if header.len >= 4 && header.len <= STATUS_REPLY_MAX => {
                    let data = self.receive_vec(header.len, deadline)?;
                    extents.extend(parse_status(&data, self.allocation));
                }
                chunk::NONE if header.len == 0 => {}
                _ => return Err(self.error_chunk(WHAT, &header, deadline)?),
            }
            if header.done {
                return Ok(extents);
            }
        }
    }

    /// Says good-bye. Dropping the client without it is an unclean end, which the server takes as well.
    pub fn disconnect(mut self) -> Result<()> {
        self.send("disconnect", cmd::DISC, 0, 0, 0, &[]).map(|_| ())
    }

    fn simple(&mut self, what: &'static str, command: u16, flags: u16, offset: u64, len: u32) -> Result<()> {
        let deadline = self.send(what, command, flags, offset, len, &[])?;
        self.reply(what, deadline, None)
    }

    fn send(
        &mut self,
        what: &'static str,
        command: u16,
        flags: u16,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> Result<Instant> {
        if command == cmd::BLOCK_STATUS && self.allocation.is_none() {
            let message = "the server offers no base:allocation".to_owned();
            return Err(ClientError::Server { what, errno: super::errno::ENOTSUP, message });
        }
        self.cookie += 1;
        let mut request = Vec::with_capacity(super::request::HEADER_LEN + data.len());
        request.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        request.extend_from_slice(&flags.to_be_bytes());
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&self.cookie.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&len.to_be_bytes());
        request.extend_from_slice(data);
        let deadline = Instant::now() + self.timeout;
        self.send_bytes(&request, deadline)?;
        Ok(deadline)
    }

    /// Takes the reply to the one request that is under way; `into` is where a read starts and goes.
    fn reply(
        &mut self,
        what: &'static str,
        deadline: Instant,
        mut into: Option<(u64, &mut [u8])>,
    ) -> Result<()> {
        let magic = u32::from_be_bytes(self.receive(deadline)?);
        if magic == SIMPLE_REPLY_MAGIC {
            let errno = u32::from_be_bytes(self.receive(deadline)?);
            self.check_cookie(deadline)?;
            return match (errno, into) {
                (0, Some(_)) if self.structured => Err(ClientError::Protocol("a simple reply to a read")),
                (0, Some((_, buf))) => self.receive_into(buf, deadline),
                (0, None) => Ok(()),
                (errno, _) => Err(ClientError::Server { what, errno, message: String::new() }),
            };
        }
        let mut header = self.chunk_header_after(magic, deadline)?;
        let mut filled = 0;
        loop {
            match (header.kind, &mut into) {
                (chunk::OFFSET_DATA | chunk::OFFSET_HOLE, Some((start, buf))) => {
                    filled += self.read_chunk(&header, *start, buf, deadline)?;
                }
                (chunk::NONE, _) if header.len == 0 => {}
                _ => return Err(self.error_chunk(what, &header, deadline)?),
            }
            if header.done {
                break;
            }
            header = self.chunk_header(deadline)?;
        }
        match into {
            Some((_, buf)) if filled != buf.len() => Err(ClientError::Protocol("a read with gaps")),
            _ => Ok(()),
        }
    }

    fn read_chunk(&self, header: &Chunk, start: u64, buf: &mut [u8], deadline: Instant) -> Result<usize> {
        const OUTSIDE: ClientError = ClientError::Protocol("data outside the read");
        let at = u64::from_be_bytes(self.receive(deadline)?);
        let hole = header.kind == chunk::OFFSET_HOLE;
        let len = match (hole, header.len.checked_sub(8)) {
            (true, Some(4)) => u32::from_be_bytes(self.receive(deadline)?),
            (false, Some(len)) => len,
            _ => return Err(ClientError::Protocol("a chunk of the wrong length")),
        };
        let from = at.checked_sub(start).and_then(|from| usize::try_from(from).ok()).ok_or(OUTSIDE)?;
        let to = from.checked_add(len as usize).ok_or(OUTSIDE)?;
        let part = buf.get_mut(from..to).ok_or(OUTSIDE)?;
        if hole {
            part.fill(0);
        } else {
            self.receive_into(part, deadline)?;
        }
        Ok(len as usize)
    }

    fn chunk_header(&self, deadline: Instant) -> Result<Chunk> {
        let magic = u32::from_be_bytes(self.receive(deadline)?);
        self.chunk_header_after(magic, deadline)
    }

    fn chunk_header_after(&self, magic: u32, deadline: Instant) -> Result<Chunk> {
        if magic != STRUCTURED_REPLY_MAGIC || !self.structured {
            return Err(ClientError::Protocol("a reply without its magic"));
        }
        let flags = u16::from_be_bytes(self.receive(deadline)?);
        let kind = u16::from_be_bytes(self.receive(deadline)?);
        self.check_cookie(deadline)?;
        let len = u32::from_be_bytes(self.receive(deadline)?);
        Ok(Chunk { done: flags & chunk::FLAG_DONE != 0, kind, len })
    }

    fn check_cookie(&self, deadline: Instant) -> Result<()> {
        if u64::from_be_bytes(self.receive(deadline)?) == self.cookie {
            Ok(())
        } else {
            Err(ClientError::Protocol("a reply to a request that is not under way"))
        }
    }

    /// Reads an error chunk and what may follow it, so that the connection stays good.
    fn error_chunk(&self, what: &'static str, header: &Chunk, deadline: Instant) -> Result<ClientError> {
        if header.kind & 0x8000 == 0 || header.len < 6 || header.len > OPTION_REPLY_MAX {
            return Err(ClientError::Protocol("an unknown chunk"));
        }
        if !header.done {
            return Err(ClientError::Protocol("an error before the end of a reply"));
        }
        let data = self.receive_vec(header.len, deadline)?;
        let errno = data.first_chunk().map_or(super::errno::EIO, |bytes| u32::from_be_bytes(*bytes));
        let len = data[4..].first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes)) as usize;
        let message = data.get(6..6 + len).unwrap_or_default();
        Ok(ClientError::Server { what, errno, message: String::from_utf8_lossy(message).into_owned() })
    }

    fn negotiate(
        &mut self,
        uri: &str,
        name: &str,
        tls: Option<ClientConnection>,
        deadline: Instant,
    ) -> Result<()> {
        if u64::from_be_bytes(self.receive(deadline)?) != NBD_MAGIC
            || u64::from_be_bytes(self.receive(deadline)?) != OPTION_MAGIC
        {
            return Err(ClientError::Protocol("no newstyle greeting"));
        }
        let server = u16::from_be_bytes(self.receive(deadline)?);
        if server & FIXED_NEWSTYLE == 0 {
            return Err(ClientError::Protocol("the server speaks only the oldest protocol"));
        }
        let flags = u32::from(server & (FIXED_NEWSTYLE | NO_ZEROES));
        self.send_bytes(&flags.to_be_bytes(), deadline)?;
        let refused = |message: String| ClientError::Refused { uri: uri.to_owned(), message };
        if let Some(tls) = tls {
            self.option(opt::STARTTLS, &[], deadline)?.map_err(refused)?;
            self.stream.secure(tls.into(), deadline)?;
        }
        self.structured = self.option(opt::STRUCTURED_REPLY, &[], deadline)?.is_ok();
        let len = u32::try_from(name.len()).map_err(|_| refused("the name is too long".to_owned()))?;
        let named = [&len.to_be_bytes()[..], name.as_bytes()].concat();
        if self.structured {
            let context = CONTEXT_ALLOCATION.as_bytes();
            let context_len = u32::try_from(context.len()).expect("a short constant");
            let query = [&named[..], &1_u32.to_be_bytes(), &context_len.to_be_bytes(), context].concat();
            let replies = self.option(opt::SET_META_CONTEXT, &query, deadline)?.unwrap_or_default();
            let id = replies.iter().find(|(kind, _)| *kind == rep::META_CONTEXT);
            self.allocation = id.and_then(|(_, data)| data.first_chunk()).map(|id| u32::from_be_bytes(*id));
        }
        let go = [&named[..], &[0, 0]].concat();
        let replies = self.option(opt::GO, &go, deadline)?.map_err(refused)?;
        let export = replies
            .iter()
            .filter_map(|(_, data)| data.first_chunk::<12>())
            .find(|data| data[..2] == info::EXPORT.to_be_bytes())
            .ok_or(ClientError::Protocol("no size in the reply"))?;
        let [_, _, size @ .., f0, f1] = *export;
        self.size = u64::from_be_bytes(size);
        self.flags = u16::from_be_bytes([f0, f1]);
        Ok(())
    }

    /// Sends one option and takes its replies; the inner error is the server's refusal.
    fn option(&self, option: u32, data: &[u8], deadline: Instant) -> Result<OptionReplies> {
        /// Far more than any option we send has.
        const REPLIES_MAX: usize = 64;
        let len = u32::try_from(data.len()).expect("options are short");
        let mut request = Vec::with_capacity(16 + data.len());
        request.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        request.extend_from_slice(&option.to_be_bytes());
        request.extend_from_slice(&len.to_be_bytes());
        request.extend_from_slice(data);
        self.send_bytes(&request, deadline)?;
        let mut replies = Vec::new();
        while replies.len() < REPLIES_MAX {
            if u64::from_be_bytes(self.receive(deadline)?) != OPTION_REPLY_MAGIC
                || u32::from_be_bytes(self.receive(deadline)?) != option
            {
                return Err(ClientError::Protocol("an option reply without its magic"));
            }
            let kind = u32::from_be_bytes(self.receive(deadline)?);
            let len = u32::from_be_bytes(self.receive(deadline)?);
            if len > OPTION_REPLY_MAX {
                return Err(ClientError::Protocol("an option reply that is too long"));
            }
            let data = self.receive_vec(len, deadline)?;
            match kind {
                rep::ACK => return Ok(Ok(replies)),
                error if error & 0x8000_0000 != 0 => {
                    return Ok(Err(String::from_utf8_lossy(&data).into_owned()));
                }
                _ => replies.push((kind, data)),
            }
        }
        Err(ClientError::Protocol("option replies without end"))
    }

    fn send_bytes(&self, mut bytes: &[u8], deadline: Instant) -> Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?))?;
            match (&self.stream).write(bytes) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) => check_interrupted(error)?,
            }
        }
        Ok(())
    }

    fn receive<const N: usize>(&self, deadline: Instant) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.receive_into(&mut bytes, deadline)?;
        Ok(bytes)
    }

    fn receive_vec(&self, len: u32, deadline: Instant) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.receive_into(&mut bytes, deadline)?;
        Ok(bytes)
    }

    fn receive_into(&self, mut buf: &mut [u8], deadline: Instant) -> Result<()> {
        while !buf.is_empty() {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match (&self.stream).read(buf) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(have) => buf = &mut buf[have..],
                Err(error) => check_interrupted(error)?,
            }
        }
        Ok(())
    }
}

/// Replies to an option as `(kind, data)`, or the server's words of refusal.
type OptionReplies = std::result::Result<Vec<(u32, Vec<u8>)>, String>;

struct Chunk {
    done: bool,
    kind: u16,
    len: u32,
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn check_interrupted(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        // What a socket's timeout looks like.
        io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
        _ => Err(error),
    }
}

fn connect_tcp(host: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in host.to_socket_addrs().map_err(|error| named(&error, host))? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(named(&last, host))
}

fn named(error: &io::Error, host: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{host}: {error}"))
}

/// The extents of the context `wanted` in a `BLOCK_STATUS` chunk; none if it is about another.
fn parse_status(data: &[u8], wanted: Option<u32>) -> Vec<Extent> {
    let Some((id, extents)) = data.split_first_chunk::<4>() else { return Vec::new() };
    if Some(u32::from_be_bytes(*id)) != wanted {
        return Vec::new();
    }
    let words = extents.chunks_exact(8).map(|extent| {
        let (len, state) = extent.split_at(4);
        let word = |bytes: &[u8]| bytes.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        (word(len), word(state))
    });
    words
        .map(|(len, state)| {
            let kind = match (state & STATE_HOLE != 0, state & STATE_ZERO != 0) {
                (true, true) => ExtentKind::Hole,
                (false, true) => ExtentKind::Zero,
                (_, false) => ExtentKind::Data,
            };
            Extent { len: u64::from(len), kind }
        })
        .collect()
}

fn parse_uri(uri: &str) -> Option<(Address, String)> {
    if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
        let (name, socket) = rest.split_once("?socket=")?;
        let path = unescape(socket)?;
        return (!path.is_empty()).then_some((Address::Unix(path.into()), unescape(name)?));
    }
    let (rest, kind): (_, fn(String) -> Address) = match uri.strip_prefix("nbds://") {
        Some(rest) => (rest, Address::Tls),
        None => (uri.strip_prefix("nbd://")?, Address::Tcp),
    };
    let (host, name) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() {
        return None;
    }
    // A port after the last colon, unless that is within an IPv6 address.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let host = if has_port { host.to_owned() } else { format!("{host}:10809") };
    Some((kind(host), unescape(name)?))
}

/// Resolves `%41`.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let (digits, tail) = rest.split_first_chunk::<2>()?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let unix = |path: &str, name: &str| Some((Address::Unix(path.into()), name.to_owned()));
        let tcp = |host: &str, name: &str| Some((Address::Tcp(host.to_owned()), name.to_owned()));
        let rows = [
            ("nbd+unix:///?socket=/run/a.sock", unix("/run/a.sock", "")),
            ("nbd+unix:///web-1/root?socket=/run/a%20b", unix("/run/a b", "web-1/root")),
            ("nbd://127.0.0.1:4000/web-1/root", tcp("127.0.0.1:4000", "web-1/root")),
            ("nbd://example.org", tcp("example.org:10809", "")),
            ("nbd://[::1]/a", tcp("[::1]:10809", "a")),
            ("nbd://[::1]:9/a", tcp("[::1]:9", "a")),
            ("nbds://a/b", Some((Address::Tls("a:10809".into()), "b".into()))),
            ("nbd:///a", None),
            ("nbd+unix:///a", None),
            ("nbd+unix:///a?socket=", None),
            ("http://a", None),
            ("nbd://a/%4", None),
            ("nbd://a/%ff", None),
        ];
        for (uri, expected) in rows {
            assert_eq!(parse_uri(uri), expected, "{uri}");
        }
    }
}
