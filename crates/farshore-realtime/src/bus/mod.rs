//! The bus: several nodes of one region share its hubs. Each has clients of its own; what is asked of one reaches those of all.
//!
//! Read in this order: `wire` (what is said, and its seal), `peers` (who is there: pure), `nodes` (what a hub asks of the other
//! nodes), `hear` (what they ask here), `cards` and `follow` (a node that serves the hubs of another), then this file.
//!
//! Orders (sends, closes, groups) are done here and then said to all; each node does them to its own clients and says nothing
//! further. What is about one connection that is not here, and what is a question, is asked of all and answered.
//!
//! Must always hold: a word is done once by each node; "no" is said only when every node of the region has said it; the
//! access keys of a hub go over the bus only where nobody else can read it; without the bus each node goes on alone.

mod cards;
mod follow;
mod hear;
mod nodes;
mod peers;
mod wire;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{ConnectOptions, Event, ServerAddr};
use farshore_core::ids::Region;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::handler::Handlers;
use crate::live::LiveHub;
use crate::rest::Hubs;
use follow::Follower;
use hear::{Ear, Subscribed};
use wire::{Direct, Seal, Subjects};

pub(crate) use nodes::Nodes;

pub use follow::Register;

/// The longest pause between two attempts to reach the bus.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The first pause; each one after it is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// A bus that is silent is asked so often whether it is there; two questions without an answer end the connection.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A server that accepts and says nothing.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Words under way inside the client: those that wait are kept here, where they are counted.
const UNDER_WAY_MAX: usize = 64;
/// Words that were received and not yet done.
const RECEIVED_MAX: usize = 8192;
/// Answers about settings that wait for the follower.
const TOLD_MAX: usize = 16;

/// How a node takes part.
#[derive(Clone)]
pub struct BusOptions {
    /// `nats://HOST:4222` or `tls://HOST:4222`; a name and password may stand before the host.
    pub url: String,
    /// The region: only its nodes hear each other.
    pub region: Region,
    /// What all nodes of the cluster know. Words of others are not understood.
    pub secret: String,
    /// Whom to believe on a `tls://` bus; `None`: whom the system believes.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The hubs that are served here.
    pub hubs: Arc<dyn Hubs + Send + Sync>,
}

impl fmt::Debug for BusOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusOptions").field("region", &self.region).finish_non_exhaustive()
    }
}

/// A bus that cannot be used as configured. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Not the address of a bus.
    #[error("[realtime] bus = {url:?} is no bus: {why}; write nats://HOST:4222 or tls://HOST:4222")]
    Url {
        /// What was written, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The client cannot be started.
    #[error("cannot use the bus {url}: {source}")]
    Start {
        /// Which.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Keys would be readable on the way.
    #[error("{0}")]
    Readable(String),
    /// This node follows already.
    #[error("this node follows the hubs of others already: follow once")]
    Following,
}

/// What happened on the bus since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BusStats {
    /// Whether it is there now.
    pub connected: bool,
    /// The other nodes that are there now.
    pub nodes: usize,
    /// Orders and questions that went out.
    pub published: u64,
    /// Orders and questions that came in.
    pub received: u64,
    /// Those that found no place while the bus was away or too slow.
    pub dropped: u64,
    /// Parts of others' words that never came here.
    pub lost: u64,
    /// Parts that came twice.
    pub repeated: u64,
    /// Messages that are not from a node of this cluster.
    pub rubbish: u64,
    /// Questions that a node did not answer in time.
    pub unanswered: u64,
    /// How often the bus was lost.
    pub losses: u64,
}

/// Why another node does not tell its hubs.
#[derive(Debug, Default)]
pub(crate) struct Refusal(Mutex<Option<String>>);

