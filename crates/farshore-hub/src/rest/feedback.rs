//! What became of messages that their senders want to hear of: given out under a lock, forgotten when that is completed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::ETAG;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{self, Body};
use super::error::RestError;
use super::hub::{Hub, broken};
use crate::names::Key;
use crate::record::Feedback;

/// How long whoever was given feedback may take to complete it; then it is given out again.
const LOCK_LIFE: Duration = Duration::from_secs(60);

/// Most records under one lock.
const BATCH_LEN_MAX: usize = 64;

/// Most locks at once: whoever wants more completes some.
const LOCKS_MAX: usize = 256;

type Heard = (Key, String);

/// What is given out.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<String, Lock>>);

#[derive(Debug)]
struct Lock {
    records: Vec<Heard>,
    until: Instant,
}

impl Locks {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Lock>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        locks.retain(|_, lock| lock.until > now);
        locks
    }

    /// Gives out those of `news` that nobody has; `None`: all are given out.
    fn give(&self, news: Vec<Feedback>) -> Result<Option<(String, Vec<Feedback>)>, RestError> {
        let mut locks = self.all();
        let given: BTreeSet<&Heard> = locks.values().flat_map(|lock| &lock.records).collect();
        let heard = |one: &Feedback| (one.device.clone(), one.id.clone());
        let free: Vec<Feedback> =
            news.into_iter().filter(|one| !given.contains(&heard(one))).take(BATCH_LEN_MAX).collect();
        if free.is_empty() {
            return Ok(None);
        }
        if locks.len() >= LOCKS_MAX {
            return Err(RestError::throttled(
                "ThrottlingException",
                "256 locks are out: complete some feedback first",
            ));
        }
        let name = format!("{:032x}", rand::random::<u128>());
        let records = free.iter().map(heard).collect();
        locks.insert(name.clone(), Lock { records, until: Instant::now() + LOCK_LIFE });
        Ok(Some((name, free)))
    }

    fn take(&self, name: &str) -> Result<Vec<Heard>, RestError> {
        self.all().remove(name).map(|lock| lock.records).ok_or_else(RestError::lock_lost)
    }
}

/// `GET /messages/serviceBound/feedback`: the lock is the etag.
pub(super) fn next(hub: &Hub) -> Result<Response<Body>, RestError> {
    // Enough to find something although much is given out.
    let news = hub.registry().feedback(BATCH_LEN_MAX * LOCKS_MAX).map_err(broken)?;
    let Some((lock, records)) = hub.locks().give(news)? else {
        return Ok(answer::empty(StatusCode::NO_CONTENT));
    };
    let views: Vec<Value> = records.iter().map(view).collect();
    let mut response = answer::json(&views);
    answer::set(&mut response, ETAG, &format!("\"{lock}\""));
    Ok(response)
}

/// `DELETE /messages/serviceBound/feedback/{lock}`
pub(super) async fn complete(hub: &Hub, lock: &str) -> Result<Response<Body>, RestError> {
    let records = hub.locks().take(lock.trim_matches('"'))?;
    hub.registry().take_feedback(records).await.map_err(broken)?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `POST /messages/serviceBound/feedback/{lock}/abandon`
pub(super) fn abandon(hub: &Hub, lock: &str) -> Result<Response<Body>, RestError> {
    hub.locks().take(lock.trim_matches('"'))?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

fn view(feedback: &Feedback) -> Value {
    json!({
        "originalMessageId": feedback.message_id,
        "description": feedback.outcome.as_str(),
        "statusCode": feedback.outcome.as_str(),
        "deviceId": feedback.device.device.as_str(),
        "moduleId": feedback.device.module.as_ref().map(|module| module.as_str()),
        "deviceGenerationId": &*feedback.generation,
        "enqueuedTimeUtc": feedback.at.to_string(),
    })
}
