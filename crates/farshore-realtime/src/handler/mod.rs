//! Event handlers: an application's own servers, told by webhooks (CloudEvents 1.0 in binary mode) what clients do, and
//! asked what shall become of it.
//!
//! Read in this order: `setting` (who gets which events), `template` (where they are sent), `event` (what is sent),
//! `answer` (what comes back, read without trust), `upstream` (the way there and back: limits, retries, deadlines),
//! `cookies`, `error`.
//!
//! Must always hold:
//! - An event goes to the first handler that takes it and to no other. A repeated one carries the same `ce-id`.
//! - Whatever a handler does (hangs, drips, breaks off, floods, answers rubbish), an event is over by its deadline, memory
//!   stays bounded, and events for other servers are not held up.
//! - Clients choose no server: names of events cannot stand in the host of a template, are percent-encoded elsewhere, and
//!   nothing from a client can end a header or begin another.
//!
//! # TLS
//! `https` handlers are believed by the system's certificate authorities; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others. On a
//! system without any, `http` works and `https` fails with a reason.
//!
//! # Server-side request forgery
//! A template makes this node send requests to whatever it names, inside the operator's network too: handlers usually live
//! there, so no address is refused. Hence: only who may change a hub's settings may set one; only `http` and `https` are
//! spoken; redirects are not followed, and no proxy from the environment is used; credentials in URLs are refused; a new
//! handler should be [validated](Handlers::validate) first, as a server that never heard of us gives no
//! `WebHook-Allowed-Origin`. What a handler answers reaches clients: the body of a refusal, and messages. Errors name
//! scheme, host and port only. A client's token is not passed on (`access_token`, `Authorization`).

mod answer;
mod cookies;
mod error;
mod event;
mod setting;
mod template;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

pub use answer::{ConnectAnswer, EventAnswer, REFUSAL_LEN_MAX, Refusal, STATE_LEN_MAX};
pub use error::HandlerError;
pub use event::EventContext;
pub use setting::{
    Auth, BEARER_LEN_MAX, BadHandler, EventHandler, LISTED_EVENTS_MAX, Secret, SystemEvent, UserEvents,
};
pub use template::{BadTemplate, TEMPLATE_LEN_MAX};
pub use upstream::{
    ANSWER_LEN_MAX, CONNECT_DEADLINE, DEADLINE, HandlerOptions, REQUESTS_MAX, RETRY_AFTER, VALIDATE_DEADLINE,
    WAITING_BYTES_MAX, WAITING_MAX,
};

use crate::frames::{Data, Metadata};
use crate::names::{ConnectionId, EventName, GroupName, HubName};
use answer::Raw;
use event::Kind;
use upstream::{Attempts, Outgoing, Upstreams, Wanted};

/// The way from one node to all event handlers. A clone is the same way.
#[derive(Debug, Clone)]
pub struct Handlers {
    upstreams: Arc<Upstreams>,
}

/// What a client said when it asked to come in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectRequest {
    /// Of its token.
    pub claims: BTreeMap<String, Vec<String>>,
    /// Of the URL. `access_token` is left out when it is sent on.
    pub query: BTreeMap<String, Vec<String>>,
    /// Of the upgrade request. `Authorization` is left out when it is sent on.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Those that it offers, in its order.
    pub subprotocols: Vec<String>,
    /// Thumbprints of the certificates that it presented.
    pub certificates: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectBody<'a> {
    claims: &'a BTreeMap<String, Vec<String>>,
    query: BTreeMap<&'a str, &'a [String]>,
    headers: BTreeMap<&'a str, &'a [String]>,
    subprotocols: &'a [String],
    client_certificates: Vec<Certificate<'a>>,
}

#[derive(Serialize)]
struct Certificate<'a> {
    thumbprint: &'a str,
}

#[derive(Serialize)]
struct DisconnectedBody<'a> {
    reason: &'a str,
}

#[derive(Serialize)]
struct GroupBody<'a> {
    group: &'a str,
}

impl Default for Handlers {
    fn default() -> Self {
        Self::new()
    }
}

