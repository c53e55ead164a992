//! What the writer and the readers share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use farshore_core::ids::Region;
use tokio::sync::watch;

use super::event::TelemetryStats;
use super::log::Log;
use super::marks::Twins;
use super::queue::Queue;
use super::window::Identifier;

/// All logs of a hub in one region.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) own: Region,
    pub(super) queue: Queue,
    pub(super) identifier: Identifier,
    /// Counts what was published; readers wait for it to change.
    pub(super) grown: watch::Sender<u64>,
    /// A log's place here is its number; logs are never removed.
    logs: RwLock<Vec<Arc<Log>>>,
    pub(super) twins: RwLock<Twins>,
    stats: Mutex<TelemetryStats>,
    pulls: Mutex<Pulls>,
}

impl Shared {
    pub(super) fn new(own: Region, identifier: Identifier) -> Self {
        Self {
            own,
            queue: Queue::default(),
            identifier,
            grown: watch::Sender::new(0),
            logs: RwLock::default(),
            twins: RwLock::default(),
            stats: Mutex::default(),
            pulls: Mutex::default(),
        }
    }

    pub(super) fn logs(&self) -> Vec<Arc<Log>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn log(&self, origin: &Region) -> Option<Arc<Log>> {
        let logs = self.logs.read().unwrap_or_else(PoisonError::into_inner);
        logs.iter().find(|log| log.region == *origin).map(Arc::clone)
    }

    pub(super) fn add(&self, log: Arc<Log>) {
        let mut logs = self.logs.write().unwrap_or_else(PoisonError::into_inner);
        debug_assert_eq!(logs.len(), usize::from(log.number));
        logs.push(log);
    }

    pub(super) fn stats(&self) -> MutexGuard<'_, TelemetryStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pulls(&self) -> MutexGuard<'_, Pulls> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self) {
        self.grown.send_modify(|count| *count += 1);
    }
}

/// How far partners have pulled. It is not stored: after a start nothing was pulled until a partner says so.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    pub(super) partners: BTreeSet<Region>,
    /// By partner and origin.
    pub(super) upto: BTreeMap<(Region, Region), u64>,
}

impl Pulls {
    /// Up to where every partner has a region's log; `None`: nobody is waited for.
    pub(super) fn lowest(&self, origin: &Region) -> Option<u64> {
        let others = self.partners.iter().filter(|partner| *partner != origin);
        others.map(|partner| self.upto.get(&(partner.clone(), origin.clone())).copied().unwrap_or(0)).min()
    }
}
