//! A free port of the loopback address for each start of an instance.
//!
//! Between the choice and the app's own `bind` the port is free, and somebody else may take it. Two starts in this process
//! never get the same one; against others there is a new choice with each start.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// A system that offers only ports that are ours already has none left.
const CHOICES_MAX: u32 = 64;

/// The ports that this process has given away and not got back.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that nobody else in this process is given. Given back when dropped.
#[derive(Debug)]
pub(super) struct Port(u16);

impl Port {
    /// One that nobody listens on now.
    ///
    /// # Errors
    /// The system has no free port.
    pub(super) fn choose() -> io::Result<Self> {
        for _ in 0..CHOICES_MAX {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
                return Ok(Self(port));
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "the system offers only ports that are given away already",
        ))
    }

    pub(super) fn number(&self) -> u16 {
        self.0
    }

    /// Where an app may listen on it: `localhost` is the second for some programs.
    pub(super) fn addresses(&self) -> [SocketAddr; 2] {
        [SocketAddr::from((Ipv4Addr::LOCALHOST, self.0)), SocketAddr::from((Ipv6Addr::LOCALHOST, self.0))]
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        GIVEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_a_port_twice_at_the_same_time() {
        let ports: Vec<Port> = (0..200).map(|_| Port::choose().unwrap()).collect();
        let numbers: BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
    }
}
