//! Answers as bytes.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::error::RestError;
use super::operation::{API_VERSIONS, Page};
use super::percent::encode;
use super::serve::ENDPOINTS;
use crate::hub::call::Member;

/// The code of an error, for programs that do not read bodies.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-ms-error-code");
/// Which versions of the interface there are.
const SUPPORTED_VERSIONS: HeaderName = HeaderName::from_static("api-supported-versions");

/// When to ask again after a 503: a region's death is noticed in a few of these.
const RETRY_AFTER_SECONDS: u64 = 1;

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// An answer of JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("our own views have text keys only");
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

/// `ErrorDetail` of the protocol.
#[derive(Serialize)]
struct ErrorView<'a> {
    code: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
}

/// What a refused caller is told.
pub(super) fn refusal(error: &RestError) -> Response<Full<Bytes>> {
    let view = ErrorView { code: error.code(), message: error.to_string(), target: error.target() };
    let mut response = json(error.status(), &view);
    let headers = response.headers_mut();
    headers.insert(ERROR_CODE, HeaderValue::from_static(error.code()));
    match error {
        RestError::Method { allowed, .. } => {
            let allowed = HeaderValue::from_str(&allowed.join(", ")).expect("names of methods are ASCII");
            headers.insert(ALLOW, allowed);
        }
        RestError::Unauthorized(_) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        RestError::NotServing(_) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        _ => {}
    }
    response
}

/// Says what each endpoint did. A report that cannot be a header is left out: it is news, not the answer.
pub(super) fn reported(mut response: Response<Full<Bytes>>, report: Option<&str>) -> Response<Full<Bytes>> {
    if let Some(report) = report.and_then(|report| HeaderValue::from_str(report).ok()) {
        response.headers_mut().insert(HeaderName::from_static(ENDPOINTS), report);
    }
    response
}

/// What every answer has, and an answer to HEAD has not.
pub(super) fn finish(method: &Method, mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let versions = HeaderValue::from_str(&API_VERSIONS.join(", ")).expect("dates are ASCII");
    response.headers_mut().insert(SUPPORTED_VERSIONS, versions);
    if method == Method::HEAD {
        *response.body_mut() = Full::default();
        response.headers_mut().remove(CONTENT_TYPE);
    }
    response
}

/// A page of members.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PageView<'a> {
    value: Vec<MemberView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_link: Option<String>,
}

/// One of them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberView<'a> {
    connection_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
}

/// The first `size` of `members`, and, if there are more and more are wanted, the link to the rest. `here` is the URL of
/// the request without its query.
pub(super) fn page(members: &[Member], size: usize, page: &Page, here: &str) -> Response<Full<Bytes>> {
    let shown = &members[..size.min(members.len())];
    let rest = page.top.map(|top| top.saturating_sub(u32::try_from(shown.len()).unwrap_or(u32::MAX)));
    let more = members.len() > size && rest != Some(0);
    let next_link = shown.last().filter(|_| more).map(|last| next_link(last, page.size, rest, here));
    let value = shown
        .iter()
        .map(|member| MemberView {
            connection_id: member.connection.as_str(),
            user_id: member.user.as_ref().map(|user| user.as_str()),
        })
        .collect();
    json(StatusCode::OK, &PageView { value, next_link })
}

fn next_link(last: &Member, size: u32, top: Option<u32>, here: &str) -> String {
    let version = API_VERSIONS[API_VERSIONS.len() - 1];
    let after = encode(last.connection.as_str());
    let top = top.map(|top| format!("&top={top}")).unwrap_or_default();
    format!("{here}?api-version={version}&maxpagesize={size}&continuationToken={after}{top}")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::names::{ConnectionId, GroupName, UserId};

    fn members(count: usize) -> Vec<Member> {
        (1..=count)
            .map(|n| Member {
                connection: ConnectionId::parse(&format!("c{n}")).unwrap(),
                user: (n % 2 == 0).then(|| UserId::parse("ann").unwrap()),
            })
            .collect()
    }

    #[tokio::test]
    async fn pages_say_who_and_where_to_go_on() {
        let wanted = |size, top| Page { group: GroupName::parse("g").unwrap(), size, top, after: None };
        for (count, size, top, expected) in [
            (0, 200, None, r#"{"value":[]}"#),
            (1, 200, None, r#"{"value":[{"connectionId":"c1"}]}"#),
            (2, 2, Some(2), r#"{"value":[{"connectionId":"c1"},{"connectionId":"c2","userId":"ann"}]}"#),
            (3, 2, Some(2), r#"{"value":[{"connectionId":"c1"},{"connectionId":"c2","userId":"ann"}]}"#),
            (
                2,
                1,
                None,
                r#"{"value":[{"connectionId":"c1"}],"nextLink":"http://h/p?api-version=2024-12-01&maxpagesize=1&continuationToken=c1"}"#,
            ),
            (
                2,
                1,
                Some(5),
                r#"{"value":[{"connectionId":"c1"}],"nextLink":"http://h/p?api-version=2024-12-01&maxpagesize=1&continuationToken=c1&top=4"}"#,
            ),
        ] {
            let page = page(&members(count), size as usize, &wanted(size, top), "http://h/p");
            let body = page.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(String::from_utf8_lossy(&body), expected, "{count} {size} {top:?}");
        }
    }

    #[test]
    fn a_report_that_is_no_header_is_left_out() {
        assert_eq!(reported(empty(StatusCode::OK), Some("a=done")).headers()[ENDPOINTS], "a=done");
        assert!(reported(empty(StatusCode::OK), Some("a\nb")).headers().is_empty());
        assert!(reported(empty(StatusCode::OK), None).headers().is_empty());
    }
}
