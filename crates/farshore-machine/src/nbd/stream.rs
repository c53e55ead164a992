//! A connected socket of either family, and the TLS that may begin on it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustls::Connection;

use crate::tls::{Tls, send_now, shake};

/// Asked of the kernel for each direction (which caps it): room for a few dozen 4 KiB requests with their data, so
/// that neither side sleeps after each.
const SOCKET_BUFFER: usize = 1 << 20;

/// Silence after which a TCP client is asked whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Memory that is zeroed at once before it is received into.
const SPARE_MAX: usize = 256 << 10;

#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp {
        socket: TcpStream,
        /// Set once, in the middle of the handshake; from then on everything passes through it.
        tls: OnceLock<Box<Tls>>,
    },
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp { socket, tls: OnceLock::new() }
    }
}

impl Stream {
    /// Sets what makes it fast. Nothing here is needed for correctness, so a refusal is passed over.
    pub(super) fn tune(&self) {
        if let Self::Tcp { socket: stream, .. } = self {
            drop(stream.set_nodelay(true));
            // A client whose machine died gives its place up within minutes.
            let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
            let _ = rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE);
        }
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(self, SOCKET_BUFFER);
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(self, SOCKET_BUFFER);
    }

    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(timeout),
            Self::Tcp { socket, .. } => socket.set_read_timeout(timeout),
        }
    }

    pub(super) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_write_timeout(timeout),
            Self::Tcp { socket, .. } => socket.set_write_timeout(timeout),
        }
    }

    /// Ends one or both directions; threads that wait in them wake up. Already ended is fine.
    pub(super) fn shutdown(&self, how: Shutdown) {
        drop(match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp { socket, .. } => socket.shutdown(how),
        });
    }

    /// Ends both directions after everything was sent: with a good-bye, where there is one and it need not wait.
    pub(super) fn finish(&self) {
        if let Some((socket, tls)) = self.secured() {
            tls.close(|bytes| send_now(socket, bytes));
        }
        self.shutdown(Shutdown::Both);
    }

    /// Everything passes through TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.secured().is_some()
    }

    fn secured(&self) -> Option<(&TcpStream, &Tls)> {
        match self {
            Self::Tcp { socket, tls } => tls.get().map(|tls| (socket, &**tls)),
            Self::Unix(_) => None,
        }
    }

    /// Begins TLS, by the deadline. Nothing was read beyond what was understood, so that whatever came in plain text
    /// after the word to begin is taken for the peer's first record, and refused.
    pub(super) fn secure(&self, connection: Connection, deadline: Instant) -> io::Result<()> {
        let Self::Tcp { socket, tls } = self else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a Unix socket needs no TLS"));
        };
        let done = shake(socket, connection, deadline, &|| false)?;
        tls.set(Box::new(done)).map_err(|_| io::Error::other("TLS has begun already"))
    }

    /// Sends the start of `bytes`, as long as `may` says so: asked right before anything is given to the kernel.
    pub(super) fn write_while(&self, bytes: &[u8], may: &dyn Fn() -> io::Result<()>) -> io::Result<usize> {
        let Some((socket, tls)) = self.secured() else {
            may()?;
            let mut stream = self;
            return stream.write(bytes);
        };
        tls.write(bytes, |sealed| {
            loop {
                may()?;
                match send_now(socket, sealed) {
                    // The wait may be long: what was allowed before it may not be after it.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for_room(socket)?,
                    done => return done,
                }
            }
        })
    }

    /// Receives into the spare memory of `data`, without zeroing it first where that can be.
    pub(super) fn read_spare(&self, data: &mut Vec<u8>) -> io::Result<usize> {
        if !self.is_secure() {
            return Ok(rustix::io::read(self, rustix::buffer::spare_capacity(data))?);
        }
        let have = data.len();
        data.resize(data.capacity().min(have + SPARE_MAX), 0);
        let mut stream = self;
        let got = stream.read(&mut data[have..]);
        data.truncate(have + got.as_ref().copied().unwrap_or(0));
        got
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buf),
            Stream::Tcp { socket, tls } => match tls.get() {
                Some(tls) => tls.read(buf, |buf| (&*socket).read(buf)),
                None => (&*socket).read(buf),
            },
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(buf),
            Stream::Tcp { socket, tls } => match tls.get() {
                Some(tls) => tls.write(buf, |bytes| (&*socket).write(bytes)),
                None => (&*socket).write(buf),
            },
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp { socket, .. } => socket.as_fd(),
        }
    }
}

/// Returns when the socket takes more, or is at its end.
fn wait_for_room(socket: &TcpStream) -> io::Result<()> {
    match poll(&mut [PollFd::new(socket, PollFlags::OUT)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
