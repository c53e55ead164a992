//! The hub: who is connected, who is in which group, and what each client is owed. Pure: no I/O, no clock.
//!
//! Read in this order: [`call`] (what can be asked), [`record`] (what changes), `session` and [`outbox`] (one client), [`gate`] (when it is written), `crowd` (the
//! sessions of one region), `log` (records for the other region), `recent` (messages of the last while), this file, then
//! [`streams`] and [`state`] (what the newest clients can do besides).
//!
//! Two regions have the hub. A session belongs to one of them, its *owner*; the other keeps a copy, made by applying the owner's
//! [`Record`]s in the owner's order. When the owner is lost the copies are *adopted*.
//!
//! Must always hold (tests in `tests.rs`):
//! - of two owners of a session the one with the higher generation, or the one with the client, is left once they speak again;
//! - a copy has the same messages under the same numbers as the original, as far as the records have come;
//! - after an adoption no number is given out that the lost owner may have given to another message;
//! - a message that came through the pair reaches a session once, on whichever side of a change of owner it comes; twice only when
//!   the owner died while the regions could not reach each other.

pub mod call;
mod crowd;
pub mod gate;
mod log;
pub mod outbox;
mod recent;
pub mod record;
#[cfg(test)]
mod scene;
mod session;
pub mod state;
pub mod streams;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_core::moment::Moment;

use crate::frames::{self, Downstream, ErrorDetail, Protocol};
use crate::names::{ConnectionId, GroupName, UserId};
use crate::permission::{Permission, Permissions};
use crate::ws;
use call::{Answer, Call, Scope};
use crowd::{Crowd, Outcome};
use gate::Gate;
use log::Log;
use outbox::{End, Outbox, Pulse};
use recent::Recent;
use record::{Position, Record, Snapshot};
use session::Session;
use state::Board;

pub use log::Gone;
pub(crate) use session::PROBE_STATE;
pub use session::SessionCard;

/// After an adoption numbers go on from so much higher: what the lost region gave out and the records had not brought
/// yet stays below. Clients ask only that numbers rise. Far more than a region can send in the time that records are late.
pub const ADOPTION_GAP: u64 = 1 << 24;
/// A reliable client that is away is waited for so long: what the official clients need, twice. Moment counts microseconds.
pub const AWAY_MAX: Duration = Duration::from_secs(60);

/// A client of which nothing was heard for so long is sent a ping. The official ones send their own each 20 s.
pub const PING_AFTER_SECONDS: u32 = 30;
/// A client that gives no sign of life for so long is gone: two pings and what they may take.
pub const SILENT_SECONDS_MAX: u32 = 75;

/// Close codes that the hub gives.
pub mod close {
    /// Asked for by the application, or the client's own wish: no recovery.
    pub const NORMAL: u16 = 1000;
    /// The session is not known, or lost: the client negotiates anew.
    pub const POLICY: u16 = 1008;
    /// Come again: the same session goes on elsewhere.
    pub const AWAY: u16 = 1001;
}

/// A client that comes anew.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Its session's name.
    pub connection: ConnectionId,
    /// Who it is.
    pub user: Option<UserId>,
    /// What it speaks.
    pub protocol: Protocol,
    /// What it may.
    pub permissions: Permissions,
    /// Its first groups.
    pub groups: Vec<GroupName>,
    /// What its event handler wants to be told.
    pub state: Option<String>,
}

/// When and where a client was seen coming.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Coarse time, for signs of life.
    pub pulse: Pulse,
    /// The wall clock.
    pub now: Moment,
    /// Its address leads to whichever region is active: it can go on elsewhere with its session.
    pub follows: bool,
}

/// A transport's hold on a session.
#[derive(Debug, Clone)]
pub struct Attached {
    /// What it is owed.
    pub outbox: Arc<Outbox>,
    /// Which transport this is.
    pub transport: u64,
    /// When this is with the other region, it is safe.
    pub position: Option<Position>,
}

/// What a client that wants to go on finds.
#[derive(Debug)]
pub enum Recovery {
    /// Its session, and goes on.
    Attached(Box<Attached>, Protocol, Option<UserId>),
    /// Its session is the other region's: ask for it, then try again.
    Elsewhere,
    /// Nothing: the client negotiates anew.
    Unknown,
}

