//! Names that come in over the wire, parsed once at the edge and then carried as types.
//!
//! Each is a shared string: a clone costs one reference count, and a connection that is in ten groups holds ten
//! pointers. Reading one back from a record checks it again, so no other part ever sees a name that breaks its rule.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of a hub, an event or a connection, in characters.
pub const SHORT_NAME_LEN_MAX: usize = 128;
/// Longest name of a group or id of a user, in characters.
pub const LONG_NAME_LEN_MAX: usize = 1024;
/// How much of a bad name an error repeats: enough to recognise it, too little to fill a log.
const SHOWN_LEN_MAX: usize = 64;

/// A name that cannot be used, and what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {why}")]
pub struct BadName {
    /// What was being named: "hub", "group", "user id", "event", "connection id".
    pub what: &'static str,
    /// The beginning of the text as it was given.
    pub text: String,
    /// The rule it breaks, as advice.
    pub why: &'static str,
}

impl BadName {
    fn new(what: &'static str, text: &str, why: &'static str) -> Self {
        Self { what, text: text.chars().take(SHOWN_LEN_MAX).collect(), why }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses and checks the name.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                match $check(text) {
                    Ok(()) => Ok(Self::checked(text)),
                    Err(why) => Err(BadName::new($what, text, why)),
                }
            }
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::parse(text)
            }
        }
        // Compares and hashes as its text does, so that maps can be asked with a plain `&str`.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Checked;
                impl serde::de::Visitor<'_> for Checked {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a valid ", $what))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Checked)
            }
        }
    };
}

name_type!(
    /// The name of a hub: `^[A-Za-z][A-Za-z0-9_`,.[\]]{0,127}$`. Hubs compare without regard to case; this holds the
    /// lower-case form.
    HubName, "hub", check_hub
);
name_type!(
    /// The name of a group: 1 to 1,024 characters, not only white space. Compared exactly.
    GroupName, "group", check_group
);
name_type!(
    /// Who is connected, as the token or the connect handler says: 1 to 1,024 characters. Compared exactly.
    UserId, "user id", check_user
);
name_type!(
    /// The name of a client's event: `^[A-Za-z][A-Za-z0-9_.-]{0,127}$`, kept as it was sent.
    EventName, "event", check_event
);
name_type!(
    /// One logical connection: at most 128 of `A-Z a-z 0-9 _ -`, chosen by the service.
    ConnectionId, "connection id", check_connection
);

impl HubName {
    fn checked(text: &str) -> Self {
        Self(Arc::from(text.to_ascii_lowercase()))
    }
}
impl GroupName {
    fn checked(text: &str) -> Self {
        Self(Arc::from(text))
    }
}
impl UserId {
    fn checked(text: &str) -> Self {
        Self(Arc::from(text))
    }
}
impl EventName {
    fn checked(text: &str) -> Self {
        Self(Arc::from(text))
    }
}
impl ConnectionId {
    fn checked(text: &str) -> Self {
        Self(Arc::from(text))
    }
    /// The id made of 128 random bits: 22 characters that need no escaping in a URL.
    #[must_use]
    pub fn of(bytes: [u8; 16]) -> Self {
        Self(Arc::from(URL_SAFE_NO_PAD.encode(bytes)))
    }
}

fn check_hub(text: &str) -> Result<(), &'static str> {
    short_name(text, |c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'`' | b',' | b'.' | b'[' | b']'))
        .ok_or("start with a letter and go on with at most 127 letters, digits or any of _ ` , . [ ]")
}

fn check_event(text: &str) -> Result<(), &'static str> {
    short_name(text, |c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
        .ok_or("start with a letter and go on with at most 127 letters, digits or any of _ . -")
}

/// A letter, then what `rest` allows, at most [`SHORT_NAME_LEN_MAX`] in all.
fn short_name(text: &str, rest: fn(u8) -> bool) -> Option<()> {
    let (first, others) = text.as_bytes().split_first()?;
    let good =
        first.is_ascii_alphabetic() && text.len() <= SHORT_NAME_LEN_MAX && others.iter().all(|c| rest(*c));
    good.then_some(())
}

fn check_connection(text: &str) -> Result<(), &'static str> {
    let good = !text.is_empty()
        && text.len() <= SHORT_NAME_LEN_MAX
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-');
    if good { Ok(()) } else { Err("use 1 to 128 letters, digits, _ or -") }
}

fn check_group(text: &str) -> Result<(), &'static str> {
    if text.chars().all(char::is_whitespace) {
        return Err("it must have a character that is not white space");
    }
    if is_too_long(text) { Err("it is longer than 1024 characters") } else { Ok(()) }
}

fn check_user(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty: leave it out for an anonymous user");
    }
    if is_too_long(text) { Err("it is longer than 1024 characters") } else { Ok(()) }
}

/// Counts characters only where bytes do not already answer.
fn is_too_long(text: &str) -> bool {
    text.len() > LONG_NAME_LEN_MAX && text.chars().nth(LONG_NAME_LEN_MAX).is_some()
}

#[cfg(test)]
mod tests;
