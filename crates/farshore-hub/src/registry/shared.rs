//! Consumer groups, policies of access, and the rules of the merge.

use std::collections::BTreeMap;

use super::transaction::{Flags, Found, Transaction};
use super::{Registry, RegistryError};
use crate::record::{Cursor, Entry, EntryKey, Mark, Policy, Rules};

impl Registry {
    /// The consumer groups, and how far each has read.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn groups(&self) -> Result<BTreeMap<String, Cursor>, RegistryError> {
        let mut groups = BTreeMap::new();
        self.store.read()?.each(b"g", b"h", |key, entry| {
            if let (EntryKey::Group(name), Entry::Group(single)) = (key, entry)
                && let Some(cursor) = single.cursor()
            {
                groups.insert(name, cursor);
            }
            true
        })?;
        Ok(groups)
    }

    /// How far a group has read; makes the group where there is none.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn set_group(&self, name: &str, cursor: Cursor) -> Result<(), RegistryError> {
        self.write(EntryKey::Group(name.to_owned()), Written::Group(Some(cursor))).await
    }

    /// Forgets a group.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn delete_group(&self, name: &str) -> Result<(), RegistryError> {
        self.write(EntryKey::Group(name.to_owned()), Written::Group(None)).await
    }

    /// The policies of access, by name.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn policies(&self) -> Result<Vec<Policy>, RegistryError> {
        let rules = &self.store.state().rules;
        let mut policies = Vec::new();
        self.store.read()?.each(b"p", b"q", |_, entry| {
            if let Entry::Policy(single) = entry {
                policies.extend(single.now(rules));
            }
            true
        })?;
        Ok(policies)
    }

    /// Adds a policy, or changes the one of its name.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn set_policy(&self, policy: Policy) -> Result<(), RegistryError> {
        self.write(EntryKey::Policy(policy.name.clone()), Written::Policy(Some(policy))).await
    }

    /// Takes a policy away.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn delete_policy(&self, name: &str) -> Result<(), RegistryError> {
        self.write(EntryKey::Policy(name.to_owned()), Written::Policy(None)).await
    }

    /// Who wins where regions changed the same thing at once.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.store.state().rules.clone()
    }

    /// Reads everything by other rules from now on, in every region that joins this. What is kept stays the same.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn set_rules(&self, rules: Rules) -> Result<(), RegistryError> {
        self.write(EntryKey::Settings, Written::Rules(rules)).await
    }

    async fn write(&self, key: EntryKey, written: Written) -> Result<(), RegistryError> {
        self.writer.submit(move |txn| txn.write_shared(key, written)).await
    }
}

enum Written {
    Group(Option<Cursor>),
    Policy(Option<Policy>),
    Rules(Rules),
}

impl Transaction<'_> {
    fn write_shared(&mut self, key: EntryKey, written: Written) -> Result<(), RegistryError> {
        let mut found = self.find(key)?;
        let mark: Mark = self.mark();
        match (&mut found.entry, written) {
            (Entry::Group(single), Written::Group(cursor)) => single.set(&mark, cursor),
            (Entry::Policy(single), Written::Policy(policy)) => single.set(&mark, policy),
            (Entry::Settings(single), Written::Rules(rules)) => single.set(&mark, Some(rules)),
            _ => return Err(crate::record::Unreadable("another kind of entry under this key").into()),
        }
        self.settle_shared(&found)
    }

    /// Stores an entry that is neither a device nor a message.
    pub(super) fn settle_shared(&mut self, found: &Found) -> Result<(), RegistryError> {
        let contested = !found.entry.conflicts(&found.key, &self.state.rules).is_empty();
        let flags = Flags { contested, grave: found.entry.is_tombstone(), feedback: false };
        self.put(found, &found.entry, flags)?;
        if let Entry::Settings(single) = &found.entry {
            let rules = single.now(&Rules::default()).unwrap_or_default();
            if rules != self.state.rules {
                self.rule(rules)?;
                // What regions set at once may read as another's now.
                self.state.settings += 1;
            }
        }
        if matches!(found.entry, Entry::Setting(_)) {
            self.state.settings += 1;
        }
        Ok(())
    }
}
