//! Who may call: access keys, signed tokens, connection strings.
//!
//! Tokens are JWTs under HS256 and nothing else: the header's `alg` is compared, never obeyed. The key is the UTF-8
//! bytes of the key's text, not what base64 would make of it. A hub has two keys so that one can be replaced while the
//! other is in use; both are accepted everywhere.
//!
//! Read in this order: here (keys, [`verify`], [`sign`]), [`issue`] (the tokens that the service itself makes),
//! [`audience`] (for which URLs a token holds), [`connection_string`].
//!
//! Must always hold: nothing that a token says is looked at before its signature was found right.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use farshore_core::moment::Moment;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::names::{GroupName, UserId};

pub mod audience;
pub mod connection_string;
pub mod issue;

pub use audience::rest_audience_ok;
pub use connection_string::{BadConnectionString, ConnectionString};
pub use issue::{client_token, event_signature, reconnection_token, verify_reconnection};

/// How far the clocks of a caller and of this service may differ.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// Longest token that is looked at: a token of a thousand groups is shorter, and headers are bounded anyway.
pub const TOKEN_LEN_MAX: usize = 64 * 1024;
/// Longest access key.
pub const KEY_LEN_MAX: usize = 1024;

/// The only algorithm.
const ALGORITHM: &str = "HS256";
/// The header of every token made here: `{"alg":"HS256","typ":"JWT"}`.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// A secret that signs tokens. Its `Debug` shows no part of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccessKey(String);

impl AccessKey {
    /// Takes a key as it stands in a connection string.
    pub fn parse(text: &str) -> Result<Self, BadAccessKey> {
        let good = !text.trim().is_empty() && text.len() <= KEY_LEN_MAX && !text.contains([';', '\n', '\r']);
        if good { Ok(Self(text.to_owned())) } else { Err(BadAccessKey) }
    }
    /// The key made of 256 random bits, written in base64.
    #[must_use]
    pub fn of(bytes: [u8; 32]) -> Self {
        Self(STANDARD.encode(bytes))
    }
    /// The secret itself: for connection strings and for the link between regions.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes())
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey(…)")
    }
}
impl TryFrom<String> for AccessKey {
    type Error = BadAccessKey;
    fn try_from(text: String) -> Result<Self, BadAccessKey> {
        Self::parse(&text)
    }
}
impl From<AccessKey> for String {
    fn from(key: AccessKey) -> Self {
        key.0
    }
}

/// A text that cannot be an access key; it is not repeated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the access key is empty, longer than 1024 bytes, or has a semicolon or line break in it: copy it again"
)]
pub struct BadAccessKey;

/// The two keys of a hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeys {
    /// Signs what the service makes.
    pub primary: AccessKey,
    /// Accepted as well.
    pub secondary: AccessKey,
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `sub`; none for an anonymous client.
    pub user: Option<UserId>,
    /// `aud`, a text or a list of them.
    pub audiences: Vec<String>,
    /// `role`, a text or a list of them.
    pub roles: Vec<String>,
    /// `webpubsub.group`, a text or a list of them.
    pub groups: Vec<GroupName>,
    /// `exp`.
    pub expires: Moment,
    /// Every claim as texts, custom ones too, for the connect event.
    pub all: BTreeMap<String, Vec<String>>,
}

/// Why a token was refused. All are 401; the text tells its owner what to mend and repeats nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not even the form of a token.
    #[error("the token is not a JWT: {0}")]
    Malformed(&'static str),
    /// Another algorithm, or an extension that must be understood.
    #[error("the token's header must say alg HS256 and demand no extension (crit)")]
    Algorithm,
    /// Made with another key, or changed on the way.
    #[error("the token's signature is wrong: sign it with the hub's primary or secondary access key")]
    Signature,
    /// Every token must end.
    #[error("the token has no exp: give it a time at which it ends")]
    NoExpiry,
    /// It ended more than [`CLOCK_SKEW_MAX`] ago.
    #[error("the token expired at {at}: ask for a new one")]
    Expired {
        /// Its `exp`.
        at: Moment,
    },
    /// It begins more than [`CLOCK_SKEW_MAX`] from now.
    #[error("the token is not valid before {from}: check the clocks")]
    TooEarly {
        /// Its `nbf`.
        from: Moment,
    },
    /// Made for another URL.
    #[error("the token's aud does not name this endpoint")]
    Audience,
    /// A claim of the wrong type, or a name that is not valid.
    #[error("the token's claim {claim} is not valid: {why}")]
    Claim {
        /// The claim's name.
        claim: &'static str,
        /// What it should be.
        why: String,
    },
}

