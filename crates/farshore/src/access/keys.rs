//! Which token is whose, without asking the store at each request.
//!
//! A record is good for [`FRESH`] after it was read; then it is read again, by one request while the others wait. So a
//! revocation holds at every node after `FRESH` and one read, within [`REVOKED_WITHIN`], and at once at the node that
//! revoked. While the store cannot be read, a token that was good when it was last read goes on for [`STALE_MAX`], to
//! look only: a node in a minority must answer what it knows. All records are read once a [`SWEEP_EVERY`], so that a node
//! knows the tokens that nobody has shown to it yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farshore_core::access::Role;
use farshore_core::moment::Moment;
use farshore_core::store::ReadError;

use super::throttle::Failures;
use super::{Token, TokenHash};
use crate::engine::tokens::TokenRecord;
use crate::engine::{Control, now};

/// For so long a record is taken as it was read.
pub const FRESH: Duration = Duration::from_secs(2);
/// Longest wait for the store; and after a failure it is left alone for as long.
const READ_DEADLINE: Duration = Duration::from_secs(2);
/// Sum of the two: a revoked token is refused everywhere after this, if the store answers.
pub const REVOKED_WITHIN: Duration = Duration::from_secs(4);
/// A token goes on to look without the store for so long: longer than the repair of a network takes.
pub const STALE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often all records are read.
pub const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// A bootstrap token shorter than this is none: nobody shall guess it.
pub const BOOTSTRAP_LEN_MIN: usize = 16;
/// The name of whoever has the token of the node's `token_file`.
pub const BOOTSTRAP: &str = "bootstrap";

/// Who has the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The token's name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The token's id and its end; the bootstrap token has none.
    pub token: Option<(String, Moment)>,
    /// The store could not be asked: the holder may look, and no more.
    pub stale: bool,
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no record of it, or its secret is another.
    #[error(
        "this token is not known here: it belongs to another cluster, or was revoked long ago; ask an admin for one"
    )]
    Unknown,
    /// It was taken back.
    #[error("the token {name} was revoked at {at}: ask an admin for another")]
    Revoked {
        /// Its name.
        name: String,
        /// When.
        at: Moment,
    },
    /// No token goes with this certificate.
    #[error(
        "no token goes with the certificate that you showed: send a token, or ask an admin to make one for the certificate \
         (farshore token create NAME --certificate FILE)"
    )]
    NoToken,
    /// Its time is over.
    #[error("the token {name} expired at {at}: ask an admin for another")]
    Expired {
        /// Its name.
        name: String,
        /// When.
        at: Moment,
    },
    /// Nobody can say now.
    #[error(
        "this node cannot look tokens up now ({why}) and has not seen this one before: ask another node, or try again"
    )]
    Unreachable {
        /// What failed.
        why: String,
    },
}

