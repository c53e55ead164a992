//! What came with a request, read: query parameters, `If-Match`, the body within a limit and a deadline.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, IF_MATCH};
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;

use super::error::RestError;
use crate::percent;

/// Largest body: a hundred devices with full twins. What is smaller by contract is checked where it is used.
pub(super) const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A client that takes longer to send its body is gone or hostile.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Reads the whole body.
pub(super) async fn read<B>(body: B) -> Result<Bytes, RestError>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collected = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, BODY_BYTES_MAX).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(RestError::too_large("the body is larger than 8 MiB: use an import job"))
        }
        Ok(Err(error)) => Err(RestError::argument(format!("the body broke off: {error}"))),
        Err(_) => Err(RestError::argument("the body did not arrive within 30 s")),
    }
}

/// Reads a JSON object, and says where it is wrong.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, RestError> {
    // A list would be taken for the fields in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(RestError::argument("the body must be a JSON object"));
    }
    serde_json::from_slice(body)
        .map_err(|error| RestError::argument(format!("the body is not as expected: {error}")))
}

/// Which version the caller means to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// Nothing said.
    Absent,
    /// Whatever there is.
    Any,
    /// This one.
    Etag(String),
}

impl IfMatch {
    /// Reads the header: quoted or not, weak or not.
    pub(super) fn of(parts: &Parts) -> Self {
        parts.headers.get(IF_MATCH).and_then(|value| value.to_str().ok()).map_or(Self::Absent, Self::parse)
    }

    /// Reads an etag as SDKs and files write it.
    pub(super) fn parse(text: &str) -> Self {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text);
        match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text) {
            "*" => Self::Any,
            "" => Self::Absent,
            etag => Self::Etag(etag.to_owned()),
        }
    }

    /// Whether something with this etag is meant.
    pub(super) fn allows(&self, etag: &str) -> bool {
        match self {
            Self::Absent | Self::Any => true,
            Self::Etag(wanted) => wanted == etag,
        }
    }
}

/// The host that was asked: of the request line (HTTP/2) or the header.
pub(super) fn host(parts: &Parts) -> String {
    let header = || parts.headers.get(HOST).and_then(|value| value.to_str().ok());
    parts.uri.authority().map(|authority| authority.as_str()).or_else(header).unwrap_or_default().to_owned()
}

/// The token.
pub(super) fn authorization(parts: &Parts) -> Result<&str, RestError> {
    let value = parts.headers.get(AUTHORIZATION).ok_or_else(|| {
        RestError::unauthorized("the header Authorization with a shared access signature is missing")
    })?;
    value.to_str().map_err(|_| RestError::unauthorized("the header Authorization is not ASCII"))
}

/// A header's text.
pub(super) fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}

/// A query parameter, decoded; `+` is a space there.
pub(super) fn parameter(parts: &Parts, wanted: &str) -> Result<Option<String>, RestError> {
    for field in parts.uri.query().unwrap_or_default().split('&') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        if name.eq_ignore_ascii_case(wanted) {
            return percent::decode(&value.replace('+', " "))
                .map(Some)
                .map_err(|error| RestError::argument(format!("in the parameter {wanted} {error}")));
        }
    }
    Ok(None)
}

/// A number in a text, within limits: too much is taken as the most.
pub(super) fn number(
    text: Option<&str>,
    what: &str,
    default: usize,
    most: usize,
) -> Result<usize, RestError> {
    let Some(text) = text else { return Ok(default) };
    let number: usize = text
        .parse()
        .map_err(|_| RestError::argument(format!("{what} is {text:?}: a whole number is expected")))?;
    Ok(if number == 0 || number > most { most } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_come_in_many_writings() {
        for (text, expected) in [
            ("\"*\"", IfMatch::Any),
            ("*", IfMatch::Any),
            ("\"AAA=\"", IfMatch::Etag("AAA=".to_owned())),
            ("W/\"AAA=\"", IfMatch::Etag("AAA=".to_owned())),
            (" AAA= ", IfMatch::Etag("AAA=".to_owned())),
            ("\"\"", IfMatch::Absent),
            ("\"", IfMatch::Etag("\"".to_owned())),
        ] {
            assert_eq!(IfMatch::parse(text), expected, "{text}");
        }
        assert!(IfMatch::Etag("a".to_owned()).allows("a") && !IfMatch::Etag("a".to_owned()).allows("b"));
    }

    #[test]
    fn numbers_are_held_within_their_limits() {
        assert_eq!(number(None, "top", 5, 9).unwrap(), 5);
        assert_eq!(number(Some("7"), "top", 5, 9).unwrap(), 7);
        assert_eq!(number(Some("0"), "top", 5, 9).unwrap(), 9);
        assert_eq!(number(Some("70"), "top", 5, 9).unwrap(), 9);
        assert!(number(Some("-1"), "top", 5, 9).unwrap_err().message.contains("top is \"-1\""));
    }
}
