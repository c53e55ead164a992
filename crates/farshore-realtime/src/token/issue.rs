//! The tokens and signatures that the service itself makes.

use std::time::Duration;

use farshore_core::moment::Moment;
use ring::hmac;
use serde_json::{Map, Value};

use super::{AccessKey, AccessKeys, TokenError, sign, verify};
use crate::names::{ConnectionId, GroupName, UserId};

/// How long a client may come back to its connection with the token that it was given: far longer than any connection
/// is kept for it, so that the session and not the token decides.
pub const RECONNECTION_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Tells a reconnection token from a client's access token.
const RECONNECTION_ISSUER: &str = "farshore:reconnection";

/// A client's access token for `endpoint` (`http(s)://host:port/client/hubs/HUB`), good from `now` for `minutes`.
#[must_use]
pub fn client_token(
    endpoint: &str,
    user: Option<&UserId>,
    roles: &[String],
    groups: &[GroupName],
    now: Moment,
    minutes: u32,
    key: &AccessKey,
) -> String {
    let mut claims = lifetime(now, Duration::from_secs(u64::from(minutes) * 60));
    claims.insert("aud".into(), endpoint.into());
    if let Some(user) = user {
        claims.insert("sub".into(), user.as_str().into());
    }
    if !roles.is_empty() {
        claims.insert("role".into(), roles.into());
    }
    if !groups.is_empty() {
        let names: Vec<&str> = groups.iter().map(GroupName::as_str).collect();
        claims.insert("webpubsub.group".into(), names.into());
    }
    sign(&Value::Object(claims), key)
}

/// What a reliable client shows when it comes back to `connection`, here or in the partner region (same keys there).
#[must_use]
pub fn reconnection_token(connection: &ConnectionId, now: Moment, key: &AccessKey) -> String {
    let mut claims = lifetime(now, RECONNECTION_LIFETIME);
    claims.insert("iss".into(), RECONNECTION_ISSUER.into());
    claims.insert("aud".into(), connection.as_str().into());
    sign(&Value::Object(claims), key)
}

/// Whether `token` was given to `connection`. A client's access token never passes, whatever its audience.
pub fn verify_reconnection(
    token: &str,
    connection: &ConnectionId,
    keys: &AccessKeys,
    now: Moment,
) -> Result<(), TokenError> {
    let claims = verify(token, keys, now, |audience| audience == connection.as_str())?;
    let issued_here = claims.all.get("iss").is_some_and(|issuer| issuer == &[RECONNECTION_ISSUER]);
    if issued_here {
        return Ok(());
    }
    Err(TokenError::Claim { claim: "iss", why: "this is not the reconnection token of a connection".into() })
}

/// The `ce-signature` of events about `connection`: one signature per key, so that a handler may know either.
#[must_use]
pub fn event_signature(connection: &ConnectionId, keys: &AccessKeys) -> String {
    let one = |key: &AccessKey| {
        let tag = hmac::sign(&key.hmac(), connection.as_str().as_bytes());
        tag.as_ref().iter().fold(String::from("sha256="), |text, byte| text + &format!("{byte:02x}"))
    };
    format!("{},{}", one(&keys.primary), one(&keys.secondary))
}

fn lifetime(now: Moment, length: Duration) -> Map<String, Value> {
    let seconds = now.0 / 1_000_000;
    let mut claims = Map::new();
    claims.insert("nbf".into(), seconds.into());
    claims.insert("iat".into(), seconds.into());
    claims.insert("exp".into(), seconds.saturating_add(length.as_secs()).into());
    claims
}
