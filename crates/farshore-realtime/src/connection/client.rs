//! What a client's frames do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::events::{Event, Events};
use super::invoke::Invocations;
use crate::frames::{
    self, BadFrame, Data, Downstream, ErrorDetail, Message, Metadata, Protocol, Sender, Upstream,
};
use crate::hub::call::{Call, Scope};
use crate::hub::outbox::{End, Outbox};
use crate::hub::{Asked, Attached, acknowledgement};
use crate::live::{LiveHub, now};
use crate::names::{ConnectionId, EventName, GroupName, UserId};
use crate::ws::{self, Incoming, Opcode};

/// What the frames of a client without a subprotocol do.
#[derive(Debug, Clone)]
pub(super) enum SimpleMode {
    /// Each is an event `message`.
    SendEvent,
    /// Each is sent to a group.
    SendToGroup {
        /// Which.
        group: GroupName,
        /// But not back.
        no_echo: bool,
    },
}

/// One client, as its connection's task sees it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) hub: Arc<LiveHub>,
    pub(super) connection: ConnectionId,
    pub(super) outbox: Arc<Outbox>,
    pub(super) user: Option<UserId>,
    pub(super) protocol: Protocol,
    simple: Option<Box<(GroupName, bool)>>,
    events: Option<Events>,
    pub(super) invocations: Option<Box<Invocations>>,
    /// It said that it goes, with this code.
    pub(super) said_close: Option<Option<u16>>,
}

/// The connection is to be closed: code and reason.
pub(super) type Violation = (u16, String);

impl Client {
    pub(super) fn new(
        hub: Arc<LiveHub>,
        connection: ConnectionId,
        user: Option<UserId>,
        protocol: Protocol,
        simple: SimpleMode,
        attached: &Attached,
    ) -> Self {
        let simple = match simple {
            SimpleMode::SendEvent => None,
            SimpleMode::SendToGroup { group, no_echo } => Some(Box::new((group, no_echo))),
        };
        let outbox = Arc::clone(&attached.outbox);
        Self {
            hub,
            connection,
            outbox,
            user,
            protocol,
            simple,
            events: None,
            invocations: None,
            said_close: None,
        }
    }

    /// Takes one message or control frame.
    pub(super) fn take(&mut self, incoming: &Incoming<'_>) -> Result<(), Violation> {
        match incoming {
            Incoming::Ping(payload) => {
                self.outbox.frame(ws::frame(Opcode::Pong, payload));
                Ok(())
            }
            Incoming::Pong(_) => Ok(()),
            Incoming::Close { code, .. } => {
                self.said_close = Some(*code);
                Ok(())
            }
            Incoming::Text(text) => self.content(Opcode::Text, text.as_bytes()),
            Incoming::Binary(bytes) => self.content(Opcode::Binary, bytes),
        }
    }

