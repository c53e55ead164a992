//! Real-time hubs as a [`farshore_core::workload::Workload`]: where listeners, hubs, links and pairs become one thing that
//! the engine can order about.
//!
//! Read in this order: `spec` (what an operator says), `card` (what is remembered), `item` (one hub: every order), `shed` (its clients are sent elsewhere), `look` (what it
//! tells), `questions` (what its operator asks), `further` (hubs of another node of the region), then this file (all hubs of a region).
//!
//! Must always hold: the card with the new token is durable before the order's effect; a hub that wakes up after a restart
//! serves nobody until it is told to; keys are told to nobody but the other region and whoever asks for them by name.

mod card;
mod claims;
mod drill;
mod further;
mod item;
mod look;
mod questions;
mod shed;
mod spec;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use farshore_core::ids::{ItemId, Kind, Region, Token};
use farshore_core::workload::{Action, Observation, Order, Role, StepError, Workload};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bus::{Bus, BusError, BusOptions};
use crate::handler::Handlers;
use crate::link::{ClientConfigs, LinkListener, ListenerOptions, ListenerTls, Secret};
use crate::live::LiveHub;
use crate::pair::PairPartner;
use crate::service::{Floating, Front, Hubs, Via, bind};
use card::Card;
use further::Further;
use item::Item;

pub use card::CardError;
pub use spec::HubSpec;

/// How the survivor gets the lost region's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeOver {
    /// Names lead elsewhere: the directory's answer changes.
    Names,
    /// Also by listening on the lost region's own addresses.
    Address,
}

/// Where another region's node listens, as the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartnerAddress {
    /// Its own endpoint.
    pub listen: SocketAddr,
    /// The pair's endpoint there.
    pub pair: SocketAddr,
    /// Its link.
    pub link: SocketAddr,
    /// Base URL of its own endpoint.
    pub url: Option<String>,
    /// Base URL of the pair's endpoint there.
    pub pair_url: Option<String>,
}

/// What the nodes of a cluster prove themselves with, and what clients are shown.
#[derive(Clone)]
pub struct RealtimeTls {
    /// For clients.
    pub clients: Arc<rustls::ServerConfig>,
    /// For the links of other regions.
    pub link_server: ListenerTls,
    /// To call a region's link or endpoint.
    pub to: ClientConfigs,
}

impl fmt::Debug for RealtimeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RealtimeTls")
    }
}

/// How a node serves hubs.
#[derive(Clone)]
pub struct RealtimeOptions {
    /// The region it is in.
    pub region: Region,
    /// Where it keeps its cards.
    pub dir: PathBuf,
    /// Its own endpoint.
    pub listen: SocketAddr,
    /// The pair's endpoint.
    pub pair: SocketAddr,
    /// Its link.
    pub link: SocketAddr,
    /// Base URL of its own endpoint, when that is not what it listens on.
    pub url: Option<String>,
    /// Base URL of the pair's endpoint, when that is not what it listens on.
    pub pair_url: Option<String>,
    /// The other regions.
    pub partners: BTreeMap<Region, PartnerAddress>,
    /// How a lost region's clients are got.
    pub take_over: TakeOver,
    /// What all nodes of the cluster know, where there is no TLS.
    pub secret: String,
    /// TLS on all listeners.
    pub tls: Option<RealtimeTls>,
    /// Where the nodes of this region share their hubs: `nats://…`.
    pub bus: Option<String>,
}

impl fmt::Debug for RealtimeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealtimeOptions")
            .field("region", &self.region)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl RealtimeOptions {
    /// Another region as a member of a pair; `None`: the configuration does not say where it is.
    fn member(&self, region: &Region) -> Option<PairPartner> {
        let known = self.partners.get(region)?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = known.url.clone().unwrap_or_else(|| format!("{scheme}://{}", known.listen));
        let tls = self.tls.as_ref().map(|tls| (tls.to.0)(region));
        Some(PairPartner { region: region.clone(), url, tls })
    }
}

/// A node that cannot serve hubs. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A listener's address cannot be had.
    #[error(
        "cannot listen on {address} for real-time hubs: {source}; set another address for {key} in [realtime]"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The configuration's key.
        key: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// What is remembered cannot be read.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The bus of the region cannot be used.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// The hubs of a region.
#[derive(Debug)]
pub struct Realtime {
    items: tokio::sync::Mutex<BTreeMap<ItemId, Item>>,
    around: Arc<Around>,
    tasks: Mutex<JoinSet<()>>,
    bound: Bound,
}

/// Where a node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Its own endpoint.
    pub listen: SocketAddr,
    /// The pair's endpoint.
    pub pair: SocketAddr,
    /// Its link.
    pub link: SocketAddr,
}

