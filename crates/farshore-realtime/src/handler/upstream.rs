//! The way to the servers that handle events: bounded in time, in number and in bytes, whatever they do.
//!
//! One server (scheme, host and port) that hangs or drips costs the others nothing: it has places of its own, and when they
//! are taken the next event for it fails at once. An event waits between two attempts without holding a connection.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;
use reqwest::Url;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::{REFUSAL_LEN_MAX, Raw};
use super::cookies::Cookies;
use super::error::HandlerError;
use crate::names::ConnectionId;

/// How long an event may take, its retries included. The contract's; a client waits for the answer.
pub const DEADLINE: Duration = Duration::from_secs(100);
/// How long the check of a handler may take.
pub const VALIDATE_DEADLINE: Duration = Duration::from_secs(10);
/// How long until a server has accepted a connection. Beyond this it is not there.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// After which pauses an event is sent again when the server was not there or failed.
pub const RETRY_AFTER: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(5)];
/// Largest answer to one event.
pub const ANSWER_LEN_MAX: usize = 16 * 1024 * 1024;
/// Requests under way to one server. More would make a slow one slower; the next ones wait for their turn.
pub const REQUESTS_MAX: usize = 256;
/// Events on their way to one server, with those that wait. Enough for all clients of a node to come back at once.
pub const WAITING_MAX: usize = 20_000;
/// Bytes of those events.
pub const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Answers beyond this take turns: with [`LARGE_ANSWERS_MAX`] of them a node holds 128 MiB of answers, not gigabytes.
const SMALL_ANSWER_LEN_MAX: usize = 1024 * 1024;
/// See [`SMALL_ANSWER_LEN_MAX`].
const LARGE_ANSWERS_MAX: usize = 8;
/// Node.js closes a connection after 5 s of quiet. One that we use just then fails, and the event must be sent again.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// Quiet connections kept to one server.
const IDLE_CONNECTIONS_MAX: usize = 32;
/// Servers that have places. Templates are an operator's, so there are few; beyond this the unused ones are dropped.
const SERVERS_MAX: usize = 1_024;
/// Bytes are counted in these, so that the largest budget fits the counter.
const BYTES_UNIT: usize = 1_024;

/// Limits that may be shortened. The defaults are the contract's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerOptions {
    /// See [`DEADLINE`].
    pub deadline: Duration,
    /// See [`VALIDATE_DEADLINE`].
    pub validate_deadline: Duration,
    /// See [`RETRY_AFTER`].
    pub retry_after: [Duration; 3],
    /// See [`REQUESTS_MAX`].
    pub requests_max: usize,
    /// See [`WAITING_MAX`].
    pub waiting_max: usize,
    /// See [`WAITING_BYTES_MAX`].
    pub waiting_bytes_max: usize,
}

impl Default for HandlerOptions {
    fn default() -> Self {
        Self {
            deadline: DEADLINE,
            validate_deadline: VALIDATE_DEADLINE,
            retry_after: RETRY_AFTER,
            requests_max: REQUESTS_MAX,
            waiting_max: WAITING_MAX,
            waiting_bytes_max: WAITING_BYTES_MAX,
        }
    }
}

/// All servers that handle events.
#[derive(Debug)]
pub(super) struct Upstreams {
    http: reqwest::Client,
    /// Keeps no connection, so that the one it uses is new. Made when it is first needed.
    unpooled: OnceLock<reqwest::Client>,
    pub(super) options: HandlerOptions,
    pub(super) cookies: Cookies,
    servers: Mutex<HashMap<String, Arc<Places>>>,
    large_answers: Semaphore,
}

/// The places of one server.
#[derive(Debug)]
struct Places {
    origin: String,
    requests: Semaphore,
    waiting: Semaphore,
    waiting_bytes: Semaphore,
}

/// One event, ready to be sent.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) connection: &'a ConnectionId,
    pub(super) attempts: Attempts,
    pub(super) answer: Wanted,
}

/// How often an event may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempts {
    /// Somebody waits who will rather try again themselves. Only a connection that broke before an answer began is replaced.
    Once,
    /// With the pauses of the options.
    Retried,
}

/// Which part of an answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Headers and body.
    All,
    /// The status only.
    Status,
}

