//! Streams: one publisher sends numbered pieces to a group, and its end.
//!
//! A stream belongs to its publisher's session and goes on wherever that goes on: what was delivered is counted by the same record
//! that delivers it, so after a change of owner the publisher is told which piece is wanted next, sends again from there, and
//! nobody gets a piece twice.
//!
//! Must always hold: pieces of a stream are delivered in order, each once; the number that a publisher is told never goes down;
//! a stream ends once, and its receivers are told so when its publisher can no longer do it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::call::{Call, Scope};
use super::record::Record;
use super::session::Session;
use super::{Done, Ended, Hub};
use crate::frames::{
    self, Data, Downstream, ErrorDetail, Message, Protocol, Sender, StreamEndError, StreamFault, StreamMark,
    StreamStart,
};
use crate::names::{ConnectionId, GroupName, UserId};
use crate::permission::Permission;

/// Streams that one connection may have open. A program that needs more uses several connections; each costs its id and group.
pub const STREAMS_MAX: usize = 64;
/// How long a stream may say nothing, if it does not say how long: the contract's figure.
pub const IDLE_DEFAULT_MS: u64 = 300_000;
/// The longest silence that can be asked for: receivers wait for a dead publisher no longer than this.
pub const IDLE_MAX_MS: u64 = 3_600_000;
/// Streams that are over are remembered, the last so many of a connection: a publisher that comes back repeats its last words.
const OVER_MAX: usize = 64;

/// The publisher broke it off itself.
const ABORTED: &str = "Aborted";

/// An open stream, whole: how it is shown to the other region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamCard {
    /// Its publisher's name for it.
    pub stream_id: String,
    /// To whom.
    pub group: GroupName,
    /// Not back to its publisher.
    pub no_echo: bool,
    /// How long it may say nothing.
    pub idle_timeout_ms: u64,
    /// The next piece.
    pub expected: u64,
}

/// What a publisher is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamAnswer {
    /// Nothing.
    Nothing,
    /// Everything before this piece has arrived.
    Ack {
        /// The piece that is wanted next.
        expected: u64,
    },
    /// Not taken.
    Nack {
        /// Why.
        error: ErrorDetail,
        /// The piece that is wanted next.
        expected: u64,
    },
    /// The stream is over.
    Closed {
        /// Absent: as its publisher wished.
        error: Option<ErrorDetail>,
    },
}

impl StreamAnswer {
    /// As a frame for the publisher.
    #[must_use]
    pub fn frame(&self, protocol: Protocol, stream_id: &str) -> Option<Bytes> {
        let says = match self {
            Self::Nothing => return None,
            Self::Ack { expected } => Downstream::StreamAck { stream_id, expected: *expected },
            Self::Nack { error, expected } => {
                Downstream::StreamNack { stream_id, error, expected: *expected }
            }
            Self::Closed { error } => Downstream::StreamClosed { stream_id, error: error.as_ref() },
        };
        Some(frames::control(protocol, &says)).filter(|frame| !frame.is_empty())
    }

    fn refused(name: &str, message: String) -> Self {
        Self::Closed { error: Some(ErrorDetail::new(name, message)) }
    }
}

/// The streams of one session.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: BTreeMap<String, Open>,
    over: VecDeque<(String, Option<ErrorDetail>)>,
}

#[derive(Debug)]
struct Open {
    card: StreamCard,
    /// When its publisher was last heard of it; counts only where the session is served.
    touched: Moment,
}

/// What a piece or an end is to its stream.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Next(&'a StreamCard),
    Before(u64),
    Beyond(u64),
    Over(Option<ErrorDetail>),
    Unknown,
}

impl Streams {
    pub(super) fn of(open: Vec<StreamCard>, over: Vec<(String, Option<ErrorDetail>)>) -> Option<Box<Self>> {
        if open.is_empty() && over.is_empty() {
            return None;
        }
        let mut streams = Self { open: BTreeMap::new(), over: over.into() };
        open.into_iter().for_each(|card| streams.begin(card));
        Some(Box::new(streams))
    }

