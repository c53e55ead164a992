//! An app as the gateway knows it: how it is called, who serves it now, who may come in.
//!
//! Must always hold: a request is counted as under way before it looks where to go, so that after a change of state
//! [`Site::drained`] waits for everybody who still saw the state before.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use farshore_core::ids::Region;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use subtle::ConstantTimeEq;
use tokio::sync::{Notify, watch};

use super::body::GatewayBody;
use super::headers::wants_upgrade;
use super::live::{Live, Who};

/// What carries the application key.
pub const APPLICATION_KEY: &str = "x-zumo-application";

/// What carries the master key.
pub const MASTER_KEY: &str = "x-zumo-master";

/// The availability probe: anonymous, always, as long as it is one.
pub const STATUS: &str = "/status";

/// Asked after the instance answered and before the answer goes on, and again about what comes later of it: is what it did
/// safe (synchronous replication), may this region still speak (lease)?
#[async_trait]
pub trait Pass: Send + Sync + Debug {
    /// There is nothing to wait for.
    fn free(&self) -> bool;
    /// Returns when the answer may go on.
    ///
    /// # Errors
    /// Why it may not.
    async fn wait(&self) -> Result<(), String>;
}

/// Where a request comes from, among its extensions: the client, or the gateway that sent it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameFrom(pub IpAddr);

/// Serves the hosts under which an app's scripts are fetched and pushed.
#[async_trait]
pub trait Scripts: Send + Sync + Debug {
    /// Answers one request, which has a [`CameFrom`].
    async fn call(&self, request: Request<Incoming>) -> Response<GatewayBody>;
}

/// Who serves an app now.
#[derive(Debug, Clone)]
pub enum SiteState {
    /// This region does.
    Here {
        /// Instances that answer now.
        instances: Arc<[SocketAddr]>,
        /// Asked before an answer goes on.
        pass: Option<Arc<dyn Pass>>,
    },
    /// Another region does.
    There {
        /// Which.
        region: Region,
        /// Its gateway, `address:port`, without TLS: only used on loopback, and where there is no other way.
        http: Option<String>,
        /// Its gateway, `host:port`, with TLS.
        https: Option<String>,
    },
    /// Nobody for the moment.
    Recovering {
        /// What is going on, for the client to read.
        why: String,
        /// When to come again.
        retry_after: Duration,
    },
    /// This region does, and nothing is deployed yet: the gateway answers by itself.
    Empty,
}

/// Who may come in.
#[derive(Clone, Default)]
pub struct KeyRule {
    /// Only with a key.
    pub required: bool,
    /// The application key; empty: there is none.
    pub application: String,
    /// The master key; empty: there is none.
    pub master: String,
}

impl Debug for KeyRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRule").field("required", &self.required).finish_non_exhaustive()
    }
}

impl KeyRule {
    /// This request may come in. What a browser asks before it sends a key has none and changes nothing.
    #[must_use]
    pub fn admits(&self, method: &Method, path: &str, headers: &HeaderMap) -> bool {
        if !self.required {
            return true;
        }
        let preflight = method == Method::OPTIONS && headers.contains_key("access-control-request-method");
        let is_anonymous = is_probe(method, path) || preflight;
        // Behind an upgrade anything can be said, wherever it was asked for.
        (is_anonymous && !wants_upgrade(headers))
            || is_key(headers, APPLICATION_KEY, &self.application)
            || is_key(headers, MASTER_KEY, &self.master)
    }
}

/// `GET /status`, as its head alone, too.
pub(super) fn is_probe(method: &Method, path: &str) -> bool {
    path == STATUS && (method == Method::GET || method == Method::HEAD)
}

fn is_key(headers: &HeaderMap, name: &str, key: &str) -> bool {
    let shown = headers.get(name);
    shown.is_some_and(|shown| !key.is_empty() && bool::from(shown.as_bytes().ct_eq(key.as_bytes())))
}

/// What a site has done since it was made. Cheap to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Requests that came in.
    pub requests: u64,
    /// Answers with a status of 500 and above, the gateway's own and the instances'.
    pub errors: u64,
    /// Requests whose answer has not gone out to its end.
    pub under_way: u64,
    /// Connections that speak another protocol since an upgrade (WebSocket).
    pub tunnels: u64,
    /// Bytes of bodies and tunnels, in both directions.
    pub bytes: u64,
}

/// Counts changes of who serves, of all sites in this process. A connection that was opened at a count below a site's
/// is asked to connect again.
static TURNS: AtomicU64 = AtomicU64::new(0);

/// The count now.
pub(super) fn turns() -> u64 {
    TURNS.load(Ordering::Acquire)
}

/// An app.
#[derive(Debug)]
pub struct Site {
    name: String,
    hosts: Vec<String>,
    git_hosts: Vec<String>,
    git: Arc<dyn Scripts>,
    live: ArcSwap<Live>,
    keys: ArcSwap<KeyRule>,
    /// States before, which requests may still see. Held while the state is changed.
    retired: Mutex<Vec<Arc<Live>>>,
    /// The count of turns at the last of this site's.
    turned: watch::Sender<u64>,
    turned_at: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    tunnels: AtomicU64,
    bytes: AtomicU64,
    /// The last request that saw an earlier state has been answered.
    quiet: Notify,
}

