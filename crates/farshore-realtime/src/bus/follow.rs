//! Hubs that another node of the region has: served here, too, while it says that they are served.
//!
//! Must always hold: a hub that is this node's own is never replaced; a followed hub serves nobody when the node that has
//! it has been silent for [`CARDLESS_MAX`] on a bus that works.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::nodes::Nodes;
use super::peers::PRESENCE_EVERY;
use super::wire::{Direct, HubCard, NodeId};
use crate::handler::Handlers;
use crate::live::{LiveHub, Settings};
use crate::names::HubName;
use crate::negotiate::Course;
use crate::rest::Hubs;

/// A restart of the node that has the hubs is waited for so long. After that their clients are sent to other nodes: the
/// other region serves them by then, and what is sent there does not come here.
pub(super) const CARDLESS_MAX: Duration = Duration::from_secs(15);

/// Puts a hub before the listeners, with the regions that it is in; again when these are others.
pub type Register = Arc<dyn Fn(Arc<LiveHub>, Option<Course>) + Send + Sync>;

/// The one who follows.
pub(super) struct Follower {
    pub(super) nodes: Arc<Nodes>,
    pub(super) hubs: Arc<dyn Hubs + Send + Sync>,
    pub(super) handlers: Handlers,
    pub(super) register: Register,
    pub(super) followed: HashMap<HubName, Followed>,
    /// What was told, and by whom.
    pub(super) learned: HashMap<NodeId, u64>,
    /// When a node with hubs was last there; the start counts as well.
    pub(super) last_card: Instant,
}

/// A hub that another node has.
pub(super) struct Followed {
    hub: Arc<LiveHub>,
    from: NodeId,
    course: Option<Course>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

impl Follower {
    pub(super) async fn run(mut self, mut told: mpsc::Receiver<Direct>, refused: Arc<super::Refusal>) {
        let mut tick = tokio::time::interval(PRESENCE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let nodes = Arc::clone(&self.nodes);
        loop {
            tokio::select! {
                _ = tick.tick() => self.tick(),
                () = nodes.heard.notified() => {}
                direct = told.recv() => match direct {
                    Some(Direct::Cards { from, revision, cards }) => {
                        refused.clear();
                        self.take(from, revision, cards);
                    }
                    Some(Direct::Refused { why, .. }) => refused.set(why),
                    Some(_) => {}
                    None => return,
                },
            }
            self.ask().await;
        }
    }

    /// Asks those whose hubs have changed, or are not known yet.
    async fn ask(&self) {
        let with_cards = self.nodes.peers().with_cards(Instant::now());
        for (node, revision) in with_cards {
            if self.learned.get(&node) != Some(&revision) {
                self.nodes.tell(node, &Direct::WantsCards { from: self.nodes.own }).await;
            }
        }
    }

    fn tick(&mut self) {
        for followed in self.followed.values() {
            followed.hub.sweep();
        }
        let now = Instant::now();
        let present = self.nodes.peers().with_cards(now);
        self.learned.retain(|node, _| present.iter().any(|(other, _)| other == node));
        if !present.is_empty() || !self.nodes.is_connected() {
            // Without the bus nobody can say that the hubs are not served: they are, for those who are here.
            self.last_card = now;
        }
        if now.duration_since(self.last_card) > CARDLESS_MAX {
            self.followed.values().for_each(|followed| follow(&followed.hub, false));
        }
        self.let_own_go();
    }

    /// A hub of that name has become this node's own.
    fn let_own_go(&mut self) {
        let hubs = &self.hubs;
        let is_own = |name: &HubName, followed: &Followed| {
            hubs.named(name.as_str()).is_some_and(|hub| !Arc::ptr_eq(&hub, &followed.hub))
        };
        let own: Vec<_> = self
            .followed
            .iter()
            .filter(|(name, followed)| is_own(name, followed))
            .map(|(name, _)| name.clone())
            .collect();
        for name in own {
            self.nodes.followed().remove(&name);
            if let Some(followed) = self.followed.remove(&name) {
                follow(&followed.hub, false);
            }
        }
    }

    fn take(&mut self, from: NodeId, revision: u64, cards: Vec<HubCard>) {
        self.learned.insert(from, revision);
        let mut named = Vec::new();
        for HubCard { settings, serving, course } in cards {
            match serde_json::from_str::<Settings>(&settings) {
                Ok(settings) => {
                    named.push(settings.hub.clone());
                    self.take_one(from, settings, serving, course);
                }
                Err(error) => {
                    tracing::warn!(%error, "a hub of another node is not understood: run the same version on all nodes");
                }
            }
        }
        for (name, followed) in &mut self.followed {
            if followed.from == from && !named.contains(name) {
                follow(&followed.hub, false);
            }
        }
    }

    fn take_one(&mut self, from: NodeId, settings: Settings, serving: bool, course: Option<Course>) {
        let name = settings.hub.clone();
        if let Some(followed) = self.followed.get_mut(&name)
            && settings.version >= followed.hub.settings().version
        {
            followed.from = from;
            followed.hub.set(settings);
            if followed.course != course {
                followed.course.clone_from(&course);
                (self.register)(Arc::clone(&followed.hub), course);
            }
            return follow(&followed.hub, serving);
        }
        // An older version than the known one: the hub was deleted and made anew.
        let old = self.followed.remove(&name);
        if old.is_none() && self.hubs.named(name.as_str()).is_some() {
            return;
        }
        if let Some(old) = old {
            follow(&old.hub, false);
        }
        let hub = LiveHub::new(settings, self.handlers.clone(), false);
        hub.attach(&self.nodes);
        hub.serve(serving);
        self.nodes.followed().insert(name.clone());
        (self.register)(Arc::clone(&hub), course.clone());
        self.followed.insert(name, Followed { hub, from, course });
    }
}

/// Serves, or sends the clients elsewhere.
fn follow(hub: &Arc<LiveHub>, serving: bool) {
    let served = hub.is_serving();
    hub.serve(serving);
    if served && !serving {
        hub.send_away();
    }
}
