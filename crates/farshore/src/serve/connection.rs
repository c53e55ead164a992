//! One connection: handshake, requests, end.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::body::{CountedBody, HurriedBody, UnderWay};
use super::{PeerIdentity, PeerTls, ServeLimits};
use crate::trust::{Identity, peer_expiry, peer_identity};

/// What a connection needs.
pub(super) struct Connection {
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) router: Router,
    pub(super) limits: Arc<ServeLimits>,
    pub(super) peer: SocketAddr,
}

impl Connection {
    /// Serves until the client or the limits end it, or the order to stop. Errors are the client's.
    pub(super) async fn serve(self, stream: TcpStream, stop: watch::Receiver<bool>) {
        prepare(&stream, &self.limits);
        let Some(tls) = self.tls.clone() else {
            return self.http1(stream, Peer::default(), stop).await;
        };
        let stream = match tokio::time::timeout(self.limits.handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer, %error, "no TLS with this client");
                return;
            }
            Err(_) => {
                tracing::debug!(peer = %self.peer, "the client's TLS handshake took too long");
                return;
            }
        };
        let (_, session) = stream.get_ref();
        let certificates = session.peer_certificates();
        let leaf = certificates.and_then(<[_]>::first).map(|leaf| Arc::new(leaf.clone()));
        let until = leaf.as_deref().and_then(peer_expiry);
        let peer = Peer { identity: peer_identity(certificates), tls: Some(PeerTls(leaf)), until };
        match session.alpn_protocol() {
            Some(b"h2") => self.http2(stream, peer, stop).await,
            _ => self.http1(stream, peer, stop).await,
        }
    }

    async fn http1<S>(self, stream: S, peer: Peer, stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let until = peer.until;
        // The limit on the head ends quiet connections, too.
        let (requests, _) = self.requests(peer);
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_header_size(self.limits.head_len)
            .max_buf_size(self.limits.head_len.max(MIN_BUFFER))
            .serve_connection(TokioIo::new(stream), requests)
            .with_upgrades();
        self.drive(pin!(connection), None, until, stop, |connection| connection.graceful_shutdown()).await;
    }

    async fn http2<S>(self, stream: S, peer: Peer, stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let until = peer.until;
        let (requests, under_way) = self.requests(peer);
        let head_len = u32::try_from(self.limits.head_len).unwrap_or(u32::MAX);
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(head_len)
            .keep_alive_interval(self.limits.head)
            .keep_alive_timeout(self.limits.stalled_write)
            .serve_connection(TokioIo::new(stream), requests);
        self.drive(pin!(connection), Some(under_way), until, stop, |connection| {
            connection.graceful_shutdown()
        })
        .await;
    }

    fn requests(&self, peer: Peer) -> (Requests, watch::Receiver<usize>) {
        let (count, under_way) = watch::channel(0);
        let requests = Requests {
            router: self.router.clone(),
            peer: self.peer,
            identity: PeerIdentity(peer.identity),
            tls: peer.tls,
            body: self.limits.body,
            count: Arc::new(count),
        };
        (requests, under_way)
    }

    /// Runs the connection; asks it to finish at the order to stop, when it had no request for too long, or when the
    /// client's certificate ends.
    async fn drive<C, E>(
        &self,
        mut connection: Pin<&mut C>,
        mut under_way: Option<watch::Receiver<usize>>,
        until: Option<SystemTime>,
        mut stop: watch::Receiver<bool>,
        finish: impl Fn(Pin<&mut C>),
    ) where
        C: Future<Output = Result<(), E>>,
        E: std::fmt::Display,
    {
        let end = tokio::select! {
            result = connection.as_mut() => return self.ended(result),
            () = idle(&mut under_way, self.limits.idle) => End::Idle,
            () = over(until) => End::Expired,
            () = super::stopped(&mut stop) => End::Stop,
        };
        finish(connection.as_mut());
        match end {
            // Whoever gives the order also ends this task when the grace is over.
            End::Stop => self.ended(connection.await),
            // A request may have come in between; it is finished, and then there is no further one.
            End::Idle => tokio::select! {
                result = connection => self.ended(result),
                () = idle(&mut under_way, self.limits.grace) => {}
            },
            End::Expired => {
                if let Ok(result) = tokio::time::timeout(self.limits.grace, connection).await {
                    self.ended(result);
                }
            }
        }
    }

    fn ended<E: std::fmt::Display>(&self, result: Result<(), E>) {
        if let Err(error) = result {
            tracing::debug!(peer = %self.peer, %error, "the connection ended early");
        }
    }
}

/// What the handshake told.
#[derive(Default)]
struct Peer {
    identity: Option<Identity>,
    tls: Option<PeerTls>,
    /// When its certificate ends.
    until: Option<SystemTime>,
}

/// Why a connection is asked to finish.
enum End {
    Idle,
    Expired,
    Stop,
}

/// hyper's least buffer.
const MIN_BUFFER: usize = 8192;

/// Small answers at once; and a client that takes nothing is not kept.
fn prepare(stream: &TcpStream, limits: &ServeLimits) {
    // Both only make it better: a socket that refuses them serves all the same.
    let _ = stream.set_nodelay(true);
    let millis = u32::try_from(limits.stalled_write.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, millis);
}

/// Returns when a certificate that ends at `until` has ended. A connection does not outlive it.
async fn over(until: Option<SystemTime>) {
    match until {
        Some(until) => tokio::time::sleep(until.duration_since(SystemTime::now()).unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}

/// Returns when no request was under way for `limit`; never, when nobody counts them.
async fn idle(under_way: &mut Option<watch::Receiver<usize>>, limit: Duration) {
    let Some(under_way) = under_way else { return std::future::pending().await };
    loop {
        if under_way.wait_for(|count| *count == 0).await.is_err() {
            return std::future::pending().await;
        }
        tokio::select! {
            () = tokio::time::sleep(limit) => return,
            _ = under_way.changed() => {}
        }
    }
}

/// Hands requests to the router, with what is known of the client.
struct Requests {
    router: Router,
    peer: SocketAddr,
    identity: PeerIdentity,
    tls: Option<PeerTls>,
    body: Duration,
    count: Arc<watch::Sender<usize>>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let counted = UnderWay::start(&self.count);
        let mut request = request.map(|body| Body::new(HurriedBody::new(body, self.body)));
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(self.identity.clone());
        if let Some(tls) = &self.tls {
            request.extensions_mut().insert(tls.clone());
        }
        let answer = self.router.clone().oneshot(request);
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| Body::new(CountedBody::new(body, counted))))
        })
    }
}
