//! Clients that add rows all the time, each after the other was acknowledged, and know no more than a URL and a key.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::address::{Address, Resolver};
use crate::demo::client::{Broken, broken};

/// Clients at once.
pub(super) const CLIENTS: usize = 4;
/// Between two rows of a client.
const PACE: Duration = Duration::from_millis(20);
/// A region that is gone says nothing: its clients look the name up again after this.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the gateway wants to see.
const KEY_HEADER: &str = "x-zumo-application";

/// Where a client goes, and what lets it in.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) url: String,
    pub(super) key: String,
    pub(super) address: Arc<Address>,
}

/// A row that was acknowledged.
#[derive(Debug, Clone)]
struct Row {
    id: String,
    /// When it was first sent, and when its acknowledgement came.
    sent: Instant,
    at: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    acknowledged: Mutex<Vec<Row>>,
    stop: AtomicBool,
}

impl Shared {
    fn acknowledged(&self) -> MutexGuard<'_, Vec<Row>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clients that run; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Door {
    /// A client of its own, with its own connections.
    fn client(&self) -> Result<reqwest::Client, Broken> {
        let resolver = Arc::new(Resolver(Arc::clone(&self.address)));
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().dns_resolver(resolver);
        client.build().map_err(broken)
    }

    /// The ids of all rows that there are.
    pub(super) async fn rows(&self) -> Result<BTreeSet<String>, Broken> {
        let asked = self.client()?.get(format!("{}/todos", self.url)).header(KEY_HEADER, &self.key);
        let answer = asked.send().await.map_err(broken)?.error_for_status().map_err(broken)?;
        let rows: Vec<Value> = answer.json().await.map_err(broken)?;
        Ok(rows.iter().filter_map(|row| row["id"].as_str()).map(str::to_owned).collect())
    }

    /// What a client without the key, or with another one, is told.
    pub(super) async fn without_key(&self) -> Result<StatusCode, Broken> {
        let asked = self.client()?.get(format!("{}/todos", self.url)).header(KEY_HEADER, "another");
        Ok(asked.send().await.map_err(broken)?.status())
    }
}

impl Clients {
    pub(super) fn start(door: &Door) -> Result<Self, Broken> {
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            tasks.spawn(write(number, door.clone(), door.client()?, Arc::clone(&shared)));
        }
        Ok(Self { shared, tasks })
    }

    /// How many rows were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.shared.acknowledged().len()
    }

    /// Their ids.
    pub(super) fn owed(&self) -> BTreeSet<String> {
        self.shared.acknowledged().iter().map(|row| row.id.clone()).collect()
    }

    /// When the first row was acknowledged after `since`.
    pub(super) fn first_after(&self, since: Instant) -> Option<Instant> {
        self.shared.acknowledged().iter().map(|row| row.at).filter(|at| *at > since).min()
    }

    /// How many rows were sent after `since`, and acknowledged.
    pub(super) fn sent_after(&self, since: Instant) -> usize {
        self.shared.acknowledged().iter().filter(|row| row.sent > since).count()
    }

    /// The longest time without an acknowledgement after `since`.
    pub(super) fn longest_wait(&self, since: Instant) -> Duration {
        longest_gap(since, self.shared.acknowledged().iter().map(|row| row.at))
    }

    /// Waits for the rows that are under way; what is owed then is final.
    pub(super) async fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The longest time after `since` in which nothing happened, up to the last that did.
fn longest_gap(since: Instant, happened: impl Iterator<Item = Instant>) -> Duration {
    let mut at: Vec<_> = happened.filter(|at| *at >= since).chain([since]).collect();
    at.sort_unstable();
    at.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default()
}

/// One client: a row counts when it was acknowledged, and is sent again under its id until it is.
async fn write(number: usize, door: Door, client: reqwest::Client, shared: Arc<Shared>) {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let url = format!("{}/todos", door.url);
    let mut row = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        row += 1;
        let id = format!("client-{number}-{row}");
        let body = json!({"id": id, "text": format!("row {row} of client {number}")});
        let sent = Instant::now();
        loop {
            pace.tick().await;
            let sending = client.post(&url).header(KEY_HEADER, &door.key).json(&body).send().await;
            if sending.is_ok_and(|answer| answer.status() == StatusCode::CREATED) {
                break;
            }
            door.address.look_up().await;
        }
        shared.acknowledged().push(Row { id, sent, at: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_from_its_beginning_on() {
        let since = Instant::now();
        let after = |millis| since + Duration::from_millis(millis);
        assert_eq!(longest_gap(since, [after(80), after(90)].into_iter()), Duration::from_millis(80));
        assert_eq!(longest_gap(after(70), [after(60), after(80)].into_iter()), Duration::from_millis(10));
        assert_eq!(longest_gap(since, std::iter::empty()), Duration::ZERO);
    }
}
