//! App services as a [`farshore_core::workload::Workload`]: where processes, gateway, scripts, databases and links become one thing
//! that the engine can order about.
//!
//! Read in this order: `card` (what is remembered), `capacity` (who has room), `item` (one app: every order, and how it comes up),
//! `engines` (databases by their engine), `doors` (what other rooms ask it), `look` (what it tells), `drill` (a copy to try),
//! `operations` (what takes longer) and `questions` (what its operator asks), then this file (all apps of a region).
//!
//! Must always hold: the card with the new token is durable before the order's effect; an app that wakes up after a restart answers
//! nobody until it is told to; what is secret is in files of mode 0600 and in answers to who asks for it, and nowhere else.

mod capacity;
mod card;
mod doors;
mod drill;
mod engines;
mod item;
mod look;
mod operations;
mod questions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use farshore_core::ids::{ItemId, Kind, Name, Region, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::{
    Action, BootTime, Endpoint, Leased, Observation, Order, Pull, Role, StepError, Workload,
};
use futures_util::future::join_all;
use serde_json::Value;

use crate::gateway::{Gateway, GatewayOptions, ListenError};
use crate::host::CgroupRoot;
use crate::spec::git_host;
use capacity::Claim;
use card::Card;
use item::Item;

pub use crate::gateway::Bound;
pub use crate::scripts::Believes;
pub use crate::spec::AppSpec;
pub use card::CardError;

/// How a node serves apps.
#[derive(Clone)]
pub struct AppsOptions {
    /// The region it is in.
    pub region: Region,
    /// Where it keeps its apps.
    pub dir: PathBuf,
    /// Where its gateway listens.
    pub http: SocketAddr,
    /// Where it listens for TLS.
    pub https: Option<SocketAddr>,
    /// How the gateway is reached, when not by the address that it listens at: a host name or address.
    pub host: Option<String>,
    /// Apps are called `NAME.app.DOMAIN`, their scripts are at `NAME.scm.DOMAIN`.
    pub domain: String,
    /// What clients are shown that ask for a name without a certificate of its own.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whom this gateway believes to be another region's; without it requests are sent on within this host only.
    pub trust: Option<Arc<rustls::ClientConfig>>,
    /// What all instances in the region may take together.
    pub capacity_mib: u64,
    /// The way to the same apps in other regions.
    pub far: Arc<dyn Pull>,
    /// Who may push beside those that know an app's deployment key.
    pub tokens: Option<Arc<dyn Believes>>,
}

impl fmt::Debug for AppsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppsOptions")
            .field("region", &self.region)
            .field("http", &self.http)
            .field("https", &self.https)
            .field("capacity_mib", &self.capacity_mib)
            .finish_non_exhaustive()
    }
}

/// A node that cannot serve apps. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An address of its gateway cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What is remembered cannot be read.
    #[error(transparent)]
    Card(#[from] CardError),
    /// An app cannot be opened.
    #[error("{item}: {why}")]
    App {
        /// Which.
        item: ItemId,
        /// Why.
        why: StepError,
    },
}

/// The apps of a region.
#[derive(Debug)]
pub struct Apps {
    /// Apps are made and removed one after the other.
    making: tokio::sync::Mutex<()>,
    around: Arc<Around>,
}

/// What every app of the node needs.
#[derive(Debug)]
struct Around {
    options: AppsOptions,
    gateway: Arc<Gateway>,
    /// Where the instances' limits are kept by the kernel, if it offers that.
    cgroup: Option<CgroupRoot>,
    items: Mutex<BTreeMap<ItemId, Arc<Item>>>,
    /// Held from looking whether there is room for an app, or a name is free, until what it takes is remembered: nobody else takes
    /// the same.
    room: tokio::sync::Mutex<()>,
}

impl Around {
    fn items(&self) -> MutexGuard<'_, BTreeMap<ItemId, Arc<Item>>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn item(&self, item: &ItemId) -> Result<Arc<Item>, StepError> {
        self.items().get(item).cloned().ok_or(StepError::Unknown)
    }

    /// The app of this name.
    fn item_named(&self, name: &Name) -> Result<Arc<Item>, StepError> {
        self.item(&ItemId { kind: Kind::App, name: name.clone() })
    }

    fn dir_of(&self, item: &ItemId) -> PathBuf {
        self.options.dir.join(item.name.as_str())
    }

    /// What every app here says of what it uses up.
    fn claims(&self) -> Vec<Claim> {
        let items: Vec<Arc<Item>> = self.items().values().cloned().collect();
        items.iter().map(|item| item.claim()).collect()
    }

    fn authority(&self, at: SocketAddr) -> String {
        match &self.options.host {
            Some(host) => format!("{host}:{}", at.port()),
            None => at.to_string(),
        }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints_at(self.gateway.bound())
    }

    fn endpoints_at(&self, bound: Bound) -> Vec<Endpoint> {
        let http = Some(("http", bound.http));
        let https = bound.https.map(|at| ("https", at));
        http.into_iter()
            .chain(https)
            .map(|(name, at)| Endpoint {
                name: name.to_owned(),
                uri: format!("{name}://{}", self.authority(at)),
            })
            .collect()
    }

    /// Where clients reach an app by its names.
    fn urls(&self, hosts: &[String]) -> Vec<String> {
        let Bound { http, https } = self.gateway.bound();
        let one = |host: &String| {
            let secure = https.map(|at| url("https", host, at.port(), 443));
            secure.into_iter().chain([url("http", host, http.port(), 80)]).collect::<Vec<_>>()
        };
        hosts.iter().flat_map(one).collect()
    }

    /// Where its scripts are fetched from and pushed to.
    fn git_url(&self, item: &ItemId) -> String {
        let host = git_host(item, &self.options.domain);
        let bound = self.gateway.bound();
        let base = match bound.https {
            Some(at) => url("https", &host, at.port(), 443),
            None => url("http", &host, bound.http.port(), 80),
        };
        format!("{base}/{}.git", item.name)
    }
}

