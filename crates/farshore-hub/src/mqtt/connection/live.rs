//! The loop of a connection that was let in: `wait` waits, `apply` decides, nothing awaits in between.

use std::fmt;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::moment::Moment;
use rmqtt_codec::types::Publish;
use rmqtt_codec::v3::{Packet, QoS, SubscribeReturnCode};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::debug;

use super::super::behind::{Closing, NotKept, Outgoing, Sent, Session, Telemetered};
use super::super::listener::{Stop, Stopping};
use super::super::topic::{self, Published};
use super::super::wire::{Turn, Wire};
use super::acks::Acks;
use super::deliveries::Deliveries;
use super::requests::{Reply, Request, Requests};
use super::{Guest, LAST_WORD_WITHIN, MESSAGE_MAX, last_word};
use crate::names::{Key, Subs};

/// The longest silence that is allowed, whatever a device promised; from the contract.
const SILENCE_MAX: Duration = Duration::from_secs(1767);
/// While so much is queued for a device nothing more is taken for it, neither from it nor from the hub.
const QUEUED_MAX: usize = 256 * 1024;
/// A device that takes none of what is queued for it for so long is gone, or is to connect again.
const DEAF_WITHIN: Duration = Duration::from_secs(30);
/// Before the connection is closed because something was not kept: the device connects again at once, and by then the hub elsewhere
/// may serve.
const NOT_KEPT_PAUSE: Duration = Duration::from_secs(1);
/// Most subscriptions of a device; from the contract.
const SUBSCRIPTIONS_MAX: usize = 5;

/// A connection at work.
pub(super) struct Live {
    wire: Wire,
    session: Arc<dyn Session>,
    key: Key,
    subs: Subs,
    will: Option<Box<Telemetered>>,
    acks: Acks,
    due: Vec<NonZeroU16>,
    requests: Requests,
    deliveries: Deliveries,
    mode: Mode,
    /// What the device must not exceed without saying anything.
    silence: Duration,
    heard: Instant,
    expires: Option<Instant>,
    /// Since when the device has taken nothing of what is queued.
    stuck: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serving,
    /// Nothing is read any more; the connection ends when all that was read is acknowledged and answered.
    Draining,
}

/// What was waited for.
enum Happened {
    Stop,
    Due(Result<(), NotKept>),
    Replied(Reply),
    Outgoing(Outgoing),
    Turn(Turn),
    Time,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the device said good-bye")]
    Disconnected,
    #[error("the device is gone")]
    Gone,
    #[error("the device was silent for too long")]
    Silent,
    #[error("the device does not read what it is sent")]
    Deaf,
    #[error("the device broke the rules: {0}")]
    Broken(String),
    #[error("the device's token has expired")]
    Expired,
    #[error("{0}")]
    Closing(Closing),
    #[error("a message was not kept: {0}")]
    NotKept(NotKept),
    #[error("the listener stops")]
    Stopped,
}

impl End {
    /// Whether the device's will counts: it did not take its leave, and it was not us who left.
    fn is_death(&self) -> bool {
        match self {
            Self::Gone | Self::Silent | Self::Deaf | Self::Broken(_) | Self::Expired => true,
            Self::Closing(closing) => *closing == Closing::Replaced,
            Self::Disconnected | Self::NotKept(_) | Self::Stopped => false,
        }
    }
}

fn broken(why: impl fmt::Display) -> End {
    End::Broken(why.to_string())
}

impl Live {
    pub(super) fn new(wire: Wire, guest: Guest, now: Moment) -> Self {
        let Guest { hello, session, will } = guest;
        let heard = Instant::now();
        let silence = if hello.keep_alive.is_zero() {
            SILENCE_MAX
        } else {
            (hello.keep_alive + hello.keep_alive / 2).min(SILENCE_MAX)
        };
        Self {
            subs: session.subscriptions(),
            expires: session.expires().map(|expires| heard + expires.since(now)),
            wire,
            session,
            key: hello.key,
            will: will.map(Box::new),
            acks: Acks::default(),
            due: Vec::new(),
            requests: Requests::default(),
            deliveries: Deliveries::default(),
            mode: Mode::Serving,
            silence,
            heard,
            stuck: None,
            timer: Box::pin(sleep(silence)),
        }
    }

