//! When devices were last heard of. It is kept when they go, and now and then while they stay: never with each message.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use farshore_core::moment::Moment;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::live::Live;
use super::{Fleet, Inner, see_through};
use crate::names::Key;
use crate::registry::{Decide, Device, Edit};

/// What waits is written this often, together: many devices come and go at once.
const WRITTEN_EVERY: Duration = Duration::from_secs(10);
/// That a device which stays is still there, is written this often. Whoever asks is told better, as long as it is connected.
const STAYS_EVERY: Duration = Duration::from_secs(600);
/// A device that comes and goes all the time is written this often.
const AGAIN_AFTER: Duration = Duration::from_secs(180);
/// Devices in one transaction; the others are next.
const TOGETHER_MAX: usize = 4096;

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Activity(Mutex<HashMap<Key, Heard>>);

/// A device that was heard of.
#[derive(Debug, Clone)]
struct Heard {
    generation: Arc<str>,
    at: Moment,
    /// What the registry says already.
    kept: Moment,
}

impl Heard {
    fn is_due(&self, now: Moment) -> bool {
        now >= self.kept.after(AGAIN_AFTER)
    }
}

impl Activity {
    /// A device goes, or is still there.
    pub(super) fn note(&self, live: &Live) {
        let (at, kept) = live.heard();
        if at > kept {
            let heard = Heard { generation: Arc::clone(&live.generation), at, kept };
            self.waiting().insert(live.key.clone(), heard);
        }
    }

    /// What is to be written now; it waits no longer.
    fn due(&self, now: Moment) -> Vec<(Key, Heard)> {
        let mut waiting = self.waiting();
        let due = waiting.iter().filter(|(_, heard)| heard.is_due(now)).take(TOGETHER_MAX);
        let due: Vec<_> = due.map(|(key, heard)| (key.clone(), heard.clone())).collect();
        due.iter().for_each(|(key, _)| drop(waiting.remove(key)));
        due
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Key, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until the hub is gone.
pub(super) async fn keep(hub: Weak<Inner>) {
    let mut ticks = interval(WRITTEN_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    loop {
        ticks.tick().await;
        let Some(inner) = hub.upgrade() else { return };
        let fleet = Fleet(inner);
        if looked.elapsed() >= STAYS_EVERY {
            looked = Instant::now();
            fleet.sessions().all().iter().for_each(|live| fleet.activity().note(live));
        }
        fleet.keep_activity(super::now()).await;
    }
}

impl Fleet {
    /// Writes what is due, if this hub serves. What a hub that stopped had not written is not written any more: wherever its
    /// devices are, they are heard of.
    pub(super) async fn keep_activity(&self, now: Moment) {
        let Some(entered) = self.gate().enter_now() else {
            self.activity().waiting().clear();
            return;
        };
        let due = self.activity().due(now);
        if due.is_empty() {
            return;
        }
        for (key, heard) in &due {
            if let Some(live) = self.sessions().get(key) {
                live.kept(heard.at);
            }
        }
        let changes = due.into_iter().map(|(key, heard)| (key, decide(heard))).collect();
        let registry = self.registry().clone();
        let done = see_through(entered, async move { registry.change_many(changes).await }).await;
        // It is no promise: what is lost of it is as old as the next time the device is heard of.
        if let Some(error) = done.into_iter().flatten().find_map(Result::err) {
            tracing::warn!(hub = self.name(), %error, "when devices were last heard of could not be kept");
        }
    }
}

/// Unless it is another device by now, or was heard of later elsewhere.
fn decide(heard: Heard) -> Decide<Infallible> {
    Box::new(move |device: Option<&Device>| {
        let is_news = |device: &&Device| device.generation == heard.generation && device.last_seen < heard.at;
        Ok(device.filter(is_news).map(|_| Edit::LastSeen(heard.at)).into_iter().collect())
    })
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::Epoch;

    use super::super::tests::{Hub, closed, event, key, open, within};
    use super::super::{Standing, now};
    use super::*;

    fn last_seen(hub: &Hub) -> Moment {
        hub.fleet.registry().get(&key("pump")).unwrap().unwrap().last_seen
    }

    #[tokio::test]
    async fn when_a_device_was_last_heard_of_is_kept_when_it_goes_and_not_with_each_message() {
        let (hub, other) = (open("oslo"), closed("paris"));
        let sas = hub.register("pump").await;
        let session = hub.connect("pump", &sas).await;
        let before = hub.fleet.registry().own();
        for number in 0..100 {
            within(session.telemetry(event(&number.to_string()))).await.unwrap();
        }
        hub.fleet.keep_activity(now()).await;
        assert_eq!(hub.fleet.registry().own(), before, "messages are no changes of the registry");
        let heard = hub.fleet.last_heard(&key("pump")).unwrap();
        assert_eq!(last_seen(&hub), Moment::default());
        drop(session);
        hub.fleet.keep_activity(now()).await;
        assert_eq!(last_seen(&hub), heard);
        hub.is_pulled_by(&other).await;
        assert_eq!(last_seen(&other), heard);
    }

    #[tokio::test]
    async fn a_device_that_comes_and_goes_is_written_now_and_then() {
        let hub = open("oslo");
        let sas = hub.register("pump").await;
        drop(hub.connect("pump", &sas).await);
        hub.fleet.keep_activity(now()).await;
        let first = last_seen(&hub);
        assert!(first > Moment::default());
        for _ in 0..3 {
            drop(hub.connect("pump", &sas).await);
            hub.fleet.keep_activity(now()).await;
        }
        assert_eq!(last_seen(&hub), first);
        hub.fleet.keep_activity(now().after(AGAIN_AFTER)).await;
        assert!(last_seen(&hub) > first, "it was not forgotten");
    }

    #[tokio::test]
    async fn nothing_is_written_of_another_device_of_that_id_nor_by_a_hub_that_does_not_serve() {
        let hub = open("oslo");
        let sas = hub.register("pump").await;
        drop(hub.connect("pump", &sas).await);
        hub.edit("pump", vec![Edit::Delete]).await;
        let sas = hub.register("pump").await;
        hub.fleet.keep_activity(now()).await;
        assert_eq!(last_seen(&hub), Moment::default());
        drop(hub.connect("pump", &sas).await);
        hub.fleet.stop_acknowledging().await;
        hub.fleet.keep_activity(now()).await;
        hub.fleet.open_to_devices(Epoch(2), Standing::Current);
        hub.fleet.keep_activity(now()).await;
        assert_eq!(last_seen(&hub), Moment::default());
    }
}
