//! One transaction: entries are read, changed and numbered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use farshore_core::moment::Moment;
use redb::{ReadableTable as _, Table, WriteTransaction};
use serde_json::Value;

use super::file::{self, CONFLICTS, ENTRIES, FEEDBACK, GRAVES, LOG, STATE, Store};
use super::fresh::Fresh;
use super::state::State;
use super::{Change, ChangeError, Changed, RegistryError};
use crate::clock::Stamp;
use crate::names::{DeviceId, Key};
use crate::record::leaves::difference;
use crate::record::{Device, Edit, Entry, EntryKey, Invalid, Mark, Record, Rules};

type Bytes = &'static [u8];

/// Room for an entry: most fit without asking for more.
const VALUE_BYTES_USUAL: usize = 512;

/// The open tables, and what the transaction will have changed.
pub(super) struct Transaction<'t> {
    pub(super) store: &'t Store,
    pub(super) entries: Table<'t, Bytes, Bytes>,
    pub(super) log: Table<'t, u64, Bytes>,
    pub(super) graves: Table<'t, u64, ()>,
    pub(super) conflicts: Table<'t, Bytes, ()>,
    feedback: Table<'t, Bytes, ()>,
    stored: Table<'t, &'static str, Bytes>,
    pub(super) state: State,
    now: Moment,
    changes: Vec<Change>,
    /// The last that came to where nothing was, if anybody listens.
    pub(super) made: Option<(Key, Vec<u8>)>,
    pub(super) fresh: Fresh,
    pub(super) listening: bool,
    dirty: bool,
    spoilt: Option<RegistryError>,
}

/// An entry as it was found.
pub(super) struct Found {
    pub(super) key: EntryKey,
    pub(super) bytes: Vec<u8>,
    /// Its number in the log; `None`: nothing was there.
    pub(super) seq: Option<u64>,
    pub(super) entry: Entry,
    /// Whether it was listed as contested.
    pub(super) contested: bool,
}

impl<'t> Transaction<'t> {
    pub(super) fn new(
        store: &'t Store,
        txn: &'t WriteTransaction,
        state: State,
        wall: &Arc<dyn Fn() -> Moment + Send + Sync>,
        listening: bool,
    ) -> Result<Self, RegistryError> {
        let open = || -> Result<_, redb::Error> {
            Ok(Self {
                store,
                entries: txn.open_table(ENTRIES)?,
                log: txn.open_table(LOG)?,
                graves: txn.open_table(GRAVES)?,
                conflicts: txn.open_table(CONFLICTS)?,
                feedback: txn.open_table(FEEDBACK)?,
                stored: txn.open_table(STATE)?,
                state,
                now: wall(),
                changes: Vec::new(),
                made: None,
                fresh: Fresh::default(),
                listening,
                dirty: false,
                spoilt: None,
            })
        };
        open().map_err(|error| store.fault(error))
    }

    /// Writes the state. `None`: nothing was changed, so there is nothing to commit.
    pub(super) fn finish(mut self) -> Result<Option<(State, Vec<Change>)>, RegistryError> {
        if let Some(error) = self.spoilt {
            return Err(error);
        }
        self.settle_fresh()?;
        if !self.dirty {
            return Ok(None);
        }
        if let Some((key, value)) = self.made.take()
            && let Entry::Device(record) = Entry::from_bytes(file::parse(&value)?.1)?
        {
            let after = record.device(&key, &self.state.rules).map(Arc::new);
            self.changes.push(Change { key, before: None, after, desired_patch: None, messages: false });
        }
        let bytes = self.state.to_bytes();
        self.stored.insert("state", bytes.as_slice()).map_err(|error| self.store.fault(error.into()))?;
        Ok(Some((self.state, self.changes)))
    }

    /// Nothing of this transaction will be kept.
    pub(super) fn spoil(&mut self, error: &RegistryError) {
        self.spoilt.get_or_insert_with(|| error.clone());
    }

    /// The state must be written, whether or not an entry is.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    /// The time of this transaction.
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    pub(super) fn fault(&self, error: impl Into<redb::Error>) -> RegistryError {
        self.store.fault(error.into())
    }

    /// Names a change that is made now, after all that was ever seen.
    pub(super) fn mark(&mut self) -> Mark {
        let stamp: Stamp = self.state.clock.now(self.now);
        Mark { epoch: self.state.epoch, stamp }
    }

