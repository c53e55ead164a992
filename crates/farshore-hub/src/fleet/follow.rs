//! What changes in the registry, told to those who are connected: new desired properties, and that they have to go, or to come again
//! because their authority may not be believed any more.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::connection::with_version;
use super::trust::Trusted;
use super::{Fleet, Inner};
use crate::mqtt::behind::Closing;
use crate::names::Key;
use crate::registry::{Auth, Change, Device};
use crate::sas::{KeyMark, Policy, Rights};

/// Whoever stands on a key that its policy has no more goes within twice this. Where nothing was changed it costs nothing.
const POLICIES_LOOKED_AT_EVERY: Duration = Duration::from_millis(250);

/// Policies as they were when they were looked at last.
#[derive(Default)]
struct Looked {
    /// The registry's newest number then.
    own: u64,
    policies: Vec<Policy>,
}

/// Runs until the hub or its registry is gone.
pub(super) async fn follow(
    hub: Weak<Inner>,
    mut changes: Receiver<Arc<Change>>,
    mut settings: watch::Receiver<u64>,
) {
    let Some(mut trusted) = hub.upgrade().map(|inner| Fleet(inner).trusted()) else { return };
    let mut looked = Looked::default();
    let mut ticks = interval(POLICIES_LOOKED_AT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            changed = settings.changed() => {
                let Some(inner) = hub.upgrade().filter(|_| changed.is_ok()) else { return };
                trusted = Fleet(inner).looks_at_authorities(&trusted);
                continue;
            }
            _ = ticks.tick() => {
                let Some(inner) = hub.upgrade() else { return };
                Fleet(inner).look_at_policies(&mut looked);
                continue;
            }
        };
        let Some(inner) = hub.upgrade() else { return };
        let fleet = Fleet(inner);
        match change {
            Ok(change) => fleet.tell(&change),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(
                    missed,
                    "changes came faster than they could be told: looking at every connection"
                );
                fleet.look_at_all();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

impl Fleet {
    /// Whether the key that somebody was let in by is still one of a policy that lets devices in.
    pub(super) fn stands(&self, by: Option<KeyMark>) -> bool {
        // What cannot be read now is read again soon.
        let stands = |mark: KeyMark| {
            self.registry().policies().map_or(true, |now| mark.stands(&now, Rights::DEVICE_CONNECT))
        };
        by.is_none_or(stands)
    }

    /// Closes the connections whose policy has lost the key that they were let in by, or the right.
    fn look_at_policies(&self, looked: &mut Looked) {
        let own = self.registry().own();
        if own == looked.own {
            return;
        }
        let Ok(policies) = self.registry().policies() else { return };
        let is_same = policies == looked.policies;
        *looked = Looked { own, policies };
        if is_same {
            return;
        }
        for live in self.sessions().all() {
            if live.policy.is_some_and(|by| !by.stands(&looked.policies, Rights::DEVICE_CONNECT)) {
                live.close(Closing::Revoked);
            }
        }
    }

    fn tell(&self, change: &Change) {
        let was = change.before.as_deref();
        if change.messages {
            self.0.news.send_replace(());
            if let Some(live) = self.sessions().get(&change.key) {
                live.look_for_messages();
            }
            return;
        }
        if let Some(live) = self.sessions().get(&change.key) {
            match &change.after {
                Some(after) if live.is_let_in(after) => {
                    if let Some(patch) = &change.desired_patch {
                        let body = with_version(patch, after.desired.version).to_string();
                        live.push_desired(after.desired.version, Bytes::from(body));
                    }
                }
                _ => live.close(Closing::Revoked),
            }
        }
        let is_off = |device: Option<&Device>| device.is_none_or(|device| !device.enabled);
        if change.key.module.is_none() && is_off(change.after.as_deref()) && !is_off(was) {
            self.close_modules(&change.key);
        }
    }

    /// Where an authority is believed no more, whoever came by one is to come again. Returns what is believed now.
    fn looks_at_authorities(&self, earlier: &Trusted) -> Arc<Trusted> {
        let trusted = self.trusted();
        if trusted.believes_less_than(earlier) {
            for live in self.sessions().all() {
                let device = self.registry().get(&live.key).ok().flatten();
                if device.is_none_or(|device| device.auth == Auth::Authority) {
                    live.close(Closing::Leaving);
                }
            }
        }
        trusted
    }

    /// A module does not outlive its device.
    fn close_modules(&self, device: &Key) {
        for live in self.sessions().all() {
            if live.key.module.is_some() && live.key.device == device.device {
                live.close(Closing::Revoked);
            }
        }
    }

    /// What was missed is not known: who should not be here goes, and so does whoever misses desired properties, because a device
    /// reads its whole twin when it is back.
    pub(super) fn look_at_all(&self) {
        for live in self.sessions().all() {
            match self.registry().get(&live.key) {
                Ok(Some(device)) if live.is_let_in(&device) => {
                    if live.misses_desired(device.desired.version) {
                        live.close(Closing::Leaving);
                    }
                    live.look_for_messages();
                }
                Ok(_) => live.close(Closing::Revoked),
                // The next change looks again.
                Err(error) => tracing::warn!(device = %live.key, %error, "could not look at a connection"),
            }
        }
    }
}
