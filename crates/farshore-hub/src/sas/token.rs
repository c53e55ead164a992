//! Shared access signatures: `SharedAccessSignature sr=…&sig=…&se=…[&skn=…]`, the fields in any order.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_core::moment::Moment;
use ring::hmac;

use crate::percent;

/// A token counts for this long after its end: the clocks of devices and regions differ.
pub const CLOCK_SKEW_GRACE: Duration = Duration::from_secs(300);

/// Longest token that is read. The official SDKs make about 300 characters.
pub const TOKEN_LEN_MAX: usize = 4096;

/// What a generated key has: the strength of the signature's hash.
const KEY_LEN: usize = 32;

/// Longest key that is accepted, decoded. HMAC gains nothing beyond its block of 64 bytes.
const KEY_LEN_MAX: usize = 128;

const SCHEME: &str = "SharedAccessSignature ";

/// Text that is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no shared access signature: {why}")]
pub struct BadToken {
    /// What is wrong with it.
    pub why: &'static str,
}

/// A key that is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a shared access key must be base64 of 1 to {KEY_LEN_MAX} bytes")]
pub struct BadKey;

/// Why a well-formed token does not open the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its time is over.
    #[error("the token has expired: make a new one, and check the clock of whoever made it")]
    Expired,
    /// Signed with another key, or for another text.
    #[error("the token's signature does not match either key: check which key signed it")]
    Signature,
    /// For another host, device or module.
    #[error("the token is for another resource: its sr must be this host, or a prefix of the path asked for")]
    Resource,
    /// Names a policy that this hub does not have.
    #[error("the token names a policy that this hub does not have")]
    UnknownPolicy,
    /// The policy does not allow this.
    #[error("the token's policy does not allow this operation")]
    Rights,
}

/// A token as it came. Nothing is known about its signature until [`Token::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Exactly as received: this is what is signed.
    resource: String,
    /// Exactly as received, for the same reason.
    expires: String,
    seconds: u64,
    signature: Vec<u8>,
    policy: Option<String>,
}

