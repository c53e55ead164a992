//! Reading what devices said: pages with a long poll, or a stream of server-sent events; consumer groups and their cursors.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_core::moment::Moment;
use futures_util::stream;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::answer::{self, Body};
use super::error::RestError;
use super::hub::{Hub, broken};
use super::now;
use super::request;
use super::serve::{Asked, refuse_elsewhere};
use crate::sas::{KeyMark, Rights, Token};
use crate::telemetry::{Cursor, Page, Stored};

/// Events of a page, when the caller says nothing, and at most.
const PAGE_LEN: (usize, usize) = (100, 1000);

/// Longest wait for a first event, in seconds: what proxies bear.
const WAIT_SECONDS_MAX: usize = 60;

/// A stream without events says that it is alive this often: what proxies bear.
const STREAM_ALIVE: Duration = Duration::from_secs(15);

/// Readers that wait or stream at once. Consumers are few; this bounds what a mistake in one of them costs.
pub(super) const READERS_MAX: usize = 256;

/// Whether the key by which a stream was opened is still one of the hub's is looked at this often.
const KEYS_LOOKED_AT_EVERY: Duration = Duration::from_millis(500);

/// Longest name of a consumer group.
const GROUP_LEN_MAX: usize = 64;

/// The cursor after the page.
const CURSOR: HeaderName = HeaderName::from_static("x-farshore-cursor");
/// How many events the cursor asked for that are no longer kept.
const MISSED: HeaderName = HeaderName::from_static("x-farshore-missed");

/// `GET /messages/events?group=NAME&cursor={…}&from=latest&max=N&wait=SECONDS`
///
/// JSON lines; with `Accept: text/event-stream` a stream whose ids are cursors, so that a browser resumes by itself.
///
/// Only the region that serves is read from: a reader of another would wait for what never comes there, and not learn that the hub
/// has moved.
pub(super) async fn read(hub: &Arc<Hub>, asked: &Asked) -> Result<Response<Body>, RestError> {
    refuse_elsewhere(hub.behind().serving())?;
    let cursor = cursor(hub, asked)?;
    let max = request::parameter(&asked.parts, "max")?;
    let max = request::number(max.as_deref(), "max", PAGE_LEN.0, PAGE_LEN.1)?;
    let accepts = asked.parts.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let place = hub.reader().ok_or_else(|| {
        RestError::throttled(
            "ThrottlingException",
            "256 readers wait for events already: end some, or ask without waiting",
        )
    });
    if accepts.contains("text/event-stream") {
        let token = Token::parse(request::authorization(&asked.parts)?);
        let by = token.ok().and_then(|token| KeyMark::of_token(&token, &hub.policies().ok()?, asked.now));
        let waiting = VecDeque::from([Bytes::from_static(b": farshore\n\n")]);
        let (hub, _place, until) = (Arc::clone(hub), place?, asked.until);
        return Ok(stream(Streaming { hub, _place, cursor, max, until, by, waiting }));
    }
    let wait = match request::parameter(&asked.parts, "wait")?.as_deref() {
        None | Some("0") => 0,
        Some(wait) => request::number(Some(wait), "wait", 0, WAIT_SECONDS_MAX)?,
    };
    // Whoever does not wait needs no place.
    let _place = if wait > 0 { Some(place?) } else { None };
    let deadline = Instant::now() + Duration::from_secs(wait as u64);
    let page = tokio::select! {
        page = next_page(hub, cursor, max, deadline) => page?,
        () = hub.behind().stopped() => return Err(moved(hub)),
    };
    Ok(lines(&page))
}

/// The hub has moved while a reader waited.
fn moved(hub: &Hub) -> RestError {
    refuse_elsewhere(hub.behind().serving()).err().unwrap_or_else(|| {
        RestError::unavailable("IotHubFailingOver", "the hub has just moved: ask again, by its name")
    })
}

