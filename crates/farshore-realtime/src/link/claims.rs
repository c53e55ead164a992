//! Sessions that were asked of the other region, and who waits for them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::names::ConnectionId;

/// Clients that can wait for their sessions at once: more than a process may have open files for.
const WAITING_MAX: usize = 50_000;
/// Claims in one turn of the sender: records are not held up by a storm of them.
const TURN_MAX: usize = 1_000;

/// Who waits for which session.
#[derive(Debug, Default)]
pub(super) struct Claims {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    waiting: HashMap<ConnectionId, Vec<oneshot::Sender<()>>>,
    unsent: Vec<ConnectionId>,
    count: usize,
}

impl Claims {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The receiver is woken when something became of it. `None`: too many wait.
    pub(super) fn ask(&self, connection: &ConnectionId) -> Option<oneshot::Receiver<()>> {
        let mut known = self.known();
        if known.count >= WAITING_MAX {
            return None;
        }
        let (wake, woken) = oneshot::channel();
        let waiting = known.waiting.entry(connection.clone()).or_default();
        // Clients that gave up are not counted for ever.
        let before = waiting.len();
        waiting.retain(|waiting| !waiting.is_closed());
        let gone = before - waiting.len();
        waiting.push(wake);
        let is_first = waiting.len() == 1;
        known.count = known.count + 1 - gone;
        if is_first {
            known.unsent.push(connection.clone());
        }
        Some(woken)
    }

    /// What is to be asked of the other region now.
    pub(super) fn unsent(&self) -> Vec<ConnectionId> {
        let mut known = self.known();
        let count = known.unsent.len().min(TURN_MAX);
        known.unsent.drain(..count).collect()
    }

    /// Something became of this one.
    pub(super) fn settle(&self, connection: &ConnectionId) {
        let mut known = self.known();
        if let Some(waiting) = known.waiting.remove(connection) {
            known.count -= waiting.len();
            for wake in waiting {
                // Whoever gave up waiting is not told.
                let _ = wake.send(());
            }
        }
    }

    /// The other region is lost: nobody waits for it.
    pub(super) fn settle_all(&self) {
        let known = std::mem::take(&mut *self.known());
        for wake in known.waiting.into_values().flatten() {
            let _ = wake.send(());
        }
    }

    /// A new connection: whatever was asked on the one before may not have arrived.
    pub(super) fn ask_again(&self) {
        let mut known = self.known();
        known.waiting.retain(|_, waiting| {
            waiting.retain(|waiting| !waiting.is_closed());
            !waiting.is_empty()
        });
        known.count = known.waiting.values().map(Vec::len).sum();
        known.unsent = known.waiting.keys().cloned().collect();
    }
}