    /// Until the connection is over and everything that follows from its end is done.
    pub(super) async fn run(mut self, mut stop: Stop) {
        let end = self.live(&mut stop).await;
        debug!(key = %self.key, "closed: {end}");
        tokio::select! {
            () = Box::pin(self.settle(&end)) => {}
            () = stop.now() => {}
        }
        let will = self.will.take().filter(|_| end.is_death());
        self.session.closed(will.map(|will| *will)).await;
        if !matches!(end, End::Gone) {
            tokio::select! {
                _ = timeout(LAST_WORD_WITHIN, last_word(&mut self.wire)) => {}
                () = stop.now() => {}
            }
        }
    }

    async fn live(&mut self, stop: &mut Stop) -> End {
        if let Err(end) = self.digest() {
            return end;
        }
        loop {
            let happened = self.wait(stop).await;
            if let Err(end) = self.apply(happened).and_then(|()| self.digest()) {
                return end;
            }
            if self.mode == Mode::Draining && self.is_drained() {
                return End::Stopped;
            }
        }
    }

    /// In this order, because what is durable is worth telling before anything new is begun.
    async fn wait(&mut self, stop: &mut Stop) -> Happened {
        self.arm();
        let room = self.has_room();
        let serving = self.mode == Mode::Serving;
        let queued = self.wire.queued();
        let stage = if serving { Stopping::Soon } else { Stopping::Now };
        tokio::select! {
            biased;
            () = stop.reached(stage) => Happened::Stop,
            due = self.acks.due(&mut self.due) => Happened::Due(due),
            reply = self.requests.done(&self.session) => Happened::Replied(reply),
            outgoing = self.session.next(), if serving && queued < QUEUED_MAX => Happened::Outgoing(outgoing),
            turn = self.wire.turn(room) => Happened::Turn(turn),
            () = self.timer.as_mut() => Happened::Time,
        }
    }

    fn apply(&mut self, happened: Happened) -> Result<(), End> {
        match happened {
            Happened::Stop if self.mode == Mode::Draining => return Err(End::Stopped),
            Happened::Stop => self.mode = Mode::Draining,
            Happened::Due(kept) => {
                kept.map_err(End::NotKept)?;
                for packet_id in std::mem::take(&mut self.due) {
                    self.queue(Packet::PublishAck { packet_id })?;
                }
            }
            Happened::Replied(reply) => self.reply(reply)?,
            Happened::Outgoing(outgoing) => self.send(outgoing)?,
            Happened::Turn(Turn::Written(Ok(()))) => self.stuck = None,
            Happened::Turn(Turn::Filled(Ok(1..))) => self.heard = Instant::now(),
            Happened::Turn(Turn::Written(Err(_)) | Turn::Filled(Ok(0) | Err(_))) => return Err(End::Gone),
            Happened::Time => self.check_time(Instant::now())?,
        }
        Ok(())
    }

    /// Whether more may be read from the device.
    fn has_room(&self) -> bool {
        self.mode == Mode::Serving
            && !self.acks.is_full()
            && !self.requests.is_full()
            && self.wire.queued() < QUEUED_MAX
    }

    fn is_drained(&self) -> bool {
        self.acks.is_empty() && self.requests.is_empty() && self.wire.is_flushed()
    }

    /// Takes every packet that is whole, as far as there is room for what follows from it.
    fn digest(&mut self) -> Result<(), End> {
        while self.has_room() {
            match self.wire.packet().map_err(broken)? {
                Some(packet) => self.packet(packet)?,
                None => break,
            }
        }
        Ok(())
    }

