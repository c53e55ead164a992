//! Join tokens: each lets one node in, once, for a while, in one role.
//!
//! A record is `trust/join/ID` in the store; described in `docs/formats/store.md`. The secret is not in it. A token is
//! used up by a transaction that compares its record, so of two nodes that show it at once one is let in, at whichever
//! control nodes they ask.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::Region;
use farshore_core::moment::Moment;
use farshore_core::store::{CommitError, Compare, Entry, ReadError, Store, Transaction, Write};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::identity::CertRole;
use crate::engine::book::{Book, put};
use crate::engine::records::{AuditLine, sha256_hex};

/// Prefix of the records.
const RECORDS: &str = "trust/join/";
/// What every token starts with, so that scanners for leaked secrets know it.
const PREFIX: &str = "fsj_";
/// Bytes of chance in a token: nobody guesses it.
const SECRET_LEN: usize = 32;
/// How long a token lives when nobody says: long enough to log in on the other host.
pub const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// The longest life: a token that lies about is somebody else's way in.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Records are kept this long after their end, so that a node that comes late hears why it is refused.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Old records removed with each new token; more wait for the next.
const REMOVED_MAX: usize = 20;

/// What a new token shall allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// The role that the node gets.
    pub role: CertRole,
    /// The region it must name; any if absent.
    pub region: Option<Region>,
    /// How long it can be used.
    pub life: Duration,
}

/// A token that was made. The only time it is seen.
#[derive(Clone, PartialEq, Eq)]
pub struct MadeToken {
    /// Names it in the audit.
    pub id: String,
    /// The token.
    pub token: String,
    /// When it ends.
    pub expires_at: Moment,
}

impl std::fmt::Debug for MadeToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// It was never made here, or long ago.
    #[error(
        "this join token is not known: copy it whole, or make one with farshore trust join-token on a control node"
    )]
    Unknown,
    /// It let somebody in.
    #[error(
        "this join token was used at {at} by a node of {region}: if that was not you, look at farshore audit list; make \
         another one with farshore trust join-token"
    )]
    Used {
        /// When.
        at: Moment,
        /// By whom.
        region: Region,
    },
    /// Its time is over.
    #[error("this join token ended at {at}: make another one with farshore trust join-token")]
    Expired {
        /// When.
        at: Moment,
    },
    /// It is for another role.
    #[error("this join token is for the role {allowed}: join with --role {allowed}, or make another one")]
    WrongRole {
        /// Which.
        allowed: CertRole,
    },
    /// It is for another region.
    #[error("this join token is for the region {allowed}: join with --region {allowed}, or make another one")]
    WrongRegion {
        /// Which.
        allowed: Region,
    },
    /// The store does not answer.
    #[error("{0}: try again; if it then says that the token was used, make another one")]
    Store(String),
}

/// `trust/join/ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TokenRecord {
    /// SHA-256 of the token, in hex.
    hash: String,
    role: CertRole,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
    made_at: Moment,
    made_by: String,
    expires_at: Moment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<UseRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UseRecord {
    at: Moment,
    region: Region,
    /// Makes the value of each attempt another one: after an unknown outcome it says whose it was.
    attempt: String,
}

impl TokenRecord {
    /// Whether a node of this region and role may use it now.
    fn check(&self, region: &Region, role: CertRole, now: Moment) -> Result<(), JoinRefusal> {
        if let Some(used) = &self.used {
            return Err(JoinRefusal::Used { at: used.at, region: used.region.clone() });
        }
        if now >= self.expires_at {
            return Err(JoinRefusal::Expired { at: self.expires_at });
        }
        if self.role != role {
            return Err(JoinRefusal::WrongRole { allowed: self.role });
        }
        match &self.region {
            Some(allowed) if allowed != region => Err(JoinRefusal::WrongRegion { allowed: allowed.clone() }),
            _ => Ok(()),
        }
    }
}

/// The join tokens of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JoinTokens {
    book: Arc<Book>,
}

