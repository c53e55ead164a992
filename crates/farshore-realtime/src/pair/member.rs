//! A member over the network, with what is thought of it and the task that looks at it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::place::Place;
use super::probe::Probe;
use super::verdict::{Round, State, Verdict};
use crate::live::now;

/// A lost region is known within two bad rounds: its clients wait for that.
const REGION_EVERY: Duration = Duration::from_millis(500);
/// Other servers have their own failover and may count calls.
const FOREIGN_EVERY: Duration = Duration::from_secs(2);
/// Between rounds in any case: a member that closes each connection at once is not stormed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// An older verdict is looked at again before a client is sent there.
const FRESH_MAX: Duration = Duration::from_secs(1);

/// What was seen of a member.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) verdict: Verdict,
    /// When the last round of the probe ended.
    at: Option<Instant>,
    /// How many there were.
    rounds: u64,
}

impl Seen {
    /// A round ended lately.
    pub(super) fn is_fresh(&self) -> bool {
        self.at.is_some_and(|at| at.elapsed() <= FRESH_MAX)
    }
}

/// A member over the network. Dropping it ends the looking.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) place: Arc<Place>,
    seen: Arc<watch::Sender<Seen>>,
    nudge: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Member {
    pub(super) fn spawn(place: Place) -> Arc<Self> {
        let place = Arc::new(place);
        let seen = Seen { verdict: Verdict::unknown(now()), at: None, rounds: 0 };
        let (seen, nudge) = (Arc::new(watch::Sender::new(seen)), Arc::new(Notify::new()));
        let task = tokio::spawn(look_after(Arc::clone(&place), Arc::downgrade(&seen), Arc::clone(&nudge)));
        Arc::new(Self { place, seen, nudge, task })
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    pub(super) fn state(&self) -> State {
        self.seen.borrow().verdict.state
    }

    /// A call went wrong: that counts like a round of the probe, which looks at once.
    pub(super) fn suspect(&self, round: Round) {
        // A lost member is not asked, but may have become lost meanwhile; it has to prove itself to the probe.
        self.seen.send_modify(|seen| seen.verdict = seen.verdict.after(round, now()));
        self.nudge.notify_one();
    }

    /// Has a round made now, and waits for its end so long.
    pub(super) async fn look_within(&self, patience: Duration) {
        let mut seen = self.seen.subscribe();
        let before = seen.borrow_and_update().rounds;
        self.nudge.notify_one();
        let _ = tokio::time::timeout(patience, seen.wait_for(|seen| seen.rounds > before)).await;
    }

    /// Returns when it is lost.
    pub(super) async fn lost(&self) {
        let mut seen = self.seen.subscribe();
        if seen.wait_for(|seen| seen.verdict.state == State::Lost).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Looks at a member until nobody wants to know.
async fn look_after(place: Arc<Place>, seen: Weak<watch::Sender<Seen>>, nudge: Arc<Notify>) {
    let every = if place.region.is_some() { REGION_EVERY } else { FOREIGN_EVERY };
    let mut probe = Probe::new();
    loop {
        let round = probe.round(&place).await;
        let Some(seen) = seen.upgrade() else { return };
        let in_doubt = take(&place, &seen, round);
        drop(seen);
        tokio::time::sleep(PAUSE_MIN).await;
        if in_doubt {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(every.saturating_sub(PAUSE_MIN)) => {}
            () = nudge.notified() => {}
            _ = probe.drain() => {}
        }
    }
}

/// True: the next round decides.
fn take(place: &Place, seen: &watch::Sender<Seen>, round: Round) -> bool {
    let before = seen.borrow().verdict.state;
    seen.send_modify(|seen| {
        seen.verdict = seen.verdict.after(round, now());
        seen.at = Some(Instant::now());
        seen.rounds += 1;
    });
    let seen = seen.borrow();
    let verdict = &seen.verdict;
    match verdict.state {
        state if state == before => {}
        State::Lost => tracing::warn!(member = place.name, why = verdict.why, "a member of the pair is lost"),
        State::Healthy | State::Unknown => {
            tracing::info!(member = place.name, "a member of the pair is healthy")
        }
    }
    verdict.is_in_doubt()
}
