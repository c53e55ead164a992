//! What every store refuses, and how much of the past it remembers: pure, and the same everywhere.

use std::collections::HashSet;

use farshore_core::store::{
    CommitError, Compare, KEY_LEN_MAX, ReadError, Revision, TRANSACTION_LEN_MAX, TRANSACTION_OPS_MAX,
    Transaction, VALUE_LEN_MAX, Write,
};

/// Changes remembered for watches. A watcher that was away for less than this need not list again; at 100 commits
/// per second it is a quarter of an hour.
pub const CHANGES_KEPT_MAX: u64 = 100_000;

/// Bytes of keys and values remembered for watches: what may be spent on disk and read again at every start.
pub const CHANGE_BYTES_KEPT_MAX: u64 = 32 << 20;

/// Refuses a transaction that breaks a limit of the port. Every store asks before it compares anything.
pub fn check(transaction: &Transaction) -> Result<(), CommitError> {
    let ops = transaction.compares.len() + transaction.writes.len();
    if ops > TRANSACTION_OPS_MAX {
        return Err(CommitError::Invalid(format!(
            "{ops} compares and writes, at most {TRANSACTION_OPS_MAX} are allowed: split it"
        )));
    }
    for compare in &transaction.compares {
        check_key(compare_key(compare))?;
    }
    let mut written = HashSet::new();
    for write in &transaction.writes {
        let key = write_key(write);
        check_key(key)?;
        if !written.insert(key) {
            return Err(CommitError::Invalid(format!("{key} is written twice: keep the last write only")));
        }
        check_value(write)?;
    }
    let len = transaction_len(transaction);
    if len > TRANSACTION_LEN_MAX {
        return Err(CommitError::Invalid(format!(
            "the keys and values are {len} bytes, at most {TRANSACTION_LEN_MAX} are allowed: split it"
        )));
    }
    Ok(())
}

fn transaction_len(transaction: &Transaction) -> usize {
    // etcd is asked for the key of a compare once more, to name it when it fails.
    let compares: usize = transaction.compares.iter().map(|compare| 2 * compare_key(compare).len()).sum();
    let write_len = |write: &Write| match write {
        Write::Put(key, value) => key.len() + value.len(),
        Write::Delete(key) => key.len(),
    };
    compares + transaction.writes.iter().map(write_len).sum::<usize>()
}

/// The key a compare looks at.
pub fn compare_key(compare: &Compare) -> &str {
    match compare {
        Compare::Absent(key) | Compare::At(key, _) => key,
    }
}

/// The key a write changes.
pub fn write_key(write: &Write) -> &str {
    match write {
        Write::Put(key, _) | Write::Delete(key) => key,
    }
}

/// Whether `compare` holds for a key last changed at `current` (`None`: it does not exist).
pub fn holds(compare: &Compare, current: Option<Revision>) -> bool {
    match compare {
        Compare::Absent(_) => current.is_none(),
        Compare::At(_, revision) => current == Some(*revision),
    }
}

/// What a change costs in the log.
pub fn change_len(key: &str, value: Option<&[u8]>) -> u64 {
    (key.len() + value.map_or(0, <[u8]>::len)) as u64
}

/// Whether the log is over either of its limits, so that its oldest change must go.
pub fn log_is_full(changes: u64, bytes: u64) -> bool {
    changes > CHANGES_KEPT_MAX || bytes > CHANGE_BYTES_KEPT_MAX
}

/// Refuses a watch after `after` when the log has lost changes up to `compacted`, or has not come to `after` yet
/// (then the store is not the one the revision came from: it was restored).
pub fn check_cursor(after: Revision, compacted: Revision, head: Revision) -> Result<(), ReadError> {
    if after < compacted {
        return Err(ReadError::Unavailable(format!(
            "compacted: changes up to revision {} are no longer kept, and the watch was at {}: list again and watch \
             from the list's revision",
            compacted.0, after.0
        )));
    }
    if after > head {
        return Err(ReadError::Unavailable(format!(
            "revision {} is ahead of the store, which is at {} (restored from a backup?): list again and watch from \
             the list's revision",
            after.0, head.0
        )));
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), CommitError> {
    if key.is_empty() {
        return Err(CommitError::Invalid("a key is empty".into()));
    }
    if key.len() > KEY_LEN_MAX {
        let start: String = key.chars().take(40).collect();
        return Err(CommitError::Invalid(format!(
            "the key that starts with {start} is {} bytes long, at most {KEY_LEN_MAX} are allowed",
            key.len()
        )));
    }
    Ok(())
}

fn check_value(write: &Write) -> Result<(), CommitError> {
    match write {
        Write::Put(key, value) if value.len() > VALUE_LEN_MAX => Err(CommitError::Invalid(format!(
            "the value of {key} is {} bytes long, at most {VALUE_LEN_MAX} are allowed",
            value.len()
        ))),
        Write::Put(..) | Write::Delete(_) => Ok(()),
    }
}