/// What every hub of the node needs.
#[derive(Debug)]
struct Around {
    options: RealtimeOptions,
    hubs: Arc<Hubs>,
    front: Arc<Front>,
    handlers: Handlers,
    /// Until the node stops.
    links: tokio::sync::Mutex<Option<LinkListener>>,
    /// Base URL of this region's own endpoint.
    url: String,
    /// Base URL of the pair's endpoint here.
    pair_url: String,
    /// Which partners are lost, for the listeners in their place.
    lost: BTreeMap<Region, watch::Sender<bool>>,
    /// The other nodes of this region.
    bus: Option<Arc<Bus>>,
}

impl Realtime {
    /// Listens, and wakes what is remembered: it serves nobody before it was confirmed.
    ///
    /// # Errors
    /// When an address cannot be had or a card cannot be read.
    pub async fn open(options: RealtimeOptions) -> Result<Arc<Self>, OpenError> {
        let cards = Card::load_all(&options.dir.clone())?;
        let hubs = Arc::<Hubs>::default();
        let front = Front::new(Arc::clone(&hubs), options.tls.as_ref().map(|tls| Arc::clone(&tls.clients)));
        let listen = |address: SocketAddr, key| async move {
            bind(address).await.map_err(|source| OpenError::Listen { address, key, source })
        };
        let mut tasks = JoinSet::new();
        let (own, pair) = match options.take_over {
            TakeOver::Names => {
                (Some(listen(options.listen, "listen").await?), Some(listen(options.pair, "pair").await?))
            }
            // The survivor may still be listening here.
            TakeOver::Address => (bind(options.listen).await.ok(), bind(options.pair).await.ok()),
        };
        let links = ListenerOptions {
            listen: options.link,
            secret: Secret::new(&options.secret),
            tls: options.tls.as_ref().map(|tls| tls.link_server.clone()),
        };
        let links = LinkListener::bind(links).await.map_err(|source| OpenError::Listen {
            address: options.link,
            key: "link",
            source,
        })?;
        let at = |listener: &Option<tokio::net::TcpListener>, wished: SocketAddr| {
            listener.as_ref().and_then(|listener| listener.local_addr().ok()).unwrap_or(wished)
        };
        let bound = Bound {
            listen: at(&own, options.listen),
            pair: at(&pair, options.pair),
            link: links.local_addr(),
        };
        let scheme = front.scheme();
        let url = options.url.clone().unwrap_or_else(|| format!("{scheme}://{}", bound.listen));
        let pair_url = options.pair_url.clone().unwrap_or_else(|| format!("{scheme}://{}", bound.pair));
        let _ = front.urls.set([url.clone(), pair_url.clone()]);
        let _ = front.stays.set(stays(&options, &url, &pair_url));
        for (listener, address, via) in [(own, bound.listen, Via::Region), (pair, bound.pair, Via::Pair)] {
            tasks.spawn(serve_own(Arc::clone(&front), listener, address, via));
        }
        tasks.spawn(sweep(Arc::clone(&hubs)));
        let lost =
            options.partners.keys().map(|region| (region.clone(), watch::Sender::new(false))).collect();
        let links = tokio::sync::Mutex::new(Some(links));
        let bus = open_bus(&options, &hubs, &url, cards.is_empty()).await?;
        let handlers = Handlers::new();
        let around = Arc::new(Around { options, hubs, front, handlers, links, url, pair_url, lost, bus });
        around.listen_for_partners(&mut tasks);
        let mut items = BTreeMap::new();
        for card in cards {
            items.insert(card.item.clone(), Item::wake(card, Arc::clone(&around)).await);
        }
        let items = tokio::sync::Mutex::new(items);
        Ok(Arc::new(Self { items, around, tasks: Mutex::new(tasks), bound }))
    }

    /// Where it listens.
    #[must_use]
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// The hubs that are served here.
    #[must_use]
    pub fn hubs(&self) -> Arc<Hubs> {
        Arc::clone(&self.around.hubs)
    }

