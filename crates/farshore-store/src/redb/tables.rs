//! What is in the file, and one transaction on it.
//!
//! Format 1:
//!
//! | table | key | value |
//! |---|---|---|
//! | `entries` | key | (revision of the last write, value) |
//! | `changes` | (revision, position in the transaction) | (key, value, or nothing for a removal) |
//! | `meta` | `format`, `revision`, `compacted`, `changes`, `change_bytes` | number |
//!
//! `changes` holds everything after the revision `compacted`, and possibly a part of that one.

use farshore_core::store::{Change, CommitError, Entry, Revision, Transaction, Write};
use redb::{Error, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::rules;
use crate::watch::{BATCH_BYTES, BATCH_CHANGES, Stretch};

/// The format this code reads and writes.
pub(crate) const FORMAT: u64 = 1;

type EntryValue = (u64, &'static [u8]);
type ChangeKey = (u64, u32);
type ChangeValue = (&'static str, Option<&'static [u8]>);

const ENTRIES: TableDefinition<'_, &str, EntryValue> = TableDefinition::new("entries");
const CHANGES: TableDefinition<'_, ChangeKey, ChangeValue> = TableDefinition::new("changes");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The tables of an empty store.
pub(crate) fn create(txn: &WriteTransaction) -> Result<(), Error> {
    txn.open_table(ENTRIES)?;
    txn.open_table(CHANGES)?;
    let mut meta = txn.open_table(META)?;
    meta.insert("format", FORMAT)?;
    for name in ["revision", "compacted", "changes", "change_bytes"] {
        meta.insert(name, 0)?;
    }
    Ok(())
}

/// The format of the file, and how many changes it should hold and holds.
pub(crate) fn look(txn: &ReadTransaction) -> Result<(u64, u64, u64), Error> {
    let meta = txn.open_table(META)?;
    let (_, head) = log_range(txn)?;
    let mut newest = 0;
    for entry in txn.open_table(ENTRIES)?.iter()? {
        newest = newest.max(entry?.1.value().0);
    }
    for change in txn.open_table(CHANGES)?.iter()? {
        newest = newest.max(change?.0.value().0);
    }
    Ok((number(&meta, "format")?, newest, head.0))
}

/// One entry.
pub(crate) fn get(txn: &ReadTransaction, key: &str) -> Result<Option<Entry>, Error> {
    let entries = txn.open_table(ENTRIES)?;
    let found = entries.get(key)?;
    Ok(found.map(|value| entry(key, value.value())))
}

/// All entries under `prefix`, and the revision of the snapshot.
pub(crate) fn list(txn: &ReadTransaction, prefix: &str) -> Result<(Vec<Entry>, Revision), Error> {
    let mut found = Vec::new();
    for pair in txn.open_table(ENTRIES)?.range(prefix..)? {
        let (key, value) = pair?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push(entry(key.value(), value.value()));
    }
    let (_, revision) = log_range(txn)?;
    Ok((found, revision))
}

/// The log holds every change after the first and up to the second.
pub(crate) fn log_range(txn: &ReadTransaction) -> Result<(Revision, Revision), Error> {
    let meta = txn.open_table(META)?;
    Ok((Revision(number(&meta, "compacted")?), Revision(number(&meta, "revision")?)))
}

/// A stretch of the log, see [`crate::watch::Log::read`]. `head` is the snapshot's revision.
pub(crate) fn changes(
    txn: &ReadTransaction,
    prefix: &str,
    after: Revision,
    head: Revision,
) -> Result<Stretch, Error> {
    let mut stretch = Stretch { changes: Vec::new(), through: head };
    let mut bytes = 0;
    let mut last = after.0;
    for pair in txn.open_table(CHANGES)?.range((after.0 + 1, 0)..)? {
        let (position, change) = pair?;
        let (revision, _) = position.value();
        if revision > last && (stretch.changes.len() >= BATCH_CHANGES || bytes >= BATCH_BYTES) {
            stretch.through = Revision(last);
            break;
        }
        last = revision;
        let (key, value) = change.value();
        if key.starts_with(prefix) {
            bytes += rules::change_len(key, value);
            stretch.changes.push(change_of(key, value, Revision(revision)));
        }
    }
    Ok(stretch)
}

/// The tables during a write: many transactions, one after the other, then one commit.
pub(crate) struct Tables<'txn> {
    entries: Table<'txn, &'static str, EntryValue>,
    changes: Table<'txn, ChangeKey, ChangeValue>,
    meta: Table<'txn, &'static str, u64>,
    revision: u64,
    kept: u64,
    kept_bytes: u64,
}

impl<'txn> Tables<'txn> {
    /// Opens the tables for writing.
    pub(crate) fn open(txn: &'txn WriteTransaction) -> Result<Self, Error> {
        let meta = txn.open_table(META)?;
        Ok(Self {
            revision: number(&meta, "revision")?,
            kept: number(&meta, "changes")?,
            kept_bytes: number(&meta, "change_bytes")?,
            meta,
            entries: txn.open_table(ENTRIES)?,
            changes: txn.open_table(CHANGES)?,
        })
    }

    /// The verdict on one transaction, which stands when [`Tables::finish`] and the commit succeed. After an outer
    /// error nothing of the whole write may be committed.
    pub(crate) fn apply(
        &mut self,
        transaction: &Transaction,
    ) -> Result<Result<Revision, CommitError>, Error> {
        for compare in &transaction.compares {
            let key = rules::compare_key(compare);
            let current = self.entries.get(key)?.map(|value| Revision(value.value().0));
            if !rules::holds(compare, current) {
                return Ok(Err(CommitError::Conflict { key: key.to_owned() }));
            }
        }
        self.revision += 1;
        for (position, write) in (0..).zip(&transaction.writes) {
            self.write(position, write)?;
        }
        Ok(Ok(Revision(self.revision)))
    }

    /// Forgets old changes and writes the counters. Returns the revision that the commit will have.
    pub(crate) fn finish(mut self) -> Result<Revision, Error> {
        while rules::log_is_full(self.kept, self.kept_bytes) {
            let Some((position, change)) = self.changes.pop_first()? else { break };
            let (key, value) = change.value();
            self.kept -= 1;
            self.kept_bytes -= rules::change_len(key, value);
            self.meta.insert("compacted", position.value().0)?;
        }
        self.meta.insert("revision", self.revision)?;
        self.meta.insert("changes", self.kept)?;
        self.meta.insert("change_bytes", self.kept_bytes)?;
        Ok(Revision(self.revision))
    }

    fn write(&mut self, position: u32, write: &Write) -> Result<(), Error> {
        let (key, value) = match write {
            Write::Put(key, value) => {
                self.entries.insert(key.as_str(), (self.revision, value.as_slice()))?;
                (key.as_str(), Some(value.as_slice()))
            }
            Write::Delete(key) => {
                if self.entries.remove(key.as_str())?.is_none() {
                    return Ok(());
                }
                (key.as_str(), None)
            }
        };
        self.changes.insert((self.revision, position), (key, value))?;
        self.kept += 1;
        self.kept_bytes += rules::change_len(key, value);
        Ok(())
    }
}

fn number(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, Error> {
    match meta.get(name)? {
        Some(value) => Ok(value.value()),
        None => Err(Error::Corrupted(format!("the table meta has no {name}"))),
    }
}

fn entry(key: &str, (revision, value): (u64, &[u8])) -> Entry {
    Entry { key: key.to_owned(), value: value.to_vec(), revision: Revision(revision) }
}

fn change_of(key: &str, value: Option<&[u8]>, revision: Revision) -> Change {
    match value {
        Some(value) => Change::Put(entry(key, (revision.0, value))),
        None => Change::Deleted { key: key.to_owned(), revision },
    }
}
