//! Errors as problem details (RFC 9457): what was wrong, where, and how to mend it.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use farshore_core::ids::InvalidName;
use farshore_core::store::ReadError;
use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

use crate::engine::SubmitError;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was not carried out. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A stable word for programs: `urn:farshore:problem:not-now`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The same for people, in short.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, where, and how to mend it.
    pub detail: String,
    /// The path of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The verbs that are possible instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub possible: Vec<String>,
    /// The job that is in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// What every route may answer instead, for the OpenAPI document.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(super) enum Refusals {
    /// The request is not well-formed; the detail names the field.
    #[response(status = 400, content_type = "application/problem+json")]
    Invalid(Problem),
    /// The bearer token is absent or wrong.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorised(Problem),
    /// The token's role is not enough, or a browser asks for a page of another site.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// There is no such item, region, job or name.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// It does not fit now; `possible` says what does.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Problem),
    /// The body is too long.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The body is not JSON by its content type.
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(Problem),
    /// The idempotency key was used for another request.
    #[response(status = 422, content_type = "application/problem+json")]
    KeyReused(Problem),
    /// Too many requests; `Retry-After` says when to come back.
    #[response(status = 429, content_type = "application/problem+json")]
    TooOften(Problem),
    /// A region gave an answer that is not known here.
    #[response(status = 502, content_type = "application/problem+json")]
    BadAnswer(Problem),
    /// The store, or the region that was asked, does not answer: try again.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

impl Problem {
    /// A problem of this kind.
    pub(crate) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            type_: format!("urn:farshore:problem:{code}"),
            title: title(status).to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            instance: None,
            possible: Vec::new(),
            job: None,
        }
    }

    /// What was sent can never be right.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", detail)
    }

    /// What was named does not exist.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// The last part of the type, for programs.
    #[must_use]
    pub fn code(&self) -> &str {
        self.type_.rsplit(':').next().unwrap_or_default()
    }
}

fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "The request is not valid",
        StatusCode::UNAUTHORIZED => "A valid token is needed",
        StatusCode::FORBIDDEN => "Another role is needed",
        StatusCode::NOT_FOUND => "There is no such thing",
        StatusCode::METHOD_NOT_ALLOWED => "This method is not possible here",
        StatusCode::CONFLICT => "It is not possible now",
        StatusCode::PAYLOAD_TOO_LARGE => "The body is too long",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "The body must be JSON",
        StatusCode::UNPROCESSABLE_ENTITY => "The idempotency key was used for another request",
        StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "The request is too long",
        StatusCode::TOO_MANY_REQUESTS => "Too many requests",
        StatusCode::BAD_GATEWAY => "A region gave an answer that is not known here",
        StatusCode::SERVICE_UNAVAILABLE => "The control plane cannot answer now",
        _ => "The request failed",
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The path is put in by the outermost layer, which alone knows it whole.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<InvalidName> for Problem {
    fn from(error: InvalidName) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store", error.to_string())
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let detail = error.to_string();
        match error {
            SubmitError::NotFound { .. } => Self::not_found(detail),
            SubmitError::Refused { code: code @ "no-such-point", .. } => {
                Self::new(StatusCode::NOT_FOUND, code, detail)
            }
            SubmitError::Refused { code, possible, .. } => Self {
                possible: possible.iter().map(ToString::to_string).collect(),
                ..Self::new(StatusCode::CONFLICT, code, detail)
            },
            SubmitError::Busy { job, .. } => {
                Self { job: Some(job.to_string()), ..Self::new(StatusCode::CONFLICT, "busy", detail) }
            }
            SubmitError::Invalid { .. } => Self::invalid(detail),
            SubmitError::IdempotencyMismatch { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", detail)
            }
            SubmitError::Unavailable { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "store", detail),
        }
    }
}
