//! One hub of the region: its card, what is alive of it, its link.
//!
//! Read in this order: this file (how it is made and ended, what it remembers), `orders` (every order about it), `watch` (what it
//! does by itself).

mod orders;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::ids::{Epoch, ItemId, Region, Token};
use farshore_core::lease::Lease;
use farshore_core::workload::{Observation, Order, ReplicationMode, Role, StepError};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::card::Card;
use super::drill::Drill;
use super::runners::Runners;
use super::spec::HubSpec;
use super::{Around, look};
use crate::fleet::{Fleet, FleetOptions};
use crate::front::Served;
use crate::link::{Duties, Duty, Link, LinkOptions, Noted};

/// One hub of the region.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) around: Arc<Around>,
    pub(super) fleet: Fleet,
    pub(super) lease: Arc<Lease>,
    pub(super) noted: Arc<Noted>,
    pub(super) runners: Arc<Runners>,
    duties: Arc<Duties>,
    card: Mutex<Card>,
    live: Mutex<Live>,
    /// One order at a time.
    turn: tokio::sync::Mutex<()>,
}

/// What is not remembered.
#[derive(Debug, Default)]
struct Live {
    /// It was told to do what it does since the node was started.
    confirmed: bool,
    link: Option<Arc<Link>>,
    drill: Option<Drill>,
    watch: Option<JoinHandle<()>>,
}

pub(super) fn retry(error: impl std::fmt::Display) -> StepError {
    StepError::Retry { what: error.to_string() }
}

pub(super) fn fatal(what: impl Into<String>) -> StepError {
    StepError::Fatal { what: what.into() }
}

impl Item {
    /// A new hub, served here.
    pub(super) async fn create(
        order: &Order,
        spec: &Value,
        around: Arc<Around>,
    ) -> Result<Arc<Self>, StepError> {
        let spec: HubSpec = serde_json::from_value(spec.clone())
            .map_err(|error| fatal(format!("the spec of {} cannot be used: {error}", order.item)))?;
        spec.check().map_err(|why| fatal(format!("the spec of {} cannot be used: {why}", order.item)))?;
        let mut card = Card::new(order.item.clone(), order.token, Role::Active, spec);
        card.lease = order.lease;
        let item = Self::open(card, around)?;
        item.fleet.registry().activate(order.token.epoch);
        item.fleet.make_policies().await.map_err(retry)?;
        item.fleet.registry().set_rules(item.rules()).await.map_err(retry)?;
        item.save()?;
        item.serve(order);
        Ok(item)
    }

    /// A secondary, ready for what its source has.
    pub(super) fn prepare(
        order: &Order,
        source: &Region,
        shape: &Value,
        around: Arc<Around>,
    ) -> Result<Arc<Self>, StepError> {
        let spec = shape.get("spec").cloned().unwrap_or_default();
        let spec: HubSpec = serde_json::from_value(spec)
            .map_err(|error| fatal(format!("{source} did not say what {} is like: {error}", order.item)))?;
        let mut card = Card::new(order.item.clone(), order.token, Role::Target, spec);
        card.partner = Some(source.clone());
        let item = Self::open(card, around)?;
        item.save()?;
        item.set_duty();
        item.connect();
        item.live().confirmed = true;
        Ok(item)
    }

    /// What is remembered, after a start of the node. Nobody is served before it was confirmed; a target needs nobody's word.
    pub(super) fn wake(card: Card, around: Arc<Around>) -> Result<Arc<Self>, StepError> {
        let item = Self::open(card, around)?;
        item.live().confirmed = item.card().role != Role::Active;
        item.connect();
        Ok(item)
    }

    fn open(card: Card, around: Arc<Around>) -> Result<Arc<Self>, StepError> {
        let names = around.names_of(&card.item, &card.spec);
        around.fronts.check_free(card.item.name.as_str(), &names).map_err(fatal)?;
        let options = FleetOptions {
            hosts: names.clone(),
            telemetry: card.spec.telemetry(),
            ..FleetOptions::new(
                card.item.name.as_str(),
                around.options.region.clone(),
                around.dir_of(&card.item),
            )
        };
        let fleet = Fleet::open(options).map_err(retry)?;
        match card.role {
            Role::Target => fleet.follow(),
            _ => fleet.stand_by(),
        }
        let role = if card.role == Role::Active { Role::Unconfirmed } else { card.role };
        let duties = Arc::new(Duties::new(Duty { token: card.token, role }));
        let lease = Arc::new(Lease::new(Arc::new(super::boot_time)));
        lease.raise(card.token);
        around.fronts.put(Served::new(&fleet, names, around.options.exchange.clone()));
        let noted = Arc::new(Noted::new(around.dir_of(&card.item)));
        let runners = Runners::spawn(&fleet, card.spec.dedupe_property.iter().cloned().collect());
        let item = Arc::new(Self {
            around,
            fleet,
            lease,
            noted,
            runners,
            duties,
            card: Mutex::new(card),
            live: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        });
        item.live().watch = Some(tokio::spawn(watch::watch(Arc::downgrade(&item))));
        Ok(item)
    }

