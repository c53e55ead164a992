//! One app of the region: its card, its charter, and what is alive of it.
//!
//! Read in this order: this file (how it is made and ended, what it remembers), `orders` (every order about it).

mod orders;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::ids::{ItemId, Region, Token};
use farshore_core::lease::Lease;
use farshore_core::workload::{Observation, Order, Role, StepError};
use serde_json::Value;

use super::capacity::{self, Claim};
use super::card::Card;
use super::{Around, look};
use crate::charter::Charter;
use crate::keys::Keys;
use crate::spec::AppSpec;

/// One app of the region.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) around: Arc<Around>,
    pub(super) id: ItemId,
    pub(super) lease: Arc<Lease>,
    card: Mutex<Card>,
    charter: Mutex<Charter>,
    live: Mutex<Live>,
    /// One order at a time.
    turn: tokio::sync::Mutex<()>,
}

/// What is not remembered.
#[derive(Debug, Default)]
struct Live {
    /// It was told to do what it does since the node was started.
    confirmed: bool,
}

pub(super) fn retry(error: impl std::fmt::Display) -> StepError {
    StepError::Retry { what: error.to_string() }
}

pub(super) fn fatal(what: impl Into<String>) -> StepError {
    StepError::Fatal { what: what.into() }
}

impl Item {
    /// A new app, served here.
    pub(super) fn create(order: &Order, spec: &Value, around: Arc<Around>) -> Result<Arc<Self>, StepError> {
        let unusable = |why: String| fatal(format!("the spec of {} cannot be used: {why}", order.item));
        let spec: AppSpec =
            serde_json::from_value(spec.clone()).map_err(|error| unusable(error.to_string()))?;
        spec.check().map_err(unusable)?;
        capacity::fits(&around.claims(), &order.item.name, &spec, around.options.capacity_mib)
            .map_err(|no_room| fatal(no_room.to_string()))?;
        let keys = Keys::make().map_err(retry)?;
        let mut card = Card::new(order.item.clone(), order.token, Role::Active);
        card.lease = order.lease;
        let item = Self::open(card, Charter::new(spec, keys), around);
        item.charter_changes(|_| {})?;
        item.change(|_| {})?;
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
        let spec: AppSpec = serde_json::from_value(spec)
            .map_err(|error| fatal(format!("{source} did not say what {} is like: {error}", order.item)))?;
        let mut card = Card::new(order.item.clone(), order.token, Role::Target);
        card.partner = Some(source.clone());
        let item = Self::open(card, Charter::new(spec, Keys::none()), around);
        item.charter().save(&item.dir()).map_err(retry)?;
        item.change(|_| {})?;
        item.live().confirmed = true;
        Ok(item)
    }

    /// What is remembered, after a start of the node. Nobody is served before it was confirmed; a target needs nobody's word.
    pub(super) fn wake(card: Card, around: Arc<Around>) -> Result<Arc<Self>, StepError> {
        let charter = Charter::load(&around.dir_of(&card.item)).map_err(retry)?;
        let item = Self::open(card, charter, around);
        item.live().confirmed = item.card().role != Role::Active;
        Ok(item)
    }

    fn open(card: Card, charter: Charter, around: Arc<Around>) -> Arc<Self> {
        let lease = Arc::new(Lease::new(Arc::new(super::boot_time)));
        lease.raise(card.token);
        Arc::new(Self {
            around,
            id: card.item.clone(),
            lease,
            card: Mutex::new(card),
            charter: Mutex::new(charter),
            live: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn card(&self) -> MutexGuard<'_, Card> {
        self.card.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn charter(&self) -> MutexGuard<'_, Charter> {
        self.charter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What it uses up of the region.
    pub(super) fn claim(&self) -> Claim {
        let is_active = self.card().role == Role::Active;
        let charter = self.charter();
        Claim {
            name: self.id.name.clone(),
            is_active,
            mode: charter.spec.mode,
            instances: charter.spec.instances,
            reserve_for: charter.spec.reserve_for.clone(),
            lent_to: charter.lent_to.clone(),
        }
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

    /// Changes the charter under the right to serve: durably, or not at all. It goes to the other region.
    pub(super) fn charter_changes(&self, change: impl FnOnce(&mut Charter)) -> Result<(), StepError> {
        let (dir, epoch) = (self.dir(), self.card().token.epoch);
        let mut charter = self.charter();
        let mut changed = charter.clone();
        change(&mut changed);
        (changed.tag.epoch, changed.tag.version) = (epoch, charter.tag.version + 1);
        changed.save(&dir).map_err(retry)?;
        *charter = changed;
        Ok(())
    }

    /// Ends everything but what is remembered.
    #[expect(clippy::unused_async, reason = "instances are ended here")]
    pub(super) async fn stop(&self) {}

    /// Ends everything, with its clients, and forgets it.
    pub(super) async fn delete(&self) -> Result<(), StepError> {
        let dir = self.dir();
        self.stop().await;
        tokio::task::spawn_blocking(move || Card::remove(&dir)).await.map_err(retry)?.map_err(retry)
    }
}
