//! The audit, read page by page, and the check that it is one chain.

use farshore_core::ids::ItemId;
use farshore_core::store::{Entry, ReadError, Revision, Transaction};

use super::book::decode;
use super::records::{AUDIT, AuditEntry, AuditLine, no_previous};
use super::submit::unavailable;
use super::{Control, SubmitError};

/// Entries that are read from the store at once: those whose numbers differ in the last digits only, so that one prefix
/// names them.
const BLOCK: u64 = 1000;
/// Digits that the numbers of one block share; a number has ten.
const BLOCK_DIGITS: usize = 7;

impl Control {
    /// Notes what somebody asked for where no job does it. On return it is in the audit for ever.
    ///
    /// # Errors
    /// When the store does not take it: then it must not be done.
    pub async fn note_in_audit(&self, who: &str, what: &str, item: &ItemId) -> Result<(), SubmitError> {
        let line =
            AuditLine { who: who.to_owned(), what: what.to_owned(), item: Some(item.clone()), job: None };
        let nothing_else = Transaction { compares: Vec::new(), writes: Vec::new() };
        let noted = self.inner.book.commit(nothing_else, Some(line)).await;
        noted.map(drop).map_err(|error| unavailable(&error))
    }

    /// The newest `limit` entries, oldest first, with their numbers.
    pub async fn audit_newest(&self, limit: usize) -> Result<Vec<(u64, AuditEntry)>, ReadError> {
        let entries = self.inner.book.view().await.entries(AUDIT).await?;
        readable(&entries[entries.len().saturating_sub(limit)..])
    }

    /// Up to `limit` entries with numbers above `after`, oldest first. None: there are no more.
    ///
    /// # Errors
    /// When the store cannot be read, or the first of them does not read as an entry.
    pub async fn audit_after(&self, after: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, ReadError> {
        let view = self.inner.book.view().await;
        let mut page = Vec::new();
        let mut block = after.saturating_add(1) / BLOCK;
        while page.len() < limit {
            let prefix = format!("{AUDIT}{block:0BLOCK_DIGITS$}");
            let mut entries = view.entries(&prefix).await?;
            entries.retain(|entry| number(entry).is_ok_and(|number| number > after));
            if entries.is_empty() {
                break;
            }
            page.extend(entries);
            block += 1;
        }
        if page.is_empty() {
            // The end, or a gap that is longer than a block.
            page = view.entries(AUDIT).await?;
            page.retain(|entry| number(entry).is_ok_and(|number| number > after));
        }
        page.truncate(limit);
        readable(&page)
    }
}

/// Those before the first that cannot be read; if that is the first of all, why.
fn readable(entries: &[Entry]) -> Result<Vec<(u64, AuditEntry)>, ReadError> {
    let mut read = Vec::with_capacity(entries.len());
    for entry in entries {
        match number(entry).and_then(|number| Ok((number, decode::<AuditEntry>(entry)?.value))) {
            Ok(entry) => read.push(entry),
            Err(error) if read.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(read)
}

fn number(entry: &Entry) -> Result<u64, ReadError> {
    let number = entry.key.strip_prefix(AUDIT).and_then(|number| number.parse().ok());
    number.ok_or_else(|| ReadError::Damaged(format!("{} is no key of an audit entry", entry.key)))
}

/// An entry of a backup that does not read as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryError(pub String);

/// The audit in a backup: its keys and values, in the order of their numbers.
#[derive(Debug)]
pub struct Entries<'a> {
    rest: std::vec::IntoIter<&'a (String, Vec<u8>)>,
}

impl<'a> Entries<'a> {
    /// Those among all records of a store.
    #[must_use]
    pub fn of(records: &'a [(String, Vec<u8>)]) -> Self {
        let mut audit: Vec<_> = records.iter().filter(|(key, _)| key.starts_with(AUDIT)).collect();
        audit.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self { rest: audit.into_iter() }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(u64, AuditEntry), EntryError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.rest.next()?;
        let entry = Entry { key: key.clone(), value: value.clone(), revision: Revision(0) };
        let read = number(&entry).and_then(|number| Ok((number, decode(&entry)?.value)));
        Some(read.map_err(|error| EntryError(error.to_string())))
    }
}

/// A chain as far as it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Number of the last entry; 0 before the first.
    pub number: u64,
    /// Its hash.
    pub hash: String,
}

/// Where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Numbers are missing, or come twice.
    #[error("after entry {last} comes entry {number}: entries were removed, or put in another order")]
    Gap {
        /// The last good one.
        last: u64,
        /// What comes then.
        number: u64,
    },
    /// The entry does not follow on the one before.
    #[error(
        "entry {number} does not follow on the one before it: one of the two was changed, removed or put in another place"
    )]
    Previous {
        /// Its number.
        number: u64,
    },
    /// The entry is not what was written.
    #[error("entry {number} was changed after it was written")]
    Changed {
        /// Its number.
        number: u64,
    },
}

