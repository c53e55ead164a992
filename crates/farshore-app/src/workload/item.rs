//! One app of the region: its card, what it has, and what is alive of it.
//!
//! Read in this order: this file (how it is made and ended, what it remembers), `orders` (every order about it), `raise` (its instances,
//! brought up and replaced), `database` (opened, brought back), `exchange` (one database for another), `deploy` (a commit becomes the running release), `publish` (what
//! the gateway does with its requests), `watch` (what it does by itself).

mod database;
mod deploy;
mod exchange;
mod orders;
mod publish;
mod raise;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use farshore_core::ids::{ItemId, Region, Token};
use farshore_core::lease::Lease;
use farshore_core::moment::Moment;
use farshore_core::workload::{DrillView, Observation, Order, Role, StepError, Watermark};
use serde_json::Value;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::capacity::{self, Claim};
use super::card::Card;
use super::doors::{Believer, Distance, Gate, Pusher};
use super::drill::Drill;
use super::operations::Operations;
use super::{Around, look};
use crate::charter::Charter;
use crate::data::backup::{Backup, Backups};
use crate::data::unfinished::remove_unfinished;
use crate::gateway::Site;
use crate::host::{Host, kill_leftovers};
use crate::keys::Keys;
use crate::link::{Duties, Duty, Link, LinkOptions, Stock, Where};
use crate::scripts::GitHttp;
use crate::spec::AppSpec;

pub(in crate::workload) use database::{answers, place_of};
pub(in crate::workload) use deploy::Deployed;
pub(in crate::workload) use publish::rule;
pub(in crate::workload) use raise::limits;

/// One app of the region.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) around: Arc<Around>,
    pub(super) id: ItemId,
    pub(super) lease: Arc<Lease>,
    pub(super) stock: Arc<Stock>,
    pub(super) backups: Arc<Backups>,
    pub(super) operations: Operations,
    pub(super) gate: Arc<Gate>,
    git: Arc<GitHttp>,
    duties: Arc<Duties>,
    card: Mutex<Card>,
    parts: Mutex<Parts>,
    site: Mutex<Arc<Site>>,
    /// One order at a time.
    turn: tokio::sync::Mutex<()>,
    /// One change of instances or database at a time.
    work: tokio::sync::Mutex<()>,
    /// One database is brought back or looked at to be used at a time: the app uses it only after that.
    pub(super) choosing: tokio::sync::Mutex<()>,
    /// One deploy at a time.
    deploying: tokio::sync::Mutex<()>,
    /// What is wrong, by what was tried: told until it went well.
    notes: Mutex<BTreeMap<Matter, String>>,
    /// The backups that are here, as they were when it was last looked.
    backup_list: Mutex<Vec<Backup>>,
    /// Held while the gateway is told who serves.
    telling: Mutex<()>,
    /// When a backup was last tried by the schedule.
    backup_tried: Mutex<Option<Moment>>,
    /// Whether it is being looked at whether one is due.
    tidying: tokio::sync::Mutex<()>,
    /// Whether commits were told to wait for the other region.
    holds: Mutex<bool>,
    /// The charter that the gateway was last told of.
    applied: Mutex<Option<Charter>>,
    /// When it began to live here.
    began: Moment,
    me: Weak<Self>,
}

/// What something is wrong with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matter {
    Start,
    Restart,
    Deploy,
    Backup,
    Database,
    Replica,
    Names,
    Capacity,
    /// Its own database, which is not kept here, does not answer: it cannot come up, and that is not this region's doing.
    Away,
}

/// What is not remembered.
#[derive(Debug, Default)]
struct Parts {
    /// It was told to do what it does since the node was started.
    confirmed: bool,
    /// Ends what is being done for an app that may not run any more; `None`: it does not run.
    active: Option<CancellationToken>,
    link: Option<Arc<Link>>,
    running: Option<Running>,
    drill: Option<Drill>,
    watch: Option<JoinHandle<()>>,
}

/// The instances of a release.
#[derive(Debug)]
struct Running {
    host: Arc<Host>,
    release: u64,
    /// Tells the gateway which of them answer.
    follows: JoinHandle<()>,
}

/// What changes an app comes too late where the app does not serve any more.
const NOT_HERE: &str = "the app may not run here any more: nothing was changed";

pub(super) fn retry(error: impl std::fmt::Display) -> StepError {
    StepError::Retry { what: error.to_string() }
}

