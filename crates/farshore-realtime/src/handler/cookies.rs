//! Cookies that handlers give to a connection, so that a balancer in front of them keeps sending it to the same place.
//!
//! Kept per connection, for the server (scheme, host and port) that set them; a `Domain` cannot widen that. Everything is
//! bounded; when it is full, the connection that was quiet for longest loses its cookies, which costs it only affinity.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use reqwest::Url;

use crate::names::ConnectionId;

/// Balancers and frameworks set one to three.
const COOKIES_PER_CONNECTION_MAX: usize = 16;
/// They travel with each event; common servers refuse more than 16 KiB of headers.
const BYTES_PER_CONNECTION_MAX: usize = 4 * 1024;
/// Of one node: 100,000 connections with a balancer's cookie of 300 bytes.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// The cookies of all connections of a node.
#[derive(Default)]
pub(super) struct Cookies {
    jars: Mutex<Jars>,
}

#[derive(Default)]
struct Jars {
    by_connection: HashMap<ConnectionId, Jar>,
    /// Which connection was used when; the first is the one that was quiet for longest.
    by_use: BTreeMap<u64, ConnectionId>,
    uses: u64,
    bytes: usize,
}

#[derive(Default)]
struct Jar {
    cookies: Vec<Cookie>,
    used: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cookie {
    origin: String,
    path: String,
    name: String,
    value: String,
    expires: Option<Timestamp>,
}

impl Cookies {
    /// The `Cookie` header of a request.
    pub(super) fn header(&self, connection: &ConnectionId, url: &Url, now: Timestamp) -> Option<HeaderValue> {
        let mut jars = self.lock();
        let jar = jars.by_connection.get(connection)?;
        let origin = url.origin().ascii_serialization();
        let pairs: Vec<String> = jar
            .cookies
            .iter()
            .filter(|cookie| cookie.origin == origin && path_matches(&cookie.path, url.path()))
            .filter(|cookie| cookie.expires.is_none_or(|expires| expires > now))
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        jars.touch(connection);
        let mut value = HeaderValue::from_str(&pairs.join("; ")).ok().filter(|_| !pairs.is_empty())?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Keeps what an answer sets. What cannot be read or kept is passed over: it is no reason to lose an event.
    pub(super) fn store(&self, connection: &ConnectionId, url: &Url, headers: &HeaderMap, now: Timestamp) {
        if !headers.contains_key(SET_COOKIE) {
            return;
        }
        let texts = headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
        let given: Vec<Cookie> =
            texts.take(COOKIES_PER_CONNECTION_MAX).filter_map(|text| read(text, url, now)).collect();
        let mut jars = self.lock();
        let mut jar = jars.take(connection);
        for cookie in given {
            jar.put(cookie, now);
        }
        jars.put(connection, jar);
    }

    /// A connection that is gone.
    pub(super) fn forget(&self, connection: &ConnectionId) {
        self.lock().take(connection);
    }

    fn lock(&self) -> MutexGuard<'_, Jars> {
        // Nothing is left half done between two statements that could panic: the jars are usable after a panic.
        self.jars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jars {
    fn take(&mut self, connection: &ConnectionId) -> Jar {
        let Some(jar) = self.by_connection.remove(connection) else {
            return Jar::default();
        };
        self.by_use.remove(&jar.used);
        self.bytes -= jar.bytes();
        jar
    }

    fn put(&mut self, connection: &ConnectionId, mut jar: Jar) {
        if jar.cookies.is_empty() {
            return;
        }
        self.uses += 1;
        jar.used = self.uses;
        self.bytes += jar.bytes();
        self.by_use.insert(jar.used, connection.clone());
        self.by_connection.insert(connection.clone(), jar);
        while self.bytes > BYTES_MAX {
            let Some((_, quiet)) = self.by_use.first_key_value() else { return };
            let quiet = quiet.clone();
            self.take(&quiet);
        }
    }

    fn touch(&mut self, connection: &ConnectionId) {
        let jar = self.take(connection);
        self.put(connection, jar);
    }
}

impl Jar {
    fn bytes(&self) -> usize {
        self.cookies.iter().map(Cookie::bytes).sum()
    }

    fn put(&mut self, cookie: Cookie, now: Timestamp) {
        self.cookies
            .retain(|kept| !kept.same_place(&cookie) && kept.expires.is_none_or(|expires| expires > now));
        let gone = cookie.expires.is_some_and(|expires| expires <= now);
        let full = self.cookies.len() >= COOKIES_PER_CONNECTION_MAX
            || self.bytes() + cookie.bytes() > BYTES_PER_CONNECTION_MAX;
        if !gone && !full {
            self.cookies.push(cookie);
        }
    }
}

impl Cookie {
    fn bytes(&self) -> usize {
        self.origin.len() + self.path.len() + self.name.len() + self.value.len()
    }
    fn same_place(&self, other: &Self) -> bool {
        self.origin == other.origin && self.path == other.path && self.name == other.name
    }
}

/// Reads one `Set-Cookie` (RFC 6265, 5.2). One that is to be deleted has expired.
fn read(text: &str, url: &Url, now: Timestamp) -> Option<Cookie> {
    let mut parts = text.split(';');
    let (name, value) = parts.next()?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() {
        return None;
    }
    let (mut path, mut expires, mut max_age) = (None, None, None);
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key.trim().to_ascii_lowercase().as_str() {
            "path" => path = Some(value.trim()).filter(|path| path.starts_with('/')),
            "max-age" => max_age = value.trim().parse::<i64>().ok().or(max_age),
            "expires" => expires = date(value.trim()).or(expires),
            _ => {}
        }
    }
    // What is too far off to be counted stays for as long as the connection.
    let after = |seconds: i64| now.checked_add(jiff::SignedDuration::from_secs(seconds)).ok();
    Some(Cookie {
        origin: url.origin().ascii_serialization(),
        path: path.unwrap_or_else(|| default_path(url.path())).to_owned(),
        name: name.to_owned(),
        value: value.to_owned(),
        expires: match max_age {
            Some(seconds) if seconds <= 0 => Some(Timestamp::UNIX_EPOCH),
            Some(seconds) => after(seconds),
            None => expires,
        },
    })
}

/// `Thu, 01 Jan 1970 00:00:00 GMT`.
fn date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

/// The folder that the request was for.
fn default_path(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(at) => &path[..at],
    }
}

/// RFC 6265, 5.1.4.
fn path_matches(cookie: &str, request: &str) -> bool {
    match request.strip_prefix(cookie) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || cookie.ends_with('/'),
        None => false,
    }
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let jars = self.lock();
        f.debug_struct("Cookies").field("connections", &jars.by_connection.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
