//! What must always hold, tried on two hubs that are each other's partner: random lives with deaths, cuts and moves.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::call::Scope;
use super::outbox::{Next, Out};
use super::*;
use crate::frames::{Data, Message, Sender};

const LIVES: u64 = 300;
const STEPS: usize = 250;
const CLIENTS: usize = 4;

/// One client, as the official ones are: it drops what it has had, by number, and comes back with what it knows.
#[derive(Debug)]
struct Client {
    connection: ConnectionId,
    /// Where its transport is.
    at: Option<(usize, Attached)>,
    last: u64,
    received: Vec<u128>,
    /// Messages that were promised while it was there.
    owed: Vec<u128>,
}

struct World {
    random: StdRng,
    hubs: [Option<Hub>; 2],
    /// How far each hub has applied the other's records; `None`: the link is down.
    applied: Option<[Position; 2]>,
    clients: Vec<Client>,
    clock: u64,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let hubs = [Some(Hub::new(1, true)), Some(Hub::new(2, true))];
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            hubs,
            applied: None,
            clients: Vec::new(),
            clock: 1_000_000_000,
            log: Vec::new(),
        };
        world.link();
        for number in 0..CLIENTS {
            world.arrive(number);
        }
        world
    }

    fn now(&mut self) -> Moment {
        self.clock += 1_000;
        Moment(self.clock)
    }

    fn seen(&mut self) -> Seen {
        Seen { pulse: Pulse(1), now: self.now(), follows: true }
    }

    fn arrive(&mut self, number: usize) {
        let connection = ConnectionId::parse(&format!("c{number}-{}", self.clock)).unwrap();
        let arrival = Arrival {
            connection: connection.clone(),
            user: None,
            protocol: Protocol::ReliableJson,
            permissions: Permissions::default(),
            groups: Vec::new(),
            state: None,
        };
        let seen = self.seen();
        let at = usize::from(self.hubs[0].is_none());
        let attached = self.hubs[at].as_mut().unwrap().open(arrival, None, seen);
        // What it is owed begins when both know it.
        self.catch_up(at);
        let client =
            Client { connection, at: Some((at, attached)), last: 0, received: Vec::new(), owed: Vec::new() };
        if number < self.clients.len() { self.clients[number] = client } else { self.clients.push(client) }
    }

    /// Both tell each other everything.
    fn link(&mut self) {
        let [Some(left), Some(right)] = &mut self.hubs else { return };
        self.clock += 1_000;
        let now = Moment(self.clock);
        let (of_left, of_right) = (left.snapshot(), right.snapshot());
        self.applied = Some([of_right.position, of_left.position]);
        left.gate().open_until(Some(of_left.position));
        right.gate().open_until(Some(of_right.position));
        left.apply_snapshot(of_right, now);
        right.apply_snapshot(of_left, now);
        // Before that a second death would be one too many.
        self.catch_up(0);
        self.catch_up(1);
    }

    /// Brings up to `count` records of `from` to the other.
    fn bring(&mut self, from: usize, count: usize) {
        let Some(applied) = self.applied else { return };
        self.clock += 1_000;
        let now = Moment(self.clock);
        let to = 1 - from;
        let records = self.hubs[from].as_ref().unwrap().records_after(applied[to], usize::MAX).unwrap();
        for (position, record) in records.into_iter().take(count) {
            self.hubs[to].as_mut().unwrap().apply(vec![(*record).clone()], now);
            self.applied.as_mut().unwrap()[to] = position;
            self.hubs[from].as_ref().unwrap().gate().open_until(Some(position));
        }
    }

    fn catch_up(&mut self, from: usize) {
        self.bring(from, usize::MAX);
    }

    /// The pair: the same message to both, each promises it when its partner has the record. Sometimes the second does not
    /// answer, and gets it from the first.
    fn publish(&mut self) {
        let id: u128 = self.random.random();
        let order = if self.random.random() { [0, 1] } else { [1, 0] };
        let mut taken = false;
        for at in order {
            // The world goes on between the two halves.
            let count = self.random.random_range(0..3);
            self.bring(self.log.len() % 2, count);
            if self.hubs[at].is_none() {
                continue;
            }
            if taken {
                self.somebody_moves(at);
            }
            let mut message = Message::new(Sender::Server, Data::Text(b"x".as_slice().into()));
            message.id = Some(id);
            let call =
                Call::Send { to: Scope::All, message: Arc::new(message), exclude: Vec::new(), filter: None };
            let now = self.now();
            if taken && self.applied.is_some() && self.random.random_range(0..8) == 0 {
                // It lives and does not answer: it gets the message over the link. It does not die before its own record of
                // it is back.
                self.hubs[1 - at].as_mut().unwrap().hand_over(call);
                self.catch_up(1 - at);
                self.catch_up(at);
                continue;
            }
            self.hubs[at].as_mut().unwrap().call(call, now);
            self.catch_up(at);
            taken = true;
        }
        if taken {
            self.clients.iter_mut().for_each(|client| client.owed.push(id));
        }
    }

    /// Between the two halves of a message: one client reads and comes over, or its region dies first.
    fn somebody_moves(&mut self, to: usize) {
        let number = self.random.random_range(0..CLIENTS);
        match self.random.random_range(0..8) {
            0 => {
                self.read(number);
                self.lose(number);
                self.recover(number, to);
            }
            1 => {
                self.kill(1 - to);
                self.recover(number, to);
            }
            _ => {}
        }
    }

    /// A message that is delivered and not promised: the other region may never hear of it.
    fn whisper(&mut self, at: usize) {
        let id: u128 = self.random.random();
        let now = self.now();
        let Some(hub) = &mut self.hubs[at] else { return };
        let mut message = Message::new(Sender::Server, Data::Text(b"x".as_slice().into()));
        message.id = Some(id);
        let call =
            Call::Send { to: Scope::All, message: Arc::new(message), exclude: Vec::new(), filter: None };
        hub.call(call, now);
        for number in 0..self.clients.len() {
            self.read(number);
        }
        if self.random.random() {
            self.kill(at);
        }
    }

    /// The pair: a region dies after it has taken the message, and before the other one knows; that one gets it, too.
    fn die_in_the_middle(&mut self, at: usize) {
        let id: u128 = self.random.random();
        for place in [at, 1 - at] {
            let now = self.now();
            let Some(hub) = &mut self.hubs[place] else { continue };
            let mut message = Message::new(Sender::Server, Data::Text(b"x".as_slice().into()));
            message.id = Some(id);
            let call =
                Call::Send { to: Scope::All, message: Arc::new(message), exclude: Vec::new(), filter: None };
            hub.call(call, now);
            for number in 0..self.clients.len() {
                self.read(number);
            }
            if place == at {
                self.kill(at);
            } else {
                self.catch_up(place);
            }
        }
        self.clients.iter_mut().for_each(|client| client.owed.push(id));
    }

    fn read(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some((at, attached)) = client.at.clone() else { return };
        let mut taken = Vec::new();
        loop {
            let next = attached.outbox.poll_take(
                attached.transport,
                3,
                &mut taken,
                &Context::from_waker(Waker::noop()),
            );
            match next {
                Poll::Ready(Next::Write) => {}
                Poll::Pending => break,
                Poll::Ready(Next::End(_) | Next::Replaced) => {
                    client.at = None;
                    let connection = client.connection.clone();
                    let now = self.now();
                    if let Some(hub) = &mut self.hubs[at] {
                        hub.detach(&connection, attached.transport, None, now);
                    }
                    break;
                }
            }
        }
        let client = &mut self.clients[number];
        for out in taken {
            let Out::Message(message, Some(sequence)) = out else { continue };
            if sequence > client.last {
                client.last = sequence;
                client.received.push(message.id.unwrap());
            }
        }
    }

    fn ack(&mut self, number: usize) {
        let client = &self.clients[number];
        let (connection, last) = (client.connection.clone(), client.last);
        if let Some((at, _)) = &client.at
            && let Some(hub) = &mut self.hubs[*at]
        {
            hub.acked(&connection, last);
        }
    }

    /// The transport breaks; what was written before may have arrived.
    fn lose(&mut self, number: usize) {
        if self.random.random() {
            self.read(number);
        }
        let client = &mut self.clients[number];
        let Some((at, attached)) = client.at.take() else { return };
        let connection = client.connection.clone();
        let now = self.now();
        if let Some(hub) = &mut self.hubs[at] {
            hub.detach(&connection, attached.transport, None, now);
        }
    }

    /// The client comes to a region with its token.
    fn recover(&mut self, number: usize, at: usize) {
        if self.hubs[at].is_none() || self.clients[number].at.is_some() {
            return;
        }
        let connection = self.clients[number].connection.clone();
        for attempt in 0..3 {
            let (is_here, seen) = (self.applied.is_some(), self.seen());
            let hello = |_: Protocol, _: Option<&UserId>| Bytes::from_static(b"hello");
            match self.hubs[at].as_mut().unwrap().recover(&connection, is_here, hello, seen) {
                Recovery::Attached(attached, ..) => {
                    self.clients[number].at = Some((at, *attached));
                    return self.catch_up(at);
                }
                Recovery::Elsewhere => {
                    self.hubs[1 - at].as_mut().unwrap().release(&connection);
                    self.catch_up(1 - at);
                }
                // The other region has adopted it and has not said so yet.
                Recovery::Unknown if attempt == 0 && self.applied.is_some() => self.catch_up(1 - at),
                Recovery::Unknown => panic!("{connection} is unknown in {at}\n{}", self.log.join("\n")),
            }
        }
        panic!("{connection} was not released\n{}", self.log.join("\n"));
    }

    fn kill(&mut self, at: usize) {
        if self.hubs[1 - at].is_none() {
            return;
        }
        self.hubs[at] = None;
        self.applied = None;
        self.hubs[1 - at].as_ref().unwrap().gate().open_until(None);
        for number in 0..self.clients.len() {
            if self.clients[number].at.as_ref().is_some_and(|(there, _)| *there == at) {
                self.lose(number);
            }
        }
    }

    fn start(&mut self, at: usize) {
        if self.hubs[at].is_none() {
            self.hubs[at] = Some(Hub::new(self.random.random(), true));
            // The survivor may have adopted by then, or not.
            if self.random.random() {
                let now = self.now();
                self.hubs[1 - at].as_mut().unwrap().adopt(now);
            }
            self.link();
        }
    }

    fn step(&mut self) {
        let (number, at) = (self.random.random_range(0..CLIENTS), self.random.random_range(0..2));
        let what = self.random.random_range(0..100);
        self.log.push(format!("{} {what} client {number} region {at}", self.log.len()));
        match what {
            0..30 => self.publish(),
            30..45 => self.read(number),
            45..60 => self.ack(number),
            60..70 => self.lose(number),
            70..85 => self.recover(number, at),
            85..88 => self.kill(at),
            88..93 => self.start(at),
            93..97 => {
                let now = self.now();
                if self.hubs[1 - at].is_none() {
                    self.hubs[at].as_mut().unwrap().adopt(now);
                }
            }
            97 => self.whisper(at),
            98 => self.die_in_the_middle(at),
            _ => self.bring(at, 2),
        }
    }

    fn end(&mut self) {
        let at = usize::from(self.hubs[0].is_none());
        for number in 0..self.clients.len() {
            self.read(number);
            if self.clients[number].at.is_none() {
                self.recover(number, at);
            }
            self.read(number);
            self.clients[number].at.as_ref().expect("attached at the end");
        }
    }

    fn check(&self, seed: u64) {
        for client in &self.clients {
            let mut times: BTreeMap<u128, usize> = BTreeMap::new();
            client.received.iter().for_each(|id| *times.entry(*id).or_default() += 1);
            let lost: Vec<_> = client.owed.iter().filter(|id| !times.contains_key(id)).collect();
            let twice: Vec<_> = times.iter().filter(|(_, count)| **count > 1).collect();
            assert!(
                lost.is_empty() && twice.is_empty(),
                "life {seed}, {}: owed {}, received {}, lost {lost:?}, twice {twice:?}\n{}",
                client.connection,
                client.owed.len(),
                client.received.len(),
                self.log.join("\n"),
            );
        }
    }
}

#[test]
fn whatever_dies_or_moves_every_promised_message_arrives_once() {
    for seed in 0..LIVES {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.end();
        world.check(seed);
    }
}
