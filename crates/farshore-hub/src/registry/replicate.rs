//! What goes to the other region and comes from there. Following, catching up and merging are the same: a region asks for the
//! entries that changed since a number, and joins them. It costs what has changed, not what there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_core::ids::Region;
use serde::{Deserialize, Serialize};

use super::file::LOG;
use super::queue;
use super::report::MergeReport;
use super::state::Partner;
use super::transaction::{Flags, Found, Transaction};
use super::{Registry, RegistryError};
use crate::clock::{Stamp, TooFarAhead};
use crate::record::{Conflict, Entry, EntryKey, Record, Rules, Unreadable};

/// Entries of one region that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Whose.
    pub region: Region,
    /// Names its file among all it ever had.
    pub log: u64,
    /// After this number.
    pub from: u64,
    /// Up to this number, whole.
    pub upto: u64,
    /// Its newest number: more is to come, if this is higher.
    pub last: u64,
    /// Its clock, so that what it has forgotten is not taken for unheard of.
    pub ticks: u64,
    /// What it had joined of other regions: the name of their files, and how far.
    pub joined: BTreeMap<Region, (u64, u64)>,
    /// Keys and entries, in postcard.
    pub entries: Vec<Vec<u8>>,
}

/// The version of a batch on the wire.
const VERSION: u8 = 1;
/// What an entry of a batch costs besides its own bytes; for the size of batches.
const ENTRY_OVERHEAD: usize = 8;
/// Graves that are looked at in one transaction.
const GRAVES_TOGETHER_MAX: usize = 4096;

impl Batch {
    /// Whether this is all that the region has.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.upto >= self.last
    }

    /// The batch as it travels.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("these types have no map or text of unknown length")
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| Unreadable("a damaged batch")),
            _ => Err(Unreadable("a batch of another version: update both regions")),
        }
    }

    fn decode(&self) -> Result<Vec<(EntryKey, Entry)>, Unreadable> {
        self.entries
            .iter()
            .map(|bytes| {
                let (key, entry): (&[u8], &[u8]) =
                    postcard::from_bytes(bytes).map_err(|_| Unreadable("a damaged entry in a batch"))?;
                Ok((EntryKey::from_bytes(key)?, Entry::from_bytes(entry)?))
            })
            .collect()
    }
}

/// What joining a batch did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joined {
    /// Entries that changed here.
    pub changed: usize,
    /// What both regions had changed.
    pub conflicts: Vec<Conflict>,
}

