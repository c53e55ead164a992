//! Device hubs as a [`farshore_core::workload::Workload`]: where listeners, hubs and links become one thing that the engine can
//! order about.
//!
//! Read in this order: `spec` (what an operator says), `card` (what is remembered), `item` (one hub: every order), `look` (what it
//! tells), `drill` (a copy to try), `runners` (what it does by itself: sinks, members), `questions` (what its operator asks), then this
//! file (all hubs of a region).
//!
//! Must always hold: the card with the new token is durable before the order's effect; a hub that wakes up after a restart
//! serves nobody until it is told to; a hub stops acknowledging before it closes its connections.

mod card;
mod drill;
mod item;
mod look;
mod questions;
mod runners;
mod spec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use farshore_core::ids::{ItemId, Kind, Region, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::{
    Action, BootTime, Endpoint, Leased, Observation, Order, Pull, Role, StepError, Workload,
};
use serde_json::Value;

use crate::front::{Addresses, Fronts, ListenError, Listeners};
use card::Card;
use item::Item;

pub use card::CardError;
pub use spec::HubSpec;

/// How a node serves device hubs.
#[derive(Clone)]
pub struct HubsOptions {
    /// The region it is in.
    pub region: Region,
    /// Where it keeps its hubs.
    pub dir: PathBuf,
    /// Where it listens.
    pub addresses: Addresses,
    /// How these are reached, when not as they are: a host name or address.
    pub host: Option<String>,
    /// Hubs are called `NAME.hub.DOMAIN`.
    pub domain: String,
    /// What devices and back ends are shown.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What they must believe for that (PEM).
    pub ca: Option<String>,
    /// Where import and export jobs may read and write.
    pub exchange: Option<PathBuf>,
    /// The way to the same hubs in other regions.
    pub far: Arc<dyn Pull>,
}

impl fmt::Debug for HubsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubsOptions")
            .field("region", &self.region)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// A node that cannot serve hubs. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A listener's address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What is remembered cannot be read.
    #[error(transparent)]
    Card(#[from] CardError),
    /// A hub cannot be opened.
    #[error("{item}: {why}")]
    Hub {
        /// Which.
        item: ItemId,
        /// Why.
        why: StepError,
    },
}

/// The hubs of a region.
#[derive(Debug)]
pub struct DeviceHubs {
    items: Mutex<BTreeMap<ItemId, Arc<Item>>>,
    /// Hubs are made and removed one after the other.
    making: tokio::sync::Mutex<()>,
    around: Arc<Around>,
    listeners: Mutex<Option<Listeners>>,
}

/// What every hub of the node needs.
#[derive(Debug)]
struct Around {
    options: HubsOptions,
    fronts: Arc<Fronts>,
    far: Arc<dyn Pull>,
    bound: OnceLock<Addresses>,
}

impl Around {
    fn bound(&self) -> Addresses {
        self.bound.get().copied().unwrap_or(self.options.addresses)
    }

    fn dir_of(&self, item: &ItemId) -> PathBuf {
        self.options.dir.join(item.name.as_str())
    }

    /// The hub's own names, and the addresses of the node: who comes by one of these means the hub that is there.
    fn names_of(&self, item: &ItemId, spec: &HubSpec) -> Vec<String> {
        let Addresses { mqtt, https, amqp } = self.bound();
        let mut names = spec.names(item, &self.options.domain);
        names.extend([mqtt, https, amqp].iter().map(|address| address.ip().to_string()));
        names.extend(self.options.host.clone());
        let mut once = std::collections::BTreeSet::new();
        names.retain(|name| once.insert(name.clone()));
        names
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints_at(self.bound())
    }

