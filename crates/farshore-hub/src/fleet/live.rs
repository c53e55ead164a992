//! One connected device: what waits to be sent to it, and what it has yet to answer.
//!
//! There are as many of these as devices are connected, and nearly all are idle: nothing here allocates before it is needed.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use farshore_core::moment::Moment;
use tokio::sync::{Notify, oneshot};

use crate::mqtt::behind::{Closing, Outgoing, Sent};
use crate::names::{Key, Subs};
use crate::registry::Device;
use crate::sas::KeyMark;

/// Changes of desired properties that wait for a device that does not read. One that is so far behind is disconnected: it asks for
/// its whole twin when it is back.
const DESIRED_WAITING_MAX: usize = 128;

/// Methods that wait for one device's answer at once; more are refused.
pub(crate) const METHODS_WAITING_MAX: usize = 64;

/// What a device answered to a method.
pub(crate) type Answer = (i32, Bytes);

/// A device has more methods to answer than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotCalled {
    /// It is going, or not subscribed.
    Away,
    /// Too many wait already.
    TooMany,
}

/// One connection of one device.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) key: Key,
    /// Tells this connection from the device's earlier and later ones.
    pub(crate) number: u64,
    /// The hub's opening in which it was admitted.
    pub(crate) opening: u64,
    pub(crate) since: Moment,
    /// Which life of the device it speaks for.
    pub(crate) generation: Arc<str>,
    /// Of the device's credentials when it was admitted.
    pub(crate) credentials: u64,
    /// The key of a policy that it was admitted by; `None`: by those credentials.
    pub(crate) policy: Option<KeyMark>,
    /// When it was last heard of, and what the registry says of that; in microseconds.
    heard: AtomicU64,
    kept: AtomicU64,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    subs: Subs,
    /// Why it is to be closed; nothing else is sent then.
    closing: Option<Closing>,
    told: bool,
    /// Desired properties up to this version are known to the device or wait for it.
    desired_version: u64,
    desired: VecDeque<(u64, Bytes)>,
    methods: VecDeque<Call>,
    answers: Vec<(u64, oneshot::Sender<Answer>)>,
    messages: VecDeque<Waiting>,
    delivered: Vec<Delivered>,
    /// The registry has messages for it that are not here yet.
    look: bool,
}

#[derive(Debug)]
struct Call {
    rid: u64,
    name: String,
    body: Bytes,
}

/// A cloud-to-device message that waits for its turn.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) id: Arc<str>,
    pub(crate) expires: Option<Moment>,
    pub(crate) sent: Sent,
}

/// A cloud-to-device message that was sent over this connection.
#[derive(Debug)]
struct Delivered {
    lock: u64,
    id: Arc<str>,
    is: Is,
}

/// How far it is. What the registry was seen to hold may be older than the device's answer, so an answered message is remembered until
/// its end is durable and the registry is looked at anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Sent,
    Answered,
    Ended,
}

/// A fingerprint that is never kept: whole credentials in every connection would be large.
fn credentials(device: &Device) -> u64 {
    let mut hasher = DefaultHasher::new();
    device.auth.hash(&mut hasher);
    hasher.finish()
}

/// What there is to do for a connection.
#[derive(Debug)]
pub(crate) enum Next {
    /// Something for the device.
    Send(Outgoing),
    /// A message, on its way from now on.
    Message(Waiting),
    /// Look what messages the registry has, and give them to [`Live::offer`].
    Look,
}

impl Live {
    /// A connection of `device`, which is subscribed to `subs`.
    pub(crate) fn new(device: &Device, number: u64, opening: u64, since: Moment, subs: Subs) -> Self {
        Self {
            key: device.key.clone(),
            number,
            opening,
            since,
            generation: Arc::clone(&device.generation),
            credentials: credentials(device),
            policy: None,
            heard: AtomicU64::new(since.0),
            kept: AtomicU64::new(device.last_seen.0),
            state: Mutex::new(State { subs, look: subs.messages.is_some(), ..State::default() }),
            wake: Notify::new(),
        }
    }