/// Where to begin: said outright, or where the group stands, or at the oldest.
fn cursor(hub: &Hub, asked: &Asked) -> Result<Cursor, RestError> {
    let said = request::parameter(&asked.parts, "cursor")?;
    let resumed = request::header(&asked.parts, "last-event-id").map(str::to_owned);
    if let Some(text) = said.or(resumed) {
        return serde_json::from_str(&text)
            .map_err(|error| RestError::argument(format!("cursor must be like {{\"paris\":12}}: {error}")));
    }
    if let Some(name) = request::parameter(&asked.parts, "group")? {
        check_group(&name)?;
        if let Some(cursor) = hub.group(&name)? {
            return Ok(cursor);
        }
    }
    match request::parameter(&asked.parts, "from")?.as_deref() {
        None | Some("oldest") => Ok(Cursor::default()),
        Some("latest") => Ok(Cursor(hub.telemetry().ends())),
        Some(other) => Err(RestError::argument(format!("from is {other:?}: choose oldest or latest"))),
    }
}

/// The first page with events, or the last empty one before the deadline.
async fn next_page(hub: &Hub, mut cursor: Cursor, max: usize, deadline: Instant) -> Result<Page, RestError> {
    let mut is_woken = false;
    loop {
        let page = read_page(hub, &cursor, max).await?;
        let is_further = page.next != cursor;
        // Woken for nothing: the log is closed.
        if !page.events.is_empty() || !page.missed.is_empty() || (is_woken && !is_further) {
            return Ok(page);
        }
        cursor.clone_from(&page.next);
        // Duplicates were passed: what is behind them is asked for at once.
        is_woken = !is_further;
        if is_woken && tokio::time::timeout_at(deadline, hub.telemetry().grown(&cursor)).await.is_err() {
            return Ok(page);
        }
    }
}

async fn read_page(hub: &Hub, cursor: &Cursor, max: usize) -> Result<Page, RestError> {
    let (telemetry, cursor) = (hub.telemetry().clone(), cursor.clone());
    let reading = tokio::task::spawn_blocking(move || telemetry.read(&cursor, max));
    let page = reading
        .await
        .map_err(|error| RestError::server(format!("reading the telemetry log broke off: {error}")))?;
    page.map_err(|error| {
        tracing::error!(%error, "the telemetry log failed");
        RestError::server(format!("the telemetry log cannot be read: {error}"))
    })
}

