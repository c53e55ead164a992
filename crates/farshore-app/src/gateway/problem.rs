//! The gateway's own answers: problems (RFC 9457) that say what to do.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::body::GatewayBody;

/// An answer that is a problem: `application/problem+json`, never kept by a cache.
#[must_use]
pub fn problem(status: StatusCode, detail: &str) -> Response<GatewayBody> {
    /// `error` repeats the detail: clients of mobile back ends show that member to their user.
    #[derive(Serialize)]
    struct Problem<'a> {
        title: &'a str,
        status: u16,
        detail: &'a str,
        error: &'a str,
    }
    let title = status.canonical_reason().unwrap_or("Problem");
    let said = Problem { title, status: status.as_u16(), detail, error: detail };
    // Four plain members always have a JSON form.
    let text = serde_json::to_vec(&said).unwrap_or_default();
    let mut response = Response::new(GatewayBody::whole(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 503: come again after `again`.
pub(super) fn unavailable(again: Duration, detail: &str) -> Response<GatewayBody> {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, detail);
    // Whole seconds, and never none: a client that came again at once would find the same.
    let seconds = again.as_secs() + u64::from(again.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}

/// A page for people.
pub(super) fn page(status: StatusCode, text: String) -> Response<GatewayBody> {
    let mut response = Response::new(GatewayBody::whole(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
