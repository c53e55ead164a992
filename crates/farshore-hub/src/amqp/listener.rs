//! Accepts connections, with TLS or for tests without, and serves each in its own task.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::moment::Moment;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Behind, connection};

/// How long a TLS handshake may take.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(20);
/// What peers have, when the listener ends, for their last answers to come and be read.
const FAREWELL: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted: usually too many files are open, and one must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How an AMQP listener works.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server's certificate and protocol versions; `None`: plain TCP, for tests only.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Connections at once. Back ends connect, not devices: one without a token takes up to 1 MiB, one with a token 70 MiB if it
    /// sends as much as it can to a hub that does not answer.
    pub connections_max: usize,
    /// The wall-clock time, by which tokens expire.
    pub now: fn() -> Moment,
}

/// Serves until `stop` turns true or its sender is gone. Then peers are told to connect again, what the hub has been asked is
/// waited for, and after five seconds whatever is left is cut: on return nothing of it runs any more.
///
/// Must be polled to the end by who spawned it.
pub async fn serve(
    listener: TcpListener,
    behind: Arc<dyn Behind>,
    options: Options,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(options.connections_max));
    let mut peers = JoinSet::new();
    loop {
        let place = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = peers.join_next() => continue,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                let (behind, options, stop) = (Arc::clone(&behind), options.clone(), stop.clone());
                peers.spawn(async move {
                    let _place = place;
                    one(socket, behind, options, stop).await;
                });
            }
            Err(why) => {
                tracing::warn!(%why, "an AMQP connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let _ = timeout(FAREWELL, async { while peers.join_next().await.is_some() {} }).await;
    peers.shutdown().await;
}

async fn one(socket: TcpStream, behind: Arc<dyn Behind>, options: Options, stop: watch::Receiver<bool>) {
    // Frames are short and wait for each other's answers.
    let _ = socket.set_nodelay(true);
    match options.tls {
        None => connection::serve(socket, behind, options.now, stop).await,
        Some(config) => match timeout(HANDSHAKE_WAIT, TlsAcceptor::from(config).accept(socket)).await {
            Ok(Ok(stream)) => connection::serve(stream, behind, options.now, stop).await,
            Ok(Err(why)) => tracing::debug!(%why, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}