impl Site {
    /// An app called so, answering for these host names; nothing is deployed. Names are compared without case.
    #[must_use]
    pub fn new(name: &str, hosts: Vec<String>, git_hosts: Vec<String>, git: Arc<dyn Scripts>) -> Arc<Self> {
        let lower = |names: Vec<String>| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Arc::new(Self {
            name: name.to_owned(),
            hosts: lower(hosts),
            git_hosts: lower(git_hosts),
            git,
            live: ArcSwap::from_pointee(Live::new(Who::Empty)),
            keys: ArcSwap::default(),
            retired: Mutex::default(),
            turned: watch::Sender::new(0),
            turned_at: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            tunnels: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            quiet: Notify::new(),
        })
    }

    /// How the app is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Requests that come from now on go there; those under way are finished where they are. When somebody else serves
    /// than before, clients are asked to connect again, and tunnels end after a grace.
    pub fn set(&self, state: SiteState) {
        let mut retired = self.retired();
        let before = self.live.load_full();
        let who = Who::new(state, &before.who);
        let is_turn = before.who.is_turn(&who);
        self.live.store(Arc::new(Live::new(who)));
        before.retire();
        // Either a request sees this state in its place, or whoever waits sees the request: `enter` is the other half.
        fence(Ordering::SeqCst);
        retired.retain(|live| live.under_way() > 0);
        retired.push(before);
        if is_turn {
            self.turn();
        }
    }

    /// It is not served under this name any more: tunnels end after a grace.
    pub(super) fn retire(&self) {
        self.turn();
    }

    fn turn(&self) {
        let turn = TURNS.fetch_add(1, Ordering::AcqRel) + 1;
        self.turned_at.store(turn, Ordering::Release);
        self.turned.send_replace(turn);
    }

    /// Requests that come from now on need these keys.
    pub fn set_keys(&self, keys: KeyRule) {
        self.keys.store(Arc::new(keys));
    }

    /// What it has done.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            under_way: u64::try_from(self.under_way()).unwrap_or(u64::MAX),
            tunnels: self.tunnels.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// Returns when every request that saw a state before this one has been answered, at most after `within`; and whether
    /// that is so. Requests that came since are not waited for.
    pub async fn drained(&self, within: Duration) -> bool {
        let before = self.retired().clone();
        let none = async {
            loop {
                let told = self.quiet.notified();
                if before.iter().all(|live| live.under_way() == 0) {
                    return;
                }
                told.await;
            }
        };
        tokio::time::timeout(within, none).await.is_ok()
    }

    fn under_way(&self) -> usize {
        // In this order: a state that is retired in between is counted twice, and none is left out.
        let now = self.live.load().under_way();
        now + self.retired().iter().map(|live| live.under_way()).sum::<usize>()
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Arc<Live>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = (&str, bool)> {
        let apps = self.hosts.iter().map(|host| (host.as_str(), false));
        apps.chain(self.git_hosts.iter().map(|host| (host.as_str(), true)))
    }

    pub(super) fn git(&self) -> &Arc<dyn Scripts> {
        &self.git
    }

    /// The state now, with one more request under way in it.
    fn enter(&self) -> Arc<Live> {
        loop {
            let live = self.live.load_full();
            live.enter();
            fence(Ordering::SeqCst);
            if Arc::ptr_eq(&live, &self.live.load()) {
                return live;
            }
            self.exit(&live);
        }
    }

    fn exit(&self, live: &Live) {
        if live.exit() {
            self.quiet.notify_waiters();
        }
    }

    pub(super) fn keys(&self) -> arc_swap::Guard<Arc<KeyRule>> {
        self.keys.load()
    }

    /// Somebody else serves than when a connection was opened at this count.
    pub(super) fn has_turned_since(&self, opened: u64) -> bool {
        self.turned_at.load(Ordering::Acquire) > opened
    }

    /// Tells of each turn from now on.
    pub(super) fn turns(&self) -> watch::Receiver<u64> {
        self.turned.subscribe()
    }

    pub(super) fn sweep(&self) {
        self.retired().retain(|live| live.under_way() > 0);
        self.live.load().who.upstreams().iter().for_each(|upstream| upstream.sweep());
    }

    pub(super) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A request under way, counted until dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    site: Arc<Site>,
    live: Arc<Live>,
}

impl UnderWay {
    pub(super) fn start(site: Arc<Site>) -> Self {
        site.requests.fetch_add(1, Ordering::Relaxed);
        let live = site.enter();
        Self { site, live }
    }

    pub(super) fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// The state that this request sees.
    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Sees the state now; and whether that is another one.
    pub(super) fn renew(&mut self) -> bool {
        let now = self.site.enter();
        let before = std::mem::replace(&mut self.live, now);
        self.site.exit(&before);
        !Arc::ptr_eq(&self.live, &before)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.site.exit(&self.live);
    }
}

/// An open tunnel, counted until dropped.
#[derive(Debug)]
pub(super) struct OpenTunnel(Arc<Site>);

impl OpenTunnel {
    pub(super) fn start(site: Arc<Site>) -> Self {
        site.tunnels.fetch_add(1, Ordering::Relaxed);
        Self(site)
    }

    pub(super) fn site(&self) -> &Arc<Site> {
        &self.0
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}
