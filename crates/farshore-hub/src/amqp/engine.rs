//! One AMQP connection as a function: what came goes in, what is to be written and asked comes out. No sockets, no clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fe2o3_amqp_types::definitions::{self, AmqpError, ConnectionError, ErrorCondition, LinkError};
use fe2o3_amqp_types::messaging::{Accepted, DeliveryState, MessageId, Rejected};
use fe2o3_amqp_types::performatives::{Attach, Begin, Close, Disposition, End, Flow, Open, Performative};
use fe2o3_amqp_types::primitives::Symbol;
use fe2o3_amqp_types::sasl::{SaslCode, SaslInit, SaslMechanisms, SaslOutcome};

use super::link::{Delivery, Inbox, Outbox};
use super::session::{Said, Session};
use super::wire::{self, Frame, Kind};
use super::{CloudMessage, Feedback, Granted, Refused, Settled, message};

/// Sessions of one connection; the official SDKs open one.
const SESSIONS_MAX: u16 = 2;
/// Half of what this side waits before it takes the peer for dead, as the protocol advises. The SDKs count on it being long.
pub(super) const IDLE: Duration = Duration::from_secs(240);
/// Feedback a connection may hold without settling it: applications look at one after the other.
const LEASES_MAX: usize = 16;

/// Names a question, so that its answer finds its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// What is to be done now, in this order.
#[derive(Debug)]
pub(super) enum Effect {
    Write(Vec<u8>),
    Ask(Ticket, Question),
    Settle {
        hub: Arc<str>,
        lock: String,
        settled: Settled,
    },
    /// When all is written, the connection is over.
    Close,
}

/// What only the hub knows.
#[derive(Debug)]
pub(super) enum Question {
    Authorize { token: String, audience: String },
    Send { hub: Arc<str>, message: Box<CloudMessage> },
}

/// What the hub said.
#[derive(Debug)]
pub(super) enum Answer {
    Authorized(Result<Granted, Refused>),
    Sent(Result<(), Refused>),
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Eight bytes say which protocol comes.
    Header,
    Sasl,
    Opening,
    Open,
    Closed,
}

