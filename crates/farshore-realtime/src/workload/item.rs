//! One hub of the region: its card, its live hub, its link and its pair; and every order about it.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::{ItemId, Region, Token};
use farshore_core::workload::{Action, Order, PointChoice, Promotion, Role, StepError};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::card::{Card, Partner};
use super::claims::LinkClaims;
use super::drill::Drill;
use super::shed::{self, Shedding};
use super::spec::{HubSpec, unset};
use super::{Around, look};
use crate::hub::call::{Call, Scope};
use crate::link::fence::Fence;
use crate::link::{self, Link, LinkState, Secret};
use crate::live::{LiveHub, Settings};
use crate::names::HubName;
use crate::pair::{Pair, PairOptions};
use crate::service::{Alone, Served};

/// Between two looks of an item's own watch: whether the partner is lost, whether clients should be elsewhere.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// Clients that are sent home in one batch of the drain.
pub(super) const DRAIN_BATCH: usize = 50;
/// Between two batches: with the batch it makes the pace, 500 clients a second.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// One hub of the region.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) card: Card,
    /// It was told to serve since the node was started.
    pub(super) confirmed: bool,
    pub(super) hub: Arc<LiveHub>,
    pub(super) link: Option<Link>,
    pub(super) pair: Arc<Pair>,
    pub(super) drill: Option<Drill>,
    pub(super) around: Arc<Around>,
    fence: Arc<Fence>,
    /// The region that is active, as far as is known here.
    primary: watch::Sender<Region>,
    /// The token under which that was known. Where a higher one was seen, somebody else may be active by now.
    ordered: watch::Sender<Token>,
    watch: Option<JoinHandle<()>>,
    drain: Option<JoinHandle<()>>,
}

fn retry(error: impl std::fmt::Display) -> StepError {
    StepError::Retry { what: error.to_string() }
}

fn fatal(what: impl Into<String>) -> StepError {
    StepError::Fatal { what: what.into() }
}

impl Item {
    /// A new hub, served here.
    pub(super) async fn create(order: &Order, spec: &Value, around: Arc<Around>) -> Result<Self, StepError> {
        let spec: HubSpec = serde_json::from_value(spec.clone())
            .map_err(|error| fatal(format!("the spec of {} cannot be used: {error}", order.item)))?;
        let settings = spec.settings(&order.item).map_err(fatal)?;
        around.check_free(&settings.hub)?;
        let card = Card::new(order.item.clone(), order.token, Role::Active, settings);
        card.save(&around.options.dir).map_err(retry)?;
        let mut item = Self::of(card, around).await;
        item.confirm();
        Ok(item)
    }

    /// A secondary, ready for its partner's sessions. Its settings come over the link.
    pub(super) async fn prepare(
        order: &Order,
        source: &Region,
        shape: &Value,
        around: Arc<Around>,
    ) -> Result<Self, StepError> {
        let name = shape.get("hub").and_then(Value::as_str).unwrap_or_default();
        let hub = HubName::parse(name)
            .map_err(|error| fatal(format!("{source} did not say what {} is called: {error}", order.item)))?;
        around.check_free(&hub)?;
        let mut card = Card::new(order.item.clone(), order.token, Role::Target, unset(hub));
        card.partner = Some(Partner { region: source.clone(), dial: None });
        card.save(&around.options.dir).map_err(retry)?;
        let mut item = Self::of(card, around).await;
        item.confirm();
        Ok(item)
    }

    /// What is remembered, after a start of the node. A target needs nobody's word to follow.
    pub(super) async fn wake(card: Card, around: Arc<Around>) -> Self {
        let mut item = Self::of(card, around).await;
        if item.card.role == Role::Target {
            item.confirm();
        }
        item
    }

    async fn of(card: Card, around: Arc<Around>) -> Self {
        let hub = LiveHub::new(card.settings.clone(), around.handlers.clone(), card.partner.is_some());
        hub.set_origin(around.url.split("://").nth(1).unwrap_or("farshore").to_owned());
        let fence = Fence::new(card.token);
        let here = around.options.region.clone();
        let primary = match (&card.role, &card.partner) {
            (Role::Active | Role::Unconfirmed, _) | (_, None) => here,
            (_, Some(partner)) => partner.region.clone(),
        };
        let primary = watch::Sender::new(primary);
        let pair = new_pair(&card, &hub, &around, primary.subscribe());
        let ordered = watch::Sender::new(card.token);
        let mut item = Self {
            card,
            confirmed: false,
            hub,
            link: None,
            pair,
            drill: None,
            around,
            fence,
            primary,
            ordered,
            watch: None,
            drain: None,
        };
        item.connect().await;
        item
    }

