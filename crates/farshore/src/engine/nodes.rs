//! Which executors are alive, and whose jobs are gone on with.
//!
//! Every engine counts up its own record about once a second; the others look whether it still counts. Each measures by its own
//! clock how long a count has not moved, so that no clocks are compared. This is about liveness only: two engines that both
//! think that a job is theirs are told apart by compare-and-set and by the executor's epoch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_core::job::Next;
use farshore_core::store::{CommitError, ReadError, Transaction, Write};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};

use super::book::put;
use super::{Inner, executor};

/// Where each node's present executor counts.
const EXECUTORS: &str = "executors/";
/// How often.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// An executor that has not counted for so long is replaced: four beats, and longer than a new leader of the store takes.
const DEAD_AFTER: Duration = Duration::from_secs(4);

/// The record `executors/NODE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ExecutorRecord {
    /// The node's present start.
    executor: String,
    /// Rises while it lives.
    count: u64,
}

#[derive(Debug)]
struct Sighting {
    record: ExecutorRecord,
    moved: Instant,
}

/// What this engine knows of the others.
#[derive(Debug)]
pub(super) struct Nodes {
    own: String,
    sightings: Mutex<Option<HashMap<String, Sighting>>>,
}

/// The node's name in an executor's: `paris/01J…`. Without one, all executors are starts of the same node.
fn node_of(executor: &str) -> &str {
    executor.split_once('/').map_or("", |(node, _)| node)
}

impl Nodes {
    pub(super) fn new(own: &str) -> Self {
        Self { own: own.to_owned(), sightings: Mutex::default() }
    }

    fn sightings(&self) -> MutexGuard<'_, Option<HashMap<String, Sighting>>> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another process may be carrying out what this executor has claimed. An earlier start of this node is dead:
    /// two processes cannot have the node's directory at once.
    pub(super) fn alive_elsewhere(&self, executor: &str) -> bool {
        if executor == self.own || node_of(executor) == node_of(&self.own) {
            return false;
        }
        let sightings = self.sightings();
        // Nobody was looked for yet.
        let Some(sightings) = sightings.as_ref() else { return true };
        sightings.get(node_of(executor)).is_some_and(|sighting| {
            sighting.record.executor == executor && sighting.moved.elapsed() < DEAD_AFTER
        })
    }

    /// How many executors count, this one included.
    pub(super) fn alive(&self) -> Vec<String> {
        let sightings = self.sightings();
        let others = sightings.iter().flatten().filter(|(_, sighting)| sighting.moved.elapsed() < DEAD_AFTER);
        let mut alive: Vec<String> = others.map(|(node, _)| node.clone()).collect();
        alive.sort();
        alive
    }

    fn note(&self, records: HashMap<String, ExecutorRecord>) {
        let now = Instant::now();
        let mut sightings = self.sightings();
        let earlier = sightings.take().unwrap_or_default();
        let seen = records.into_iter().map(|(node, record)| {
            let still = earlier.get(&node).filter(|earlier| earlier.record == record);
            let moved = still.map_or(now, |earlier| earlier.moved);
            (node, Sighting { record, moved })
        });
        *sightings = Some(seen.collect());
    }
}

fn key(executor: &str) -> String {
    format!("{EXECUTORS}{}", node_of(executor))
}

/// Counts once and looks at the others: before any job is claimed.
pub(super) async fn first_beat(inner: &Inner) -> Result<(), super::StartError> {
    beat(inner, 0).await?;
    look(inner).await?;
    Ok(())
}

async fn beat(inner: &Inner, count: u64) -> Result<(), CommitError> {
    let executor = inner.options.executor.clone();
    let write = put(key(&executor), &ExecutorRecord { executor, count })?;
    inner.book.store().commit(Transaction { compares: Vec::new(), writes: vec![write] }).await.map(drop)
}

async fn look(inner: &Inner) -> Result<(), ReadError> {
    let (entries, _) = inner.book.store().list(EXECUTORS).await?;
    let records = entries.iter().filter_map(|entry| {
        let node = entry.key.strip_prefix(EXECUTORS)?;
        let record = serde_json::from_slice(&entry.value).ok()?;
        Some((node.to_owned(), record))
    });
    inner.nodes.note(records.collect());
    Ok(())
}

/// Counts for as long as the engine runs, and goes on with the jobs of executors that do not.
pub(super) fn start(inner: &Arc<Inner>) {
    inner.spawn(count(Arc::clone(inner)));
}

async fn count(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for count in 1.. {
        ticks.tick().await;
        if let Err(error) = beat(&inner, count).await {
            tracing::debug!(%error, "not counted");
            continue;
        }
        let looked = match look(&inner).await {
            Ok(()) => take_over(&inner).await,
            Err(error) => Err(error),
        };
        if let Err(error) = looked {
            tracing::debug!(%error, "the other executors are looked at later");
        }
    }
}

/// Jobs that nobody carries out now: unclaimed, of a dead executor, or ours and at rest when a person spoke elsewhere.
async fn take_over(inner: &Arc<Inner>) -> Result<(), ReadError> {
    for id in inner.book.view().await.jobs_under_way().await? {
        if inner.executors.has(&id) {
            continue;
        }
        let Some(job) = inner.book.job(&id).await? else { continue };
        let elsewhere =
            job.value.executor.as_deref().is_some_and(|executor| inner.nodes.alive_elsewhere(executor));
        if !elsewhere && job.value.next() != Next::Rest {
            if let Some(dead) =
                job.value.executor.as_deref().filter(|executor| *executor != inner.options.executor)
            {
                tracing::info!(job = %id, executor = dead, "its executor does not answer any more: taken over");
            }
            executor::drive(inner, &id);
        }
    }
    Ok(())
}

/// Says good-bye, so that the others need not wait.
pub(super) async fn leave(inner: &Inner) {
    let write = Write::Delete(key(&inner.options.executor));
    let left = inner.book.store().commit(Transaction { compares: Vec::new(), writes: vec![write] });
    let _ = tokio::time::timeout(BEAT_EVERY, left).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(list: &[(&str, u64)]) -> HashMap<String, ExecutorRecord> {
        let record = |(executor, count): &(&str, u64)| {
            let record = ExecutorRecord { executor: (*executor).to_owned(), count: *count };
            (node_of(executor).to_owned(), record)
        };
        list.iter().map(record).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_executor_is_dead_when_its_count_stands_still_or_its_node_started_again() {
        let nodes = Nodes::new("paris/2");
        assert!(nodes.alive_elsewhere("oslo/1"), "nobody was looked for yet");
        assert!(!nodes.alive_elsewhere("paris/1"), "an earlier start of this node");
        assert!(!nodes.alive_elsewhere("paris/2"), "itself");
        nodes.note(records(&[("oslo/1", 5)]));
        assert!(nodes.alive_elsewhere("oslo/1") && !nodes.alive_elsewhere("bergen/1"));
        tokio::time::advance(DEAD_AFTER / 2).await;
        nodes.note(records(&[("oslo/1", 6)]));
        tokio::time::advance(DEAD_AFTER * 3 / 4).await;
        nodes.note(records(&[("oslo/1", 6)]));
        assert!(nodes.alive_elsewhere("oslo/1"));
        tokio::time::advance(DEAD_AFTER / 4).await;
        assert!(!nodes.alive_elsewhere("oslo/1"), "its count has stood still for long enough");
        nodes.note(records(&[("oslo/2", 0)]));
        assert!(nodes.alive_elsewhere("oslo/2") && !nodes.alive_elsewhere("oslo/1"), "it was started again");
    }
}
