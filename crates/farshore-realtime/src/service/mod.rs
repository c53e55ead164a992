//! What a node listens on: its own endpoint, the pair's endpoint, and those of a lost partner.
//!
//! Read in this order: this file (the parts and one connection), `floating` (listening in a lost partner's place).

mod floating;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::connection::admission::Admission;
use crate::connection::{self, Asking, Certificates, Claims};
use crate::hub::SILENT_SECONDS_MAX;
use crate::live::LiveHub;
use crate::names::{ConnectionId, HubName};
use crate::negotiate::Course;
use crate::pair::{Pair, PairContext};
use crate::query;
use crate::rest::{self, Broadcast, RestContext};
use crate::token::TOKEN_LEN_MAX;

pub(crate) use floating::Floating;

/// A client that does not finish a request's head within this is cut off.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// A TLS handshake takes two round trips.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Connections at once on all listeners; below what a process may usually open, when it asks for all it can.
const CONNECTIONS_MAX: usize = 100_000;
/// A client that takes nothing for so long is gone, whatever it is sent: as long as a silent one is waited for.
const STALLED_WRITE_MAX: Duration = Duration::from_secs(SILENT_SECONDS_MAX as u64);
/// The longest head of a request: the longest token, twice.
const HEAD_LEN_MAX: usize = 2 * TOKEN_LEN_MAX;
/// After an error of `accept` that will not go away at once: no file descriptors, for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which endpoint a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// The region's own.
    Region,
    /// The pair's: calls go to all regions.
    Pair,
}

/// One of the connections that a node has room for; free again when the last holder is gone.
#[derive(Debug, Clone)]
pub(crate) struct Place(#[expect(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

/// One hub with everything that its listeners need.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) hub: Arc<LiveHub>,
    pub(crate) pair: Option<Arc<Pair>>,
    pub(crate) claims: Arc<dyn Claims>,
}

/// The hubs of a node by name.
#[derive(Debug, Default)]
pub struct Hubs {
    by_name: RwLock<HashMap<String, Served>>,
}

impl Hubs {
    /// The hub of that name, in whatever case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<LiveHub>> {
        self.served(name).map(|served| served.hub)
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<LiveHub>> {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        known.values().map(|served| Arc::clone(&served.hub)).collect()
    }

    pub(crate) fn served(&self, name: &str) -> Option<Served> {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&name.to_ascii_lowercase()).cloned()
    }

    pub(crate) fn put(&self, served: Served) {
        let name = served.hub.name().as_str().to_owned();
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).insert(name, served);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// What all listeners of a node share.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) hubs: Arc<Hubs>,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    admission: Arc<Admission>,
    places: Arc<Semaphore>,
    /// Base URLs of this node's own endpoint and the pair's, as configured or bound.
    pub(crate) urls: OnceLock<[String; 2]>,
    /// Base URLs that lead to this node whichever region is active.
    pub(crate) stays: OnceLock<Vec<String>>,
    stop: watch::Sender<bool>,
}

impl Front {
    pub(crate) fn new(hubs: Arc<Hubs>, tls: Option<Arc<rustls::ServerConfig>>) -> Arc<Self> {
        Self::with(hubs, tls, Admission::default())
    }