/// Where the answer to a question goes.
#[derive(Debug)]
struct Asked {
    channel: u16,
    handle: u32,
    serial: u64,
    delivery: u32,
    settled: bool,
    reply: Option<MessageId>,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Engine {
    phase: Phase,
    granted: Option<Granted>,
    sessions: BTreeMap<u16, Session>,
    asked: BTreeMap<Ticket, Asked>,
    serials: u64,
    frame_max: usize,
    peer_idle: Option<Duration>,
    leaving: bool,
    effects: Vec<Effect>,
}

impl Engine {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Header,
            granted: None,
            sessions: BTreeMap::new(),
            asked: BTreeMap::new(),
            serials: 0,
            frame_max: wire::FRAME_BYTES_MAX,
            peer_idle: None,
            leaving: false,
            effects: Vec::new(),
        }
    }

    /// What is to be done now.
    pub(super) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether the next eight bytes are a protocol's header instead of a frame.
    pub(super) fn wants_header(&self) -> bool {
        self.phase == Phase::Header
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    pub(super) fn granted(&self) -> Option<&Granted> {
        self.granted.as_ref()
    }

    /// How long the peer lets this side be silent.
    pub(super) fn peer_idle(&self) -> Option<Duration> {
        self.peer_idle
    }

    /// The hub whose feedback somebody waits for now.
    pub(super) fn hungry(&self) -> Option<Arc<str>> {
        let hub = &self.granted.as_ref()?.hub;
        let leases: usize = self.sessions.values().map(Session::leases).sum();
        let wanted = leases < LEASES_MAX
            && self.sessions.values().any(|session| session.wants(Outbox::Feedback).is_some());
        wanted.then(|| Arc::clone(hub))
    }

    /// The protocol's header came.
    pub(super) fn header(&mut self, header: [u8; 8]) {
        match header {
            wire::AMQP => {
                self.effects.push(Effect::Write(wire::AMQP.to_vec()));
                self.phase = Phase::Opening;
            }
            wire::SASL => {
                self.effects.push(Effect::Write(wire::SASL.to_vec()));
                let offered = ["MSSBCBS", "ANONYMOUS"].map(Symbol::from).to_vec();
                self.sasl(&SaslMechanisms { sasl_server_mechanisms: offered.into() });
                self.phase = Phase::Sasl;
            }
            _ => {
                // The protocol's way to say which header would have been right.
                self.effects.push(Effect::Write(wire::AMQP.to_vec()));
                self.close();
            }
        }
    }

    /// A frame came.
    pub(super) fn frame(&mut self, frame: Frame) {
        match (&self.phase, frame.kind) {
            (Phase::Closed, _) => {}
            (Phase::Sasl, Kind::Sasl) => self.sasl_init(&frame.body),
            (Phase::Opening | Phase::Open, Kind::Amqp) => match wire::performative(frame.body) {
                Ok(Some((performative, payload))) => self.performative(frame.channel, performative, &payload),
                Ok(None) => {}
                Err(why) => self.fail(AmqpError::DecodeError, why.to_string()),
            },
            _ => self.fail(
                ConnectionError::FramingError,
                "a frame of another protocol than was opened".to_owned(),
            ),
        }
    }

    /// The bytes that came are no frame.
    pub(super) fn broken(&mut self, why: &wire::BadFrame) {
        self.fail(ConnectionError::FramingError, why.to_string());
    }

    /// The peer may not be here any longer.
    pub(super) fn expel(&mut self, why: &str) {
        self.fail(AmqpError::UnauthorizedAccess, why.to_owned());
    }

    /// The peer is to connect again, perhaps elsewhere: only a new connection asks for the hub's address again.
    ///
    /// Its links are detached and the connection is left to the peer: the official SDK for Node connects anew then and sends
    /// again what was refused, but is stuck for good when the connection is closed first.
    pub(super) fn send_away(&mut self) {
        self.leaving = true;
        let error = || {
            let why = "the hub is not served here now: connect again".to_owned();
            definitions::Error::new(LinkError::DetachForced, why, None)
        };
        for channel in self.sessions.keys().copied().collect::<Vec<_>>() {
            let handles = self.sessions.get(&channel).map(Session::data_links).unwrap_or_default();
            for handle in handles {
                self.detach(channel, handle, error());
            }
        }
    }

    /// Whether the peer was sent away.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Ends the connection without a word.
    pub(super) fn cut(&mut self) {
        self.close();
    }

    /// Nothing was heard of the peer for too long.
    pub(super) fn silent(&mut self) {
        self.fail(AmqpError::ResourceLimitExceeded, format!("nothing was heard for {:?}", 2 * IDLE));
    }

    /// The connection is gone or goes: leases that it held are given back.
    pub(super) fn end(&mut self) {
        for channel in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.forget(channel);
        }
    }

    /// The hub answered.
    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let Some(asked) = self.asked.remove(&ticket) else { return };
        match answer {
            Answer::Authorized(answer) => self.authorized(asked, answer),
            Answer::Sent(answer) => {
                let gone = matches!(answer, Err(Refused::Unavailable(_)));
                self.settle(&asked, answer.map_err(|refused| message::error(&refused)));
                if gone {
                    self.send_away();
                }
            }
        }
    }

    /// Feedback came, or there will be none.
    pub(super) fn feedback(&mut self, hub: &Arc<str>, answer: Result<Feedback, Refused>) {
        let place =
            self.sessions.iter().find_map(|(channel, it)| Some((*channel, it.wants(Outbox::Feedback)?)));
        match (place, answer) {
            (Some((channel, handle)), Ok(feedback)) => {
                let lock = feedback.lock.clone();
                match message::feedback(hub, &feedback) {
                    Ok(bytes) => self.post(channel, handle, bytes, Some(lock)),
                    Err(why) => self.fail(AmqpError::InternalError, why.to_string()),
                }
            }
            (None, Ok(feedback)) => {
                self.effects.push(Effect::Settle {
                    hub: Arc::clone(hub),
                    lock: feedback.lock,
                    settled: Settled::Abandoned,
                });
            }
            (Some((channel, handle)), Err(refused)) => self.detach(channel, handle, message::error(&refused)),
            (None, Err(_)) => {}
        }
    }

    fn sasl_init(&mut self, body: &Bytes) {
        let code = match wire::value::<SaslInit>(body) {
            Ok(init) if matches!(init.mechanism.as_str(), "MSSBCBS" | "ANONYMOUS") => SaslCode::Ok,
            Ok(_) => SaslCode::Auth,
            Err(_) => SaslCode::Sys,
        };
        let welcome = matches!(code, SaslCode::Ok);
        self.sasl(&SaslOutcome { code, additional_data: None });
        if welcome { self.phase = Phase::Header } else { self.close() }
    }

    fn performative(&mut self, channel: u16, performative: Performative, payload: &[u8]) {
        match performative {
            Performative::Open(open) => self.open(&open),
            Performative::Close(_) => {
                self.write(0, &Performative::Close(Close { error: None }));
                self.close();
            }
            _ if self.phase != Phase::Open => {
                self.fail(AmqpError::IllegalState, "the connection is not opened".to_owned())
            }
            Performative::Begin(begin) => self.begin(channel, &begin),
            Performative::End(_) => {
                self.forget(channel);
                self.write(channel, &Performative::End(End { error: None }));
            }
            Performative::Attach(attach) => self.attach(channel, attach),
            other => {
                let Some(session) = self.sessions.get_mut(&channel) else {
                    return self
                        .fail(AmqpError::NotAllowed, format!("no session has begun on channel {channel}"));
                };
                match session.take(other, payload, self.frame_max) {
                    Ok(said) => self.said(channel, said),
                    Err(error) => self.fail(error.condition, error.description.unwrap_or_default()),
                }
            }
        }
    }

    fn open(&mut self, open: &Open) {
        if self.phase != Phase::Opening {
            return self.fail(AmqpError::IllegalState, "the connection is opened twice".to_owned());
        }
        let asked = usize::try_from(open.max_frame_size.0).unwrap_or(usize::MAX);
        self.frame_max = asked.clamp(definitions::MIN_MAX_FRAME_SIZE, wire::FRAME_BYTES_MAX);
        self.peer_idle = open
            .idle_time_out
            .filter(|millis| *millis > 0)
            .map(|millis| Duration::from_millis(millis.into()));
        self.greet();
        self.phase = Phase::Open;
    }

    fn greet(&mut self) {
        let answer = Open {
            container_id: "farshore".to_owned(),
            hostname: None,
            max_frame_size: u32::try_from(wire::FRAME_BYTES_MAX).unwrap_or(u32::MAX).into(),
            channel_max: (SESSIONS_MAX - 1).into(),
            idle_time_out: u32::try_from(IDLE.as_millis()).ok(),
            outgoing_locales: None,
            incoming_locales: None,
            offered_capabilities: None,
            desired_capabilities: None,
            properties: None,
        };
        self.write(0, &Performative::Open(answer));
    }

    fn begin(&mut self, channel: u16, begin: &Begin) {
        if channel >= SESSIONS_MAX || self.sessions.contains_key(&channel) {
            let why = format!("channel {channel} is in use, or above {}", SESSIONS_MAX - 1);
            return self.fail(ConnectionError::FramingError, why);
        }
        let session = Session::new(begin);
        self.write(channel, &Performative::Begin(session.begin(channel)));
        self.sessions.insert(channel, session);
    }

    fn attach(&mut self, channel: u16, attach: Attach) {
        self.serials += 1;
        let (serial, granted) = (self.serials, self.granted.is_some());
        let Some(session) = self.sessions.get_mut(&channel) else {
            return self.fail(AmqpError::NotAllowed, format!("no session has begun on channel {channel}"));
        };
        match session.attach(attach, serial, granted) {
            Ok(said) => self.said(channel, said),
            Err(error) => self.fail(error.condition, error.description.unwrap_or_default()),
        }
    }

    /// Does what a session said.
    fn said(&mut self, channel: u16, said: Vec<Said>) {
        for one in said {
            match one {
                Said::Write(performative, payload) => self.write_with(channel, &performative, &payload),
                Said::Delivery { handle, inbox, serial, delivery } => {
                    self.delivery(channel, handle, inbox, serial, delivery)
                }
                Said::Settle { lock, settled } => {
                    if let Some(granted) = &self.granted {
                        self.effects.push(Effect::Settle { hub: Arc::clone(&granted.hub), lock, settled });
                    }
                }
            }
        }
    }

    /// A whole message came.
    fn delivery(&mut self, channel: u16, handle: u32, inbox: Inbox, serial: u64, delivery: Delivery) {
        let Delivery { id, settled, bytes, too_large } = delivery;
        let mut asked = Asked { channel, handle, serial, delivery: id, settled, reply: None };
        if too_large {
            return self.settle(&asked, Err(message::error(&Refused::TooLarge)));
        }
        let question = match (inbox, &self.granted) {
            (Inbox::Tokens, _) => match message::put_token(&bytes) {
                Ok(put) => {
                    asked.reply = put.id;
                    Question::Authorize { token: put.token, audience: put.audience }
                }
                Err((reply, refused)) => {
                    asked.reply = reply;
                    return self.authorized(asked, Err(refused));
                }
            },
            (Inbox::Devicebound, Some(granted)) => match message::cloud_message(&bytes) {
                Ok(message) => Question::Send { hub: Arc::clone(&granted.hub), message: Box::new(message) },
                Err(refused) => return self.settle(&asked, Err(message::error(&refused))),
            },
            (Inbox::Devicebound, None) => {
                let refused = Refused::Unauthorized("no token was put before".to_owned());
                return self.settle(&asked, Err(message::error(&refused)));
            }
        };
        self.serials += 1;
        let ticket = Ticket(self.serials);
        self.asked.insert(ticket, asked);
        self.effects.push(Effect::Ask(ticket, question));
    }

    /// Whether the token was good is said in a message; that it was taken, in the disposition.
    fn authorized(&mut self, asked: Asked, answer: Result<Granted, Refused>) {
        let answer = answer.and_then(|granted| match &self.granted {
            Some(before) if before.hub != granted.hub => {
                Err(Refused::Unauthorized(format!("this connection is for hub {}", before.hub)))
            }
            _ => Ok(granted),
        });
        let said = message::token_answer(asked.reply.clone(), &answer);
        if let Ok(granted) = answer {
            self.granted = Some(granted);
        }
        self.settle(&asked, Ok(()));
        let place =
            self.sessions.iter().find_map(|(channel, it)| Some((*channel, it.outbox(Outbox::Tokens)?)));
        match (place, said) {
            (Some((channel, handle)), Ok(bytes)) => self.post(channel, handle, bytes, None),
            (None, _) => {}
            (_, Err(why)) => self.fail(AmqpError::InternalError, why.to_string()),
        }
    }

    /// Tells the peer what became of its message.
    fn settle(&mut self, asked: &Asked, outcome: Result<(), definitions::Error>) {
        let Some(session) = self.sessions.get_mut(&asked.channel) else { return };
        if !session.answered(asked.handle, asked.serial) {
            return;
        }
        let refill = session.refill(asked.handle);
        if !asked.settled {
            let state = match outcome {
                Ok(()) => DeliveryState::Accepted(Accepted {}),
                Err(error) => DeliveryState::Rejected(Rejected { error: Some(error) }),
            };
            self.write(asked.channel, &Performative::Disposition(disposition(asked.delivery, state)));
        }
        self.flow(asked.channel, refill);
    }

    fn post(&mut self, channel: u16, handle: u32, bytes: Vec<u8>, lock: Option<String>) {
        let Some(session) = self.sessions.get_mut(&channel) else { return };
        match session.post(handle, bytes, lock, self.frame_max) {
            Ok(said) => self.said(channel, said),
            Err(error) => self.detach(channel, handle, error),
        }
    }

    fn flow(&mut self, channel: u16, flow: Option<Flow>) {
        if let Some(flow) = flow {
            self.write(channel, &Performative::Flow(flow));
        }
    }

    fn detach(&mut self, channel: u16, handle: u32, error: definitions::Error) {
        let Some(session) = self.sessions.get_mut(&channel) else { return };
        let said = session.detach(handle, error);
        self.said(channel, said);
    }

    fn forget(&mut self, channel: u16) {
        let Some(session) = self.sessions.remove(&channel) else { return };
        let said = session.locks().map(|lock| Said::Settle { lock, settled: Settled::Abandoned }).collect();
        self.said(channel, said);
    }

    fn fail(&mut self, condition: impl Into<ErrorCondition>, why: String) {
        if self.phase == Phase::Open || self.phase == Phase::Opening {
            if self.phase == Phase::Opening {
                // An error can only be told on an opened connection.
                self.greet();
            }
            self.write(
                0,
                &Performative::Close(Close { error: Some(definitions::Error::new(condition, why, None)) }),
            );
        }
        self.close();
    }

    fn close(&mut self) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.end();
            self.effects.push(Effect::Close);
        }
    }

    fn write(&mut self, channel: u16, performative: &Performative) {
        self.write_with(channel, performative, &[]);
    }

    fn write_with(&mut self, channel: u16, performative: &Performative, payload: &[u8]) {
        if self.phase == Phase::Closed {
            return;
        }
        match wire::frame(Kind::Amqp, channel, performative, payload) {
            Ok(frame) => self.effects.push(Effect::Write(frame)),
            Err(why) => {
                tracing::warn!(%why, "a frame cannot be written");
                self.close();
            }
        }
    }

    fn sasl(&mut self, said: &impl serde::Serialize) {
        match wire::frame(Kind::Sasl, 0, said, &[]) {
            Ok(frame) => self.effects.push(Effect::Write(frame)),
            Err(why) => {
                tracing::warn!(%why, "a frame cannot be written");
                self.close();
            }
        }
    }
}

fn disposition(delivery: u32, state: DeliveryState) -> Disposition {
    Disposition {
        role: definitions::Role::Receiver,
        first: delivery,
        last: None,
        settled: true,
        state: Some(state),
        batchable: false,
    }
}

#[cfg(test)]
mod tests;
