//! The directory's arithmetic: which of two records is the newer, how long an answer holds, what a zone's serial is.
//!
//! Read in this order: [`verdict`] (a record may only go forward), [`answer_ttl`], [`Window`] (how long a signature
//! holds), [`Serial`] (RFC 1982), [`Place`] (where a URI leads).

use std::net::IpAddr;

use crate::ids::Token;
use crate::moment::Moment;

/// Shortest time that an answer may be kept: below it, resolvers of whole companies would ask for each connection.
pub const TTL_SECONDS_MIN: u32 = 5;
/// Longest time that an answer may be kept: clients find the new region within it.
pub const TTL_SECONDS_MAX: u32 = 30;

/// How long an answer may be kept, from what the record wishes.
#[must_use]
pub fn answer_ttl(wished_seconds: u32) -> u32 {
    wished_seconds.clamp(TTL_SECONDS_MIN, TTL_SECONDS_MAX)
}

/// A record's place in the history of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Under which it serves.
    pub token: Token,
    /// Since when.
    pub since: Moment,
}

/// What becomes of a record that is offered for a name that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It takes the place of the known one.
    Take,
    /// The known one stays: what is offered is from before it.
    Refuse,
}

/// A name never goes back to a lower token, except that it was deleted and made anew: then its epochs start again, and
/// its record was written later.
#[must_use]
pub fn verdict(known: Standing, offered: Standing) -> Verdict {
    let made_anew = offered.token.incarnation == known.token.incarnation && offered.since > known.since;
    if offered.token >= known.token || made_anew { Verdict::Take } else { Verdict::Refuse }
}

/// Length of a [`Window`]: an answer's signature is made at most once in it.
pub const WINDOW_SECONDS: u64 = 300;
/// How long an answer may still be used after its window ended. Long enough to mend all control nodes: what is
/// active goes on without them, and its clients must, too.
pub const GRACE_SECONDS: u64 = 900;

const MICROS_PER_SECOND: u64 = 1_000_000;

/// A span of wall-clock time in which answers to the same question are the same bytes on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window(u64);

impl Window {
    /// The one that `now` is in.
    #[must_use]
    pub fn at(now: Moment) -> Self {
        Self(now.0 / MICROS_PER_SECOND / WINDOW_SECONDS)
    }
    /// Its number since 1970.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
    /// Until when an answer of this window may be used.
    #[must_use]
    pub fn not_after(self) -> Moment {
        let end = self.0.saturating_add(1).saturating_mul(WINDOW_SECONDS);
        Moment(end.saturating_add(GRACE_SECONDS).saturating_mul(MICROS_PER_SECOND))
    }
}

/// Distance between the serials of two incarnations of a store: a restored store begins with other revisions, and the
/// serial rises nevertheless as long as they differ by less than this.
const SERIALS_PER_INCARNATION: u64 = 1 << 30;

/// A zone's serial number, with the order of RFC 1982.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial(pub u32);

impl Serial {
    /// The same on every node that has seen the same change.
    #[must_use]
    pub fn of(incarnation: u64, revision: u64) -> Self {
        let wide = incarnation.wrapping_mul(SERIALS_PER_INCARNATION).wrapping_add(revision);
        Self((wide & u64::from(u32::MAX)) as u32)
    }
    /// Whether it comes after `earlier`. Of two that are exactly half the circle apart neither does.
    #[must_use]
    pub fn is_after(self, earlier: Self) -> bool {
        let ahead = self.0.wrapping_sub(earlier.0);
        ahead != 0 && ahead < 1 << 31
    }
}

/// What an endpoint's host is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, in lower case.
    Name(String),
}

/// Where a URI leads, as far as DNS can say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The service: `nbd`, `https`.
    pub scheme: String,
    /// Where.
    pub host: Host,
    /// The port, given or usual for the scheme.
    pub port: Option<u16>,
}

impl Place {
    /// Reads a URI. `None`: it names no host that DNS could serve (a socket's path, for example).
    #[must_use]
    pub fn of(uri: &str) -> Option<Self> {
        let (scheme, rest) = uri.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let host_port = authority.rsplit('@').next()?;
        let (host, port) = split_port(host_port)?;
        let scheme = scheme.to_ascii_lowercase();
        if !is_label(&scheme.replace(['+', '.'], "-")) {
            return None;
        }
        let port = port.or_else(|| usual_port(&scheme));
        Some(Self { scheme: scheme.replace(['+', '.'], "-"), host: host_of(host)?, port })
    }
}

fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, after.strip_prefix(':').unwrap_or_default())
        }
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    if port.is_empty() {
        return Some((host, None));
    }
    Some((host, Some(port.parse().ok()?)))
}

fn host_of(text: &str) -> Option<Host> {
    if let Ok(address) = text.parse() {
        return Some(Host::Address(address));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let fits = name.len() <= 253 && name.split('.').all(is_label);
    fits.then_some(Host::Name(name))
}

/// Whether it can stand between two dots of a host's name.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn usual_port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "nbd" | "nbds" => 10809,
        "http" | "ws" => 80,
        "https" | "wss" => 443,
        "mqtt" => 1883,
        "mqtts" => 8883,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