/// What a client's own request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Carried out.
    Done,
    /// It may not.
    Forbidden,
    /// It was carried out before, under the same number.
    Duplicate,
    /// It cannot be: this is why.
    BadRequest(String),
}

/// A session that has ended, for its event handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub connection: ConnectionId,
    /// Whose.
    pub user: Option<UserId>,
    /// What it spoke.
    pub protocol: Protocol,
    /// Why.
    pub reason: String,
    /// What its handler wanted to be told.
    pub state: Option<String>,
    /// Number of the event that tells of it.
    pub event_id: u64,
}

/// What came of something, and when it is safe.
#[derive(Debug)]
pub struct Done<T> {
    /// What came of it.
    pub value: T,
    /// When this is with the other region, it is safe; `None`: nothing has to go there.
    pub position: Option<Position>,
    /// Sessions that ended by it.
    pub ended: Vec<Ended>,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sessions of this region.
    pub sessions: usize,
    /// Of these, reliable ones.
    pub reliable: usize,
    /// Of these, with a client attached.
    pub attached: usize,
    /// Copies of the other region's sessions.
    pub copies: usize,
    /// Groups.
    pub groups: usize,
    /// Users.
    pub users: usize,
    /// Probes of other regions, which are in no other number.
    pub probes: usize,
}

/// One hub in one region.
#[derive(Debug)]
pub struct Hub {
    start: u128,
    mine: Crowd,
    theirs: Crowd,
    their_start: Option<u128>,
    log: Log,
    recent: Recent,
    board: Board,
    /// What clients sent and other nodes of the region have not been told yet; absent: there are none to tell.
    said: Option<Vec<Call>>,
    /// Messages of its own making.
    own_messages: u64,
    /// The latest time that it was told.
    clock: Moment,
}

impl Hub {
    /// An empty one. `start`: any number that no other start of it had. `has_partner`: another region is told of changes.
    #[must_use]
    pub fn new(start: u128, has_partner: bool) -> Self {
        Self {
            start,
            mine: Crowd::default(),
            theirs: Crowd::default(),
            their_start: None,
            log: Log::new(has_partner),
            recent: Recent::default(),
            board: Board::default(),
            said: None,
            own_messages: 0,
            clock: Moment(0),
        }
    }

    /// Whether there is another region to keep records for.
    pub fn set_partner(&mut self, has_partner: bool) {
        self.log.keep(has_partner);
    }

