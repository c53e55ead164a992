//! Accepting connections and serving each to its end, within limits.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Shared;
use super::certificates::Tls;
use super::client::Client;
use super::serve::serve;

/// Until a client takes what was sent to it.
const STALLED_WRITE: Duration = Duration::from_secs(60);

/// Bytes of one connection that were read and not taken, and the longest head: cookies make them long.
const BUFFER_MAX: usize = 64 * 1024;

/// Longest head on HTTP/2.
const HEAD_LEN_MAX: u32 = 64 * 1024;

/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// What a client may send on one stream, and on all, before it is taken: an upload of 100 Mbit/s at 20 ms.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Between looks whether a quiet HTTP/2 client or the other end of a tunnel is still there.
const ALIVE_EVERY: Duration = Duration::from_secs(30);

/// After an error of `accept` that will not go away by itself at once: no file descriptors, for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs what belongs to connections, until the gateway cuts it off.
#[derive(Debug, Clone)]
struct Tasks(Arc<Shared>);

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let shared = Arc::clone(&self.0);
        self.0.tasks.spawn(async move {
            tokio::select! {
                _ = future => {}
                () = shared.cut.cancelled() => {}
            }
        });
    }
}

/// What all listeners of a gateway share.
#[derive(Debug, Clone)]
pub(super) struct Listening {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    builder: Builder<Tasks>,
}

impl Listening {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let builder = builder(Tasks(Arc::clone(&shared)));
        let places = Arc::new(Semaphore::new(shared.limits.connections));
        Self { shared, places, builder }
    }

    /// Accepts until the gateway stops.
    pub(super) async fn accept(self, listener: TcpListener, tls: Option<Tls>) {
        loop {
            let next = tokio::select! {
                next = self.next(&listener) => next,
                () = self.shared.stopping.cancelled() => return,
            };
            match next {
                Ok((stream, peer, place)) => {
                    let client = Client::new(Arc::clone(&self.shared), peer.ip(), tls.is_some(), place);
                    self.spawn(stream, client, tls.clone());
                }
                Err(error) => {
                    tracing::warn!(%error, "the gateway cannot accept a connection: trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn next(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, place))
    }

    fn spawn(&self, stream: TcpStream, client: Arc<Client>, tls: Option<Tls>) {
        let builder = self.builder.clone();
        self.shared.tasks.spawn(async move {
            prepare(&stream);
            let Some(tls) = tls else { return drive(&builder, stream, client).await };
            let is_git = |name: &str| client.shared.table.load().find(name).is_some_and(|route| route.git);
            let shaken = tls.accept(stream, is_git);
            let accepted = tokio::select! {
                accepted = tokio::time::timeout(client.shared.limits.handshake, shaken) => accepted,
                () = client.shared.stopping.cancelled() => return,
            };
            match accepted {
                Ok(Ok(stream)) => drive(&builder, stream, client).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS with this client"),
                Err(_) => tracing::debug!("the client's TLS handshake took too long"),
            }
        });
    }
}

fn builder(tasks: Tasks) -> Builder<Tasks> {
    let mut builder = Builder::new(tasks);
    // The limit on idle connections is one on slow heads, too: a timer for each request would cost more than it gives.
    builder.http1().max_buf_size(BUFFER_MAX).pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_LEN_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(ALIVE_EVERY)
        .keep_alive_timeout(ALIVE_EVERY);
    builder
}

/// Small answers at once; a client that takes nothing, or is gone, is not kept. Sockets that refuse it serve all the same.
fn prepare(stream: &TcpStream) {
    use rustix::net::sockopt;
    let _ = stream.set_nodelay(true);
    let millis = u32::try_from(STALLED_WRITE.as_millis()).unwrap_or(u32::MAX);
    let _ = sockopt::set_tcp_user_timeout(stream, millis);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, ALIVE_EVERY);
}

/// Serves until the client, the limits or the gateway end it. Errors are the client's.
async fn drive<S>(builder: &Builder<Tasks>, stream: S, client: Arc<Client>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let requests = service_fn(|request| {
        let client = Arc::clone(&client);
        async move { Ok::<_, Infallible>(serve(client, request).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), requests);
    let mut connection = pin!(connection);
    // The set asks its future only when that was woken: the connection is asked far more often.
    let mut ends = FuturesUnordered::from_iter([Arc::clone(&client).leaving()]);
    tokio::select! {
        biased;
        result = connection.as_mut() => return ended(result),
        _ = ends.next() => {}
    }
    connection.as_mut().graceful_shutdown();
    let mut ends = FuturesUnordered::from_iter([Arc::clone(&client).left()]);
    tokio::select! {
        biased;
        result = connection => ended(result),
        _ = ends.next() => {}
    }
}

fn ended<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended early");
    }
}
