//! The hubs that a node has of its own, as others are told of them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::nodes::Nodes;
use super::wire::{Direct, HubCard};
use crate::live::LiveHub;
use crate::rest::Hubs;

/// The hubs that are this node's own, by name.
fn own(hubs: &dyn Hubs, nodes: &Nodes) -> Vec<Arc<LiveHub>> {
    let followed = nodes.followed();
    let mut own: Vec<_> = hubs.every().into_iter().filter(|hub| !followed.contains(hub.name())).collect();
    own.sort_by(|one, other| one.name().cmp(other.name()));
    own
}

/// Another number whenever something about them has changed; 0: there are none.
pub(super) fn revision(hubs: &dyn Hubs, nodes: &Nodes) -> u64 {
    let own = own(hubs, nodes);
    if own.is_empty() {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    for hub in own {
        (hub.name().as_str(), hub.settings().version, hub.is_serving(), hubs.course(hub.name()))
            .hash(&mut hasher);
    }
    hasher.finish().max(1)
}

/// Everything about them.
pub(super) fn told(hubs: &dyn Hubs, nodes: &Nodes) -> Direct {
    let card = |hub: Arc<LiveHub>| {
        let settings = serde_json::to_string(&*hub.settings()).ok()?;
        Some(HubCard { settings, serving: hub.is_serving(), course: hubs.course(hub.name()) })
    };
    let revision = revision(hubs, nodes);
    let cards = own(hubs, nodes).into_iter().filter_map(card).collect();
    Direct::Cards { from: nodes.own, revision, cards }
}
