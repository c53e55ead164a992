//! Every order about a hub, and what it does by itself when it may not serve any more.

use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::Duration;

use farshore_core::ids::{Region, Token};
use farshore_core::workload::{Action, Order, PointChoice, Promotion, ReplicationMode, Role, StepError};
use tokio::time::{sleep, timeout};

use super::super::drill::Drill;
use super::super::look;
use super::{Item, fatal, retry};
use crate::fleet::Standing;
use crate::link::Behind;

/// A drain that takes longer is asked for again, and goes on where it was.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// A fenced hub keeps its devices for so long, or until another region serves them. One that is let go of earlier looks for its hub
/// where it was, is refused there, and rests: official SDKs for up to ten seconds.
const KEPT_MAX: Duration = Duration::from_secs(5);
/// From when the other region serves until its name leads there: the directory changes right after.
const NAME_FOLLOWS: Duration = Duration::from_secs(1);
/// Whether it serves is looked at this often.
const SERVED_LOOK_EVERY: Duration = Duration::from_millis(50);
/// Devices that are let go of in a second: what the other region lets in.
const LET_GO_PER_SECOND: NonZeroU32 = NonZeroU32::new(2_000).expect("it is not 0");

impl Item {
    /// Carries out an order. The token is durable before its effect.
    pub(in crate::workload) async fn act(self: &Arc<Self>, order: &Order) -> Result<(), StepError> {
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
            Action::Replicate { target, mode, .. } => self.pair_with(order.token, Some(target), *mode),
            Action::StopReplicating => self.pair_with(order.token, None, ReplicationMode::default()),
            Action::Fence { lost_after } => {
                self.stop_serving(order.token)?;
                self.change(|card| card.lost_after = lost_after.or(card.lost_after))?;
                self.fence().await;
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
            Action::MarkPoint { .. } => {
                Err(fatal(order.item.kind.instead_of_named_points().unwrap_or_default()))
            }
            Action::Delete => Err(fatal("a hub is deleted as a whole")),
        }
    }

    pub(super) fn serve(self: &Arc<Self>, order: &Order) {
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
        self.fleet.follow();
        self.live().confirmed = true;
        self.set_duty();
        self.connect();
        Ok(())
    }

    fn pair_with(
        self: &Arc<Self>,
        token: Token,
        partner: Option<&Region>,
        mode: ReplicationMode,
    ) -> Result<(), StepError> {
        self.change(|card| (card.token, card.partner, card.mode) = (token, partner.cloned(), mode))?;
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

    /// The right to serve was not renewed in time.
    pub(in crate::workload) async fn expired(self: &Arc<Self>, token: Token) -> Result<(), StepError> {
        let _turn = self.turn.lock().await;
        if !self.lease.lapse(token)? {
            return Ok(());
        }
        self.stop_serving(token)?;
        self.fence().await;
        Ok(())
    }

    /// Somebody owns a higher token: whoever serves stops first, and asks afterwards.
    pub(super) async fn heard_of(self: &Arc<Self>, token: Token) -> Result<(), StepError> {
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
        self.fence().await;
        Ok(())
    }

    /// On return nothing is acknowledged any more. Devices stay until there is somewhere to go.
    async fn fence(self: &Arc<Self>) {
        self.fleet.stop_acknowledging().await;
        tokio::spawn(let_go(Arc::downgrade(self)));
    }
}

/// Sends devices away once another region serves. One that came in after the hub was opened again stays.
async fn let_go(item: Weak<Item>) {
    let served = async {
        while let Some(item) = item.upgrade() {
            if item.link().is_some_and(|link| link.status().role == Some(Role::Active)) {
                return;
            }
            drop(item);
            sleep(SERVED_LOOK_EVERY).await;
        }
    };
    if timeout(KEPT_MAX, served).await.is_ok() {
        sleep(NAME_FOLLOWS).await;
    }
    if let Some(item) = item.upgrade() {
        item.fleet.evacuate(Some(LET_GO_PER_SECOND));
    }
}