impl Refusal {
    fn set(&self, why: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the client's own news change.
#[derive(Debug, Default)]
struct News {
    losses: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// A node's place on the bus.
pub struct Bus {
    nodes: Arc<Nodes>,
    hubs: Arc<dyn Hubs + Send + Sync>,
    /// Without a password.
    url: String,
    readable: Option<String>,
    refused: Arc<Refusal>,
    news: Arc<News>,
    told: Mutex<Option<mpsc::Receiver<Direct>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Bus {
    /// Takes part from now on; the bus itself may come later.
    ///
    /// # Errors
    /// When the address is none.
    pub async fn spawn(options: BusOptions) -> Result<Arc<Self>, BusError> {
        let BusOptions { url, region, secret, tls, hubs } = options;
        let (address, shown) = parse(&url)?;
        let readable = readable(&address, &shown);
        let (connected, news) = (watch::Sender::new(false), Arc::<News>::default());
        let connect = connect_options(&address, tls, connected.clone(), Arc::clone(&news));
        let failed = |source| BusError::Start { url: shown.clone(), source };
        let client = connect.connect(address).await.map_err(|error| failed(error.into()))?;
        let (nodes, outgoing) = Nodes::new(Subjects::new(region), Seal::new(&secret), client, connected);
        let subscribed = Subscribed::to(&nodes).await.map_err(|error| failed(error.into()))?;
        let (told, telling) = mpsc::channel(TOLD_MAX);
        let ear = Ear {
            nodes: Arc::clone(&nodes),
            hubs: Arc::clone(&hubs),
            secret_because: readable.clone(),
            told,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(ear.listen(subscribed));
        tasks.spawn(Arc::clone(&nodes).publish(outgoing));
        tasks.spawn(be_present(Arc::clone(&nodes), Arc::clone(&hubs)));
        Ok(Arc::new(Self {
            nodes,
            hubs,
            url: shown,
            readable,
            refused: Arc::default(),
            news,
            told: Mutex::new(Some(telling)),
            tasks: Mutex::new(tasks),
        }))
    }

    /// What is asked of the hub from now on reaches the other nodes as well. Hubs that listeners know are attached by
    /// themselves within a second.
    pub fn attach(&self, hub: &LiveHub) {
        hub.attach(&self.nodes);
    }

    /// Serves the hubs that other nodes of the region have, too: each is given to `register` when it is first heard of, and
    /// when its regions change.
    ///
    /// # Errors
    /// When others could read the access keys on this bus, or it was asked for before.
    pub fn follow(&self, handlers: Handlers, register: Register) -> Result<(), BusError> {
        if let Some(why) = &self.readable {
            return Err(BusError::Readable(why.clone()));
        }
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).take();
        let told = told.ok_or(BusError::Following)?;
        let follower = Follower {
            nodes: Arc::clone(&self.nodes),
            hubs: Arc::clone(&self.hubs),
            handlers,
            register,
            followed: Default::default(),
            learned: Default::default(),
            last_card: Instant::now(),
        };
        let task = follower.run(told, Arc::clone(&self.refused));
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
        Ok(())
    }

    /// What happened since the start.
    #[must_use]
    pub fn stats(&self) -> BusStats {
        let counters = &self.nodes.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BusStats {
            connected: self.nodes.is_connected(),
            nodes: self.nodes.peers().present(Instant::now()).len(),
            published: count(&counters.published),
            received: count(&counters.received),
            dropped: count(&counters.dropped),
            lost: count(&counters.lost),
            repeated: count(&counters.repeated),
            rubbish: count(&counters.rubbish),
            unanswered: count(&counters.unanswered),
            losses: count(&self.news.losses),
        }
    }

    /// What an operator should know and can mend; empty: all is well.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let (stats, url) = (self.stats(), &self.url);
        let away = (!stats.connected).then(|| {
            let error = self.news.last_error.lock().unwrap_or_else(PoisonError::into_inner);
            let why = error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
            format!(
                "the bus {url} is away{why}: this node serves its own clients only; start nats-server there, or correct bus \
                 in [realtime]"
            )
        });
        let counted = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
        let refused = self.refused.get();
        [
            away,
            refused,
            counted(stats.dropped, "messages to other nodes were dropped while the bus was away or too slow"),
            counted(stats.lost, "messages of other nodes did not arrive over the bus"),
            counted(stats.rubbish, "messages on the bus are not from nodes of this cluster: guard the bus"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Takes leave of the other nodes and ends.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        if self.nodes.is_connected() {
            self.nodes.announce(0, true).await;
            // A bus that goes at the same moment need not hear it.
            let _ = tokio::time::timeout(CONNECT_DEADLINE, self.nodes.client.flush()).await;
        }
        self.nodes.connected.send_replace(false);
        *self.nodes.peers() = peers::Peers::default();
        let _ = self.nodes.client.drain().await;
    }
}

/// Says each second that this node is there, and at once when the bus comes back.
async fn be_present(nodes: Arc<Nodes>, hubs: Arc<dyn Hubs + Send + Sync>) {
    let mut connected = nodes.connected.subscribe();
    let mut tick = tokio::time::interval(peers::PRESENCE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = connected.changed() => if changed.is_err() { return },
        }
        hubs.every().iter().for_each(|hub| hub.attach(&nodes));
        let is_connected = *connected.borrow_and_update();
        if is_connected {
            nodes.peers().expire(Instant::now());
            nodes.announce(cards::revision(&*hubs, &nodes), false).await;
        } else {
            nodes.peers().lost_touch(Instant::now());
        }
    }
}

/// The address, and how it is shown to people.
fn parse(url: &str) -> Result<(ServerAddr, String), BusError> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let shown = format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host));
    let wrong = |why: String| BusError::Url { url: shown.clone(), why };
    if !matches!(scheme, "nats" | "tls") {
        return Err(wrong("it begins with neither nats:// nor tls://".to_owned()));
    }
    match url.parse::<ServerAddr>() {
        Ok(address) if !address.host().is_empty() => Ok((address, shown)),
        Ok(_) => Err(wrong("it names no host".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Why keys would be readable on the way to this address; `None`: they would not.
fn readable(address: &ServerAddr, shown: &str) -> Option<String> {
    let host = address.host().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    (!address.tls_required() && !is_here).then(|| {
        format!(
            "the hubs' access keys are not told over {shown}, where others could read them: set bus = \"tls://HOST:4222\" in \
             [realtime] on all nodes of the region, or use a bus on this machine"
        )
    })
}

fn connect_options(
    address: &ServerAddr,
    tls: Option<Arc<rustls::ClientConfig>>,
    connected: watch::Sender<bool>,
    news: Arc<News>,
) -> ConnectOptions {
    let mut options = ConnectOptions::new()
        .name("farshore")
        .no_echo()
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(pause)
        .connection_timeout(CONNECT_DEADLINE)
        .ping_interval(PING_EVERY)
        .client_capacity(UNDER_WAY_MAX)
        .subscription_capacity(RECEIVED_MAX)
        .require_tls(address.tls_required())
        .event_callback(move |event| {
            took_news(event, &connected, &news);
            std::future::ready(())
        });
    if !address.tls_required() {
        // What was written is this machine; what its bus knows of may be elsewhere.
        options = options.ignore_discovered_servers();
    }
    if let Some(tls) = tls {
        options = options.tls_client_config((*tls).clone());
    }
    options
}

fn pause(attempts: usize) -> Duration {
    let doubled = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    if attempts <= 1 { Duration::ZERO } else { (PAUSE_MIN * (1 << doubled)).min(PAUSE_MAX) }
}

fn took_news(event: Event, connected: &watch::Sender<bool>, news: &News) {
    match event {
        Event::Connected => {
            connected.send_replace(true);
        }
        Event::Disconnected | Event::Closed => {
            if connected.send_replace(false) {
                news.losses.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("the bus between the nodes of this region is lost: this node goes on alone");
            }
        }
        Event::ServerError(error) => news.failed(error.to_string()),
        Event::ClientError(error) => news.failed(error.to_string()),
        Event::SlowConsumer(_) | Event::LameDuckMode | Event::Draining => {}
    }
}

impl News {
    fn failed(&self, why: String) {
        tracing::debug!(why, "the bus");
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

#[cfg(test)]
mod tests;
