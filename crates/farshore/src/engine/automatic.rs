//! Fails items over without being asked, where that is allowed, because their region is lost: items that fence themselves
//! when the others agree on it, and items that two regions may serve at once as soon as it looks like it.
//!
//! Every control node that is part of the store's majority looks. That only one failover comes of it is the submit's doing: the item's
//! record and its one job are compared in the transaction. The way home is in `homeward`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use farshore_core::command::{Command, Verb};
use farshore_core::ids::{ItemId, Region};
use farshore_core::lifecycle::{Item, Phase};
use farshore_core::workload::PointChoice;
use tokio::time::{Instant, MissedTickBehavior};

use super::health::{Judged, snapshot};
use super::{Inner, StoreState, SubmitError, executor, homeward, submit};

/// Who is named in the audit and in the job.
pub(super) const WHO: &str = "control-plane (automatic failover)";
/// What was refused is asked for again after this: the region that it needs may be back by then.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// An item goes home at most once in so long: a home that dies whenever it is gone back to, or that will not open, costs its
/// clients a stop a minute and no more.
const RETURN_PAUSE: Duration = Duration::from_secs(60);

/// Looks for as long as the engine runs.
pub(super) async fn watch(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.options.health_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memory = Memory::default();
    loop {
        ticks.tick().await;
        round(&inner, &mut memory).await;
    }
}

/// What one control node remembers between rounds. After a restart it begins anew, and waits in full.
#[derive(Debug, Default)]
pub(super) struct Memory {
    refused: HashMap<ItemId, Instant>,
    answers_since: HashMap<Region, Instant>,
    returned: HashMap<ItemId, Instant>,
}

impl Memory {
    /// Notes which regions answer, and forgets refusals that are old.
    pub(super) fn note(&mut self, answering: &HashSet<Region>) {
        self.refused.retain(|_, at| at.elapsed() < AGAIN_AFTER);
        self.returned.retain(|_, at| at.elapsed() < RETURN_PAUSE);
        self.answers_since.retain(|region, _| answering.contains(region));
        for region in answering {
            self.answers_since.entry(region.clone()).or_insert_with(Instant::now);
        }
    }

    /// The region has answered every look for at least so long.
    pub(super) fn answers_for(&self, region: &Region, at_least: Duration) -> bool {
        self.answers_since.get(region).is_some_and(|since| since.elapsed() >= at_least)
    }

    /// It was sent home a short while ago.
    pub(super) fn was_returned(&self, item: &ItemId) -> bool {
        self.returned.contains_key(item)
    }

    pub(super) fn note_return(&mut self, item: &ItemId) {
        self.returned.insert(item.clone(), Instant::now());
    }

    pub(super) fn was_refused(&self, item: &ItemId) -> bool {
        self.refused.contains_key(item)
    }

    pub(super) fn note_refusal(&mut self, item: &ItemId) {
        self.refused.insert(item.clone(), Instant::now());
    }
}

async fn round(inner: &Arc<Inner>, memory: &mut Memory) {
    // A minority knows nothing of the others.
    if inner.book.state() != StoreState::Live {
        return;
    }
    let Ok(items) = snapshot(inner).await else { return };
    let automatic: Vec<&Item> = items.items.values().filter(|item| item.automatic).collect();
    if automatic.is_empty() {
        return;
    }
    let judged = Judged::now(inner);
    memory.note(&judged.answering());
    for item in automatic {
        if memory.was_refused(&item.id) {
            continue;
        }
        if items.busy.contains(&item.id) {
            homeward::attend(inner, item, &judged, memory).await;
        } else if may_fail_over(item) && is_lost(inner, &judged, item) {
            tracing::warn!(item = %item.id, lost = %item.source, "its region is lost: it is failed over");
            ask(inner, item, failover(), WHO, memory).await;
        } else if let Some(next) = homeward::next(item, memory) {
            tracing::info!(item = %item.id, verb = %next.verb(), "its other region is back");
            if next.verb() == Verb::Failback {
                memory.note_return(&item.id);
            }
            ask(inner, item, next, homeward::WHO, memory).await;
        }
    }
}

fn may_fail_over(item: &Item) -> bool {
    let allowed = item.lease.is_some() || item.id.kind.is_shared();
    allowed && (matches!(item.phase, Phase::Protected { .. }) || item.can_be_taken_back())
}

/// Where two regions may serve at once, the target's own control node is believed if nobody can tell better: to be wrong
/// costs nothing.
pub(super) fn is_lost(inner: &Inner, judged: &Judged, item: &Item) -> bool {
    let near = item.target.is_some() && inner.agents.here() == item.target.as_ref();
    judged.is_lost(&item.source)
        || (item.id.kind.is_shared() && near && judged.is_silent_from_here(&item.source))
}

fn failover() -> Command {
    Command::Failover { planned: false, point: PointChoice::Latest, source_is_down: false }
}

/// Asks like a person would.
async fn ask(inner: &Arc<Inner>, item: &Item, command: Command, who: &str, memory: &mut Memory) {
    let verb = command.verb();
    match submit::submit(inner, &item.id, command, who, None).await {
        Ok(job) => executor::drive(inner, &job.id),
        Err(error) => {
            // Another control node, or a person, was first.
            if !matches!(error, SubmitError::Busy { .. }) {
                tracing::warn!(item = %item.id, %verb, %error, "not done without being asked: asked again later");
            }
            memory.note_refusal(&item.id);
        }
    }
}