pub(super) fn fatal(what: impl Into<String>) -> StepError {
    StepError::Fatal { what: what.into() }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Item {
    /// A new app, served here: one of the region's on return.
    pub(super) async fn create(
        order: &Order,
        spec: &Value,
        around: Arc<Around>,
    ) -> Result<Arc<Self>, StepError> {
        let unusable = |why: String| fatal(format!("the spec of {} cannot be used: {why}", order.item));
        let spec: AppSpec =
            serde_json::from_value(spec.clone()).map_err(|error| unusable(error.to_string()))?;
        spec.check().map_err(unusable)?;
        let _room = around.room.lock().await;
        capacity::fits(&around.claims(), &order.item.name, &spec, around.options.capacity_mib)
            .map_err(|no_room| fatal(no_room.to_string()))?;
        let keys = Keys::make().map_err(retry)?;
        let mut card = Card::new(order.item.clone(), order.token, Role::Active);
        (card.lease, card.is_new) = (order.lease, true);
        let item = Self::open(card, Charter::new(spec, keys), Arc::clone(&around)).await?;
        item.put_site().map_err(fatal)?;
        item.charter_changes(|_| {})?;
        item.change(|_| {})?;
        around.items().insert(order.item.clone(), Arc::clone(&item));
        Ok(item)
    }

    /// A secondary, ready for what its source has.
    pub(super) async fn prepare(
        order: &Order,
        source: &Region,
        shape: &Value,
        around: Arc<Around>,
    ) -> Result<Arc<Self>, StepError> {
        let spec = shape.get("spec").cloned().unwrap_or_default();
        let spec: AppSpec = serde_json::from_value(spec)
            .map_err(|error| fatal(format!("{source} did not say what {} is like: {error}", order.item)))?;
        let mut card = Card::new(order.item.clone(), order.token, Role::Target);
        card.partner = Some(source.clone());
        let item = Self::open(card, Charter::new(spec, Keys::none()), around).await?;
        item.put_site().map_err(fatal)?;
        item.stock.charter().save(&item.dir()).map_err(retry)?;
        item.change(|_| {})?;
        item.parts().confirmed = true;
        item.stand_by().await?;
        item.connect();
        item.publish();
        Ok(item)
    }

    /// What is remembered, after a start of the node. Nobody is served before it was confirmed; a target needs nobody's word.
    pub(super) async fn wake(card: Card, around: Arc<Around>) -> Result<Arc<Self>, StepError> {
        let dir = around.dir_of(&card.item);
        let charter = Charter::load(&dir).map_err(retry)?;
        let log = dir.join("log");
        let killed = spawn_blocking(move || kill_leftovers(&log)).await.map_err(retry)?.map_err(retry)?;
        if killed > 0 {
            tracing::warn!(app = %card.item, killed, "instances that an earlier node has left were ended");
        }
        let item = Self::open(card, charter, around).await?;
        // One app whose name was taken does not keep the others from being served.
        item.note(Matter::Names, item.put_site().err());
        let role = item.card().role;
        item.parts().confirmed = role != Role::Active;
        match role {
            Role::Target => {
                item.stand_by().await.unwrap_or_else(|error| item.note_error(Matter::Replica, &error))
            }
            Role::Fenced => item.wake_fenced().await,
            _ => {}
        }
        item.connect();
        item.publish();
        Ok(item)
    }

    async fn open(card: Card, charter: Charter, around: Arc<Around>) -> Result<Arc<Self>, StepError> {
        let (id, dir) = (card.item.clone(), around.dir_of(&card.item));
        let (of, at) = (id.clone(), dir.clone());
        let stock = spawn_blocking(move || Stock::open(of, &at, charter));
        let stock = Arc::new(stock.await.map_err(retry)?.map_err(retry)?);
        let backups = Arc::new(Backups::open(&dir.join("backups")).await.map_err(retry)?);
        let databases = dir.join(database::DATABASES);
        spawn_blocking(move || remove_unfinished(&databases)).await.map_err(retry)?.map_err(retry)?;
        let role = if card.role == Role::Active { Role::Unconfirmed } else { card.role };
        let duties = Arc::new(Duties::new(Duty { token: card.token, role }));
        let lease = Arc::new(Lease::new(Arc::new(super::boot_time)));
        lease.raise(card.token);
        let gate = Arc::new(Gate::new(Arc::clone(&lease), Arc::clone(&stock)));
        let believer = Arc::new(Believer::new(Arc::clone(&stock), around.options.tokens.clone()));
        let item = Arc::new_cyclic(|me: &Weak<Self>| {
            let pusher = Arc::new(Pusher(me.clone()));
            let git = GitHttp::new(Arc::clone(&stock.repository), id.name.as_str(), believer, pusher);
            let site = Site::new(id.name.as_str(), Vec::new(), Vec::new(), git.clone());
            Self {
                around,
                id,
                lease,
                stock,
                backups,
                operations: Operations::default(),
                gate,
                git,
                duties,
                card: Mutex::new(card),
                parts: Mutex::default(),
                site: Mutex::new(site),
                turn: tokio::sync::Mutex::default(),
                work: tokio::sync::Mutex::default(),
                choosing: tokio::sync::Mutex::default(),
                deploying: tokio::sync::Mutex::default(),
                notes: Mutex::default(),
                backup_list: Mutex::default(),
                telling: Mutex::default(),
                backup_tried: Mutex::default(),
                tidying: tokio::sync::Mutex::default(),
                holds: Mutex::default(),
                applied: Mutex::default(),
                began: super::now(),
                me: me.clone(),
            }
        });
        item.look_at_backups().await;
        if let Err(error) = item.stock.look_at_refs().await {
            return Err(retry(error));
        }
        item.parts().watch = Some(tokio::spawn(watch::watch(Arc::downgrade(&item))));
        Ok(item)
    }

    /// Serves the app's repository.
    pub(super) fn scripts(&self) -> Arc<GitHttp> {
        Arc::clone(&self.git)
    }

    pub(super) fn site(&self) -> Arc<Site> {
        lock(&self.site).clone()
    }

    pub(super) fn card(&self) -> MutexGuard<'_, Card> {
        lock(&self.card)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        lock(&self.parts)
    }

    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.parts().link.clone()
    }

    pub(super) fn host(&self) -> Option<Arc<Host>> {
        self.parts().running.as_ref().map(|running| Arc::clone(&running.host))
    }

    pub(super) fn drill_view(&self) -> Option<DrillView> {
        self.parts().drill.as_ref().map(Drill::view)
    }

    /// Refuses an order under a lower token.
    pub(super) fn admit(&self, token: Token) -> Result<(), StepError> {
        let current = self.card().token;
        if token < current { Err(StepError::Fenced { current }) } else { Ok(()) }
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.around.dir_of(&self.id)
    }

    pub(super) fn known(&self) -> (ItemId, Token, Role) {
        let (item, token) = {
            let card = self.card();
            (card.item.clone(), card.token)
        };
        (item, token, self.role())
    }

    pub(super) fn role(&self) -> Role {
        let role = self.card().role;
        match role {
            Role::Active if !self.parts().confirmed => Role::Unconfirmed,
            role => role,
        }
    }

    pub(super) fn look(&self) -> Observation {
        look::look(self)
    }

    /// What it uses up of the region.
    pub(super) fn claim(&self) -> Claim {
        let is_active = self.card().role == Role::Active;
        let charter = self.stock.charter();
        Claim {
            name: self.id.name.clone(),
            is_active,
            mode: charter.spec.mode,
            instances: charter.spec.instances,
            reserve_for: charter.spec.reserve_for.clone(),
            lent_to: charter.lent_to.clone(),
        }
    }

    /// Whether its capacity is used by the app that it was lent to.
    pub(super) fn is_used_up(&self) -> bool {
        let is_lent = self.stock.charter().lent_to.is_some();
        is_lent && capacity::is_used_up(&self.claim(), &self.around.claims())
    }

    /// What is wrong, for people.
    pub(super) fn notes(&self) -> Vec<String> {
        lock(&self.notes).values().cloned().collect()
    }

    pub(super) fn noted(&self, matter: Matter) -> Option<String> {
        lock(&self.notes).get(&matter).cloned()
    }

    /// Something went wrong, or (`None`) well.
    pub(super) fn note(&self, matter: Matter, what: Option<String>) {
        let mut notes = lock(&self.notes);
        match what {
            Some(what) => {
                tracing::warn!(app = %self.id, "{what}");
                notes.insert(matter, what);
            }
            None => {
                notes.remove(&matter);
            }
        }
    }

    pub(super) fn note_error(&self, matter: Matter, error: &impl std::fmt::Display) {
        self.note(matter, Some(error.to_string()));
    }

    /// How far the app is here.
    pub(super) fn watermark(&self) -> Watermark {
        let (epoch, closed, role, source) = {
            let card = self.card();
            (card.epoch, card.closed, card.role, card.source.clone())
        };
        let epoch = match role {
            // What is here was written under the source's right.
            Role::Target => {
                let heard = self.link().and_then(|link| link.status().watermark);
                heard.or(source.map(|source| source.watermark)).map_or(epoch, |theirs| theirs.epoch)
            }
            _ => epoch,
        };
        self.stock.watermark(epoch, closed)
    }

    /// Changes the card: durably, or not at all.
    pub(super) fn change(&self, change: impl FnOnce(&mut Card)) -> Result<(), StepError> {
        let dir = self.dir();
        let mut card = self.card();
        let mut changed = card.clone();
        change(&mut changed);
        changed.save(&dir).map_err(retry)?;
        *card = changed;
        Ok(())
    }

    /// Changes the charter under the right to serve: durably, or not at all. It goes to the other region.
    ///
    /// # Errors
    /// When the app is not active here any more: the other region may have a charter under the same epoch. Or it cannot be written.
    pub(super) fn charter_changes(&self, change: impl FnOnce(&mut Charter)) -> Result<(), StepError> {
        // Held to the end: whoever takes the right away changes the card first.
        let card = self.card();
        if card.role != Role::Active {
            return Err(fatal(NOT_HERE));
        }
        self.stock.change(card.token.epoch, change).map_err(retry)
    }

    /// The same, where what is there decides what becomes of it: whoever changes something at the same time comes before or after. A
    /// refusal changes nothing. Returns whether anything is another now.
    ///
    /// # Errors
    /// What `change` says, or as above.
    pub(super) fn charter_decides(
        &self,
        change: impl FnOnce(&mut Charter) -> Result<(), StepError>,
    ) -> Result<bool, StepError> {
        // Whoever changes the charter of an active app holds it.
        let card = self.card();
        if card.role != Role::Active {
            return Err(fatal(NOT_HERE));
        }
        let before = self.stock.charter().clone();
        let mut after = before.clone();
        change(&mut after)?;
        let is_news = after != before;
        if is_news {
            self.stock.change(card.token.epoch, |charter| *charter = after).map_err(retry)?;
        }
        Ok(is_news)
    }

    fn set_duty(&self) {
        let (_, token, role) = self.known();
        self.lease.raise(token);
        self.duties.set(Duty { token, role });
    }

    /// Makes the link anew, as the card says.
    fn connect(&self) {
        self.set_duty();
        let partner = self.card().partner.clone();
        let link = partner.map(|partner| {
            Arc::new(Link::spawn(LinkOptions {
                partner,
                stock: Arc::clone(&self.stock),
                far: Arc::clone(&self.around.options.far),
                duties: Arc::clone(&self.duties),
                gateway: self.around.gateway_at(),
                watermark: Arc::new(Distance(self.me.clone())),
                backups: self.dir().join("backups"),
            }))
        });
        self.parts().link = link;
    }

    /// Ends everything but what is remembered.
    pub(super) async fn stop(&self) {
        self.around.gateway.remove(self.id.name.as_str());
        let (link, drill, watch) = {
            let mut parts = self.parts();
            if let Some(active) = parts.active.take() {
                active.cancel();
            }
            (parts.link.take(), parts.drill.take(), parts.watch.take())
        };
        if let Some(watch) = watch {
            watch.abort();
        }
        drop(link);
        self.git.stop().await;
        if let Some(drill) = drill
            && let Err(error) = drill.close().await
        {
            tracing::warn!(%error, "the copy of a drill is left");
        }
        let _work = self.work.lock().await;
        self.end_instances(raise::GRACE).await;
        self.close_database().await;
    }

    /// Ends everything, with its clients, and forgets it.
    pub(super) async fn delete(&self) -> Result<(), StepError> {
        let dir = self.dir();
        self.stop().await;
        spawn_blocking(move || Card::remove(&dir)).await.map_err(retry)?.map_err(retry)
    }
}

impl Around {
    /// Where the gateway here is, for the other region's. Without TLS it listens on loopback, so that no host name leads to
    /// it; and whoever has TLS is not to be sent keys without it.
    pub(super) fn gateway_at(&self) -> Where {
        let bound = self.gateway.bound();
        Where {
            http: bound.https.is_none().then(|| bound.http.to_string()),
            https: bound.https.map(|at| self.authority(at)),
        }
    }
}