impl Handlers {
    /// With the contract's limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with(HandlerOptions::default())
    }

    /// With other limits.
    #[must_use]
    pub fn with(options: HandlerOptions) -> Self {
        Self { upstreams: Arc::new(Upstreams::new(options)) }
    }

    /// Asks whether a client may come in. Not repeated after a failure: the client waits, and comes again by itself. Without
    /// a handler it may.
    pub async fn connect(
        &self,
        handlers: &[EventHandler],
        context: &EventContext<'_>,
        request: &ConnectRequest,
    ) -> Result<ConnectAnswer, Refusal> {
        let kind = Kind::System(SystemEvent::Connect);
        let Some(handler) = first(handlers, kind) else {
            return Ok(ConnectAnswer::default());
        };
        let body = Body::json(request.body());
        let sent = self.send(handler, context, kind, body, Attempts::Once, Wanted::All).await;
        let outcome = sent.and_then(|(upstream, raw)| {
            if !raw.status.is_success() {
                return Ok(Err(answer::refusal(&raw)));
            }
            let read = answer::connect(&raw, &request.subprotocols);
            read.map(Ok).map_err(|what| HandlerError::Rubbish { upstream, what })
        });
        outcome.unwrap_or_else(|error| {
            tracing::warn!(hub = %context.hub, connection = %context.connection, %error, "a client could not be let in");
            Err(not_asked(&error))
        })
    }

    /// Hands over what a client sent, and returns what the client shall get for it. Without a handler: nothing.
    ///
    /// An `Err` may have been seen by the handler.
    pub async fn user_event(
        &self,
        handlers: &[EventHandler],
        context: &EventContext<'_>,
        event: &EventName,
        data: &Data,
    ) -> Result<EventAnswer, HandlerError> {
        self.user_event_with(handlers, context, event, data, &Metadata::new()).await
    }

    /// Whether any of them wants this event.
    #[must_use]
    pub fn takes(handlers: &[EventHandler], event: &EventName) -> bool {
        first(handlers, Kind::User(event)).is_some()
    }

    /// As [`Handlers::user_event`], with the texts that the client sent beside its data.
    pub async fn user_event_with(
        &self,
        handlers: &[EventHandler],
        context: &EventContext<'_>,
        event: &EventName,
        data: &Data,
        metadata: &Metadata,
    ) -> Result<EventAnswer, HandlerError> {
        let kind = Kind::User(event);
        let Some(handler) = first(handlers, kind) else {
            return Ok(EventAnswer::default());
        };
        let (content_type, bytes) = event::content(data);
        let body = Body { content_type, bytes: bytes.clone(), metadata: Some(metadata) };
        let (upstream, raw) = self.send(handler, context, kind, body, Attempts::Retried, Wanted::All).await?;
        if !raw.status.is_success() {
            return Err(HandlerError::Status { upstream, status: raw.status.as_u16() });
        }
        answer::event(&raw).map_err(|what| HandlerError::Rubbish { upstream, what })
    }

    /// Tells that a client is in. Best effort; returns when it was told or given up.
    pub async fn connected(&self, handlers: &[EventHandler], context: &EventContext<'_>) {
        self.notify(handlers, context, SystemEvent::Connected, Bytes::from_static(b"{}")).await;
    }

    /// Tells that a client is gone for good, and forgets its cookies. Best effort; returns when it was told or given up.
    pub async fn disconnected(&self, handlers: &[EventHandler], context: &EventContext<'_>, reason: &str) {
        let body = json(&DisconnectedBody { reason });
        self.notify(handlers, context, SystemEvent::Disconnected, body).await;
        self.forget(context.connection);
    }

    /// Tells that a connection has come into a group, or gone. Best effort; returns when it was told or given up.
    pub async fn group_changed(
        &self,
        handlers: &[EventHandler],
        context: &EventContext<'_>,
        event: SystemEvent,
        group: &GroupName,
    ) {
        self.notify(handlers, context, event, json(&GroupBody { group: group.as_str() })).await;
    }

    /// Whether any of them wants to know who is in which group.
    #[must_use]
    pub fn follows_groups(handlers: &[EventHandler]) -> bool {
        let wants = |event| first(handlers, Kind::System(event)).is_some();
        wants(SystemEvent::Joined) || wants(SystemEvent::Left)
    }

    /// Asks a handler whether it wants our events at all (CloudEvents' abuse protection). `origin`: this endpoint's host.
    pub async fn validate(
        &self,
        handler: &EventHandler,
        hub: &HubName,
        origin: &str,
    ) -> Result<(), HandlerError> {
        let url = template::resolve(&handler.url_template, hub.as_str(), template::VALIDATE_EVENT)?;
        let mut headers = HeaderMap::new();
        headers.insert("ce-awpsversion", HeaderValue::from_static("1.0"));
        headers.insert("webhook-request-origin", event::header_value(origin));
        event::authorize(&mut headers, &handler.auth);
        let mut raw = self.upstreams.ask(Method::OPTIONS, &url, headers.clone()).await?;
        if raw.status == StatusCode::NOT_FOUND {
            raw = self.upstreams.ask(Method::GET, &url, headers).await?;
        }
        if raw.status.is_success() && allows(&raw.headers, origin) {
            return Ok(());
        }
        Err(HandlerError::NotAllowed {
            upstream: upstream::origin(&url),
            origin: origin.to_owned(),
            status: raw.status.as_u16(),
            found: found(&raw.headers),
        })
    }

    /// A connection that is gone for good without having been told to any handler.
    pub fn forget(&self, connection: &ConnectionId) {
        self.upstreams.cookies.forget(connection);
    }

    async fn notify(
        &self,
        handlers: &[EventHandler],
        context: &EventContext<'_>,
        event: SystemEvent,
        body: Bytes,
    ) {
        let kind = Kind::System(event);
        let Some(handler) = first(handlers, kind) else { return };
        let body = Body::json(body);
        let sent = self.send(handler, context, kind, body, Attempts::Retried, Wanted::Status).await;
        let failed = match sent {
            Ok((_, raw)) if raw.status.is_success() => return,
            Ok((upstream, raw)) => HandlerError::Status { upstream, status: raw.status.as_u16() },
            Err(error) => error,
        };
        let event = event.name();
        tracing::warn!(hub = %context.hub, connection = %context.connection, event, error = %failed, "a handler was not told");
    }

    async fn send(
        &self,
        handler: &EventHandler,
        context: &EventContext<'_>,
        kind: Kind<'_>,
        body: Body<'_>,
        attempts: Attempts,
        answer: Wanted,
    ) -> Result<(String, Raw), HandlerError> {
        let url = template::resolve(&handler.url_template, context.hub.as_str(), kind.name())?;
        let upstream = upstream::origin(&url);
        let mut headers = event::headers(context, kind, body.content_type, &handler.auth, Timestamp::now());
        if let Some(metadata) = body.metadata {
            event::add_metadata(&mut headers, metadata);
        }
        let (body, connection) = (body.bytes, context.connection);
        let raw = self.upstreams.send(&Outgoing { url, headers, body, connection, attempts, answer }).await?;
        Ok((upstream, raw))
    }
}

