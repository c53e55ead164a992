//! Looks at every region about once a second: keeps what was seen, and mends what no job does.
//!
//! Read in this order: `board` (what was seen last), this file (the rounds), `mend` (what is done about it), `observers` (what
//! the other regions see), `findings` (how well it all is).
//!
//! Must always hold: a region is asked about many items at once, never about each one by itself; several control nodes do
//! this at the same time, so that nothing is given or written here that is not conditional on what it was decided from.

mod board;
mod findings;
mod mend;
mod observers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::{ItemId, Region};
use farshore_core::lifecycle::Item;
use farshore_core::reconcile::ahead_of_store;
use farshore_core::store::ReadError;
use farshore_core::workload::StepError;
use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Inner, no_answer};
use crate::agent::ITEMS_MAX;

pub(super) use board::{Board, lock};
pub(super) use findings::Judged;
pub(crate) use findings::advice;
pub use findings::{DRILL_AGE_MAX, RPO_SECONDS};
pub(super) use mend::WHO;

/// Items looked at in one round of a region: where there are more, the rounds take turns, so that a look at ten thousand
/// items costs a steady share of one core instead of all of it once a second.
const ITEMS_PER_ROUND: usize = 1_024;
/// Of the time between two rounds, reading all items takes this part at most: where there are very many, they are read less
/// often.
const READING_SHARE: u32 = 10;

/// All items, as they were a moment ago.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) items: BTreeMap<ItemId, Item>,
    /// Those that a job holds.
    pub(super) busy: BTreeSet<ItemId>,
}

/// The snapshot that all regions' rounds share.
#[derive(Debug, Default)]
pub(super) struct Shared(tokio::sync::Mutex<Option<Taken>>);

#[derive(Debug)]
struct Taken {
    at: Instant,
    took: Duration,
    snapshot: Arc<Snapshot>,
}

/// All items, at most half a round old.
pub(super) async fn snapshot(inner: &Inner) -> Result<Arc<Snapshot>, ReadError> {
    let mut shared = inner.snapshot.0.lock().await;
    if let Some(taken) = shared.as_ref() {
        let fresh = (inner.options.health_every / 2).max(taken.took * READING_SHARE);
        if taken.at.elapsed() < fresh {
            return Ok(Arc::clone(&taken.snapshot));
        }
    }
    let begun = Instant::now();
    let (items, busy) = inner.book.view().await.items_and_busy().await?;
    let items = items.into_iter().map(|item| (item.id.clone(), item)).collect();
    let snapshot = Arc::new(Snapshot { items, busy });
    let at = Instant::now();
    *shared = Some(Taken { at, took: at - begun, snapshot: Arc::clone(&snapshot) });
    Ok(snapshot)
}

/// Whether the region has to do with the item.
fn concerns(item: &Item, region: &Region) -> bool {
    item.source == *region
        || item.target.as_ref() == Some(region)
        || item.failover.as_ref().is_some_and(|report| report.from == *region)
        || item.divergence.as_ref().is_some_and(|kept| kept.region == *region)
}

/// Asks every region what it knows before anything is done, then watches them for as long as the engine runs.
pub(super) async fn start(inner: &Arc<Inner>) -> Result<(), ReadError> {
    let regions: Vec<Region> = inner.book.regions().await?.into_iter().map(|record| record.name).collect();
    let items = snapshot(inner).await?;
    join_all(regions.iter().map(|region| ask(inner, region, &items))).await;
    for region in &regions {
        inner.spawn(watch(Arc::clone(inner), region.clone()));
        inner.spawn(observers::watch(Arc::clone(inner), region.clone(), regions.clone()));
    }
    inner.spawn(super::incidents::watch(Arc::clone(inner)));
    Ok(())
}

async fn watch(inner: Arc<Inner>, region: Region) {
    let mut ticks = tokio::time::interval(inner.options.health_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut from = 0;
    loop {
        ticks.tick().await;
        match snapshot(&inner).await {
            Ok(items) => from = round(&inner, &region, &items, from).await,
            Err(error) => tracing::warn!(%region, %error, "the region is looked at later"),
        }
    }
}

/// Looks at the items that have to do with the region, from the one at `from` on; returns where the next round goes on.
async fn round(inner: &Arc<Inner>, region: &Region, snapshot: &Snapshot, from: usize) -> usize {
    let here: Vec<&Item> = snapshot.items.values().filter(|item| concerns(item, region)).collect();
    inner.health.keep(region, &here.iter().map(|item| &item.id).collect());
    if let Err(error) = ask(inner, region, snapshot).await {
        for item in here {
            inner.health.note(&item.id, region, &Err(error.clone()));
        }
        return from;
    }
    let from = if from < here.len() { from } else { 0 };
    let turn: Vec<&Item> = here.iter().skip(from).take(ITEMS_PER_ROUND).copied().collect();
    for items in turn.chunks(ITEMS_MAX) {
        look(inner, region, items, snapshot).await;
    }
    from + turn.len()
}

/// Asks what the region knows; an agent that is ahead of the store shows here.
async fn ask(inner: &Inner, region: &Region, snapshot: &Snapshot) -> Result<(), StepError> {
    let deadline = inner.options.observe_deadline;
    let known = tokio::time::timeout(deadline, inner.agents.known(region)).await;
    let known = known.unwrap_or_else(|_| Err(no_answer(region, deadline)));
    let error = known.as_ref().err().map(ToString::to_string);
    inner.health.note_region(region, error, inner.agents.here());
    for (id, token, _role) in known? {
        let item = snapshot.items.get(&id).filter(|item| concerns(item, region));
        // The record may be older than the agent's answer: looked at again before anything is said.
        let ahead = |item| ahead_of_store(item, inner.meta.incarnation, region, token).is_some();
        if item.is_some_and(ahead) {
            mend::check_ahead(inner, region, &id, token).await;
        }
    }
    Ok(())
}

/// One look at many items.
async fn look(inner: &Arc<Inner>, region: &Region, items: &[&Item], snapshot: &Snapshot) {
    let deadline = inner.options.observe_deadline;
    let ids: Vec<ItemId> = items.iter().map(|item| item.id.clone()).collect();
    let seen = tokio::time::timeout(deadline, inner.agents.observe_all(region, &ids)).await;
    let seen = match seen.unwrap_or_else(|_| Err(no_answer(region, deadline))) {
        Ok(seen) => seen,
        Err(error) => ids.iter().map(|_| Err(error.clone())).collect(),
    };
    for (item, look) in items.iter().zip(seen) {
        inner.health.note(&item.id, region, &look);
        mend::vouch(inner, item).await;
        let Ok(seen) = look else { continue };
        if !mend::may_need(inner, item, snapshot.busy.contains(&item.id), region, &seen) {
            continue;
        }
        if let Err(error) = mend::mend(inner, region, &item.id, &seen).await {
            tracing::warn!(item = %item.id, %region, %error, "what was seen is looked at again later");
        }
    }
}
