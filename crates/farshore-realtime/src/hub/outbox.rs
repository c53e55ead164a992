//! What one client is owed: frames that wait to be written and, for reliable clients, messages that wait to be acknowledged.
//!
//! Shared by the hub, which puts in, and by the connection's task, which takes out. The lock is held for a few instructions.
//!
//! Must always hold: a reliable client is written nothing that the other region lacks, while that one is here; sequence numbers rise by one with each message, in the order in which the hub put them in, written or
//! not; a message leaves `kept` only when its client has acknowledged it; what is held for a client is bounded.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use farshore_core::moment::Moment;

use super::gate::Gate;
use super::record::Position;
use crate::frames::{Message, Protocol};

/// Messages kept for a reliable client that is away: the contract's figure.
pub const KEPT_MESSAGES_MAX: usize = 1_000;
/// Messages kept for one that is there: it acknowledges once a second, so this is its worst second.
pub const UNDERWAY_MESSAGES_MAX: usize = 10_000;
/// Bytes kept or waiting for one client: the contract's figure. The messages are shared between clients, so the memory is not.
pub const BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a waiting frame costs beside its bytes: its place in the queue and its allocation. A client that only sends pings and
/// reads nothing would else cost a hundred times what is counted.
const FRAME_BYTES: usize = 96;

/// One thing to write.
#[derive(Debug, Clone)]
pub enum Out {
    /// A message, with its number on protocols that have them.
    Message(Arc<Message>, Option<u64>),
    /// A whole frame.
    Frame(Bytes),
}

/// How a connection is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// A last frame for the client, in its own protocol.
    pub frame: Option<Bytes>,
    /// The close code.
    pub code: u16,
    /// The close frame's reason.
    pub reason: String,
}

/// Why a message could not be put in: its client is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooSlow;

/// What the connection's task does next.
#[derive(Debug)]
pub enum Next {
    /// Writes what was taken.
    Write,
    /// Writes nothing more but this, and goes.
    End(Box<End>),
    /// Goes: a newer transport has taken its place.
    Replaced,
}

/// What one client is owed.
pub struct Outbox {
    queue: Mutex<Queue>,
    /// When something was last heard of the client, in seconds of [`Pulse`].
    heard: AtomicU32,
}

/// Coarse seconds since the process began: fine enough to notice a client that is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pulse(pub u32);

struct Queue {
    protocol: Protocol,
    /// The transport that may take; 0: none.
    transport: u64,
    transports: u64,
    /// What is to be written, each from the moment on at which the gate is open for it.
    waiting: VecDeque<(Out, Position)>,
    /// Of the hub that it is attached to.
    gate: Option<Arc<Gate>>,
    /// It is known to the gate.
    at_gate: bool,
    waiting_bytes: usize,
    kept: VecDeque<(u64, Arc<Message>)>,
    kept_bytes: usize,
    /// Number of the last message.
    last: u64,
    end: Option<Box<End>>,
    waker: Option<Waker>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.queue();
        f.debug_struct("Outbox").field("waiting", &queue.waiting.len()).field("last", &queue.last).finish()
    }
}

/// Everything of an outbox that another region must know.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) last: u64,
    pub(super) messages: Vec<(u64, Arc<Message>)>,
}

impl Outbox {
    /// What is kept already, without a transport.
    pub(super) fn with(protocol: Protocol, kept: Kept) -> Self {
        let kept_bytes = kept.messages.iter().map(|(_, message)| message.len()).sum();
        Self {
            queue: Mutex::new(Queue {
                protocol,
                transport: 0,
                transports: 0,
                waiting: VecDeque::new(),
                gate: None,
                at_gate: false,
                waiting_bytes: 0,
                kept: kept.messages.into(),
                kept_bytes,
                last: kept.last,
                end: None,
                waker: None,
            }),
            heard: AtomicU32::new(0),
        }
    }

    /// Something was heard of the client.
    pub fn hears(&self, pulse: Pulse) {
        self.heard.store(pulse.0, Ordering::Relaxed);
    }

