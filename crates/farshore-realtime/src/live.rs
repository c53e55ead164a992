//! A hub that is served: its state behind one lock, what its publishers and clients are promised, and its event handlers.
//!
//! Must always hold: nobody is told that something is done before the other region has it too, unless that region is known
//! to be away, which is counted.

mod told;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot, watch};

use crate::bus::Nodes;
use crate::connection::events::Waiting;
use crate::handler::{EventHandler, Handlers};
use crate::hub::call::{Answer, Call, Scope};
use crate::hub::gate::Gate;
use crate::hub::outbox::Outbox;
use crate::hub::record::{Position, Record, Snapshot};
use crate::hub::{Asked, Counts, Done, Gone, Hub};
use crate::names::{ConnectionId, HubName};
use crate::negotiate::Sharing;
use crate::pair::probe;
use crate::token::{AccessKeys, ConnectionString};

/// What an operator can set of a hub. The newest version of the two regions holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Raised with each change.
    pub version: u64,
    /// The hub's name in URLs.
    pub hub: HubName,
    /// What requests and tokens are signed with.
    pub keys: AccessKeys,
    /// Base URLs under which it is known, beside those of the nodes: `https://chat.example.com`.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Who is told of events, in order: the first that fits.
    #[serde(default)]
    pub handlers: Vec<EventHandler>,
    /// How the regions share its clients.
    #[serde(default)]
    pub sharing: Sharing,
    /// Endpoints of other servers that belong to the pair, after its own regions.
    #[serde(default)]
    pub members: Vec<ConnectionString>,
}

/// A hub cannot do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It serves nobody here now.
    #[error("the hub {hub} is not served here now: ask the other region")]
    NotServing {
        /// Which.
        hub: HubName,
    },
    /// Other nodes or regions did not do it.
    #[error("{0}")]
    Failed(String),
}

/// How the other region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Partner {
    /// There is none.
    None,
    /// It does not answer: nothing waits for it.
    Away,
    /// It has everything up to here.
    Here(Position),
}

#[derive(Debug)]
enum Held {
    Frame(Arc<Outbox>, Bytes),
    Wake(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Link {
    partner: Partner,
    /// What waits for the other region, by position.
    held: VecDeque<(Position, Held)>,
}

/// What happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) opened: AtomicU64,
    pub(crate) recovered: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) adopted: AtomicU64,
    /// Promises given while the other region was away.
    pub(crate) alone: AtomicU64,
}

/// A hub that is served.
#[derive(Debug)]
pub struct LiveHub {
    name: HubName,
    settings: RwLock<Arc<Settings>>,
    hub: Mutex<Hub>,
    link: Mutex<Link>,
    /// What may be written to reliable clients. Opened and closed under the lock of `link` only, so that both say the same.
    gate: Arc<Gate>,
    serving: AtomicBool,
    /// Takes no new clients; those that are here are still sent what is for them.
    draining: AtomicBool,
    logged: watch::Sender<Position>,
    /// Told when sessions came from the other region.
    arrived: Notify,
    /// The other nodes of this region, if it has several.
    nodes: OnceLock<Arc<Nodes>>,
    pub(crate) handlers: Handlers,
    pub(crate) counters: Counters,
    /// Events of clients that wait for their handlers.
    pub(crate) events_waiting: Arc<Waiting>,
    /// `host:port` of this region's endpoint, as event handlers are told.
    origin: OnceLock<String>,
}

/// The wall clock.
#[must_use]
pub fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

impl LiveHub {
    /// A hub without clients that serves nobody yet. `has_partner`: it waits for the other region once that is here.
    #[must_use]
    pub fn new(settings: Settings, handlers: Handlers, has_partner: bool) -> Arc<Self> {
        let partner = if has_partner { Partner::Away } else { Partner::None };
        let mut hub = Hub::new(rand::random(), has_partner);
        hub.note_groups(Handlers::follows_groups(&settings.handlers));
        Arc::new(Self {
            name: settings.hub.clone(),
            settings: RwLock::new(Arc::new(settings)),
            link: Mutex::new(Link { partner, held: VecDeque::new() }),
            gate: hub.gate(),
            hub: Mutex::new(hub),
            serving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            logged: watch::Sender::new(Position(0)),
            arrived: Notify::new(),
            nodes: OnceLock::new(),
            handlers,
            counters: Counters::default(),
            events_waiting: Arc::default(),
            origin: OnceLock::new(),
        })
    }

    /// Its name in URLs.
    #[must_use]
    pub fn name(&self) -> &HubName {
        &self.name
    }

