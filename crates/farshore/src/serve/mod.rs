//! Accepts connections, TLS or plain TCP, and serves a router on them.
//!
//! Read in this order: this file (the limits and the accept loop), `connection` (one connection), `body` (what counts
//! requests under way and hurries slow clients).
//!
//! Must always hold: no client holds a connection without a request under way for longer than the limits say; who the
//! peer is comes from its verified certificate and is put there by nobody else; after the order to stop nothing new is
//! accepted, and what is under way gets its grace.

mod body;
mod connection;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::trust::Identity;

/// Who the client is, by its certificate: an extension of every request. `None`: it showed none, or there is no TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity(pub Option<Identity>);

/// The connection has TLS: an extension of its requests, with the client's verified certificate if it showed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls(pub Option<Arc<CertificateDer<'static>>>);

/// How much a client may ask of the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeLimits {
    /// Connections at once; more wait in the system's queue.
    pub connections: usize,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the whole head of a request on HTTP/1.1, from the end of the one before: also how long a quiet connection
    /// is kept.
    pub head: Duration,
    /// For the whole body of a request; bodies are short.
    pub body: Duration,
    /// Until a client takes what was sent to it.
    pub stalled_write: Duration,
    /// How long a connection without a request under way is kept, on either version.
    pub idle: Duration,
    /// Bytes in a request's head.
    pub head_len: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// After the order to stop, for requests under way.
    pub grace: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            // Each costs about 100 KiB while it is busy, and one file descriptor of the usual 65,536 or more.
            connections: 4096,
            // A handshake takes two round trips.
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            // The longest body, 64 KiB, over a line of 20 kbit/s.
            body: Duration::from_secs(30),
            stalled_write: Duration::from_secs(30),
            idle: Duration::from_secs(120),
            // Names, a token and what proxies add: a few KiB.
            head_len: 32 * 1024,
            streams: 128,
            grace: Duration::from_secs(2),
        }
    }
}

/// After an error of `accept` that will not go away by itself at once: no file descriptors, for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on what `listener` accepts until `stop` says true, and then what is under way for the grace.
/// With `tls` every connection is TLS; HTTP/1.1, and HTTP/2 where the client offers it.
///
/// # Errors
/// Never for a client's sake; when the listener itself is broken.
pub async fn listen(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: axum::Router,
    mut stop: watch::Receiver<bool>,
    limits: ServeLimits,
) -> io::Result<()> {
    let tls = tls.map(TlsAcceptor::from);
    let limits = Arc::new(limits);
    let places = Arc::new(Semaphore::new(places(limits.connections, descriptors())));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        let (place, stream, peer) = accepted?;
        let connection = connection::Connection {
            tls: tls.clone(),
            router: router.clone(),
            limits: Arc::clone(&limits),
            peer,
        };
        let stop = stop.clone();
        connections.spawn(async move {
            connection.serve(stream, stop).await;
            drop(place);
        });
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    // What has not finished by then is cut off with the set.
    let _ = tokio::time::timeout(limits.grace, finished).await;
    Ok(())
}

/// At most half of the descriptors: journals and disks need theirs, whoever connects.
fn places(wanted: usize, descriptors: Option<u64>) -> usize {
    let half = descriptors.map_or(usize::MAX, |all| usize::try_from(all / 2).unwrap_or(usize::MAX));
    wanted.min(half).max(1)
}

/// Asks for as many file descriptors as the system allows this process, and says how many there are. `None`: no limit.
fn descriptors() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

type Accepted = (tokio::sync::OwnedSemaphorePermit, tokio::net::TcpStream, std::net::SocketAddr);

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<Accepted> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Ok((place, stream, peer)),
            Err(error) if fatal(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection: trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The listener's own errors; all others are of one connection, or pass.
fn fatal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Returns when the order to stop is there, or nobody is left to give it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(places(4096, None), 4096);
        assert_eq!(places(4096, Some(1_048_576)), 4096);
        assert_eq!(places(4096, Some(1024)), 512);
        assert_eq!(places(4096, Some(1)), 1);
        assert!(descriptors().is_none_or(|all| all > 2));
    }
}