    fn content(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Violation> {
        self.hub.counters.frames.fetch_add(1, Ordering::Relaxed);
        if self.protocol == Protocol::Simple {
            return self.simple(opcode, payload);
        }
        match frames::decode(self.protocol, opcode, payload) {
            Ok(frame) => self.frame(frame),
            Err(BadFrame { ack_id: Some(ack_id), reason, .. }) => {
                self.refuse(Some(ack_id), "BadRequest", reason);
                Ok(())
            }
            Err(BadFrame { code, reason, .. }) => Err((code, reason)),
        }
    }

    fn simple(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Violation> {
        let payload = Bytes::copy_from_slice(payload);
        let data = if opcode == Opcode::Text { Data::Text(payload) } else { Data::Binary(payload) };
        match self.simple.clone() {
            Some(mode) => {
                let (group, no_echo) = *mode;
                let message = self.message(group.clone(), data);
                self.send(group, None, no_echo, message);
            }
            None => {
                let event = EventName::parse("message").map_err(|error| (1011, error.to_string()))?;
                self.event(None, event, data, Metadata::new());
            }
        }
        Ok(())
    }

    fn frame(&mut self, frame: Upstream) -> Result<(), Violation> {
        match frame {
            Upstream::Ping => self.outbox.frame(frames::control(self.protocol, &Downstream::Pong)),
            Upstream::SequenceAck(sequence) => self.hub.with(|hub| hub.acked(&self.connection, sequence)),
            Upstream::Join { group, ack_id } => {
                self.ask(ack_id, Call::Join { connection: self.connection.clone(), group });
            }
            Upstream::Leave { group, ack_id } => {
                self.ask(ack_id, Call::Leave { connection: self.connection.clone(), group });
            }
            Upstream::Send {
                group,
                ack_id,
                no_echo,
                data: Some(data),
                ttl_seconds,
                metadata,
                stream: None,
            } => {
                let expires = ttl_seconds.filter(|seconds| *seconds > 0);
                let mut message = self.message(group.clone(), data);
                message.expires = expires.map(|seconds| after(now(), seconds));
                message.metadata = metadata;
                self.send(group, ack_id, no_echo, message);
            }
            Upstream::Event { event, ack_id, data, metadata } => self.event(ack_id, event, data, metadata),
            other => self.extra(other),
        }
        Ok(())
    }

    fn message(&self, group: GroupName, data: Data) -> Message {
        let from = Sender::Group { group, user: self.user.clone() };
        let mut message = Message::new(from, data);
        message.id = Some(rand::random());
        message
    }

    fn send(&mut self, group: GroupName, ack_id: Option<u64>, no_echo: bool, message: Message) {
        let exclude = if no_echo { vec![self.connection.clone()] } else { Vec::new() };
        let message = Arc::new(message);
        self.ask(ack_id, Call::Send { to: Scope::Group(group), message, exclude, filter: None });
    }

    /// Asks the hub, and answers when it is safe.
    fn ask(&mut self, ack_id: Option<u64>, call: Call) {
        let done = self.hub.client_asks(&self.connection, ack_id, call);
        if let Some(ack_id) = ack_id {
            let frame = acknowledge(self.protocol, ack_id, acknowledgement(&done.value, ack_id).as_ref());
            self.hub.promise(done.position, &self.outbox, frame);
        }
    }

    pub(super) fn refuse(&self, ack_id: Option<u64>, name: &str, message: String) {
        if let Some(ack_id) = ack_id {
            let error = ErrorDetail { name: name.to_owned(), message };
            self.outbox.frame(acknowledge(self.protocol, ack_id, Some(&error)));
        }
    }

    /// Hands an event to the handler's worker; too many under way are refused.
    fn event(&mut self, ack_id: Option<u64>, event: EventName, data: Data, metadata: Metadata) {
        if let Some(ack_id) = ack_id.filter(|id| self.hub.with(|hub| hub.has_done(&self.connection, *id))) {
            let error = acknowledgement(&Asked::Duplicate, ack_id);
            return self.outbox.frame(acknowledge(self.protocol, ack_id, error.as_ref()));
        }
        self.hub.counters.events.fetch_add(1, Ordering::Relaxed);
        let (hub, connection, outbox) = (&self.hub, &self.connection, &self.outbox);
        let (user, protocol) = (&self.user, self.protocol);
        let events = self.events.get_or_insert_with(|| {
            Events::spawn(Arc::clone(hub), connection.clone(), user.clone(), protocol, Arc::clone(outbox))
        });
        if !events.put(Event { ack_id, name: event, data, metadata }) {
            self.refuse(
                ack_id,
                "InternalServerError",
                "too many events of this client are under way".to_owned(),
            );
        }
    }

    /// The transport is gone.
    pub(super) fn leave(&self, transport: u64, violation: Option<&Violation>) {
        // 1000, or a close frame without a code: the client will not come back to this session.
        let for_good = match (violation, self.said_close) {
            (Some((_, reason)), _) => Some(reason.as_str()),
            (None, Some(None | Some(1000 | 1005))) => Some("the client has closed"),
            _ => None,
        };
        let ended = self.hub.with(|hub| hub.detach(&self.connection, transport, for_good, now()));
        self.hub.tell_ended(&ended);
    }

    /// What is said to a client that broke the rules.
    pub(super) fn violation(&self, (code, reason): &Violation) -> End {
        End { frame: None, code: *code, reason: reason.clone() }
    }
}

pub(super) fn acknowledge(protocol: Protocol, ack_id: u64, error: Option<&ErrorDetail>) -> Bytes {
    frames::control(protocol, &Downstream::Ack { ack_id, error })
}

fn after(now: farshore_core::moment::Moment, seconds: u32) -> farshore_core::moment::Moment {
    farshore_core::moment::Moment(now.0.saturating_add(u64::from(seconds) * 1_000_000))
}
