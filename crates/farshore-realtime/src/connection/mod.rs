//! Clients: from a request to be upgraded to a session of the hub, and the one small task of each connection.
//!
//! Read in this order: this file (who comes in), `admission` (how fast), `client` (what its frames do), `extras` (streams,
//! states and invocations), `events` and `invoke` (what its event handler is asked), `task` (reads and writes).
//!
//! Must always hold: an idle connection has no buffers; a client that does not read or does not speak the protocol
//! disturbs nobody else; a session that is not known is told so by close code 1008 after the upgrade, never by an HTTP error,
//! which official clients would repeat for half a minute.

pub mod admission;
mod client;
pub(crate) mod events;
mod extras;
mod invoke;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::frames::{self, Downstream, Protocol};
use crate::handler::{ConnectRequest, EventContext};
use crate::hub::{Arrival, Attached, PROBE_STATE, Recovery, Seen, close};
use crate::live::{LiveHub, now};
use crate::names::{ConnectionId, GroupName, UserId};
use crate::pair::PROBE_CLAIM;
use crate::permission::Permissions;
use crate::query;
use crate::service::Place;
use crate::token;
use crate::ws::handshake::{self, NoUpgrade};
use admission::{Admission, ComeAgain};
use client::{Client, SimpleMode};
use task::Socket;
pub(crate) use task::pulse;

/// A session that another region has is asked for, and waited for so long, before its client is sent away.
const CLAIM_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks whether it has come; it is told as well.
const CLAIM_LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a client asks for.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) hub: Arc<LiveHub>,
    /// Decoded query parameters.
    pub(crate) query: Vec<(String, String)>,
    /// Base URLs under which this listener is known.
    pub(crate) base_urls: Vec<String>,
    /// Asks the other region for a session.
    pub(crate) claims: Arc<dyn Claims>,
    /// The address leads to whichever region is active.
    pub(crate) follows: bool,
    /// How fast clients come in.
    pub(crate) admission: Arc<Admission>,
}

/// Thumbprints of the certificates that a client has shown: SHA-1, in hexadecimal, as the protocol's other servers tell them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Certificates(pub(crate) Arc<[String]>);

impl Certificates {
    pub(crate) fn of(shown: &[CertificateDer<'_>]) -> Self {
        Self(shown.iter().map(|certificate| thumbprint(certificate)).collect())
    }
}

fn thumbprint(certificate: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The way to the other region, for sessions that are there.
#[async_trait::async_trait]
pub trait Claims: Send + Sync + std::fmt::Debug {
    /// Asks the other region for a session; it comes by itself if it does.
    async fn claim(&self, connection: &ConnectionId);
    /// The other region was never heard since this one started: sessions may still come.
    fn may_come(&self) -> bool;
}

type Answer = Response<Full<Bytes>>;

/// Answers a client's request. With 101 the connection is the client's from then on.
pub(crate) async fn enter<S>(mut request: Request<Incoming>, asking: Asking) -> Answer
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let accept = match handshake::accept(request.headers()) {
        Ok(accept) => accept,
        Err(why) => return no_upgrade(why),
    };
    let place = request.extensions_mut().remove::<Place>();
    let wants_back = wants_back(&asking);
    let is_told_so = wants_back.is_some() && is_left(&asking);
    if !asking.hub.is_serving() && !is_told_so {
        return unavailable();
    }
    if let Some(known) = wants_back {
        if known.is_some()
            && let Err(again) = asking.admission.enter().await
        {
            return come_again(again);
        }
        let offered = subprotocols(request.headers());
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let Ok(parts) = upgraded.downcast::<TokioIo<S>>() else { return };
            let socket = Socket { socket: parts.io.into_inner(), read: parts.read_buf, place };
            go_on(asking, known, socket).await;
        });
        return switching(&accept, offered.into_iter().find(|name| Protocol::of(name).is_some()));
    }
    let newcomer = match admit(&request, &asking).await {
        Ok(newcomer) => newcomer,
        Err(refusal) => {
            asking.hub.counters.refused.fetch_add(1, Ordering::Relaxed);
            return *refusal;
        }
    };
    let chosen = newcomer.subprotocol.clone();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<S>>() else { return };
        let socket = Socket { socket: parts.io.into_inner(), read: parts.read_buf, place };
        begin(asking.hub, newcomer, asking.follows, socket);
    });
    switching(&accept, chosen)
}

