//! Sending clients elsewhere, a batch at a time: with their sessions, where their address leads there.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::hub::Leaving;
use crate::live::LiveHub;

/// Clients acknowledge once a second: when nobody has caught up for so long, messages come faster than that.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// Between two looks for somebody who has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What became of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    /// So many are on their way.
    Closed(usize),
    /// Nobody can go without a word that is still owed; in a moment somebody may.
    NotYet,
    /// There is nobody to send.
    Nobody,
}

/// One emptying of a hub: at first those go who are owed nothing. When nobody is like that any more, anybody goes: what waits for
/// them is written before they are closed.
#[derive(Debug)]
pub(super) struct Shedding {
    waits_since: Instant,
}

impl Shedding {
    pub(super) fn begin() -> Self {
        Self { waits_since: Instant::now() }
    }

    /// Sends up to `count` clients elsewhere.
    pub(super) fn step(&mut self, hub: &Arc<LiveHub>, count: usize) {
        self.batch(hub, count);
    }

    fn batch(&mut self, hub: &Arc<LiveHub>, count: usize) -> Batch {
        let closed = close(hub, count, Leaving::Settled);
        if closed > 0 {
            self.waits_since = Instant::now();
            return Batch::Closed(closed);
        }
        if self.waits_since.elapsed() < SETTLE_MAX {
            return Batch::NotYet;
        }
        match close(hub, count, Leaving::Anybody) {
            0 => Batch::Nobody,
            closed => Batch::Closed(closed),
        }
    }
}

/// Sends so many clients elsewhere, one each `every`.
pub(super) async fn shed(hub: Arc<LiveHub>, count: usize, every: Duration) {
    let mut shedding = Shedding::begin();
    let mut left = count;
    while left > 0 {
        match shedding.batch(&hub, 1) {
            Batch::Closed(closed) => {
                left = left.saturating_sub(closed);
                tokio::time::sleep(every).await;
            }
            Batch::NotYet => tokio::time::sleep(LOOK_EVERY).await,
            Batch::Nobody => return,
        }
    }
}

fn close(hub: &Arc<LiveHub>, count: usize, leaving: Leaving) -> usize {
    let (closed, ended) = hub.with(|hub| hub.shed(count, leaving));
    hub.tell_ended(&ended);
    closed
}
