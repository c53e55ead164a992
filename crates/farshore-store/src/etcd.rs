//! etcd as the store: for control planes of many nodes. Spoken with through its HTTP/JSON gateway, which every release
//! since 3.4 has.
//!
//! Read in this order: this file (the port), [`options`] (where, and how), [`wire`] (the bytes), [`members`] (whom to
//! believe), [`commit`] and [`watch`] (what needs care), [`local`] (real members on this machine, for trying out).
//!
//! Must always hold: only transactions and linearizable reads are used, never leases or locks; a commit that may have
//! happened is never called failed, and one that may not have happened is never called done; an error that is not
//! understood says nothing about what is stored.

pub mod local;
pub mod ports;

mod commit;
mod members;
mod options;
mod watch;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use farshore_core::store::{CommitError, Entry, ReadError, Revision, Store, Transaction, Watch};

use crate::rules;
use members::{CallError, Members};
use watch::EtcdWatch;
use wire::{Answer as _, Bytes, KeyValue, RangeAnswer, RangeRequest};

pub use options::{EtcdError, EtcdOptions, EtcdTls};

/// Keys on the first page of a list: sixteen of the longest values are 16 MiB.
const PAGE_KEYS_FIRST: u64 = 64;

/// Keys on a page of small values.
const PAGE_KEYS_MAX: u64 = 4096;

/// Pages grow and shrink towards this size.
const PAGE_BYTES: usize = 2 << 20;

/// How often a list is begun again when its revision was compacted while it was read. etcd compacts every few minutes.
const LIST_ATTEMPTS_MAX: usize = 3;

/// etcd's own words when the revision of a read is no longer kept.
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// The store in etcd. Clones are the same client: connections, and what is known of the members, are shared.
#[derive(Debug, Clone)]
pub struct EtcdStore {
    members: Arc<Members>,
    keys: Keys,
}

impl EtcdStore {
    /// Checks `options`; asks nobody. The members need not be up.
    pub fn connect(options: EtcdOptions) -> Result<Self, EtcdError> {
        let members = Arc::new(Members::new(&options)?);
        Ok(Self { members, keys: Keys { prefix: options.prefix } })
    }

    async fn range(&self, request: &RangeRequest) -> Result<RangeAnswer, CallError> {
        self.members.read("/v3/kv/range", request).await
    }

    /// All pages at the revision of the first; `None` when that was compacted meanwhile.
    async fn pages(&self, prefix: &str) -> Result<Option<(Vec<Entry>, Revision)>, ReadError> {
        let (key, range_end) = self.keys.range(prefix);
        let mut request = RangeRequest {
            key,
            range_end: Some(range_end),
            limit: PAGE_KEYS_FIRST,
            ..RangeRequest::default()
        };
        let mut entries = Vec::new();
        loop {
            let answer = match self.range(&request).await {
                Err(CallError::Refused(refusal)) if refusal.message == COMPACTED => return Ok(None),
                answer => answer.map_err(unavailable)?,
            };
            if request.revision == 0 {
                request.revision = answer.header().revision;
            }
            request.limit = next_limit(request.limit, &answer.kvs);
            if let Some(last) = answer.kvs.last() {
                request.key = Bytes([last.key.0.as_slice(), b"\0"].concat());
            }
            let more = answer.more && !answer.kvs.is_empty();
            for kv in answer.kvs {
                entries.push(self.keys.entry(kv)?);
            }
            if !more {
                return Ok(Some((entries, Revision(request.revision))));
            }
        }
    }
}

fn next_limit(limit: u64, page: &[KeyValue]) -> u64 {
    let bytes: usize = page.iter().map(|kv| kv.key.0.len() + kv.value.0.len()).sum();
    match bytes {
        bytes if bytes > PAGE_BYTES => (limit / 4).max(1),
        bytes if bytes < PAGE_BYTES / 4 => (limit * 4).min(PAGE_KEYS_MAX),
        _ => limit,
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        let request = RangeRequest { key: self.keys.of(key), ..RangeRequest::default() };
        let answer = self.range(&request).await.map_err(unavailable)?;
        answer.kvs.into_iter().next().map(|kv| self.keys.entry(kv)).transpose()
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), ReadError> {
        for _ in 0..LIST_ATTEMPTS_MAX {
            if let Some(listed) = self.pages(prefix).await? {
                return Ok(listed);
            }
        }
        Err(ReadError::Unavailable(format!(
            "the list of {prefix} was compacted while it was read, {LIST_ATTEMPTS_MAX} times: keep more revisions in etcd \
             (--auto-compaction-retention)"
        )))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        rules::check(&transaction)?;
        commit::commit(&self.members, &self.keys, transaction).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        let request =
            RangeRequest { key: Bytes(self.keys.hidden()), keys_only: true, ..RangeRequest::default() };
        let head = self.range(&request).await.map_err(unavailable)?.header().revision;
        rules::check_cursor(after, Revision(0), Revision(head))?;
        Ok(Box::new(EtcdWatch::start(Arc::clone(&self.members), self.keys.clone(), prefix, after)))
    }
}

fn unavailable(error: CallError) -> ReadError {
    ReadError::Unavailable(error.to_string())
}

/// Our keys among the others in etcd.
#[derive(Debug, Clone)]
struct Keys {
    prefix: String,
}

impl Keys {
    fn of(&self, key: &str) -> Bytes {
        Bytes([self.prefix.as_bytes(), key.as_bytes()].concat())
    }

    /// All keys that start with `prefix`, and not the hidden one: `0xff` is after every UTF-8 text, and in none.
    fn range(&self, prefix: &str) -> (Bytes, Bytes) {
        let Bytes(from) = self.of(prefix);
        let end = [from.as_slice(), b"\xff"].concat();
        (Bytes(from), Bytes(end))
    }

    /// Put by transactions that put nothing else. No key of the port can be equal to it: it is not UTF-8.
    fn hidden(&self) -> Vec<u8> {
        [self.prefix.as_bytes(), b"\xffrevision"].concat()
    }

    fn parse(&self, key: &[u8]) -> Result<String, ReadError> {
        let ours = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.prefix));
        ours.map(str::to_owned).ok_or_else(|| {
            ReadError::Damaged(format!(
                "etcd holds the key {} under {}, which is none of ours: remove it with etcdctl",
                key.escape_ascii(),
                self.prefix
            ))
        })
    }

    fn entry(&self, kv: KeyValue) -> Result<Entry, ReadError> {
        Ok(Entry { key: self.parse(&kv.key.0)?, value: kv.value.0, revision: Revision(kv.mod_revision) })
    }
}
