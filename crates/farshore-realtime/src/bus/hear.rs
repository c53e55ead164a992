//! What the other nodes say, and what is done about it here.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::cards;
use super::nodes::{ASK_PATIENCE, Nodes};
use super::peers::Took;
use super::wire::{Direct, NodeId, Part, Presence, Said, Subjects, Word};
use crate::hub::call::Call;
use crate::hub::record::Position;
use crate::live::{LiveHub, now};
use crate::rest::Hubs;

/// Answers about settings, for the one who follows.
pub(super) type Told = mpsc::Sender<Direct>;

/// Hears until the bus is stopped.
pub(super) struct Ear {
    pub(super) nodes: Arc<Nodes>,
    pub(super) hubs: Arc<dyn Hubs + Send + Sync>,
    /// Why keys are not told on this bus.
    pub(super) secret_because: Option<String>,
    pub(super) told: Told,
}

/// All that is subscribed to.
pub(super) struct Subscribed {
    calls: Subscriber,
    presence: Subscriber,
    own: Subscriber,
}

impl Subscribed {
    pub(super) async fn to(nodes: &Nodes) -> Result<Self, async_nats::SubscribeError> {
        let (client, subjects) = (&nodes.client, &nodes.subjects);
        Ok(Self {
            calls: client.subscribe(subjects.calls()).await?,
            presence: client.subscribe(subjects.presence()).await?,
            own: client.subscribe(subjects.node(nodes.own)).await?,
        })
    }
}

impl Ear {
    pub(super) async fn listen(self, mut to: Subscribed) {
        loop {
            tokio::select! {
                Some(message) = to.calls.next() => self.word(&message).await,
                Some(message) = to.presence.next() => self.presence(&message).await,
                Some(message) = to.own.next() => self.direct(&message).await,
                else => return,
            }
        }
    }

    fn open<T: DeserializeOwned>(&self, message: &Message) -> Option<T> {
        let opened = self.nodes.seal.open(message.subject.as_str(), &message.payload);
        if opened.is_none() {
            self.rubbish(message);
        }
        opened
    }

    fn rubbish(&self, message: &Message) {
        self.nodes.counters.rubbish.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(subject = %message.subject, "a message on the bus is not from a node of this cluster");
    }

    async fn presence(&self, message: &Message) {
        let Some(said) = self.open::<Presence>(message).filter(|said| said.from != self.nodes.own) else {
            return;
        };
        let is_news = self.nodes.peers().heard(said, Instant::now());
        self.nodes.heard.notify_waiters();
        if is_news && !said.leaves {
            // A node that has just come knows at once who is there.
            self.nodes.announce(cards::revision(&*self.hubs, &self.nodes), false).await;
        }
    }

    async fn word(&self, message: &Message) {
        let Some(part) = self.open::<Part>(message).filter(|part| part.from != self.nodes.own) else {
            return;
        };
        let from = part.from;
        let (took, missing) = self.nodes.peers().take(part);
        let counters = &self.nodes.counters;
        counters.lost.fetch_add(missing, Ordering::Relaxed);
        match took {
            Took::Word(word) => self.whole(message, from, &word).await,
            Took::Repeated => {
                counters.repeated.fetch_add(1, Ordering::Relaxed);
            }
            Took::Nothing => {}
        }
    }

    async fn whole(&self, message: &Message, from: NodeId, word: &Bytes) {
        let hub = Subjects::hub(message.subject.as_str());
        let (Some(hub), Ok(word)) = (hub, postcard::from_bytes::<Word>(word)) else {
            return self.rubbish(message);
        };
        self.nodes.counters.received.fetch_add(1, Ordering::Relaxed);
        let (Word::Order { call, .. } | Word::Ask { call, .. }) = &word;
        // A hub that is fenced still has its clients: what is for them reaches them.
        let hub = self.hubs.named(hub.as_str()).filter(|hub| hub.takes(call));
        match (word, hub) {
            (Word::Order { call, relay: false }, Some(hub)) => {
                hub.change(|hub| hub.call(call, now()));
            }
            (Word::Order { call, relay: true }, Some(hub)) => {
                hub.change(|hub| hub.call_for_client(call, now()));
            }
            (Word::Order { .. }, None) => {}
            (Word::Ask { id, .. }, None) => self.say(from, id, Said::NotHere).await,
            (Word::Ask { id, call }, Some(hub)) => self.asked(&hub, from, id, call).await,
        }
    }

    /// Does what is asked at once, in its order, and answers when it is settled.
    async fn asked(&self, hub: &Arc<LiveHub>, from: NodeId, id: u64, call: Call) {
        let is_elsewhere = call.connection().is_some_and(|connection| !hub.has_connection(connection));
        let done = hub.change(|hub| hub.call(call, now()));
        let said = if is_elsewhere { Said::NotHere } else { Said::Here(done.value) };
        match done.position {
            None => self.say(from, id, said).await,
            Some(position) => {
                let settled =
                    say_when_settled(Arc::clone(hub), Arc::clone(&self.nodes), position, (from, id, said));
                tokio::spawn(settled);
            }
        }
    }

    fn say(&self, to: NodeId, id: u64, said: Said) -> impl Future<Output = ()> {
        say(Arc::clone(&self.nodes), to, id, said)
    }

    async fn direct(&self, message: &Message) {
        let Some(direct) = self.open::<Direct>(message) else { return };
        match direct {
            Direct::Said { from, id, said } => self.nodes.answered(from, id, said),
            Direct::WantsCards { from } => {
                let answer = match &self.secret_because {
                    None => cards::told(&*self.hubs, &self.nodes),
                    Some(why) => Direct::Refused { from: self.nodes.own, why: why.clone() },
                };
                self.nodes.tell(from, &answer).await;
            }
            // Asked for once a second at most: what finds no place is asked for again.
            told @ (Direct::Cards { .. } | Direct::Refused { .. }) => drop(self.told.try_send(told)),
        }
    }
}

/// Nobody waits for the answer longer than patience lasts.
async fn say_when_settled(
    hub: Arc<LiveHub>,
    nodes: Arc<Nodes>,
    position: Position,
    (to, id, said): (NodeId, u64, Said),
) {
    if tokio::time::timeout(ASK_PATIENCE, hub.settled(Some(position))).await.is_ok() {
        say(nodes, to, id, said).await;
    }
}

async fn say(nodes: Arc<Nodes>, to: NodeId, id: u64, said: Said) {
    nodes.tell(to, &Direct::Said { from: nodes.own, id, said }).await;
}
