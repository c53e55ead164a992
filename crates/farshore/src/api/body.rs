//! Request bodies: JSON of a bounded length, whose errors name the field.

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use serde::de::DeserializeOwned;

use super::access::Caller;
use super::problem::Problem;
use crate::engine::Idempotency;
use crate::engine::records::sha256_hex;

/// Longest request body: a machine with a hundred disks fits many times.
pub(super) const BODY_LEN_MAX: usize = 64 * 1024;
/// The header that makes a POST repeatable.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What was asked, parsed, and by whom; in a body of at most `LEN_MAX` bytes.
#[derive(Debug)]
pub(super) struct Asked<T, const LEN_MAX: usize = BODY_LEN_MAX> {
    pub(super) body: T,
    pub(super) by: By,
}

/// Who asked, and the key under which it may be repeated.
#[derive(Debug)]
pub(super) struct By {
    pub(super) who: String,
    pub(super) idempotency: Option<Idempotency>,
}

impl<T: DeserializeOwned, S: Send + Sync, const LEN_MAX: usize> FromRequest<S> for Asked<T, LEN_MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let who = Caller::of(&parts)?.name;
        let bytes = to_bytes(body, LEN_MAX).await.map_err(|_| too_large(LEN_MAX))?;
        if !bytes.is_empty() {
            check_content_type(&parts.headers)?;
        }
        let idempotency = idempotency(&parts.headers, parts.method.as_str(), parts.uri.path(), &bytes)?;
        // No body means no parameters.
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        Ok(Self { body: parse(text)?, by: By { who, idempotency } })
    }
}

/// As much as a request to this path may bring.
pub(super) fn len_max(path: &str) -> usize {
    let is_import = path.starts_with("/api/v1/hubs/") && path.ends_with("/import");
    let is_upload = path.starts_with("/api/v1/apps/") && path.contains("/uploads/");
    match (is_import, is_upload) {
        (true, _) => super::hubs::IMPORT_LEN_MAX,
        (_, true) => super::apps::UPLOAD_LEN_MAX,
        _ => BODY_LEN_MAX,
    }
}

pub(super) fn too_large(len_max: usize) -> Problem {
    let detail = format!("a request body has at most {len_max} bytes here");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let sent = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let media = sent.split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = format!("the content type is {sent}: send application/json");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", detail))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // A list would be taken for the fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::invalid("the body is not a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value: T = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let at = error.path().to_string();
        let what = error.into_inner();
        Problem::invalid(match at.as_str() {
            // `?`: the text is not JSON, so there is no field to name.
            "." | "?" => format!("the body is not what this route takes: {what}"),
            _ => format!("{at}: {what}"),
        })
    })?;
    json.end().map_err(|error| Problem::invalid(format!("after the body: {error}")))?;
    Ok(value)
}

fn idempotency(
    headers: &HeaderMap,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<Option<Idempotency>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = key.to_str().map_err(|_| Problem::invalid("the idempotency key is not ASCII"))?;
    let mut asked = format!("{method} {path}\n").into_bytes();
    asked.extend_from_slice(body);
    Ok(Some(Idempotency { key: key.to_owned(), body_hash: sha256_hex(&asked) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::views::{CreateRequest, FailoverRequest};

    fn detail<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        parse::<T>(text.as_bytes()).unwrap_err().detail
    }

    #[test]
    fn an_error_names_the_field() {
        assert_eq!(
            detail::<FailoverRequest>(r#"{"planned": 3}"#),
            "planned: invalid type: integer `3`, expected a boolean at line 1 column 13"
        );
        let unknown = detail::<FailoverRequest>(r#"{"plannd": true}"#);
        assert!(
            unknown.starts_with("plannd: unknown field `plannd`, expected one of `planned`"),
            "{unknown}"
        );
        assert!(detail::<CreateRequest>(r#"{"kind":"machine"}"#).contains("missing field `name`"));
        assert!(detail::<FailoverRequest>("{").contains("EOF"));
        assert_eq!(detail::<FailoverRequest>("[true]"), "the body is not a JSON object");
        assert!(detail::<FailoverRequest>("{} {}").contains("after the body"));
    }

    #[test]
    fn a_key_belongs_to_one_path_and_body() {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, "k".parse().unwrap());
        let hash = |path, body: &[u8]| idempotency(&headers, "POST", path, body).unwrap().unwrap().body_hash;
        assert_eq!(hash("/a", b"{}"), hash("/a", b"{}"));
        assert_ne!(hash("/a", b"{}"), hash("/b", b"{}"));
        assert_ne!(hash("/a", b"{}"), hash("/a", b"{\"x\":1}"));
    }
}