/// An attempt without an answer.
struct Failed {
    error: HandlerError,
    /// On a connection that stood, without one byte of an answer.
    broke_unheard: bool,
}

impl From<HandlerError> for Failed {
    fn from(error: HandlerError) -> Self {
        Self { error, broke_unheard: false }
    }
}

impl Upstreams {
    pub(super) fn new(options: HandlerOptions) -> Self {
        Self {
            http: client(IDLE_CONNECTIONS_MAX),
            unpooled: OnceLock::new(),
            options,
            cookies: Cookies::default(),
            servers: Mutex::default(),
            large_answers: Semaphore::new(LARGE_ANSWERS_MAX),
        }
    }

    /// Sends an event until it has an answer other than 408 and 5xx, or may not be sent again, or its time is over.
    /// Each attempt carries the same `ce-id`, so a handler can tell that it has seen it.
    pub(super) async fn send(&self, event: &Outgoing<'_>) -> Result<Raw, HandlerError> {
        let places = self.places(&event.url);
        let _place = self.enter(&places, event.body.len())?;
        let deadline = self.options.deadline;
        match tokio::time::timeout(deadline, self.attempts(&places, event)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HandlerError::Deadline { upstream: places.origin.clone(), deadline }),
        }
    }

    /// One request without an event: the check of a handler.
    pub(super) async fn ask(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Raw, HandlerError> {
        let places = self.places(url);
        let _place = self.enter(&places, 0)?;
        let deadline = self.options.validate_deadline;
        let request = self.http.request(method, url.clone()).headers(headers);
        let answer = async {
            let _request = turn(&places.requests).await;
            request.send().await.map_err(|error| unreachable(&places.origin, error))
        };
        match tokio::time::timeout(deadline, answer).await {
            Ok(answered) => answered.map(head),
            Err(_) => Err(HandlerError::Deadline { upstream: places.origin.clone(), deadline }),
        }
    }

    async fn attempts(&self, places: &Places, event: &Outgoing<'_>) -> Result<Raw, HandlerError> {
        let pauses: &[Duration] = match event.attempts {
            Attempts::Once => &[],
            Attempts::Retried => &self.options.retry_after,
        };
        let mut outcome = self.attempt(&self.http, places, event).await;
        if outcome.as_ref().is_err_and(|failed| failed.broke_unheard) {
            // A server may close a kept connection at any time, and does when it restarts. That is no failure of its own.
            outcome = self.attempt(self.unpooled.get_or_init(|| client(0)), places, event).await;
        }
        for pause in pauses {
            match outcome.map_err(|failed| failed.error) {
                Ok(raw) if may_pass(raw.status) => {}
                Err(HandlerError::Unreachable { .. }) => {}
                done => return done,
            }
            tokio::time::sleep(*pause).await;
            outcome = self.attempt(&self.http, places, event).await;
        }
        outcome.map_err(|failed| failed.error)
    }

    async fn attempt(
        &self,
        http: &reqwest::Client,
        places: &Places,
        event: &Outgoing<'_>,
    ) -> Result<Raw, Failed> {
        let _request = turn(&places.requests).await;
        let mut request =
            http.post(event.url.clone()).headers(event.headers.clone()).body(event.body.clone());
        if let Some(cookies) = self.cookies.header(event.connection, &event.url, Timestamp::now()) {
            request = request.header(header::COOKIE, cookies);
        }
        let response = request.send().await.map_err(|error| Failed {
            broke_unheard: broke_unheard(&error),
            error: unreachable(&places.origin, error),
        })?;
        if response.status().is_success() {
            self.cookies.store(event.connection, &event.url, response.headers(), Timestamp::now());
        }
        match event.answer {
            Wanted::Status => Ok(head(response)),
            Wanted::All => Ok(self.read(&places.origin, response).await?),
        }
    }

    async fn read(&self, origin: &str, mut response: reqwest::Response) -> Result<Raw, HandlerError> {
        let success = response.status().is_success();
        let max = if success { ANSWER_LEN_MAX } else { REFUSAL_LEN_MAX };
        let announced = response.content_length().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
        let mut body = BytesMut::new();
        let mut turn_of_large = None;
        let mut too_large = announced > max;
        while !too_large {
            let Some(chunk) = response.chunk().await.map_err(|error| unreachable(origin, error))? else {
                break;
            };
            let len = body.len() + chunk.len();
            too_large = len > max;
            if len > SMALL_ANSWER_LEN_MAX && turn_of_large.is_none() {
                turn_of_large = Some(turn(&self.large_answers).await);
            }
            body.extend_from_slice(&chunk);
        }
        match (too_large, success) {
            (true, true) => Err(HandlerError::TooLarge { upstream: origin.to_owned(), max }),
            // The status says what matters.
            (true, false) => Ok(head(response)),
            (false, _) => Ok(Raw { body: body.freeze(), ..head(response) }),
        }
    }

    fn enter<'a>(&self, places: &'a Places, bytes: usize) -> Result<[SemaphorePermit<'a>; 2], HandlerError> {
        let busy = |_| HandlerError::Busy {
            upstream: places.origin.clone(),
            waiting_max: self.options.waiting_max,
            bytes_max: self.options.waiting_bytes_max,
        };
        let units = u32::try_from(bytes.div_ceil(BYTES_UNIT)).unwrap_or(u32::MAX);
        let place = places.waiting.try_acquire().map_err(busy)?;
        Ok([place, places.waiting_bytes.try_acquire_many(units).map_err(busy)?])
    }

    fn places(&self, url: &Url) -> Arc<Places> {
        let origin = origin(url);
        // A map is whole between two of its calls.
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() >= SERVERS_MAX && !servers.contains_key(&origin) {
            servers.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let places = servers.entry(origin).or_insert_with_key(|origin| Arc::new(self.new_places(origin)));
        Arc::clone(places)
    }

    fn new_places(&self, origin: &str) -> Places {
        let options = &self.options;
        Places {
            origin: origin.to_owned(),
            requests: Semaphore::new(options.requests_max.clamp(1, Semaphore::MAX_PERMITS)),
            waiting: Semaphore::new(options.waiting_max.min(Semaphore::MAX_PERMITS)),
            waiting_bytes: Semaphore::new(
                (options.waiting_bytes_max / BYTES_UNIT).min(Semaphore::MAX_PERMITS),
            ),
        }
    }
}

