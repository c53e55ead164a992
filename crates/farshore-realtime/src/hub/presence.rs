//! Clients come, give signs of life, and go.

use std::sync::Arc;

use bytes::Bytes;
use farshore_core::moment::Moment;

use super::outbox::{End, Pulse};
use super::record::Record;
use super::session::{Session, SessionCard};
use super::{
    AWAY_MAX, Arrival, Attached, Ended, Hub, PING_AFTER_SECONDS, Recovery, SILENT_SECONDS_MAX, Seen, close,
    opened,
};
use crate::frames::{self, Downstream, Protocol};
use crate::names::{ConnectionId, UserId};
use crate::ws;

/// Which clients are closed that cannot take their sessions with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// Those that have acknowledged everything.
    Settled,
    /// Any.
    Anybody,
}

impl Hub {
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

    /// The client has all messages up to `sequence`.
    pub fn acked(&mut self, connection: &ConnectionId, sequence: u64) {
        let Some(session) = self.mine.get(connection) else { return };
        if session.outbox.acked(sequence) && session.protocol.is_reliable() {
            self.log.push(Record::Acked { connection: connection.clone(), sequence });
        }
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

    /// Takes a session out and says so to the other region.
    pub(super) fn end(&mut self, connection: &ConnectionId, reason: String) -> Option<Ended> {
        let mut session = self.mine.remove(connection)?;
        if session.protocol.is_reliable() {
            self.log.push(Record::Closed(connection.clone()));
        }
        self.end_streams(&mut session);
        self.end_states(connection);
        self.note_last_groups(&mut session);
        Some(Ended {
            connection: session.connection,
            user: session.user,
            protocol: session.protocol,
            reason,
            state: session.state.map(String::from),
            event_id: session.events + 1,
        })
    }

    /// Closes up to `count` clients that should be elsewhere: reliable ones whose address leads there go on with their
    /// sessions; of the others those that `leaving` says, once what waits for them is written. Returns how many were closed.
    pub fn shed(&mut self, count: usize, leaving: Leaving) -> (usize, Vec<Ended>) {
        let goes = |session: &&Session| {
            let reliable = session.protocol.is_reliable();
            session.away_since.is_none()
                && !session.outbox.is_ending()
                && (!reliable
                    || session.follows
                    || leaving == Leaving::Anybody
                    || session.outbox.is_settled())
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
}

/// The client's session goes on in the other region.
pub(super) fn moved() -> End {
    End { frame: None, code: close::AWAY, reason: "ServiceReload".to_owned() }
}

pub(super) fn said_goodbye(protocol: Protocol, reason: &str) -> End {
    let says = Downstream::Disconnected { message: reason };
    let frame = (protocol != Protocol::Simple).then(|| frames::control(protocol, &says));
    End { frame, code: close::NORMAL, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
