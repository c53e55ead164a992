//! What an app does by itself: fences itself when it hears of a higher token, comes up again, keeps what is to be kept, backs up.

use std::sync::{Arc, Weak};
use std::time::Duration;

use farshore_core::workload::Role;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::super::card::SourceSeen;
use super::{Item, Matter};
use crate::link::Link;

/// Between two looks of an app's own watch.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// How far the source is, is kept this often: a target that starts when its source is gone can still say what it lacks.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// An app that does not come up is tried again after this,
const RAISE_AGAIN_MIN: Duration = Duration::from_secs(1);
/// and after twice as long each time, up to this.
const RAISE_AGAIN_MAX: Duration = Duration::from_secs(30);
/// Whether a backup is due is looked at this often, and whether the database answers.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// A database that does not answer within this is told of.
const CHECK_MAX: Duration = Duration::from_secs(10);

/// Looks after one app until it is gone.
pub(super) async fn watch(item: Weak<Item>) {
    let Some(strong) = item.upgrade() else { return };
    let (mut tokens, mut changes) = (strong.duties.watch(), strong.stock.changes());
    strong.apply_charter();
    drop(strong);
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut rounds, mut role) = (Rounds::new(), None);
    loop {
        let Some(link) = item.upgrade().map(|item| item.link()) else { return };
        tokio::select! {
            changed = tokens.changed() => if changed.is_err() { return },
            changed = changes.changed() => if changed.is_err() { return },
            () = turned(link, role) => {}
            _ = ticks.tick() => {}
        }
        let Some(item) = item.upgrade() else { return };
        let highest = *tokens.borrow_and_update();
        if changes.has_changed().unwrap_or(false) {
            changes.mark_unchanged();
        }
        if let Err(error) = item.heard_of(highest).await {
            tracing::warn!(app = %item.id, %error, "the app cannot be fenced: it is tried again");
        }
        item.apply_charter();
        item.look_at_gate();
        item.hold_commits().await;
        role = item.link().and_then(|link| link.status().role);
        if matches!(item.role(), Role::Target | Role::Fenced) {
            item.publish();
        }
        rounds.go(&item).await;
    }
}

async fn turned(link: Option<Arc<Link>>, known: Option<Role>) {
    match link {
        Some(link) => link.turned(known).await,
        None => std::future::pending().await,
    }
}

/// What is not done at each look.
struct Rounds {
    kept: Instant,
    tidied: Instant,
    raised: Instant,
    pause: Duration,
}

impl Rounds {
    fn new() -> Self {
        let now = Instant::now();
        Self { kept: now, tidied: now, raised: now, pause: RAISE_AGAIN_MIN }
    }

    async fn go(&mut self, item: &Arc<Item>) {
        self.raise(item);
        if self.kept.elapsed() >= KEEP_EVERY {
            self.kept = Instant::now();
            item.keep_source();
        }
        if self.tidied.elapsed() >= TIDY_EVERY {
            self.tidied = Instant::now();
            // A backup may take long, and a fence must not wait for it.
            let item = Arc::clone(item);
            tokio::spawn(async move { item.tidy().await });
        }
        if item.has_other_backups() {
            item.look_at_backups().await;
        }
        if item.unproved_backup().is_some() {
            // A proof takes long, too.
            let item = Arc::clone(item);
            tokio::spawn(async move { item.prove_a_backup().await });
        }
        if item.role() == Role::Target {
            let stood = item.stand_by().await;
            item.note(Matter::Replica, stood.err().map(|error| error.to_string()));
        }
    }

    /// What should run and does not is brought up again; what should not run any more is ended.
    fn raise(&mut self, item: &Arc<Item>) {
        let is_wrong = match item.is_used_up() {
            true => item.host().is_some() || item.stock.live().is_some(),
            false => !item.is_up(),
        };
        if item.role() != Role::Active || !is_wrong {
            self.pause = RAISE_AGAIN_MIN;
            if item.role() == Role::Active {
                item.note(Matter::Start, None);
            }
            return;
        }
        // Whoever changes something now sees to it.
        if self.raised.elapsed() < self.pause || item.work.try_lock().is_err() {
            return;
        }
        (self.raised, self.pause) = (Instant::now(), (self.pause * 2).min(RAISE_AGAIN_MAX));
        let item = Arc::clone(item);
        tokio::spawn(async move { item.raise().await });
    }
}

impl Item {
    /// How far the source is, for when it is gone.
    fn keep_source(&self) {
        if self.role() != Role::Target {
            return;
        }
        let Some(status) = self.link().map(|link| link.status()) else { return };
        let (Some(watermark), Some(heard)) = (status.watermark, status.heard) else { return };
        let seen = Some(SourceSeen { watermark, heard });
        if self.card().source != seen
            && let Err(error) = self.change(|card| card.source = seen)
        {
            tracing::warn!(app = %self.id, %error, "how far the source is cannot be noted");
        }
    }

    /// The backup that is to be proved next. What the source has proved was proved there: its disk is not this one.
    fn unproved_backup(&self) -> Option<String> {
        let may = matches!(self.role(), Role::Target | Role::Active);
        let backups = may.then(|| self.known_backups())?;
        self.backups.unproved(&backups, super::super::now())
    }

    async fn prove_a_backup(&self) {
        let Ok(_tidying) = self.tidying.try_lock() else { return };
        let Some(id) = self.unproved_backup() else { return };
        let proved = self.backups.verify(&id).await;
        self.look_at_backups().await;
        // One that was removed meanwhile concerns nobody.
        let known = self.known_backups();
        let is_here = known.iter().any(|backup| backup.id == id);
        let is_newest = known.last().is_some_and(|backup| backup.id == id);
        match proved {
            Err(error) if is_here => {
                self.note(Matter::Backup, Some(format!("backup {id} is not proved here: {error}")));
            }
            // What a region that takes backups itself has to say about those stays, unless it was about this one.
            Ok(_) if is_newest || self.role() == Role::Target => self.note(Matter::Backup, None),
            _ => {}
        }
    }

    /// Backups and the database's health.
    async fn tidy(&self) {
        let Ok(_tidying) = self.tidying.try_lock() else { return };
        if self.role() != Role::Active {
            return;
        }
        if let Some(live) = self.stock.live() {
            let wrong = match timeout(CHECK_MAX, live.check()).await {
                Ok(checked) => checked.err().map(|error| error.to_string()),
                Err(_) => Some(format!("no answer within {CHECK_MAX:?}")),
            };
            self.note(Matter::Database, wrong.map(|why| format!("the database does not answer: {why}")));
            self.back_up_if_due().await;
        }
        if let Err(error) = self.stock.look_at_refs().await {
            tracing::warn!(app = %self.id, %error, "the branches cannot be looked at");
        }
    }
}