/// What somebody shows to be taken for a token's holder.
#[derive(Debug, Clone, Copy)]
enum Proof<'a> {
    /// The token itself.
    Token(&'a Token),
    /// The fingerprint of a certificate whose key the client has: the handshake made sure of that.
    Certificate(&'a str),
}

#[derive(Debug, Clone)]
struct Known {
    record: TokenRecord,
    read_at: Instant,
}

/// All tokens that this node knows. Clones are the same.
#[derive(Debug, Clone)]
pub struct Keys {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    control: Control,
    bootstrap: Option<TokenHash>,
    failures: Failures,
    known: Mutex<HashMap<String, Known>>,
    /// When all records were read last.
    swept: Mutex<Option<Instant>>,
    /// Held while the store is read. Since when it did not answer, and why.
    silent: tokio::sync::Mutex<Option<(Instant, String)>>,
}

impl Keys {
    /// Of this control plane. A bootstrap token that is too short opens nothing.
    #[must_use]
    pub fn new(control: Control, bootstrap: &str) -> Self {
        let bootstrap = bootstrap.trim();
        let bootstrap = (bootstrap.len() >= BOOTSTRAP_LEN_MIN).then(|| TokenHash::of(bootstrap));
        let (known, swept, silent) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        Self {
            inner: Arc::new(Inner {
                control,
                bootstrap,
                failures: Failures::default(),
                known,
                swept,
                silent,
            }),
        }
    }

    /// Wrong tokens, by address.
    pub(super) fn failures(&self) -> &Failures {
        &self.inner.failures
    }

    /// Reads all records, for ever.
    pub async fn sweep_for_ever(self) {
        loop {
            if let Err(error) = self.sweep().await {
                tracing::debug!(%error, "the tokens cannot be read");
            }
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    }

    /// The holder of the bootstrap token, if this is it.
    #[must_use]
    pub fn bootstrap(&self, text: &str) -> Option<Holder> {
        let is_it = self.inner.bootstrap.as_ref().is_some_and(|hash| hash.accepts(text));
        let holder = || Holder { name: BOOTSTRAP.to_owned(), role: Role::Admin, token: None, stale: false };
        is_it.then(holder)
    }

    /// What is known without asking the store.
    #[must_use]
    pub fn at_hand(&self, token: &Token) -> Option<Result<Holder, Refused>> {
        self.at_hand_for(token.id(), Proof::Token(token))
    }

    fn at_hand_for(&self, id: &str, proof: Proof<'_>) -> Option<Result<Holder, Refused>> {
        let known = self.known().get(id).cloned()?;
        (known.read_at.elapsed() < FRESH).then(|| judge(&known.record, proof, now(), false))
    }

    /// Who has the token.
    ///
    /// # Errors
    /// When it is not taken; says why.
    pub async fn look(&self, token: &Token) -> Result<Holder, Refused> {
        self.look_for(token.id(), Proof::Token(token)).await
    }

    /// Who has the token that goes with the client's certificate of this fingerprint. Where this node knows no good one, it looks
    /// for one in the store, at most once in [`FRESH`]: another may have taken the place of one that has ended.
    ///
    /// # Errors
    /// When there is none that is taken; says why.
    pub async fn look_by_certificate(&self, fingerprint: &str) -> Result<Holder, Refused> {
        let proof = Proof::Certificate(fingerprint);
        if let Some(id) = self.id_of(fingerprint) {
            let verdict = self.look_for(&id, proof).await;
            if matches!(verdict, Ok(_) | Err(Refused::Unreachable { .. })) {
                return verdict;
            }
        }
        self.sweep_if_old().await?;
        let id = self.id_of(fingerprint).ok_or(Refused::NoToken)?;
        self.look_for(&id, proof).await
    }

    /// The token that goes with the certificate: the good one, if there is one.
    fn id_of(&self, fingerprint: &str) -> Option<String> {
        let (known, now) = (self.known(), now());
        let records = known.values().map(|known| &known.record);
        let ours = records.filter(|record| record.certificate.as_deref() == Some(fingerprint));
        ours.min_by_key(|record| record.ended(now).is_some()).map(|record| record.id.clone())
    }

    async fn sweep_if_old(&self) -> Result<(), Refused> {
        let mut silent = self.inner.silent.lock().await;
        let is_new = |at: &Option<Instant>| at.is_some_and(|at| at.elapsed() < FRESH);
        if is_new(&self.swept()) {
            return Ok(());
        }
        if let Some((since, why)) = silent.as_ref()
            && since.elapsed() < READ_DEADLINE
        {
            return Err(Refused::Unreachable { why: why.clone() });
        }
        let read = tokio::time::timeout(READ_DEADLINE, self.sweep()).await;
        let Err(error) = read.unwrap_or_else(|_| Err(late())) else {
            *silent = None;
            return Ok(());
        };
        let why = error.to_string();
        *silent = Some((Instant::now(), why.clone()));
        Err(Refused::Unreachable { why })
    }

    /// Reads all records.
    async fn sweep(&self) -> Result<(), ReadError> {
        let read_at = Instant::now();
        self.replace(self.inner.control.tokens().await?, read_at);
        *self.swept() = Some(read_at);
        Ok(())
    }

    async fn look_for(&self, id: &str, proof: Proof<'_>) -> Result<Holder, Refused> {
        if let Some(verdict) = self.at_hand_for(id, proof) {
            return verdict;
        }
        let mut silent = self.inner.silent.lock().await;
        // Somebody may have read it while this one waited.
        if let Some(verdict) = self.at_hand_for(id, proof) {
            return verdict;
        }
        if let Some((since, why)) = silent.as_ref()
            && since.elapsed() < READ_DEADLINE
        {
            return self.without_store(id, proof, why);
        }
        // As old as the moment before it was read: it may have changed while it was on its way.
        let read_at = Instant::now();
        match self.read(id).await {
            Ok(record) => {
                *silent = None;
                let verdict = match &record {
                    Some(record) => judge(record, proof, now(), false),
                    None => Err(Refused::Unknown),
                };
                self.note(id, record, read_at);
                verdict
            }
            Err(error) => {
                let why = error.to_string();
                let verdict = self.without_store(id, proof, &why);
                *silent = Some((Instant::now(), why));
                verdict
            }
        }
    }

    /// Takes a record that was just written here.
    pub fn note_written(&self, record: &TokenRecord) {
        self.note(&record.id, Some(record.clone()), Instant::now());
    }

    async fn read(&self, id: &str) -> Result<Option<TokenRecord>, ReadError> {
        let read = tokio::time::timeout(READ_DEADLINE, self.inner.control.token(id));
        read.await.unwrap_or_else(|_| Err(late()))
    }

    fn without_store(&self, id: &str, proof: Proof<'_>, why: &str) -> Result<Holder, Refused> {
        let known = self.known().get(id).cloned();
        match known.filter(|known| known.read_at.elapsed() < STALE_MAX) {
            Some(known) => judge(&known.record, proof, now(), true),
            None => Err(Refused::Unreachable { why: why.to_owned() }),
        }
    }

    /// Unless something newer is known.
    fn note(&self, id: &str, record: Option<TokenRecord>, read_at: Instant) {
        let mut known = self.known();
        if known.get(id).is_some_and(|known| known.read_at > read_at) {
            return;
        }
        match record {
            Some(record) => known.insert(id.to_owned(), Known { record, read_at }),
            None => known.remove(id),
        };
    }

    fn replace(&self, records: Vec<TokenRecord>, read_at: Instant) {
        let all = records.into_iter().map(|record| (record.id.clone(), Known { record, read_at }));
        let mut all: HashMap<String, Known> = all.collect();
        let mut known = self.known();
        let newer = known.drain().filter(|(_, known)| known.read_at > read_at);
        all.extend(newer);
        *known = all;
    }

    fn swept(&self) -> MutexGuard<'_, Option<Instant>> {
        self.inner.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        // Whole after any panic in between: each change is one call.
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn late() -> ReadError {
    ReadError::Unavailable(format!("it did not answer within {READ_DEADLINE:?}"))
}

/// The proof first: who does not have it learns nothing of the record.
fn judge(record: &TokenRecord, proof: Proof<'_>, now: Moment, stale: bool) -> Result<Holder, Refused> {
    match proof {
        Proof::Token(token) if token.hash() != record.hash => return Err(Refused::Unknown),
        Proof::Certificate(fingerprint) if record.certificate.as_deref() != Some(fingerprint) => {
            return Err(Refused::NoToken);
        }
        Proof::Token(_) | Proof::Certificate(_) => {}
    }
    if let Some(at) = record.revoked_at {
        return Err(Refused::Revoked { name: record.name.clone(), at });
    }
    if record.expires_at <= now {
        return Err(Refused::Expired { name: record.name.clone(), at: record.expires_at });
    }
    Ok(Holder {
        name: record.name.clone(),
        role: record.role,
        token: Some((record.id.clone(), record.expires_at)),
        stale,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_judged_by_secret_then_revocation_then_time() {
        let token = Token::generate().unwrap();
        let record = TokenRecord {
            id: token.id().to_owned(),
            name: "ci".to_owned(),
            role: Role::Operator,
            hash: token.hash(),
            certificate: Some("sha256:1".to_owned()),
            created_at: Moment(1),
            created_by: "ada".to_owned(),
            expires_at: Moment(100),
            revoked_at: None,
            revoked_by: None,
        };
        let holder = judge(&record, Proof::Token(&token), Moment(99), true).unwrap();
        assert_eq!((holder.name.as_str(), holder.role, holder.stale), ("ci", Role::Operator, true));
        let expired = judge(&record, Proof::Certificate("sha256:1"), Moment(100), false);
        assert_eq!(expired, Err(Refused::Expired { name: "ci".to_owned(), at: Moment(100) }));
        let revoked = TokenRecord { revoked_at: Some(Moment(7)), ..record };
        let verdict = judge(&revoked, Proof::Token(&token), Moment(500), false);
        assert_eq!(verdict, Err(Refused::Revoked { name: "ci".to_owned(), at: Moment(7) }));
        let other = Token::generate().unwrap();
        assert_eq!(judge(&revoked, Proof::Token(&other), Moment(8), false), Err(Refused::Unknown));
        let other = judge(&revoked, Proof::Certificate("sha256:2"), Moment(8), false);
        assert_eq!(other, Err(Refused::NoToken));
    }

    #[test]
    fn a_revocation_holds_within_what_is_promised() {
        assert_eq!(FRESH + READ_DEADLINE, REVOKED_WITHIN);
    }
}