fn url(scheme: &str, host: &str, port: u16, usual: u16) -> String {
    if port == usual { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") }
}

impl Apps {
    /// Listens, and wakes what is remembered: it answers nobody before it was confirmed.
    ///
    /// # Errors
    /// When an address cannot be had or what is remembered cannot be read.
    pub async fn open(options: AppsOptions) -> Result<Arc<Self>, OpenError> {
        let cards = Card::load_all(&options.dir)?;
        let gateway = Gateway::open(GatewayOptions {
            http: options.http,
            https: options.https,
            tls: options.tls.clone(),
            region: options.region.clone(),
        })
        .await?;
        if let Some(trust) = &options.trust {
            gateway.set_trust(Arc::clone(trust));
        }
        let cgroup = match CgroupRoot::prepare() {
            Ok(root) => Some(root),
            Err(why) => {
                tracing::info!(%why, "the memory of apps is watched, and their processor time is not limited");
                None
            }
        };
        let around = Arc::new(Around {
            options,
            gateway,
            cgroup,
            items: Mutex::default(),
            room: tokio::sync::Mutex::default(),
        });
        for card in cards {
            let item = card.item.clone();
            let woken = Item::wake(card, Arc::clone(&around))
                .await
                .map_err(|why| OpenError::App { item: item.clone(), why })?;
            around.items().insert(item, woken);
        }
        Ok(Arc::new(Self { making: tokio::sync::Mutex::default(), around }))
    }

    /// Where its gateway listens.
    #[must_use]
    pub fn bound(&self) -> Bound {
        self.around.gateway.bound()
    }

    /// Ends all instances, databases, links and the gateway. What was acknowledged is durable.
    pub async fn stop(&self) {
        let items = std::mem::take(&mut *self.around.items());
        join_all(items.values().map(|item| item.stop())).await;
        self.around.gateway.stop().await;
    }

    /// Makes an app, or removes one.
    async fn make(&self, order: &Order) -> Result<(), StepError> {
        let _making = self.making.lock().await;
        let known = self.around.item(&order.item).ok();
        let around = || Arc::clone(&self.around);
        let made = match (&order.action, known) {
            (Action::Delete, None) => return Ok(()),
            (Action::Delete, Some(item)) => {
                item.admit(order.token)?;
                self.around.items().remove(&order.item);
                return item.delete().await;
            }
            (_, Some(item)) => return item.act(order).await,
            (Action::Create { spec }, None) => Item::create(order, spec, around()).await?,
            (Action::PrepareTarget { source, shape }, None) => {
                let target = Item::prepare(order, source, shape, around()).await?;
                self.around.items().insert(order.item.clone(), Arc::clone(&target));
                target
            }
            (_, None) => return Err(StepError::Unknown),
        };
        if matches!(order.action, Action::Create { .. }) {
            // That it does not come up is told by observing it; it is tried again.
            let _ = made.serve(order).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Workload for Apps {
    fn kind(&self) -> Kind {
        Kind::App
    }

    async fn known(&self) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        Ok(self.around.items().values().map(|item| item.known()).collect())
    }

    async fn observe(&self, item: &ItemId) -> Result<Observation, StepError> {
        Ok(self.around.item(item)?.look())
    }

    async fn act(&self, order: &Order) -> Result<(), StepError> {
        match &order.action {
            Action::Create { .. } | Action::PrepareTarget { .. } | Action::Delete => self.make(order).await,
            _ => self.around.item(&order.item)?.act(order).await,
        }
    }

    async fn leased(&self) -> Result<Vec<Leased>, StepError> {
        Ok(self.around.items().iter().filter_map(|(id, item)| item.lease.leased(id)).collect())
    }

    async fn renewed(&self, item: &ItemId, token: Token, until: BootTime) -> Result<(), StepError> {
        self.around.item(item)?.lease.renew(token, until)
    }

    async fn expired(&self, item: &ItemId, token: Token) -> Result<(), StepError> {
        self.around.item(item)?.expired(token).await
    }

    async fn ask(&self, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        // Asked before there is an app.
        if question.get("ask").and_then(Value::as_str) == Some("room") {
            return questions::room(&self.around, item, question);
        }
        questions::ask(&self.around.item(item)?, question).await
    }

    async fn pulled(&self, item: &ItemId, by: &Region, request: &[u8]) -> Result<Vec<u8>, StepError> {
        let Some(link) = self.around.item(item)?.link() else {
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
