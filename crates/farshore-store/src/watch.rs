//! A watch that reads the change log from its own cursor whenever the head moves.
//!
//! There is no queue between writers and watchers: a slow watcher holds nothing but its cursor, a fast one reads the
//! same log. Hence no gap and no duplicate can arise between "replay" and "live": there is no such border.

use std::collections::VecDeque;
use std::fmt::Debug;

use async_trait::async_trait;
use farshore_core::store::{Change, ReadError, Revision, Watch};
use tokio::sync::watch::Receiver;

/// Changes read from the log at a time; a revision is never split, so that the cursor is a revision.
pub const BATCH_CHANGES: usize = 256;

/// Bytes read from the log at a time, for values near their longest; a revision is never split.
pub const BATCH_BYTES: u64 = 1 << 20;

/// Where a store is, told to its watches after every commit.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// The last durable revision.
    pub revision: Revision,
    /// Why nothing will ever follow, once that is so.
    pub failed: Option<String>,
}

/// A stretch of the change log.
#[derive(Debug, Default)]
pub struct Stretch {
    /// The changes that match, in revision order, and within a revision in the order of the transaction.
    pub changes: Vec<Change>,
    /// Everything up to here was looked at.
    pub through: Revision,
}

/// What a watch reads from.
#[async_trait]
pub trait Log: Debug + Send + Sync {
    /// The next stretch of changes after `after` whose keys start with `prefix`. Ends with a whole revision, at the
    /// latest after the one with which it reaches [`BATCH_CHANGES`] or [`BATCH_BYTES`].
    async fn read(&self, prefix: &str, after: Revision) -> Result<Stretch, ReadError>;
}

/// Follows a [`Log`]. Dropping the future of [`Watch::next`] loses nothing: the cursor moves only with what is handed
/// out or kept.
#[derive(Debug)]
pub struct Follow<L> {
    log: L,
    prefix: String,
    cursor: Revision,
    ready: VecDeque<Change>,
    head: Receiver<Head>,
}

impl<L: Log> Follow<L> {
    /// Follows `log` from the first change after `after`.
    pub fn new(log: L, prefix: &str, after: Revision, head: Receiver<Head>) -> Self {
        Self { log, prefix: prefix.to_owned(), cursor: after, ready: VecDeque::new(), head }
    }

    async fn wait(&mut self) -> Result<(), ReadError> {
        let cursor = self.cursor;
        let moved = self.head.wait_for(|head| head.revision > cursor || head.failed.is_some()).await;
        match moved.as_deref() {
            Ok(Head { failed: Some(why), revision }) if *revision <= cursor => {
                Err(ReadError::Unavailable(why.clone()))
            }
            Ok(_) => Ok(()),
            Err(_) => Err(ReadError::Unavailable("the store was closed".into())),
        }
    }
}

#[async_trait]
impl<L: Log> Watch for Follow<L> {
    async fn next(&mut self) -> Result<Change, ReadError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            self.wait().await?;
            let stretch = self.log.read(&self.prefix, self.cursor).await?;
            self.cursor = stretch.through;
            self.ready.extend(stretch.changes);
        }
    }
}