    /// `host:port` of this region's endpoint, as event handlers are told.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.origin.get().map_or("farshore", String::as_str)
    }

    /// Event handlers are told this from now on. Only the first one counts.
    pub fn set_origin(&self, origin: String) {
        let _ = self.origin.set(origin);
    }

    /// What is set.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes settings over, unless newer ones are known. True: they were taken.
    pub fn set(&self, settings: Settings) -> bool {
        let mut known = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        let newer = settings.version > known.version;
        if newer {
            self.hub().note_groups(Handlers::follows_groups(&settings.handlers));
            *known = Arc::new(settings);
        }
        newer
    }

    /// Whether clients are served here.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// From here on clients are served, or no longer.
    pub fn serve(&self, serving: bool) {
        self.draining.store(false, Ordering::Release);
        self.serving.store(serving, Ordering::Release);
    }

    /// From here on no new clients are served; those that are here still get what is sent, until they are elsewhere.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.serving.store(false, Ordering::Release);
    }

    /// Whether it serves nobody new, and those that are here until they are elsewhere.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether it carries out what is asked of it now.
    pub(crate) fn takes(&self, call: &Call) -> bool {
        let for_those_here = matches!(call, Call::Send { .. } | Call::Close { .. }) || call.is_question();
        self.is_serving() || (for_those_here && self.is_draining())
    }

    /// The position of the last record.
    #[must_use]
    pub fn position(&self) -> Position {
        self.hub().position()
    }

    /// All that is here of the other region's sessions and this one's own, as one snapshot: for a copy of the hub.
    #[must_use]
    pub fn copies(&self) -> Snapshot {
        self.hub().whole()
    }

    /// How many there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.hub().counts()
    }

    /// Asks the hub, and returns when the other region has what changed.
    ///
    /// # Errors
    /// When it is not served here.
    pub async fn ask(self: &Arc<Self>, call: Call) -> Result<Answer, AskError> {
        if !self.takes(&call) {
            return Err(AskError::NotServing { hub: self.name.clone() });
        }
        if !probe::is_for_one(&call) {
            self.counters.calls.fetch_add(1, Ordering::Relaxed);
        }
        match self.nodes.get() {
            Some(nodes) => nodes.ask(self, call).await,
            None => Ok(self.ask_here(call).await),
        }
    }

    /// Asks what this node has of the hub.
    pub(crate) async fn ask_here(self: &Arc<Self>, call: Call) -> Answer {
        let done = self.change(|hub| hub.call(call, now()));
        self.settled(done.position).await;
        done.value
    }

    /// A client asks for something itself.
    pub(crate) fn client_asks(
        self: &Arc<Self>,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        call: Call,
    ) -> Done<Asked> {
        self.change(|hub| hub.client_asks(connection, ack_id, call, now()))
    }

    /// From now on what is asked reaches these nodes as well.
    pub(crate) fn attach(&self, nodes: &Arc<Nodes>) {
        let _ = self.nodes.set(Arc::clone(nodes));
        self.hub().keep_said();
    }

    /// Whether the connection's session is on this node.
    pub(crate) fn has_connection(&self, connection: &ConnectionId) -> bool {
        let is_here = Call::Exists(Scope::Connection(connection.clone()));
        self.with(|hub| hub.call(is_here, now())).value == Answer::Yes
    }

    /// Ends all sessions: their clients negotiate anew.
    pub(crate) fn send_away(self: &Arc<Self>) {
        let ended = self.with(Hub::send_away);
        self.tell_ended(&ended);
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the hub, tells whoever sends records, and tells the handlers of sessions that ended.
    pub(crate) fn change<T>(self: &Arc<Self>, does: impl FnOnce(&mut Hub) -> Done<T>) -> Done<T> {
        let done = self.with(does);
        if !done.ended.is_empty() {
            self.tell_ended(&done.ended);
        }
        done
    }

    /// Changes the hub and tells whoever sends records. What clients sent goes to the other nodes of the region, too.
    pub(crate) fn with<T>(&self, does: impl FnOnce(&mut Hub) -> T) -> T {
        let mut hub = self.hub();
        let value = does(&mut hub);
        let (last, said, memberships) = (hub.position(), hub.take_said(), hub.take_memberships());
        drop(hub);
        self.tell_memberships(memberships);
        if let Some(nodes) = self.nodes.get() {
            said.into_iter().for_each(|call| nodes.order(&self.name, call, true));
        }
        self.logged.send_if_modified(|known| {
            let rises = *known < last;
            *known = last.max(*known);
            rises
        });
        value
    }

    /// Asks silent clients for a sign of life, lets go of dead ones, and ends sessions whose clients have not come back.
    pub fn sweep(self: &Arc<Self>) {
        let ended = self.with(|hub| {
            let mut ended = hub.sweep(crate::connection::pulse(), now());
            ended.extend(hub.expire(now()));
            ended
        });
        self.tell_ended(&ended);
    }

    // -- promises -----------------------------------------------------------------------------------------------

    /// Returns when the other region has everything up to `position`, or is away.
    pub(crate) async fn settled(&self, position: Option<Position>) {
        let Some(position) = position else { return };
        let (wake, woken) = oneshot::channel();
        self.hold(position, Held::Wake(wake));
        let _ = woken.await;
    }

    /// Gives the client a frame once the other region has everything up to `position`, or is away.
    pub(crate) fn promise(&self, position: Option<Position>, outbox: &Arc<Outbox>, frame: Bytes) {
        match position {
            None => outbox.frame(frame),
            Some(position) => self.hold(position, Held::Frame(Arc::clone(outbox), frame)),
        }
    }

    fn hold(&self, position: Position, held: Held) {
        let mut link = self.link();
        match link.partner {
            Partner::Here(has) if has < position => link.held.push_back((position, held)),
            Partner::Away => {
                self.counters.alone.fetch_add(1, Ordering::Relaxed);
                held.release();
            }
            Partner::None | Partner::Here(_) => held.release(),
        }
    }

    // -- the other region ---------------------------------------------------------------------------------------

    /// Rises with each record.
    pub fn logged(&self) -> watch::Receiver<Position> {
        self.logged.subscribe()
    }

    /// See [`Hub::records_after`].
    ///
    /// # Errors
    /// When they are no longer held.
    pub fn records_after(
        &self,
        position: Position,
        bytes: usize,
    ) -> Result<Vec<(Position, Arc<Record>)>, Gone> {
        self.hub().records_after(position, bytes)
    }

    /// See [`Hub::snapshot`].
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.hub().snapshot()
    }

    /// There is another region from now on, or none any more.
    pub fn set_partner(&self, has_partner: bool) {
        self.with(|hub| hub.set_partner(has_partner));
        let mut link = self.link();
        self.gate.open_until(None);
        link.partner = if has_partner { Partner::Away } else { Partner::None };
        link.release_until(Position(u64::MAX));
    }

    /// The other region has everything up to `position`, durably enough to go on with it alone. The first time after
    /// [`LiveHub::partner_away`] this makes promises wait for it again.
    pub fn partner_has(&self, position: Position) {
        self.with(|hub| hub.partner_has(position));
        let mut link = self.link();
        if link.partner == Partner::None {
            // It is none any more: nothing may wait for it again.
            return;
        }
        self.gate.open_until(Some(position));
        link.partner = Partner::Here(position);
        link.release_until(position);
    }

    /// The other region does not answer: nothing waits for it any more.
    pub fn partner_away(&self) {
        let mut link = self.link();
        self.gate.open_until(None);
        if link.partner == Partner::None {
            return;
        }
        link.partner = Partner::Away;
        let released = link.release_until(Position(u64::MAX));
        self.counters.alone.fetch_add(released, Ordering::Relaxed);
    }

    /// Whether the other region answers.
    #[must_use]
    pub fn is_partner_here(&self) -> bool {
        matches!(self.link().partner, Partner::Here(_))
    }

    /// See [`Hub::apply_snapshot`].
    pub fn apply_snapshot(&self, snapshot: Snapshot) {
        self.with(|hub| hub.apply_snapshot(snapshot, now()));
        self.arrived.notify_waiters();
    }

    /// See [`Hub::apply`].
    pub fn apply(self: &Arc<Self>, records: Vec<Record>) {
        if let Some(nodes) = self.nodes.get() {
            for record in &records {
                if let Some(call) = record.relayed() {
                    nodes.order(&self.name, call.clone(), false);
                }
            }
        }
        let ended = self.with(|hub| hub.apply(records, now()));
        self.tell_ended(&ended);
        self.arrived.notify_waiters();
    }

    /// See [`Hub::release`].
    pub fn release(&self, connection: &ConnectionId) -> bool {
        self.with(|hub| hub.release(connection))
    }

    /// See [`Hub::adopt`].
    pub fn adopt(&self) -> usize {
        let count = self.with(|hub| hub.adopt(now()));
        self.counters.adopted.fetch_add(count as u64, Ordering::Relaxed);
        count
    }

    /// Told when sessions came from the other region.
    pub(crate) fn arrived(&self) -> &Notify {
        &self.arrived
    }
}

impl Link {
    fn release_until(&mut self, position: Position) -> u64 {
        let mut released = 0;
        while self.held.front().is_some_and(|(waits_for, _)| *waits_for <= position) {
            if let Some((_, held)) = self.held.pop_front() {
                held.release();
                released += 1;
            }
        }
        released
    }
}

impl Held {
    fn release(self) {
        match self {
            Self::Frame(outbox, frame) => outbox.frame(frame),
            Self::Wake(wake) => drop(wake.send(())),
        }
    }
}

#[cfg(test)]
mod tests;