    /// The entry under a key, or a place for it.
    pub(super) fn find(&self, key: EntryKey) -> Result<Found, RegistryError> {
        let bytes = key.to_bytes();
        let read = {
            let stored = self.entries.get(bytes.as_slice()).map_err(|error| self.fault(error))?;
            match stored {
                Some(stored) => {
                    let (seq, entry) = file::parse(stored.value())?;
                    Some((seq, Entry::from_bytes(entry)?))
                }
                None => None,
            }
        };
        let Some((seq, entry)) = read else {
            let entry = Entry::vacant(&key, self.state.horizon());
            return Ok(Found { key, bytes, seq: None, entry, contested: false });
        };
        let contested = self.conflicts.get(bytes.as_slice()).map_err(|error| self.fault(error))?.is_some();
        Ok(Found { key, bytes, seq: Some(seq), entry, contested })
    }

    /// Every entry from `start` to before `end`.
    pub(super) fn range(&self, start: &[u8], end: &[u8]) -> Result<Vec<(EntryKey, Entry)>, RegistryError> {
        let mut found = Vec::new();
        for row in self.entries.range(start..end).map_err(|error| self.fault(error))? {
            let (key, stored) = row.map_err(|error| self.fault(error))?;
            let entry = Entry::from_bytes(file::parse(stored.value())?.1)?;
            found.push((EntryKey::from_bytes(key.value())?, entry));
        }
        Ok(found)
    }

    /// Puts an entry in the place of what was found, under the next number.
    pub(super) fn put(&mut self, found: &Found, entry: &Entry, flags: Flags) -> Result<(), RegistryError> {
        let mut value = self.number();
        value.extend_from_slice(&entry.to_bytes());
        self.write(found, self.state.seq, &value, flags).map_err(|error| self.store.fault(error))
    }

    /// Takes the next number: what is stored under an entry's key begins with it.
    pub(super) fn number(&mut self) -> Vec<u8> {
        self.dirty = true;
        self.state.seq += 1;
        let mut value = Vec::with_capacity(VALUE_BYTES_USUAL);
        value.extend_from_slice(&self.state.seq.to_le_bytes());
        value
    }

    fn write(&mut self, found: &Found, seq: u64, value: &[u8], flags: Flags) -> Result<(), redb::Error> {
        let key = found.bytes.as_slice();
        if let Some(old) = found.seq {
            self.log.remove(old)?;
            self.graves.remove(old)?;
        }
        self.entries.insert(key, value)?;
        self.log.insert(seq, key)?;
        if flags.grave {
            self.graves.insert(seq, ())?;
        }
        if flags.contested {
            self.conflicts.insert(key, ())?;
        } else if found.contested {
            self.conflicts.remove(key)?;
        }
        if flags.feedback {
            self.feedback.insert(key, ())?;
        } else if found.seq.is_some() && matches!(found.key, EntryKey::Message(..)) {
            self.feedback.remove(key)?;
        }
        Ok(())
    }

    /// Forgets an entry as if it had never been.
    pub(super) fn forget(&mut self, found: &Found) -> Result<(), RegistryError> {
        self.dirty = true;
        let key = found.bytes.as_slice();
        let mut forget = || -> Result<(), redb::Error> {
            if let Some(old) = found.seq {
                self.log.remove(old)?;
                self.graves.remove(old)?;
            }
            self.entries.remove(key)?;
            self.conflicts.remove(key)?;
            self.feedback.remove(key)?;
            Ok(())
        };
        forget().map_err(|error| self.store.fault(error))
    }

    /// Replaces an entry by one that says the same with less, under its old number.
    pub(super) fn shrink(&mut self, found: &Found, entry: &Entry) -> Result<(), RegistryError> {
        let Some(seq) = found.seq else { return Ok(()) };
        self.dirty = true;
        let value = [seq.to_le_bytes().as_slice(), &entry.to_bytes()].concat();
        let mut shrink = || -> Result<(), redb::Error> {
            self.entries.insert(found.bytes.as_slice(), value.as_slice())?;
            self.graves.remove(seq)?;
            Ok(())
        };
        shrink().map_err(|error| self.store.fault(error))
    }