    /// With another pace than the usual one.
    pub(crate) fn with(
        hubs: Arc<Hubs>,
        tls: Option<Arc<rustls::ServerConfig>>,
        admission: Admission,
    ) -> Arc<Self> {
        Arc::new(Self {
            hubs,
            tls,
            admission: Arc::new(admission),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            urls: OnceLock::new(),
            stays: OnceLock::new(),
            stop: watch::Sender::new(false),
        })
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Every listener ends, and no new connection is taken.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Accepts until `until` is over or everything stops.
    pub(crate) async fn listen(
        self: Arc<Self>,
        listener: TcpListener,
        via: Via,
        mut until: watch::Receiver<bool>,
    ) {
        let mut stop = self.stopped();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &self.places) => accepted,
                _ = until.wait_for(|over| *over) => return,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Some((stream, place)) = accepted else { continue };
            prepare(&stream);
            tokio::spawn(Arc::clone(&self).connection(stream, via, place, until.clone()));
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        via: Via,
        place: OwnedSemaphorePermit,
        until: watch::Receiver<bool>,
    ) {
        let place = Place(Arc::new(place));
        match self.tls.clone() {
            None => self.serve(stream, via, place, Certificates::default(), until).await,
            Some(tls) => {
                let handshake = tokio_rustls::TlsAcceptor::from(tls).accept(stream);
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
                    let shown = stream.get_ref().1.peer_certificates().map(Certificates::of);
                    self.serve(stream, via, place, shown.unwrap_or_default(), until).await;
                }
            }
        }
    }

    /// When the listener is over, what waits for a next request is closed: whoever owns the address now must be asked.
    async fn serve<S>(
        self: Arc<Self>,
        stream: S,
        via: Via,
        place: Place,
        certificates: Certificates,
        mut until: watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let front = Arc::clone(&self);
        let answer = service_fn(move |mut request: Request<Incoming>| {
            let front = Arc::clone(&front);
            request.extensions_mut().insert(place.clone());
            request.extensions_mut().insert(certificates.clone());
            async move { Ok::<_, std::convert::Infallible>(front.answer::<S>(request, via).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(HEAD_LEN_MAX)
            .serve_connection(TokioIo::new(stream), answer)
            .with_upgrades();
        let mut served = std::pin::pin!(served);
        let over = async { until.wait_for(|over| *over).await.is_ok() };
        let ended = tokio::select! {
            ended = served.as_mut() => Some(ended),
            _ = over => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }

    async fn answer<S>(&self, request: Request<Incoming>, via: Via) -> Response<Full<Bytes>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let path = request.uri().path();
        if path == "/negotiate" {
            return self.negotiate(&request).await;
        }
        if let Some(name) = client_hub(path) {
            return self.client::<S>(request, name, via).await;
        }
        let base_urls = self.base_urls(&request, via);
        let served = rest::hub_of(path).and_then(|name| self.hubs.served(&name));
        let broadcast = served.and_then(|served| served.pair).filter(|_| via == Via::Pair);
        let context = RestContext {
            base_urls,
            broadcast: broadcast.as_deref().map(|pair| pair as &dyn Broadcast),
            now: crate::live::now(),
        };
        rest::serve(&self.hubs, request, &context).await
    }

    async fn negotiate(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let query = query::parse(request.uri().query().unwrap_or_default());
        let served = query::get(&query, "hub").and_then(|name| self.hubs.served(name));
        let Some(Served { hub, pair: Some(pair), .. }) = served else {
            return text(StatusCode::NOT_FOUND, "no such hub: GET /negotiate?hub=NAME");
        };
        let context = PairContext { query: &query, headers: request.headers(), now: crate::live::now() };
        pair.negotiate(&hub, &context).await
    }

    async fn client<S>(&self, request: Request<Incoming>, name: Named, via: Via) -> Response<Full<Bytes>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let query = query::parse(request.uri().query().unwrap_or_default());
        let name = match name {
            Named::Path(name) => Some(name),
            Named::Query => query::get(&query, "hub").map(str::to_owned),
        };
        let Some(served) = name.and_then(|name| self.hubs.served(&name)) else {
            return text(StatusCode::NOT_FOUND, "no such hub: connect to /client/hubs/NAME");
        };
        let base_urls = self.base_urls(&request, via);
        let follows = self.follows(&request);
        let asking = Asking {
            hub: served.hub,
            query,
            base_urls,
            claims: served.claims,
            follows,
            admission: Arc::clone(&self.admission),
        };
        connection::enter::<S>(request, asking).await
    }

    /// Whether what the client connected to leads to whichever region is active: everything but this node's own address.
    fn follows(&self, request: &Request<Incoming>) -> bool {
        let host =
            request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let own = self.stays.get().into_iter().flatten();
        !own.filter_map(|url| url.split("://").nth(1)).any(|own| own.eq_ignore_ascii_case(host))
    }

    /// As the client wrote it, and as configured.
    fn base_urls(&self, request: &Request<Incoming>, via: Via) -> Vec<String> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let own = self.urls.get().map(|[region, pair]| if via == Via::Pair { pair } else { region });
        let host = host.map(|host| format!("{}://{host}", self.scheme()));
        host.into_iter().chain(own.cloned()).collect()
    }
}

/// Small answers at once; and a client that takes nothing is not kept.
fn prepare(stream: &TcpStream) {
    // Both only make it better: a socket that refuses them serves all the same.
    let _ = stream.set_nodelay(true);
    let millis = u32::try_from(STALLED_WRITE_MAX.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, millis);
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection: trying again");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

impl rest::Hubs for Hubs {
    fn named(&self, name: &str) -> Option<Arc<LiveHub>> {
        self.get(name)
    }
    fn every(&self) -> Vec<Arc<LiveHub>> {
        self.all()
    }
    fn course(&self, name: &HubName) -> Option<Course> {
        self.served(name.as_str())?.pair.map(|pair| pair.course())
    }
}

/// How a client's path names the hub.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Path(String),
    Query,
}

fn client_hub(path: &str) -> Option<Named> {
    if path == "/client" || path == "/client/" {
        return Some(Named::Query);
    }
    let name = path.strip_prefix("/client/hubs/")?.trim_end_matches('/');
    Some(Named::Path(query::decode(name)))
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// A listener at an address, which a client may have asked for again and again: so that a restart does not wait.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // As many as a storm brings within one turn of the runtime.
    socket.listen(4096)
}

/// There is no other region to ask.
#[derive(Debug)]
pub(crate) struct Alone;

#[async_trait::async_trait]
impl Claims for Alone {
    async fn claim(&self, _connection: &ConnectionId) {}
    fn may_come(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_whose_client_takes_nothing_is_ended_by_the_system() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        prepare(&stream);
        assert_eq!(rustix::net::sockopt::tcp_user_timeout(&stream).unwrap(), SILENT_SECONDS_MAX * 1_000);
    }
}