impl Default for Chain {
    fn default() -> Self {
        Self { number: 0, hash: no_previous() }
    }
}

impl Chain {
    /// Adds the next entry.
    ///
    /// # Errors
    /// When it cannot be the next one; the chain stays as it was.
    pub fn follow(&mut self, number: u64, entry: &AuditEntry) -> Result<(), Broken> {
        if number != self.number + 1 {
            return Err(Broken::Gap { last: self.number, number });
        }
        if entry.previous != self.hash {
            return Err(Broken::Previous { number });
        }
        if entry.hash != entry.expected_hash() {
            return Err(Broken::Changed { number });
        }
        *self = Self { number, hash: entry.hash.clone() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::AuditLine;
    use super::*;
    use farshore_core::moment::Moment;

    fn chain(len: u64) -> Vec<(u64, AuditEntry)> {
        let mut hash = no_previous();
        let entry = |number: u64| {
            let line = AuditLine { who: "ada".into(), what: format!("did {number}"), item: None, job: None };
            let entry = AuditEntry::chained(line, &hash, Moment(number));
            hash.clone_from(&entry.hash);
            (number, entry)
        };
        (1..=len).map(entry).collect()
    }

    fn check(entries: &[(u64, AuditEntry)]) -> Result<Chain, Broken> {
        let mut chain = Chain::default();
        for (number, entry) in entries {
            chain.follow(*number, entry)?;
        }
        Ok(chain)
    }

    #[test]
    fn a_whole_chain_holds() {
        let entries = chain(5);
        assert_eq!(check(&entries).unwrap(), Chain { number: 5, hash: entries[4].1.hash.clone() });
        assert_eq!(check(&[]).unwrap().number, 0);
    }

    #[test]
    fn whatever_is_done_to_a_chain_shows_at_the_first_bad_entry() {
        let good = chain(5);
        let with = |change: fn(&mut Vec<(u64, AuditEntry)>)| {
            let mut entries = good.clone();
            change(&mut entries);
            check(&entries).unwrap_err()
        };
        assert_eq!(with(|all| drop(all.remove(2))), Broken::Gap { last: 2, number: 4 });
        assert_eq!(with(|all| drop(all.remove(0))), Broken::Gap { last: 0, number: 2 });
        assert_eq!(with(|all| all[3].1.who = "eve".into()), Broken::Changed { number: 4 });
        let rehashed = |all: &mut Vec<(u64, AuditEntry)>| {
            all[1].1.what = "nothing".into();
            all[1].1.hash = all[1].1.expected_hash();
        };
        assert_eq!(with(rehashed), Broken::Previous { number: 3 });
        let swapped = |all: &mut Vec<(u64, AuditEntry)>| {
            let (one, other) = (all[1].1.clone(), all[2].1.clone());
            (all[1].1, all[2].1) = (other, one);
        };
        assert_eq!(with(swapped), Broken::Previous { number: 2 });
        let renumbered = |all: &mut Vec<(u64, AuditEntry)>| {
            all.remove(0);
            for (at, entry) in all.iter_mut().enumerate() {
                entry.0 = at as u64 + 1;
            }
        };
        assert_eq!(with(renumbered), Broken::Previous { number: 1 });
        assert_eq!(with(|all| all.insert(1, all[0].clone())), Broken::Gap { last: 1, number: 1 });
    }
}
