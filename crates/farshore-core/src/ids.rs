//! Names of things, parsed once at the edge and then carried as types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a region, item or disk: fits a DNS label and a journal header.
pub const NAME_LEN_MAX: usize = 40;

/// A name that cannot be used, and what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {why}")]
pub struct InvalidName {
    /// What was being named: "region", "item", "disk".
    pub what: &'static str,
    /// The text as it was given.
    pub text: String,
    /// The rule it breaks, as advice.
    pub why: &'static str,
}

fn check_name(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let bad = |why| Err(InvalidName { what, text: text.to_owned(), why });
    let Some(first) = text.chars().next() else { return bad("it is empty") };
    if text.len() > NAME_LEN_MAX {
        return bad("it is longer than 40 characters");
    }
    if !first.is_ascii_lowercase() {
        return bad("it must start with a lower-case letter");
    }
    if !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') || text.ends_with('-')
    {
        return bad("use lower-case letters, digits and inner hyphens");
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses and checks the name: lower-case letters, digits, inner hyphens, at most 40 characters.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                check_name($what, text)?;
                Ok(Self(text.to_owned()))
            }
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

name_type!(
    /// A place that fails as one.
    Region, "region"
);
name_type!(
    /// The name of an item within its kind: the `web-1` of `machine/web-1`.
    Name, "name"
);

/// The four kinds of workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Replicated disks of a virtual or physical machine.
    Machine,
    /// An application back end.
    App,
    /// A hub for devices.
    Hub,
    /// A publish/subscribe hub.
    Realtime,
}

impl Kind {
    /// The word used in item ids, the CLI and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::App => "app",
            Self::Hub => "hub",
            Self::Realtime => "realtime",
        }
    }

    /// What keeps a state of an item of this kind, where its recovery points cannot be given names; `None`: they can.
    #[must_use]
    pub fn instead_of_named_points(self) -> Option<&'static str> {
        match self {
            Self::Machine => None,
            Self::App => {
                Some("the points of an app are backups of its database: farshore app backup now makes one")
            }
            Self::Hub => Some(
                "a device hub has one point, what has arrived: farshore hub export keeps a state of its identities",
            ),
            Self::Realtime => Some("its sessions are as they are now, in both regions"),
        }
    }

    /// Two regions may serve an item of this kind at once: what clients own in it carries a generation, so that the newer
    /// one wins. Its failover needs neither the source's acknowledgement nor a person's word.
    #[must_use]
    pub fn is_shared(self) -> bool {
        match self {
            Self::Realtime => true,
            Self::Machine | Self::App | Self::Hub => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A protected workload: `machine/web-1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ItemId {
    /// Which kind it is.
    pub kind: Kind,
    /// Its name, unique within the kind.
    pub name: Name,
}

impl ItemId {
    /// Parses `KIND/NAME`.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let bad = |why| InvalidName { what: "item", text: text.to_owned(), why };
        let (kind, name) =
            text.split_once('/').ok_or_else(|| bad("write KIND/NAME, for example machine/web-1"))?;
        let kind = match kind {
            "machine" => Kind::Machine,
            "app" => Kind::App,
            "hub" => Kind::Hub,
            "realtime" => Kind::Realtime,
            _ => return Err(bad("the kind must be machine, app, hub or realtime")),
        };
        Ok(Self { kind, name: Name::parse(name)? })
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.kind, self.name))
    }
}
impl FromStr for ItemId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::parse(text)
    }
}
impl TryFrom<String> for ItemId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::parse(&text)
    }
}
impl From<ItemId> for String {
    fn from(id: ItemId) -> Self {
        id.to_string()
    }
}

/// The item's fencing number, raised at each change of the active region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("u64 epochs do not run out"))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What every frame, session and call between regions carries. Compared in field order: a store restored from a
/// backup has a higher incarnation, so its tokens win over those of the life it forgot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Token {
    /// Rises on every restore of the store from a backup.
    pub incarnation: u64,
    /// The item's epoch.
    pub epoch: Epoch,
}

impl Token {
    /// A token from its two numbers.
    #[must_use]
    pub fn new(incarnation: u64, epoch: Epoch) -> Self {
        Self { incarnation, epoch }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.epoch)
    }
}

/// Idempotency key of one effect: `JOB/STEP/PHASE`. An agent that sees a key again returns the earlier result.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepKey(pub String);

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A job's identifier: a ULID, so that ids sort by age. Made by the shell, never by the core.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_the_error_says_how() {
        for good in ["a", "web-1", "paris"] {
            assert!(Region::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", "it is empty"),
            ("Paris", "it must start with a lower-case letter"),
            ("1a", "it must start with a lower-case letter"),
            ("a_b", "use lower-case letters, digits and inner hyphens"),
            ("a-", "use lower-case letters, digits and inner hyphens"),
        ] {
            assert_eq!(Region::parse(bad).unwrap_err().why, why, "{bad}");
        }
        assert!(Region::parse(&"a".repeat(NAME_LEN_MAX + 1)).is_err());
    }

    #[test]
    fn items_round_trip() {
        let id = ItemId::parse("machine/web-1").unwrap();
        assert_eq!(id.to_string(), "machine/web-1");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"machine/web-1\"");
        for bad in ["web-1", "vm/web-1", "machine/", "machine/A"] {
            assert!(ItemId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_incarnation_outranks_the_epoch() {
        assert!(Token::new(2, Epoch(1)) > Token::new(1, Epoch(9)));
        assert!(Token::new(1, Epoch(2)) > Token::new(1, Epoch(1)));
    }
}
