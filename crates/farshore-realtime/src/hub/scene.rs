//! A hub with a few clients by name, for tests: what they do, and what comes to them.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::outbox::{Next, Out};
use super::*;
use crate::frames::{Message, StreamMark};

pub(super) struct Scene {
    pub(super) hub: Hub,
    clients: BTreeMap<String, Attached>,
    clock: u64,
    /// How far another hub has applied its records.
    brought: Position,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self::of(7)
    }

    pub(super) fn of(start: u128) -> Self {
        let hub = Hub::new(start, true);
        Self { hub, clients: BTreeMap::new(), clock: 1_000_000_000, brought: Position(0) }
    }

    pub(super) fn now(&self) -> Moment {
        Moment(self.clock)
    }

    pub(super) fn id(name: &str) -> ConnectionId {
        ConnectionId::parse(name).unwrap()
    }

    pub(super) fn open(&mut self, name: &str, protocol: Protocol, roles: &[&str], groups: &[&str]) {
        let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
        let arrival = Arrival {
            connection: Self::id(name),
            user: Some(UserId::parse(&format!("user-{name}")).unwrap()),
            protocol,
            permissions: Permissions::from_roles(&roles),
            groups: groups.iter().map(|group| GroupName::parse(group).unwrap()).collect(),
            state: None,
        };
        let attached = self.hub.open(arrival, None, self.seen());
        self.clients.insert(name.to_owned(), attached);
    }

    fn seen(&self) -> Seen {
        Seen { pulse: Pulse(1), now: self.now(), follows: true }
    }

    /// The client comes with its token.
    pub(super) fn recover(&mut self, name: &str) {
        let hello = |_: Protocol, _: Option<&UserId>| Bytes::from_static(b"\x81\x02{}");
        let seen = self.seen();
        let Recovery::Attached(attached, ..) = self.hub.recover(&Self::id(name), false, hello, seen) else {
            panic!("{name} was not found");
        };
        self.clients.insert(name.to_owned(), *attached);
        assert_eq!(self.take_one(name).as_deref(), Some("{}"));
    }

    /// The client goes for good.
    pub(super) fn quit(&mut self, name: &str) {
        let attached = self.clients.remove(name).unwrap();
        self.hub.detach(&Self::id(name), attached.transport, Some("bye"), self.now());
    }

    /// The client's connection is lost: it may come back.
    pub(super) fn lose(&mut self, name: &str) {
        let attached = self.clients.remove(name).unwrap();
        self.hub.detach(&Self::id(name), attached.transport, None, self.now());
    }

    /// The client gives a sign of life.
    pub(super) fn hears(&self, name: &str, pulse: Pulse) {
        self.clients[name].outbox.hears(pulse);
    }

    /// What its connection is to do, one after the other, and what it is to write.
    pub(super) fn nexts(&self, name: &str) -> Vec<(Next, Option<Out>)> {
        let (attached, context) = (&self.clients[name], Context::from_waker(Waker::noop()));
        let mut nexts = Vec::new();
        loop {
            let mut taken = Vec::new();
            match attached.outbox.poll_take(attached.transport, 1, &mut taken, &context) {
                Poll::Ready(next @ Next::Write) => nexts.push((next, taken.pop())),
                Poll::Ready(next) => {
                    nexts.push((next, None));
                    return nexts;
                }
                Poll::Pending => return nexts,
            }
        }
    }

    /// Time passes. Returns the sessions that have ended by it.
    pub(super) fn wait(&mut self, milliseconds: u64) -> Vec<Ended> {
        self.clock += milliseconds * 1_000;
        self.hub.expire(Moment(self.clock))
    }

    /// Brings records to the other hub, at most so many. Returns how many there were.
    pub(super) fn bring_to(&mut self, other: &mut Self, most: usize) -> usize {
        let records = self.hub.records_after(self.brought, usize::MAX).unwrap();
        let count = records.len();
        for (position, record) in records.into_iter().take(most) {
            let bytes = postcard::to_allocvec(&*record).unwrap();
            other.hub.apply(vec![postcard::from_bytes(&bytes).unwrap()], other.now());
            self.brought = position;
        }
        count
    }

    pub(super) fn bring_all_to(&mut self, other: &mut Self) {
        self.bring_to(other, usize::MAX);
    }

    /// Everything that has come to a client.
    pub(super) fn take(&mut self, name: &str) -> Vec<String> {
        std::iter::from_fn(|| self.take_one(name)).collect()
    }

    fn take_one(&mut self, name: &str) -> Option<String> {
        let attached = self.clients.get(name)?;
        let mut taken = Vec::new();
        let context = Context::from_waker(Waker::noop());
        match attached.outbox.poll_take(attached.transport, 1, &mut taken, &context) {
            Poll::Ready(Next::Write) => {}
            Poll::Pending | Poll::Ready(_) => return None,
        }
        taken.pop().map(|out| match out {
            Out::Frame(frame) => says(&frame),
            Out::Message(message, _) if name == "simple" => text(&message),
            Out::Message(message, _) => {
                format!("{}{}", text(&message), message.stream.as_ref().map(marked).unwrap_or_default())
            }
        })
    }
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.data.bytes()).into_owned()
}

fn marked(mark: &StreamMark) -> String {
    let end = if mark.end { " end" } else { "" };
    let fault = mark
        .error
        .as_ref()
        .map(|fault| format!(" {}: {}", fault.name, fault.message.as_deref().unwrap_or_default()));
    format!(" {}/{}{end}{}", mark.stream_id, mark.sequence, fault.unwrap_or_default())
}

/// A JSON frame's text.
pub(super) fn says(frame: &[u8]) -> String {
    let from = frame.iter().position(|byte| *byte == b'{').unwrap_or(frame.len());
    String::from_utf8_lossy(&frame[from..]).into_owned()
}
