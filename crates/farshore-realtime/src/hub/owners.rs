//! The other region: what it is told, what it tells, and whose a session is.

use std::collections::HashMap;
use std::sync::Arc;

use farshore_core::moment::Moment;

use super::call::Call;
use super::crowd;
use super::log::Gone;
use super::presence::moved;
use super::record::{Position, Record, Snapshot};
use super::session::{Session, SessionCard};
use super::{ADOPTION_GAP, Ended, Hub, opened};
use crate::names::ConnectionId;

impl Hub {
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

    pub(super) fn adopt_one(&mut self, connection: &ConnectionId, now: Moment) {
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
        self.recent.came(connection.clone(), now);
        self.mine.insert(session);
        self.own_states(&connection);
    }

    /// So many records that mean nothing.
    #[cfg(test)]
    pub(crate) fn fill_log(&mut self, count: u128) {
        for id in 0..count {
            self.log.push(Record::Passed(id));
        }
    }
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
