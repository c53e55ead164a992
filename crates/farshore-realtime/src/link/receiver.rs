//! What comes from the other region: applied in its order, then confirmed.
//!
//! Must always hold: a record is applied once, and only after all before it; nothing is applied
//! under a lower token than the connection was made under.

use std::time::Duration;

use farshore_core::ids::Token;

use super::fence::Stale;
use super::session::{EndReason, LinkState, Replies, SILENCE_MAX, Shared};
use super::snapshot::Whole;
use super::wire::{Applied, FRAME_MAX, Frame, FrameReader, Message};
use crate::hub::record::{Position, Record};
use crate::live::{self, Settings};
use crate::names::ConnectionId;

/// Claims of the partner that can wait for their answer.
const NOT_MINE_MAX: usize = 50_000;
/// A partner says at least this often that it lives.
const SILENCE: Duration = SILENCE_MAX;

/// One connection's receiving side.
pub(super) struct Receiver<'a> {
    /// What both had seen when the connection was made.
    floor: Token,
    shared: &'a Shared,
    replies: &'a Replies,
    reader: FrameReader,
    /// Which start of its hub the partner speaks for.
    start: u128,
    snapshot: Option<Whole>,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(shared: &'a Shared, replies: &'a Replies, reader: FrameReader, start: u128) -> Self {
        let floor = shared.fence.highest();
        Self { shared, replies, reader, start, snapshot: None, floor }
    }

    pub(super) async fn run(&mut self) -> EndReason {
        loop {
            let shared = self.shared;
            let came = self.reader.next(FRAME_MAX, SILENCE, |bytes| shared.heard(bytes)).await;
            let taken = came.map_err(EndReason::from).and_then(|frame| self.take(frame));
            if let Err(reason) = taken {
                return reason;
            }
        }
    }

    /// What comes under a lower token than both had seen when the connection was made is refused. A higher one that was seen
    /// meanwhile, by an order, is on its way to the partner in the frames that it is sent: what it had sent before is still good, since
    /// sessions have generations of their own.
    fn admit(&mut self, token: Token) -> Result<(), Stale> {
        let seen = self.shared.fence.see(token);
        if token < self.floor { seen } else { Ok(()) }
    }

    fn take(&mut self, Frame { token, message }: Frame) -> Result<(), EndReason> {
        self.admit(token)?;
        match message {
            Message::Hello(_) => return Err(EndReason::Violation("a second hello")),
            Message::Refused(why) => return Err(EndReason::Refused(why)),
            Message::Settings(text) => self.settings(&text),
            Message::Begin(begin) if begin.start == self.start => self.snapshot = Some(Whole::new(begin)),
            Message::Begin(_) => return Err(EndReason::Violation("a snapshot of another start")),
            Message::Part(part) => {
                let whole = self.snapshot.as_mut().ok_or(EndReason::Violation("a part of no snapshot"))?;
                whole.add(part)?;
            }
            Message::End => self.snapshot()?,
            Message::Records { first, records } => self.records(first, records)?,
            Message::Has(position) => self.confirmed(position)?,
            Message::Claim(connection) => self.claimed(connection)?,
            Message::NotMine(connection) => {
                self.shared.take(&connection);
                self.shared.claims.settle(&connection);
            }
            Message::Ping => {
                let mut said = self.replies.said();
                said.pongs = said.pongs.saturating_add(1);
                self.shared.wake.notify_one();
            }
            Message::Pong => self.replies.said().asked = None,
        }
        Ok(())
    }

    fn settings(&self, text: &[u8]) {
        match serde_json::from_slice::<Settings>(text) {
            Ok(settings) if settings.hub == *self.shared.hub.name() => {
                self.shared.hub.set(settings);
            }
            // A newer version of the program may know settings that this one does not: sessions go on all the same.
            Ok(_) | Err(_) => tracing::warn!(
                hub = %self.shared.hub.name(),
                "the other region's settings cannot be read: run the same version in both regions"
            ),
        }
    }

    fn snapshot(&mut self) -> Result<(), EndReason> {
        let whole = self.snapshot.take().ok_or(EndReason::Violation("the end of no snapshot"))?;
        let (applied, snapshot) = whole.end();
        let came: Vec<_> = snapshot.sessions.iter().map(|card| card.connection.clone()).collect();
        self.shared.hub.apply_snapshot(snapshot);
        self.applied(applied);
        // Whatever was claimed and is in it is asked for again by whoever still waits.
        came.iter().for_each(|connection| {
            if self.shared.owns(connection) {
                self.shared.claims.settle(connection);
            }
        });
        Ok(())
    }

    fn records(&mut self, first: Position, mut records: Vec<Record>) -> Result<(), EndReason> {
        if self.snapshot.is_some() {
            return Err(EndReason::Violation("records within a snapshot"));
        }
        let applied = self.shared.applied().filter(|applied| applied.start == self.start);
        let Some(Applied { start, position }) = applied else {
            return Err(EndReason::Violation("records without a snapshot"));
        };
        if first.0 > position.0 + 1 {
            return Err(EndReason::Violation("records with a gap"));
        }
        let Some(last) = first.0.checked_add(records.len() as u64).map(|after| Position(after - 1)) else {
            return Err(EndReason::Violation("records beyond the last position"));
        };
        // What a connection before this one had brought.
        let known = usize::try_from(position.0 + 1 - first.0).unwrap_or(usize::MAX);
        records.drain(..known.min(records.len()));
        if records.is_empty() {
            // The connection before this one had not confirmed them.
            self.applied(Applied { start, position });
            return Ok(());
        }
        let released: Vec<ConnectionId> = records.iter().filter_map(released).collect();
        self.shared.hub.apply(records);
        self.applied(Applied { start, position: last });
        released.iter().for_each(|connection| self.shared.claims.settle(connection));
        Ok(())
    }

    fn applied(&self, applied: Applied) {
        self.shared.set_applied(Some(applied));
        self.replies.said().has = Some(applied.position);
        self.shared.wake.notify_one();
    }

    fn confirmed(&self, position: Position) -> Result<(), EndReason> {
        {
            let mut said = self.replies.said();
            if said.sent.is_none_or(|sent| position > sent) {
                return Err(EndReason::Violation("it confirms what was not sent"));
            }
            if said.confirmed.is_some_and(|before| position < before) {
                return Err(EndReason::Violation("it takes back what it confirmed"));
            }
            said.confirmed = Some(position);
            said.asked = None;
            if position < said.floor {
                return Ok(());
            }
        }
        self.shared.hub.partner_has(position);
        let mut progress = self.shared.progress();
        progress.state = LinkState::Connected;
        progress.note = None;
        progress.confirmed = Some((position, live::now()));
        Ok(())
    }

    fn claimed(&self, connection: ConnectionId) -> Result<(), EndReason> {
        if self.shared.hub.release(&connection) {
            return Ok(());
        }
        let after = self.shared.hub.with(|hub| hub.position());
        let mut said = self.replies.said();
        if said.not_mine.len() >= NOT_MINE_MAX {
            return Err(EndReason::Violation("it claims more sessions at once than a node can have"));
        }
        said.not_mine.push((after, connection));
        self.shared.wake.notify_one();
        Ok(())
    }
}

fn released(record: &Record) -> Option<ConnectionId> {
    match record {
        Record::Released(connection) => Some(connection.clone()),
        _ => None,
    }
}