/// Why a batch was not joined. Nothing of it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JoinError {
    /// A clock is wrong.
    #[error(transparent)]
    TooFarAhead(#[from] TooFarAhead),
    /// What is before it was not joined yet.
    #[error(
        "the batch begins after {from}, but only what is up to {seen} was joined: ask for what changed since {seen}"
    )]
    Gap {
        /// Where the batch begins.
        from: u64,
        /// Where it should.
        seen: u64,
    },
    /// The other region has another file than before.
    #[error("region {0} has a new registry: everything of it must be joined, from 0")]
    StartOver(Region),
    /// It is this region's own, or another's than was said.
    #[error("the batch is of region {found}, not of {wanted}")]
    OtherRegion {
        /// Whose it is.
        found: Region,
        /// Whose it should be.
        wanted: Region,
    },
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The file.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Registry {
    /// The newest number in this region's log.
    #[must_use]
    pub fn own(&self) -> u64 {
        self.store.state().seq
    }

    /// Up to where that region's log was joined here.
    #[must_use]
    pub fn seen(&self, of: &Region) -> u64 {
        self.store.state().partners.get(of).map_or(0, |partner| partner.seen)
    }

    /// Up to where each other region had joined this one's log when it last told all it had: what is older, all have.
    #[must_use]
    pub fn stable(&self) -> BTreeMap<Region, u64> {
        let state = self.store.state();
        state.partners.iter().map(|(region, partner)| (region.clone(), partner.joined)).collect()
    }

    /// The entries that changed after `seq`, whoever changed them; 0: all there are. At least one, however large, if there are any.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn since(&self, seq: u64, max_bytes: usize) -> Result<Batch, RegistryError> {
        let look = self.store.read()?;
        let state = look.state()?;
        let log = look.txn.open_table(LOG).map_err(|error| look.fault(error))?;
        let (mut entries, mut size, mut upto) = (Vec::new(), 0, state.seq);
        for row in log.range(seq.saturating_add(1)..).map_err(|error| look.fault(error))? {
            let (number, key) = row.map_err(|error| look.fault(error))?;
            let (number, key) = (number.value(), key.value());
            let bytes = look.bytes(key)?.ok_or(Unreadable("its log names an entry that is not there"))?;
            size += key.len() + bytes.len() + ENTRY_OVERHEAD;
            if size > max_bytes && !entries.is_empty() {
                upto = number - 1;
                break;
            }
            let packed = postcard::to_allocvec(&(key, bytes.as_slice()));
            entries.push(packed.map_err(|_| Unreadable("it cannot be packed"))?);
        }
        let joined =
            state.partners.iter().map(|(region, partner)| (region.clone(), (partner.log, partner.seen)));
        Ok(Batch {
            log: state.log,
            from: seq,
            upto: upto.max(seq),
            last: state.seq,
            ticks: state.clock.last().ticks(),
            joined: joined.collect(),
            entries,
            region: state.region,
        })
    }

    /// Joins what changed elsewhere: all of it, or after an error nothing. On return it is on the disk, and so is how far it
    /// went. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`JoinError`]
    pub async fn join(&self, from: &Region, batch: Batch) -> Result<Joined, JoinError> {
        let wanted = from.clone();
        if batch.region != wanted || wanted == self.region() {
            return Err(JoinError::OtherRegion { found: batch.region, wanted });
        }
        self.writer.submit(move |txn| txn.join(&batch)).await?
    }

    /// What joining the batch would do, under the hub's rules.
    ///
    /// # Errors
    /// [`JoinError`]
    pub fn preview(&self, batch: &Batch) -> Result<MergeReport, JoinError> {
        self.preview_with(batch, &self.rules())
    }

    /// What joining the batch would do, under other rules.
    ///
    /// # Errors
    /// [`JoinError`]
    pub fn preview_with(&self, batch: &Batch, rules: &Rules) -> Result<MergeReport, JoinError> {
        let look = self.store.read()?;
        let mut report = MergeReport::new(batch.region.clone(), self.region(), rules.policy);
        for (key, entry) in batch.decode()? {
            let here = look.entry(&key.to_bytes())?.map(|(_, entry)| entry);
            let here = here.unwrap_or_else(|| Entry::vacant(&key, self.store.state().horizon()));
            let joined = here.join(&entry)?;
            report.count(&key, &here, &joined, rules);
        }
        Ok(report)
    }

    /// Forgets tombstones that every region has seen: those up to the least of `stable`, which is what [`Registry::stable`]
    /// says; without any other region, all. Returns how many.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn purge_tombstones(&self, stable: &BTreeMap<Region, u64>) -> Result<usize, RegistryError> {
        let upto = stable.values().copied().min().unwrap_or(u64::MAX);
        let mut purged = 0;
        loop {
            let (graves, forgotten) = self.writer.submit(move |txn| txn.bury(upto)).await?;
            purged += forgotten;
            if graves < GRAVES_TOGETHER_MAX {
                return Ok(purged);
            }
        }
    }
}

impl MergeReport {
    fn count(&mut self, key: &EntryKey, here: &Entry, joined: &Entry, rules: &Rules) {
        let changes = usize::from(here != joined);
        match (key, here, joined) {
            (EntryKey::Device(id), Entry::Device(before), Entry::Device(after)) => {
                match (before.device(id, rules), after.device(id, rules)) {
                    (None, Some(_)) => self.created += 1,
                    (Some(_), None) => self.deleted += 1,
                    (Some(before), Some(after)) if !before.serves_the_same(&after) => self.updated += 1,
                    _ => self.unchanged += 1,
                }
            }
            (EntryKey::Message(..), ..) => self.messages += changes,
            (EntryKey::Group(_), ..) => self.groups += changes,
            (EntryKey::Policy(_), ..) => self.policies += changes,
            _ => self.settings += changes,
        }
        let conflicts = joined.conflicts(key, rules);
        self.held += usize::from(rules.is_manual() && !conflicts.is_empty());
        self.conflicts.extend(conflicts);
    }
}

