//! Whether this hub may acknowledge: one question, asked by every path that tells a client that something was kept.
//!
//! Whoever will acknowledge *enters* first, does the durable work, and asks again before it answers. Shutting the gate is one store:
//! from then on nobody enters, whoever is inside is refused when they ask, and [`Gate::settled`] returns once nobody is inside, so
//! that nothing is written any more either.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use farshore_core::ids::Epoch;
use tokio::sync::{Notify, watch};

/// What the registry of an open hub is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It holds everything that was acknowledged anywhere: a device that it does not know does not exist.
    Current,
    /// The lost region may have known more: an unknown device, or one whose key does not fit, is held and then told to come
    /// again, never refused for good.
    Behind,
}

/// What a hub does with those who want to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Opened, and nobody has said what for.
    Closed,
    /// Nobody is known to serve: connections are held, then told to come again.
    StandingBy,
    /// The other region serves: connections are told to come again soon, which leads them there.
    Following,
    /// Serves devices and services.
    Open {
        /// Under which right to write.
        epoch: Epoch,
        /// What the registry is worth.
        standing: Standing,
    },
    /// Served, and no longer may.
    Fenced,
}

/// A self-fencing hub's own answer to whether its right still holds.
pub type Lease = Arc<dyn Fn() -> bool + Send + Sync>;

/// Not open.
const SHUT: u64 = 0;

/// The gate of one hub.
pub(crate) struct Gate {
    /// The number of the opening under which acknowledgements are given; [`SHUT`] while none are.
    open: AtomicU64,
    inside: AtomicUsize,
    left: Notify,
    openings: AtomicU64,
    epoch: AtomicU64,
    phase: watch::Sender<Phase>,
    /// Read by every acknowledgement, written twice in a hub's life.
    lease: RwLock<Option<Lease>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("phase", &*self.phase.borrow()).finish_non_exhaustive()
    }
}

/// Somebody who is going to acknowledge something. Dropped when it is durable or refused.
#[derive(Debug)]
pub(crate) struct Entered {
    gate: Arc<Gate>,
    opening: u64,
    epoch: Epoch,
}

impl Entered {
    /// Under which right this is written.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether it may still be acknowledged. Asked after it is durable, immediately before the answer is given.
    pub(crate) fn may_acknowledge(&self) -> bool {
        self.gate.is_open_as(self.opening)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // The count is lowered before the gate is looked at, as `settled` shuts it before it looks at the count: one of the two sees
        // the other.
        if self.gate.inside.fetch_sub(1, Ordering::SeqCst) == 1
            && self.gate.open.load(Ordering::SeqCst) == SHUT
        {
            self.gate.left.notify_waiters();
        }
    }
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            open: AtomicU64::new(SHUT),
            inside: AtomicUsize::new(0),
            left: Notify::new(),
            openings: AtomicU64::new(SHUT),
            epoch: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Closed),
            lease: RwLock::default(),
        }
    }

    /// Opens under a new number: who entered under an earlier one is not acknowledged any more. Opening again under the same right
    /// changes only the standing; connections stay.
    pub(crate) fn open(&self, epoch: Epoch, standing: Standing) {
        self.phase.send_modify(|phase| {
            let same = matches!(phase, Phase::Open { epoch: held, .. } if *held == epoch);
            if !same {
                self.epoch.store(epoch.0, Ordering::SeqCst);
                let opening = self.openings.fetch_add(1, Ordering::SeqCst) + 1;
                self.open.store(opening, Ordering::SeqCst);
            }
            *phase = Phase::Open { epoch, standing };
        });
    }

    /// From the moment this returns nobody enters, and nobody who is inside may acknowledge.
    pub(crate) fn shut(&self, into: Phase) {
        self.phase.send_modify(|phase| {
            self.open.store(SHUT, Ordering::SeqCst);
            *phase = into;
        });
    }

    /// Returns once nobody is inside: what was being written is written or refused.
    pub(crate) async fn settled(&self) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if self.inside.load(Ordering::SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }

    /// The right holds only as long as this says so; `None`: until it is taken away.
    pub(crate) fn set_lease(&self, lease: Option<Lease>) {
        *self.lease.write().unwrap_or_else(PoisonError::into_inner) = lease;
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The number of the current opening, if it is open and its right holds.
    pub(crate) fn opening(&self) -> Option<u64> {
        let open = self.open.load(Ordering::SeqCst);
        (open != SHUT && self.lease_holds()).then_some(open)
    }

    /// Whether this opening is the current one and its right holds.
    pub(crate) fn is_open_as(&self, opening: u64) -> bool {
        self.opening() == Some(opening)
    }

    /// Enters to acknowledge something to a client of this opening.
    pub(crate) fn enter(self: &Arc<Self>, opening: u64) -> Option<Entered> {
        // Counted first: see `Entered::drop`.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let epoch = Epoch(self.epoch.load(Ordering::SeqCst));
        let entered = Entered { gate: Arc::clone(self), opening, epoch };
        entered.may_acknowledge().then_some(entered)
    }

    /// Enters under whatever opening is current: for services, whose requests are not bound to a connection.
    pub(crate) fn enter_now(self: &Arc<Self>) -> Option<Entered> {
        self.enter(self.opening()?)
    }

    fn lease_holds(&self) -> bool {
        let lease = self.lease.read().unwrap_or_else(PoisonError::into_inner);
        lease.as_ref().is_none_or(|holds| holds())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[tokio::test]
    async fn whoever_is_inside_when_the_gate_shuts_is_not_acknowledged_and_is_waited_for() {
        let gate = Arc::new(Gate::new());
        assert!(gate.enter_now().is_none(), "a closed hub serves nobody");
        gate.open(Epoch(3), Standing::Current);
        let inside = gate.enter_now().unwrap();
        assert!(inside.may_acknowledge() && inside.epoch() == Epoch(3));

        gate.shut(Phase::Fenced);
        assert!(!inside.may_acknowledge());
        assert!(gate.enter_now().is_none());
        let waits = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.settled().await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished(), "somebody is still writing");
        drop(inside);
        waits.await.unwrap();
    }

    #[test]
    fn a_later_opening_does_not_acknowledge_for_an_earlier_one() {
        let gate = Arc::new(Gate::new());
        gate.open(Epoch(1), Standing::Current);
        let earlier = gate.enter_now().unwrap();
        gate.open(Epoch(1), Standing::Behind);
        assert!(earlier.may_acknowledge(), "the same right: only what the registry is worth has changed");
        gate.shut(Phase::StandingBy);
        gate.open(Epoch(3), Standing::Current);
        assert!(!earlier.may_acknowledge());
        assert!(gate.enter_now().unwrap().may_acknowledge());
    }

    #[test]
    fn a_lease_that_ended_stops_acknowledgements_though_nobody_shut_the_gate() {
        let gate = Arc::new(Gate::new());
        let holds = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&holds);
        gate.set_lease(Some(Arc::new(move || asked.load(Ordering::SeqCst))));
        gate.open(Epoch(1), Standing::Current);
        let inside = gate.enter_now().unwrap();
        assert!(inside.may_acknowledge());
        holds.store(false, Ordering::SeqCst);
        assert!(!inside.may_acknowledge());
        assert!(gate.enter_now().is_none());
        assert_eq!(gate.opening(), None);
    }
}