impl JoinTokens {
    /// Those in the store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { book: Arc::new(Book::new(store, false)) }
    }

    /// Makes a token; the audit says that `by` did.
    ///
    /// # Errors
    /// When the store cannot be written: there is no token then, or one that nobody knows.
    pub async fn create(&self, new: &NewToken, by: &str, now: Moment) -> Result<MadeToken, CommitError> {
        let id = ulid::Ulid::generate().to_string().to_ascii_lowercase();
        let secret = secret().ok_or_else(|| {
            CommitError::Unavailable("the machine gives no random numbers for a token".to_owned())
        })?;
        let token = format!("{PREFIX}{id}_{secret}");
        let expires_at = now.after(new.life.min(TOKEN_LIFE_MAX));
        let record = TokenRecord {
            hash: sha256_hex(token.as_bytes()),
            role: new.role,
            region: new.region.clone(),
            made_at: now,
            made_by: by.to_owned(),
            expires_at,
            used: None,
        };
        let key = format!("{RECORDS}{id}");
        let mut writes = vec![put(key.clone(), &record)?];
        writes.extend(self.old(now).await.into_iter().map(Write::Delete));
        let transaction = Transaction { compares: vec![Compare::Absent(key)], writes };
        let place = new.region.as_ref().map_or_else(String::new, |region| format!(" of {region}"));
        let what =
            format!("made join token {id} for a node{place} in the role {}, until {expires_at}", new.role);
        self.book.commit(transaction, Some(line(by, what))).await?;
        Ok(MadeToken { id, token, expires_at })
    }

    /// Uses the token up for a node. On return it is durable, with its audit entry.
    ///
    /// # Errors
    /// Why the node is not let in.
    pub async fn consume(
        &self,
        token: &str,
        region: &Region,
        role: CertRole,
        now: Moment,
    ) -> Result<(), JoinRefusal> {
        let (id, entry, record) = self.find(token).await?;
        record.check(region, role, now)?;
        let attempt = ulid::Ulid::generate().to_string();
        let made_by = record.made_by.clone();
        let used =
            TokenRecord { used: Some(UseRecord { at: now, region: region.clone(), attempt }), ..record };
        let transaction = Transaction {
            compares: vec![Compare::At(entry.key.clone(), entry.revision)],
            writes: vec![put(entry.key, &used).map_err(stuck)?],
        };
        let what = format!("a node of {region} joined in the role {role}, with join token {id} of {made_by}");
        match self.book.commit(transaction, Some(line(&format!("node {region}/{role}"), what))).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict { .. }) => {
                // Somebody was faster, and the record says who.
                let (_, _, record) = self.find(token).await?;
                record.check(region, role, now)?;
                Err(JoinRefusal::Store("the token was changed at the same moment".to_owned()))
            }
            Err(error) => Err(stuck(error)),
        }
    }

    async fn find(&self, token: &str) -> Result<(String, Entry, TokenRecord), JoinRefusal> {
        let id = id_of(token).ok_or(JoinRefusal::Unknown)?;
        let entry = self.book.store().get(&format!("{RECORDS}{id}")).await.map_err(unread)?;
        let entry = entry.ok_or(JoinRefusal::Unknown)?;
        let record: TokenRecord = serde_json::from_slice(&entry.value)
            .map_err(|error| JoinRefusal::Store(format!("the record {} is damaged ({error})", entry.key)))?;
        let hash = sha256_hex(token.as_bytes());
        if !bool::from(hash.as_bytes().ct_eq(record.hash.as_bytes())) {
            return Err(JoinRefusal::Unknown);
        }
        Ok((id.to_owned(), entry, record))
    }

    /// Keys of records whose time is long over. None when the store does not say: the next token takes them along.
    async fn old(&self, now: Moment) -> Vec<String> {
        let Ok((entries, _)) = self.book.store().list(RECORDS).await else { return Vec::new() };
        let old = entries.into_iter().filter(|entry| {
            serde_json::from_slice::<TokenRecord>(&entry.value)
                .is_ok_and(|record| now > record.expires_at.after(KEPT))
        });
        old.take(REMOVED_MAX).map(|entry| entry.key).collect()
    }
}

/// The id within a token; `None` when it does not look like one.
fn id_of(token: &str) -> Option<&str> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_word(id) && id.len() <= 26 && is_word(secret) && secret.len() <= 2 * SECRET_LEN).then_some(id)
}

