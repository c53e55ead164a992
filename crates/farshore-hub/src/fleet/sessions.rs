//! Who is connected: at most one connection of each device, the newest.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::live::Live;
use crate::mqtt::behind::Closing;
use crate::names::Key;

/// Devices connect and say something at the same time; this many of them do so without waiting for each other.
const SHARDS: usize = 32;

/// The connections of one hub.
#[derive(Debug)]
pub(crate) struct Sessions {
    shards: Vec<Mutex<HashMap<Key, Arc<Live>>>>,
    hasher: RandomState,
    count: AtomicUsize,
    numbers: AtomicU64,
    /// Raised when somebody comes or subscribes, for those who wait for a device.
    arrivals: watch::Sender<u64>,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            numbers: AtomicU64::new(0),
            arrivals: watch::Sender::new(0),
        }
    }

    /// A number for a connection or a delivery: never given twice by this process.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Live>> {
        self.shard(key).get(key).cloned()
    }

    /// Puts a new connection in the place of an older one, which is closed.
    pub(crate) fn enter(&self, live: &Arc<Live>) {
        let older = self.shard(&live.key).insert(live.key.clone(), Arc::clone(live));
        match older {
            None => {
                self.count.fetch_add(1, Ordering::Relaxed);
            }
            Some(older) => older.close(Closing::Replaced),
        }
        self.arrived();
    }

    /// A connection is over. A newer one of the same device stays.
    pub(crate) fn leave(&self, live: &Live) {
        let mut shard = self.shard(&live.key);
        if shard.get(&live.key).is_some_and(|current| current.number == live.number) {
            shard.remove(&live.key);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Somebody came or subscribed.
    pub(crate) fn arrived(&self) {
        if self.arrivals.receiver_count() > 0 {
            self.arrivals.send_modify(|count| *count += 1);
        }
    }

    /// Changes when somebody has come or subscribed.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Everybody who is connected now.
    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        let mut all = Vec::with_capacity(self.count());
        for shard in &self.shards {
            all.extend(lock(shard).values().cloned());
        }
        all
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Arc<Live>>> {
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).expect("smaller than SHARDS");
        lock(&self.shards[at])
    }
}

fn lock(shard: &Mutex<HashMap<Key, Arc<Live>>>) -> MutexGuard<'_, HashMap<Key, Arc<Live>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
