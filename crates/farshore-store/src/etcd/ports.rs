//! Ports of this machine's loopback for servers that are started later, or end and are started again.
//!
//! The system gives each outgoing connection a port of a range of its own. A port that was free when it was chosen may be such
//! a connection's by the time a server wants to listen at it; so these ports are below that range.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

/// Below are the ports of well-known servers.
const FIRST: u16 = 10_000;

/// Where outgoing connections begin when the system does not say: Linux' own default, and below that of others.
const OUTGOING: u16 = 32_768;

/// With fewer ports to choose from, the system's choice is the better one.
const CHOICE_MIN: u16 = 1_000;

/// So many ports in a row are somebody else's only on a machine that has none left.
const TRIES: usize = 64;

/// A port that nobody else can get while it is held, and at which nobody listens: to connect is refused.
#[derive(Debug)]
pub struct HeldPort {
    address: SocketAddr,
    socket: OwnedFd,
}

impl HeldPort {
    /// A free port.
    ///
    /// # Errors
    /// The system has none.
    pub fn any() -> io::Result<Self> {
        let outgoing = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .and_then(|range| range.split_whitespace().next()?.parse().ok())
            .unwrap_or(OUTGOING);
        match outgoing.checked_sub(FIRST) {
            Some(choice) if choice >= CHOICE_MIN => Self::below(outgoing, choice),
            _ => Self::new(0, false),
        }
    }

    /// This very port, of a server that has ended: its last connections may still be remembered there.
    ///
    /// # Errors
    /// Somebody else listens there, or holds it for the first time.
    pub fn again(port: u16) -> io::Result<Self> {
        Self::new(port, true)
    }

    fn new(port: u16, is_used: bool) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_reuseaddr(&socket, is_used)?;
        bind(&socket, &SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))?;
        let address = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok(Self { address, socket })
    }

    /// Lets a server listen here that shares its address with others, as nearly all do. It stays nobody else's choice: before the
    /// server is started, while it runs and after it has ended.
    ///
    /// # Errors
    /// The system refuses.
    pub fn share(&self) -> io::Result<()> {
        Ok(set_socket_reuseaddr(&self.socket, true)?)
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// At random, so that those who choose at the same time choose differently.
    fn below(end: u16, choice: u16) -> io::Result<Self> {
        let random = RandomState::new();
        for attempt in 0..TRIES {
            let below = u16::try_from(random.hash_one(attempt) % u64::from(choice)).unwrap_or(0);
            match Self::new(end - 1 - below, false) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                other => return other,
            }
        }
        Self::new(0, false)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_held_port_is_nobody_elses_until_it_is_let_go() {
        let held = HeldPort::any().unwrap();
        let address = held.address();
        assert_eq!(HeldPort::again(address.port()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(held);
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn a_shared_port_is_its_servers_again_and_again_and_nobody_elses_choice() {
        let held = HeldPort::any().unwrap();
        let address = held.address();
        held.share().unwrap();
        let choice = || HeldPort::new(address.port(), false).unwrap_err().kind();
        for _ in 0..2 {
            assert_eq!(choice(), io::ErrorKind::AddrInUse);
            let server = TcpListener::bind(address).unwrap();
            assert_eq!(choice(), io::ErrorKind::AddrInUse);
            // The server's own connections may be remembered there.
            let client = TcpStream::connect(address).unwrap();
            drop(server.accept().unwrap());
            drop(client);
        }
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn no_outgoing_connection_is_given_such_a_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let outgoing: Vec<_> =
            (0..100).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
        let lowest = outgoing.iter().map(|stream| stream.local_addr().unwrap().port()).min().unwrap();
        for _ in 0..50 {
            assert!(HeldPort::any().unwrap().address().port() < lowest);
        }
    }
}
