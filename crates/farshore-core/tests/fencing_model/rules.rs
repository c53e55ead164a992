//! What is explored: the kind of item, how much may happen, and which one rule is broken, if any.

use std::time::Duration;

use farshore_core::fencing::FenceTimings;

use crate::zone::Limits;

/// How an item behaves without its control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    /// Stops by itself when it could not renew: `on_control_loss = "fence"`.
    Fence,
    /// Goes on: `"hold"`.
    Hold,
}

/// One rule switched off. Each must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The wait is counted from when the revocation was sent, not from when it was known to be stored.
    WaitFromSending,
    /// A replacement coordinator goes on with its predecessor's wait, a reading of a clock of another machine.
    WaitContinued,
    /// W without S.
    WaitWithoutStop,
    /// W without one per cent of D.
    WaitWithoutDrift,
    /// W without the second on top.
    WaitWithoutMargin,
    /// The lease is counted from when the answer came, not from when the renewal was sent.
    LeaseFromAnswer,
    /// The lease is measured with a clock that stands still while the machine is suspended.
    LeaseClockStands,
    /// Nothing is checked between accepting a write and acknowledging it.
    NoSecondCheck,
    /// Not a rule but the documented hole: the process is paused between the second check and the acknowledgement.
    PausedAfterCheck,
    /// A renewal is a plain write, not conditional on the own record.
    RenewalUnconditional,
    /// The old region answers that it is fenced, and keeps that in memory only.
    FenceNotKept,
    /// The target opens the copy, and keeps the new token in memory only.
    PromotionNotKept,
    /// An agent does not compare an order's token with the highest it has stored.
    OldTokensObeyed,
    /// Cancelling gives the old region its old epoch back.
    CancelGrantsOldEpoch,
    /// Going on to promote is a plain write, not conditional on own record and executor epoch.
    PromotionUnconditional,
    /// The directory is changed in a transaction of its own.
    DirectoryApart,
    /// A lease-attached key that vanished counts as proof that its owner stopped.
    VanishedKeyIsProof,
    /// A holding item is waited out as if it fenced itself.
    HoldWaitedOut,
    /// The operator's word is taken while the source is up but unreachable.
    WordWhileUp,
    /// A region that starts again serves by what it has on disk.
    RestartServes,
    /// A confirmation is for a region, not for one start of its process.
    ConfirmationOutlivesStart,
}

/// The rules of one exploration.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// What is protected.
    pub(crate) item: Item,
    /// What is broken.
    pub(crate) broken: Option<Broken>,
    /// Epochs go up to this.
    pub(crate) epochs: u8,
    /// So often an executor starts or takes over a job.
    pub(crate) claims: u8,
    /// So often each region's process starts again.
    pub(crate) restarts: u8,
    /// Real time, in milliseconds, that a lease may be used for by the slowest allowed clock.
    pub(crate) lease: i32,
    /// The same for the time from the second check to the acknowledgement of a process that is not paused.
    pub(crate) gap: i32,
    /// W.
    pub(crate) wait: i32,
    /// The constants for the zones.
    pub(crate) limits: Limits,
}

/// A lease long enough that one per cent of it is more than the second on top, so that each part of W counts by itself.
const TIMINGS: FenceTimings = FenceTimings {
    renew_every: Duration::from_secs(3),
    call_timeout: Duration::from_secs(2),
    valid_for: Duration::from_secs(150),
    stop_within: Duration::from_secs(5),
};

impl Rules {
    /// The protocol as it is.
    pub(crate) fn of(item: Item) -> Self {
        Self::with(item, &TIMINGS, None)
    }

    /// The protocol for a self-fencing item, by these timings.
    pub(crate) fn timed(timings: &FenceTimings) -> Self {
        Self::with(Item::Fence, timings, None)
    }

    /// The protocol without one rule.
    pub(crate) fn without(item: Item, broken: Broken) -> Self {
        Self::with(item, &TIMINGS, Some(broken))
    }

    /// The same, with less that may happen.
    pub(crate) fn within(self, epochs: u8, claims: u8, restarts: u8) -> Self {
        Self { epochs, claims, restarts, ..self }
    }

    fn with(item: Item, timings: &FenceTimings, broken: Option<Broken>) -> Self {
        assert_eq!(timings.check(), Ok(()));
        let lease = timings.valid_for + timings.valid_for / 100;
        let gap = timings.stop_within + timings.stop_within / 100;
        let less = match broken {
            Some(Broken::WaitWithoutStop) => timings.stop_within,
            Some(Broken::WaitWithoutDrift) => timings.valid_for / 100,
            Some(Broken::WaitWithoutMargin) => Duration::from_secs(1),
            _ => Duration::ZERO,
        };
        let (lease, gap, wait) = (millis(lease), millis(gap), millis(timings.wait() - less));
        Self {
            item,
            broken,
            epochs: 4,
            claims: 3,
            restarts: if item == Item::Hold { 2 } else { 1 },
            lease,
            gap,
            wait,
            limits: Limits::new(lease, gap, wait),
        }
    }

    /// Whether this rule is the broken one.
    pub(crate) fn lacks(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).expect("timings of minutes fit in i32 milliseconds")
}
