//! The application's server: sends numbered messages to everybody and never stops, whichever region is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::hub::{Hub, Shore};

/// Fifty messages a second.
const PACE: Duration = Duration::from_millis(20);

/// A message that every client is owed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    pub(super) number: usize,
    /// When its acceptance was seen.
    pub(super) at: Instant,
}

#[derive(Debug, Default)]
struct Log {
    owed: Vec<Owed>,
    longest_wait: Duration,
    last_refusal: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Log>,
    stop: AtomicBool,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A publisher that runs; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What a publisher that has ended knows.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) owed: Vec<Owed>,
    /// The longest time between two messages that were accepted.
    pub(super) longest_wait: Duration,
}

impl Publisher {
    pub(super) fn start(hub: Arc<Hub>) -> Self {
        let shared = Arc::<Shared>::default();
        let task = tokio::spawn(run(hub, Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Messages accepted so far.
    pub(super) fn accepted(&self) -> usize {
        self.shared.log().owed.len()
    }

    /// What it was told when it last had to turn to the other region.
    pub(super) fn last_refusal(&self) -> Option<String> {
        self.shared.log().last_refusal.clone()
    }

    /// Waits for the message that is under way, and ends.
    pub(super) async fn stop(mut self) -> Published {
        self.shared.stop.store(true, Ordering::SeqCst);
        // It is not aborted, and it does not panic: what it knows is in the log.
        let _ = (&mut self.task).await;
        let log = std::mem::take(&mut *self.shared.log());
        Published { owed: log.owed, longest_wait: log.longest_wait }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(hub: Arc<Hub>, shared: Arc<Shared>) {
    let mut due = tokio::time::interval(PACE);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    let mut accepted_at = Instant::now();
    while !shared.stop.load(Ordering::SeqCst) {
        due.tick().await;
        // Home first; what is not accepted there is not owed, and its number is not used again: some may have it.
        for shore in [Shore::Home, Shore::Far] {
            number += 1;
            let sent = hub.send(shore, number).await;
            let mut log = shared.log();
            match sent {
                Ok(()) => {
                    let at = Instant::now();
                    log.longest_wait = log.longest_wait.max(at.duration_since(accepted_at));
                    accepted_at = at;
                    log.owed.push(Owed { number, at });
                    break;
                }
                Err(error) => log.last_refusal = Some(format!("{shore:?}: {error}")),
            }
        }
    }
}
