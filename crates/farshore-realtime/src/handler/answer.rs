//! What a handler answered, read without trust. Pure: status, headers and body in, a value or a reason out.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::event::METADATA_PREFIX;
use crate::frames::{Data, Metadata, check_metadata};
use crate::names::{GroupName, UserId};

/// Longest state of a connection. It travels in a header with each event, and common servers refuse more than 16 KiB of headers.
pub const STATE_LEN_MAX: usize = 8 * 1024;
/// Longest body of a refusal that is passed on to the client; a longer one is left out.
pub const REFUSAL_LEN_MAX: usize = 64 * 1024;

/// What the connect handler decided for a client that may come in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectAnswer {
    /// Another user than the token's; `None`: as the token says.
    pub user: Option<UserId>,
    /// Groups that the connection is in from the start.
    pub groups: Vec<GroupName>,
    /// Further roles.
    pub roles: Vec<String>,
    /// One of those that the client offered; `None`: the service chooses.
    pub subprotocol: Option<String>,
    /// To be sent with each later event; `None`: as it was, empty: none any more.
    pub state: Option<String>,
}

/// The client may not come in: what it is told before the upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 4xx or 5xx.
    pub status: u16,
    /// The handler's own words, or ours if it did not get to speak.
    pub body: Bytes,
    /// Of the body, as the handler named it.
    pub content_type: Option<String>,
}

/// What a handler says to a client's event.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventAnswer {
    /// A message from the server to this client.
    pub data: Option<Data>,
    /// Goes with the message (`X-WebPubSub-Metadata-*`).
    pub metadata: Metadata,
    /// To be sent with each later event; `None`: as it was, empty: none any more.
    pub state: Option<String>,
}

/// An answer as it came, its body already bounded.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why an answer means nothing, as advice to who wrote the handler.
pub(super) type Rubbish = String;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ConnectBody {
    user_id: Option<String>,
    groups: Option<Vec<String>>,
    roles: Option<Vec<String>>,
    subprotocol: Option<String>,
}

/// Reads the 2xx answer to a connect event. `offered`: the client's subprotocols.
pub(super) fn connect(raw: &Raw, offered: &[String]) -> Result<ConnectAnswer, Rubbish> {
    let body = connect_body(&raw.body)?;
    let user = match body.user_id.as_deref() {
        None | Some("") => None,
        Some(user) => Some(UserId::parse(user).map_err(|error| format!("userId: {error}"))?),
    };
    let groups = body.groups.unwrap_or_default();
    let groups: Result<Vec<GroupName>, _> = groups.iter().map(|group| GroupName::parse(group)).collect();
    let subprotocol = body.subprotocol.filter(|chosen| !chosen.is_empty());
    if let Some(chosen) = subprotocol.as_deref().filter(|chosen| !offered.iter().any(|one| one == chosen)) {
        let chosen: String = chosen.chars().take(64).collect();
        return Err(format!("subprotocol {chosen:?} is none of those that the client offers"));
    }
    Ok(ConnectAnswer {
        user,
        groups: groups.map_err(|error| format!("groups: {error}"))?,
        roles: body.roles.unwrap_or_default(),
        subprotocol,
        state: state(&raw.headers)?,
    })
}

fn connect_body(body: &[u8]) -> Result<ConnectBody, Rubbish> {
    if body.is_empty() {
        return Ok(ConnectBody::default());
    }
    // An array would be read as the fields in order.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err("the body is an array: answer with the JSON object {userId, groups, roles, subprotocol}"
            .to_owned());
    }
    // Without the text of the error: it may repeat what the body says.
    let read: Result<Option<ConnectBody>, _> = serde_json::from_slice(body);
    let body = read.map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        format!("the body is not the JSON object {{userId, groups, roles, subprotocol}} ({place})")
    })?;
    Ok(body.unwrap_or_default())
}

/// What a client is told that the handler did not let in.
pub(super) fn refusal(raw: &Raw) -> Refusal {
    let told = raw.status.is_client_error() || raw.status.is_server_error();
    if !told {
        return Refusal::ours(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The connect event handler gave no answer that can be used.",
        );
    }
    let content_type = raw.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Refusal {
        status: raw.status.as_u16(),
        body: raw.body.clone(),
        content_type: content_type.map(str::to_owned),
    }
}

impl Refusal {
    pub(super) fn ours(status: StatusCode, text: &'static str) -> Self {
        let content_type = Some("text/plain".to_owned());
        Self { status: status.as_u16(), body: Bytes::from_static(text.as_bytes()), content_type }
    }
}

/// Reads the 2xx answer to a client's event.
pub(super) fn event(raw: &Raw) -> Result<EventAnswer, Rubbish> {
    Ok(EventAnswer { data: data(raw)?, metadata: metadata(&raw.headers)?, state: state(&raw.headers)? })
}

fn data(raw: &Raw) -> Result<Option<Data>, Rubbish> {
    if raw.body.is_empty() || raw.status == StatusCode::NO_CONTENT {
        return Ok(None);
    }
    let body = raw.body.clone();
    let text = || match std::str::from_utf8(&raw.body) {
        Ok(_) => Ok(raw.body.clone()),
        Err(error) => Err(format!("the body is not UTF-8 from byte {} on", error.valid_up_to())),
    };
    match media_type(&raw.headers)?.as_str() {
        "" | "text/plain" => Ok(Some(Data::Text(text()?))),
        "application/json" => {
            let body = text()?;
            let read: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&body);
            read.map_err(|error| {
                format!("the body is not JSON (line {}, column {})", error.line(), error.column())
            })?;
            Ok(Some(Data::Json(body)))
        }
        "application/octet-stream" => Ok(Some(Data::Binary(body))),
        "application/x-protobuf" => Ok(Some(Data::Protobuf(body))),
        other => {
            let other: String = other.chars().take(64).collect();
            Err(format!(
                "content type {other:?}: use text/plain, application/json or application/octet-stream"
            ))
        }
    }
}

/// In lower case and without parameters; empty if there is none.
fn media_type(headers: &HeaderMap) -> Result<String, Rubbish> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(String::new());
    };
    let value = value.to_str().map_err(|_| "the content type is not ASCII".to_owned())?;
    Ok(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Of several with one key the last counts.
fn metadata(headers: &HeaderMap) -> Result<Metadata, Rubbish> {
    let mut metadata = Metadata::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(METADATA_PREFIX) else { continue };
        let value = value.to_str().map_err(|_| format!("the header {name:.64} is not ASCII"))?;
        metadata.insert(key.to_owned(), value.to_owned());
    }
    check_metadata(&metadata)?;
    Ok(metadata)
}

/// The last one counts if there are several.
fn state(headers: &HeaderMap) -> Result<Option<String>, Rubbish> {
    let Some(value) = headers.get_all("ce-connectionstate").iter().next_back() else {
        return Ok(None);
    };
    if value.len() > STATE_LEN_MAX {
        return Err(format!(
            "ce-connectionState has {} bytes: at most {STATE_LEN_MAX} are kept",
            value.len()
        ));
    }
    match std::str::from_utf8(value.as_bytes()) {
        Ok(state) => Ok(Some(state.to_owned())),
        Err(_) => Err("ce-connectionState is not UTF-8: encode it with base64".to_owned()),
    }
}