fn lines(page: &Page) -> Response<Body> {
    let mut text = String::new();
    for event in &page.events {
        text.push_str(&view(event).to_string());
        text.push('\n');
    }
    let mut response = Response::new(answer::full(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer::set(&mut response, CURSOR, &cursor_text(&page.next));
    let missed: u64 = page.missed.values().sum();
    if missed > 0 {
        answer::set(&mut response, MISSED, &missed.to_string());
    }
    response
}

fn cursor_text(cursor: &Cursor) -> String {
    serde_json::to_string(cursor).expect("regions and numbers can always be written")
}

/// An event as JSON. A body that is text is text, one that says it is JSON is that; others are base64.
fn view(stored: &Stored) -> Value {
    let event = &stored.event;
    let is_json = event.system("$.ct").is_some_and(|kind| kind.contains("json"));
    let text = std::str::from_utf8(&event.body).ok();
    let parsed = if is_json { serde_json::from_slice::<Value>(&event.body).ok() } else { None };
    let (name, body) = match (parsed, text) {
        (Some(value), _) => ("body", value),
        (None, Some(text)) => ("body", text.into()),
        (None, None) => {
            use base64::Engine as _;
            ("bodyBase64", base64::engine::general_purpose::STANDARD.encode(&event.body).into())
        }
    };
    let system: Map<String, Value> =
        event.system.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let properties: Map<String, Value> =
        event.properties.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let mut view = json!({
        "region": stored.region,
        "offset": stored.offset,
        "epoch": stored.epoch,
        "late": stored.late,
        "enqueuedTime": event.enqueued.to_string(),
        "deviceId": event.key.device.as_str(),
        "generationId": &*event.generation,
        "systemProperties": system,
        "properties": properties,
        name: body,
    });
    if let Some(module) = &event.key.module {
        super::identity::extend(&mut view, json!({ "moduleId": module.as_str() }));
    }
    view
}

/// A stream that is being read.
struct Streaming {
    hub: Arc<Hub>,
    _place: OwnedSemaphorePermit,
    cursor: Cursor,
    max: usize,
    until: Moment,
    /// The key that signed the token.
    by: Option<KeyMark>,
    waiting: VecDeque<Bytes>,
}

/// Server-sent events until the token's time is over or its key is changed, the hub serves elsewhere, or the client goes.
fn stream(streaming: Streaming) -> Response<Body> {
    let frames = stream::unfold(streaming, |mut streaming| async move {
        let bytes = streaming.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), streaming))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Streaming {
    /// The next piece of the body; `None` ends it.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.waiting.pop_front() {
            return Some(bytes);
        }
        if now() > self.until {
            return None;
        }
        let deadline = Instant::now() + STREAM_ALIVE;
        let page = tokio::select! {
            page = next_page(&self.hub, self.cursor.clone(), self.max, deadline) => page.ok()?,
            () = self.hub.behind().stopped() => return None,
            () = self.is_shut_out() => return None,
        };
        if page.events.is_empty() && page.missed.is_empty() && Instant::now() < deadline {
            // Nothing, and nothing to wait for: the log is closed.
            return None;
        }
        if !page.missed.is_empty() {
            let missed = json!(page.missed);
            self.waiting.push_back(format!("event: missed\ndata: {missed}\n\n").into());
        }
        self.pass(&page);
        self.cursor = page.next;
        Some(self.waiting.pop_front().unwrap_or_else(|| Bytes::from_static(b": alive\n\n")))
    }

    /// Returns when the key that signed the token is no longer one of the hub's.
    async fn is_shut_out(&self) {
        let Some(by) = self.by else { return std::future::pending().await };
        // What cannot be read now is read again soon.
        while self.hub.policies().map_or(true, |policies| by.stands(&policies, Rights::SERVICE_CONNECT)) {
            tokio::time::sleep(KEYS_LOOKED_AT_EVERY).await;
        }
    }

    fn pass(&mut self, page: &Page) {
        let mut cursor = self.cursor.clone();
        for (index, stored) in page.events.iter().enumerate() {
            cursor.0.insert(stored.region.clone(), stored.offset + 1);
            let is_last = index + 1 == page.events.len();
            let id = cursor_text(if is_last { &page.next } else { &cursor });
            self.waiting.push_back(format!("id: {id}\nevent: telemetry\ndata: {}\n\n", view(stored)).into());
        }
    }
}

#[derive(Debug, Deserialize)]
struct CheckpointBody {
    group: String,
    cursor: Cursor,
}

/// `POST /messages/events/checkpoint {"group":"NAME","cursor":{"paris":12}}`
pub(super) async fn checkpoint(hub: &Hub, asked: &Asked) -> Result<Response<Body>, RestError> {
    let body: CheckpointBody = request::json(&asked.body)?;
    check_group(&body.group)?;
    hub.set_group(&body.group, body.cursor).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `GET /messages/events/groups`
pub(super) fn groups(hub: &Hub) -> Result<Response<Body>, RestError> {
    let groups: Vec<Value> =
        hub.groups()?.into_iter().map(|(name, cursor)| json!({ "group": name, "cursor": cursor })).collect();
    Ok(answer::json(&groups))
}

/// `DELETE /messages/events/groups/{name}`
pub(super) async fn forget(hub: &Hub, name: &str) -> Result<Response<Body>, RestError> {
    check_group(name)?;
    if hub.group(name)?.is_none() {
        return Err(RestError::not_found("GroupNotFound", format!("there is no consumer group {name:?}")));
    }
    hub.registry().delete_group(name).await.map_err(broken)?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

fn check_group(name: &str) -> Result<(), RestError> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '$');
    if name.is_empty() || name.len() > GROUP_LEN_MAX || !name.chars().all(is_known) {
        return Err(RestError::argument("a group is named by 1 to 64 letters, digits and -_.$"));
    }
    Ok(())
}
