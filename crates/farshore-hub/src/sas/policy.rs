//! Policies of a hub: named pairs of keys, and what each may do.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash as _, Hasher as _};

use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::token::{Refused, Token, new_key};

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rights(u8);

impl Rights {
    /// Read identities.
    pub const REGISTRY_READ: Self = Self(1);
    /// Create, change and delete identities; includes reading in the well-known policies, not by itself.
    pub const REGISTRY_WRITE: Self = Self(2);
    /// Twins, methods, messages to devices, telemetry.
    pub const SERVICE_CONNECT: Self = Self(4);
    /// Connect as any device.
    pub const DEVICE_CONNECT: Self = Self(8);
    /// All of them.
    pub const ALL: Self = Self(15);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Whether every right of `needed` is in it.
    #[must_use]
    pub const fn include(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// Whether there is a right that both have.
    #[must_use]
    pub const fn meet(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Reads `RegistryRead, ServiceConnect`.
    ///
    /// # Errors
    /// Names the word that is no right.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).try_fold(Self(0), |rights, word| {
            NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(word)).map(|(right, _)| rights.and(*right)).ok_or_else(
                || format!("{word:?} is no right: choose from RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect"),
            )
        })
    }
}

const NAMES: [(Rights, &str); 4] = [
    (Rights::REGISTRY_READ, "RegistryRead"),
    (Rights::REGISTRY_WRITE, "RegistryWrite"),
    (Rights::SERVICE_CONNECT, "ServiceConnect"),
    (Rights::DEVICE_CONNECT, "DeviceConnect"),
];

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            NAMES.iter().filter(|(right, _)| self.include(*right)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rights({self})")
    }
}

impl TryFrom<String> for Rights {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Rights> for String {
    fn from(rights: Rights) -> Self {
        rights.to_string()
    }
}

/// A named pair of keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What tokens call it (`skn`).
    pub name: String,
    /// Base64.
    pub primary: String,
    /// Base64; both keys count, so that one can be changed at a time.
    pub secondary: String,
    /// What it allows.
    pub rights: Rights,
}

impl Policy {
    /// A policy with new keys.
    #[must_use]
    pub fn new(name: &str, rights: Rights) -> Self {
        Self { name: name.to_owned(), primary: new_key(), secondary: new_key(), rights }
    }

    /// What a new hub has: the five that the official SDKs' documentation names.
    #[must_use]
    pub fn well_known() -> Vec<Self> {
        vec![
            Self::new("iothubowner", Rights::ALL),
            Self::new("service", Rights::SERVICE_CONNECT),
            Self::new("device", Rights::DEVICE_CONNECT),
            Self::new("registryRead", Rights::REGISTRY_READ),
            Self::new("registryReadWrite", Rights::REGISTRY_READ.and(Rights::REGISTRY_WRITE)),
        ]
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("rights", &self.rights)
            .finish_non_exhaustive()
    }
}

/// One key of one policy, without the key. What was opened by it ends when the policy has it no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyMark(u64);

impl KeyMark {
    fn of(policy: &Policy, key: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (policy.name.as_str(), key).hash(&mut hasher);
        Self(hasher.finish())
    }

    /// The key that signed a token, if it is one of these policies'.
    #[must_use]
    pub fn of_token(token: &Token, policies: &[Policy], now: Moment) -> Option<Self> {
        let policy = policies.iter().find(|policy| Some(policy.name.as_str()) == token.policy())?;
        let mut keys = [&policy.primary, &policy.secondary].into_iter();
        keys.find(|key| token.verify(&[key], now).is_ok()).map(|key| Self::of(policy, key))
    }

    /// Whether one of these policies still has the key, and gives this right.
    #[must_use]
    pub fn stands(self, policies: &[Policy], needed: Rights) -> bool {
        policies.iter().any(|policy| {
            let has = |key: &str| Self::of(policy, key) == self;
            policy.rights.include(needed) && (has(&policy.primary) || has(&policy.secondary))
        })
    }
}

/// The rights that `token` gives at `host` for `path` (plain segments), by one of the hub's `policies`.
///
/// # Errors
/// [`Refused`]; a token without a policy is [`Refused::UnknownPolicy`] here: it is a device's own.
pub fn authorize(
    token: &Token,
    policies: &[Policy],
    host: &str,
    path: &[&str],
    now: Moment,
) -> Result<Rights, Refused> {
    let named = token.policy().ok_or(Refused::UnknownPolicy)?;
    let policy = policies.iter().find(|policy| policy.name == named).ok_or(Refused::UnknownPolicy)?;
    token.verify(&[&policy.primary, &policy.secondary], now)?;
    if !token.covers(host, path) {
        return Err(Refused::Resource);
    }
    Ok(policy.rights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_written_and_read() {
        for rights in
            [Rights::ALL, Rights::SERVICE_CONNECT, Rights::REGISTRY_READ.and(Rights::REGISTRY_WRITE)]
        {
            assert_eq!(Rights::parse(&rights.to_string()), Ok(rights));
        }
        assert_eq!(Rights::ALL.to_string(), "RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect");
        assert!(Rights::parse("Everything").unwrap_err().contains("\"Everything\" is no right"));
        assert!(Rights::parse("").is_err());
    }

    #[test]
    fn what_a_key_opened_stands_as_long_as_its_policy_has_the_key_and_the_right() {
        let mut policies = Policy::well_known();
        let now = Moment(1_000_000_000);
        let device = policies.iter().position(|policy| policy.name == "device").unwrap();
        let token = Token::make("hub", &policies[device].secondary, Some("device"), now).unwrap();
        let token = Token::parse(&token).unwrap();
        let mark = KeyMark::of_token(&token, &policies, now).unwrap();
        assert!(mark.stands(&policies, Rights::DEVICE_CONNECT));
        assert!(!mark.stands(&policies, Rights::SERVICE_CONNECT));
        policies[device].primary = new_key();
        assert!(mark.stands(&policies, Rights::DEVICE_CONNECT), "the other key was changed");
        policies[device].secondary = new_key();
        assert!(!mark.stands(&policies, Rights::DEVICE_CONNECT));
        assert_eq!(KeyMark::of_token(&token, &policies, now), None);
    }

    #[test]
    fn either_key_of_the_named_policy_opens_what_it_covers() {
        let policies = Policy::well_known();
        let now = Moment(1_000_000_000);
        let service = policies.iter().find(|policy| policy.name == "service").unwrap();
        for key in [&service.primary, &service.secondary] {
            let token = Token::parse(&Token::make("hub", key, Some("service"), now).unwrap()).unwrap();
            assert_eq!(
                authorize(&token, &policies, "hub", &["twins", "a"], now),
                Ok(Rights::SERVICE_CONNECT)
            );
            assert_eq!(authorize(&token, &policies, "hub2", &[], now), Err(Refused::Resource));
            assert_eq!(authorize(&token, &[], "hub", &[], now), Err(Refused::UnknownPolicy));
        }
        let borrowed =
            Token::parse(&Token::make("hub", &service.primary, Some("iothubowner"), now).unwrap()).unwrap();
        assert_eq!(authorize(&borrowed, &policies, "hub", &[], now), Err(Refused::Signature));
        let nameless = Token::parse(&Token::make("hub", &service.primary, None, now).unwrap()).unwrap();
        assert_eq!(authorize(&nameless, &policies, "hub", &[], now), Err(Refused::UnknownPolicy));
        assert!(!format!("{service:?}").contains(&service.primary));
    }
}