    /// The device said something.
    pub(crate) fn hear(&self, at: Moment) {
        self.heard.fetch_max(at.0, Ordering::Relaxed);
    }

    /// The registry says this now.
    pub(crate) fn kept(&self, at: Moment) {
        self.kept.fetch_max(at.0, Ordering::Relaxed);
    }

    /// When it was last heard of, and what the registry says of that.
    pub(crate) fn heard(&self) -> (Moment, Moment) {
        (Moment(self.heard.load(Ordering::Relaxed)), Moment(self.kept.load(Ordering::Relaxed)))
    }

    /// It was admitted by a key of a policy.
    pub(crate) fn let_in_by(self, policy: Option<KeyMark>) -> Self {
        Self { policy, ..self }
    }

    /// Whether the device, as it is now, would be let in by what this connection has shown.
    pub(crate) fn is_let_in(&self, device: &Device) -> bool {
        device.enabled && device.generation == self.generation && credentials(device) == self.credentials
    }

    pub(crate) fn subs(&self) -> Subs {
        self.state().subs
    }

    /// The device is subscribed to exactly this now.
    pub(crate) fn subscribe(&self, subs: Subs) {
        let mut state = self.state();
        state.look |= subs.messages.is_some() && state.subs.messages.is_none();
        state.subs = subs;
        drop(state);
        self.wake.notify_one();
    }

    /// The connection is to end. The first reason counts; callers who wait for an answer of this device are told at once.
    pub(crate) fn close(&self, why: Closing) {
        let mut state = self.state();
        if state.closing.is_none() {
            state.closing = Some(why);
        }
        state.methods.clear();
        state.answers.clear();
        drop(state);
        self.wake.notify_one();
    }

    /// Nobody gets an answer any more: who calls is told at once, and nothing that was not sent yet is sent.
    pub(crate) fn abandon_calls(&self) {
        let mut state = self.state();
        state.methods.clear();
        state.answers.clear();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.state().closing.is_some()
    }

    /// Desired properties up to `version` need not be sent: the device reads them with its twin.
    pub(crate) fn knows_desired(&self, version: u64) {
        let mut state = self.state();
        state.desired_version = state.desired_version.max(version);
    }

    /// A change of the desired properties. One that is known already is not sent again.
    pub(crate) fn push_desired(&self, version: u64, body: Bytes) {
        let mut state = self.state();
        if version <= state.desired_version {
            return;
        }
        state.desired_version = version;
        if state.subs.desired.is_none() {
            return;
        }
        state.desired.push_back((version, body));
        let behind = state.desired.len() > DESIRED_WAITING_MAX;
        drop(state);
        if behind {
            self.close(Closing::Leaving);
        }
        self.wake.notify_one();
    }

    /// Whether there were changes of desired properties that this device has not been told of.
    pub(crate) fn misses_desired(&self, version: u64) -> bool {
        let state = self.state();
        state.subs.desired.is_some() && state.desired_version < version
    }

    /// Calls a method; the receiver fails when the connection ends first.
    pub(crate) fn call(
        &self,
        rid: u64,
        name: &str,
        body: Bytes,
    ) -> Result<oneshot::Receiver<Answer>, NotCalled> {
        let mut state = self.state();
        if state.closing.is_some() || state.subs.methods.is_none() {
            return Err(NotCalled::Away);
        }
        if state.answers.len() >= METHODS_WAITING_MAX {
            return Err(NotCalled::TooMany);
        }
        let (answer, answered) = oneshot::channel();
        state.answers.push((rid, answer));
        state.methods.push_back(Call { rid, name: name.to_owned(), body });
        drop(state);
        self.wake.notify_one();
        Ok(answered)
    }

