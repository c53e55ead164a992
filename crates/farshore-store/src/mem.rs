//! A store in memory, for tests and simulation. It forgets everything with its last clone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use farshore_core::store::{
    Change, CommitError, Entry, ReadError, Revision, Store, Transaction, Watch, Write,
};
use tokio::sync::watch;

use crate::rules;
use crate::watch::{BATCH_BYTES, BATCH_CHANGES, Follow, Head, Log, Stretch};

/// A store in memory. Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct MemStore {
    shared: Arc<Shared>,
}

impl MemStore {
    /// An empty store at revision 0.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Store for MemStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        Ok(self.shared.lock().entries.get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), ReadError> {
        let state = self.shared.lock();
        let from = state.entries.range(prefix.to_owned()..);
        let entries =
            from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone()).collect();
        Ok((entries, state.revision))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        rules::check(&transaction)?;
        let mut state = self.shared.lock();
        let revision = state.apply(transaction)?;
        // Told under the lock: heads are seen in order.
        self.shared.head.send_modify(|head| head.revision = revision);
        Ok(revision)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        let state = self.shared.lock();
        rules::check_cursor(after, state.compacted, state.revision)?;
        let log = MemLog(Arc::downgrade(&self.shared));
        Ok(Box::new(Follow::new(log, prefix, after, self.shared.head.subscribe())))
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    head: watch::Sender<Head>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // `apply` changes nothing before all that can fail is over.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    revision: Revision,
    entries: BTreeMap<String, Entry>,
    changes: VecDeque<Change>,
    change_bytes: u64,
    /// The log holds every change after this revision.
    compacted: Revision,
}

impl State {
    fn apply(&mut self, transaction: Transaction) -> Result<Revision, CommitError> {
        for compare in &transaction.compares {
            let key = rules::compare_key(compare);
            if !rules::holds(compare, self.entries.get(key).map(|entry| entry.revision)) {
                return Err(CommitError::Conflict { key: key.to_owned() });
            }
        }
        self.revision = Revision(self.revision.0 + 1);
        for write in transaction.writes {
            self.write(write);
        }
        self.forget();
        Ok(self.revision)
    }

    fn write(&mut self, write: Write) {
        let revision = self.revision;
        let change = match write {
            Write::Put(key, value) => {
                let entry = Entry { key: key.clone(), value, revision };
                self.entries.insert(key, entry.clone());
                Change::Put(entry)
            }
            Write::Delete(key) => match self.entries.remove(&key) {
                Some(_) => Change::Deleted { key, revision },
                None => return,
            },
        };
        self.change_bytes += change_len(&change);
        self.changes.push_back(change);
    }

    fn forget(&mut self) {
        while rules::log_is_full(self.changes.len() as u64, self.change_bytes) {
            let Some(oldest) = self.changes.pop_front() else { return };
            self.change_bytes -= change_len(&oldest);
            self.compacted = change_revision(&oldest);
        }
    }
}

/// Does not keep the store alive: a forgotten watch must not.
#[derive(Debug)]
struct MemLog(Weak<Shared>);

#[async_trait]
impl Log for MemLog {
    async fn read(&self, prefix: &str, after: Revision) -> Result<Stretch, ReadError> {
        let shared = self.0.upgrade().ok_or_else(|| ReadError::Unavailable("the store was closed".into()))?;
        let state = shared.lock();
        rules::check_cursor(after, state.compacted, state.revision)?;
        let first = state.changes.partition_point(|change| change_revision(change) <= after);
        let mut stretch = Stretch { changes: Vec::new(), through: state.revision };
        let mut bytes = 0;
        let mut last = after;
        for change in state.changes.range(first..) {
            let revision = change_revision(change);
            if revision > last && (stretch.changes.len() >= BATCH_CHANGES || bytes >= BATCH_BYTES) {
                stretch.through = last;
                break;
            }
            last = revision;
            if change_key(change).starts_with(prefix) {
                bytes += change_len(change);
                stretch.changes.push(change.clone());
            }
        }
        Ok(stretch)
    }
}

fn change_key(change: &Change) -> &str {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Deleted { key, .. } => key,
    }
}

fn change_revision(change: &Change) -> Revision {
    match change {
        Change::Put(entry) => entry.revision,
        Change::Deleted { revision, .. } => *revision,
    }
}

fn change_len(change: &Change) -> u64 {
    match change {
        Change::Put(entry) => rules::change_len(&entry.key, Some(&entry.value)),
        Change::Deleted { key, .. } => rules::change_len(key, None),
    }
}
