//! Tokens in the store: made, listed and revoked in the same transaction as their audit entry. Secrets are never here.

use std::time::Duration;

use farshore_core::access::Role;
use farshore_core::moment::Moment;
use farshore_core::store::{CommitError, Compare, ReadError, Transaction, Write};
use serde::{Deserialize, Serialize};

use super::book::{At, put};
use super::records::AuditLine;
use super::submit::unavailable;
use super::{Control, Inner, SubmitError, now};
use crate::access::keys::BOOTSTRAP;
use crate::access::token::plausible_id;
use crate::access::{Token, TokenHash};

/// Prefix of [`TokenRecord`]s.
pub(crate) const TOKENS: &str = "tokens/";
/// Changed with every new token, so that two that are made at once do not take the same name.
const TURN: &str = "token-turn";
/// Whoever is not named may not be called so: the engine itself, and the bootstrap token.
const RESERVED: [&str; 3] = [BOOTSTRAP, "control-plane", "farshore"];
/// All tokens are held in memory at each node; people and programs of one team.
pub const TOKENS_MAX: usize = 1000;
/// A token is good for so long unless somebody says otherwise.
pub const VALID_DEFAULT: Duration = Duration::from_secs(90 * 86_400);
/// And for so long at most.
pub const VALID_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Less is a mistake in the unit.
const VALID_MIN: Duration = Duration::from_secs(1);
/// An ended token is listed for so long, so that its holder is told why it is refused.
const ENDED_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Ended tokens that are forgotten with one new one; a transaction has at most 128 parts.
const FORGOTTEN_AT_ONCE_MAX: usize = 50;
/// A name stands in every line of the audit.
const NAME_LEN_MAX: usize = 40;
/// Whoever meets another that makes or revokes a token at the same time tries again this often.
const ATTEMPTS_MAX: u32 = 20;

/// `tokens/ID`: what is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The part of the token that is no secret.
    pub id: String,
    /// What its holder is called, in jobs and in the audit.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// Of the whole token.
    pub hash: TokenHash,
    /// The fingerprint of a client's certificate that is as good as the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// When it was made.
    pub created_at: Moment,
    /// By whom.
    pub created_by: String,
    /// Not taken from then on.
    pub expires_at: Moment,
    /// When it was taken back.
    #[serde(default)]
    pub revoked_at: Option<Moment>,
    /// By whom.
    #[serde(default)]
    pub revoked_by: Option<String>,
}

impl TokenRecord {
    /// Since when it is not taken, if that is so at `now`.
    #[must_use]
    pub fn ended(&self, now: Moment) -> Option<Moment> {
        self.revoked_at.or(Some(self.expires_at).filter(|at| *at <= now))
    }
}

/// A token that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// What its holder shall be called.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// For how long.
    pub valid_for: Duration,
    /// The fingerprint of a client's certificate that shall be as good as the token.
    pub certificate: Option<String>,
}

impl Control {
    /// Keeps `token` under the name. On return it is durable and in the audit.
    ///
    /// # Errors
    /// Nothing was changed; the error says how to mend it.
    pub async fn create_token(
        &self,
        token: &Token,
        new: &NewToken,
        who: &str,
    ) -> Result<TokenRecord, SubmitError> {
        check(new)?;
        for _ in 0..ATTEMPTS_MAX {
            if let Some(record) = create_once(&self.inner, token, new, who).await? {
                return Ok(record);
            }
        }
        Err(busy())
    }

    /// Takes the token back. Again, it changes nothing.
    ///
    /// # Errors
    /// Nothing was changed; the error says how to mend it.
    pub async fn revoke_token(&self, id: &str, who: &str) -> Result<TokenRecord, SubmitError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(at) = read(&self.inner, id).await? else {
                let what = format!("there is no token {id:?}: farshore token list shows them");
                return Err(SubmitError::NotFound { what });
            };
            if at.value.revoked_at.is_some() {
                return Ok(at.value);
            }
            if let Some(record) = revoke_once(&self.inner, at, who).await? {
                return Ok(record);
            }
        }
        Err(busy())
    }

    /// All tokens that are kept, by id; also those that ended lately.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, ReadError> {
        self.inner.book.values(TOKENS).await
    }

    /// One token's record.
    pub async fn token(&self, id: &str) -> Result<Option<TokenRecord>, ReadError> {
        Ok(read(&self.inner, id).await?.map(|at| at.value))
    }

    /// Runs `task` until it ends or the engine is shut down.
    pub(crate) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.spawn(task);
    }
}

/// The record of this id; a text that can be none is not looked for.
async fn read(inner: &Inner, id: &str) -> Result<Option<At<TokenRecord>>, ReadError> {
    if !plausible_id(id) {
        return Ok(None);
    }
    inner.book.read(&format!("{TOKENS}{id}")).await
}

