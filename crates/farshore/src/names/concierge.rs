//! The concierge: where a name's clients go, over HTTP. Needs no token; what it says is signed instead.

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use farshore_core::workload::Endpoint;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, header};
use super::directory::Directory;
use super::signature::{ALGORITHM, SIGNATURE_HEADER};
use crate::api::Problem;
use crate::engine::now;

/// The header that says since when an answer may be outdated.
pub const STALE_HEADER: &str = "farshore-stale-since";

/// Where a name is, as far as the signature covers it. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerView {
    /// The name: `web-1.machine`.
    pub name: String,
    /// The item.
    pub item: String,
    /// Which life of the control plane's store; compared before the epoch.
    pub incarnation: u64,
    /// The epoch under which the endpoints serve.
    pub epoch: u64,
    /// The region that serves it.
    pub active: String,
    /// Where.
    pub endpoints: Vec<EndpointView>,
    /// For how many seconds the answer may be kept.
    pub ttl: u32,
    /// Since when it is so.
    pub since: String,
    /// The answer must not be used after this.
    pub not_after: String,
    /// Ask again after so many seconds.
    pub poll_after: f64,
}

/// A part of an item, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Which part: a disk's name, `http`.
    pub name: String,
    /// Where.
    pub uri: String,
}

impl From<&Endpoint> for EndpointView {
    fn from(endpoint: &Endpoint) -> Self {
        Self { name: endpoint.name.clone(), uri: endpoint.uri.clone() }
    }
}

/// The keys that answers are signed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysView {
    /// One, today.
    pub keys: Vec<KeyView>,
}

/// A key that answers are signed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The short name that signatures carry.
    pub id: String,
    /// `ed25519`.
    pub algorithm: String,
    /// The public key's 32 bytes in base64.
    pub public: String,
}

/// `/concierge/v1/…`: open to everybody.
pub fn router(directory: Directory) -> Router {
    Router::new()
        .route("/concierge/v1/keys", get(keys))
        .route("/concierge/v1/{name}", get(show))
        .with_state(directory)
}

async fn keys(State(directory): State<Directory>) -> Json<KeysView> {
    let public = directory.key().public();
    let key =
        KeyView { id: public.id().to_owned(), algorithm: ALGORITHM.to_owned(), public: public.to_base64() };
    Json(KeysView { keys: vec![key] })
}

async fn show(State(directory): State<Directory>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let view = directory.view();
    let stale = view.stale.map(|since| header(&since.to_string()));
    let Some(entry) = view.entries.get(name.as_str()) else {
        return with_stale(unknown(&name, view.is_known()).into_response(), stale);
    };
    let now = now();
    let tag = entry.tag_at(now);
    if headers.get_all(IF_NONE_MATCH).iter().any(|held| matches(held, &tag)) {
        let kept = [(ETAG, tag), (CACHE_CONTROL, entry.cache_control())];
        return with_stale((StatusCode::NOT_MODIFIED, kept).into_response(), stale);
    }
    let Answer { body, signature, tag, cache_control } =
        entry.answer(directory.key(), now, rand::random_range(0..usize::MAX));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, cache_control),
        (ETAG, tag),
        (HeaderName::from_static(SIGNATURE_HEADER), signature),
    ];
    with_stale((headers, body).into_response(), stale)
}

fn with_stale(mut response: Response, stale: Option<HeaderValue>) -> Response {
    if let Some(since) = stale {
        response.headers_mut().insert(HeaderName::from_static(STALE_HEADER), since);
    }
    response
}

fn unknown(name: &str, directory_is_known: bool) -> Problem {
    // What anybody sends is not repeated at length.
    let name: String = name.chars().take(100).collect();
    if directory_is_known {
        let detail = format!("the directory has no name {name:?}: names are NAME.KIND, as in web-1.machine");
        return Problem::new(StatusCode::NOT_FOUND, "not-found", detail);
    }
    let detail = "this node has not reached the store since it was made, so it knows no names: ask another control node";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
}

/// RFC 9110: a list of tags, or `*`; compared weakly.
fn matches(held: &HeaderValue, tag: &HeaderValue) -> bool {
    let opaque = |text: &str| text.trim().trim_start_matches("W/").to_owned();
    let (Ok(held), Ok(tag)) = (held.to_str(), tag.to_str()) else { return false };
    let tag = opaque(tag);
    held.split(',').any(|one| one.trim() == "*" || opaque(one) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly() {
        let tag = HeaderValue::from_static("W/\"abc-1\"");
        for (held, expected) in [
            ("W/\"abc-1\"", true),
            ("\"abc-1\"", true),
            ("\"x\", W/\"abc-1\"", true),
            ("*", true),
            ("W/\"abc-2\"", false),
            ("", false),
        ] {
            assert_eq!(matches(&HeaderValue::from_static(held), &tag), expected, "{held}");
        }
    }
}
