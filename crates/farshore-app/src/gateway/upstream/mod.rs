//! Somebody whom requests are sent on to: an instance of an app here, or the gateway of another region; with the
//! connections to it that are kept.
//!
//! Read in this order: this file (choosing and keeping connections), `line` (one connection and one exchange on it),
//! `answer` (the body that comes back).
//!
//! A connection belongs to one request at a time and is driven by that request's own task, not by one of its own: an
//! exchange wakes nobody but the task that serves the client. Nobody looks at a kept connection until it is used again.

mod answer;
mod line;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;

use super::body::{ToUpstream, UploadEnd};
use super::limits::GatewayLimits;
use line::{Line, NoReply};

pub(super) use answer::FromUpstream;

/// Kept connections that were not used for so long are closed: common servers close theirs after five seconds (Node),
/// and a request that meets such an end on its way may have to be given up.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Kept connections to one upstream. More requests at once open connections of their own and close them.
const IDLE_LINES_MAX: usize = 256;

/// To an instance, on this machine.
const CONNECT_HERE: Duration = Duration::from_secs(2);

/// To another region, with its handshake: a region that is gone does not refuse, it is silent.
const CONNECT_THERE: Duration = Duration::from_secs(5);

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Instance(SocketAddr),
    Gateway { http: Option<String>, https: Option<String> },
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was sent: the request is still there and can go elsewhere.
    Unsent(io::Error),
    /// There are too many requests already: the request is still there.
    Busy,
    /// Something was sent, and the connection ended before an answer.
    Broken(hyper::Error),
    /// No answer came in time.
    Late,
}

/// What a call needs beside the request.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// Whom to believe behind TLS.
    pub(super) trust: Option<&'a Arc<rustls::ClientConfig>>,
    /// Not on a kept connection: one has just ended under this request.
    pub(super) fresh: bool,
    /// How far the request has gone: a long one is not late.
    pub(super) upload: UploadEnd,
    pub(super) limits: &'a GatewayLimits,
}

/// Somebody whom requests are sent on to.
#[derive(Debug)]
pub(super) struct Upstream {
    address: Address,
    under_way: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
}

impl Upstream {
    pub(super) fn new(address: Address) -> Self {
        Self { address, under_way: AtomicUsize::new(0), idle: Mutex::default() }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// How many requests it has not answered to the end.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Sends the request and returns the head of the answer, whose body is still to come. The request is taken when
    /// something of it was sent.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: &mut Option<Request<ToUpstream>>,
        call: &Call<'_>,
    ) -> Result<Response<FromUpstream>, Failure> {
        let taken = Taken::new(Arc::clone(self));
        if self.under_way() > call.limits.under_way {
            return Err(Failure::Busy);
        }
        loop {
            let (mut line, is_kept) = match self.kept(call.fresh) {
                Some(line) => (line, true),
                None => (Box::pin(self.connect(call)).await.map_err(Failure::Unsent)?, false),
            };
            match line.exchange(request, &call.upload, call.limits.answer).await {
                Ok(response) => return Ok(FromUpstream::respond(response, line, taken)),
                // It ended while it was kept.
                Err(NoReply::Unsent(_)) if is_kept => {}
                Err(NoReply::Unsent(error)) => return Err(Failure::Unsent(io::Error::other(error))),
                Err(NoReply::Broken(error)) => return Err(Failure::Broken(error)),
                Err(NoReply::Late) => return Err(Failure::Late),
            }
        }
    }

    /// A kept connection that seems usable.
    fn kept(&self, fresh: bool) -> Option<Line> {
        if fresh {
            return None;
        }
        loop {
            let Idle { mut line, since } = self.idle().pop()?;
            if since.elapsed() > IDLE_MAX {
                // The last one in was the last one used.
                self.idle().clear();
                return None;
            }
            if line.is_usable() {
                return Some(line);
            }
        }
    }

    fn keep(&self, line: Line) {
        let mut idle = self.idle();
        if idle.len() < IDLE_LINES_MAX {
            idle.push(Idle { line, since: Instant::now() });
        }
    }

    /// Closes what was not used for long.
    pub(super) fn sweep(&self) {
        self.idle().retain(|idle| idle.since.elapsed() <= IDLE_MAX);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, call: &Call<'_>) -> io::Result<Line> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time");
        match &self.address {
            Address::Instance(address) => {
                let stream = tokio::time::timeout(CONNECT_HERE, TcpStream::connect(address));
                Line::open(Either::Left(prepared(stream.await.map_err(late)??))).await
            }
            Address::Gateway { http, https } => {
                let line = reach(http.as_deref(), https.as_deref(), call);
                tokio::time::timeout(CONNECT_THERE, line).await.map_err(late)?
            }
        }
    }
}

/// A connection to another gateway: by TLS, or without it on this host. Requests carry keys and passwords.
async fn reach(http: Option<&str>, https: Option<&str>, call: &Call<'_>) -> io::Result<Line> {
    match (https, call.trust, http) {
        (Some(address), Some(trust), _) => secured(address, trust).await,
        // Also where there is an address without TLS: who answers at it, nobody knows.
        (Some(_), None, _) => Err(io::Error::other(
            "it is only reached by TLS, and this region was not told whom to believe there",
        )),
        (None, _, Some(address)) => match address.parse::<SocketAddr>() {
            Ok(here) if here.ip().is_loopback() => {
                Line::open(Either::Left(prepared(TcpStream::connect(here).await?))).await
            }
            _ => Err(io::Error::other(format!(
                "{address} is on another host, which is only reached by TLS: set https in [apps] there"
            ))),
        },
        (None, _, None) => Err(io::Error::other("it tells no address: set https in [apps] there")),
    }
}

async fn secured(address: &str, trust: &Arc<rustls::ClientConfig>) -> io::Result<Line> {
    let stream = prepared(TcpStream::connect(address).await?);
    // The gateway's own certificate is asked for, and not one of an app's: whose that is need not be believed here.
    let own = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(own.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::clone(trust)).connect(name, stream).await?;
    Line::open(Either::Right(Box::new(stream))).await
}

fn prepared(stream: TcpStream) -> TcpStream {
    // It only makes it better.
    let _ = stream.set_nodelay(true);
    stream
}

/// One request counted as under way at an upstream, until dropped.
#[derive(Debug)]
struct Taken(Arc<Upstream>);

impl Taken {
    fn new(upstream: Arc<Upstream>) -> Self {
        upstream.under_way.fetch_add(1, Ordering::Relaxed);
        Self(upstream)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