    pub(super) fn cards(&self) -> (Vec<StreamCard>, Vec<(String, Option<ErrorDetail>)>) {
        (self.open.values().map(|open| open.card.clone()).collect(), self.over.iter().cloned().collect())
    }

    /// A stream begins. One of the same name that is over is forgotten.
    pub(super) fn begin(&mut self, card: StreamCard) {
        self.over.retain(|(stream_id, _)| *stream_id != card.stream_id);
        self.open.insert(card.stream_id.clone(), Open { card, touched: Moment(0) });
    }

    /// A piece was delivered, or the end.
    pub(super) fn passed(&mut self, mark: &StreamMark) {
        let Some(open) = self.open.get_mut(&mark.stream_id) else { return };
        if !mark.end {
            open.card.expected = open.card.expected.max(mark.sequence.saturating_add(1));
            return;
        }
        self.open.remove(&mark.stream_id);
        self.over.push_back((mark.stream_id.clone(), told(mark.error.as_ref())));
        if self.over.len() > OVER_MAX {
            self.over.pop_front();
        }
    }

    /// Its publisher has shown that it lives.
    pub(super) fn touch_all(&mut self, now: Moment) {
        self.open.values_mut().for_each(|open| open.touched = now);
    }

    fn touch(&mut self, stream_id: &str, now: Moment) {
        if let Some(open) = self.open.get_mut(stream_id) {
            open.touched = now;
        }
    }

    fn place(&self, stream_id: &str, sequence: u64) -> Place<'_> {
        match self.open.get(stream_id) {
            Some(Open { card, .. }) if sequence < card.expected => Place::Before(card.expected),
            Some(Open { card, .. }) if sequence > card.expected => Place::Beyond(card.expected),
            Some(Open { card, .. }) => Place::Next(card),
            None => {
                let over = self.over.iter().find(|(known, _)| known == stream_id);
                over.map_or(Place::Unknown, |(_, told)| Place::Over(told.clone()))
            }
        }
    }

    fn open(&self, stream_id: &str) -> Option<&StreamCard> {
        self.open.get(stream_id).map(|open| &open.card)
    }

    /// Those that have said nothing for too long.
    fn idle(&self, now: Moment) -> impl Iterator<Item = &StreamCard> {
        let silent = move |open: &&Open| {
            now.0.saturating_sub(open.touched.0) > open.card.idle_timeout_ms.saturating_mul(1_000)
        };
        self.open.values().filter(silent).map(|open| &open.card)
    }

    pub(super) fn into_open(self) -> impl Iterator<Item = StreamCard> {
        self.open.into_values().map(|open| open.card)
    }
}

impl Hub {
    /// A client begins a stream to a group. The same once more is answered as it is now.
    pub fn stream_start(
        &mut self,
        connection: &ConnectionId,
        group: GroupName,
        no_echo: bool,
        start: StreamStart,
        now: Moment,
    ) -> Done<StreamAnswer> {
        let Some(session) = self.mine.get(connection) else {
            return self.answer_stream(StreamAnswer::Nothing);
        };
        if let Some(open) = session.stream(&start.stream_id) {
            let expected = open.expected;
            let answer = if open.group == group {
                StreamAnswer::Ack { expected }
            } else {
                let error = ErrorDetail::new("BadRequest", "this stream is open to another group");
                StreamAnswer::Nack { error, expected }
            };
            return self.answer_stream(answer);
        }
        if !session.permissions.may(Permission::SendToGroup, &group) {
            return self.answer_stream(forbidden());
        }
        if session.streams.as_ref().is_some_and(|streams| streams.open.len() >= STREAMS_MAX) {
            let message = format!("{STREAMS_MAX} streams of this connection are open: end one first");
            return self.answer_stream(StreamAnswer::refused("BadRequest", message));
        }
        let idle_timeout_ms = start.idle_timeout_ms.filter(|idle| *idle > 0).unwrap_or(IDLE_DEFAULT_MS);
        let idle_timeout_ms = idle_timeout_ms.min(IDLE_MAX_MS);
        let StreamStart { stream_id, .. } = start;
        let card = StreamCard { stream_id: stream_id.clone(), group, no_echo, idle_timeout_ms, expected: 1 };
        let position =
            self.change(connection, Record::StreamBegan { connection: connection.clone(), stream: card });
        self.touch_stream(connection, &stream_id, now);
        Done { value: StreamAnswer::Ack { expected: 1 }, position, ended: Vec::new() }
    }

