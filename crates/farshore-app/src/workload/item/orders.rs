//! Every order about an app.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::{Region, Token};
use farshore_core::workload::{
    Action, Order, PointChoice, Promotion, ReplicationMode, Role, StepError, Watermark,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::card::Restore;
use super::super::drill::Drill;
use super::super::{capacity, look};
use super::raise::GRACE;
use super::{Item, Matter, fatal, retry};
use crate::host;

/// A drain that takes longer is asked for again, and goes on where it was.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Whoever orders an app to serve waits so long for its answer; what takes longer goes on, and observing it tells the end.
const RAISE_MAX: Duration = Duration::from_secs(15);
/// Requests that are under way when an app is fenced are finished within this, or cut off.
const FINISH_MAX: Duration = Duration::from_millis(1500);
/// Processes that were killed are gone well within this; nothing of what they did counts any more in any case.
const GONE_MAX: Duration = Duration::from_secs(5);

impl Item {
    /// Carries out an order. The token is durable before its effect.
    pub(in crate::workload) async fn act(self: &Arc<Self>, order: &Order) -> Result<(), StepError> {
        let _turn = self.turn.lock().await;
        self.admit(order.token)?;
        match &order.action {
            Action::Create { .. } | Action::Serve => self.begin(order).await,
            // Nobody says what the source has of it: all of it is kept.
            Action::PrepareTarget { source, .. } => {
                self.follow(order.token, source, Watermark::default()).await
            }
            Action::Follow { source, diverged_after } => {
                self.follow(order.token, source, *diverged_after).await
            }
            Action::Replicate { target, mode, .. } => self.pair_with(order.token, Some(target), *mode),
            Action::StopReplicating => self.pair_with(order.token, None, ReplicationMode::default()),
            Action::Fence { lost_after } => self.fenced(order.token, *lost_after).await,
            Action::Drain => self.drain(order.token).await,
            Action::Promote { point } => self.promote(order, point).await,
            Action::ChangePoint { point } => self.change_point(order.token, point).await,
            Action::Commit => self.commit(order.token).await,
            Action::DropDivergence => self.drop_divergence(order.token).await,
            Action::TestFailover { point } => self.open_drill(point).await,
            Action::CleanUp => {
                let drill = self.parts().drill.take();
                match drill {
                    Some(drill) => drill.close().await.map_err(retry),
                    None => Ok(()),
                }
            }
            Action::MarkPoint { .. } => {
                Err(fatal(order.item.kind.instead_of_named_points().unwrap_or_default()))
            }
            Action::Delete => Err(fatal("an app is deleted as a whole")),
        }
    }

    /// Serves what is here under the order's token.
    async fn begin(self: &Arc<Self>, order: &Order) -> Result<(), StepError> {
        let is_copy = {
            let card = self.card();
            card.database.is_none() && card.restore.is_none() && !card.is_new
        };
        let is_copy = is_copy && self.stock.engine().is_some();
        let into = format!("{}-e{}", self.stock.charter().database, order.token.epoch);
        self.change(|card| {
            (card.token, card.role, card.epoch) = (order.token, Role::Active, order.token.epoch);
            (card.lost_after, card.lost, card.lease) = (None, None, order.lease);
            if is_copy {
                // It stood by until now: what has arrived is what there is.
                card.restore = Some(Restore { backup: None, into });
            }
        })?;
        // That it does not come up is told by observing it; it is tried again.
        let _ = self.serve(order).await;
        let me = Arc::clone(self);
        tokio::spawn(async move { me.catch_up().await });
        Ok(())
    }

    /// Has the right to serve, and comes up with it. Returns when it has, cannot, or takes too long; then it goes on.
    pub(in crate::workload) async fn serve(self: &Arc<Self>, order: &Order) -> Result<(), String> {
        self.lease.begin(order.token, order.lease);
        {
            let mut parts = self.parts();
            parts.confirmed = true;
            if parts.active.as_ref().is_none_or(CancellationToken::is_cancelled) {
                parts.active = Some(CancellationToken::new());
            }
        }
        self.scripts().reopen();
        self.connect();
        self.publish();
        let me = Arc::clone(self);
        let raised = tokio::spawn(async move { me.raise().await });
        match timeout(RAISE_MAX, raised).await {
            Ok(raised) => raised.map_err(|error| error.to_string())?,
            Err(_) => Ok(()),
        }
    }

    fn pair_with(
        &self,
        token: Token,
        partner: Option<&Region>,
        mode: ReplicationMode,
    ) -> Result<(), StepError> {
        self.change(|card| (card.token, card.partner, card.mode) = (token, partner.cloned(), mode))?;
        self.connect();
        self.look_at_gate();
        self.publish();
        Ok(())
    }

    /// From here on nothing is answered. The card says so first.
    fn stop_serving(&self, token: Token) -> Result<(), StepError> {
        self.lease.end();
        self.change(|card| (card.token, card.role, card.lease) = (token, Role::Fenced, None))?;
        {
            let mut parts = self.parts();
            parts.confirmed = true;
            if let Some(active) = parts.active.take() {
                active.cancel();
            }
        }
        self.set_duty();
        self.publish();
        Ok(())
    }

    /// Its instances are ended, whatever becomes of pushes under way; its database stays open, because the other region may still
    /// lack something of it.
    async fn quiet(&self) {
        let pushes = self.scripts();
        tokio::join!(
            pushes.close("this region does not serve the app any more: push again in a moment"),
            self.end_serving(),
        );
    }

    async fn end_serving(&self) {
        self.site().drained(FINISH_MAX).await;
        let _work = self.work.lock().await;
        self.end_instances(GRACE).await;
        // What was being brought up, or replaced, when the right was taken away is being ended by nobody who is waited for.
        if timeout(GONE_MAX, host::gone(&self.dir().join("log"))).await.is_err() {
            tracing::warn!(app = %self.id, "processes of the app do not end");
        }
    }

    async fn fenced(&self, token: Token, lost_after: Option<Watermark>) -> Result<(), StepError> {
        let was = self.card().role;
        if was == Role::Target && lost_after.is_some() {
            return Err(fatal(format!("{} follows here already: there is nothing to stop", self.id)));
        }
        self.stop_serving(token)?;
        self.quiet().await;
        if was == Role::Target {
            self.close_database().await;
            return Ok(());
        }
        if let Some(after) = lost_after {
            self.change(|card| card.lost_after = Some(after))?;
            self.close_database().await;
            // Whoever hears that it is done takes a loss that is not told for none.
            self.count_lost(after).await?;
        } else if was != Role::Fenced {
            // It is told as a warning, and tried again when it is to be drained.
            drop(self.open_to_ship().await);
        }
        Ok(())
    }

    async fn drain(&self, token: Token) -> Result<(), StepError> {
        self.change(|card| card.token = token)?;
        self.open_to_ship().await.map_err(retry)?;
        let Some(link) = self.link() else {
            return Err(fatal("it has no other region: protect it first"));
        };
        link.drained(DRAIN_MAX).await.map_err(|lacks| retry(format!("{lacks}: it is waited for")))
    }

    async fn follow(
        self: &Arc<Self>,
        token: Token,
        source: &Region,
        after: Watermark,
    ) -> Result<(), StepError> {
        self.lease.end();
        let (was, has_own) = {
            let card = self.card();
            (card.role, card.database.is_some())
        };
        if was != Role::Target || has_own {
            // It follows only when what it alone has is kept: until then whoever looks sees that the order is to be given again, and
            // nothing of the other region's takes the place of anything here.
            self.stop_serving(token)?;
            self.change(|card| card.lost_after = Some(after))?;
            self.quiet().await;
            self.set_aside(after).await?;
        }
        self.change(|card| {
            (card.token, card.role) = (token, Role::Target);
            (card.promotion, card.lease, card.restore) = (None, None, None);
            card.partner = Some(source.clone());
        })?;
        {
            let mut parts = self.parts();
            parts.confirmed = true;
            if let Some(active) = parts.active.take() {
                active.cancel();
            }
        }
        self.set_duty();
        self.publish();
        self.stand_by().await?;
        self.connect();
        self.publish();
        Ok(())
    }

    async fn promote(self: &Arc<Self>, order: &Order, point: &PointChoice) -> Result<(), StepError> {
        let again = {
            let card = self.card();
            card.role == Role::Active && card.promotion.is_some() && card.token == order.token
        };
        if !again {
            self.turn_active(order, point).await?;
        }
        match self.serve(order).await {
            // The region does its part. Whose database is gone needs another one, and can be given it only when this is over.
            Err(_) if self.noted(Matter::Away).is_some() => Ok(()),
            served => served.map_err(fatal),
        }
    }

    /// Decides what is brought back onto whose capacity, and remembers it.
    async fn turn_active(&self, order: &Order, point: &PointChoice) -> Result<(), StepError> {
        let _room = self.around.room.lock().await;
        let backup = self.chosen(point)?;
        let (spec, name) = (self.stock.charter().spec.clone(), &self.id.name);
        if !self.stock.charter().is_known() {
            return Err(fatal(format!(
                "nothing of {} has arrived here: there is nothing to bring back",
                self.id
            )));
        }
        let claims = self.around.claims();
        let room = capacity::room_for(&claims, name, &spec, self.around.options.capacity_mib)
            .map_err(|no_room| fatal(no_room.to_string()))?;
        let has_rows = self.stock.engine().is_some();
        let is_whole = self.stock.replica().is_some_and(|replica| replica.is_whole());
        if has_rows && backup.is_none() && !is_whole {
            return Err(fatal(format!(
                "the database of {} has not arrived here as a whole: choose a backup with --point, or mend its source",
                self.id
            )));
        }
        let promotion = self.promotion(point)?;
        // What comes from now on is too late.
        drop(self.parts().link.take());
        let into = format!("{}-e{}", self.stock.charter().database, order.token.epoch);
        self.change(|card| {
            (card.token, card.role, card.epoch) = (order.token, Role::Active, order.token.epoch);
            (card.promotion, card.lease, card.lost_after) = (Some(promotion), order.lease, None);
            card.mode = ReplicationMode::Async;
            card.restore = has_rows.then_some(Restore { backup, into });
        })?;
        if let Some(reserve) = room.of
            && let Ok(reserve) = self.around.item_named(reserve)
        {
            let lent = reserve.charter_changes(|charter| charter.lent_to = Some(name.clone()));
            // One that was stopped meanwhile uses nothing up.
            if reserve.card().role == Role::Active {
                lent?;
            }
        }
        self.charter_changes(|charter| {
            (charter.spec.mode, charter.spec.instances) = (room.mode, room.instances);
        })?;
        let fewer = (room.instances < spec.instances).then(|| {
            format!(
                "{} runs {} of {} instances: its reserve has room for no more; run farshore app scale when there is",
                self.id, room.instances, spec.instances
            )
        });
        self.note(Matter::Capacity, fewer);
        Ok(())
    }

    fn promotion(&self, point: &PointChoice) -> Result<Promotion, StepError> {
        Ok(Promotion {
            point: look::point_of(self, point).map_err(fatal)?,
            source_last_known: look::source_watermark(self),
            source_last_seen: look::source_last_seen(self),
            at_failover: look::loss(self),
        })
    }

    /// The backup that is meant; `None`: what has arrived.
    fn chosen(&self, point: &PointChoice) -> Result<Option<String>, StepError> {
        let point = look::point_of(self, point).map_err(fatal)?;
        Ok((point.id != look::POINT).then_some(point.id))
    }

    async fn change_point(self: &Arc<Self>, token: Token, point: &PointChoice) -> Result<(), StepError> {
        if self.card().promotion.is_none() {
            return Err(fatal("another point can be chosen after a failover, before it is committed"));
        }
        let backup = self.chosen(point)?;
        let chosen = look::point_of(self, point).map_err(fatal)?;
        if self.stock.engine().is_none() {
            return Err(fatal(format!("{} has no database that is kept here: there are no points", self.id)));
        }
        let same = self.card().promotion.as_ref().is_some_and(|promotion| promotion.point.id == chosen.id);
        if same {
            return Ok(());
        }
        {
            let _work = self.work.lock().await;
            self.publish_recovering("another recovery point is being opened");
            self.end_instances(GRACE).await;
            self.close_database().await;
            let into = self.free_database(&format!("{}-e{}", self.stock.charter().database, token.epoch));
            // In the same turn: whoever is next opens what the card says.
            self.change(|card| {
                card.token = token;
                card.kept.extend(card.database.take());
                card.restore = Some(Restore { backup, into });
                if let Some(promotion) = &mut card.promotion {
                    promotion.point = chosen;
                }
            })?;
        }
        self.raise().await.map_err(fatal)
    }

    async fn commit(&self, token: Token) -> Result<(), StepError> {
        if self.card().restore.is_some() {
            return Err(retry("its database is still being brought back: commit when it serves"));
        }
        let kept = self.card().kept.clone();
        self.change(|card| (card.token, card.promotion) = (token, None))?;
        for database in kept {
            self.remove_database(&database).await?;
            self.change(|card| card.kept.retain(|known| *known != database))?;
        }
        self.remove_replica().await
    }

    async fn drop_divergence(&self, token: Token) -> Result<(), StepError> {
        self.remove_divergent().await?;
        self.change(|card| (card.token, card.lost_after, card.lost) = (token, None, None))
    }

    async fn open_drill(self: &Arc<Self>, point: &PointChoice) -> Result<(), StepError> {
        let backup = self.chosen(point)?;
        let point = look::point_of(self, point).map_err(fatal)?;
        if self.parts().drill.is_none() {
            let opened = Drill::open(self, point, backup).await.map_err(fatal)?;
            self.parts().drill = Some(opened);
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
        self.quiet().await;
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
        tracing::warn!(app = %self.id, %token, "another region owns a higher token: this one stops serving");
        self.stop_serving(token)?;
        self.quiet().await;
        Ok(())
    }
}