    /// When that was last.
    pub(super) fn heard(&self) -> Pulse {
        Pulse(self.heard.load(Ordering::Relaxed))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts in a message. `patient`: the client is there, or is another region's, which decides about it. `recorded`: where it
    /// stands in the log; a reliable client gets it when the gate is open for that.
    ///
    /// # Errors
    /// When the client is owed more than is held for one.
    pub(super) fn push(
        self: &Arc<Self>,
        message: &Arc<Message>,
        patient: bool,
        recorded: Position,
    ) -> Result<(), TooSlow> {
        let mut queue = self.queue();
        queue.last += 1;
        let (sequence, len) = (queue.last, message.len());
        let reliable = queue.protocol.is_reliable();
        if reliable {
            queue.kept.push_back((sequence, Arc::clone(message)));
            queue.kept_bytes += len;
        }
        // One that is being closed may come back for what is kept.
        if queue.transport != 0 && queue.end.is_none() {
            let out = Out::Message(Arc::clone(message), reliable.then_some(sequence));
            queue.waiting.push_back((out, if reliable { recorded } else { Position(0) }));
            queue.waiting_bytes += len;
        }
        let most = if patient { UNDERWAY_MESSAGES_MAX } else { KEPT_MESSAGES_MAX };
        let count = queue.kept.len().max(queue.waiting.len());
        if count > most || queue.kept_bytes.max(queue.waiting_bytes) > BYTES_MAX {
            return Err(TooSlow);
        }
        self.to_the_gate(queue);
        Ok(())
    }

    /// Wakes the connection's task, or has it woken when the gate opens.
    fn to_the_gate(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        let Some((_, first)) = queue.waiting.front() else { return };
        let Some(gate) = queue.gate.clone() else { return };
        if gate.is_open(*first) {
            queue.wake();
        }
        let closed = queue.waiting.back().is_some_and(|(_, last)| !gate.is_open(*last));
        if closed && !std::mem::replace(&mut queue.at_gate, true) {
            drop(queue);
            gate.wait(self);
        }
    }

    /// Whether the gate is open for the first that waits.
    pub(super) fn is_let_through(&self, gate: &Gate) -> bool {
        self.queue().waiting.front().is_some_and(|(_, first)| gate.is_open(*first))
    }

    /// The gate has opened: the task is woken if there is something for it. True: the gate may forget this outbox.
    pub(super) fn leaves_the_gate(&self, gate: &Gate) -> bool {
        let mut queue = self.queue();
        if queue.waiting.front().is_none_or(|(_, first)| gate.is_open(*first)) {
            queue.wake();
        }
        let leaves = queue.waiting.iter().all(|(_, recorded)| gate.is_open(*recorded));
        queue.at_gate = !leaves;
        leaves
    }

    /// Wakes the connection's task.
    pub(super) fn wake_up(&self) {
        self.queue().wake();
    }

    /// Puts in a frame for the present transport; without one it is dropped.
    pub fn frame(&self, frame: Bytes) {
        let mut queue = self.queue();
        if queue.transport == 0 || queue.end.is_some() {
            return;
        }
        let out = Out::Frame(frame);
        queue.waiting_bytes += out.weight();
        if queue.waiting_bytes > 2 * BYTES_MAX {
            // More than all that is kept for a client waits before it: it takes nothing.
            queue.waiting = VecDeque::new();
            queue.end = Some(Box::new(slow_client()));
        } else {
            queue.waiting.push_back((out, Position(0)));
        }
        queue.wake();
    }

    /// Nothing is put in any more; what waits is written, then `end`.
    pub fn end(&self, end: End) {
        let mut queue = self.queue();
        if queue.end.is_none() {
            queue.end = Some(Box::new(end));
            queue.wake();
        }
    }

    /// The same, without what waits: its client does not take it.
    pub(super) fn end_now(&self, end: End) {
        let mut queue = self.queue();
        queue.waiting = VecDeque::new();
        queue.waiting_bytes = 0;
        queue.end = Some(Box::new(end));
        queue.wake();
    }

    /// The client has everything up to `sequence`. False: it said so before.
    pub(super) fn acked(&self, sequence: u64) -> bool {
        let mut queue = self.queue();
        let before = queue.kept.len();
        while queue.kept.front().is_some_and(|(kept, _)| *kept <= sequence) {
            if let Some((_, message)) = queue.kept.pop_front() {
                queue.kept_bytes -= message.len();
            }
        }
        // Shrunk when quiet: thousands of clients may be idle after a burst.
        if queue.kept.is_empty() && queue.kept.capacity() > 64 {
            queue.kept = VecDeque::new();
        }
        queue.kept.len() < before
    }

    /// A new transport takes over, in place of any other. It is given everything that was not acknowledged, in order,
    /// except what is past its time. `hello` goes before everything.
    pub(super) fn attach(
        self: &Arc<Self>,
        hello: Option<Bytes>,
        now: Moment,
        recorded: Position,
        gate: &Arc<Gate>,
    ) -> u64 {
        let mut queue = self.queue();
        queue.gate = Some(Arc::clone(gate));
        queue.transports += 1;
        queue.transport = queue.transports;
        let owed =
            queue.kept.iter().filter(|(_, message)| message.expires.is_none_or(|expires| now < expires));
        let owed =
            owed.map(|(sequence, message)| (Out::Message(Arc::clone(message), Some(*sequence)), recorded));
        let waiting: VecDeque<_> =
            hello.map(|hello| (Out::Frame(hello), Position(0))).into_iter().chain(owed).collect();
        queue.waiting_bytes = queue.kept_bytes;
        queue.waiting = waiting;
        queue.end = None;
        // The task of the one before learns that it was replaced.
        queue.wake();
        let transport = queue.transport;
        self.to_the_gate(queue);
        transport
    }

    /// The transport is gone. False: another one had taken its place.
    pub(super) fn detach(&self, transport: u64) -> bool {
        let mut queue = self.queue();
        if queue.transport != transport {
            return false;
        }
        queue.transport = 0;
        queue.waiting = VecDeque::new();
        queue.waiting_bytes = 0;
        queue.waker = None;
        true
    }

    /// Numbers go on from here: see [`super::ADOPTION_GAP`].
    pub(super) fn skip(&self, by: u64) {
        let mut queue = self.queue();
        queue.last = queue.last.saturating_add(by);
    }

    /// Whether a transport is attached.
    pub(super) fn is_attached(&self) -> bool {
        self.queue().transport != 0
    }

    /// Whether its transport was told to go.
    pub(super) fn is_ending(&self) -> bool {
        self.queue().end.is_some()
    }

    /// Whether everything that was sent has been acknowledged.
    pub fn is_settled(&self) -> bool {
        let queue = self.queue();
        queue.kept.is_empty() && queue.waiting.is_empty()
    }

    pub(super) fn kept(&self) -> Kept {
        let queue = self.queue();
        Kept { last: queue.last, messages: queue.kept.iter().cloned().collect() }
    }

    /// While the socket takes nothing: whether the transport is to go all the same. `taken` is then given what
    /// waits. Else the task is woken when it is.
    pub fn poll_over(&self, transport: u64, taken: &mut Vec<Out>, context: &Context<'_>) -> Poll<Next> {
        let mut queue = self.queue();
        if queue.transport == transport && queue.end.is_none() {
            queue.waits(context);
            return Poll::Pending;
        }
        if queue.transport != transport {
            return Poll::Ready(Next::Replaced);
        }
        let is_open = |recorded| queue.gate.as_ref().is_none_or(|gate| gate.is_open(recorded));
        if !queue.waiting.iter().all(|(_, recorded)| is_open(*recorded)) {
            queue.waits(context);
            return Poll::Pending;
        }
        taken.extend(std::mem::take(&mut queue.waiting).into_iter().map(|(out, _)| out));
        queue.waiting_bytes = 0;
        Poll::Ready(queue.end.clone().map_or(Next::Replaced, Next::End))
    }

    /// Takes up to `most` things to write into `taken`, or waits for some.
    pub fn poll_take(
        &self,
        transport: u64,
        most: usize,
        taken: &mut Vec<Out>,
        context: &Context<'_>,
    ) -> Poll<Next> {
        let mut queue = self.queue();
        // An end that is there is the newer one's.
        if queue.transport != transport {
            return Poll::Ready(Next::Replaced);
        }
        let is_open = |recorded| queue.gate.as_ref().is_none_or(|gate| gate.is_open(recorded));
        let count = queue.waiting.iter().take(most).take_while(|(_, recorded)| is_open(*recorded)).count();
        if count > 0 {
            taken.extend(queue.waiting.drain(..count).map(|(out, _)| out));
            if queue.waiting.is_empty() {
                queue.waiting_bytes = 0;
                if queue.waiting.capacity() > 64 {
                    queue.waiting = VecDeque::new();
                }
            } else {
                let bytes: usize = taken[taken.len() - count..].iter().map(Out::weight).sum();
                queue.waiting_bytes = queue.waiting_bytes.saturating_sub(bytes);
            }
            return Poll::Ready(Next::Write);
        }
        if let Some(end) = queue.end.clone().filter(|_| queue.waiting.is_empty()) {
            return Poll::Ready(Next::End(end));
        }
        queue.waits(context);
        Poll::Pending
    }
}

fn slow_client() -> End {
    End { frame: None, code: super::close::POLICY, reason: "SlowClient".to_owned() }
}

impl Queue {
    /// The task is woken when there is something for it.
    fn waits(&mut self, context: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Out {
    /// What it costs while it waits. Messages are counted by their number, too.
    fn weight(&self) -> usize {
        match self {
            Self::Message(message, _) => message.len(),
            Self::Frame(frame) => FRAME_BYTES + frame.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;
    use crate::frames::{Data, Sender};

    const NOW: Moment = Moment(1);

    /// Counts how often a task is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn outbox() -> (Arc<Outbox>, u64, Arc<Gate>) {
        let (outbox, gate) =
            (Arc::new(Outbox::with(Protocol::Json, Kept::default())), Arc::<Gate>::default());
        let transport = outbox.attach(None, NOW, Position(0), &gate);
        (outbox, transport, gate)
    }

    fn poll(outbox: &Outbox, transport: u64) -> Poll<Next> {
        outbox.poll_take(transport, 1, &mut Vec::new(), &Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_transport_that_was_replaced_leaves_the_end_to_the_newer_one() {
        let (outbox, old, gate) = outbox();
        let new = outbox.attach(None, NOW, Position(0), &gate);
        outbox.end(End { frame: None, code: 1000, reason: "bye".to_owned() });
        assert!(matches!(poll(&outbox, old), Poll::Ready(Next::Replaced)));
        assert!(matches!(poll(&outbox, new), Poll::Ready(Next::End(_))));
    }

    #[test]
    fn a_client_that_asks_and_reads_nothing_is_held_no_more_than_what_is_allowed() {
        let (outbox, transport, _gate) = outbox();
        let frame = Bytes::from_static(b"\x8a\x00");
        let most = 2 * BYTES_MAX / size_of::<(Out, Position)>();
        for _ in 0..most {
            outbox.frame(frame.clone());
        }
        let Poll::Ready(Next::End(end)) = poll(&outbox, transport) else { panic!("it is still served") };
        assert_eq!(end.reason, "SlowClient");
    }

    #[test]
    fn a_client_that_is_away_is_held_few_messages_if_they_are_large() {
        let outbox = Arc::new(Outbox::with(Protocol::ReliableJson, Kept::default()));
        let message =
            |bytes: usize| Arc::new(Message::new(Sender::Server, Data::Binary(vec![0; bytes].into())));
        let one = message(1 << 20);
        let fits = BYTES_MAX / one.len();
        for number in 0..fits {
            assert!(outbox.push(&one, false, Position(0)).is_ok(), "message {number} of {fits}");
        }
        assert!(outbox.push(&one, false, Position(0)).is_err());
        assert!(fits < KEPT_MESSAGES_MAX);
        assert!(outbox.acked(1), "what it has had makes room");
        assert_eq!(outbox.kept().messages.len(), fits);
    }

    #[test]
    fn a_transport_whose_socket_is_full_is_woken_for_its_end() {
        let (outbox, transport, _gate) = outbox();
        outbox.frame(Bytes::from_static(b"one"));
        let (woken, mut taken) = (Arc::<Woken>::default(), Vec::new());
        let waker = Waker::from(Arc::clone(&woken));
        let context = Context::from_waker(&waker);
        assert!(outbox.poll_over(transport, &mut taken, &context).is_pending(), "nobody ends it");
        assert!(taken.is_empty(), "what waits is left for when there is room");
        outbox.end(End { frame: None, code: 1000, reason: "bye".to_owned() });
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        let over = outbox.poll_over(transport, &mut taken, &context);
        assert!(matches!(over, Poll::Ready(Next::End(_))) && taken.len() == 1, "{over:?} {taken:?}");
    }
}
