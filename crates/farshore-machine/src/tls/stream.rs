//! A TLS connection on a blocking TCP socket, whose two halves may be used at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::record::Tls;

/// How often a side that waits in a handshake looks whether it should stop.
const POLL: Duration = Duration::from_millis(250);

/// A connected socket and the TLS on it. The socket's timeouts hold; a read that timed out can be repeated, a write not.
#[derive(Debug)]
pub(crate) struct TlsStream {
    socket: TcpStream,
    tls: Tls,
}

impl TlsStream {
    /// The accepting side; done, or failed, by the deadline. The socket's timeouts are to be set afterwards.
    pub(crate) fn accept(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        deadline: Instant,
    ) -> io::Result<Self> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        let tls = shake(&socket, connection.into(), deadline, &|| false)?;
        Ok(Self { socket, tls })
    }

    /// The connecting side. `name` is what the server is asked for.
    pub(crate) fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: &str,
        deadline: Instant,
        stopped: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let tls = shake(&socket, connection.into(), deadline, stopped)?;
        Ok(Self { socket, tls })
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Ends both directions, with a good-bye where that takes no waiting; threads that wait in them wake up.
    pub(crate) fn hang_up(&self) {
        self.tls.close(|bytes| send_now(&self.socket, bytes));
        drop(self.socket.shutdown(Shutdown::Both));
    }
}

/// Shakes hands on `socket` by the deadline, however slowly the peer drips, unless `stopped` says so before.
pub(crate) fn shake(
    mut socket: &TcpStream,
    connection: Connection,
    deadline: Instant,
    stopped: &dyn Fn() -> bool,
) -> io::Result<Tls> {
    let mut sending = socket;
    let take = |buf: &mut [u8]| {
        loop {
            socket.set_read_timeout(Some(left(deadline)?.min(POLL)))?;
            match socket.read(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !stopped() => {}
                done => return done,
            }
        }
    };
    let put = |bytes: &[u8]| {
        sending.set_write_timeout(Some(left(deadline)?))?;
        sending.write(bytes)
    };
    Tls::shake(connection, take, put)
}

/// Gives the kernel what it has room for; `WouldBlock` when that is nothing.
pub(crate) fn send_now(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(ErrorKind::TimedOut, "the peer did not finish the TLS handshake in time"));
    }
    Ok(left)
}

impl Read for &TlsStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.tls.read(buf, |buf| (&self.socket).read(buf))
    }
}

impl Write for &TlsStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.tls.write(buf, |bytes| (&self.socket).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