    /// A client sends a piece of a stream, or without data a sign that it lives.
    pub fn stream_data(
        &mut self,
        connection: &ConnectionId,
        stream_id: &str,
        sequence: u64,
        data: Option<Data>,
        now: Moment,
    ) -> Done<StreamAnswer> {
        self.touch_stream(connection, stream_id, now);
        let Some(session) = self.mine.get(connection) else {
            return self.answer_stream(StreamAnswer::Nothing);
        };
        let card = match (session.place(stream_id, sequence), data) {
            (Place::Unknown, _) => return self.answer_stream(unknown()),
            (Place::Over(error), _) => return self.answer_stream(StreamAnswer::Closed { error }),
            (_, None) => return self.answer_stream(StreamAnswer::Nothing),
            (Place::Before(expected), _) => return self.answer_stream(StreamAnswer::Ack { expected }),
            (Place::Beyond(expected), _) => {
                let message = format!("piece {sequence} has come, piece {expected} is wanted");
                let error = ErrorDetail::new("InvalidSequenceId", message);
                return self.answer_stream(StreamAnswer::Nack { error, expected });
            }
            (Place::Next(card), Some(data)) => (card.clone(), data),
        };
        let (card, data) = card;
        if !session.permissions.may(Permission::SendToGroup, &card.group) {
            let message = "The publisher may no longer send to this group".to_owned();
            return self.finish(connection, &card, Some(fault("Forbidden", message)), now);
        }
        let user = session.user.clone();
        let mark = StreamMark { stream_id: card.stream_id.clone(), sequence, end: false, error: None };
        let call = self.piece(connection, &card, user, mark, data);
        let done = self.carry_out(connection, None, call, now);
        Done {
            value: StreamAnswer::Ack { expected: sequence + 1 },
            position: done.position,
            ended: done.ended,
        }
    }

    /// A client ends a stream, or breaks it off.
    pub fn stream_end(
        &mut self,
        connection: &ConnectionId,
        stream_id: &str,
        error: Option<StreamEndError>,
        now: Moment,
    ) -> Done<StreamAnswer> {
        let Some(session) = self.mine.get(connection) else {
            return self.answer_stream(StreamAnswer::Nothing);
        };
        let Some(card) = session.stream(stream_id).cloned() else {
            let answer = match session.place(stream_id, 0) {
                Place::Over(error) => StreamAnswer::Closed { error },
                _ => unknown(),
            };
            return self.answer_stream(answer);
        };
        let fault = error.map(|error| StreamFault {
            name: ABORTED.to_owned(),
            message: error.message,
            user_error_code: error.user_error_code,
        });
        self.finish(connection, &card, fault, now)
    }

    /// Ends the streams whose publishers have said nothing for too long.
    pub(super) fn expire_streams(&mut self, now: Moment) -> Vec<Ended> {
        let idle = |session: &Session| {
            let streams = session.streams.as_ref()?;
            let idle: Vec<StreamCard> = streams.idle(now).cloned().collect();
            (!idle.is_empty()).then(|| (session.connection.clone(), idle))
        };
        let idle: Vec<_> = self.mine.iter().filter_map(idle).collect();
        let mut ended = Vec::new();
        for (connection, cards) in idle {
            for card in cards {
                let message = format!("nothing was heard of the stream for {} ms", card.idle_timeout_ms);
                let done = self.finish(&connection, &card, Some(fault("IdleTimeout", message)), now);
                ended.extend(done.ended);
                let Some(session) = self.mine.get(&connection) else { continue };
                if let Some(frame) = done.value.frame(session.protocol, &card.stream_id) {
                    session.outbox.frame(frame);
                }
            }
        }
        ended
    }

