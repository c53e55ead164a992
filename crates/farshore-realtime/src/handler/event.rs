//! One event as a request: CloudEvents 1.0 in binary mode, where the attributes are headers and the data is the body.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::setting::{Auth, SystemEvent};
use super::template::push_percent;
use crate::frames::{Data, Metadata};
use crate::names::{ConnectionId, EventName, HubName, UserId};
use crate::token::{self, AccessKeys};

/// The connection that an event is about.
#[derive(Debug, Clone, Copy)]
pub struct EventContext<'a> {
    /// Its hub.
    pub hub: &'a HubName,
    /// The connection.
    pub connection: &'a ConnectionId,
    /// Whose it is; nobody's, if it is anonymous.
    pub user: Option<&'a UserId>,
    /// What was agreed, or nothing for a simple client.
    pub subprotocol: Option<&'a str>,
    /// Sign the event.
    pub keys: &'a AccessKeys,
    /// This endpoint's host, with its port if it is not the default one.
    pub origin: &'a str,
    /// What handlers stored for this connection before.
    pub state: Option<&'a str>,
    /// 0 for connect, then 1, 2, …; the same when an event is sent again.
    pub event_id: u64,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    System(SystemEvent),
    User(&'a EventName),
}

impl Kind<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::System(event) => event.name(),
            Self::User(event) => event.as_str(),
        }
    }
    fn cloud_type(&self) -> String {
        match self {
            Self::System(event @ (SystemEvent::Joined | SystemEvent::Left)) => {
                format!("azure.webpubsub.gp.{}", event.name())
            }
            Self::System(event) => format!("azure.webpubsub.sys.{}", event.name()),
            Self::User(event) => format!("azure.webpubsub.user.{event}"),
        }
    }
}

/// The headers of one event. Official handlers ignore requests without `ce-awpsversion` and `WebHook-Request-Origin`.
pub(super) fn headers(
    context: &EventContext<'_>,
    kind: Kind<'_>,
    content_type: &'static str,
    auth: &Auth,
    time: jiff::Timestamp,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(18);
    let mut put = |name: &'static str, value: HeaderValue| {
        headers.insert(HeaderName::from_static(name), value);
    };
    put("ce-specversion", HeaderValue::from_static("1.0"));
    put("ce-awpsversion", HeaderValue::from_static("1.0"));
    put("webhook-request-origin", header_value(context.origin));
    put("ce-type", header_value(&kind.cloud_type()));
    put("ce-source", header_value(&format!("/hubs/{}/client/{}", context.hub, context.connection)));
    put("ce-id", HeaderValue::from(context.event_id));
    put("ce-time", header_value(&format!("{time:.3}")));
    put("ce-signature", header_value(&token::event_signature(context.connection, context.keys)));
    put("ce-connectionid", header_value(context.connection.as_str()));
    put("ce-hub", header_value(context.hub.as_str()));
    put("ce-eventname", header_value(kind.name()));
    if let Some(user) = context.user {
        put("ce-userid", header_value(user.as_str()));
    }
    if let Some(subprotocol) = context.subprotocol {
        put("ce-subprotocol", header_value(subprotocol));
    }
    if let Some(state) = context.state.filter(|state| !state.is_empty()) {
        put("ce-connectionstate", state_value(state));
    }
    authorize(&mut headers, auth);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

/// Adds what the handler knows us by.
pub(super) fn authorize(headers: &mut HeaderMap, auth: &Auth) {
    if let Auth::Bearer(token) = auth {
        let mut value = header_value(&format!("Bearer {}", token.expose()));
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
}

/// Headers of metadata begin so; the rest is the key, in lower case.
pub(super) const METADATA_PREFIX: &str = "x-webpubsub-metadata-";

/// Adds the texts that a client sent beside its event. They have passed `check_metadata`, so none is left out.
pub(super) fn add_metadata(headers: &mut HeaderMap, metadata: &Metadata) {
    for (key, value) in metadata {
        if let Ok(name) = HeaderName::from_bytes(format!("{METADATA_PREFIX}{key}").as_bytes()) {
            headers.insert(name, header_value(value));
        }
    }
}

/// What it is called on the way to a handler, and its bytes as they are.
pub(super) fn content(data: &Data) -> (&'static str, &Bytes) {
    match data {
        Data::Text(bytes) => ("text/plain", bytes),
        Data::Json(bytes) => ("application/json", bytes),
        Data::Binary(bytes) => ("application/octet-stream", bytes),
        Data::Protobuf(bytes) => ("application/x-protobuf", bytes),
    }
}

/// A text as a header's value. Printable ASCII goes as it is, because official handlers do not decode. Anything else is
/// percent-encoded as the CloudEvents binding for HTTP says (3.1.3.2), so that no text can end the header or start another.
pub(super) fn header_value(text: &str) -> HeaderValue {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if printable && text.trim() == text {
        return HeaderValue::from_str(text).expect("printable ASCII is a header value");
    }
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            push_percent(byte, &mut encoded);
        }
    }
    HeaderValue::from_str(&encoded).expect("percent-encoded text is a header value")
}

/// A state goes back byte for byte as its handler gave it.
fn state_value(state: &str) -> HeaderValue {
    HeaderValue::from_bytes(state.as_bytes()).unwrap_or_else(|_| header_value(state))
}
