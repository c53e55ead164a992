//! Mends what no job does: gives the orders, and records the events, that [`reconcile`] asks for.

use farshore_core::ids::{ItemId, Region, StepKey, Token};
use farshore_core::job::JobState;
use farshore_core::lifecycle::{Event, Item, Phase};
use farshore_core::reconcile::{Mend, View, ahead_of_store, reconcile};
use farshore_core::store::{CommitError, Compare, ReadError, Transaction};
use farshore_core::workload::{Action, Observation, OnlyIf, Order, Role};
use tokio::sync::OwnedMutexGuard;

use super::super::Inner;
use super::super::book::{At, put};
use super::super::records::{AuditLine, own_key};

/// Who is named in the audit for what nobody asked for.
pub(in crate::engine) const WHO: &str = "control-plane";

/// Whether an item's record, read before the look, and what was seen may need mending. Says yes too often, never too
/// seldom for long: the record is newer at the next look.
pub(super) fn may_need(inner: &Inner, item: &Item, busy: bool, region: &Region, seen: &Observation) -> bool {
    let incarnation = inner.meta.incarnation;
    let told = inner.health.told(&item.id, region);
    busy || reconcile(View { item, job: None, region, seen, incarnation, told }).is_some()
}

pub(super) async fn check_ahead(inner: &Inner, region: &Region, id: &ItemId, token: Token) {
    // Read after the answer: the store's epoch is at least that of every order given before.
    let Ok(Some(own)) = inner.book.item(id).await else { return };
    if matches!(own.value.phase, Phase::NeedsUser { .. }) {
        return;
    }
    if let Some(event) = ahead_of_store(&own.value, inner.meta.incarnation, region, token) {
        note_event(inner, &own, &event).await;
    }
}

/// After a restore: notes that all regions of the item have answered and know nothing newer. One that keeps silent leaves it
/// to a person, who may know which region is active.
pub(super) async fn vouch(inner: &Inner, item: &Item) {
    let incarnation = inner.meta.incarnation;
    if incarnation <= 1 || item.vouched >= incarnation || matches!(item.phase, Phase::NeedsUser { .. }) {
        return;
    }
    let pair: Vec<&Region> = std::iter::once(&item.source).chain(&item.target).collect();
    let (answered, silent) = inner.health.with_seen(&item.id, |seen| {
        let answered = pair.iter().all(|region| seen.get(*region).is_some_and(|seen| seen.error.is_none()));
        let silent = pair.iter().find(|region| seen.get(**region).is_some_and(|seen| seen.error.is_some()));
        (answered, silent.map(|region| (*region).clone()))
    });
    let unconfirmed = inner.health.with_seen(&item.id, |seen| {
        let source = seen.get(&item.source).and_then(|seen| seen.observation.as_ref());
        source.is_some_and(|seen| matches!(seen.role, Role::Unconfirmed | Role::Fenced))
    });
    let event = match silent {
        _ if answered => Event::Vouched { incarnation },
        Some(silent) if unconfirmed => Event::AheadOfStore {
            why: format!(
                "the store was restored from a backup, and {silent} does not answer: it may be the active region. Start its \
                 node, or say which region is active with farshore adopt {} --region REGION",
                item.id
            ),
        },
        _ => return,
    };
    // A look is older than the record it is noted in: whoever is ahead was found out before its answer was noted.
    if let Ok(Some(own)) = inner.book.item(&item.id).await
        && own.value.vouched < incarnation
    {
        note_event(inner, &own, &event).await;
    }
}

pub(super) async fn mend(
    inner: &Inner,
    region: &Region,
    id: &ItemId,
    seen: &Observation,
) -> Result<(), ReadError> {
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
                inner.health.note_told(id, region, after);
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
        Event::DivergenceSeen(kept) if !kept.divergence.is_counted() => {
            format!(
                "region {} was seen to keep writes that were never replicated, and cannot count them",
                kept.region
            )
        }
        Event::DivergenceSeen(kept) => {
            let loss = &kept.divergence.loss;
            format!(
                "region {} was seen to keep {} writes ({} bytes) that were never replicated",
                kept.region, loss.writes, loss.bytes
            )
        }
        Event::AheadOfStore { why } => why.clone(),
        Event::Vouched { incarnation } => {
            format!(
                "all its regions answered under incarnation {incarnation} of the store, and none is ahead of it"
            )
        }
        other => format!("{other:?}"),
    }
}
