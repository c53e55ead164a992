//! The embedded store: one redb file, held by one process.
//!
//! Read in this order: [`tables`] (what is in the file, and one transaction on it), [`mod@file`] (how bytes reach the disk,
//! and what is known after an error), [`open`] (look before you touch), [`commit`] (many transactions, one sync).
//!
//! Must always hold: a verdict is given after the commit it depends on is durable; after a failed sync the file is not
//! written again by this process; redb's panics on damaged input end as an error.

mod commit;
pub(crate) mod file;
pub(crate) mod open;
pub(crate) mod tables;

use std::path::Path;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use farshore_core::store::{CommitError, Entry, ReadError, Revision, Store, Transaction, Watch};
use redb::{ReadTransaction, ReadableDatabase as _};

use crate::rules;
use crate::watch::{Follow, Log, Stretch};
use commit::Shared;

pub use open::OpenError;

/// The embedded store. Clones are the same store; the file is released when the last one is dropped and what it was
/// doing has ended (watches do not hold it).
#[derive(Debug, Clone)]
pub struct RedbStore {
    shared: Arc<Shared>,
}

impl RedbStore {
    /// Opens the store in the file `path`; creates it, durably and in one step, where there is none.
    ///
    /// An existing file is verified as a whole before its first byte is changed: when this fails, the file is as it
    /// was. Blocks for as long as it takes to read the file.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self { shared: Arc::new(Shared::open(path)?) })
    }

    async fn read<T: Send + 'static>(
        &self,
        what: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, ReadError> {
        read(Arc::clone(&self.shared), what).await
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        let key = key.to_owned();
        self.read(move |txn| tables::get(txn, &key)).await
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), ReadError> {
        let prefix = prefix.to_owned();
        self.read(move |txn| tables::list(txn, &prefix)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        rules::check(&transaction)?;
        commit::commit(&self.shared, transaction).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        let head = self.shared.subscribe();
        let (compacted, revision) = self.read(tables::log_range).await?;
        rules::check_cursor(after, compacted, revision)?;
        Ok(Box::new(Follow::new(RedbLog(Arc::downgrade(&self.shared)), prefix, after, head)))
    }
}

/// Does not keep the file open: a forgotten watch must not.
#[derive(Debug)]
struct RedbLog(Weak<Shared>);

#[async_trait]
impl Log for RedbLog {
    async fn read(&self, prefix: &str, after: Revision) -> Result<Stretch, ReadError> {
        let shared = self.0.upgrade().ok_or_else(|| ReadError::Unavailable("the store was closed".into()))?;
        let prefix = prefix.to_owned();
        read(shared, move |txn| {
            let (compacted, head) = tables::log_range(txn)?;
            Ok(match rules::check_cursor(after, compacted, head) {
                Ok(()) => Ok(tables::changes(txn, &prefix, after, head)?),
                Err(refused) => Err(refused),
            })
        })
        .await?
    }
}

/// Runs `what` on a snapshot, on a thread that may block.
async fn read<T: Send + 'static>(
    shared: Arc<Shared>,
    what: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
) -> Result<T, ReadError> {
    let path = shared.path().to_owned();
    let task = tokio::task::spawn_blocking(move || {
        let database = shared.database().map_err(ReadError::Unavailable)?;
        let result = database.begin_read().map_err(redb::Error::from).and_then(|txn| what(&txn));
        result.map_err(|error| open::read_error(shared.path(), &error))
    });
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            Err(ReadError::Damaged(open::damaged(&path, "its contents make no sense").to_string()))
        }
        Err(_) => Err(ReadError::Unavailable("the runtime is shutting down".into())),
    }
}

#[cfg(test)]
mod tests;
