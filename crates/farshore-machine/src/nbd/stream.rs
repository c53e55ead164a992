//! A connected socket of either family.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Asked of the kernel for each direction (which caps it): room for a few dozen 4 KiB requests with their data, so
/// that neither side sleeps after each.
const SOCKET_BUFFER: usize = 1 << 20;

/// Silence after which a TCP client is asked whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Sets what makes it fast. Nothing here is needed for correctness, so a refusal is passed over.
    pub(super) fn tune(&self) {
        if let Self::Tcp(stream) = self {
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
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
        }
    }

    pub(super) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_write_timeout(timeout),
            Self::Tcp(stream) => stream.set_write_timeout(timeout),
        }
    }

    /// Ends one or both directions; threads that wait in them wake up. Already ended is fine.
    pub(super) fn shutdown(&self, how: Shutdown) {
        drop(match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp(stream) => stream.shutdown(how),
        });
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buf),
            Stream::Tcp(stream) => (&*stream).read(buf),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(buf),
            Stream::Tcp(stream) => (&*stream).write(buf),
        }
    }
    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write_vectored(bufs),
            Stream::Tcp(stream) => (&*stream).write_vectored(bufs),
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
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}
