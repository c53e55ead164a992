//! Clients inside the regions: one that goes on as long as it can, and one that records when each write was acknowledged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farshore::demo::client::two_uris;
use farshore::demo::workload::{History, Resolver, Verdict, Writer, read_images};
use farshore_machine::nbd::Client as Disk;
use serde_json::{Value, json};

use crate::cluster_net::{ITEM, Net, PATIENCE, until};

/// As good as for ever: a node that was stopped and goes on finds its client still waiting.
const DEADLINE: Duration = Duration::from_secs(300);

impl Net {
    /// Makes the item of most tests in paris.
    pub(crate) async fn create(&self, on_control_loss: &str) {
        let disks =
            json!([{"name": "root", "size_bytes": 4_000_512}, {"name": "data", "size_bytes": 3_000_321}]);
        let body = json!({"kind": "machine", "name": "web-1", "region": "paris", "spec": {"disks": disks},
            "on_control_loss": on_control_loss});
        self.api("paris").carry_out("items", &body).await.unwrap();
    }

    /// The item, as a region's control node sees it.
    pub(crate) async fn item(&self, region: &str) -> Value {
        self.api(region).get(&format!("items/{ITEM}")).await.unwrap_or_default()
    }

    /// What a region's node says of the item in `seen`.
    pub(crate) fn role(item: &Value, region: &str) -> String {
        let regions = item["regions"].as_array().cloned().unwrap_or_default();
        let seen = regions.into_iter().find(|seen| seen["region"] == region).unwrap_or_default();
        seen["observation"]["role"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the item is as wanted, asking the control node of `region`.
    pub(crate) async fn item_until(
        &self,
        region: &str,
        what: &str,
        mut holds: impl FnMut(&Value) -> bool,
    ) -> Value {
        let mut last = Value::Null;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            last = self.item(region).await;
            if holds(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what} was not seen: {last}");
    }

    /// Where the item's disks are served, by the same address in whatever region serves them.
    pub(crate) async fn uris(&self, region: &str) -> [String; 2] {
        let item = self.item_until(region, "endpoints", |item| two_uris(&item["endpoints"]).is_some()).await;
        two_uris(&item["endpoints"]).unwrap()
    }

    /// A client in the region that writes to that region's disks, whenever they are served.
    pub(crate) fn witness(&self, region: &str, uri: &str) -> Witness {
        let uri = uri.to_owned();
        self.lan().inside(region, move || Witness::start(uri))
    }

    /// The demo's client in the region, on that region's disks.
    pub(crate) fn writer(&self, region: &str, uris: &[String; 2], history: History) -> Writer {
        let next = history.records.last().map_or(1, |last| last.number + 1_000_000);
        let uris = uris.clone();
        let resolver: Resolver = Arc::new(move || Some(uris.clone()));
        self.lan().inside(region, move || Writer::start(history, next, resolver))
    }

    /// Compares what the region serves with what the client believes.
    pub(crate) fn check(&self, region: &str, uris: &[String; 2], history: &History) -> Verdict {
        let (uris, history) = (uris.clone(), history.clone());
        self.lan().inside(region, move || history.check(&read_images(&uris).unwrap()))
    }
}

/// Waits until so many more records were acknowledged.
pub(crate) async fn written(writer: &Writer, count: usize) {
    let goal = writer.acknowledged() + count;
    until("an acknowledgement", async || (writer.acknowledged() >= goal).then_some(())).await;
}

/// Writes one block for ever and remembers when each write was acknowledged.
#[derive(Debug)]
pub(crate) struct Witness {
    stop: Arc<AtomicBool>,
    /// Sent, and acknowledged after it.
    seen: Arc<Mutex<Vec<(Instant, Instant)>>>,
}

impl Witness {
    fn start(uri: String) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (told, kept) = (Arc::clone(&stop), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut disk = None;
            while !told.load(Ordering::SeqCst) {
                disk = disk.or_else(|| Disk::connect(&uri, DEADLINE).ok());
                let Some(open) = &mut disk else {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                let sent = Instant::now();
                match open.write(0, &[7; 512], true) {
                    Ok(()) => kept.lock().unwrap().push((sent, Instant::now())),
                    Err(_) => disk = None,
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, seen }
    }

    /// Every acknowledged write so far: when it was sent and when the acknowledgement was seen.
    pub(crate) fn acknowledged(&self) -> Vec<(Instant, Instant)> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits for an acknowledgement of a write that is sent from now on.
    pub(crate) async fn is_served(&self) {
        let from = Instant::now();
        let since =
            async || self.seen.lock().unwrap().last().is_some_and(|(sent, _)| *sent > from).then_some(());
        until("a write that is acknowledged", since).await;
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Not joined: it may wait for a node that is stopped.
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Nothing was acknowledged in the new region before the last acknowledgement in the old one.
pub(crate) fn assert_disjoint(old: &Witness, new: &Witness) {
    let (old, new) = (old.acknowledged(), new.acknowledged());
    let last = old.last().expect("the old region served").1;
    let early: Vec<_> = new.iter().filter(|(_, seen)| *seen <= last).collect();
    assert!(
        early.is_empty(),
        "{} writes were acknowledged in the new region before the old one ended",
        early.len()
    );
    assert!(!new.is_empty(), "the new region served");
}
