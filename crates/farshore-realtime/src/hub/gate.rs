//! When what a reliable client is owed may be written to it: once the other region has it, too. Otherwise a region that dies
//! would leave clients with messages that the survivor does not know it has, and sends again.
//!
//! Must always hold: whoever found the gate closed is woken when it opens far enough.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::outbox::Outbox;
use super::record::Position;

/// Open up to a position.
#[derive(Debug)]
pub struct Gate {
    open: AtomicU64,
    waiting: Mutex<Vec<Arc<Outbox>>>,
}

impl Default for Gate {
    /// Wide open: there is nobody to wait for.
    fn default() -> Self {
        Self { open: AtomicU64::new(u64::MAX), waiting: Mutex::default() }
    }
}

impl Gate {
    /// Whether what was recorded at `position` may be written.
    pub(super) fn is_open(&self, position: Position) -> bool {
        position.0 <= self.open.load(Ordering::Acquire)
    }

    /// The outbox holds something for which the gate was closed. It is woken when that may have changed.
    pub(super) fn wait(&self, outbox: &Arc<Outbox>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(outbox));
        // It may have opened since it was looked at.
        if outbox.is_let_through(self) {
            outbox.wake_up();
        }
    }

    /// The other region has everything up to `position`; `None`: nobody waits for it. Whoever calls this takes turns: what waits
    /// is in one caller's hands meanwhile.
    pub fn open_until(&self, position: Option<Position>) {
        self.open.store(position.map_or(u64::MAX, |position| position.0), Ordering::Release);
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let (through, held): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|outbox| outbox.leaves_the_gate(self));
        if !held.is_empty() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).extend(held);
        }
        drop(through);
    }
}