impl Transaction<'_> {
    fn join(&mut self, batch: &Batch) -> Result<Result<Joined, JoinError>, RegistryError> {
        if let Err(refused) = self.continues(batch) {
            return Ok(Err(refused));
        }
        let known = self.state.partners.get(&batch.region).map_or(0, |partner| partner.seen);
        let mut joined = Joined::default();
        if batch.upto > known {
            let entries = match batch.decode() {
                Ok(entries) => entries,
                Err(unreadable) => return Ok(Err(unreadable.into())),
            };
            if let Err(ahead) = self.see(batch, &entries) {
                return Ok(Err(ahead.into()));
            }
            self.expect(entries.iter().map(|(key, _)| key.to_bytes()))?;
            for (key, entry) in entries {
                self.join_one(key, entry, &mut joined)?;
            }
            self.settle_fresh()?;
        }
        self.note(batch);
        Ok(Ok(joined))
    }

    /// Whether the batch goes on from what was joined.
    fn continues(&mut self, batch: &Batch) -> Result<(), JoinError> {
        let partner = self.state.partners.entry(batch.region.clone()).or_default();
        let is_new = partner.log != batch.log;
        let was_cut = !is_new && batch.last < batch.from;
        if is_new || was_cut {
            *partner = Partner { log: batch.log, ..Partner::default() };
            self.touch();
            if batch.from > 0 {
                return Err(JoinError::StartOver(batch.region.clone()));
            }
        }
        self.notice_restoration(batch);
        let seen = self.state.partners.get(&batch.region).map_or(0, |partner| partner.seen);
        if batch.from > seen {
            return Err(JoinError::Gap { from: batch.from, seen });
        }
        Ok(())
    }

    /// If the other region has joined more of this file than there is, this is an old copy of the file: what is missing comes
    /// back, and the others must not take new numbers for those they know.
    fn notice_restoration(&mut self, batch: &Batch) {
        let ours = batch.joined.get(&self.state.region);
        if ours.is_some_and(|(log, seen)| *log == self.state.log && *seen > self.state.seq) {
            self.state.log = rand::random();
            self.state
                .partners
                .values_mut()
                .for_each(|partner| *partner = Partner { log: partner.log, ..Partner::default() });
            self.touch();
        }
    }

    /// Takes the stamps of a batch in, or none of them.
    fn see(&mut self, batch: &Batch, entries: &[(EntryKey, Entry)]) -> Result<(), TooFarAhead> {
        let mut newest = BTreeMap::from([(&batch.region, batch.ticks)]);
        for (region, ticks) in entries.iter().flat_map(|(_, entry)| entry.seen().iter()) {
            let most = newest.entry(region).or_default();
            *most = ticks.max(*most);
        }
        let (mut clock, now) = (self.state.clock.clone(), self.now());
        for (region, ticks) in newest {
            clock.see(&Stamp::from_ticks(ticks, region.clone()), now)?;
        }
        self.state.clock = clock;
        Ok(())
    }

    fn join_one(&mut self, key: EntryKey, remote: Entry, joined: &mut Joined) -> Result<(), RegistryError> {
        let bytes = key.to_bytes();
        if self.is_known_to_lack(&bytes) {
            return self.join_new(key, bytes, remote, joined);
        }
        if self.is_fresh(&bytes) {
            self.settle_fresh()?;
        }
        let mut found = self.find(key)?;
        if found.seq.is_none() {
            return self.join_new(found.key, bytes, remote, joined);
        }
        let after = found.entry.join(&remote)?;
        if after == found.entry {
            return Ok(());
        }
        self.settle_fresh()?;
        joined.changed += 1;
        let conflicts = after.conflicts(&found.key, &self.state.rules);
        let before = std::mem::replace(&mut found.entry, after);
        match (&found.key, before) {
            (EntryKey::Device(_), Entry::Device(before)) => {
                self.settle_joined(&found, &before, !conflicts.is_empty())?;
            }
            (EntryKey::Message(..), _) => self.settle_message(&found)?,
            _ => self.settle_shared(&found)?,
        }
        joined.conflicts.extend(conflicts);
        Ok(())
    }

    /// Stores a device that was `before` and is what was found now; how it reads is only asked if anybody listens.
    fn settle_joined(
        &mut self,
        found: &Found,
        before: &Record,
        contested: bool,
    ) -> Result<(), RegistryError> {
        let (EntryKey::Device(key), Entry::Device(after)) = (&found.key, &found.entry) else { return Ok(()) };
        let grave = after.is_tombstone() || after.has_deleted_leaves();
        self.put(found, &found.entry, Flags { contested, grave, feedback: false })?;
        let rules = &self.state.rules;
        let (was, is) = (before.is_enabled(rules), after.is_enabled(rules));
        if self.listening {
            let device = |record: &Record| record.device(key, rules).map(Arc::new);
            let (before, after) = (device(before), device(after));
            self.announce(key, before, after, None);
        }
        self.state.counts.turn(key.module.is_some(), was, is);
        Ok(())
    }

    /// Takes an entry in whose key holds nothing here.
    fn join_new(
        &mut self,
        key: EntryKey,
        bytes: Vec<u8>,
        remote: Entry,
        joined: &mut Joined,
    ) -> Result<(), RegistryError> {
        let entry = remote.arrive(&key, self.state.horizon())?;
        if entry.is_blank() {
            return Ok(());
        }
        joined.changed += 1;
        let conflicts = entry.conflicts(&key, &self.state.rules);
        if let (EntryKey::Device(device), Entry::Device(record)) = (&key, &entry) {
            let enabled = record.is_enabled(&self.state.rules);
            let grave = record.is_tombstone() || record.has_deleted_leaves();
            let mut value = self.number();
            value.extend_from_slice(&entry.to_bytes());
            let flags = Flags { contested: !conflicts.is_empty(), grave, feedback: false };
            self.list_newest(&bytes, flags)?;
            self.settle_new(device.clone(), bytes, value, enabled);
        } else {
            self.settle_fresh()?;
            let found = Found { key, bytes, seq: None, entry, contested: false };
            match &found.key {
                EntryKey::Message(..) => self.settle_message(&found)?,
                _ => self.settle_shared(&found)?,
            }
        }
        joined.conflicts.extend(conflicts);
        Ok(())
    }

    fn settle_message(&mut self, found: &Found) -> Result<(), RegistryError> {
        let (EntryKey::Message(key, _), Entry::Message(queued)) = (&found.key, &found.entry) else {
            return Ok(());
        };
        let flags = queued.now().map(queue::flags).unwrap_or_default();
        self.put(found, &found.entry, flags)?;
        self.tell_of_messages(key);
        Ok(())
    }

    /// Notes how far the batch went, and what it says of its region.
    fn note(&mut self, batch: &Batch) {
        let (own, log) = (self.state.region.clone(), self.state.log);
        let partner = self.state.partners.entry(batch.region.clone()).or_default();
        let before = partner.clone();
        partner.seen = partner.seen.max(batch.upto);
        if batch.is_last() {
            partner.whole = true;
            match batch.joined.get(&own) {
                Some((of, seen)) if *of == log => partner.joined = partner.joined.max(*seen),
                _ => {}
            }
            self.state.known.raise(&batch.region, batch.ticks);
        }
        if *partner != before {
            self.touch();
        }
    }

    /// Forgets what lies in the first graves up to a number; returns how many graves there were, and how many were
    /// emptied.
    fn bury(&mut self, upto: u64) -> Result<(usize, usize), RegistryError> {
        let keys = self.graves(upto, GRAVES_TOGETHER_MAX)?;
        let count = keys.len();
        for key in keys {
            let mut found = self.find(key)?;
            if found.entry.is_tombstone() {
                self.forget(&found)?;
                continue;
            }
            if let Entry::Device(record) = &mut found.entry {
                record.forget_deleted_leaves();
            }
            self.shrink(&found, &found.entry)?;
        }
        Ok((count, count))
    }
}