    /// Keys of entries that may be forgotten, up to a number.
    pub(super) fn graves(&self, upto: u64, limit: usize) -> Result<Vec<EntryKey>, RegistryError> {
        let list = || -> Result<_, redb::Error> {
            let mut keys = Vec::new();
            for row in self.graves.range(..=upto)?.take(limit) {
                if let Some(key) = self.log.get(row?.0.value())? {
                    keys.push(key.value().to_vec());
                }
            }
            Ok(keys)
        };
        let keys = list().map_err(|error| self.fault(error))?;
        keys.iter().map(|key| EntryKey::from_bytes(key).map_err(RegistryError::from)).collect()
    }

    /// Keys of entries in which something had to be decided.
    fn contested(&self) -> Result<Vec<EntryKey>, RegistryError> {
        let list = || -> Result<_, redb::Error> {
            self.conflicts
                .iter()?
                .map(|row| Ok(row?.0.value().to_vec()))
                .collect::<Result<Vec<_>, redb::Error>>()
        };
        let keys = list().map_err(|error| self.fault(error))?;
        keys.iter().map(|key| EntryKey::from_bytes(key).map_err(RegistryError::from)).collect()
    }

    /// A device or module as it reads.
    pub(super) fn device(&self, key: &Key) -> Result<Option<Device>, RegistryError> {
        match self.find(EntryKey::Device(key.clone()))?.entry {
            Entry::Device(record) => Ok(record.device(key, &self.state.rules)),
            _ => Ok(None),
        }
    }

    /// Whether there is such a device or module.
    pub(super) fn is_alive(&self, key: &Key) -> Result<bool, RegistryError> {
        match self.find(EntryKey::Device(key.clone()))?.entry {
            Entry::Device(record) => Ok(record.is_enabled(&self.state.rules).is_some()),
            _ => Ok(false),
        }
    }

    /// See [`super::Registry::change`].
    pub(super) fn change<E>(
        &mut self,
        key: &Key,
        decide: impl FnOnce(Option<&Device>) -> Result<Vec<Edit>, E>,
    ) -> Result<Result<Changed, ChangeError<E>>, RegistryError> {
        let mut found = self.find(EntryKey::Device(key.clone()))?;
        let Entry::Device(record) = &mut found.entry else {
            return Err(crate::record::Unreadable("no device under the key of one").into());
        };
        let mut record = std::mem::take(&mut **record);
        let before = record.device(key, &self.state.rules);
        // Nothing is written yet: a decision that breaks off spoils only itself.
        let Ok(decided) = catch_unwind(AssertUnwindSafe(|| decide(before.as_ref()))) else {
            return Ok(Err(ChangeError::Registry(RegistryError::Panicked.to_string())));
        };
        let edits = match decided {
            Ok(edits) => edits,
            Err(refused) => return Ok(Err(ChangeError::Refused(refused))),
        };
        let before = before.map(Arc::new);
        if edits.is_empty() {
            return Ok(Ok(Changed { after: before.clone(), before }));
        }
        if let Err(invalid) = self.apply(key, &mut record, &edits)? {
            return Ok(Err(ChangeError::Invalid(invalid)));
        }
        let patch = edits.iter().rev().find_map(|edit| match edit {
            Edit::Desired { patch, replace: false } => Some(patch),
            _ => None,
        });
        let is_deleted = edits.iter().any(|edit| matches!(edit, Edit::Delete));
        let after = self.settle(&found, record, before.clone(), patch)?;
        if is_deleted {
            self.delete_what_belongs_to(key)?;
        }
        Ok(Ok(Changed { before, after }))
    }

    fn apply(
        &mut self,
        key: &Key,
        record: &mut Record,
        edits: &[Edit],
    ) -> Result<Result<(), Invalid>, RegistryError> {
        if key.module.is_some() && edits.iter().any(|edit| matches!(edit, Edit::Create(_))) {
            let owner = Key::device(key.device.clone());
            if self.device(&owner)?.is_none() {
                return Ok(Err(Invalid::Missing(owner)));
            }
        }
        let mark = self.mark();
        Ok(edits.iter().try_for_each(|edit| record.apply(key, edit, &mark, &self.state.rules)))
    }