    /// Nobody waits for this answer any more. A method that was not sent yet is never sent.
    pub(crate) fn give_up(&self, rid: u64) {
        let mut state = self.state();
        state.methods.retain(|call| call.rid != rid);
        state.answers.retain(|(waiting, _)| *waiting != rid);
    }

    /// The device answered. Answers that nobody waits for are dropped.
    pub(crate) fn answer(&self, rid: u64, answer: Answer) {
        let mut state = self.state();
        if let Some(at) = state.answers.iter().position(|(waiting, _)| *waiting == rid) {
            let (_, waiting) = state.answers.swap_remove(at);
            drop(state);
            // The caller may have gone meanwhile: then nobody wants to know.
            let _ = waiting.send(answer);
        }
    }

    /// There may be new messages in the registry.
    pub(crate) fn look_for_messages(&self) {
        self.state().look = true;
        self.wake.notify_one();
    }

    /// What the registry holds for this device, in its order. What waits here or is on its way already is not taken twice.
    pub(crate) fn offer(&self, messages: impl IntoIterator<Item = Waiting>) {
        let mut state = self.state();
        for message in messages {
            let known = state.messages.iter().any(|waiting| waiting.id == message.id)
                || state.delivered.iter().any(|delivered| delivered.id == message.id);
            if !known {
                state.messages.push_back(message);
            }
        }
    }

    /// The device has the message that was sent under this lock; `None`: there is none, or it said so before.
    pub(crate) fn answered(&self, lock: u64) -> Option<Arc<str>> {
        let mut state = self.state();
        let delivered = state.delivered.iter_mut().find(|delivered| delivered.lock == lock)?;
        (std::mem::replace(&mut delivered.is, Is::Answered) == Is::Sent).then(|| Arc::clone(&delivered.id))
    }

    /// That it has it is durable.
    pub(crate) fn ended(&self, id: &str) {
        let mut state = self.state();
        for delivered in state.delivered.iter_mut().filter(|delivered| &*delivered.id == id) {
            delivered.is = Is::Ended;
        }
        state.look = true;
        drop(state);
        self.wake.notify_one();
    }

    /// A message was not sent after all.
    pub(crate) fn unsent(&self, lock: u64) {
        let mut state = self.state();
        state.delivered.retain(|delivered| delivered.lock != lock);
        state.look = true;
        drop(state);
        self.wake.notify_one();
    }

    /// Whether this message was sent over this connection and not answered yet.
    pub(crate) fn has_on_its_way(&self, id: &str) -> bool {
        self.state().delivered.iter().any(|delivered| &*delivered.id == id)
    }

    /// Messages that are not to be sent any more: purged, or their time is over.
    pub(crate) fn forget_messages(&self) {
        self.state().messages.clear();
    }

    /// What is to be done next; pending while there is nothing. May be dropped at any time and has lost nothing.
    pub(crate) async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            // A notification since `take` is kept by `Notify`.
            self.wake.notified().await;
        }
    }

    fn take(&self) -> Option<Next> {
        let mut state = self.state();
        if let Some(why) = state.closing {
            return (!std::mem::replace(&mut state.told, true)).then_some(Next::Send(Outgoing::Close(why)));
        }
        if state.subs.desired.is_some()
            && let Some((version, body)) = state.desired.pop_front()
        {
            return Some(Next::Send(Outgoing::Desired { version, body }));
        }
        if state.subs.methods.is_some()
            && let Some(Call { rid, name, body }) = state.methods.pop_front()
        {
            return Some(Next::Send(Outgoing::Method { rid: format!("{rid:x}"), name, body }));
        }
        state.subs.messages?;
        if std::mem::take(&mut state.look) {
            state.delivered.retain(|delivered| delivered.is != Is::Ended);
            return Some(Next::Look);
        }
        let message = state.messages.pop_front()?;
        state.delivered.push(Delivered {
            lock: message.sent.lock,
            id: Arc::clone(&message.id),
            is: Is::Sent,
        });
        Some(Next::Message(message))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
