//! Keeps the right to serve of items that fence themselves, and fences them when it cannot be kept.
//!
//! Must always hold: the time from which a renewal counts is taken before the renewal is sent; a renewal counts only when the
//! control plane has stored it. The data path stops acknowledging by its own look at the clock; this loop only renews, and
//! closes and remembers what has stopped.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use farshore_core::ids::{ItemId, Region, StepKey, Token};
use farshore_core::workload::{Action, BootTime, Leased, Order};
use tokio::sync::Notify;

use super::AgentState;
use crate::engine::RenewError;

/// How often it is looked which renewals are due. Renewals are seconds apart.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Renews with whatever control node answers.
#[async_trait]
pub trait Renewals: Send + Sync + std::fmt::Debug {
    /// Returns once the renewal is stored. The caller limits how long it waits.
    async fn renew(&self, region: &Region, item: &ItemId, token: Token) -> Result<(), RenewError>;
}

/// `CLOCK_BOOTTIME` now.
#[must_use]
pub fn boot_now() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    BootTime(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0)))
}

/// The loop: runs for as long as the node does.
#[derive(Debug, Clone)]
pub struct LeaseKeeper {
    region: Region,
    agent: AgentState,
    renewals: Arc<dyn Renewals>,
    /// Items whose renewal is under way.
    busy: Arc<Mutex<HashSet<ItemId>>>,
    /// Something was ordered: look at once.
    wake: Arc<Notify>,
}

impl LeaseKeeper {
    /// Keeps the rights of `agent`'s items in `region`.
    #[must_use]
    pub fn new(region: Region, agent: AgentState, renewals: Arc<dyn Renewals>) -> Self {
        let wake = agent.ordered();
        Self { region, agent, renewals, busy: Arc::default(), wake }
    }

    /// Never returns.
    pub async fn run(self) {
        loop {
            for leased in self.agent.leased().await {
                self.attend(leased);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Renews or ends one right, beside all others.
    fn attend(&self, leased: Leased) {
        let now = boot_now();
        let due = is_due(&leased, now);
        if due == Due::Nothing || !self.begin(&leased.item) {
            return;
        }
        let keeper = self.clone();
        tokio::spawn(async move {
            if due == Due::End {
                keeper.end(&leased).await;
            }
            keeper.renew(&leased).await;
            keeper.done(&leased.item);
        });
    }

    fn begin(&self, item: &ItemId) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(item.clone())
    }

    fn done(&self, item: &ItemId) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(item);
    }

    async fn end(&self, leased: &Leased) {
        match self.agent.expired(&leased.item, leased.token).await {
            Ok(()) => {
                tracing::warn!(item = %leased.item, token = %leased.token, "not renewed in time: it has fenced itself")
            }
            Err(error) => {
                tracing::error!(item = %leased.item, %error, "it has stopped, but that could not be kept")
            }
        }
    }

    async fn renew(&self, leased: &Leased) {
        let (item, token) = (&leased.item, leased.token);
        let sent = boot_now();
        let renewal = self.renewals.renew(&self.region, item, token);
        match tokio::time::timeout(leased.timings.call_timeout, renewal).await {
            Ok(Ok(())) => {
                let until = sent.after(leased.timings.valid_for);
                if let Err(error) = self.agent.renewed(item, token, until).await {
                    tracing::warn!(%item, %token, %error, "a renewal was refused here");
                }
            }
            Ok(Err(RenewError::Revoked { current })) if current > token => self.fence(item, current).await,
            Ok(Err(error)) => tracing::debug!(%item, %token, %error, "not renewed"),
            Err(_) => tracing::debug!(%item, %token, "not renewed: no answer in time"),
        }
    }

    /// The control plane knows a higher token: nothing is gained by serving until the lease is over.
    async fn fence(&self, item: &ItemId, current: Token) {
        let key = StepKey(format!("revoked/{current}/{}", ulid::Ulid::generate()));
        let action = Action::Fence { lost_after: None };
        let order =
            Order { key, item: item.clone(), token: current, action, only_if: None, lease: None, by: None };
        match self.agent.act(&order).await {
            Ok(()) => tracing::warn!(%item, %current, "its right was revoked: it has fenced itself"),
            Err(error) => tracing::debug!(%item, %current, %error, "not fenced here"),
        }
    }
}

/// What must be done about a right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    Renewal,
    /// It is over.
    End,
}

fn is_due(leased: &Leased, now: BootTime) -> Due {
    let Some(until) = leased.until else { return Due::Renewal };
    if now >= until {
        return Due::End;
    }
    // What is left of a right that was renewed R ago.
    let fresh = leased.timings.valid_for.saturating_sub(leased.timings.renew_every);
    if now.after(fresh) >= until { Due::Renewal } else { Due::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_core::fencing::FenceTimings;
    use farshore_core::ids::Epoch;

    #[test]
    fn a_right_is_renewed_every_r_and_ended_when_it_is_over() {
        let sent = BootTime(1_000_000_000_000);
        let timings = FenceTimings::STANDARD;
        let leased = Leased {
            item: ItemId::parse("machine/web-1").unwrap(),
            token: Token::new(1, Epoch(1)),
            timings,
            until: Some(sent.after(timings.valid_for)),
        };
        let at = |after| is_due(&leased, sent.after(after));
        assert_eq!(at(Duration::from_secs(1)), Due::Nothing);
        assert_eq!(at(timings.renew_every), Due::Renewal);
        assert_eq!(at(timings.valid_for - Duration::from_nanos(1)), Due::Renewal);
        assert_eq!(at(timings.valid_for), Due::End);
        assert_eq!(is_due(&Leased { until: None, ..leased.clone() }, sent), Due::Renewal);
    }

    #[test]
    fn the_boot_clock_goes_on() {
        let before = boot_now();
        assert!(before.0 > 0 && boot_now() >= before);
    }
}
