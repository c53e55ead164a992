//! What is looked at once a while: a higher token fences the hub, what is to be kept is kept, what is old is forgotten.

use std::sync::Weak;
use std::time::Duration;

use farshore_core::workload::Role;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Item;
use crate::fleet::Standing;

/// Between two looks of a hub's own watch: whether it is whole, and how far its source is.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// How far the source is, is kept this often: a target that starts when its source is gone can still say what it lacks.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// Retention is looked at this often, and one file of telemetry read anew.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Fences the hub when a higher token is heard of, keeps what is to be kept, and forgets what is old.
pub(super) async fn watch(item: Weak<Item>) {
    let Some(strong) = item.upgrade() else { return };
    let mut tokens = strong.duties.watch();
    drop(strong);
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut kept, mut tidied) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            changed = tokens.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {}
        }
        let Some(item) = item.upgrade() else { return };
        let highest = *tokens.borrow_and_update();
        if let Err(error) = item.heard_of(highest).await {
            tracing::warn!(hub = item.fleet.name(), %error, "the hub cannot be fenced: it is tried again");
        }
        let keep = kept.elapsed() >= KEEP_EVERY;
        if keep {
            kept = Instant::now();
        }
        item.note(keep);
        if tidied.elapsed() >= TIDY_EVERY {
            tidied = Instant::now();
            item.tidy().await;
        }
    }
}

impl Item {
    /// Once a while: is everything of the lost region here, and how far is the source?
    fn note(&self, keep: bool) {
        let Some(link) = self.link() else { return };
        let status = link.status();
        let (role, is_whole) = {
            let card = self.card();
            (card.role, card.is_whole)
        };
        let told_all = matches!(status.role, Some(Role::Fenced | Role::Target)) && link.is_complete();
        if role == Role::Active && !is_whole && told_all && self.live().confirmed {
            if let Err(error) = self.change(|card| card.is_whole = true) {
                tracing::warn!(hub = self.fleet.name(), %error, "what was merged cannot be noted");
                return;
            }
            let token = self.card().token;
            self.fleet.open_to_devices(token.epoch, Standing::Current);
        }
        if role == Role::Target && keep && status.theirs.is_some() {
            let kept = self.change(|card| (card.theirs, card.heard) = (status.theirs.clone(), status.heard));
            if let Err(error) = kept {
                tracing::warn!(hub = self.fleet.name(), %error, "how far the source is cannot be noted");
            }
        }
    }

    async fn tidy(&self) {
        let (telemetry, registry) = (self.fleet.telemetry(), self.fleet.registry());
        if let Err(error) = telemetry.tidy(super::super::now()).await {
            tracing::warn!(hub = self.fleet.name(), %error, "old telemetry stays");
        }
        let checked = telemetry.clone();
        if let Ok(Err(error)) = spawn_blocking(move || checked.check_another()).await {
            tracing::warn!(hub = self.fleet.name(), %error, "a file of telemetry cannot be checked");
        }
        if let Err(error) = registry.purge_tombstones(&registry.stable()).await {
            tracing::warn!(hub = self.fleet.name(), %error, "tombstones stay");
        }
    }
}
