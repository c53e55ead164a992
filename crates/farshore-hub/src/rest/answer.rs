//! Answers as bytes.

use std::convert::Infallible;

use bytes::Bytes;
use farshore_core::moment::Moment;
use http::header::{CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;
use serde_json::json;

use super::error::RestError;

/// The body of an answer: whole, or a stream of events.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The code of an error, for programs that do not read bodies.
const ERROR_CODE: HeaderName = HeaderName::from_static("iothub-errorcode");

/// When to ask again after a 429 or 503: most failovers are over after a few of these.
const RETRY_AFTER_SECONDS: u64 = 2;

/// A whole body.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// An answer of JSON.
pub(super) fn json(body: &impl Serialize) -> Response<Body> {
    with_status(StatusCode::OK, body)
}

/// An answer of JSON with its etag.
pub(super) fn tagged(body: &impl Serialize, etag: &str) -> Response<Body> {
    let mut response = json(body);
    set(&mut response, ETAG, &format!("\"{etag}\""));
    response
}

/// Sets a header; text that cannot be one is left out: no header here is needed to understand the answer.
pub(super) fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// What a refused caller is told.
pub(super) fn refusal(error: &RestError, now: Moment) -> Response<Body> {
    let view = json!({ "Message": error.wire(), "ExceptionMessage": format!("Code:{} TimeStamp:{now}", error.code) });
    let mut response = with_status(error.status, &view);
    set(&mut response, ERROR_CODE, error.code);
    match error.status {
        StatusCode::UNAUTHORIZED => set(&mut response, WWW_AUTHENTICATE, "SharedAccessSignature"),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            set(&mut response, RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string());
        }
        _ => {}
    }
    response
}

fn with_status(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(body).expect("our own views have text keys only");
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}
