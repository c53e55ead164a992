//! A back end that reads what devices say, by HTTP as a consumer group, from whichever region is active.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore::demo::client::Client;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::hub_rig::{ITEM, Rest, Rig, seen};

/// The group.
const GROUP: &str = "ledger";
/// A region that does not answer is asked again after this.
const AGAIN: Duration = Duration::from_millis(200);

/// How often each message was read, by its id.
pub(crate) type Read = BTreeMap<String, u32>;

/// The reader; it ends with its test.
pub(crate) struct Reader {
    read: Arc<Mutex<Read>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Reader {
    /// Reads from the oldest on.
    pub(crate) fn start(rig: &Rig) -> Self {
        let regions = ["paris", "oslo"].map(|region| (region, rig.rest(region)));
        let (read, stop) = (Arc::default(), Arc::<AtomicBool>::default());
        let task = tokio::spawn(follow(rig.api.clone(), regions, Arc::clone(&read), Arc::clone(&stop)));
        Self { read, stop, task }
    }

    /// Waits until every one of these was read.
    pub(crate) async fn has(&self, messages: impl IntoIterator<Item = &String>) {
        for message in messages {
            let what = format!("{message} at the reader");
            seen(&what, || self.read.lock().unwrap().contains_key(message).then_some(())).await;
        }
    }

    /// Stops; what was read.
    pub(crate) async fn end(self) -> Read {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        std::mem::take(&mut *self.read.lock().unwrap())
    }
}

/// Asks the region that is active, as the hub's name does for whoever connects by it.
async fn follow(api: Client, regions: [(&str, Rest); 2], read: Arc<Mutex<Read>>, stop: Arc<AtomicBool>) {
    let mut cursor = None;
    while !stop.load(Ordering::Relaxed) {
        let Ok(item) = api.get(&format!("items/{ITEM}")).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let (_, active) = regions.iter().find(|(region, _)| item["source"] == *region).unwrap();
        let Some((events, next)) = page(active, cursor.as_deref()).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        for event in events {
            let mid = event["systemProperties"]["$.mid"].as_str().unwrap().to_owned();
            *read.lock().unwrap().entry(mid).or_insert(0) += 1;
        }
        let kept: Value = serde_json::from_str(&next).unwrap();
        let body = json!({"group": GROUP, "cursor": kept});
        // That it is not kept now is no harm: this reader knows where it is.
        let _ = active.ask(Method::POST, "messages/events/checkpoint", Some(&body)).await;
        cursor = Some(next);
    }
}

/// The next events, and where the reader is after them.
async fn page(region: &Rest, cursor: Option<&str>) -> Option<(Vec<Value>, String)> {
    let mut path = format!("messages/events?group={GROUP}&max=500&wait=1");
    if let Some(cursor) = cursor {
        let escaped: String = cursor.bytes().map(|byte| format!("%{byte:02X}")).collect();
        path = format!("{path}&cursor={escaped}");
    }
    let answer = region.ask(Method::GET, &path, None).await.ok()?;
    if !answer.status.is_success() {
        return None;
    }
    let events = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Some((events, answer.cursor?))
}