/// What is sent of an event, besides its attributes.
struct Body<'a> {
    content_type: &'static str,
    bytes: Bytes,
    metadata: Option<&'a Metadata>,
}

impl Body<'_> {
    fn json(bytes: Bytes) -> Self {
        Self { content_type: "application/json", bytes, metadata: None }
    }
}

impl ConnectRequest {
    fn body(&self) -> Bytes {
        json(&ConnectBody {
            claims: &self.claims,
            query: without(&self.query, "access_token"),
            headers: without(&self.headers, "authorization"),
            subprotocols: &self.subprotocols,
            client_certificates: self
                .certificates
                .iter()
                .map(|thumbprint| Certificate { thumbprint })
                .collect(),
        })
    }
}

/// The first handler that takes an event wins.
fn first<'a>(handlers: &'a [EventHandler], kind: Kind<'_>) -> Option<&'a EventHandler> {
    handlers.iter().find(|handler| match kind {
        Kind::System(event) => handler.takes_system(event),
        Kind::User(event) => handler.takes_user(event),
    })
}

/// All but the one that is a secret.
fn without<'a>(all: &'a BTreeMap<String, Vec<String>>, secret: &str) -> BTreeMap<&'a str, &'a [String]> {
    let shown = all.iter().filter(|(key, _)| !key.eq_ignore_ascii_case(secret));
    shown.map(|(key, values)| (key.as_str(), values.as_slice())).collect()
}

fn json(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("texts in maps and lists are always JSON"))
}

/// What a client is told when its handler did not decide. The reason stays in our log: it names servers.
fn not_asked(error: &HandlerError) -> Refusal {
    match error {
        HandlerError::Busy { .. } => Refusal::ours(
            StatusCode::SERVICE_UNAVAILABLE,
            "The connect event handler is overloaded. Try again later.",
        ),
        _ => Refusal::ours(StatusCode::INTERNAL_SERVER_ERROR, "Dispatching the connect event failed."),
    }
}

const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");

fn allows(headers: &HeaderMap, origin: &str) -> bool {
    let values = headers.get_all(ALLOWED_ORIGIN).into_iter().filter_map(|value| value.to_str().ok());
    let mut origins = values.flat_map(|value| value.split(',')).map(str::trim);
    origins.any(|one| one == "*" || one.eq_ignore_ascii_case(origin))
}

/// The header as it was, shortened, for who mends it.
fn found(headers: &HeaderMap) -> String {
    let values: Vec<String> = headers
        .get_all(ALLOWED_ORIGIN)
        .iter()
        .take(4)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).chars().take(64).collect())
        .collect();
    if values.is_empty() { "no such header".to_owned() } else { values.join(", ") }
}

#[cfg(test)]
pub(crate) mod tests;