    /// The session of a publisher has ended: its receivers need not wait.
    pub(super) fn end_streams(&mut self, session: &mut Session) {
        let Some(streams) = session.streams.take() else { return };
        for card in streams.into_open() {
            let message = "The publisher's connection has ended".to_owned();
            let end = self.last_piece(
                &session.connection,
                &card,
                session.user.clone(),
                Some(fault("PublisherGone", message)),
            );
            // A receiver that is owed more than is held for one is closed by its next message.
            let _ = self.record(&session.connection, None, end, self.clock);
        }
    }

    fn finish(
        &mut self,
        connection: &ConnectionId,
        card: &StreamCard,
        fault: Option<StreamFault>,
        now: Moment,
    ) -> Done<StreamAnswer> {
        let user = self.mine.get(connection).and_then(|session| session.user.clone());
        let value = StreamAnswer::Closed { error: told(fault.as_ref()) };
        let end = self.last_piece(connection, card, user, fault);
        let done = self.carry_out(connection, None, end, now);
        Done { value, position: done.position, ended: done.ended }
    }

    fn last_piece(
        &mut self,
        connection: &ConnectionId,
        card: &StreamCard,
        user: Option<UserId>,
        error: Option<StreamFault>,
    ) -> Call {
        let mark =
            StreamMark { stream_id: card.stream_id.clone(), sequence: card.expected, end: true, error };
        self.piece(connection, card, user, mark, Data::text(""))
    }

    fn piece(
        &mut self,
        connection: &ConnectionId,
        card: &StreamCard,
        user: Option<UserId>,
        mark: StreamMark,
        data: Data,
    ) -> Call {
        let mut message = Message::new(Sender::Group { group: card.group.clone(), user }, data);
        message.stream = Some(mark);
        message.id = Some(self.own_id());
        let exclude = if card.no_echo { vec![connection.clone()] } else { Vec::new() };
        Call::Send { to: Scope::Group(card.group.clone()), message: Arc::new(message), exclude, filter: None }
    }

    fn touch_stream(&mut self, connection: &ConnectionId, stream_id: &str, now: Moment) {
        if let Some(streams) = self.mine.get_mut(connection).and_then(|session| session.streams.as_mut()) {
            streams.touch(stream_id, now);
        }
    }

    /// An answer that changes nothing. It says how far the stream is, so it waits until the other region knows that, too.
    fn answer_stream(&self, value: StreamAnswer) -> Done<StreamAnswer> {
        Done { value, position: Some(self.log.last()), ended: Vec::new() }
    }
}

impl Session {
    fn stream(&self, stream_id: &str) -> Option<&StreamCard> {
        self.streams.as_ref()?.open(stream_id)
    }

    fn place(&self, stream_id: &str, sequence: u64) -> Place<'_> {
        self.streams.as_ref().map_or(Place::Unknown, |streams| streams.place(stream_id, sequence))
    }
}

/// What the publisher is told of it; nothing, where it was its own wish.
fn told(fault: Option<&StreamFault>) -> Option<ErrorDetail> {
    let fault = fault.filter(|fault| fault.name != ABORTED)?;
    Some(ErrorDetail::new(fault.name.clone(), fault.message.clone().unwrap_or_default()))
}

fn fault(name: &str, message: String) -> StreamFault {
    StreamFault { name: name.to_owned(), message: Some(message), user_error_code: None }
}

fn forbidden() -> StreamAnswer {
    StreamAnswer::refused("Forbidden", "The client does not have permission to send to this group".to_owned())
}

fn unknown() -> StreamAnswer {
    StreamAnswer::refused("StreamNotFound", "There is no such stream: begin it first".to_owned())
}

#[cfg(test)]
mod tests;
