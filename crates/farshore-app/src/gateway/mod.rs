//! The gateway of a region: every request to an app comes in here and is answered by whoever serves the app now.
//!
//! By the host name a request is for, it goes to an instance of the app in this region, to the gateway of the region
//! that serves the app, or is refused with words that say when to come again. Clients keep a name and notice a pause.
//!
//! Read in this order: [`site`] (an app as the gateway knows it, and what may change), `live` (who serves it), `table` (who is called how),
//! `serve` (from a request to its answer), `forward` (to an instance or to another gateway), `headers` (what goes on and
//! what does not), `upstream` (kept connections), `tunnel` (after an upgrade), `body`, `held` (what waits until it is safe), `problem` (own answers),
//! `certificates` (by the name that the client asks for), `listen` and `client` (accepting, end), `limits`.
//!
//! Must always hold: a request is forwarded between gateways at most once; nothing is sent to an instance twice that may
//! have changed something; whoever was connected before the app moved is asked to connect again with its next answer;
//! no client holds a connection for longer than the limits say; keys are compared in constant time and never logged.

mod body;
mod certificates;
mod client;
mod forward;
mod headers;
mod held;
mod limits;
mod listen;
mod live;
mod problem;
mod serve;
pub mod site;
mod table;
mod tunnel;
mod upstream;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use farshore_core::ids::Region;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use body::{BodyError, GatewayBody};
pub use certificates::CertificateError;
pub use limits::GatewayLimits;
pub use problem::problem;
pub use site::{CameFrom, Figures, KeyRule, Pass, Scripts, Site, SiteState};

use certificates::Certificates;
use listen::Listening;
use table::Table;

/// How often connections to instances that nobody uses are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Where a gateway listens, and for which region.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// Without TLS: HTTP/1.1, and HTTP/2 for clients that know it is spoken here.
    pub http: SocketAddr,
    /// With TLS, if there is to be any.
    pub https: Option<SocketAddr>,
    /// Shows the certificate for names without one of their own. `None`: only names with their own certificate are served by TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whose gateway it is.
    pub region: Region,
}

/// Where a gateway listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Without TLS.
    pub http: SocketAddr,
    /// With TLS.
    pub https: Option<SocketAddr>,
}

/// A gateway cannot listen.
#[derive(Debug, thiserror::Error)]
#[error(
    "the gateway cannot listen at {address} for {what}: {source}; end what listens there, or give the gateway another address"
)]
pub struct ListenError {
    /// "http" or "https".
    pub what: &'static str,
    /// Where it was to listen.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// What all connections of a gateway share.
#[derive(Debug)]
struct Shared {
    region: Region,
    limits: GatewayLimits,
    table: ArcSwap<Table>,
    /// Whom to believe when another gateway is called by TLS.
    trust: ArcSwapOption<rustls::ClientConfig>,
    /// Nothing new is accepted, and connections are asked to finish.
    stopping: CancellationToken,
    /// Whatever still runs ends now.
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// A running gateway. Dropping it ends it without grace.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    certificates: Arc<Certificates>,
    bound: Bound,
    /// Held while the table is changed.
    changing: Mutex<()>,
}

impl Gateway {
    /// Listens; on return connections are accepted, and every host is unknown.
    ///
    /// # Errors
    /// An address cannot be listened at.
    pub async fn open(options: GatewayOptions) -> Result<Arc<Self>, ListenError> {
        Self::open_within(options, GatewayLimits::default()).await
    }

    /// The same, within other limits than the usual ones.
    ///
    /// # Errors
    /// An address cannot be listened at.
    pub async fn open_within(
        options: GatewayOptions,
        limits: GatewayLimits,
    ) -> Result<Arc<Self>, ListenError> {
        let http = bind("http", options.http).await?;
        let https = match options.https {
            Some(address) => Some(bind("https", address).await?),
            None => None,
        };
        let certificates = Arc::new(Certificates::new(options.tls.as_deref()));
        let bound = Bound { http: http.address, https: https.as_ref().map(|https: &Bind| https.address) };
        let shared = Arc::new(Shared {
            region: options.region,
            limits,
            table: ArcSwap::default(),
            trust: ArcSwapOption::empty(),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let listening = Listening::new(Arc::clone(&shared));
        shared.tasks.spawn(listening.clone().accept(http.listener, None));
        if let Some(https) = https {
            let tls = Arc::clone(&certificates).tls(options.tls.as_deref());
            shared.tasks.spawn(listening.accept(https.listener, Some(tls)));
        }
        shared.tasks.spawn(sweep(Arc::clone(&shared)));
        Ok(Arc::new(Self { shared, certificates, bound, changing: Mutex::default() }))
    }

    /// Where it listens.
    #[must_use]
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Serves this app from now on, in place of an earlier one of the same name. Changes nothing when a host is taken.
    ///
    /// # Errors
    /// Which host another app has, and which app.
    pub fn put(&self, site: Arc<Site>) -> Result<(), String> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.shared.table.load_full();
        let table = before.with(Arc::clone(&site))?;
        self.shared.table.store(Arc::new(table));
        if let Some(replaced) = before.site(site.name()).filter(|replaced| !Arc::ptr_eq(replaced, &site)) {
            replaced.retire();
        }
        Ok(())
    }

    /// Whether the app of this name could have these hosts now.
    ///
    /// # Errors
    /// Which of them another app has, and which app.
    pub fn check(&self, name: &str, hosts: &[String]) -> Result<(), String> {
        let table = self.shared.table.load();
        hosts.iter().try_for_each(|host| table.check(host, name))
    }

    /// Forgets the app of this name; its hosts are unknown. Requests under way are finished, tunnels end after a grace.
    pub fn remove(&self, name: &str) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.shared.table.load_full();
        self.shared.table.store(Arc::new(before.without(name)));
        if let Some(removed) = before.site(name) {
            removed.retire();
        }
    }

    /// Shows this certificate to whoever asks for `host`, from the next handshake on.
    ///
    /// # Errors
    /// It cannot be used for this host; the one before, if any, goes on being shown.
    pub fn set_certificate(
        &self,
        host: &str,
        chain_pem: &str,
        key_pem: &str,
    ) -> Result<(), CertificateError> {
        self.certificates.set(host, chain_pem, key_pem)
    }

    /// Shows the default certificate to whoever asks for `host`.
    pub fn remove_certificate(&self, host: &str) {
        self.certificates.remove(host);
    }

    /// Other gateways are called by TLS, and believed by these rules. Without it only those are called that have none and
    /// listen on this host.
    pub fn set_trust(&self, trust: Arc<rustls::ClientConfig>) {
        self.shared.trust.store(Some(trust));
    }

    /// Ends it: nothing new is accepted, requests under way get their grace. On return all its connections are closed.
    pub async fn stop(&self) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(self.shared.limits.stop, self.shared.tasks.wait()).await.is_err() {
            self.shared.cut.cancel();
            self.shared.tasks.wait().await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.stopping.cancel();
        self.shared.cut.cancel();
    }
}

struct Bind {
    listener: TcpListener,
    address: SocketAddr,
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<Bind, ListenError> {
    let failed = |source| ListenError { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bind { listener, address })
}

/// Closes connections to instances that nobody has used for a while.
async fn sweep(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = shared.stopping.cancelled() => return,
        }
        let table = shared.table.load_full();
        table.sites().for_each(|site| site.sweep());
    }
}
