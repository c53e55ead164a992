//! What the other regions see: each is asked to look at all the others, and at the endpoints of active items.

use std::collections::BTreeSet;
use std::sync::Arc;

use farshore_core::agents::LookAt;
use farshore_core::ids::Region;
use farshore_core::lifecycle::{Item, Phase};
use farshore_core::workload::{Role, StepError};
use tokio::time::MissedTickBehavior;

use super::super::Inner;
use super::{Snapshot, snapshot};
use crate::agent::ENDPOINTS_MAX;

/// Between two views of a region, in rounds of the health loop: a view costs a connection to each endpoint.
const ROUNDS_PER_VIEW: u32 = 2;

/// Asks `observer` what it sees for as long as the engine runs.
pub(super) async fn watch(inner: Arc<Inner>, observer: Region, regions: Vec<Region>) {
    let mut ticks = tokio::time::interval(inner.options.health_every * ROUNDS_PER_VIEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut from = 0;
    loop {
        ticks.tick().await;
        let Ok(snapshot) = snapshot(&inner).await else { continue };
        let all = endpoints(&inner, &snapshot);
        from = if from < all.len() { from } else { 0 };
        let endpoints: Vec<String> = all.iter().skip(from).take(ENDPOINTS_MAX).cloned().collect();
        from += endpoints.len();
        let others = regions.iter().filter(|region| **region != observer).cloned().collect();
        ask(&inner, &observer, &LookAt { regions: others, endpoints }).await;
        let names = regions.iter().map(ToString::to_string);
        inner.health.keep_subjects(&names.chain(all).collect());
    }
}

async fn ask(inner: &Inner, observer: &Region, at: &LookAt) {
    let view = tokio::time::timeout(inner.options.observe_deadline, inner.agents.view(observer, at)).await;
    match view {
        Ok(Ok(view)) => inner.health.note_view(observer, inner.agents.here() == Some(observer), view),
        // It is no observer at all.
        Ok(Err(StepError::Fatal { .. })) => {}
        Ok(Err(_)) | Err(_) => inner.health.note_unheard(observer),
    }
}

/// The endpoints that must serve now, in a fixed order.
fn endpoints(inner: &Inner, snapshot: &Snapshot) -> BTreeSet<String> {
    let serving = snapshot.items.values().filter(|item| serves(item) && !snapshot.busy.contains(&item.id));
    serving.flat_map(|item| of_item(inner, item)).collect()
}

fn serves(item: &Item) -> bool {
    !matches!(
        item.phase,
        Phase::Creating | Phase::Deleting | Phase::FailingOver { .. } | Phase::NeedsUser { .. }
    )
}

fn of_item(inner: &Inner, item: &Item) -> Vec<String> {
    inner.health.with_seen(&item.id, |seen| {
        let active = seen.get(&item.source).and_then(|seen| seen.observation.as_ref());
        let active = active.filter(|active| active.ready && active.role == Role::Active);
        active.into_iter().flat_map(|active| active.endpoints.iter().map(|at| at.uri.clone())).collect()
    })
}
