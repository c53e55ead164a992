//! What event handlers are told without anybody waiting for them.

use std::sync::Arc;

use futures_util::StreamExt as _;

use super::LiveHub;
use crate::handler::{self, EventContext, SystemEvent};
use crate::hub::{Ended, Membership, PROBE_STATE};

/// Of one change, as many handlers are told at once: a call may put all connections into groups.
const TOLD_AT_ONCE: usize = 32;

impl LiveHub {
    /// Tells the handlers that sessions have ended, without waiting for them.
    pub(crate) fn tell_ended(self: &Arc<Self>, ended: &[Ended]) {
        let settings = self.settings();
        for ended in ended {
            let is_probe = ended.state.as_deref() == Some(PROBE_STATE);
            if settings.handlers.is_empty() || is_probe {
                self.handlers.forget(&ended.connection);
                continue;
            }
            let (hub, ended, settings) = (Arc::clone(self), ended.clone(), Arc::clone(&settings));
            tokio::spawn(async move {
                let context = EventContext {
                    hub: hub.name(),
                    connection: &ended.connection,
                    user: ended.user.as_ref(),
                    subprotocol: ended.protocol.subprotocol(),
                    keys: &settings.keys,
                    origin: hub.origin(),
                    state: ended.state.as_deref(),
                    event_id: ended.event_id,
                };
                hub.handlers.disconnected(&settings.handlers, &context, &ended.reason).await;
            });
        }
    }

    /// Tells the handlers who has come into groups and gone. What was not told when an event must be over is not told.
    pub(super) fn tell_memberships(&self, memberships: Vec<Membership>) {
        if memberships.is_empty() {
            return;
        }
        let (handlers, settings) = (self.handlers.clone(), self.settings());
        let (name, origin) = (self.name.clone(), self.origin().to_owned());
        tokio::spawn(async move {
            let (handlers, settings, name, origin) = (&handlers, &settings, &name, &origin);
            let tell = |membership: Membership| async move {
                let context = EventContext {
                    hub: name,
                    connection: &membership.connection,
                    user: membership.user.as_ref(),
                    subprotocol: membership.protocol.subprotocol(),
                    keys: &settings.keys,
                    origin,
                    state: membership.state.as_deref(),
                    event_id: membership.event_id,
                };
                let event = if membership.begins { SystemEvent::Joined } else { SystemEvent::Left };
                handlers.group_changed(&settings.handlers, &context, event, &membership.group).await;
            };
            let all = futures_util::stream::iter(memberships).for_each_concurrent(TOLD_AT_ONCE, tell);
            if tokio::time::timeout(handler::DEADLINE, all).await.is_err() {
                tracing::warn!(hub = %name, "an event handler is too slow to be told of all groups");
            }
        });
    }
}
