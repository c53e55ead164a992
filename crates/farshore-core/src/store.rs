//! The port to what remembers: a small transactional key-value store with revisions.
//!
//! Implemented in `farshore-store` (memory, redb, etcd), all held to one conformance suite there.
//! Keys are UTF-8 paths (`items/machine/web-1/own`), values are bytes (JSON by convention, so that a person can
//! read a dump). One revision counter for the whole store rises with each committed transaction: by one, or by more where
//! others write to the same etcd.

use async_trait::async_trait;

/// The store-wide counter; each committed transaction raises it. `Revision(0)`: before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// A value and when it was last changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Full key.
    pub key: String,
    /// The bytes, JSON by convention.
    pub value: Vec<u8>,
    /// The revision of the transaction that wrote this value.
    pub revision: Revision,
}

/// What must be true of one key for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists and was last changed at this revision.
    At(String, Revision),
}

/// One change in a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets the key.
    Put(String, Vec<u8>),
    /// Removes the key; removing what is not there is no error.
    Delete(String),
}

/// All compares, then all writes, or nothing. At most [`TRANSACTION_OPS_MAX`] of both together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// All are done, in order; a later write to the same key is refused as `Invalid`.
    pub writes: Vec<Write>,
}

/// etcd's default limit is 128 operations in a transaction, and one is the store's own; the same limit holds on every
/// store.
pub const TRANSACTION_OPS_MAX: usize = 127;
/// Most bytes of all keys and values of a transaction, keys of compares counted twice: etcd refuses requests over
/// 1.5 MiB, and needs some for itself.
pub const TRANSACTION_LEN_MAX: usize = 1_500_000;
/// Longest value.
pub const VALUE_LEN_MAX: usize = 1 << 20;
/// Longest key.
pub const KEY_LEN_MAX: usize = 512;

/// Why a transaction did not happen, or may have.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A compare did not hold: read again and decide again. Nothing was changed.
    #[error("{key} was changed by someone else")]
    Conflict {
        /// The first key whose compare failed.
        key: String,
    },
    /// It may have happened: read (linearizably) before deciding anything.
    #[error("the outcome of the transaction is unknown: {0}")]
    Unknown(String),
    /// The store cannot be reached or cannot write. Nothing was changed.
    #[error("the store cannot be written: {0}")]
    Unavailable(String),
    /// The transaction breaks a limit. Nothing was changed; a defect in the caller.
    #[error("invalid transaction: {0}")]
    Invalid(String),
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store cannot be reached: says nothing about what is in it.
    #[error("the store cannot be read: {0}")]
    Unavailable(String),
    /// What was read is damaged; the text names the file and what is safe to do.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// A change seen by a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key was set.
    Put(Entry),
    /// The key was removed at this revision.
    Deleted {
        /// The key that went.
        key: String,
        /// When.
        revision: Revision,
    },
}

/// A stream of changes in revision order, without gaps. Once the first change of a revision was handed out, `next` has
/// the others of that revision without waiting.
#[async_trait]
pub trait Watch: Send {
    /// The next change; waits for it. Dropping the future loses nothing. `Err` when the watch cannot promise gaplessness any longer (compacted, or too
    /// far behind): list again and watch from the list's revision.
    async fn next(&mut self) -> Result<Change, ReadError>;
}

/// What remembers. All methods are linearizable.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The value of one key, if it exists.
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError>;
    /// All entries whose key starts with `prefix`, sorted by key, and the revision at which this was true.
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), ReadError>;
    /// All or nothing. Returns the revision of the commit; it is durable then.
    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError>;
    /// Changes of keys that start with `prefix`, from the first after `after`.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError>;
}