fn check(new: &NewToken) -> Result<(), SubmitError> {
    let name = &new.name;
    let fits = name.len() <= NAME_LEN_MAX
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._@".contains(&byte));
    let invalid = |why| Err(SubmitError::Invalid { why });
    if !fits {
        return invalid(format!(
            "name: {name:?} is not valid: 1 to {NAME_LEN_MAX} letters, digits, and - . _ @ after the first"
        ));
    }
    if RESERVED.contains(&name.as_str()) {
        return invalid(format!("name: {name} is what the control plane calls itself: choose another"));
    }
    if new.valid_for < VALID_MIN || new.valid_for > VALID_MAX {
        return invalid(format!("expires_in_seconds: give 1 to {} (a year)", VALID_MAX.as_secs()));
    }
    Ok(())
}

/// `None`: somebody else made one at the same time.
async fn create_once(
    inner: &Inner,
    token: &Token,
    new: &NewToken,
    who: &str,
) -> Result<Option<TokenRecord>, SubmitError> {
    let now = now();
    let turn = inner.book.read::<String>(TURN).await?;
    let all: Vec<TokenRecord> = inner.book.values(TOKENS).await?;
    check_room(&all, new, now)?;
    let record = TokenRecord {
        id: token.id().to_owned(),
        name: new.name.clone(),
        role: new.role,
        hash: token.hash(),
        certificate: new.certificate.clone(),
        created_at: now,
        created_by: who.to_owned(),
        expires_at: now.after(new.valid_for),
        revoked_at: None,
        revoked_by: None,
    };
    let key = format!("{TOKENS}{}", record.id);
    let mut transaction = Transaction {
        compares: vec![Compare::Absent(key.clone()), at_turn(turn)],
        writes: vec![written(&key, &record)?, written(TURN, &record.id)?],
    };
    let forgotten = all.iter().filter(|old| long_ended(old, now)).take(FORGOTTEN_AT_ONCE_MAX);
    transaction.writes.extend(forgotten.map(|old| Write::Delete(format!("{TOKENS}{}", old.id))));
    let with =
        new.certificate.as_ref().map_or_else(String::new, |shown| format!(", or the certificate {shown}"));
    let what = format!(
        "made the token {} ({}, {}, until {}{with})",
        new.name, record.id, new.role, record.expires_at
    );
    commit(inner, transaction, who, what).await.map(|done| done.then_some(record))
}

fn at_turn(turn: Option<At<String>>) -> Compare {
    match turn {
        Some(turn) => Compare::At(TURN.to_owned(), turn.revision),
        None => Compare::Absent(TURN.to_owned()),
    }
}

fn long_ended(record: &TokenRecord, now: Moment) -> bool {
    record.ended(now).is_some_and(|at| at.after(ENDED_KEPT) <= now)
}

fn check_room(all: &[TokenRecord], new: &NewToken, now: Moment) -> Result<(), SubmitError> {
    let refused = |code, why| Err(SubmitError::Refused { code, why, possible: Vec::new() });
    let mut good = all.iter().filter(|record| record.ended(now).is_none());
    if let Some(taken) = good.clone().find(|record| record.name == new.name) {
        let why = format!(
            "there is a token named {} already: revoke it first (farshore token revoke {}) or choose another name",
            new.name, taken.id
        );
        return refused("name-taken", why);
    }
    let is_taken = |record: &&TokenRecord| new.certificate.is_some() && record.certificate == new.certificate;
    if let Some(taken) = good.clone().find(is_taken) {
        let why = format!(
            "this certificate belongs to the token {} already: revoke that first (farshore token revoke {}) or issue another \
             certificate",
            taken.name, taken.id
        );
        return refused("certificate-taken", why);
    }
    if good.nth(TOKENS_MAX - 1).is_some() {
        let why = format!("there are {TOKENS_MAX} tokens, and no room for more: revoke what is not used");
        return refused("too-many-tokens", why);
    }
    Ok(())
}

/// `None`: somebody else changed it at the same time.
async fn revoke_once(
    inner: &Inner,
    at: At<TokenRecord>,
    who: &str,
) -> Result<Option<TokenRecord>, SubmitError> {
    let key = format!("{TOKENS}{}", at.value.id);
    let record = TokenRecord { revoked_at: Some(now()), revoked_by: Some(who.to_owned()), ..at.value };
    let transaction = Transaction {
        compares: vec![Compare::At(key.clone(), at.revision)],
        writes: vec![written(&key, &record)?],
    };
    let what = format!("revoked the token {} ({})", record.name, record.id);
    commit(inner, transaction, who, what).await.map(|done| done.then_some(record))
}

/// `false`: what was read has changed since.
async fn commit(
    inner: &Inner,
    transaction: Transaction,
    who: &str,
    what: String,
) -> Result<bool, SubmitError> {
    let line = AuditLine { who: who.to_owned(), what, item: None, job: None };
    match inner.book.commit(transaction, Some(line)).await {
        Ok(_) => Ok(true),
        Err(CommitError::Conflict { .. }) => Ok(false),
        Err(error) => Err(unavailable(&error)),
    }
}

fn written<T: Serialize>(key: &str, value: &T) -> Result<Write, SubmitError> {
    put(key.to_owned(), value).map_err(|error| unavailable(&error))
}

fn busy() -> SubmitError {
    SubmitError::Unavailable { why: "tokens are being changed by too many at once: try again".to_owned() }
}
