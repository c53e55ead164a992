//! For which URLs a token holds.
//!
//! The official clients put the URL that they call into `aud`, each in its own way: with the query or without, its
//! parameters in another order than they send them, escaped or not, with the scheme and port that they see on their
//! side of a gateway. All of these name the same endpoint.

/// Whether a token made for `audience` may be used for a request whose full URL is one of `urls`: the request's own and
/// the configured equivalents. Client tokens are checked with the same rule, with `…/client/hubs/HUB` as the URL.
///
/// Compared are host, port and path, without regard to ASCII case, each side as it is or percent-decoded. The query
/// does not count, nor a slash at the end, nor which of http, https, ws and wss it is, nor a default port spelled out.
#[must_use]
pub fn rest_audience_ok(audience: &str, urls: &[String]) -> bool {
    let Some(asked) = Place::of(audience) else { return false };
    urls.iter().filter_map(|url| Place::of(url)).any(|url| asked.is(&url))
}

/// Where a URL leads: host, port where it is not the scheme's own, path.
struct Place<'a> {
    host: &'a str,
    port: Option<&'a str>,
    path: &'a str,
}

impl<'a> Place<'a> {
    /// None for what is not an absolute URL of a scheme that is served.
    fn of(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let default_port = match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => "80",
            "https" | "wss" => "443",
            _ => return None,
        };
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = split_port(authority);
        if host.is_empty() {
            return None;
        }
        Some(Self { host, port: port.filter(|port| *port != default_port), path: path.trim_end_matches('/') })
    }

    fn is(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port == other.port
            && (self.path.eq_ignore_ascii_case(other.path) || decoded(self.path).eq(decoded(other.path)))
    }
}

/// Host and port of an authority. An IPv6 address has colons of its own, inside brackets.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    }
}

/// The bytes of a path after percent-decoding, in lower case. A `%` that starts no escape stands for itself.
fn decoded(path: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = path.as_bytes();
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high * 16 + low, after),
                _ => (b'%', &rest[1..]),
            },
            (byte, after) => (*byte, after),
        };
        rest = after;
        Some(byte.to_ascii_lowercase())
    })
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
