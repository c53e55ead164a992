//! Synchronous protection: how far the other region has this one's telemetry, for those who acknowledge nothing before that.
//!
//! Must always hold: nobody waits for a region that is away. It is waited for while it is heard and keeps up; when it falls silent,
//! what is durable here is acknowledged, and that is said; once it has caught up it is waited for again.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::workload::ReplicationMode;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::Shared;

/// Silence is noticed within this.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Up to where the other region has this one's log, durably; `None`: it is not waited for.
pub type Awaited = watch::Receiver<Option<u64>>;

/// Who tells it.
#[derive(Debug)]
pub(super) struct Confirmed(watch::Sender<Option<u64>>);

impl Confirmed {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(super) fn awaited(&self) -> Awaited {
        self.0.subscribe()
    }

    /// The other region keeps up, and has so much.
    pub(super) fn rise(&self, next: u64) {
        self.0.send_if_modified(|upto| {
            let rises = upto.is_none_or(|upto| upto < next);
            *upto = (*upto).max(Some(next));
            rises
        });
    }

    /// It is not waited for any more.
    fn suspend(&self) {
        self.0.send_if_modified(|upto| upto.take().is_some());
    }
}

/// Stops waiting for a region that is silent, for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    if shared.options.mode == ReplicationMode::Async {
        return;
    }
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !shared.state().is_up() {
            shared.awaited.suspend();
        }
    }
}
