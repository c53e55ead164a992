//! The rights to serve of all machines of a region, reachable without a machine's lock: a renewal must not wait for an
//! order that takes long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::ids::ItemId;
use farshore_core::lease::Lease;
use farshore_core::workload::Leased;

/// See the module. Clones share the same rights.
#[derive(Debug, Clone, Default)]
pub(super) struct Leases {
    by_item: Arc<Mutex<BTreeMap<ItemId, Arc<Lease>>>>,
}

impl Leases {
    fn by_item(&self) -> MutexGuard<'_, BTreeMap<ItemId, Arc<Lease>>> {
        self.by_item.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right of `item`, the same for each of its lives.
    pub(super) fn of(&self, item: &ItemId) -> Arc<Lease> {
        Arc::clone(self.by_item().entry(item.clone()).or_insert_with(crate::source::holding))
    }

    /// The right of `item`, if it is known here.
    pub(super) fn get(&self, item: &ItemId) -> Option<Arc<Lease>> {
        self.by_item().get(item).cloned()
    }

    /// The machine is deleted.
    pub(super) fn forget(&self, item: &ItemId) {
        self.by_item().remove(item);
    }

    /// Those that serve and fence themselves.
    pub(super) fn leased(&self) -> Vec<Leased> {
        self.by_item().iter().filter_map(|(item, lease)| lease.leased(item)).collect()
    }
}