impl Token {
    /// Reads a token, with or without the word `SharedAccessSignature` before it.
    ///
    /// # Errors
    /// [`BadToken`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, BadToken> {
        if text.len() > TOKEN_LEN_MAX {
            return Err(BadToken { why: "it is longer than 4096 characters" });
        }
        let [mut resource, mut signature, mut expires, mut policy] = [None; 4];
        for field in text.strip_prefix(SCHEME).unwrap_or(text).trim().split('&') {
            let (name, value) = field.split_once('=').ok_or(BadToken { why: "a field has no '='" })?;
            let place = match name {
                "sr" => &mut resource,
                "sig" => &mut signature,
                "se" => &mut expires,
                "skn" => &mut policy,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(BadToken { why: "a field is given twice" });
            }
        }
        let resource = resource.ok_or(BadToken { why: "sr is missing" })?;
        let expires = expires.ok_or(BadToken { why: "se is missing" })?;
        let signature = signature.ok_or(BadToken { why: "sig is missing" })?;
        Ok(Self {
            seconds: seconds(expires)?,
            signature: signature_bytes(signature)?,
            policy: policy.map(policy_name).transpose()?.filter(|name| !name.is_empty()),
            resource: resource.to_owned(),
            expires: expires.to_owned(),
        })
    }

    /// Makes a token for `resource` (`host`, `host/devices/pump`), for one of the official forms.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn make(resource: &str, key: &str, policy: Option<&str>, expires: Moment) -> Result<String, BadKey> {
        let resource = percent::encode(resource);
        let seconds = (expires.0 / 1_000_000).to_string();
        let tag = hmac::sign(&hmac_key(key)?, format!("{resource}\n{seconds}").as_bytes());
        let signature = percent::encode(&STANDARD.encode(tag));
        let policy = policy.map(|name| format!("&skn={}", percent::encode(name))).unwrap_or_default();
        Ok(format!("{SCHEME}sr={resource}&sig={signature}&se={seconds}{policy}"))
    }

    /// The policy it names; `None`: signed by a device's own key.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    /// When its time is over, without grace.
    #[must_use]
    pub fn expires(&self) -> Moment {
        Moment(self.seconds.saturating_mul(1_000_000))
    }

    /// Whether its time is over, grace included.
    #[must_use]
    pub fn is_expired(&self, now: Moment) -> bool {
        self.expires().after(CLOCK_SKEW_GRACE) < now
    }

    /// Whether it is signed by one of `keys` (base64) and its time is not over. An empty or unusable key matches nothing.
    ///
    /// # Errors
    /// [`Refused::Expired`], [`Refused::Signature`].
    pub fn verify(&self, keys: &[&str], now: Moment) -> Result<(), Refused> {
        let signed = format!("{}\n{}", self.resource, self.expires);
        let matches = |key: &&str| {
            hmac_key(key).is_ok_and(|key| hmac::verify(&key, signed.as_bytes(), &self.signature).is_ok())
        };
        if !keys.iter().any(matches) {
            return Err(Refused::Signature);
        }
        if self.is_expired(now) {
            return Err(Refused::Expired);
        }
        Ok(())
    }

    /// Whether it is for `host` and for `path` (plain segments, such as `["devices", "pump"]`) or something above it.
    ///
    /// A host is compared without its port where the token names none, since balancers change ports; ids are compared
    /// exactly. Official device SDKs escape an id before they escape the whole: such a second layer is looked
    /// through, but only in a device's own token, so that a policy's restriction is never read generously.
    #[must_use]
    pub fn covers(&self, host: &str, path: &[&str]) -> bool {
        let Ok(resource) = percent::decode(&self.resource) else { return false };
        let mut parts = resource.trim_end_matches('/').split('/');
        let named = parts.next().unwrap_or_default();
        let mut asked = path.iter();
        is_host(named, host)
            && parts.all(|part| {
                asked.next().is_some_and(|wanted| {
                    part == *wanted
                        || (self.policy.is_none() && percent::decode(part).is_ok_and(|part| part == *wanted))
                })
            })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, expires, policy, .. } = self;
        f.debug_struct("Token")
            .field("resource", resource)
            .field("expires", expires)
            .field("policy", policy)
            .finish_non_exhaustive()
    }
}

/// A new key: 32 random bytes in base64.
///
/// # Panics
/// When the operating system has no randomness to give; nothing safe can be done then.
#[must_use]
pub fn new_key() -> String {
    let mut bytes = [0u8; KEY_LEN];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut bytes).expect("the operating system gives random bytes");
    STANDARD.encode(bytes)
}

/// Whether this text can be a key.
///
/// # Errors
/// [`BadKey`].
pub fn check_key(key: &str) -> Result<(), BadKey> {
    hmac_key(key).map(|_| ())
}

fn hmac_key(key: &str) -> Result<hmac::Key, BadKey> {
    let bytes = STANDARD.decode(key).map_err(|_| BadKey)?;
    if bytes.is_empty() || bytes.len() > KEY_LEN_MAX {
        return Err(BadKey);
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn seconds(text: &str) -> Result<u64, BadToken> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // More digits than fit is a moment that never comes.
    if is_number { Ok(text.parse().unwrap_or(u64::MAX)) } else { Err(BadToken { why: "se is no number" }) }
}

fn signature_bytes(text: &str) -> Result<Vec<u8>, BadToken> {
    let plain = percent::decode(text).map_err(|_| BadToken { why: "sig is not percent-encoded" })?;
    STANDARD.decode(plain).map_err(|_| BadToken { why: "sig is not base64" })
}

fn policy_name(text: &str) -> Result<String, BadToken> {
    percent::decode(text).map_err(|_| BadToken { why: "skn is not percent-encoded" })
}

fn is_host(named: &str, host: &str) -> bool {
    let host = if has_port(named) { host } else { without_port(host) };
    !named.is_empty() && named.eq_ignore_ascii_case(host)
}

fn has_port(host: &str) -> bool {
    without_port(host).len() != host.len()
}

/// The host of an authority. An IPv6 address has colons of its own, inside brackets.
#[must_use]
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
