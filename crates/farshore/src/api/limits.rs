//! What is refused whoever asks: too much, too often, or sent by a page of somebody else. And what every answer says to
//! browsers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{Extensions, HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::body::{len_max, too_large};
use super::problem::Problem;
use crate::access::throttle::{Buckets, Rate, client_of};

/// A token, names and what proxies add, many times.
const HEADERS_LEN_MAX: usize = 16 * 1024;
/// The same, counted.
const HEADERS_MAX: usize = 64;
/// The longest path is two names of 63 characters; a query is short.
const URI_LEN_MAX: usize = 4 * 1024;
/// Requests of one token, and of one address. A program that asks all day, or makes ten thousand items one by one, stays
/// below; one that ran wild does not take the node's processor for ever from those who recover something.
const REQUESTS: Rate = Rate { per_second: 2_000.0, burst: 20_000.0 };

/// Who has asked how often.
#[derive(Debug)]
pub(super) struct Limits {
    by_address: Mutex<Buckets<IpAddr>>,
    by_token: Mutex<Buckets<String>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { by_address: Mutex::new(Buckets::new(REQUESTS)), by_token: Mutex::new(Buckets::new(REQUESTS)) }
    }
}

impl Limits {
    /// A request from the address.
    pub(super) fn request(&self, address: IpAddr) -> Result<(), Duration> {
        locked(&self.by_address).take(address, Instant::now())
    }

    /// A request of a token's holder.
    pub(super) fn holder(&self, name: &str) -> Result<(), Duration> {
        locked(&self.by_token).take(name.to_owned(), Instant::now())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A bucket that a panic left behind is off by one at most.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the request comes from. Where nobody says, all come from one place.
pub(super) fn address(extensions: &Extensions) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    client_of(peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip()))
}

/// `429`, and when to come back.
pub(super) fn too_often(what: &str, wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let detail = format!("{what}: try again in {seconds} s");
    let mut response = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-often", detail).into_response();
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Refuses what is too long, and what a browser sends for a page of somebody else.
pub(super) async fn within(request: Request, next: Next) -> Response {
    let host = request.uri().authority().map(ToString::to_string);
    match size(&request).and_then(|()| origin(request.method(), request.headers(), host.as_deref())) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn size(request: &Request) -> Result<(), Problem> {
    let uri = request.uri();
    let uri_len = uri.path().len() + uri.query().map_or(0, str::len);
    if uri_len > URI_LEN_MAX {
        let detail = format!("path and query have at most {URI_LEN_MAX} bytes");
        return Err(Problem::new(StatusCode::URI_TOO_LONG, "too-large", detail));
    }
    let headers = request.headers();
    let headers_len: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() > HEADERS_MAX || headers_len > HEADERS_LEN_MAX {
        let detail =
            format!("a request has at most {HEADERS_MAX} headers and {HEADERS_LEN_MAX} bytes of them");
        return Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too-large", detail));
    }
    let body_len = headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    match body_len {
        Some(len) if len > len_max(uri.path()) as u64 => Err(too_large(len_max(uri.path()))),
        _ => Ok(()),
    }
}

/// A browser says for whom it asks. Programs say nothing, and have no pages that could be made to ask for them. `host` is
/// what HTTP/2 says in place of the header.
fn origin(method: &Method, headers: &HeaderMap, host: Option<&str>) -> Result<(), Problem> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let own = match text(&SEC_FETCH_SITE) {
        Some(site) => matches!(site, "same-origin" | "none"),
        None => match text(&ORIGIN) {
            Some(origin) => match (origin.split_once("://"), text(&HOST).or(host)) {
                (Some((_, origin)), Some(host)) => origin.eq_ignore_ascii_case(host),
                _ => false,
            },
            None => true,
        },
    };
    if own {
        return Ok(());
    }
    let detail = "a page of another site may not change anything here: open the control plane's own address";
    Err(Problem::new(StatusCode::FORBIDDEN, "cross-site", detail))
}

/// What the browser says of where a request comes from; pages cannot set it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What every answer says, unless it says something else itself: it is nobody's page, is not kept, and its type is
/// what it says.
pub(super) async fn harden(request: Request, next: Next) -> Response {
    const SAYS: [(HeaderName, &str); 6] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (CACHE_CONTROL, "no-store"),
    ];
    let mut response = next.run(request).await;
    for (name, value) in SAYS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, headers: &[(&'static str, &str)], expected: bool) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        assert_eq!(origin(&method, &headers, None).is_ok(), expected, "{method} {headers:?}");
    }

    #[test]
    fn only_a_page_of_our_own_may_change_something() {
        check(Method::POST, &[], true);
        check(Method::POST, &[("sec-fetch-site", "same-origin")], true);
        check(Method::POST, &[("sec-fetch-site", "none")], true);
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            check(method.clone(), &[("sec-fetch-site", "cross-site")], false);
            check(method.clone(), &[("sec-fetch-site", "same-site")], false);
            check(method.clone(), &[("host", "a:1"), ("origin", "https://b:1")], false);
            check(method.clone(), &[("host", "a:1"), ("origin", "null")], false);
            check(method, &[("origin", "https://a")], false);
        }
        check(Method::POST, &[("host", "a:1"), ("origin", "https://a:1")], true);
        check(Method::GET, &[("sec-fetch-site", "cross-site")], true);
        let over_http2: HeaderMap = [(ORIGIN, "https://a:1".parse().unwrap())].into_iter().collect();
        assert!(origin(&Method::POST, &over_http2, Some("a:1")).is_ok());
        assert!(origin(&Method::POST, &over_http2, Some("b:1")).is_err());
    }

    #[test]
    fn one_token_and_one_address_have_a_limit_each() {
        let limits = Limits::default();
        let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let asked = (0..200_000).take_while(|_| limits.request(one).is_ok()).count();
        assert!((10_000..200_000).contains(&asked), "{asked}");
        assert_eq!(limits.request(other), Ok(()));
        let asked = (0..200_000).take_while(|_| limits.holder("ada").is_ok()).count();
        assert!((10_000..200_000).contains(&asked), "{asked}");
        assert_eq!(limits.holder("ben"), Ok(()));
    }
}