    fn endpoints_at(&self, at: Addresses) -> Vec<Endpoint> {
        let uri = |scheme: &str, address: SocketAddr| match &self.options.host {
            Some(host) => format!("{scheme}://{host}:{}", address.port()),
            None => format!("{scheme}://{address}"),
        };
        let (mqtt, https, amqp) = match self.options.tls {
            Some(_) => ("mqtts", "https", "amqps"),
            None => ("mqtt", "http", "amqp"),
        };
        [("mqtt", mqtt, at.mqtt), ("https", https, at.https), ("amqp", amqp, at.amqp)]
            .into_iter()
            .map(|(name, scheme, address)| Endpoint { name: name.to_owned(), uri: uri(scheme, address) })
            .collect()
    }
}

impl DeviceHubs {
    /// Listens, and wakes what is remembered: it serves nobody before it was confirmed.
    ///
    /// # Errors
    /// When an address cannot be had or what is remembered cannot be read.
    pub async fn open(options: HubsOptions) -> Result<Arc<Self>, OpenError> {
        let cards = Card::load_all(&options.dir)?;
        let fronts = Arc::<Fronts>::default();
        let listeners =
            Listeners::open(options.addresses, options.tls.clone(), Arc::clone(&fronts), now).await?;
        let far = Arc::clone(&options.far);
        let bound = OnceLock::from(listeners.bound());
        let around = Arc::new(Around { options, fronts, far, bound });
        let mut items = BTreeMap::new();
        for card in cards {
            let item = card.item.clone();
            let woken = Item::wake(card, Arc::clone(&around))
                .map_err(|why| OpenError::Hub { item: item.clone(), why })?;
            items.insert(item, woken);
        }
        Ok(Arc::new(Self {
            items: Mutex::new(items),
            making: tokio::sync::Mutex::default(),
            around,
            listeners: Mutex::new(Some(listeners)),
        }))
    }

    /// Where it listens.
    #[must_use]
    pub fn bound(&self) -> Addresses {
        self.around.bound()
    }

    /// Ends all listeners, links and hubs. What was acknowledged is durable.
    pub async fn stop(&self) {
        let items = std::mem::take(&mut *self.items());
        for item in items.values() {
            item.stop().await;
        }
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listeners) = listeners {
            listeners.stop().await;
        }
    }

    fn items(&self) -> MutexGuard<'_, BTreeMap<ItemId, Arc<Item>>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn item(&self, item: &ItemId) -> Result<Arc<Item>, StepError> {
        self.items().get(item).cloned().ok_or(StepError::Unknown)
    }

    /// Makes a hub, or removes one.
    async fn make(&self, order: &Order) -> Result<(), StepError> {
        let _making = self.making.lock().await;
        let known = self.item(&order.item).ok();
        let around = || Arc::clone(&self.around);
        let made = match (&order.action, known) {
            (Action::Delete, None) => return Ok(()),
            (Action::Delete, Some(item)) => {
                item.admit(order.token)?;
                self.items().remove(&order.item);
                return item.delete().await;
            }
            (_, Some(item)) => return item.act(order).await,
            (Action::Create { spec }, None) => Item::create(order, spec, around()).await?,
            (Action::PrepareTarget { source, shape }, None) => Item::prepare(order, source, shape, around())?,
            (_, None) => return Err(StepError::Unknown),
        };
        self.items().insert(order.item.clone(), made);
        Ok(())
    }
}

#[async_trait]
impl Workload for DeviceHubs {
    fn kind(&self) -> Kind {
        Kind::Hub
    }

    async fn known(&self) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        Ok(self.items().values().map(|item| item.known()).collect())
    }

    async fn observe(&self, item: &ItemId) -> Result<Observation, StepError> {
        Ok(self.item(item)?.look())
    }

    async fn act(&self, order: &Order) -> Result<(), StepError> {
        match &order.action {
            Action::Create { .. } | Action::PrepareTarget { .. } | Action::Delete => self.make(order).await,
            _ => self.item(&order.item)?.act(order).await,
        }
    }

    async fn leased(&self) -> Result<Vec<Leased>, StepError> {
        Ok(self.items().iter().filter_map(|(id, item)| item.lease.leased(id)).collect())
    }

    async fn renewed(&self, item: &ItemId, token: Token, until: BootTime) -> Result<(), StepError> {
        self.item(item)?.lease.renew(token, until)
    }

    async fn expired(&self, item: &ItemId, token: Token) -> Result<(), StepError> {
        self.item(item)?.expired(token).await
    }

    async fn ask(&self, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        questions::ask(&self.item(item)?, question).await
    }

    async fn pulled(&self, item: &ItemId, by: &Region, request: &[u8]) -> Result<Vec<u8>, StepError> {
        let Some(link) = self.item(item)?.link() else {
            return Err(StepError::Retry { what: format!("{item} is shared with nobody here") });
        };
        link.answer(by, request).await
    }
}

/// Now, on `CLOCK_BOOTTIME`: goes on while the host is suspended.
fn boot_time() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    BootTime(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