    /// Ends all listeners, links and hubs. Clients are told to come again, here or elsewhere.
    pub async fn stop(&self) {
        self.around.front.stop();
        for (_, item) in std::mem::take(&mut *self.items.lock().await) {
            item.stop().await;
        }
        if let Some(links) = self.around.links.lock().await.take() {
            links.stop().await;
        }
        if let Some(bus) = &self.around.bus {
            bus.stop().await;
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

impl Around {
    fn listen_for_partners(&self, tasks: &mut JoinSet<()>) {
        if self.options.take_over != TakeOver::Address {
            return;
        }
        for (region, partner) in &self.options.partners {
            let Some(lost) = self.lost.get(region) else { continue };
            let floating = Floating { addresses: [(partner.listen, Via::Region), (partner.pair, Via::Pair)] };
            tasks.spawn(floating.run(Arc::clone(&self.front), lost.subscribe()));
        }
    }
}

/// Between two looks for clients that are silent, or away for too long.
const SWEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

async fn sweep(hubs: Arc<Hubs>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        hubs.all().iter().for_each(LiveHub::sweep);
    }
}

/// The base URLs that lead to this node whichever region is active: its own, and the pair's where each region has its own.
fn stays(options: &RealtimeOptions, url: &str, pair_url: &str) -> Vec<String> {
    let shared = options.partners.values().any(|partner| partner.pair_url.as_deref() == Some(pair_url));
    let pair = (!shared).then(|| pair_url.to_owned());
    std::iter::once(url.to_owned()).chain(pair).collect()
}

/// The way to the other nodes of the region. A node without hubs of its own serves those of the others.
async fn open_bus(
    options: &RealtimeOptions,
    hubs: &Arc<Hubs>,
    own_url: &str,
    has_none: bool,
) -> Result<Option<Arc<Bus>>, OpenError> {
    let Some(url) = options.bus.clone() else { return Ok(None) };
    let bus = Bus::spawn(BusOptions {
        url,
        region: options.region.clone(),
        secret: options.secret.clone(),
        // The authorities that the system believes: a bus has no certificate of the cluster.
        tls: None,
        hubs: Arc::clone(hubs) as Arc<_>,
    });
    let bus = bus.await?;
    if has_none {
        let further = Further::new(options.clone(), Arc::clone(hubs), own_url);
        let register = Arc::new(move |hub, course| further.put(hub, course));
        if let Err(error) = bus.follow(Handlers::new(), register) {
            tracing::warn!(%error, "hubs of other nodes of this region are not served here");
        }
    }
    Ok(Some(bus))
}

/// Serves one of the node's own addresses, as soon as it can be had.
async fn serve_own(
    front: Arc<Front>,
    listener: Option<tokio::net::TcpListener>,
    address: SocketAddr,
    via: Via,
) {
    let (_never, until) = watch::channel(false);
    let mut stop = front.stopped();
    let mut listener = listener;
    while listener.is_none() {
        let over = tokio::time::timeout(OWN_AGAIN_AFTER, stop.wait_for(|stop| *stop)).await.is_ok();
        if over {
            return;
        }
        listener = bind(address).await.ok();
    }
    if let Some(listener) = listener {
        front.listen(listener, via, until).await;
    }
}

/// Between two attempts to listen on an own address that the survivor still holds.
const OWN_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_millis(100);

#[async_trait]
impl Workload for Realtime {
    fn kind(&self) -> Kind {
        Kind::Realtime
    }

    async fn known(&self) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        Ok(self.items.lock().await.values().map(Item::known).collect())
    }

    async fn observe(&self, item: &ItemId) -> Result<Observation, StepError> {
        self.items.lock().await.get(item).map(Item::look).ok_or(StepError::Unknown)
    }

    async fn act(&self, order: &Order) -> Result<(), StepError> {
        let mut items = self.items.lock().await;
        if !items.contains_key(&order.item) {
            let made = match &order.action {
                Action::Create { spec } => Item::create(order, spec, Arc::clone(&self.around)).await?,
                Action::PrepareTarget { source, shape } => {
                    Item::prepare(order, source, shape, Arc::clone(&self.around)).await?
                }
                // It may have broken off before the card was gone.
                Action::Delete => {
                    let removed = Card::remove(&self.around.options.dir, &order.item);
                    return removed.map_err(|error| StepError::Retry { what: error.to_string() });
                }
                _ => return Err(StepError::Unknown),
            };
            items.insert(order.item.clone(), made);
            return Ok(());
        }
        let Some(item) = items.get_mut(&order.item) else { return Err(StepError::Unknown) };
        item.admit(order.token)?;
        if matches!(order.action, Action::Delete) {
            if let Some(item) = items.remove(&order.item) {
                item.delete().await?;
            }
            return Ok(());
        }
        item.act(order).await
    }

    async fn ask(&self, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        let hub = self.items.lock().await.get(item).map(|item| Arc::clone(&item.hub));
        let warnings = questions::look_at_handlers(&*hub.ok_or(StepError::Unknown)?, question).await;
        let mut items = self.items.lock().await;
        let mut answer = items.get_mut(item).ok_or(StepError::Unknown)?.ask(question)?;
        if !warnings.is_empty() {
            answer["warnings"] = warnings.into();
        }
        Ok(answer)
    }
}
