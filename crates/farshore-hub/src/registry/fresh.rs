//! Entries that a transaction has made where nothing was, before they are in its tables: put there together, in the order of
//! their keys, they cost a fraction of what they cost one by one.

use std::collections::BTreeMap;
use std::ops::Bound;

use redb::{ReadableTable as _, Table, Value};

use super::RegistryError;
use super::file;
use super::transaction::{Flags, Transaction};
use crate::names::Key;

/// Keys and what is to be stored under them.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Nothing in the tables has a key that is asked for, which was found out for all of them at once.
    tables_lack_all: bool,
}

impl Transaction<'_> {
    /// Prepares for keys from `first` to `last`, of which many may be new. To be followed by [`Transaction::settle_fresh`].
    pub(super) fn expect(&mut self, keys: impl Iterator<Item = Vec<u8>>) -> Result<(), RegistryError> {
        let ends = keys.fold(None, |ends: Option<(Vec<u8>, Vec<u8>)>, key| match ends {
            None => Some((key.clone(), key)),
            Some((first, last)) if key < first => Some((key, last)),
            Some((first, last)) if key > last => Some((first, key)),
            same => same,
        });
        self.fresh.tables_lack_all = match ends {
            None => true,
            Some((first, last)) => {
                let between = self.entries.range(first.as_slice()..=last.as_slice());
                between.map_err(|error| self.fault(error))?.next().is_none()
            }
        };
        Ok(())
    }

    /// Whether anything is kept under a key, be it that something was deleted.
    pub(super) fn holds(&self, bytes: &[u8]) -> Result<bool, RegistryError> {
        if self.is_known_to_lack(bytes) {
            return Ok(false);
        }
        if self.is_fresh(bytes) {
            return Ok(true);
        }
        Ok(self.entries.get(bytes).map_err(|error| self.fault(error))?.is_some())
    }

    /// Whether it is known without a look that nothing is kept under one of the expected keys.
    pub(super) fn is_known_to_lack(&self, bytes: &[u8]) -> bool {
        self.fresh.tables_lack_all && !self.is_fresh(bytes)
    }

    /// Whether this was made a moment ago.
    pub(super) fn is_fresh(&self, bytes: &[u8]) -> bool {
        self.fresh.entries.contains_key(bytes)
    }

    /// Keeps a device under a key that held nothing, and counts it. `enabled`: `None`, if it is of one that is no more.
    pub(super) fn settle_new(&mut self, key: Key, bytes: Vec<u8>, value: Vec<u8>, enabled: Option<bool>) {
        self.state.counts.turn(key.module.is_some(), None, enabled);
        if self.listening && enabled.is_some() {
            self.made = Some((key, value.clone()));
        }
        self.fresh.entries.insert(bytes, value);
    }

    /// Lists the entry that has the newest number.
    pub(super) fn list_newest(&mut self, bytes: &[u8], flags: Flags) -> Result<(), RegistryError> {
        let seq = self.state.seq;
        let mut list = || -> Result<(), redb::Error> {
            if flags.grave {
                self.graves.insert(seq, ())?;
            }
            if flags.contested {
                self.conflicts.insert(bytes, ())?;
            }
            Ok(())
        };
        list().map_err(|error| self.store.fault(error))
    }

    /// Puts what was made into the tables. Before anything else looks there.
    pub(super) fn settle_fresh(&mut self) -> Result<(), RegistryError> {
        let Fresh { entries, tables_lack_all } = std::mem::take(&mut self.fresh);
        let mut log = Vec::with_capacity(entries.len());
        for (key, value) in &entries {
            log.push((file::parse(value)?.0, key.as_slice()));
        }
        log.sort_unstable();
        let settle = || -> Result<(), redb::Error> {
            let rows = entries.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
            match tables_lack_all {
                true => insert_run::<&[u8], &[u8]>(&mut self.entries, rows)?,
                false => insert_each(&mut self.entries, rows)?,
            }
            insert_run(&mut self.log, log.into_iter())
        };
        settle().map_err(|error| self.store.fault(error))
    }
}

/// Inserts rows in the order of their keys, between which the table has none.
fn insert_run<'r, K: redb::Key + 'static, V: Value + 'static>(
    table: &mut Table<'_, K, V>,
    rows: impl Iterator<Item = (K::SelfType<'r>, V::SelfType<'r>)>,
) -> Result<(), redb::Error> {
    let mut rows = rows.peekable();
    let Some((first, _)) = rows.peek() else { return Ok(()) };
    let mut cursor = table.lower_bound_mut(Bound::Included(first))?;
    for (key, value) in rows {
        cursor.insert_before(key, value)?;
    }
    Ok(cursor.close()?)
}

fn insert_each<'r, K: redb::Key + 'static, V: Value + 'static>(
    table: &mut Table<'_, K, V>,
    rows: impl Iterator<Item = (K::SelfType<'r>, V::SelfType<'r>)>,
) -> Result<(), redb::Error> {
    for (key, value) in rows {
        table.insert(key, value)?;
    }
    Ok(())
}