    /// What may be written to reliable clients.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.mine.gate)
    }

    /// Applies a change to this region's sessions; it is recorded next.
    fn apply_own(&mut self, record: &Record) -> Outcome {
        self.mine.recorded = self.log.next();
        self.mine.apply(record)
    }

    /// The other region has everything up to here.
    pub fn partner_has(&mut self, position: Position) {
        self.log.forget(position);
    }

    /// How many there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let probes = self.mine.iter().filter(|session| session.is_probe()).count();
        Counts {
            sessions: self.mine.len() - probes,
            reliable: self.mine.reliable(),
            attached: self.mine.clients().filter(|session| session.away_since.is_none()).count(),
            copies: self.theirs.len(),
            groups: self.mine.groups(),
            // Each probe is a user of its own.
            users: self.mine.users().saturating_sub(probes),
            probes,
        }
    }

    // -- clients ------------------------------------------------------------------------------------------------

    /// A new client is here. `hello` is what it is told first.
    pub fn open(&mut self, arrival: Arrival, hello: Option<Bytes>, seen: Seen) -> Attached {
        let card = SessionCard {
            user: arrival.user,
            permissions: arrival.permissions,
            groups: arrival.groups.into_iter().collect(),
            state: arrival.state,
            ..SessionCard::new(arrival.connection, arrival.protocol)
        };
        let session = Session { follows: seen.follows, ..Session::of(card) };
        let position = session.protocol.is_reliable().then(|| self.log.push(opened(&session)));
        let outbox = Arc::clone(&session.outbox);
        outbox.hears(seen.pulse);
        let transport = outbox.attach(hello, seen.now, self.log.last(), &self.mine.gate);
        self.mine.insert(session);
        Attached { outbox, transport, position }
    }

    /// A client wants to go on with its session. `partner_is_here`: the other region answers, so its sessions are asked for
    /// and not taken. `hello` makes what the client is told first.
    pub fn recover(
        &mut self,
        connection: &ConnectionId,
        partner_is_here: bool,
        hello: impl FnOnce(Protocol, Option<&UserId>) -> Bytes,
        seen: Seen,
    ) -> Recovery {
        if self.mine.get(connection).is_none() {
            if self.theirs.get(connection).is_none() {
                return Recovery::Unknown;
            }
            if partner_is_here {
                return Recovery::Elsewhere;
            }
            self.adopt_one(connection, seen.now);
        }
        let (last, gate) = (self.log.last(), self.gate());
        let Some(session) = self.mine.get_mut(connection) else { return Recovery::Unknown };
        if !session.protocol.is_reliable() {
            return Recovery::Unknown;
        }
        session.generation += 1;
        session.away_since = None;
        session.follows = seen.follows;
        if let Some(streams) = &mut session.streams {
            streams.touch_all(seen.now);
        }
        let (outbox, protocol, user) = (Arc::clone(&session.outbox), session.protocol, session.user.clone());
        outbox.hears(seen.pulse);
        let hello = Some(hello(protocol, user.as_ref()));
        let transport = outbox.attach(hello, seen.now, last, &gate);
        let position = Some(self.log.push(opened(session)));
        self.watch_again(connection);
        Recovery::Attached(Box::new(Attached { outbox, transport, position }), protocol, user)
    }

    /// A transport is gone. `for_good`: the client will not come back to this session.
    pub fn detach(
        &mut self,
        connection: &ConnectionId,
        transport: u64,
        for_good: Option<&str>,
        now: Moment,
    ) -> Vec<Ended> {
        let Some(session) = self.mine.get_mut(connection) else { return Vec::new() };
        if !session.outbox.detach(transport) {
            return Vec::new();
        }
        if session.protocol.is_reliable() && for_good.is_none() {
            session.away_since = Some(now);
            return Vec::new();
        }
        let reason = for_good.unwrap_or("the connection was lost").to_owned();
        self.end(connection, reason).into_iter().collect()
    }

    /// Ends the sessions whose clients have been away for too long.
    pub fn expire(&mut self, now: Moment) -> Vec<Ended> {
        let limit = u64::try_from(AWAY_MAX.as_micros()).unwrap_or(u64::MAX);
        let late = |session: &&Session| {
            session.away_since.is_some_and(|since| now.0.saturating_sub(since.0) > limit)
        };
        let late: Vec<_> = self.mine.iter().filter(late).map(|session| session.connection.clone()).collect();
        self.recent.forget_before(now);
        self.clock = now;
        let mut ended = self.expire_streams(now);
        let end = |connection| self.end(connection, "the client did not come back".to_owned());
        ended.extend(late.iter().filter_map(end));
        ended
    }

    /// Asks clients that have been silent for a sign of life, and lets go of those that gave none. A reliable one may come
    /// back to its session.
    pub fn sweep(&mut self, pulse: Pulse, now: Moment) -> Vec<Ended> {
        let mut gone = Vec::new();
        for session in self.mine.iter().filter(|session| session.away_since.is_none()) {
            let silent = pulse.0.saturating_sub(session.outbox.heard().0);
            if silent > SILENT_SECONDS_MAX {
                gone.push(session.connection.clone());
            } else if silent > PING_AFTER_SECONDS {
                session.outbox.frame(ws::frame(ws::Opcode::Ping, &[]));
            }
        }
        let mut ended = Vec::new();
        for connection in gone {
            let Some(session) = self.mine.get_mut(&connection) else { continue };
            let reliable = session.protocol.is_reliable();
            let code = if reliable { close::AWAY } else { close::POLICY };
            session.outbox.end_now(End { frame: None, code, reason: "PingTimeout".to_owned() });
            session.away_since = Some(now);
            if !reliable {
                ended.extend(self.end(&connection, "PingTimeout".to_owned()));
            }
        }
        ended
    }

    /// Takes a session out and says so to the other region.
    fn end(&mut self, connection: &ConnectionId, reason: String) -> Option<Ended> {
        let mut session = self.mine.remove(connection)?;
        if session.protocol.is_reliable() {
            self.log.push(Record::Closed(connection.clone()));
        }
        self.end_streams(&mut session);
        self.end_states(connection);
        Some(Ended {
            connection: session.connection,
            user: session.user,
            protocol: session.protocol,
            reason,
            state: session.state.map(String::from),
            event_id: session.events + 1,
        })
    }

    /// The client has all messages up to `sequence`.
    pub fn acked(&mut self, connection: &ConnectionId, sequence: u64) {
        let Some(session) = self.mine.get(connection) else { return };
        if session.outbox.acked(sequence) && session.protocol.is_reliable() {
            self.log.push(Record::Acked { connection: connection.clone(), sequence });
        }
    }

    /// Whether a client did this before, under the same number.
    #[must_use]
    pub fn has_done(&self, connection: &ConnectionId, ack_id: u64) -> bool {
        self.mine.get(connection).is_some_and(|session| session.has_done(ack_id))
    }

    /// An event of a client was handled: its number is remembered, and what its handler wants to be told.
    pub fn handled(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        state: Option<String>,
    ) -> Option<Position> {
        let mut position = None;
        if state.is_some() {
            position = self.change(connection, Record::State { connection: connection.clone(), state });
        }
        if ack_id.is_some() {
            let asked = Record::Asked { connection: connection.clone(), ack_id, call: None };
            position = self.change(connection, asked).or(position);
        }
        position
    }

    fn change(&mut self, connection: &ConnectionId, record: Record) -> Option<Position> {
        self.apply_own(&record);
        let reliable = self.mine.get(connection).is_some_and(|session| session.protocol.is_reliable());
        reliable.then(|| self.log.push(record))
    }

    /// The number of a new event of a connection, and what its handler wants to be told with it.
    pub fn next_event(&mut self, connection: &ConnectionId) -> (u64, Option<String>) {
        let Some(session) = self.mine.get_mut(connection) else { return (0, None) };
        session.events += 1;
        (session.events, session.state.as_deref().map(str::to_owned))
    }

    /// A client asks for something itself: its permissions and its acknowledgement numbers count. A message to a group
    /// is relayed to the other region.
    pub fn client_asks(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        call: Call,
        now: Moment,
    ) -> Done<Asked> {
        let refused = |value| Done { value, position: None, ended: Vec::new() };
        let Some(session) = self.mine.get(connection) else { return refused(Asked::Forbidden) };
        if ack_id.is_some_and(|ack_id| session.has_done(ack_id)) {
            return refused(Asked::Duplicate);
        }
        if !permits(&session.permissions, &call) {
            return refused(Asked::Forbidden);
        }
        self.carry_out(connection, ack_id, call, now)
    }

    /// What a client may ask for is done.
    fn carry_out(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        call: Call,
        now: Moment,
    ) -> Done<Asked> {
        let (outcome, position) = self.record(connection, ack_id, call, now);
        Done { value: Asked::Done, position, ended: self.settle(outcome) }
    }

    /// The other region does with one record all that a client's request means there: what its copies are owed, and what
    /// its own members are. Were it two, a region that is lost between them would leave half of it.
    fn record(
        &mut self,
        connection: &ConnectionId,
        ack_id: Option<u64>,
        call: Call,
        now: Moment,
    ) -> (Outcome, Option<Position>) {
        let reliable = self.mine.get(connection).is_some_and(|session| session.protocol.is_reliable());
        let is_copied = self.mine.concerns_reliable(&call);
        self.note(&call, now);
        if let (Some(said), Call::Send { .. }) = (&mut self.said, &call) {
            said.push(call.clone());
        }
        let asked = Record::Asked { connection: connection.clone(), ack_id, call: Some(call) };
        let outcome = self.apply_own(&asked);
        let record = match asked {
            asked if is_copied || reliable => Some(asked),
            Record::Asked { call: Some(call @ Call::Send { .. }), .. } => Some(Record::Relayed(call)),
            _ => None,
        };
        (outcome, record.map(|record| self.log.push(record)))
    }

    /// There are other nodes to tell what clients send.
    pub(crate) fn keep_said(&mut self) {
        self.said.get_or_insert_default();
    }

    /// What clients have sent since it was last asked.
    pub(crate) fn take_said(&mut self) -> Vec<Call> {
        self.said.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A name for a message of the hub's own making, which no other start of a hub gives.
    fn own_id(&mut self) -> u128 {
        self.own_messages += 1;
        self.start ^ (u128::from(self.own_messages) << 64)
    }

    // -- everybody else -----------------------------------------------------------------------------------------

    /// Something is asked from outside.
    pub fn call(&mut self, call: Call, now: Moment) -> Done<Answer> {
        let value = self.mine.answer(&call);
        if call.is_question() || value == Answer::NotFound {
            return Done { value, position: None, ended: Vec::new() };
        }
        if let Call::Send { message, .. } = &call
            && message.id.is_some_and(|id| self.recent.has(id))
        {
            // The pair repeats a message when its answer was lost.
            return Done { value, position: None, ended: Vec::new() };
        }
        self.note(&call, now);
        let is_close = matches!(call, Call::Close { .. });
        let is_copied = !is_close && self.mine.concerns_reliable(&call);
        let passed = match &call {
            Call::Send { message, .. } if !is_copied => message.id.map(Record::Passed),
            _ => None,
        };
        let record = Record::Called(call);
        let outcome = self.apply_own(&record);
        let position = if is_copied { Some(record) } else { passed }.map(|record| self.log.push(record));
        Done { value, position, ended: self.settle(outcome) }
    }

    /// A message that a client of another node of this region has sent: for this node's members, and relayed to the other
    /// region.
    pub fn call_for_client(&mut self, call: Call, now: Moment) -> Done<Answer> {
        let came_before =
            matches!(&call, Call::Send { message, .. } if message.id.is_some_and(|id| self.recent.has(id)));
        let relayed = (!came_before).then(|| Record::Relayed(call.clone()));
        let mut done = self.call(call, now);
        if let Some(relayed) = relayed {
            done.position = Some(self.log.push(relayed));
        }
        done
    }

    /// Remembers a message that sessions may have to be given that are another region's now.
    fn note(&mut self, call: &Call, now: Moment) {
        if let Call::Send { message, .. } = call
            && let Some(id) = message.id
        {
            self.recent.applied(id, call.clone(), now);
        }
    }

    /// Ends what a change has ended.
    fn settle(&mut self, outcome: Outcome) -> Vec<Ended> {
        let mut ended = Vec::new();
        if !self.board.is_empty() {
            outcome.left.iter().for_each(|(connection, group)| self.left(connection, group));
        }
        for (connection, reason) in outcome.ended {
            let Some(session) = self.mine.get(&connection) else { continue };
            session.outbox.end(said_goodbye(session.protocol, &reason));
            ended.extend(self.end(&connection, reason));
        }
        for connection in outcome.too_slow {
            let Some(session) = self.mine.get(&connection) else { continue };
            session
                .outbox
                .end_now(End { code: close::POLICY, ..said_goodbye(session.protocol, "SlowClient") });
            ended.extend(self.end(&connection, "SlowClient".to_owned()));
        }
        ended
    }

    /// Closes up to `count` clients that should be elsewhere: reliable ones whose address leads there go on with their
    /// sessions; of the others, first those that are owed nothing. Returns how many were closed.
    pub fn shed(&mut self, count: usize) -> (usize, Vec<Ended>) {
        let goes = |session: &&Session| {
            let reliable = session.protocol.is_reliable();
            session.away_since.is_none()
                && !session.outbox.is_ending()
                && (!reliable || session.follows || session.outbox.is_settled())
        };
        let chosen: Vec<_> =
            self.mine.clients().filter(goes).take(count).map(|session| session.connection.clone()).collect();
        let mut ended = Vec::new();
        for connection in &chosen {
            let Some(session) = self.mine.get(connection) else { continue };
            if session.follows && session.protocol.is_reliable() {
                // Not 1000 or 1008: the client comes back with its recovery token.
                session.outbox.end(moved());
            } else {
                session
                    .outbox
                    .end(End { code: close::POLICY, ..said_goodbye(session.protocol, "ServiceReload") });
                ended.extend(self.end(connection, "ServiceReload".to_owned()));
            }
        }
        (chosen.len(), ended)
    }

    /// Ends all sessions: their clients negotiate anew.
    pub fn send_away(&mut self) -> Vec<Ended> {
        let all: Vec<_> = self.mine.iter().map(|session| session.connection.clone()).collect();
        let mut ended = Vec::new();
        for connection in all {
            let Some(session) = self.mine.get(&connection) else { continue };
            session
                .outbox
                .end(End { code: close::POLICY, ..said_goodbye(session.protocol, "ServiceReload") });
            ended.extend(self.end(&connection, "ServiceReload".to_owned()));
        }
        ended
    }

    /// Tells all clients to come again: this hub's node stops. Reliable ones keep their sessions, where these are.
    pub fn leave(&self) {
        self.mine.iter().for_each(|session| session.outbox.end(moved()));
    }

    // -- the other region ---------------------------------------------------------------------------------------

    /// The records after a position, at most so many bytes of them (one at least, if there is one).
    ///
    /// # Errors
    /// When they were dropped: send a [`Snapshot`].
    pub fn records_after(
        &self,
        position: Position,
        bytes: usize,
    ) -> Result<Vec<(Position, Arc<Record>)>, Gone> {
        self.log.after(position, bytes)
    }

    /// The position of the last record.
    #[must_use]
    pub fn position(&self) -> Position {
        self.log.last()
    }

    /// All reliable sessions of this region.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            start: self.start,
            position: self.log.last(),
            sessions: self.mine.cards(),
            seen: self.recent.ids(),
            board: self.board.card(|connection| {
                self.mine.get(connection).is_some_and(|session| session.protocol.is_reliable())
            }),
        }
    }

    /// The sessions of both regions, as this one knows them.
    #[must_use]
    pub fn whole(&self) -> Snapshot {
        let mut snapshot = self.snapshot();
        snapshot.sessions.extend(self.theirs.cards());
        snapshot
    }

    /// The other region's sessions as they are there. Where both have one: see the module's rules.
    pub fn apply_snapshot(&mut self, snapshot: Snapshot, now: Moment) {
        if self.their_start.is_some_and(|start| start != snapshot.start) {
            // It was started anew and knows nothing of them.
            self.adopt(now);
        }
        self.their_start = Some(snapshot.start);
        let known: HashMap<_, _> =
            self.theirs.drain().into_iter().map(|session| (session.connection, session.had)).collect();
        self.recent.their_seen(snapshot.seen, now);
        for card in snapshot.sessions {
            let had = known.get(&card.connection).copied();
            self.take_card(card, had);
        }
        self.take_board(snapshot.board);
    }

    fn take_card(&mut self, card: SessionCard, had: Option<u64>) {
        if let Some(own) = self.mine.get(&card.connection) {
            // The same comparison on both sides: exactly one of them lets go.
            let here = (own.generation, own.outbox.is_attached(), Some(self.start));
            if here > (card.generation, card.attached, self.their_start) {
                return;
            }
            own.outbox.end(moved());
            self.mine.remove(&card.connection);
            self.board.moved(&card.connection, false);
        }
        let had = had.unwrap_or_else(|| self.recent.count());
        self.theirs.insert(Session { had, ..Session::of(card) });
    }

    /// Records of the other region, in its order. Returns the sessions that were ended here by them.
    pub fn apply(&mut self, records: Vec<Record>, now: Moment) -> Vec<Ended> {
        let mut ended = Vec::new();
        for record in records {
            if let Some(id) = message_id(&record) {
                self.recent.seen_by_them(id, now);
            }
            match record {
                Record::Opened(card) => {
                    let had = self.theirs.get(&card.connection).map(|session| session.had);
                    self.take_card(*card, had);
                }
                Record::Released(connection) => self.take_over(&connection, now),
                Record::Relayed(call) => ended.extend(self.relay(call, now)),
                Record::Shown { group, item } => self.shown_there(&group, item),
                Record::Watches { connection, group, watches } => {
                    self.watched_there(&connection, &group, watches);
                }
                record => {
                    self.theirs.apply(&record);
                    if let Some(call) = record.relayed() {
                        ended.extend(self.relay(call.clone(), now));
                    }
                }
            }
        }
        ended
    }

    /// A message that a client of the other region sent, for this region's own members.
    fn relay(&mut self, call: Call, now: Moment) -> Vec<Ended> {
        self.call(call, now).ended
    }

    /// The other region asks for a session, because its client is there now. False: it is not here.
    pub fn release(&mut self, connection: &ConnectionId) -> bool {
        let Some(session) = self.mine.get(connection) else { return false };
        session.outbox.end(moved());
        self.log.push(Record::Released(connection.clone()));
        if let Some(session) = self.mine.remove(connection) {
            // Kept as a copy until the new owner says what became of it. Its outbox is the old transport's.
            let had = self.recent.count();
            self.theirs.insert(Session { had, ..Session::of(session.card()) });
            self.board.moved(connection, false);
        }
        true
    }

    /// The other region is lost: its sessions go on here. Returns how many.
    pub fn adopt(&mut self, now: Moment) -> usize {
        let lost = self.theirs.drain();
        let count = lost.len();
        for session in lost {
            self.own(session, now);
        }
        self.drop_their_states();
        count
    }

    fn adopt_one(&mut self, connection: &ConnectionId, now: Moment) {
        if let Some(session) = self.theirs.remove(connection) {
            self.own(session, now);
        }
    }

    /// A session was released to this region: nothing was lost on the way, but numbers jump all the same, since its old
    /// owner may have sent what it then could not log.
    fn take_over(&mut self, connection: &ConnectionId, now: Moment) {
        self.adopt_one(connection, now);
    }

    fn own(&mut self, mut session: Session, now: Moment) {
        session.away_since = Some(now);
        session.outbox.skip(ADOPTION_GAP);
        session.events = session.events.saturating_add(ADOPTION_GAP);
        let recorded = self.log.next();
        for call in self.recent.missed_by_them(session.had) {
            if let Call::Send { message, .. } = call
                && crowd::is_for(&session, call)
            {
                // More than is held for one: the next message closes it.
                let _ = session.outbox.push(message, false, recorded);
            }
        }
        if let Some(streams) = &mut session.streams {
            streams.touch_all(now);
        }
        self.log.push(opened(&session));
        let connection = session.connection.clone();
        self.mine.insert(session);
        self.own_states(&connection);
    }
}

