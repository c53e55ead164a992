//! TLS on blocking sockets: disks and their replication between hosts.
//!
//! Read in this order: [`MachineTls`] (what a node is given), `record` (a connection's two directions, without sockets),
//! `stream` (replication's sockets).
//!
//! Must always hold: neither direction waits for the other; a connection that ends without the peer's good-bye is an
//! error; after a failed write nothing more is sent; a handshake has a deadline as a whole.

mod record;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use farshore_core::ids::Region;
use rustls::{ClientConfig, ServerConfig};

pub(crate) use record::Tls;
pub(crate) use stream::{TlsStream, send_now, shake};

/// How to talk to the nodes of a region, asked again before each connection, so that renewed certificates are used.
pub type ClientConfigs = Arc<dyn Fn(&Region) -> Arc<ClientConfig> + Send + Sync>;

/// With what certificates a region serves disks, and replicates them.
#[derive(Clone)]
pub struct MachineTls {
    /// For NBD clients; it decides whether they need a certificate.
    pub nbd_server: Arc<ServerConfig>,
    /// For regions that replicate to here; must require a certificate.
    pub replication_server: Arc<ServerConfig>,
    /// For replicating to a region. Must accept that region only: the name that is asked for is the region's, whatever
    /// the address.
    pub replication_client: ClientConfigs,
}

impl fmt::Debug for MachineTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineTls").finish_non_exhaustive()
    }
}

/// The sending side's part of [`MachineTls`].
#[derive(Clone)]
pub struct ReplicationClient(pub ClientConfigs);

impl fmt::Debug for ReplicationClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicationClient").finish_non_exhaustive()
    }
}

/// Plain text never leaves the host: an error where `address` is elsewhere.
pub(crate) fn loopback_only(address: SocketAddr, what: &str) -> io::Result<()> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let text = format!(
        "refusing to {what} at {address} without TLS: run farshore init and set trust, or use a loopback address"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}
