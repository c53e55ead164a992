//! Every order about an app.

use std::sync::Arc;

use farshore_core::ids::{Region, Token};
use farshore_core::workload::{Action, Order, ReplicationMode, Role, StepError};

use super::{Item, fatal};

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
                self.follow(order.token, source)
            }
            Action::Replicate { target, mode, .. } => self.pair_with(order.token, Some(target), *mode),
            Action::StopReplicating => self.pair_with(order.token, None, ReplicationMode::default()),
            Action::Fence { lost_after } => {
                self.stop_serving(order.token)?;
                self.change(|card| card.lost_after = lost_after.or(card.lost_after))
            }
            Action::Commit => self.change(|card| (card.token, card.promotion) = (order.token, None)),
            Action::DropDivergence => self.change(|card| (card.token, card.lost_after) = (order.token, None)),
            Action::MarkPoint { .. } => {
                Err(fatal("the points of an app are backups of its database: run farshore app backup now"))
            }
            Action::Delete => Err(fatal("an app is deleted as a whole")),
            other => Err(fatal(format!("{other:?} is not known here"))),
        }
    }

    pub(super) fn serve(self: &Arc<Self>, order: &Order) {
        self.lease.begin(order.token, order.lease);
        self.live().confirmed = true;
    }

    fn follow(self: &Arc<Self>, token: Token, source: &Region) -> Result<(), StepError> {
        self.lease.end();
        self.change(|card| {
            (card.token, card.role) = (token, Role::Target);
            (card.promotion, card.lost_after, card.lease) = (None, None, None);
            card.partner = Some(source.clone());
        })?;
        self.live().confirmed = true;
        Ok(())
    }

    fn pair_with(
        self: &Arc<Self>,
        token: Token,
        partner: Option<&Region>,
        mode: ReplicationMode,
    ) -> Result<(), StepError> {
        self.change(|card| (card.token, card.partner, card.mode) = (token, partner.cloned(), mode))
    }

    /// From here on nothing is answered; what was, is durable.
    fn stop_serving(&self, token: Token) -> Result<(), StepError> {
        self.lease.end();
        self.change(|card| (card.token, card.role, card.lease) = (token, Role::Fenced, None))?;
        self.live().confirmed = true;
        Ok(())
    }

    /// The right to serve was not renewed in time.
    pub(in crate::workload) async fn expired(self: &Arc<Self>, token: Token) -> Result<(), StepError> {
        let _turn = self.turn.lock().await;
        if !self.lease.lapse(token)? {
            return Ok(());
        }
        self.stop_serving(token)
    }
}
