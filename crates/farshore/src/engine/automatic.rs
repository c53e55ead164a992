//! Fails items over without being asked, where that is allowed: items that fence themselves, whose region is lost by the
//! agreement of the others.
//!
//! Every control node that is part of the store's majority looks. That only one failover comes of it is the submit's doing: the item's
//! record and its one job are compared in the transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::command::Command;
use farshore_core::ids::ItemId;
use farshore_core::lifecycle::{Item, Phase};
use farshore_core::workload::PointChoice;
use tokio::time::{Instant, MissedTickBehavior};

use super::health::{Judged, snapshot};
use super::{Inner, StoreState, executor, submit};

/// Who is named in the audit and in the job.
const WHO: &str = "control-plane (automatic failover)";
/// A failover that was refused is asked for again after this: its target may be back by then.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Looks for as long as the engine runs.
pub(super) async fn watch(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.options.health_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refused = HashMap::new();
    loop {
        ticks.tick().await;
        round(&inner, &mut refused).await;
    }
}

async fn round(inner: &Arc<Inner>, refused: &mut HashMap<ItemId, Instant>) {
    // A minority knows nothing of the others.
    if inner.book.state() != StoreState::Live {
        return;
    }
    let Ok(items) = snapshot(inner).await else { return };
    let candidates: Vec<&Item> = items.items.values().filter(|item| allowed(item)).collect();
    if candidates.is_empty() {
        return;
    }
    let judged = Judged::now(inner);
    refused.retain(|_, at| at.elapsed() < AGAIN_AFTER);
    for item in candidates {
        if judged.is_lost(&item.source) && !items.busy.contains(&item.id) && !refused.contains_key(&item.id) {
            fail_over(inner, item, refused).await;
        }
    }
}

fn allowed(item: &Item) -> bool {
    item.automatic && item.lease.is_some() && matches!(item.phase, Phase::Protected { .. })
}

async fn fail_over(inner: &Arc<Inner>, item: &Item, refused: &mut HashMap<ItemId, Instant>) {
    let command = Command::Failover { planned: false, point: PointChoice::Latest, source_is_down: false };
    match submit::submit(inner, &item.id, command, WHO, None).await {
        Ok(job) => {
            tracing::warn!(item = %item.id, lost = %item.source, job = %job.id, "its region is lost: it is failed over");
            executor::drive(inner, &job.id);
        }
        Err(error) => {
            tracing::warn!(item = %item.id, lost = %item.source, %error, "its region is lost, but it is not failed over");
            refused.insert(item.id.clone(), Instant::now());
        }
    }
}