/// Checks a token and returns what it says.
///
/// In this order: form, algorithm, signature under either key (in constant time), audience (`audience_ok` is asked for
/// each `aud` until one is right), `exp` and `nbf` with [`CLOCK_SKEW_MAX`], then the claims' types.
pub fn verify(
    token: &str,
    keys: &AccessKeys,
    now: Moment,
    audience_ok: impl Fn(&str) -> bool,
) -> Result<Claims, TokenError> {
    let payload = signed_payload(token, keys)?;
    let payload: serde_json::Map<String, Value> = serde_json::from_slice(&payload)
        .map_err(|_| TokenError::Malformed("its second part is not a JSON object"))?;
    let audiences = texts(&payload, "aud")?;
    if !audiences.iter().any(|audience| audience_ok(audience)) {
        return Err(TokenError::Audience);
    }
    let expires = lifetime(&payload, now)?;
    Ok(Claims {
        user: user(&payload)?,
        audiences,
        roles: texts(&payload, "role")?,
        groups: groups(&payload)?,
        expires,
        all: payload.iter().map(|(name, value)| (name.clone(), as_texts(value))).collect(),
    })
}

/// Signs `claims` as they are.
#[must_use]
pub fn sign(claims: &Value, key: &AccessKey) -> String {
    let mut token = String::from(HEADER);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
    let signature = hmac::sign(&key.hmac(), token.as_bytes());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    token
}

/// The bytes of the second part, after the header was read and the signature found right.
fn signed_payload(token: &str, keys: &AccessKeys) -> Result<Vec<u8>, TokenError> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(TokenError::Malformed("it is longer than 64 KiB"));
    }
    let three = "it needs three parts with a dot between them";
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed(three))?;
    let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed(three))?;
    if payload.contains('.') {
        return Err(TokenError::Malformed(three));
    }
    check_header(header)?;
    let signature = decode(signature)?;
    let right = |key: &AccessKey| hmac::verify(&key.hmac(), signed.as_bytes(), &signature).is_ok();
    if right(&keys.primary) || right(&keys.secondary) { decode(payload) } else { Err(TokenError::Signature) }
}

fn check_header(part: &str) -> Result<(), TokenError> {
    // What nearly every library writes needs no JSON parser.
    if part == HEADER {
        return Ok(());
    }
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&decode(part)?)
        .map_err(|_| TokenError::Malformed("its first part is not a JSON object"))?;
    let good = header.get("alg").and_then(Value::as_str) == Some(ALGORITHM) && !header.contains_key("crit");
    if good { Ok(()) } else { Err(TokenError::Algorithm) }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed("a part of it is not base64url"))
}

/// Checks `exp` and `nbf` and returns `exp`.
fn lifetime(payload: &serde_json::Map<String, Value>, now: Moment) -> Result<Moment, TokenError> {
    let expires = time(payload, "exp")?.ok_or(TokenError::NoExpiry)?;
    if expires.after(CLOCK_SKEW_MAX) < now {
        return Err(TokenError::Expired { at: expires });
    }
    match time(payload, "nbf")? {
        Some(from) if from > now.after(CLOCK_SKEW_MAX) => Err(TokenError::TooEarly { from }),
        Some(_) | None => Ok(expires),
    }
}

/// A time in seconds since 1970, whole or not; what is before 1970 counts as 1970.
fn time(payload: &serde_json::Map<String, Value>, claim: &'static str) -> Result<Option<Moment>, TokenError> {
    match payload.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number.as_u64().map_or_else(
            || Moment((number.as_f64().unwrap_or(0.0) * 1e6) as u64),
            |seconds| Moment(seconds.saturating_mul(1_000_000)),
        ))),
        Some(_) => Err(TokenError::Claim { claim, why: "it must be a number of seconds since 1970".into() }),
    }
}

fn user(payload: &serde_json::Map<String, Value>) -> Result<Option<UserId>, TokenError> {
    match payload.get("sub") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => UserId::parse(text)
            .map(Some)
            .map_err(|error| TokenError::Claim { claim: "sub", why: error.to_string() }),
        Some(_) => Err(TokenError::Claim { claim: "sub", why: "it must be a text".into() }),
    }
}

fn groups(payload: &serde_json::Map<String, Value>) -> Result<Vec<GroupName>, TokenError> {
    let claim = "webpubsub.group";
    let bad = |error: crate::names::BadName| TokenError::Claim { claim, why: error.to_string() };
    texts(payload, claim)?.iter().map(|text| GroupName::parse(text).map_err(bad)).collect()
}

/// A claim that is a text or a list of texts; none when it is missing.
fn texts(payload: &serde_json::Map<String, Value>, claim: &'static str) -> Result<Vec<String>, TokenError> {
    let bad = || TokenError::Claim { claim, why: "it must be a text or a list of texts".into() };
    match payload.get(claim) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(list)) => {
            list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(bad)).collect()
        }
        Some(_) => Err(bad()),
    }
}

/// Any claim as the connect event shows it: a list of texts.
fn as_texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(list) => list.iter().map(as_text).collect(),
        one => vec![as_text(one)],
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