    fn packet(&mut self, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.publish(*publish),
            Packet::PublishAck { packet_id } => {
                if let Some(lock) = self.deliveries.close(packet_id) {
                    self.requests.push(Request::Completed { lock });
                }
                Ok(())
            }
            Packet::Subscribe { packet_id, topic_filters } => self.subscribe(packet_id, &topic_filters),
            Packet::Unsubscribe { packet_id, topic_filters } => self.unsubscribe(packet_id, &topic_filters),
            Packet::PingRequest => self.queue(Packet::PingResponse),
            Packet::Disconnect => Err(End::Disconnected),
            Packet::Connect(_) => Err(broken("a second CONNECT")),
            _ => Err(broken("a packet that only a server may send, or only with quality of service 2")),
        }
    }

    fn publish(&mut self, publish: Publish) -> Result<(), End> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(broken("quality of service 2 is not spoken here: publish with 0 or 1"));
        }
        let published = topic::published(&self.key, &publish.topic);
        let published = published.map_err(|why| broken(format_args!("{:?}: {why}", &*publish.topic)))?;
        let body = publish.payload;
        let request = match published {
            Published::Telemetry(mut event) => {
                if body.len() > MESSAGE_MAX {
                    return Err(broken(format_args!(
                        "a message of {} bytes: at most {MESSAGE_MAX}",
                        body.len()
                    )));
                }
                if publish.retain {
                    topic::mark_retained(&mut event);
                }
                let len = body.len() + publish.topic.len();
                event.body = body;
                self.acks.when(publish.packet_id, len, self.session.telemetry(event));
                return Ok(());
            }
            Published::Twin { rid } => Request::Twin { rid },
            Published::Reported { rid } => Request::Report { rid, body },
            Published::Answer { rid, status } => Request::Answer { rid, status, body },
        };
        self.requests.push(request);
        self.acks.in_turn(publish.packet_id);
        Ok(())
    }

    fn subscribe(&mut self, packet: NonZeroU16, filters: &[(impl AsRef<str>, QoS)]) -> Result<(), End> {
        let mut granted = Vec::with_capacity(filters.len());
        for (nth, (filter, qos)) in filters.iter().enumerate() {
            if nth >= SUBSCRIPTIONS_MAX {
                granted.push(SubscribeReturnCode::Failure);
                continue;
            }
            let at_most = qos.less_value(QoS::AtLeastOnce);
            *self.slot(filter.as_ref())? = Some(at_most.value());
            granted.push(SubscribeReturnCode::Success(at_most));
        }
        self.requests.push(Request::Subscribe { subs: self.subs, packet, granted });
        Ok(())
    }

    fn unsubscribe(&mut self, packet: NonZeroU16, filters: &[impl AsRef<str>]) -> Result<(), End> {
        for filter in filters {
            *self.slot(filter.as_ref())? = None;
        }
        self.requests.push(Request::Unsubscribe { subs: self.subs, packet });
        Ok(())
    }

    fn slot(&mut self, filter: &str) -> Result<&mut Option<u8>, End> {
        let known = topic::filter(&self.key, filter);
        Ok(known.map_err(|why| broken(format_args!("{filter:?}: {why}")))?.of(&mut self.subs))
    }

    fn reply(&mut self, reply: Reply) -> Result<(), End> {
        match reply {
            Reply::Nothing => Ok(()),
            Reply::Twin { topic, body } => self.deliver(self.subs.twin, topic, body),
            Reply::Subscribed { packet, granted } => {
                self.queue(Packet::SubscribeAck { packet_id: packet, status: granted })
            }
            Reply::Unsubscribed { packet } => self.queue(Packet::UnsubscribeAck { packet_id: packet }),
            Reply::NotKept(why) => Err(End::NotKept(why)),
        }
    }

    fn send(&mut self, outgoing: Outgoing) -> Result<(), End> {
        match outgoing {
            Outgoing::Message(sent) => self.message(sent),
            Outgoing::Desired { version, body } => {
                self.deliver(self.subs.desired, topic::desired(version), body)
            }
            Outgoing::Method { rid, name, body } => {
                self.deliver(self.subs.methods, topic::method(&name, &rid), body)
            }
            Outgoing::Close(closing) => Err(End::Closing(closing)),
        }
    }

    /// A message is only over when the device has it: with quality of service 0, when it is on its way.
    fn message(&mut self, sent: Sent) -> Result<(), End> {
        let topic = topic::message(&self.key, &sent);
        let Some(qos) = self.subs.messages else { return Ok(()) };
        let packet_id = if qos == 0 { None } else { Some(self.open(Some(sent.lock))?) };
        let publish = publication(topic, packet_id, packet_id.is_some() && sent.again, sent.body);
        match self.wire.queue(publish.into()) {
            Ok(()) if qos == 0 => self.requests.push(Request::Completed { lock: sent.lock }),
            Ok(()) => {}
            Err(why) => debug!(key = %self.key, "a message cannot be sent: {why}"),
        }
        Ok(())
    }

    fn deliver(&mut self, granted: Option<u8>, topic: String, body: bytes::Bytes) -> Result<(), End> {
        let Some(qos) = granted else { return Ok(()) };
        let packet_id = if qos == 0 { None } else { Some(self.open(None)?) };
        self.queue(publication(topic, packet_id, false, body).into())
    }

    fn open(&mut self, lock: Option<u64>) -> Result<NonZeroU16, End> {
        self.deliveries.open(lock).ok_or(End::Deaf)
    }

    fn queue(&mut self, packet: Packet) -> Result<(), End> {
        self.wire.queue(packet).map_err(broken)
    }
}