/// Whether a client wants to go on where it was: with which session, if its token is believed.
fn wants_back(asking: &Asking) -> Option<Option<ConnectionId>> {
    let connection = query::get(&asking.query, "awps_connection_id")?;
    let token = query::get(&asking.query, "awps_reconnection_token")?;
    let keys = &asking.hub.settings().keys;
    let connection = ConnectionId::parse(connection).ok();
    Some(connection.filter(|connection| token::verify_reconnection(token, connection, keys, now()).is_ok()))
}

/// Nobody is served here any more, and the client's address leads nowhere else: it is told to negotiate. Without that, official
/// clients come again for half a minute.
fn is_left(asking: &Asking) -> bool {
    asking.hub.is_draining() && !asking.follows
}

/// A client that may come in.
#[derive(Debug)]
struct Newcomer {
    arrival: Arrival,
    subprotocol: Option<String>,
    simple: SimpleMode,
    /// Its handler was asked at its coming.
    handled: bool,
}

fn subprotocols(headers: &HeaderMap) -> Vec<String> {
    handshake::offered(headers).into_iter().map(str::to_owned).collect()
}

fn no_upgrade(why: NoUpgrade) -> Answer {
    let status = match why {
        NoUpgrade::Version => StatusCode::UPGRADE_REQUIRED,
        NoUpgrade::Plain | NoUpgrade::Key => StatusCode::BAD_REQUEST,
    };
    let mut answer = plain(status, &why.to_string());
    if why == NoUpgrade::Version {
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, header::HeaderValue::from_static("13"));
    }
    answer
}

fn plain(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn unavailable() -> Answer {
    let mut answer =
        plain(StatusCode::SERVICE_UNAVAILABLE, "this hub is not served here now: negotiate again");
    let seconds = 1 + rand::random::<u64>() % crate::negotiate::RETRY_SPREAD_SECONDS;
    answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    answer
}

fn come_again(ComeAgain(after): ComeAgain) -> Answer {
    let mut answer = plain(StatusCode::SERVICE_UNAVAILABLE, "many clients are coming in: come again");
    let seconds = after.as_secs() + rand::random::<u64>() % crate::negotiate::RETRY_SPREAD_SECONDS;
    answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    answer
}

fn switching(accept: &str, subprotocol: Option<String>) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = accept.parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(Ok(name)) = subprotocol.map(|name| name.parse()) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    answer
}

