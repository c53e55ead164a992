//! Looks at every region about once a second: keeps what was seen, and mends what no job does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::ids::{ItemId, Region, StepKey, Token};
use farshore_core::job::JobState;
use farshore_core::lifecycle::{Event, Item, Phase};
use farshore_core::reconcile::{Mend, View, ahead_of_store, reconcile};
use farshore_core::store::{CommitError, Compare, ReadError, Transaction};
use farshore_core::workload::{Action, Observation, OnlyIf, Order, StepError, Watermark};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::sync::OwnedMutexGuard;
use tokio::time::MissedTickBehavior;

use super::book::{At, put};
use super::records::{AuditLine, own_key};
use super::{Inner, RegionHealth, Seen, no_answer, now};

/// Looks under way at a time in one region: keeps a region of a thousand items from being asked all at once.
const LOOKS_MAX: usize = 16;

/// Who is named in the audit for what nobody asked for.
const WHO: &str = "control-plane";

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Board {
    seen: Mutex<BTreeMap<ItemId, BTreeMap<Region, Seen>>>,
    regions: Mutex<BTreeMap<Region, RegionHealth>>,
    told: Mutex<BTreeMap<(ItemId, Region), Watermark>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change of a board is one insert or remove.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(super) fn seen(&self, item: &ItemId) -> BTreeMap<Region, Seen> {
        lock(&self.seen).get(item).cloned().unwrap_or_default()
    }

    pub(super) fn regions(&self) -> BTreeMap<Region, RegionHealth> {
        lock(&self.regions).clone()
    }

    fn note_region(&self, region: &Region, error: Option<String>) {
        let now = now();
        let reachable = error.is_none();
        let mut regions = lock(&self.regions);
        let earlier = regions.get(region);
        let same = earlier.filter(|earlier| earlier.reachable == reachable);
        let since = same.map_or(now, |earlier| earlier.since);
        let before = earlier.and_then(|earlier| earlier.last_seen);
        let last_seen = if reachable { Some(now) } else { before };
        if same.is_none() {
            tracing::info!(%region, reachable, error = error.as_deref().unwrap_or(""), "region");
        }
        regions.insert(region.clone(), RegionHealth { reachable, since, last_seen, error });
    }

    pub(super) fn note(&self, item: &ItemId, region: &Region, look: &Result<Observation, StepError>) {
        let mut seen = lock(&self.seen);
        let regions = seen.entry(item.clone()).or_default();
        let (observation, error) = match look {
            Ok(observation) => (Some(observation.clone()), None),
            Err(StepError::Unknown) => (None, None),
            Err(error) => {
                let last = regions.get(region).and_then(|seen| seen.observation.clone());
                (last, Some(error.to_string()))
            }
        };
        regions.insert(region.clone(), Seen { observation, error, at: now() });
    }

    /// Forgets what no item's record names any more.
    fn keep(&self, region: &Region, items: &[Item]) {
        let wanted = |id: &ItemId| items.iter().any(|item| item.id == *id && concerns(item, region));
        let mut seen = lock(&self.seen);
        for (id, regions) in seen.iter_mut() {
            if !wanted(id) {
                regions.remove(region);
            }
        }
        seen.retain(|_, regions| !regions.is_empty());
        lock(&self.told).retain(|(id, at), _| at != region || wanted(id));
    }

    fn told(&self, item: &ItemId, region: &Region) -> Option<Watermark> {
        lock(&self.told).get(&(item.clone(), region.clone())).copied()
    }
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
    let items = inner.book.items().await?;
    join_all(regions.iter().map(|region| ask(inner, region, &items))).await;
    for region in regions {
        inner.spawn(watch(Arc::clone(inner), region));
    }
    Ok(())
}

async fn watch(inner: Arc<Inner>, region: Region) {
    let mut ticks = tokio::time::interval(inner.options.health_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match inner.book.items().await {
            Ok(items) => round(&inner, &region, &items).await,
            Err(error) => tracing::warn!(%region, %error, "the region is looked at later"),
        }
    }
}

async fn round(inner: &Arc<Inner>, region: &Region, items: &[Item]) {
    inner.health.keep(region, items);
    let here: Vec<ItemId> =
        items.iter().filter(|item| concerns(item, region)).map(|item| item.id.clone()).collect();
    if let Err(error) = ask(inner, region, items).await {
        for item in here {
            inner.health.note(&item, region, &Err(error.clone()));
        }
        return;
    }
    let looks = here.into_iter().map(|item| look(inner, region, item));
    stream::iter(looks).buffer_unordered(LOOKS_MAX).collect::<Vec<()>>().await;
}

