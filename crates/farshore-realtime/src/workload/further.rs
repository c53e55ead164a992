//! Hubs that another node of this region has, before the listeners of this one: with the same pair of regions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use farshore_core::ids::Region;
use tokio::sync::watch;

use super::RealtimeOptions;
use crate::live::LiveHub;
use crate::names::HubName;
use crate::negotiate::Course;
use crate::pair::{Pair, PairOptions};
use crate::service::{Alone, Hubs, Served};

/// The hubs that this node follows.
#[derive(Debug)]
pub(super) struct Further {
    options: RealtimeOptions,
    hubs: Arc<Hubs>,
    own_url: String,
    known: Mutex<HashMap<HubName, Known>>,
}

/// What a hub's pair was made of.
#[derive(Debug)]
struct Known {
    hub: Arc<LiveHub>,
    partner: Option<Region>,
    primary: watch::Sender<Region>,
}

impl Further {
    pub(super) fn new(options: RealtimeOptions, hubs: Arc<Hubs>, own_url: &str) -> Self {
        Self { options, hubs, own_url: own_url.to_owned(), known: Mutex::default() }
    }

    /// Serves the hub. What goes through the pair's endpoint here reaches the regions of `course`.
    pub(super) fn put(&self, hub: Arc<LiveHub>, course: Option<Course>) {
        let Some(Course { partner, primary }) = course else {
            return self.hubs.put(Served { hub, pair: None, claims: Arc::new(Alone) });
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(hub.name())
            && Arc::ptr_eq(&known.hub, &hub)
            && known.partner == partner
        {
            known.primary.send_replace(primary);
            return;
        }
        let (primary, following) = watch::channel(primary);
        let pair = self.pair(&hub, partner.as_ref(), following);
        self.hubs.put(Served { hub: Arc::clone(&hub), pair: Some(pair), claims: Arc::new(Alone) });
        known.insert(hub.name().clone(), Known { hub, partner, primary });
    }

    fn pair(
        &self,
        hub: &Arc<LiveHub>,
        partner: Option<&Region>,
        primary: watch::Receiver<Region>,
    ) -> Arc<Pair> {
        let member = partner.and_then(|region| self.options.member(region));
        if let (Some(partner), None) = (partner, &member) {
            tracing::warn!(
                hub = %hub.name(), %partner,
                "[[regions]] does not say where the other region serves this hub: what is sent to the pair's endpoint of this \
                 node reaches this region only; list it with realtime = {{ listen, pair, link }}"
            );
        }
        Pair::spawn(PairOptions {
            here: self.options.region.clone(),
            hub: Arc::clone(hub),
            own_url: self.own_url.clone(),
            partner: member,
            primary,
        })
    }
}