    pub(super) fn known(&self) -> (ItemId, Token, Role) {
        (self.card.item.clone(), self.card.token, self.role())
    }

    pub(super) fn role(&self) -> Role {
        match self.card.role {
            Role::Active if !self.confirmed => Role::Unconfirmed,
            role => role,
        }
    }

    pub(super) fn look(&self) -> farshore_core::workload::Observation {
        look::look(self)
    }

    /// Refuses an order under a lower token.
    pub(super) fn admit(&self, token: Token) -> Result<(), StepError> {
        if token < self.card.token {
            return Err(StepError::Fenced { current: self.card.token });
        }
        Ok(())
    }

    /// Keeps durably what the card says now, with the newest settings of the two regions.
    pub(super) fn save(&mut self) -> Result<(), StepError> {
        let newest = self.hub.settings();
        if newest.version > self.card.settings.version {
            self.card.settings = (*newest).clone();
        }
        self.card.save(&self.around.options.dir).map_err(retry)
    }

    /// The token of an order is durable before its effect.
    fn take(&mut self, token: Token, role: Role) -> Result<(), StepError> {
        (self.card.token, self.card.role) = (token, role);
        self.save()?;
        let _ = self.fence.see(token);
        let primary = match (role, &self.card.partner) {
            (Role::Target | Role::Fenced, Some(partner)) => partner.region.clone(),
            _ => self.around.options.region.clone(),
        };
        self.primary.send_if_modified(|known| {
            let changed = *known != primary;
            *known = primary;
            changed
        });
        self.ordered.send_replace(token);
        Ok(())
    }

    fn confirm(&mut self) {
        self.confirmed = true;
        self.hub.serve(true);
    }

    pub(super) async fn act(&mut self, order: &Order) -> Result<(), StepError> {
        match &order.action {
            Action::Create { .. } | Action::Serve => {
                self.take(order.token, Role::Active)?;
                self.confirm();
                self.go_on_alone().await;
                Ok(())
            }
            Action::PrepareTarget { source, .. } => self.follow(order.token, source).await,
            Action::Follow { source, .. } => {
                self.card.promotion = None;
                self.follow(order.token, source).await
            }
            Action::Replicate { target, address, .. } => {
                self.take(order.token, self.card.role)?;
                self.replicate(Partner { region: target.clone(), dial: Some(address.clone()) }).await
            }
            Action::StopReplicating => {
                self.take(order.token, self.card.role)?;
                self.part().await
            }
            Action::Fence { .. } => self.stop_serving(order.token),
            Action::Drain | Action::DropDivergence => self.take(order.token, self.card.role),
            Action::Promote { point } | Action::ChangePoint { point } => {
                self.promote(order.token, point).await
            }
            Action::Commit => {
                self.card.promotion = None;
                self.take(order.token, self.card.role)
            }
            Action::TestFailover { .. } => self.open_drill(order.token).await,
            Action::CleanUp => {
                self.drill = None;
                self.take(order.token, self.card.role)
            }
            Action::MarkPoint { .. } => {
                Err(fatal(order.item.kind.instead_of_named_points().unwrap_or_default()))
            }
            Action::Delete => Err(fatal("a hub is deleted as a whole")),
        }
    }

    async fn follow(&mut self, token: Token, source: &Region) -> Result<(), StepError> {
        let before = self.card.partner.replace(Partner { region: source.clone(), dial: None });
        self.take(token, Role::Target)?;
        self.meet(before).await;
        self.confirm();
        Ok(())
    }

    async fn replicate(&mut self, partner: Partner) -> Result<(), StepError> {
        let before = self.card.partner.replace(partner);
        self.save()?;
        self.meet(before).await;
        Ok(())
    }

    /// A link with the same region stays, whoever called; else there is a new one.
    async fn meet(&mut self, before: Option<Partner>) {
        let now = self.card.partner.clone();
        let same =
            before.as_ref().map(|partner| &partner.region) == now.as_ref().map(|partner| &partner.region);
        match (&self.link, now) {
            (Some(link), Some(partner)) if same => link.dial(partner.dial).await,
            _ => self.connect().await,
        }
    }

