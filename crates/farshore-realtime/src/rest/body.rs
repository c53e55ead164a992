//! The body of a call: read with a bound and a deadline, then taken for what its content type says.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::RestError;
use super::operation::{group_name, parse_filter};
use crate::filter::Filter;
use crate::frames::Data;
use crate::names::GroupName;

/// The largest message: the contract's.
pub const BODY_LEN_MAX: usize = 1024 * 1024;
/// A megabyte over a bad mobile network takes less; who sends slower holds a task of ours for nothing.
pub const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// The most groups in one call: each is looked up for each connection while the hub waits.
pub const GROUPS_MAX: usize = 1_000;
/// As much of a content type as an error repeats.
const SHOWN_LEN_MAX: usize = 64;

/// What a message can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Text,
    Binary,
}

/// Reads the whole body of a call that needs one.
pub(super) async fn read<B>(headers: &HeaderMap, body: B) -> Result<Bytes, RestError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    check_length(headers)?;
    let whole = tokio::time::timeout(BODY_WAIT_MAX, Limited::new(body, BODY_LEN_MAX).collect());
    match whole.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(length("the body is longer than it says")),
        Ok(Err(error)) => Err(RestError::bad("body", format!("the body broke off: {error}"))),
        Err(_) => Err(RestError::TooSlow { seconds: BODY_WAIT_MAX.as_secs() }),
    }
}

/// The length must be told in advance, so that a message that is too big is refused before it is on its way.
fn check_length(headers: &HeaderMap) -> Result<(), RestError> {
    let Some(value) = headers.get(CONTENT_LENGTH) else {
        return Err(length("say how long the body is"));
    };
    match value.to_str().ok().and_then(|text| text.parse::<usize>().ok()) {
        Some(len) if len <= BODY_LEN_MAX => Ok(()),
        Some(_) => Err(length("the body may have 1048576 bytes at most")),
        None => Err(length("it is not a number")),
    }
}

fn length(why: &str) -> RestError {
    RestError::bad("Content-Length", format!("Invalid Content-Length header: {why}."))
}

/// What the content type says that the body is. Without one it is bytes.
pub(super) fn kind(headers: &HeaderMap) -> Result<Kind, RestError> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Kind::Binary) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let refused = || RestError::MediaType(shown(&text));
    let mut parts = text.split(';').map(str::trim);
    let kind = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "application/octet-stream" => return Ok(Kind::Binary),
        "application/json" => Kind::Json,
        "text/plain" => Kind::Text,
        _ => return Err(refused()),
    };
    if parts.all(is_utf8) { Ok(kind) } else { Err(refused()) }
}

/// The beginning of a content type, for an error.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_LEN_MAX).collect()
}

/// Whether a parameter of a content type leaves it UTF-8, as everything is that is not said to be otherwise.
fn is_utf8(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return true };
    let value = value.trim().trim_matches('"').to_ascii_lowercase();
    !name.trim().eq_ignore_ascii_case("charset")
        || matches!(value.as_str(), "" | "utf-8" | "utf8" | "us-ascii")
}

/// The data of a message.
pub(super) fn data(kind: Kind, body: Bytes) -> Result<Data, RestError> {
    match kind {
        Kind::Binary => Ok(Data::Binary(body)),
        Kind::Text => {
            text(&body)?;
            Ok(Data::Text(body))
        }
        Kind::Json => {
            serde_json::from_str::<IgnoredAny>(text(&body)?).map_err(|bad| not_json(&bad))?;
            Ok(Data::Json(body))
        }
    }
}

fn text(body: &[u8]) -> Result<&str, RestError> {
    std::str::from_utf8(body).map_err(|_| RestError::bad("body", "The request body is not valid UTF-8."))
}

fn not_json(bad: &serde_json::Error) -> RestError {
    RestError::bad("body", format!("The request body is not a valid JSON: {bad}."))
}

/// The body of `:addToGroups` and `:removeFromGroups`.
#[derive(Deserialize)]
struct GroupsBody {
    groups: Vec<String>,
    filter: Option<String>,
}

/// Which groups, and which connections; no filter: all of them.
pub(super) async fn groups<B>(
    headers: &HeaderMap,
    body: B,
) -> Result<(Vec<GroupName>, Option<Filter>), RestError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if kind(headers)? != Kind::Json {
        let told = headers.get(CONTENT_TYPE).map(|value| shown(&String::from_utf8_lossy(value.as_bytes())));
        return Err(RestError::NotJson(told.unwrap_or_default()));
    }
    let body = read(headers, body).await?;
    let body: GroupsBody = serde_json::from_str(text(&body)?).map_err(|bad| not_json(&bad))?;
    if body.groups.is_empty() || body.groups.len() > GROUPS_MAX {
        return Err(RestError::bad(
            "groups",
            format!("A list of 1 to {GROUPS_MAX} group names is required."),
        ));
    }
    let groups = body.groups.iter().map(|name| group_name(name)).collect::<Result<_, _>>()?;
    let filter = body.filter.as_deref().filter(|text| !text.is_empty()).map(parse_filter).transpose()?;
    Ok((groups, filter))
}

#[cfg(test)]
mod tests;