fn secret() -> Option<String> {
    let mut bytes = [0; SECRET_LEN];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn line(who: &str, what: String) -> AuditLine {
    AuditLine { who: who.to_owned(), what, item: None, job: None }
}

fn stuck(error: CommitError) -> JoinRefusal {
    JoinRefusal::Store(error.to_string())
}

fn unread(error: ReadError) -> JoinRefusal {
    JoinRefusal::Store(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_store::mem::MemStore;

    const NOW: Moment = Moment(1_000_000_000);

    fn region(name: &str) -> Region {
        Region::parse(name).unwrap()
    }

    async fn made(new: &NewToken) -> (JoinTokens, MadeToken) {
        let tokens = JoinTokens::new(Arc::new(MemStore::new()));
        let made = tokens.create(new, "alice", NOW).await.unwrap();
        (tokens, made)
    }

    fn for_oslo() -> NewToken {
        NewToken { role: CertRole::Agent, region: Some(region("oslo")), life: TOKEN_LIFE }
    }

    #[tokio::test]
    async fn a_token_lets_one_node_in_and_only_as_it_says() {
        let (tokens, made) = made(&for_oslo()).await;
        let (oslo, late) = (region("oslo"), NOW.after(TOKEN_LIFE));
        let wrong_role = tokens.consume(&made.token, &oslo, CertRole::Control, NOW).await;
        assert_eq!(wrong_role, Err(JoinRefusal::WrongRole { allowed: CertRole::Agent }));
        let wrong_region = tokens.consume(&made.token, &region("bergen"), CertRole::Agent, NOW).await;
        assert_eq!(wrong_region, Err(JoinRefusal::WrongRegion { allowed: oslo.clone() }));
        let expired = tokens.consume(&made.token, &oslo, CertRole::Agent, late).await;
        assert_eq!(expired, Err(JoinRefusal::Expired { at: late }));
        assert_eq!(tokens.consume(&made.token, &oslo, CertRole::Agent, NOW).await, Ok(()));
        let again = tokens.consume(&made.token, &oslo, CertRole::Agent, NOW).await;
        assert_eq!(again, Err(JoinRefusal::Used { at: NOW, region: oslo }));
    }

    #[tokio::test]
    async fn a_token_that_was_not_made_here_is_unknown() {
        let (tokens, made) = made(&for_oslo()).await;
        let altered = format!("{}0", &made.token[..made.token.len() - 1]);
        let altered = if altered == made.token { altered.replace("0", "1") } else { altered };
        for bad in ["", "fsj_", "fsj_a_b", "fsj_../own_x", altered.as_str(), &made.token[4..]] {
            let refused = tokens.consume(bad, &region("oslo"), CertRole::Agent, NOW).await;
            assert_eq!(refused, Err(JoinRefusal::Unknown), "{bad}");
        }
    }

    #[tokio::test]
    async fn neither_the_store_nor_the_audit_holds_the_secret() {
        let (tokens, made) = made(&for_oslo()).await;
        tokens.consume(&made.token, &region("oslo"), CertRole::Agent, NOW).await.unwrap();
        let (entries, _) = tokens.book.store().list("").await.unwrap();
        let secret = made.token.rsplit('_').next().unwrap();
        assert!(entries.iter().all(|entry| !String::from_utf8_lossy(&entry.value).contains(secret)));
        let audit = tokens.book.view().await.audit().await.unwrap();
        let said: Vec<&str> = audit.iter().map(|entry| entry.what.as_str()).collect();
        assert_eq!(said.len(), 2);
        assert!(said[0].starts_with("made join token") && said[1].contains("of alice"), "{said:?}");
        assert!(!format!("{made:?}").contains(secret));
    }

    #[tokio::test]
    async fn records_do_not_pile_up() {
        let (tokens, first) = made(&for_oslo()).await;
        let much_later = NOW.after(TOKEN_LIFE + KEPT + Duration::from_secs(1));
        tokens.create(&for_oslo(), "alice", much_later).await.unwrap();
        let (entries, _) = tokens.book.store().list(RECORDS).await.unwrap();
        assert_eq!(entries.len(), 1);
        assert!(!entries[0].key.contains(&first.id));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_that_show_one_token_at_once_one_is_let_in() {
        let store: Arc<dyn Store> = Arc::new(MemStore::new());
        let made = JoinTokens::new(Arc::clone(&store)).create(&for_oslo(), "alice", NOW).await.unwrap();
        let attempts = (0..8).map(|_| {
            // Each on a control node of its own.
            let (tokens, token) = (JoinTokens::new(Arc::clone(&store)), made.token.clone());
            tokio::spawn(async move { tokens.consume(&token, &region("oslo"), CertRole::Agent, NOW).await })
        });
        let attempts: Vec<_> = attempts.collect();
        let mut let_in = 0;
        for attempt in attempts {
            match attempt.await.unwrap() {
                Ok(()) => let_in += 1,
                Err(JoinRefusal::Used { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(let_in, 1);
    }
}