/// Checks the token, asks the event handler, and decides who this is.
async fn admit(request: &Request<Incoming>, asking: &Asking) -> Result<Newcomer, Box<Answer>> {
    let hub = &asking.hub;
    let settings = hub.settings();
    let claims = claims(request, asking)?;
    let simple = simple_mode(&asking.query).map_err(|why| Box::new(plain(StatusCode::BAD_REQUEST, &why)))?;
    let offered = subprotocols(request.headers());
    let connection = ConnectionId::of(rand::random());
    // After its token is believed: strangers take nobody's turn.
    asking.admission.enter().await.map_err(|again| Box::new(come_again(again)))?;
    if is_probe(&claims) {
        return Ok(probe(connection, claims.user, simple));
    }
    let ask = ConnectRequest {
        claims: claims.all,
        query: grouped(&asking.query),
        headers: header_texts(request.headers()),
        subprotocols: offered.clone(),
        certificates: request
            .extensions()
            .get::<Certificates>()
            .map_or_else(Vec::new, |shown| shown.0.to_vec()),
    };
    let context = EventContext {
        hub: hub.name(),
        connection: &connection,
        user: claims.user.as_ref(),
        subprotocol: None,
        keys: &settings.keys,
        origin: host(&asking.base_urls),
        state: None,
        event_id: 0,
    };
    let answer = hub.handlers.connect(&settings.handlers, &context, &ask).await.map_err(|refusal| {
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = Response::new(Full::new(refusal.body));
        *answer.status_mut() = status;
        if let Some(Ok(kind)) = refusal.content_type.map(|kind| kind.parse()) {
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        Box::new(answer)
    })?;
    // The handler's choice, if it was offered; else the first that is spoken here.
    let chosen = answer.subprotocol.filter(|name| offered.contains(name));
    let chosen = chosen.or_else(|| offered.iter().find(|name| Protocol::of(name).is_some()).cloned());
    let protocol = chosen.as_deref().and_then(Protocol::of).unwrap_or(Protocol::Simple);
    let roles: Vec<String> = claims.roles.into_iter().chain(answer.roles).collect();
    let arrival = Arrival {
        connection,
        user: answer.user.or(claims.user),
        protocol,
        permissions: Permissions::from_roles(&roles),
        groups: claims.groups.into_iter().chain(answer.groups).collect(),
        state: answer.state,
    };
    Ok(Newcomer { arrival, subprotocol: chosen, simple, handled: !settings.handlers.is_empty() })
}

/// Only who has a key of the hub can say so in a token.
fn is_probe(claims: &token::Claims) -> bool {
    claims.all.get(PROBE_CLAIM).is_some_and(|said| said == &["true"])
}

/// Another region looks whether this one works: no event handler is asked or told.
fn probe(connection: ConnectionId, user: Option<UserId>, simple: SimpleMode) -> Newcomer {
    let arrival = Arrival {
        connection,
        user,
        protocol: Protocol::Simple,
        permissions: Permissions::default(),
        groups: Vec::new(),
        state: Some(PROBE_STATE.to_owned()),
    };
    Newcomer { arrival, subprotocol: None, simple, handled: false }
}

fn claims(request: &Request<Incoming>, asking: &Asking) -> Result<token::Claims, Box<Answer>> {
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.split_once(' '));
    let bearer =
        bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let Some(text) = query::get(&asking.query, "access_token").or(bearer) else {
        let text = "a token is needed: connect with ?access_token=… from the application's server";
        return Err(Box::new(plain(StatusCode::UNAUTHORIZED, text)));
    };
    let settings = asking.hub.settings();
    let urls: Vec<String> = asking
        .base_urls
        .iter()
        .chain(&settings.audiences)
        .map(|base| format!("{}/client/hubs/{}", http_of(base), asking.hub.name()))
        .collect();
    let fits = |audience: &str| token::rest_audience_ok(&http_of(audience), &urls);
    token::verify(text, &settings.keys, now(), fits)
        .map_err(|error| Box::new(plain(StatusCode::UNAUTHORIZED, &error.to_string())))
}

/// The same place as `ws` or `http`.
fn http_of(url: &str) -> String {
    url.trim_end_matches('/').replacen("ws", "http", usize::from(url.starts_with("ws")))
}

fn host(base_urls: &[String]) -> &str {
    base_urls.first().and_then(|url| url.split("://").nth(1)).unwrap_or("farshore")
}

fn grouped(query: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    let mut grouped: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in query.iter().filter(|(name, _)| name != "access_token") {
        grouped.entry(name.clone()).or_default().push(value.clone());
    }
    grouped
}

fn header_texts(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| **name != header::AUTHORIZATION) {
        if let Ok(value) = value.to_str() {
            texts.entry(name.as_str().to_owned()).or_default().push(value.to_owned());
        }
    }
    texts
}

fn simple_mode(query: &[(String, String)]) -> Result<SimpleMode, String> {
    match query::get(query, "webpubsub_mode") {
        None | Some("sendEvent") => Ok(SimpleMode::SendEvent),
        Some("sendToGroup") => {
            let group = query::get(query, "group").unwrap_or_default();
            let group = GroupName::parse(group).map_err(|error| format!("group: {error}"))?;
            let no_echo = query::get(query, "noEcho").is_some_and(|text| text.eq_ignore_ascii_case("true"));
            Ok(SimpleMode::SendToGroup { group, no_echo })
        }
        Some(other) => Err(format!("webpubsub_mode {other:?} is not known: sendEvent or sendToGroup")),
    }
}