    async fn part(&mut self) -> Result<(), StepError> {
        self.card.partner = None;
        self.save()?;
        self.connect().await;
        Ok(())
    }

    /// Clients that are here stay until they are sent home; new ones are told to negotiate again.
    fn stop_serving(&mut self, token: Token) -> Result<(), StepError> {
        self.take(token, Role::Fenced)?;
        // A region that was just started has nobody to send elsewhere. Whoever comes to it waits for what it is told next, instead of
        // beginning anew: it is on its way to follow, and serves those who come then.
        self.confirmed = true;
        match self.hub.is_serving() || self.hub.is_draining() {
            true => self.hub.drain(),
            false => self.hub.serve(false),
        }
        Ok(())
    }

    async fn promote(&mut self, token: Token, point: &PointChoice) -> Result<(), StepError> {
        let offered = look::point(self);
        match point {
            PointChoice::Id(id) if *id != offered.id => {
                return Err(fatal(format!(
                    "there is no point {id}: real-time hubs have one, {}",
                    offered.id
                )));
            }
            _ => {}
        }
        if self.card.role == Role::Active && self.card.promotion.is_some() && self.card.token == token {
            return Ok(());
        }
        self.card.promotion = Some(Promotion {
            source_last_known: offered.watermark,
            source_last_seen: look::last_seen(self),
            at_failover: look::loss(self),
            point: offered,
        });
        self.take(token, Role::Active)?;
        self.confirm();
        self.go_on_alone().await;
        Ok(())
    }

    /// When the other region is lost, its sessions go on here.
    async fn go_on_alone(&self) {
        let Some(link) = &self.link else { return };
        let adopted = link.adopt().await;
        if adopted > 0 {
            tracing::info!(hub = %self.hub.name(), adopted, "sessions of the lost region go on here");
        }
    }

    async fn open_drill(&mut self, token: Token) -> Result<(), StepError> {
        self.take(token, self.card.role)?;
        if self.drill.is_none() {
            let opened = Drill::open(&self.hub, self.around.front.tls.clone(), look::point(self)).await;
            self.drill = Some(opened.map_err(retry)?);
        }
        Ok(())
    }

    /// Makes link and pair anew, as the card says.
    async fn connect(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
        if let Some(link) = self.link.take() {
            link.stop().await;
        }
        self.hub.set_partner(self.card.partner.is_some());
        self.pair = new_pair(&self.card, &self.hub, &self.around, self.primary.subscribe());
        let claims: Arc<dyn crate::connection::Claims> = match self.card.partner.clone() {
            None => Arc::new(Alone),
            Some(partner) => {
                let link = self.link_to(&partner).await;
                self.watch = Some(tokio::spawn(self.watcher(&partner.region, &link)));
                self.link = Some(link.clone());
                Arc::new(LinkClaims::new(link))
            }
        };
        let served = Served { hub: Arc::clone(&self.hub), pair: Some(Arc::clone(&self.pair)), claims };
        self.around.hubs.put(served);
    }

    async fn link_to(&self, partner: &Partner) -> Link {
        let (pair, options) = (Arc::clone(&self.pair), &self.around.options);
        let options = link::Options {
            hub: Arc::clone(&self.hub),
            region: options.region.clone(),
            partner: partner.region.clone(),
            dial: partner.dial.clone(),
            secret: Secret::new(&options.secret),
            tls: options.tls.as_ref().map(|tls| tls.to.clone()),
            fence: Arc::clone(&self.fence),
            partner_is_lost: Arc::new(move || pair.partner_is_lost()),
        };
        Link::spawn(options, self.around.links.lock().await.as_ref())
    }