    pub(super) fn card(&self) -> MutexGuard<'_, Card> {
        self.card.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.live().link.clone()
    }

    pub(super) fn drill_view(&self) -> Option<farshore_core::workload::DrillView> {
        self.live().drill.as_ref().map(Drill::view)
    }

    /// All names under which devices and back ends may mean it here.
    pub(super) fn names(&self) -> Vec<String> {
        let card = self.card();
        self.around.names_of(&card.item, &card.spec)
    }

    /// Refuses an order under a lower token.
    pub(super) fn admit(&self, token: Token) -> Result<(), StepError> {
        let current = self.card().token;
        if token < current { Err(StepError::Fenced { current }) } else { Ok(()) }
    }

    fn dir(&self) -> PathBuf {
        self.around.dir_of(&self.card().item)
    }

    pub(super) fn known(&self) -> (ItemId, Token, Role) {
        let card = self.card();
        (card.item.clone(), card.token, self.role_of(&card))
    }

    pub(super) fn role(&self) -> Role {
        let card = self.card();
        self.role_of(&card)
    }

    fn role_of(&self, card: &Card) -> Role {
        match card.role {
            Role::Active if !self.live().confirmed => Role::Unconfirmed,
            role => role,
        }
    }

    pub(super) fn look(&self) -> Observation {
        look::look(self)
    }

    fn rules(&self) -> crate::record::Rules {
        let home = self.around.options.region.clone();
        crate::record::Rules { policy: self.card().spec.merge_policy, primary: Some(home) }
    }

    /// Keeps durably what the card says now.
    fn save(&self) -> Result<(), StepError> {
        self.change(|_| {})
    }

    /// Changes the card: durably, or not at all.
    fn change(&self, change: impl FnOnce(&mut Card)) -> Result<(), StepError> {
        let dir = self.dir();
        let mut card = self.card();
        let mut changed = card.clone();
        change(&mut changed);
        changed.save(&dir).map_err(retry)?;
        *card = changed;
        Ok(())
    }

    fn set_duty(&self) {
        let (_, token, role) = self.known();
        self.lease.raise(token);
        self.duties.set(Duty { token, role });
    }

    /// Makes the link anew, as the card says.
    fn connect(self: &Arc<Self>) {
        let Card { partner, before, epoch, item, mode, role, .. } = self.card().clone();
        // Only whoever serves acknowledges, and waits.
        let mode = if role == Role::Active { mode } else { ReplicationMode::Async };
        self.fleet.telemetry().wait_for(partner.iter().cloned().collect());
        let link = partner.map(|partner| {
            Arc::new(Link::spawn(LinkOptions {
                item,
                here: self.around.options.region.clone(),
                partner,
                registry: self.fleet.registry().clone(),
                telemetry: self.fleet.telemetry().clone(),
                far: Arc::clone(&self.around.far),
                duties: Arc::clone(&self.duties),
                before,
                epoch,
                noted: Arc::clone(&self.noted),
                mode,
            }))
        });
        self.fleet.acknowledge_after(link.as_ref().map(|link| link.awaited()));
        self.live().link = link;
    }

    /// Ends everything but what is remembered.
    pub(super) async fn stop(&self) {
        self.around.fronts.remove(self.fleet.name());
        let (link, drill, watch) = {
            let mut live = self.live();
            (live.link.take(), live.drill.take(), live.watch.take())
        };
        if let Some(watch) = watch {
            watch.abort();
        }
        drop(link);
        self.runners.stop().await;
        if let Some(drill) = drill
            && let Err(error) = drill.close().await
        {
            tracing::warn!(%error, "the copy of a drill is left");
        }
        self.fleet.fence().await;
        self.fleet.telemetry().close().await;
    }

    /// Ends everything, with its clients, and forgets it.
    pub(super) async fn delete(&self) -> Result<(), StepError> {
        let dir = self.dir();
        self.stop().await;
        tokio::task::spawn_blocking(move || Card::remove(&dir)).await.map_err(retry)?.map_err(retry)
    }

    /// The right under which this region last wrote.
    pub(super) fn epoch(&self) -> Epoch {
        self.card().epoch
    }
}
