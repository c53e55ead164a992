//! Where an event is sent: a URL with `{hub}` and `{event}` in it.
//!
//! The template is an operator's, the event name is a client's. So the name is percent-encoded before it is put in, it may
//! never stand in the part that chooses the server, and what comes out is parsed again and checked.

use reqwest::Url;

/// Longest template. Servers commonly refuse longer request lines, and it is repeated in each hub's settings.
pub const TEMPLATE_LEN_MAX: usize = 2_048;

/// The event that a template is checked with before the first real one; clients cannot tell it from any other.
pub(super) const VALIDATE_EVENT: &str = "validate";

/// A URL template that cannot be used, and what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// Too long to be meant.
    #[error("the URL template has {len} bytes: at most {TEMPLATE_LEN_MAX} can be used")]
    Long {
        /// Its length.
        len: usize,
    },
    /// Neither `http://` nor `https://`, or nothing after it.
    #[error(
        "the URL template does not begin with http:// or https:// and a host: write it like https://app.example/events/{{event}}"
    )]
    Scheme,
    /// A white space, control character or backslash: URL readers disagree about what they mean.
    #[error("the URL template has {found:?} in it: percent-encode it or leave it out")]
    Character {
        /// The first such character.
        found: char,
    },
    /// The client's event name would choose the server.
    #[error("the URL template has {{event}} in its host: it may stand in the path and the query only")]
    EventInHost,
    /// Credentials in a URL end up in logs.
    #[error("the URL template has a user name or password in it: give credentials as auth=bearer:TOKEN")]
    Credentials,
    /// Fragments are never sent.
    #[error("the URL template has a # in it: what follows would never be sent")]
    Fragment,
    /// A placeholder that nobody fills in.
    #[error(
        "the URL template has {found:?} in it: only {{hub}} and {{event}} are filled in; write other braces as %7B and %7D"
    )]
    Placeholder {
        /// From the brace on.
        found: String,
    },
    /// Filled in, it is no URL.
    #[error("the URL template gives no URL for the hub {hub:?}: {why}")]
    Url {
        /// The hub that was filled in.
        hub: String,
        /// What the reader of URLs says.
        why: String,
    },
}

/// Checks a template by itself, with harmless names filled in.
pub(super) fn check(template: &str) -> Result<(), BadTemplate> {
    resolve(template, "hub", VALIDATE_EVENT).map(|_| ())
}

/// Fills in the names. Deterministic; the server that it leads to depends on the template and the hub only.
pub(super) fn resolve(template: &str, hub: &str, event: &str) -> Result<Url, BadTemplate> {
    if template.len() > TEMPLATE_LEN_MAX {
        return Err(BadTemplate::Long { len: template.len() });
    }
    if let Some(found) = template.chars().find(|c| c.is_whitespace() || c.is_control() || *c == '\\') {
        return Err(BadTemplate::Character { found });
    }
    let authority = authority(template).ok_or(BadTemplate::Scheme)?;
    if authority.to_ascii_lowercase().contains("{event}") {
        return Err(BadTemplate::EventInHost);
    }
    if authority.contains('@') {
        return Err(BadTemplate::Credentials);
    }
    if template.contains('#') {
        return Err(BadTemplate::Fragment);
    }
    let filled = fill(template, hub, event)?;
    Url::parse(&filled).map_err(|error| BadTemplate::Url { hub: hub.to_owned(), why: error.to_string() })
}

/// The part between the scheme and the first `/`, `?` or `#`; nothing if there is none.
fn authority(template: &str) -> Option<&str> {
    let (scheme, rest) = template.split_once("://")?;
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    (known && !authority.is_empty()).then_some(authority)
}

/// One pass from left to right, so that what was filled in is never read as a placeholder.
fn fill(template: &str, hub: &str, event: &str) -> Result<String, BadTemplate> {
    let mut filled = String::with_capacity(template.len() + hub.len() + event.len());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let (name, len) = placeholder(rest, hub, event)
            .ok_or_else(|| BadTemplate::Placeholder { found: rest.chars().take(24).collect() })?;
        escape(name, &mut filled);
        rest = &rest[len..];
    }
    filled.push_str(rest);
    Ok(filled)
}

/// What stands for the placeholder at the beginning of `text`, and how long the placeholder is.
fn placeholder<'a>(text: &str, hub: &'a str, event: &'a str) -> Option<(&'a str, usize)> {
    let starts = |with: &str| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    match () {
        () if starts("{hub}") => Some((hub, "{hub}".len())),
        () if starts("{event}") => Some((event, "{event}".len())),
        () => None,
    }
}

/// Percent-encodes all that is not unreserved (RFC 3986, 2.3).
pub(super) fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            push_percent(byte, into);
        }
    }
}

/// `%C3` for 0xC3.
pub(super) fn push_percent(byte: u8, into: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    into.push('%');
    into.push(char::from(DIGITS[usize::from(byte >> 4)]));
    into.push(char::from(DIGITS[usize::from(byte & 15)]));
}