fn publication(topic: String, packet_id: Option<NonZeroU16>, dup: bool, payload: bytes::Bytes) -> Publish {
    let qos = if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    Publish { dup, retain: false, qos, topic: topic.into(), packet_id, payload, properties: None }
}

/// Time.
impl Live {
    /// Sets the timer to whatever must be looked at next. It is moved when it has rung and when it would ring too late, not
    /// with every packet.
    fn arm(&mut self) {
        if self.wire.is_flushed() {
            self.stuck = None;
        } else if self.stuck.is_none() {
            self.stuck = Some(Instant::now());
        }
        let silent = self.heard + self.silence;
        let deaf = self.stuck.map_or(silent, |since| since + DEAF_WITHIN);
        let next = silent.min(deaf).min(self.expires.unwrap_or(silent));
        if self.timer.is_elapsed() || next < self.timer.deadline() {
            self.timer.as_mut().reset(next);
        }
    }

    fn check_time(&mut self, now: Instant) -> Result<(), End> {
        if self.expires.is_some_and(|expires| expires <= now) {
            return Err(End::Expired);
        }
        if self.stuck.is_some_and(|since| since + DEAF_WITHIN <= now) {
            return Err(End::Deaf);
        }
        if self.heard + self.silence <= now {
            // Who is not listened to cannot be heard.
            if self.has_room() {
                return Err(End::Silent);
            }
            self.heard = now;
        }
        Ok(())
    }
}

/// The end.
impl Live {
    /// What was taken from the device is brought to its end, and what is acknowledged is told.
    async fn settle(&mut self, end: &End) {
        let _ = timeout(LAST_WORD_WITHIN, self.finish_requests()).await;
        let _ = timeout(LAST_WORD_WITHIN, self.wire.flush()).await;
        if let End::NotKept(_) = end {
            sleep(NOT_KEPT_PAUSE).await;
        }
    }

    async fn finish_requests(&mut self) {
        while !self.requests.is_empty() {
            self.requests.done(&self.session).await;
        }
    }
}