fn opened(session: &Session) -> Record {
    Record::Opened(Box::new(session.card()))
}

fn message_id(record: &Record) -> Option<u128> {
    match record {
        Record::Passed(id) => Some(*id),
        Record::Called(Call::Send { message, .. })
        | Record::Relayed(Call::Send { message, .. })
        | Record::Asked { call: Some(Call::Send { message, .. }), .. } => message.id,
        _ => None,
    }
}

/// The client's session goes on in the other region.
fn moved() -> End {
    End { frame: None, code: close::AWAY, reason: "ServiceReload".to_owned() }
}

fn said_goodbye(protocol: Protocol, reason: &str) -> End {
    let says = Downstream::Disconnected { message: reason };
    let frame = (protocol != Protocol::Simple).then(|| frames::control(protocol, &says));
    End { frame, code: close::NORMAL, reason: reason.to_owned() }
}

fn permits(permissions: &Permissions, call: &Call) -> bool {
    match call {
        Call::Join { group, .. } | Call::Leave { group, .. } => {
            permissions.may(Permission::JoinLeaveGroup, group)
        }
        Call::Send { to: Scope::Group(group), .. } => permissions.may(Permission::SendToGroup, group),
        _ => false,
    }
}

/// The acknowledgement of a client's request.
#[must_use]
pub fn acknowledgement(asked: &Asked, ack_id: u64) -> Option<ErrorDetail> {
    let detail = |name: &str, message: String| Some(ErrorDetail { name: name.to_owned(), message });
    match asked {
        Asked::Done => None,
        Asked::Forbidden => detail("Forbidden", "The client does not have permission for this".to_owned()),
        Asked::BadRequest(why) => detail("BadRequest", why.clone()),
        Asked::Duplicate => detail("Duplicate", format!("Message with ack-id: {ack_id} has been processed")),
    }
}
