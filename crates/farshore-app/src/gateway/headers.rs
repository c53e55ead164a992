//! What of a head goes on, and what is for one connection only.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, HOST, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri, Version};
use hyper::upgrade::OnUpgrade;

use super::client::Client;

/// Says which region's gateway sent a request on. With it, a request is not sent on again.
pub(super) const HOP: HeaderName = HeaderName::from_static("farshore-forwarded-by");

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// How many headers a request gets on its way.
const TOLD: usize = 4;

/// A request asks for another protocol on its connection.
#[derive(Debug)]
pub(super) struct Upgrade {
    protocol: HeaderValue,
    /// The client's connection, once the answer has gone out.
    pub(super) client: OnUpgrade,
}

impl Upgrade {
    /// What the request asks for, if it may. HTTP/2 is no protocol to become: it would pass the gateway by.
    pub(super) fn asked<B>(request: &mut http::Request<B>) -> Option<Self> {
        let protocol = wanted(request.headers()).filter(|_| request.version() == Version::HTTP_11)?.clone();
        Some(Self { protocol, client: hyper::upgrade::on(request) })
    }
}

/// The request wants to speak something else on its connection, and not to be done with one answer.
pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    wanted(headers).is_some()
}

fn wanted(headers: &HeaderMap) -> Option<&HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let text = protocol.to_str().ok()?;
    let is_http = text.split(',').any(|one| one.trim().to_ascii_lowercase().starts_with("h2c"));
    (!is_http && has_token(headers, CONNECTION, "upgrade")).then_some(protocol)
}

/// Makes the head of a client's request into the one that is sent on by HTTP/1.1.
pub(super) fn send_on(
    head: &mut Parts,
    client: &Client,
    hop: Option<&HeaderValue>,
    upgrade: Option<&Upgrade>,
) {
    let trailers = has_token(&head.headers, TE, "trailers");
    strip(&mut head.headers);
    head.headers.remove(EXPECT);
    head.headers.remove(PROXY_AUTHORIZATION);
    name_host(head);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    join_cookies(&mut head.headers);
    let headers = &mut head.headers;
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade.protocol.clone());
    }
    tell_client(headers, client);
    match hop {
        Some(region) => drop(headers.insert(HOP, region.clone())),
        None => drop(headers.remove(HOP)),
    }
}

/// Makes the head of an instance's answer into the one that a client gets.
pub(super) fn send_back(head: &mut http::response::Parts) {
    let protocol = head.headers.get(UPGRADE).filter(|_| head.status.is_informational()).cloned();
    strip(&mut head.headers);
    head.headers.remove(PROXY_AUTHENTICATE);
    head.version = Version::HTTP_11;
    if let Some(protocol) = protocol {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol);
    }
}

/// Takes away what is for one connection only.
fn strip(headers: &mut HeaderMap) {
    if let Entry::Occupied(connection) = headers.entry(CONNECTION) {
        let named: Vec<HeaderName> =
            connection.remove_entry_mult().1.flat_map(|value| named(&value)).collect();
        named.iter().for_each(|name| drop(headers.remove(name)));
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// The headers that a header `Connection` names. Whom a request is for and how long it is are nobody's to take away.
fn named(value: &HeaderValue) -> Vec<HeaderName> {
    let text = value.to_str().unwrap_or_default();
    let names = text.split(',').filter_map(|name| HeaderName::try_from(name.trim()).ok());
    names.filter(|name| ![HOST, CONTENT_LENGTH].contains(name) && name != "close").collect()
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// HTTP/1.1 says in a header whom a request is for, and in the target only what.
fn name_host(head: &mut Parts) {
    let Some(authority) = head.uri.authority() else { return };
    let text = authority.as_str();
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    if let Ok(host) = HeaderValue::from_str(host) {
        head.headers.insert(HOST, host);
    }
    head.uri = head.uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
}

/// HTTP/2 may send cookies one by one, HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Where the client is and how it came. Addresses that were told before stay in front of the one that is known.
fn tell_client(headers: &mut HeaderMap, client: &Client) {
    // At once: it was made for what came.
    headers.reserve(TOLD);
    let address = match headers.get(FOR) {
        None => client.address.clone(),
        Some(before) => {
            let both = [before.as_bytes(), b", ", client.address.as_bytes()].concat();
            HeaderValue::from_bytes(&both).unwrap_or_else(|_| client.address.clone())
        }
    };
    headers.insert(FOR, address);
    // The gateway that sent it on knows better.
    if !(headers.contains_key(HOP) && headers.contains_key(PROTO)) {
        headers.insert(PROTO, HeaderValue::from_static(if client.tls { "https" } else { "http" }));
    }
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
}