/// Asks what the region knows; an agent that is ahead of the store shows here.
async fn ask(inner: &Inner, region: &Region, items: &[Item]) -> Result<(), StepError> {
    let deadline = inner.options.observe_deadline;
    let known = tokio::time::timeout(deadline, inner.agents.known(region)).await;
    let known = known.unwrap_or_else(|_| Err(no_answer(region, deadline)));
    inner.health.note_region(region, known.as_ref().err().map(ToString::to_string));
    for (id, token, _role) in known? {
        if items.iter().any(|item| item.id == id && concerns(item, region)) {
            check_ahead(inner, region, &id, token).await;
        }
    }
    Ok(())
}

async fn check_ahead(inner: &Inner, region: &Region, id: &ItemId, token: Token) {
    // Read after the answer: the store's epoch is at least that of every order given before.
    let Ok(Some(own)) = inner.book.item(id).await else { return };
    if matches!(own.value.phase, Phase::NeedsUser { .. }) {
        return;
    }
    if let Some(event) = ahead_of_store(&own.value, inner.meta.incarnation, region, token) {
        note_event(inner, &own, &event).await;
    }
}

async fn look(inner: &Inner, region: &Region, id: ItemId) {
    let look = inner.observe(region, &id).await;
    let Ok(seen) = look else { return };
    if let Err(error) = mend(inner, region, &id, &seen).await {
        tracing::warn!(item = %id, %region, %error, "what was seen is looked at again later");
    }
}

async fn mend(inner: &Inner, region: &Region, id: &ItemId, seen: &Observation) -> Result<(), ReadError> {
    // Held from reading that no job is under way to the end of the order, so that no job's order comes in between.
    let turn = inner.gates.of(id, region).lock_owned().await;
    let job = match inner.book.item_job(id).await? {
        Some(job) => inner.book.job(&job).await?.map(|job| job.value),
        None => None,
    };
    let Some(own) = inner.book.item(id).await? else { return Ok(()) };
    let job = job.filter(|job| !matches!(job.state, JobState::Stuck { .. }));
    let view = View {
        item: &own.value,
        job: job.map(|job| job.verb()),
        region,
        seen,
        incarnation: inner.meta.incarnation,
        told: inner.health.told(id, region),
    };
    match reconcile(view) {
        None => {}
        Some(Mend::Record(event)) => note_event(inner, &own, &event).await,
        Some(Mend::Order { what, token, action }) => {
            let lease = own.value.lease_for(&action);
            // A new key each time: the same order may be needed again after the next restart of the region.
            let key = StepKey(format!("reconcile/{}/{what}/{}", token.epoch, ulid::Ulid::generate()));
            give(
                inner,
                turn,
                region,
                Order {
                    key,
                    item: id.clone(),
                    token,
                    action,
                    only_if: Some(OnlyIf { role: Some(seen.role), start: seen.start.clone() }),
                    lease,
                    by: None,
                },
            )
            .await;
        }
    }
    Ok(())
}

async fn give(inner: &Inner, turn: OwnedMutexGuard<()>, region: &Region, order: Order) {
    let (id, key) = (&order.item, &order.key);
    match inner.order(turn, region, &order, inner.options.observe_deadline).await {
        Ok(()) => {
            tracing::info!(item = %id, %region, %key, "mended");
            if let Action::Fence { lost_after: Some(after) } = order.action {
                lock(&inner.health.told).insert((id.clone(), region.clone()), after);
            }
        }
        Err(error) => tracing::warn!(item = %id, %region, %key, %error, "not mended yet"),
    }
}

/// Records an event that no job brought about. A conflict is left to the next look.
async fn note_event(inner: &Inner, own: &At<Item>, event: &Event) {
    let id = &own.value.id;
    match store_event(inner, own, event).await {
        Ok(()) => tracing::info!(item = %id, ?event, "recorded"),
        Err(error) => tracing::warn!(item = %id, ?event, error, "not recorded yet"),
    }
}

async fn store_event(inner: &Inner, own: &At<Item>, event: &Event) -> Result<(), String> {
    let id = &own.value.id;
    let next = own.value.step(event).map_err(|refusal| refusal.to_string())?;
    let told = |error: CommitError| error.to_string();
    let transaction = Transaction {
        compares: vec![Compare::At(own_key(id), own.revision)],
        writes: vec![put(own_key(id), &next).map_err(told)?],
    };
    let line = AuditLine { who: WHO.to_owned(), what: told_event(event), item: Some(id.clone()), job: None };
    inner.book.commit(transaction, Some(line)).await.map(drop).map_err(told)
}

fn told_event(event: &Event) -> String {
    match event {
        Event::DivergenceSeen(kept) => {
            let loss = &kept.divergence.loss;
            format!(
                "region {} was seen to keep {} writes ({} bytes) that were never replicated",
                kept.region, loss.writes, loss.bytes
            )
        }
        Event::AheadOfStore { why } => why.clone(),
        other => format!("{other:?}"),
    }
}