    /// Says whether the partner is lost, and sends clients home once it is active again.
    fn watcher(&self, partner: &Region, link: &Link) -> impl Future<Output = ()> + Send + 'static {
        let (hub, link, pair) = (Arc::clone(&self.hub), link.clone(), Arc::clone(&self.pair));
        let lost = self.around.lost.get(partner).cloned();
        let (here, primary) = (self.around.options.region.clone(), self.primary.subscribe());
        let (fence, ordered) = (Arc::clone(&self.fence), self.ordered.subscribe());
        let (dir, item) = (self.around.options.dir.clone(), self.card.item.clone());
        let mut kept = self.card.settings.version;
        async move {
            let mut ticks = tokio::time::interval(WATCH_EVERY);
            let mut shedding: Option<Shedding> = None;
            loop {
                ticks.tick().await;
                if let Some(lost) = &lost {
                    let is_lost = !is_up(&link);
                    lost.send_if_modified(|known| std::mem::replace(known, is_lost) != is_lost);
                }
                let settings = hub.settings();
                if settings.version > kept {
                    match Card::save_settings(&dir, &item, &settings) {
                        Ok(()) => kept = settings.version,
                        Err(error) => tracing::warn!(%error, "what the other region has set cannot be kept"),
                    }
                }
                // Whoever is sent here under a token that nobody has told this region of yet is on the way home, not to be sent off.
                let knows = fence.highest() <= *ordered.borrow();
                let passive = settings.sharing == crate::negotiate::Sharing::ActivePassive
                    && *primary.borrow() != here
                    && knows;
                // Clients that came while the primary was away are sent home when it is well and has the word.
                if passive && is_up(&link) && pair.partner_is_healthy() {
                    if shedding.is_none() {
                        tracing::info!(hub = %hub.name(), "the primary is back: its clients are sent home");
                    }
                    shedding.get_or_insert_with(Shedding::begin).step(&hub, DRAIN_BATCH);
                    tokio::time::sleep(DRAIN_EVERY.saturating_sub(WATCH_EVERY)).await;
                }
                if !passive {
                    shedding = None;
                }
            }
        }
    }

    /// Sends up to all clients elsewhere, in batches. Returns how many there are to send.
    pub(super) fn drain(&mut self, per_second: u32) -> usize {
        let hub = Arc::clone(&self.hub);
        let count = hub.counts().attached;
        let every = Duration::from_secs(1) / per_second.max(1);
        let previous = self.drain.replace(tokio::spawn(shed::shed(hub, count, every)));
        if let Some(previous) = previous {
            previous.abort();
        }
        count
    }

    /// Sets what an operator changes; the other region gets it over the link.
    pub(super) fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) -> Result<(), StepError> {
        let mut settings = (*self.hub.settings()).clone();
        change(&mut settings);
        settings.version += 1;
        let before = std::mem::replace(&mut self.card.settings, settings.clone());
        if let Err(error) = self.save() {
            self.card.settings = before;
            return Err(error);
        }
        self.hub.set(settings);
        Ok(())
    }

    /// Ends everything but what is remembered.
    pub(super) async fn stop(mut self) {
        for task in [self.watch.take(), self.drain.take()].into_iter().flatten() {
            task.abort();
        }
        if let Some(link) = self.link.take() {
            link.stop().await;
        }
        self.hub.serve(false);
        self.hub.with(|hub| hub.leave());
    }

    /// Ends everything, with its clients, and forgets it.
    pub(super) async fn delete(self) -> Result<(), StepError> {
        let (dir, item) = (self.around.options.dir.clone(), self.card.item.clone());
        let close =
            Call::Close { who: Scope::All, exclude: Vec::new(), reason: "the hub was deleted".to_owned() };
        let _ = self.hub.ask(close).await;
        self.around.hubs.remove(self.hub.name().as_str());
        self.stop().await;
        Card::remove(&dir, &item).map_err(retry)
    }
}

fn is_up(link: &Link) -> bool {
    !matches!(link.status().state, LinkState::Disconnected { .. })
}

fn new_pair(card: &Card, hub: &Arc<LiveHub>, around: &Around, primary: watch::Receiver<Region>) -> Arc<Pair> {
    let partner = card.partner.as_ref().and_then(|partner| around.options.member(&partner.region));
    Pair::spawn(PairOptions {
        here: around.options.region.clone(),
        hub: Arc::clone(hub),
        own_url: around.url.clone(),
        partner,
        primary,
    })
}

impl Around {
    /// No two items may share a hub's name.
    fn check_free(&self, hub: &HubName) -> Result<(), StepError> {
        match self.hubs.get(hub.as_str()) {
            Some(_) => {
                Err(fatal(format!("another item serves a hub {hub} here: give another name with \"hub\"")))
            }
            None => Ok(()),
        }
    }
}
