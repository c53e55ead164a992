//! One hub of the region: its card, what is alive of it, its link; and every order about it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_core::ids::{Epoch, ItemId, Region, Token};
use farshore_core::lease::Lease;
use farshore_core::workload::{Action, Observation, Order, PointChoice, Promotion, Role, StepError};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use super::card::Card;
use super::drill::Drill;
use super::spec::HubSpec;
use super::{Around, look};
use crate::fleet::{Fleet, FleetOptions, Standing};
use crate::front::Served;
use crate::link::{Behind, Duties, Duty, Link, LinkOptions};

/// Between two looks of a hub's own watch: whether it is whole, and how far its source is.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// How far the source is, is kept this often: a target that starts when its source is gone can still say what it lacks.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// Retention is looked at this often.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// A drain that takes longer is asked for again, and goes on where it was.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// One hub of the region.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) around: Arc<Around>,
    pub(super) fleet: Fleet,
    pub(super) lease: Arc<Lease>,
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
        fleet.stand_by();
        let role = if card.role == Role::Active { Role::Unconfirmed } else { card.role };
        let duties = Arc::new(Duties::new(Duty { token: card.token, role }));
        let lease = Arc::new(Lease::new(Arc::new(super::boot_time)));
        lease.raise(card.token);
        around.fronts.put(Served::new(&fleet, names, around.options.exchange.clone()));
        let item = Arc::new(Self {
            around,
            fleet,
            lease,
            duties,
            card: Mutex::new(card),
            live: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        });
        item.live().watch = Some(tokio::spawn(watch(Arc::downgrade(&item))));
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

    /// Carries out an order. The token is durable before its effect.
    pub(super) async fn act(self: &Arc<Self>, order: &Order) -> Result<(), StepError> {
        let _turn = self.turn.lock().await;
        self.admit(order.token)?;
        match &order.action {
            Action::Create { .. } | Action::Serve => {
                self.change(|card| {
                    (card.token, card.role, card.epoch) = (order.token, Role::Active, order.token.epoch);
                    (card.lost_after, card.lease) = (None, order.lease);
                })?;
                self.serve(order);
                Ok(())
            }
            Action::PrepareTarget { source, .. } | Action::Follow { source, .. } => {
                self.follow(order.token, source).await
            }
            Action::Replicate { target, .. } => self.pair_with(order.token, Some(target)),
            Action::StopReplicating => self.pair_with(order.token, None),
            Action::Fence { lost_after } => {
                self.stop_serving(order.token)?;
                self.change(|card| card.lost_after = lost_after.or(card.lost_after))?;
                self.fleet.fence().await;
                Ok(())
            }
            Action::Drain => self.drain(order.token).await,
            Action::Promote { point } => self.promote(order, point).await,
            Action::ChangePoint { point } => self.check_point(point),
            Action::Commit => self.change(|card| (card.token, card.promotion) = (order.token, None)),
            Action::DropDivergence => self.change(|card| (card.token, card.lost_after) = (order.token, None)),
            Action::TestFailover { point } => self.open_drill(point).await,
            Action::CleanUp => {
                let drill = self.live().drill.take();
                match drill {
                    Some(drill) => drill.close().await.map_err(retry),
                    None => Ok(()),
                }
            }
            Action::MarkPoint { .. } => Err(fatal(
                "device hubs have one point, what has arrived: to keep a state of its identities run farshore hub export",
            )),
            Action::Delete => Err(fatal("a hub is deleted as a whole")),
        }
    }

    fn serve(self: &Arc<Self>, order: &Order) {
        self.lease.begin(order.token, order.lease);
        let lease = order.lease.is_some().then(|| Arc::clone(&self.lease));
        self.fleet.acknowledge_while(lease.map(|lease| Arc::new(move || lease.is_valid()) as Arc<_>));
        self.live().confirmed = true;
        self.set_duty();
        self.fleet.open_to_devices(order.token.epoch, self.standing());
        self.connect();
    }

    fn standing(&self) -> Standing {
        if self.card().is_whole { Standing::Current } else { Standing::Behind }
    }

    async fn follow(self: &Arc<Self>, token: Token, source: &Region) -> Result<(), StepError> {
        self.lease.end();
        self.fleet.stop_acknowledging().await;
        let own = self.fleet.registry().own();
        self.change(|card| {
            let again = card.role == Role::Target && card.partner.as_ref() == Some(source);
            if !again {
                card.before = own;
            }
            (card.token, card.role) = (token, Role::Target);
            (card.promotion, card.lost_after, card.lease) = (None, None, None);
            card.partner = Some(source.clone());
        })?;
        self.fleet.stand_by();
        self.live().confirmed = true;
        self.set_duty();
        self.connect();
        Ok(())
    }

    fn pair_with(self: &Arc<Self>, token: Token, partner: Option<&Region>) -> Result<(), StepError> {
        self.change(|card| (card.token, card.partner) = (token, partner.cloned()))?;
        self.set_duty();
        self.connect();
        Ok(())
    }

    /// From here on nothing is acknowledged; what was, is durable.
    fn stop_serving(&self, token: Token) -> Result<(), StepError> {
        self.lease.end();
        self.change(|card| (card.token, card.role, card.lease) = (token, Role::Fenced, None))?;
        self.live().confirmed = true;
        self.set_duty();
        Ok(())
    }

    async fn drain(&self, token: Token) -> Result<(), StepError> {
        self.change(|card| card.token = token)?;
        let Some(link) = self.link() else {
            return Err(fatal("it has no other region: protect it first"));
        };
        link.drained(DRAIN_MAX).await.map_err(|behind: Behind| {
            retry(format!(
                "the other region still lacks {} changes and {} events ({} bytes): it is waited for",
                behind.changes, behind.events, behind.bytes
            ))
        })
    }

    fn check_point(&self, point: &PointChoice) -> Result<(), StepError> {
        match point {
            PointChoice::Id(id) if id != look::POINT => {
                Err(fatal(format!("there is no point {id}: device hubs have one, {}", look::POINT)))
            }
            _ => Ok(()),
        }
    }

    async fn promote(self: &Arc<Self>, order: &Order, point: &PointChoice) -> Result<(), StepError> {
        self.check_point(point)?;
        let again = {
            let card = self.card();
            card.role == Role::Active && card.promotion.is_some() && card.token == order.token
        };
        if !again {
            let link = self.link();
            let status = link.as_ref().map(|link| link.status()).unwrap_or_default();
            // A source that was fenced first, and told everything, cannot have more.
            let is_whole = status.is_up
                && status.role == Some(Role::Fenced)
                && link.as_ref().is_some_and(|link| link.is_complete());
            let promotion = Promotion {
                point: look::point(self),
                source_last_known: look::source_watermark(self),
                source_last_seen: look::source_last_seen(self),
                at_failover: look::loss(self, is_whole),
            };
            self.change(|card| {
                (card.token, card.role, card.epoch) = (order.token, Role::Active, order.token.epoch);
                (card.promotion, card.is_whole, card.lease) = (Some(promotion), is_whole, order.lease);
                card.lost_after = None;
            })?;
        }
        self.serve(order);
        Ok(())
    }

    async fn open_drill(self: &Arc<Self>, point: &PointChoice) -> Result<(), StepError> {
        self.check_point(point)?;
        if self.live().drill.is_none() {
            let opened = Drill::open(self).await.map_err(retry)?;
            self.live().drill = Some(opened);
        }
        Ok(())
    }

    /// Makes the link anew, as the card says.
    fn connect(self: &Arc<Self>) {
        let (partner, before, epoch, item) = {
            let card = self.card();
            (card.partner.clone(), card.before, card.epoch, card.item.clone())
        };
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
            }))
        });
        self.live().link = link;
    }

    /// The right to serve was not renewed in time.
    pub(super) async fn expired(&self, token: Token) -> Result<(), StepError> {
        let _turn = self.turn.lock().await;
        if !self.lease.lapse(token)? {
            return Ok(());
        }
        self.stop_serving(token)?;
        self.fleet.fence().await;
        Ok(())
    }

    /// Somebody owns a higher token: whoever serves stops first, and asks afterwards.
    async fn heard_of(&self, token: Token) -> Result<(), StepError> {
        let _turn = self.turn.lock().await;
        let (role, known) = {
            let card = self.card();
            (card.role, card.token)
        };
        if token <= known || role != Role::Active {
            return Ok(());
        }
        tracing::warn!(hub = self.fleet.name(), %token, "another region owns a higher token: this one stops serving");
        self.fleet.stop_acknowledging().await;
        self.stop_serving(token)?;
        self.fleet.fence().await;
        Ok(())
    }

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

/// Fences the hub when a higher token is heard of, keeps what is to be kept, and forgets what is old.
async fn watch(item: std::sync::Weak<Item>) {
    let Some(strong) = item.upgrade() else { return };
    let mut tokens = strong.duties.watch();
    drop(strong);
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
    async fn tidy(&self) {
        let (telemetry, registry) = (self.fleet.telemetry(), self.fleet.registry());
        if let Err(error) = telemetry.tidy(super::now()).await {
            tracing::warn!(hub = self.fleet.name(), %error, "old telemetry stays");
        }
        if let Err(error) = registry.purge_tombstones(&registry.stable()).await {
            tracing::warn!(hub = self.fleet.name(), %error, "tombstones stay");
        }
    }
}
