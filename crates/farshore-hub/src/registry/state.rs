//! What the file says of itself.

use std::collections::BTreeMap;

use farshore_core::ids::{Epoch, Region};
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Stamp};
use crate::record::Rules;
use crate::versions::VersionVector;

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Devices.
    pub devices: u64,
    /// Devices that may connect.
    pub enabled: u64,
    /// Devices that may not.
    pub disabled: u64,
    /// Modules, of all devices.
    pub modules: u64,
}

impl Counts {
    /// Counts one thing that was `before` and is `after`: absent, disabled or enabled.
    pub(super) fn turn(&mut self, is_module: bool, before: Option<bool>, after: Option<bool>) {
        if before == after {
            return;
        }
        for (state, by) in [(before, u64::MAX), (after, 1)] {
            let Some(enabled) = state else { continue };
            let add = |count: &mut u64| *count = count.wrapping_add(by);
            if is_module {
                add(&mut self.modules);
                continue;
            }
            add(&mut self.devices);
            add(if enabled { &mut self.enabled } else { &mut self.disabled });
        }
    }
}

/// Another region, as this one knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Partner {
    /// Its file; another number means that it lost the one we know.
    pub(super) log: u64,
    /// Everything up to here was joined.
    pub(super) seen: u64,
    /// Everything of ours up to here it had joined when it told us all it had.
    pub(super) joined: u64,
    /// Everything that it has was joined at least once.
    pub(super) whole: bool,
}

/// What a transaction goes on from. Stored with every one.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) region: Region,
    /// Names this file among all files that this region ever had.
    pub(super) log: u64,
    pub(super) epoch: Epoch,
    pub(super) clock: Clock,
    /// The newest number in the log.
    pub(super) seq: u64,
    pub(super) counts: Counts,
    pub(super) rules: Rules,
    /// Every change that other regions made up to here was seen: in entries, or as forgotten tombstones.
    pub(super) known: VersionVector,
    pub(super) partners: BTreeMap<Region, Partner>,
    /// Changes of settings since the file was opened; not stored.
    pub(super) settings: u64,
}

/// The state on the disk; after a version byte.
#[derive(Serialize, Deserialize)]
struct Stored {
    region: Region,
    log: u64,
    epoch: Epoch,
    clock: Stamp,
    seq: u64,
    counts: Counts,
    rules: Rules,
    known: VersionVector,
    partners: BTreeMap<Region, Partner>,
}

/// The version of the file's tables and of the state.
const VERSION: u8 = 1;

impl State {
    pub(super) fn new(region: Region, log: u64) -> Self {
        Self {
            log,
            epoch: Epoch::default(),
            clock: Clock::new(region.clone(), None),
            seq: 0,
            counts: Counts::default(),
            rules: Rules::default(),
            known: VersionVector::default(),
            partners: BTreeMap::new(),
            settings: 0,
            region,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let stored = Stored {
            region: self.region.clone(),
            log: self.log,
            epoch: self.epoch,
            clock: self.clock.last().clone(),
            seq: self.seq,
            counts: self.counts,
            rules: self.rules.clone(),
            known: self.known.clone(),
            partners: self.partners.clone(),
        };
        postcard::to_extend(&stored, vec![VERSION])
            .expect("these types have no map or text of unknown length")
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let (version, rest) = bytes.split_first().ok_or("its state is empty")?;
        if *version != VERSION {
            return Err("it was written by another version: use that one");
        }
        let stored: Stored = postcard::from_bytes(rest).map_err(|_| "its state is damaged")?;
        Ok(Self {
            clock: Clock::new(stored.region.clone(), Some(&stored.clock)),
            region: stored.region,
            log: stored.log,
            epoch: stored.epoch,
            seq: stored.seq,
            counts: stored.counts,
            rules: stored.rules,
            known: stored.known,
            partners: stored.partners,
            settings: 0,
        })
    }

    /// What a place where nothing is has seen: all that other regions told, as nothing of it is left here; and all that this
    /// region made, unless others may hold what it made in an earlier file.
    pub(super) fn horizon(&self) -> VersionVector {
        let mut horizon = self.known.clone();
        if !self.partners.is_empty() && self.partners.values().all(|partner| partner.whole) {
            horizon.raise(&self.region, self.clock.last().ticks());
        }
        horizon
    }
}
