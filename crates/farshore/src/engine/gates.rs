//! One order at a time for one item in one region, from this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use farshore_core::ids::{ItemId, Region};
use tokio::sync::Mutex as Gate;

type Place = (ItemId, Region);

/// Gates by item and region; those that nobody holds are forgotten.
#[derive(Debug, Default)]
pub(super) struct Gates {
    by_place: Mutex<HashMap<Place, Weak<Gate<()>>>>,
}

impl Gates {
    /// The gate of this item in this region.
    pub(super) fn of(&self, item: &ItemId, region: &Region) -> Arc<Gate<()>> {
        let mut gates = self.by_place.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (item.clone(), region.clone());
        if let Some(gate) = gates.get(&place).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::new(Gate::new(()));
        gates.insert(place, Arc::downgrade(&gate));
        gate
    }
}