fn hello(hub: &LiveHub, connection: &ConnectionId, protocol: Protocol, user: Option<&UserId>) -> Bytes {
    let key = &hub.settings().keys.primary;
    let token = protocol.is_reliable().then(|| token::reconnection_token(connection, now(), key));
    let connected = Downstream::Connected { connection, user, reconnection_token: token.as_deref() };
    frames::control(protocol, &connected)
}

fn begin<S>(hub: Arc<LiveHub>, newcomer: Newcomer, follows: bool, socket: Socket<S>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Newcomer { arrival, simple, handled, .. } = newcomer;
    let is_probe = arrival.state.as_deref() == Some(PROBE_STATE);
    hub.counters.opened.fetch_add(u64::from(!is_probe), Ordering::Relaxed);
    let (connection, protocol, user) = (arrival.connection.clone(), arrival.protocol, arrival.user.clone());
    let hello = (protocol != Protocol::Simple).then(|| hello(&hub, &connection, protocol, user.as_ref()));
    let attached =
        hub.with(|hub| hub.open(arrival, hello, Seen { pulse: task::pulse(), now: now(), follows }));
    if handled {
        events::tell_connected(&hub, &connection, user.as_ref(), protocol);
    }
    let client = Client::new(hub, connection, user, protocol, simple, &attached);
    task::spawn(socket, client, attached);
}

/// A client that wants to go on where it was. `known`: with which session, if its token is believed.
async fn go_on<S>(asking: Asking, known: Option<ConnectionId>, socket: Socket<S>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let known = known.filter(|_| !is_left(&asking));
    let hub = asking.hub;
    let found = match &known {
        Some(connection) => find(&hub, connection, &*asking.claims, asking.follows).await,
        None => Found::Nowhere,
    };
    let (attached, protocol, user) = match found {
        Found::Here(attached, protocol, user) => (*attached, protocol, user),
        // It is known to exist, and a client that is not told otherwise asks for it again.
        Found::Late => {
            hub.counters.refused.fetch_add(1, Ordering::Relaxed);
            let why = "the session is on its way from the other region: come again";
            return task::refuse(socket.socket, close::TRY_AGAIN_LATER, why).await;
        }
        Found::Nowhere => {
            tracing::debug!(hub = %hub.name(), ?known, "a client asks for a session that is not known");
            hub.counters.refused.fetch_add(1, Ordering::Relaxed);
            return task::refuse(socket.socket, close::POLICY, "the session is not known: negotiate again")
                .await;
        }
    };
    let Some(connection) = known else { return };
    hub.counters.recovered.fetch_add(1, Ordering::Relaxed);
    let client = Client::new(hub, connection, user, protocol, SimpleMode::SendEvent, &attached);
    task::spawn(socket, client, attached);
}

/// Where a session is.
enum Found {
    /// Here, and its client with it.
    Here(Box<Attached>, Protocol, Option<UserId>),
    /// In the other region, or not told of yet; it did not come in time.
    Late,
    /// Nowhere that is known.
    Nowhere,
}

/// Finds the session here, or has it brought from the other region.
async fn find(hub: &Arc<LiveHub>, connection: &ConnectionId, claims: &dyn Claims, follows: bool) -> Found {
    let until = tokio::time::Instant::now() + CLAIM_PATIENCE;
    let mut asked = false;
    loop {
        let arrived = hub.arrived().notified();
        let is_here = hub.is_partner_here();
        let hello = |protocol, user: Option<&UserId>| hello(hub, connection, protocol, user);
        let seen = Seen { pulse: task::pulse(), now: now(), follows };
        match hub.with(|hub| hub.recover(connection, is_here, hello, seen)) {
            Recovery::Attached(attached, protocol, user) => return Found::Here(attached, protocol, user),
            Recovery::Elsewhere if !asked => {
                asked = true;
                claims.claim(connection).await;
            }
            Recovery::Elsewhere => {}
            // The regions of a hub that was just started have not told each other yet what they have.
            Recovery::Unknown if claims.may_come() => {}
            Recovery::Unknown => return Found::Nowhere,
        }
        if tokio::time::Instant::now() >= until {
            return Found::Late;
        }
        let _ = tokio::time::timeout(CLAIM_LOOK_EVERY, arrived).await;
    }
}
