//! Where devices arrive: TCP, TLS and WebSocket, each connection handed over once its transport stands.
//!
//! What is spoken over it is decided by [`Serve`]: the hub's MQTT, or provisioning.

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::websocket;
use super::wire::Link;

/// Time for a transport to stand. Long, because a whole fleet may arrive at once, and who is refused comes again at once.
const TRANSPORT_WITHIN: Duration = Duration::from_secs(30);
/// Before accepting is tried again when the process has no more files or memory.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How devices connect.
#[derive(Debug, Clone)]
pub enum Transport {
    /// TCP: on loopback, in tests, or behind something that ends TLS.
    Plain,
    /// TLS, with or without a client's certificate.
    Tls(Arc<ServerConfig>),
    /// WebSocket on [`websocket::PATH`], over TLS if configured.
    WebSocket(Option<Arc<ServerConfig>>),
}

/// Where a connection comes from, and what its transport has found out.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The other end.
    pub peer: SocketAddr,
    /// The name that TLS was asked for.
    pub server_name: Option<String>,
    /// The certificate that the other side has shown it owns, and what came with it.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// A connection whose transport stands.
pub struct Arrived {
    /// Its bytes.
    pub link: Box<dyn Link>,
    /// Where it comes from.
    pub origin: Origin,
    /// Its place among those that have not said yet who they are; dropped when they have.
    pub place: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrived").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// What is done with a connection: two implement it, a hub's MQTT and provisioning.
pub trait Serve: Send + Sync + fmt::Debug {
    /// Until the connection is over. When `stop` says soon, it ends as soon as nothing is lost by it.
    fn serve(&self, arrived: Arrived, stop: Stop) -> BoxFuture<'static, ()>;
}

/// How far a listener's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stopping {
    No,
    Soon,
    Now,
}

/// Tells a connection that it is to end.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Stopping>);

impl Stop {
    /// Waits until connections are to end as soon as nothing is lost by it. May be dropped and asked again.
    pub async fn soon(&mut self) {
        self.reached(Stopping::Soon).await;
    }

    /// Waits until connections are to end, whatever is lost.
    pub async fn now(&mut self) {
        self.reached(Stopping::Now).await;
    }

    /// Waits for either. May be dropped and asked again.
    pub(super) async fn reached(&mut self, stage: Stopping) {
        // Whoever could tell is gone: now.
        let _ = self.0.wait_for(|stopping| *stopping >= stage).await;
    }
}

/// Tells [`Stop`]s.
pub(super) type Stops = watch::Sender<Stopping>;

pub(super) fn stops() -> (Stops, Stop) {
    let (stops, told) = watch::channel(Stopping::No);
    (stops, Stop(told))
}

/// Limits of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most connections that have not said yet who they are. More wait in the kernel's queue.
    pub half_open: usize,
}

impl Default for Limits {
    /// A fleet of 9,000 that comes at once fits; at 20 KB each for TLS, 200 MB.
    fn default() -> Self {
        Self { half_open: 10_000 }
    }
}

/// Whatever is needed to take a connection in, wherever it was accepted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    serve: Arc<dyn Serve>,
    stop: Stop,
    guests: TaskTracker,
    places: Arc<Semaphore>,
}

impl Door {
    /// Serves a connection in a task of its own, which the listener's end waits for.
    pub fn enter(&self, arrived: Arrived) {
        let serving = self.serve.serve(arrived, self.stop.clone());
        self.guests.spawn(serving);
    }

    /// Does something that comes before a connection enters, until the listener ends.
    pub(super) fn attend(&self, arriving: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop.clone();
        self.guests.spawn(async move {
            tokio::select! {
                () = arriving => {}
                () = stop.soon() => {}
            }
        });
    }

    /// How many connections there are, and connections to be.
    #[must_use]
    pub fn guests(&self) -> usize {
        self.guests.len()
    }

    /// A place among those that have not said yet who they are, when there is one.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }
}

/// A port where devices arrive. Dropped without [`Listener::stop`], it and its connections end at once.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    door: Door,
    stops: Stops,
    accepting: TaskTracker,
}

impl Listener {
    /// Begins to accept.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn spawn(
        listener: TcpListener,
        transport: Transport,
        serve: Arc<dyn Serve>,
        limits: Limits,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (stops, stop) = stops();
        let places = Arc::new(Semaphore::new(limits.half_open));
        let door = Door { serve, stop: stop.clone(), guests: TaskTracker::new(), places };
        let accepting = TaskTracker::new();
        accepting.spawn(accept(listener, transport, door.clone(), stop));
        accepting.close();
        Ok(Self { address, door, stops, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For connections that were accepted elsewhere: WebSockets that came to an HTTP server.
    #[must_use]
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// Accepts no more, lets connections acknowledge what they have read, and cuts what is left after `within`. On return
    /// everything has ended.
    pub async fn stop(self, within: Duration) {
        self.stops.send_replace(Stopping::Soon);
        self.door.guests.close();
        self.accepting.wait().await;
        if timeout(within, self.door.guests.wait()).await.is_err() {
            self.stops.send_replace(Stopping::Now);
            self.door.guests.wait().await;
        }
    }
}

async fn accept(listener: TcpListener, transport: Transport, door: Door, mut stop: Stop) {
    loop {
        // The place first: without one, who comes waits in the kernel's queue.
        let accepted = tokio::select! {
            accepted = async { (door.place().await, listener.accept().await) } => accepted,
            () = stop.soon() => return,
        };
        match accepted {
            (place, Ok((stream, peer))) => {
                door.attend(arrive(stream, peer, place, transport.clone(), door.clone()));
            }
            (_, Err(error)) => {
                warn!("a connection could not be accepted: {error}");
                sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

/// Brings the transport up, then hands the connection over to a task of its own: this one's memory goes with it.
async fn arrive(
    stream: TcpStream,
    peer: SocketAddr,
    place: Option<OwnedSemaphorePermit>,
    transport: Transport,
    door: Door,
) {
    // Acknowledgements are written in batches already; held back further they would only be late.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, "gone at once: {error}");
        return;
    }
    let plain = Origin { peer, server_name: None, certificates: Vec::new() };
    let standing = async {
        match transport {
            Transport::Plain => door.enter(Arrived { link: Box::new(stream), origin: plain, place }),
            Transport::Tls(config) => {
                let (link, origin) = secure(stream, peer, config).await?;
                door.enter(Arrived { link, origin, place });
            }
            Transport::WebSocket(None) => websocket::serve(Box::new(stream), plain, door).await?,
            Transport::WebSocket(Some(config)) => {
                let (link, origin) = secure(stream, peer, config).await?;
                websocket::serve(link, origin, door).await?;
            }
        }
        std::io::Result::Ok(())
    };
    match timeout(TRANSPORT_WITHIN, standing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, "no transport: {error}"),
        Err(_) => debug!(%peer, "no transport within {TRANSPORT_WITHIN:?}"),
    }
}

async fn secure(
    stream: TcpStream,
    peer: SocketAddr,
    config: Arc<ServerConfig>,
) -> std::io::Result<(Box<dyn Link>, Origin)> {
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let (_, tls) = stream.get_ref();
    let certificates = tls.peer_certificates().unwrap_or_default();
    let origin = Origin {
        peer,
        server_name: tls.server_name().map(str::to_owned),
        certificates: certificates.iter().map(|certificate| certificate.clone().into_owned()).collect(),
    };
    Ok((Box::new(stream), origin))
}
