//! The store as the engine knows it: typed reads, and transactions that carry their audit entry.
//!
//! Must always hold: the audit chain has no gaps and no forks, because every entry is written only if its number is
//! still free, in the transaction of the act that it tells of.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use farshore_core::ids::{ItemId, JobId, Region};
use farshore_core::job::Job;
use farshore_core::lifecycle::Item;
use farshore_core::moment::Moment;
use farshore_core::store::{
    Change, CommitError, Compare, Entry, ReadError, Revision, Store, Transaction, Write,
};
use farshore_store::mirror::{Mirror, MirrorState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::now;
use super::records::{
    AUDIT, AuditEntry, AuditLine, DIRECTORY, DirectoryRecord, ITEMS, ItemJob, JOBS, LogEntry, Meta, REGIONS,
    RegionRecord, audit_key, directory_key, item_job_key, job_key, log_prefix, no_previous, own_key,
};

/// A transaction that meets another writer of the audit chain is tried again this often; each time it has moved on by
/// at least one entry of somebody else.
const AUDIT_ATTEMPTS_MAX: u32 = 50;
/// How often a transaction with an unknown outcome is looked up and, if it did not happen, tried again.
const UNKNOWN_ATTEMPTS_MAX: u32 = 5;
/// Between those.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(200);
/// etcd elects a new leader in about 2.2 s: what is asked meanwhile waits for it instead of failing.
const ELECTION_PATIENCE: Duration = Duration::from_secs(6);
/// The copy in memory usually has what was written here within milliseconds; after this the store itself is read.
const OWN_WRITES_PATIENCE: Duration = Duration::from_millis(250);

/// A decoded value and when it was last written.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) revision: Revision,
}

/// The end of the audit chain, as far as this process knows.
#[derive(Debug, Clone)]
struct Head {
    number: u64,
    hash: String,
}

/// Whether the store can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// It can, as far as is known.
    Live,
    /// It cannot: what was last known is answered, and nothing is changed.
    ReadOnly {
        /// Since when.
        since: Moment,
        /// What is wrong.
        why: String,
    },
}

/// Where typed reads get their entries from.
#[derive(Debug)]
enum Source {
    /// Linearizable: what decides reads here. With the copy, which knows whether the store is out of reach for longer than
    /// an election of its leader takes.
    Store(Arc<dyn Store>, Option<Mirror>),
    /// The copy in memory: what people look at.
    Mirror(Mirror),
}