/// Scheme, host and port: what errors name, since a path or query may hold a key.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Waits in line.
async fn turn(places: &Semaphore) -> SemaphorePermit<'_> {
    places.acquire().await.expect("these semaphores are never closed")
}

/// Whether the same request may be answered otherwise in a moment.
fn may_pass(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT || status.is_server_error()
}

fn head(mut response: reqwest::Response) -> Raw {
    Raw { status: response.status(), headers: std::mem::take(response.headers_mut()), body: Bytes::new() }
}

/// Whether the connection stood and then ended before an answer began, as a kept one does that the server has just closed.
fn broke_unheard(error: &reqwest::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    !error.is_connect()
        && causes(error).any(|cause| {
            let http = cause.downcast_ref::<hyper::Error>();
            let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            http.is_some_and(|http| http.is_incomplete_message() || http.is_closed() || http.is_canceled())
                || matches!(io, Some(BrokenPipe | ConnectionAborted | ConnectionReset))
        })
}

/// The error's own text hides the cause in its sources, and has the URL in it.
fn unreachable(origin: &str, error: reqwest::Error) -> HandlerError {
    let error = error.without_url();
    let why = causes(&error).fold(error.to_string(), |why, cause| format!("{why}: {cause}"));
    HandlerError::Unreachable { upstream: origin.to_owned(), why }
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

/// Goes straight to where a template leads: no proxy from the environment, no redirect (it could lead anywhere).
fn client(idle_connections_max: usize) -> reqwest::Client {
    // Err: the process has chosen one already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_DEADLINE)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(idle_connections_max)
            .user_agent("farshore")
    };
    builder().build().unwrap_or_else(|error| {
        tracing::warn!(%error, "this system has no certificate authorities: event handlers can be reached by http:// only");
        builder()
            .tls_backend_preconfigured(believes_nobody())
            .build()
            .expect("with its TLS given, a client needs nothing from the system")
    })
}

/// For a system without certificate authorities.
pub(super) fn believes_nobody() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring serves the default versions of TLS")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
