//! The link of a hub's two regions: each one's sessions to the other as they change, and who decides that the other is lost.
//!
//! Read in this order: [`fence`] (tokens), `wire` (frames), `greeting` (the first bytes), `snapshot` (all sessions at once),
//! `session` with `sender` and `receiver` (one connection), `claims` (sessions that are asked for), `keeper` (one connection
//! after the other), `dial` and `listener` (how they come about), then this file.
//!
//! ```text
//! dialer                                listener
//!   greeting: version, secret      <->
//!   Hello: hub, start, applied      ->
//!                                   <-  Hello
//!   Settings, then a snapshot or records from where the other side is, confirmed by Has;
//!   Claim -> a Released record or NotMine; Ping -> Pong, in both directions at once
//! ```
//!
//! Must always hold: a record is confirmed after it was applied, and applied once, in order; a partner that was not heard for
//! [`SILENCE_MAX`] holds nobody up; what comes under a token lower than one that was seen is refused;
//! with TLS a node speaks only for the region that its certificate names; memory is bounded.

mod claims;
mod dial;
pub mod fence;
mod greeting;
mod keeper;
mod listener;
mod receiver;
mod sender;
mod session;
mod snapshot;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farshore_core::ids::Region;
use farshore_core::moment::Moment;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::hub::record::Position;
use crate::live::LiveHub;
use crate::names::ConnectionId;
pub use dial::{ClientConfigs, ConfigOf};
use fence::Fence;
pub use greeting::Secret;
pub use keeper::ADOPT_AFTER;
use keeper::{Keeper, Order};
pub use listener::{LinkListener, ListenerOptions, ListenerTls, RegionOf};
use session::{Connection, Shared};
pub use session::{LinkState, SILENCE_MAX};

/// A client waits for its session to be brought at most so long: the loss of the partner is noticed within.
pub const CLAIM_MAX: Duration = Duration::from_secs(2);
/// Connections that wait for a link to take them: the newest wins anyway.
const CONNECTIONS_WAITING_MAX: usize = 4;
/// Orders that wait for a link.
const ORDERS_WAITING_MAX: usize = 16;

/// One hub's link with one partner.
#[derive(Clone)]
pub struct Options {
    /// Whose sessions.
    pub hub: Arc<LiveHub>,
    /// This region.
    pub region: Region,
    /// The other one.
    pub partner: Region,
    /// `HOST:PORT` of the partner's listener, on the side that was told to replicate. `None`: the partner dials.
    pub dial: Option<String>,
    /// The cluster's.
    pub secret: Secret,
    /// How to talk to the partner. `None`: plain, to loopback addresses only.
    pub tls: Option<ClientConfigs>,
    /// The item's tokens.
    pub fence: Arc<Fence>,
    /// Whether the checks of the partner's health, end to end, say that it is lost.
    pub partner_is_lost: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, partner, dial, .. } = self;
        f.debug_struct("Options")
            .field("region", region)
            .field("partner", partner)
            .field("dial", dial)
            .finish()
    }
}

/// How a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The other region.
    pub partner: Region,
    /// Whether it is there.
    pub state: LinkState,
    /// Why it is not connected, for people.
    pub note: Option<String>,
    /// The last record here.
    pub position: Position,
    /// The last record that the partner has confirmed, and when it did.
    pub confirmed: Option<(Position, Moment)>,
    /// The last of the partner's records that was applied here.
    pub applied: Option<Position>,
    /// Bytes in both directions since the link was made.
    pub moved_bytes: u64,
}

impl Status {
    /// Records that only this region has.
    #[must_use]
    pub fn lag_records(&self) -> u64 {
        let confirmed = self.confirmed.map_or(0, |(position, _)| position.0);
        self.position.0.saturating_sub(confirmed)
    }
}

/// One hub's link with one partner: connects, and connects again, until it is stopped or its last handle is dropped.
#[derive(Debug, Clone)]
pub struct Link {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
}

impl Link {
    /// Starts it. Connections for the hub that arrive at `listener` are its own from here on.
    #[must_use]
    pub fn spawn(options: Options, listener: Option<&LinkListener>) -> Self {
        Self::start(options, listener.map(LinkListener::takers)).0
    }

    fn start(options: Options, takers: Option<Arc<listener::Takers>>) -> (Self, mpsc::Sender<Connection>) {
        let (hub, fence) = (Arc::clone(&options.hub), Arc::clone(&options.fence));
        let shared = Arc::new(Shared::new(hub, options.region.clone(), options.partner.clone(), fence));
        let (connections, came) = mpsc::channel(CONNECTIONS_WAITING_MAX);
        let (orders, ordered) = mpsc::channel(ORDERS_WAITING_MAX);
        if let Some(takers) = &takers {
            takers.put(Arc::clone(&shared), connections.clone());
        }
        tokio::spawn(Keeper::new(options, Arc::clone(&shared), takers, came, ordered).run());
        (Self { shared, orders }, connections)
    }

    /// The engine has decided that the partner is lost: its sessions go on here. Returns how many; none while the partner
    /// still answers, since then each is asked for as its client comes. Should the link be lost right after, the order holds.
    pub async fn adopt(&self) -> usize {
        let (answer, answered) = oneshot::channel();
        if self.orders.send(Order::Adopt(answer)).await.is_err() {
            return 0;
        }
        answered.await.unwrap_or(0)
    }

    /// From here on the partner is dialed there, or, with `None`, dials itself. A connection that is up stays.
    pub async fn dial(&self, address: Option<String>) {
        let _ = self.orders.send(Order::Dial(address)).await;
    }

    /// Ends it. On return nothing of the partner is applied any more and nobody waits for it.
    pub async fn stop(&self) {
        let (stopped, when) = oneshot::channel();
        if self.orders.send(Order::Stop(stopped)).await.is_ok() {
            let _ = when.await;
        }
    }

    /// The client of a session is here: has the session brought, and returns whether it is this region's now, within
    /// [`CLAIM_MAX`]. A copy is taken when the partner says that it does not have the session, or is away.
    pub async fn claim(&self, connection: &ConnectionId) -> bool {
        let shared = &self.shared;
        if !shared.owns(connection)
            && self.is_expected()
            && let Some(settled) = shared.claims.ask(connection)
        {
            shared.wake.notify_one();
            let _ = timeout(CLAIM_MAX, settled).await;
        }
        if !shared.owns(connection) && !self.is_expected() {
            shared.take(connection);
        }
        shared.owns(connection)
    }

    /// Whether an answer of the partner can be waited for.
    fn is_expected(&self) -> bool {
        self.shared.hub.is_partner_here()
            || !matches!(self.shared.progress().state, LinkState::Disconnected { .. })
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        let progress = self.shared.progress().clone();
        Status {
            partner: self.shared.partner.clone(),
            state: progress.state,
            note: progress.note,
            position: *self.shared.hub.logged().borrow(),
            confirmed: progress.confirmed,
            applied: self.shared.applied().map(|applied| applied.position),
            moved_bytes: self.shared.moved.load(Ordering::Relaxed),
        }
    }
}