    /// Stores a changed device, counts it and tells of it.
    pub(super) fn settle(
        &mut self,
        found: &Found,
        record: Record,
        before: Option<Arc<Device>>,
        patch: Option<&Value>,
    ) -> Result<Option<Arc<Device>>, RegistryError> {
        let EntryKey::Device(key) = &found.key else { return Ok(None) };
        let after = record.device(key, &self.state.rules).map(Arc::new);
        let contested = match &after {
            Some(device) => device.conflicts,
            None => !record.conflicts(key, &self.state.rules).is_empty(),
        };
        let grave = record.is_tombstone() || record.has_deleted_leaves();
        let entry = Entry::Device(Box::new(record));
        self.put(found, &entry, Flags { contested, grave, feedback: false })?;
        self.tell(key, before, after.clone(), patch);
        Ok(after)
    }

    fn tell(
        &mut self,
        key: &Key,
        before: Option<Arc<Device>>,
        after: Option<Arc<Device>>,
        patch: Option<&Value>,
    ) {
        let enabled = |device: &Option<Arc<Device>>| device.as_ref().map(|device| device.enabled);
        self.state.counts.turn(key.module.is_some(), enabled(&before), enabled(&after));
        if self.listening {
            self.announce(key, before, after, patch);
        }
    }

    /// Tells of a device to those who listen.
    pub(super) fn announce(
        &mut self,
        key: &Key,
        before: Option<Arc<Device>>,
        after: Option<Arc<Device>>,
        patch: Option<&Value>,
    ) {
        let desired_patch = desired_patch(before.as_deref(), after.as_deref(), patch);
        self.changes.push(Change { key: key.clone(), before, after, desired_patch, messages: false });
    }

    /// Tells that messages to a device changed.
    pub(super) fn tell_of_messages(&mut self, key: &Key) {
        let again = |last: &Change| last.messages && last.key == *key;
        if self.listening && !self.changes.last().is_some_and(again) {
            let (key, messages) = (key.clone(), true);
            self.changes.push(Change { key, before: None, after: None, desired_patch: None, messages });
        }
    }

    fn delete_what_belongs_to(&mut self, key: &Key) -> Result<(), RegistryError> {
        self.purge(key)?;
        if key.module.is_some() {
            return Ok(());
        }
        let (start, end) = modules_of(&key.device);
        for (module, _) in self.range(&start, &end)? {
            let EntryKey::Device(module) = module else { continue };
            let keep_or_delete = |now: Option<&Device>| Ok(now.map(|_| Edit::Delete).into_iter().collect());
            // Without an error of its own, and a deletion is never invalid.
            let _: Result<_, ChangeError<std::convert::Infallible>> = self.change(&module, keep_or_delete)?;
        }
        Ok(())
    }

    /// Reads everything that is contested by other rules from now on.
    pub(super) fn rule(&mut self, rules: Rules) -> Result<(), RegistryError> {
        let old = std::mem::replace(&mut self.state.rules, rules);
        self.dirty = true;
        for key in self.contested()? {
            let found = self.find(key)?;
            let (EntryKey::Device(key), Entry::Device(record)) = (&found.key, &found.entry) else { continue };
            let before = record.device(key, &old).map(Arc::new);
            let after = record.device(key, &self.state.rules).map(Arc::new);
            if before != after {
                let key = key.clone();
                self.tell(&key, before, after, None);
            }
        }
        Ok(())
    }
}

/// In which lists an entry belongs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flags {
    /// Something in it had to be decided.
    pub(super) contested: bool,
    /// It, or part of it, can be forgotten some day.
    pub(super) grave: bool,
    /// A sender has yet to hear of it.
    pub(super) feedback: bool,
}

/// What a device is to be told: what was asked for, or the difference.
fn desired_patch(before: Option<&Device>, after: Option<&Device>, patch: Option<&Value>) -> Option<Value> {
    let (before, after) = (before?, after?);
    if before.desired.version == after.desired.version && before.desired.value == after.desired.value {
        return None;
    }
    Some(patch.cloned().unwrap_or_else(|| difference(&before.desired.value, &after.desired.value)))
}

/// Where the modules of a device begin and end.
pub(super) fn modules_of(device: &DeviceId) -> (Vec<u8>, Vec<u8>) {
    let mut start = EntryKey::Device(Key::device(device.clone())).to_bytes();
    let mut end = start.clone();
    // The zero byte after the device's id: its own key ends there, its modules' go on.
    if let Some(last) = end.last_mut() {
        *last = 1;
    }
    start.push(1);
    (start, end)
}