impl Source {
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        match self {
            Self::Store(store, mirror) => patiently(mirror.as_ref(), || store.get(key), is_away).await,
            Self::Mirror(mirror) => Ok(mirror.get(key)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, ReadError> {
        match self {
            Self::Store(store, mirror) => {
                let list = patiently(mirror.as_ref(), || store.list(prefix), is_away);
                Ok(list.await?.0)
            }
            Self::Mirror(mirror) => Ok(mirror.list(prefix)),
        }
    }
}

fn is_away(error: &ReadError) -> bool {
    matches!(error, ReadError::Unavailable(_))
}

/// Asks again while the store may only be electing a leader. A store that is known to be out of reach, and one that elects
/// none, is not waited for.
async fn patiently<T, E, A: Future<Output = Result<T, E>>>(
    mirror: Option<&Mirror>,
    ask: impl Fn() -> A,
    is_away: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let until = Instant::now() + ELECTION_PATIENCE;
    loop {
        let electing = || mirror.is_some_and(|mirror| !matches!(mirror.state(), MirrorState::Stale { .. }));
        match ask().await {
            Err(error) if is_away(&error) && electing() && Instant::now() < until => {
                tokio::time::sleep(UNKNOWN_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// Typed reads.
#[derive(Debug)]
pub(crate) struct View {
    source: Source,
}

/// Typed access to the store.
#[derive(Debug)]
pub(crate) struct Book {
    store: Arc<dyn Store>,
    mirror: Option<Mirror>,
    /// Linearizable reads.
    strict: View,
    /// The newest revision that this process has written: what it looks at is at least as new.
    written: AtomicU64,
    /// Held while a transaction with an audit entry is committed, so that one process does not race itself.
    head: Mutex<Option<Head>>,
}

impl Deref for Book {
    type Target = View;
    /// What is read without saying how is read from the store itself.
    fn deref(&self) -> &View {
        &self.strict
    }
}

impl View {
    /// Whether it is the copy in memory, which may not know yet what the store has.
    pub(crate) fn is_copy(&self) -> bool {
        matches!(self.source, Source::Mirror(_))
    }

    pub(crate) async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<At<T>>, ReadError> {
        self.source.get(key).await?.map(|entry| decode(&entry)).transpose()
    }

    pub(crate) async fn meta(&self) -> Result<Option<At<Meta>>, ReadError> {
        self.read(super::records::META).await
    }

    pub(crate) async fn item(&self, id: &ItemId) -> Result<Option<At<Item>>, ReadError> {
        self.read(&own_key(id)).await
    }

    pub(crate) async fn items(&self) -> Result<Vec<Item>, ReadError> {
        let entries = self.source.list(ITEMS).await?;
        let own = entries.iter().filter(|entry| entry.key.ends_with("/own"));
        own.map(|entry| decode(entry).map(|at| at.value)).collect()
    }

    /// All items, and the names of those that a job holds, from one read.
    pub(crate) async fn items_and_busy(&self) -> Result<(Vec<Item>, BTreeSet<ItemId>), ReadError> {
        let entries = self.source.list(ITEMS).await?;
        let busy = entries.iter().filter_map(|entry| {
            let id = entry.key.strip_prefix(ITEMS)?.strip_suffix("/job")?;
            ItemId::parse(id).ok()
        });
        let busy = busy.collect();
        let own = entries.iter().filter(|entry| entry.key.ends_with("/own"));
        let items = own.map(|entry| decode(entry).map(|at| at.value)).collect::<Result<_, _>>()?;
        Ok((items, busy))
    }

    pub(crate) async fn item_job(&self, id: &ItemId) -> Result<Option<JobId>, ReadError> {
        let at: Option<At<ItemJob>> = self.read(&item_job_key(id)).await?;
        Ok(at.map(|at| at.value.job))
    }

    pub(crate) async fn job(&self, id: &JobId) -> Result<Option<At<Job>>, ReadError> {
        self.read(&job_key(id)).await
    }

    /// The jobs that hold an item.
    pub(crate) async fn jobs_under_way(&self) -> Result<Vec<JobId>, ReadError> {
        let entries = self.source.list(ITEMS).await?;
        let held = entries.iter().filter(|entry| entry.key.ends_with("/job"));
        held.map(|entry| decode(entry).map(|at: At<ItemJob>| at.value.job)).collect()
    }

    /// All jobs, oldest first; one that cannot be read is given as its error, and the others go on.
    pub(crate) async fn jobs(&self) -> Result<Vec<(JobId, Result<Job, ReadError>)>, ReadError> {
        let entries = self.source.list(JOBS).await?;
        let jobs = entries.iter().filter_map(|entry| {
            let id = entry.key.strip_prefix(JOBS)?;
            (!id.contains('/')).then(|| (JobId(id.to_owned()), decode(entry).map(|at| at.value)))
        });
        Ok(jobs.collect())
    }

    pub(crate) async fn job_log(&self, id: &JobId) -> Result<Vec<LogEntry>, ReadError> {
        self.values(&log_prefix(id)).await
    }

    pub(crate) async fn regions(&self) -> Result<Vec<RegionRecord>, ReadError> {
        self.values(REGIONS).await
    }

    pub(crate) async fn region(&self, region: &Region) -> Result<Option<RegionRecord>, ReadError> {
        Ok(self.regions().await?.into_iter().find(|record| record.name == *region))
    }

    pub(crate) async fn directory(&self, name: &str) -> Result<Option<DirectoryRecord>, ReadError> {
        Ok(self.read(&directory_key(name)).await?.map(|at| at.value))
    }

    pub(crate) async fn directory_all(&self) -> Result<Vec<DirectoryRecord>, ReadError> {
        self.values(DIRECTORY).await
    }

    pub(crate) async fn audit(&self) -> Result<Vec<AuditEntry>, ReadError> {
        self.values(AUDIT).await
    }

    /// As they are stored, by key.
    pub(crate) async fn entries(&self, prefix: &str) -> Result<Vec<Entry>, ReadError> {
        self.source.list(prefix).await
    }

    pub(crate) async fn values<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, ReadError> {
        let entries = self.source.list(prefix).await?;
        entries.iter().map(|entry| decode(entry).map(|at| at.value)).collect()
    }
}

impl Book {
    pub(crate) fn new(store: Arc<dyn Store>, mirrored: bool) -> Self {
        let mirror = mirrored.then(|| Mirror::start(Arc::clone(&store), ""));
        let strict = View { source: Source::Store(Arc::clone(&store), mirror.clone()) };
        Self { store, mirror, strict, written: AtomicU64::new(0), head: Mutex::new(None) }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// For what people look at: the copy in memory, where there is one. It has at least what this process has written. A
    /// copy that has nothing yet is not looked at.
    pub(crate) async fn view(&self) -> View {
        let strict = View { source: Source::Store(Arc::clone(&self.store), self.mirror.clone()) };
        let Some(mirror) = &self.mirror else { return strict };
        match mirror.state() {
            MirrorState::Starting { .. } => strict,
            MirrorState::Stale { .. } => View { source: Source::Mirror(mirror.clone()) },
            MirrorState::Live => {
                let written = Revision(self.written.load(Ordering::Acquire));
                match mirror.reach(written, OWN_WRITES_PATIENCE).await {
                    true => View { source: Source::Mirror(mirror.clone()) },
                    false => strict,
                }
            }
        }
    }

    /// Whether the store can be reached.
    pub(crate) fn state(&self) -> StoreState {
        match self.mirror.as_ref().map(Mirror::state) {
            None | Some(MirrorState::Live) => StoreState::Live,
            Some(MirrorState::Starting { since, why } | MirrorState::Stale { since, why }) => {
                StoreState::ReadOnly { since, why }
            }
        }
    }

    /// Commits `transaction` with its audit entry, if any. On return it is durable. A conflict is never one of the
    /// audit chain: those are tried again here.
    pub(crate) async fn commit(
        &self,
        transaction: Transaction,
        audit: Option<AuditLine>,
    ) -> Result<Revision, CommitError> {
        let Some(line) = audit else { return self.commit_known(transaction).await };
        let mut head = self.head.lock().await;
        let mut at = match head.take() {
            Some(head) => head,
            None => self.find_head(None).await.map_err(unread)?,
        };
        for _ in 0..AUDIT_ATTEMPTS_MAX {
            let number = at.number + 1;
            let entry = AuditEntry::chained(line.clone(), &at.hash, now());
            let mut with_audit = transaction.clone();
            with_audit.compares.push(Compare::Absent(audit_key(number)));
            with_audit.writes.push(put(audit_key(number), &entry)?);
            match self.commit_known(with_audit).await {
                Ok(revision) => {
                    *head = Some(Head { number, hash: entry.hash });
                    return Ok(revision);
                }
                Err(CommitError::Conflict { key }) if key == audit_key(number) => {
                    at = self.find_head(Some(at)).await.map_err(unread)?;
                }
                // Nothing was added: the head is still where it was. Where that is not sure, it is looked for again.
                Err(error @ CommitError::Conflict { .. }) => {
                    *head = Some(at);
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(CommitError::Unavailable("the audit chain is written by too many others at once".to_owned()))
    }

    /// The last entry, from `known` on where there is one: other nodes add to the chain as well.
    async fn find_head(&self, known: Option<Head>) -> Result<Head, ReadError> {
        let Some(mut head) = known else { return self.last_head().await };
        while let Some(next) = self.read::<AuditEntry>(&audit_key(head.number + 1)).await? {
            head = Head { number: head.number + 1, hash: next.value.hash };
        }
        Ok(head)
    }

    async fn last_head(&self) -> Result<Head, ReadError> {
        let (entries, _) = self.store.list(AUDIT).await?;
        let Some(last) = entries.last() else { return Ok(Head { number: 0, hash: no_previous() }) };
        let entry: At<AuditEntry> = decode(last)?;
        let number = last
            .key
            .strip_prefix(AUDIT)
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| ReadError::Damaged(format!("{} is no key of an audit entry", last.key)))?;
        Ok(Head { number, hash: entry.value.hash })
    }

    /// Commits, and finds out what happened when the store does not know.
    async fn commit_known(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        let mut last = String::new();
        for _ in 0..UNKNOWN_ATTEMPTS_MAX {
            let commit = || self.store.commit(transaction.clone());
            let is_away = |error: &CommitError| matches!(error, CommitError::Unavailable(_));
            match patiently(self.mirror.as_ref(), commit, is_away).await {
                Err(CommitError::Unknown(what)) => last = what,
                Ok(revision) => return Ok(self.wrote(revision)),
                known => return known,
            }
            tokio::time::sleep(UNKNOWN_PAUSE).await;
            if let Ok(Some(revision)) = self.happened(&transaction).await {
                return Ok(self.wrote(revision));
            }
        }
        Err(CommitError::Unknown(last))
    }

    fn wrote(&self, revision: Revision) -> Revision {
        self.written.fetch_max(revision.0, Ordering::AcqRel);
        revision
    }

    /// Whether the transaction's first value is in the store. Each of the engine's values is written by one
    /// transaction only: it holds the time and a counter.
    async fn happened(&self, transaction: &Transaction) -> Result<Option<Revision>, ReadError> {
        let first = transaction.writes.iter().find_map(|write| match write {
            Write::Put(key, value) => Some((key, value)),
            Write::Delete(_) => None,
        });
        let Some((key, value)) = first else { return Ok(None) };
        let entry = self.store.get(key).await?;
        Ok(entry.filter(|entry| entry.value == *value).map(|entry| entry.revision))
    }
}

fn unread(error: ReadError) -> CommitError {
    CommitError::Unavailable(error.to_string())
}

/// The job that a change in the store is about, if it is about a job's own record.
#[must_use]
pub fn changed_job(change: &Change) -> Option<JobId> {
    let key = match change {
        Change::Put(entry) => &entry.key,
        Change::Deleted { key, .. } => key,
    };
    let id = key.strip_prefix(JOBS)?;
    (!id.contains('/')).then(|| JobId(id.to_owned()))
}

pub(crate) fn put<T: Serialize>(key: String, value: &T) -> Result<Write, CommitError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| CommitError::Invalid(format!("{key} cannot be written as JSON: {error}")))?;
    Ok(Write::Put(key, bytes))
}

pub(crate) fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<At<T>, ReadError> {
    let value = serde_json::from_slice(&entry.value).map_err(|error| {
        ReadError::Damaged(format!(
            "the record {} does not read as what it should be ({error}): look at it with farshore store dump, and \
             restore the store from a backup or upgrade this program",
            entry.key
        ))
    })?;
    Ok(At { value, revision: entry.revision })
}
