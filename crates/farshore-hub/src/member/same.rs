//! Which identities were on this side, which on the other, and which were found equal: as numbers, so that a million of them
//! take tens of megabytes and not hundreds.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::names::Key;

/// Marks that are kept of runs that broke off; above it everything is compared anew.
const MARKS_MAX: usize = 4_000_000;

/// Identities. Two of a million are taken for one with a chance of one in ten million; then one that should be deleted stays.
#[derive(Debug, Default)]
pub(super) struct Keys {
    seed: RandomState,
    known: HashSet<u64>,
}

impl Keys {
    /// Adds one; `false`: it was there.
    pub(super) fn add(&mut self, key: &Key) -> bool {
        self.known.insert(self.seed.hash_one(key))
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.known.contains(&self.seed.hash_one(key))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// Pairs of etags under which both sides were found equal.
#[derive(Debug, Default)]
pub(super) struct Same {
    seed: RandomState,
    before: HashSet<u64>,
    found: HashSet<u64>,
}

impl Same {
    pub(super) fn knows(&self, key: &Key, there: &str, here: &str) -> bool {
        let mark = self.mark(key, there, here);
        self.found.contains(&mark) || self.before.contains(&mark)
    }

    pub(super) fn add(&mut self, key: &Key, there: &str, here: &str) {
        self.found.insert(self.mark(key, there, here));
    }

    /// A run is over: what a whole one has not found again is forgotten.
    pub(super) fn end(&mut self, is_whole: bool) {
        let found = std::mem::take(&mut self.found);
        if is_whole || self.before.len() > MARKS_MAX {
            self.before = found;
        } else {
            self.before.extend(found);
        }
    }

    fn mark(&self, key: &Key, there: &str, here: &str) -> u64 {
        self.seed.hash_one((key, there, here))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_whole_run_does_not_find_again_is_forgotten() {
        let (mut same, pump) = (Same::default(), Key::parse("pump").unwrap());
        same.add(&pump, "a", "b");
        same.end(false);
        assert!(same.knows(&pump, "a", "b") && !same.knows(&pump, "b", "a"));
        same.add(&pump, "c", "d");
        same.end(false);
        assert!(same.knows(&pump, "a", "b") && same.knows(&pump, "c", "d"));
        same.add(&pump, "c", "d");
        same.end(true);
        assert!(!same.knows(&pump, "a", "b") && same.knows(&pump, "c", "d"));
        let mut keys = Keys::default();
        assert!(keys.is_empty() && keys.add(&pump) && !keys.add(&pump) && keys.has(&pump));
    }
}
