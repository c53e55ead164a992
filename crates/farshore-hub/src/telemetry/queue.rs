//! What waits for the writer. Putting something in never blocks; the writer takes everything at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use tokio::sync::oneshot;

use super::error::{Damage, NotKept, TelemetryError};
use super::event::{Extended, Kept};
use super::replica::Checked;
use super::window::Id;

/// Most bytes of events that wait: a second of a disk that does 256 MB/s. More would be acknowledged too late to matter.
const WAITING_BYTES_MAX: usize = 256 << 20;

/// What an event takes in memory besides its payload.
const ENTRY_BYTES: usize = 128;

/// An event on its way to the disk.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) epoch: Epoch,
    pub(super) enqueued: Moment,
    pub(super) id: Option<Id>,
    pub(super) payload: Vec<u8>,
    pub(super) done: oneshot::Sender<Result<Kept, NotKept>>,
}

/// Something for the writer to do.
#[derive(Debug)]
pub(super) enum Task {
    Append(Arrival),
    Extend(Checked, oneshot::Sender<Result<Extended, TelemetryError>>),
    Mend(Checked, oneshot::Sender<Result<Vec<Damage>, TelemetryError>>),
    Skip(Region, u64, oneshot::Sender<Result<(), TelemetryError>>),
    Tidy(Moment, oneshot::Sender<Result<(), TelemetryError>>),
}

/// Tasks in the order they came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tasks: Vec<Task>,
    bytes: usize,
    is_closed: bool,
}

impl Queue {
    /// Puts an event in. The error means that it will not be stored.
    pub(super) fn append(&self, arrival: Arrival) -> Result<(), NotKept> {
        let mut state = self.state();
        if state.is_closed {
            return Err(NotKept::Closed);
        }
        if state.bytes > WAITING_BYTES_MAX {
            return Err(NotKept::Overloaded { bytes: state.bytes });
        }
        state.bytes += arrival.payload.len() + ENTRY_BYTES;
        self.put(state, Task::Append(arrival));
        Ok(())
    }

    /// Puts something else in.
    pub(super) fn push(&self, task: Task) -> Result<(), TelemetryError> {
        let state = self.state();
        if state.is_closed {
            return Err(TelemetryError::Closed);
        }
        self.put(state, task);
        Ok(())
    }

    fn put(&self, mut state: MutexGuard<'_, State>, task: Task) {
        let was_empty = state.tasks.is_empty();
        state.tasks.push(task);
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Everything that waits; waits for something. `None`: it is closed, and nothing is left.
    pub(super) fn take(&self) -> Option<Vec<Task>> {
        let mut state = self.state();
        loop {
            if !state.tasks.is_empty() {
                state.bytes = 0;
                return Some(std::mem::take(&mut state.tasks));
            }
            if state.is_closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing is put in from now on; what is in it is still done.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.filled.notify_one();
    }

    /// Nothing is done any more; whoever waits is told so.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        drop(tasks);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
