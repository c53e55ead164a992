//! This node's place among the nodes of its region: what it tells them and what it asks them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout_at;

use super::peers::Peers;
use super::wire::{Direct, NodeId, PART_MAX, Part, Presence, Said, Seal, Subjects, Word};
use crate::hub::call::{Answer, Call, Member};
use crate::live::{AskError, LiveHub, now};
use crate::names::HubName;

/// Answers of other nodes are waited for so long: a hundred times what they take when all is well, and little for a caller.
pub(super) const ASK_PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of words that wait for the bus; those beyond are dropped and counted.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Words that wait for the bus: small ones cost more than their bytes.
const WAITING_MAX: usize = 65_536;
/// When the bus is back, the nodes that were there before are waited for so long: they come back within the longest pause
/// between two attempts.
const BACK_PATIENCE: Duration = Duration::from_secs(3);
/// What a part costs beside its piece.
const PART_EXTRA: usize = 256;
/// Members in one answer: a page of REST has 200 and one more; each may have 1 KiB of names, and the bus takes 1 MiB.
const MEMBERS_MAX: usize = 500;

/// What happened since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) published: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) rubbish: AtomicU64,
    pub(super) unanswered: AtomicU64,
}

/// One word on its way to the bus.
#[derive(Debug)]
pub(super) struct Outgoing {
    subject: String,
    word: Bytes,
}

/// The other nodes of the region, as a hub sees them.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(super) own: NodeId,
    pub(super) subjects: Subjects,
    pub(super) seal: Seal,
    pub(super) client: async_nats::Client,
    pub(super) connected: watch::Sender<bool>,
    pub(super) counters: Counters,
    /// Told when a node was heard.
    pub(super) heard: Notify,
    /// Names of the hubs that are served here because another node has them.
    pub(super) followed: Mutex<HashSet<HubName>>,
    peers: Mutex<Peers>,
    waiting: mpsc::Sender<Outgoing>,
    waiting_bytes: AtomicUsize,
    asked: Mutex<HashMap<u64, mpsc::Sender<(NodeId, Said)>>>,
}

impl Nodes {
    pub(super) fn new(
        subjects: Subjects,
        seal: Seal,
        client: async_nats::Client,
        connected: watch::Sender<bool>,
    ) -> (Arc<Self>, mpsc::Receiver<Outgoing>) {
        let (waiting, outgoing) = mpsc::channel(WAITING_MAX);
        let nodes = Self {
            own: NodeId::random(),
            subjects,
            seal,
            client,
            connected,
            counters: Counters::default(),
            heard: Notify::new(),
            followed: Mutex::default(),
            peers: Mutex::default(),
            waiting,
            waiting_bytes: AtomicUsize::new(0),
            asked: Mutex::default(),
        };
        (Arc::new(nodes), outgoing)
    }

    pub(super) fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn followed(&self) -> MutexGuard<'_, HashSet<HubName>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    // -- what a hub asks ----------------------------------------------------------------------------------------

    /// Has something done by all nodes, without waiting for them. `relay`: it is a client's own message.
    pub(crate) fn order(&self, hub: &HubName, call: Call, relay: bool) {
        self.say(hub, &Word::Order { call, relay });
    }

    /// Asks this node and, where it matters, the others.
    ///
    /// # Errors
    /// When the answer depends on nodes that did not give theirs.
    pub(crate) async fn ask(&self, hub: &Arc<LiveHub>, call: Call) -> Result<Answer, AskError> {
        if let Some(connection) = call.connection() {
            let is_here = hub.has_connection(connection);
            // Here in any case: a message is remembered for a session that may come from the other region.
            let answer = hub.ask_here(call.clone()).await;
            return if is_here { Ok(answer) } else { self.seek(hub, call, answer).await };
        }
        let asks = call.is_question() || matches!(call, Call::UserJoin { .. });
        if asks {
            return self.ask_all(hub, call).await;
        }
        let done = hub.change(|hub| hub.call(call.clone(), now()));
        self.order(hub.name(), call, false);
        hub.settled(done.position).await;
        Ok(done.value)
    }

    async fn ask_all(&self, hub: &Arc<LiveHub>, mut call: Call) -> Result<Answer, AskError> {
        if let Call::Members { limit, .. } = &mut call {
            *limit = MEMBERS_MAX.min(*limit);
        }
        match hub.ask_here(call.clone()).await {
            Answer::Members(own) => self.gather(hub, call, own).await,
            Answer::Done => {
                // The user is here, and perhaps elsewhere, too.
                self.order(hub.name(), call, false);
                Ok(Answer::Done)
            }
            Answer::Yes => Ok(Answer::Yes),
            answer => self.seek(hub, call, answer).await,
        }
    }

    /// Asks the others until one of them says yes. `otherwise`: what holds when nobody does.
    async fn seek(&self, hub: &Arc<LiveHub>, call: Call, otherwise: Answer) -> Result<Answer, AskError> {
        let is_vital = otherwise != Answer::Done;
        let mut asking = self.start(hub.name(), call);
        while let Some(said) = asking.next().await {
            if let Said::Here(answer @ (Answer::Done | Answer::Yes)) = said {
                return Ok(answer);
            }
        }
        if is_vital { asking.complete().map(|()| otherwise) } else { Ok(otherwise) }
    }

    /// Puts the members of all nodes together, in order.
    async fn gather(
        &self,
        hub: &Arc<LiveHub>,
        call: Call,
        mut members: Vec<Member>,
    ) -> Result<Answer, AskError> {
        let Call::Members { limit, .. } = call else { return Ok(Answer::Members(members)) };
        let mut asking = self.start(hub.name(), call);
        while let Some(said) = asking.next().await {
            if let Said::Here(Answer::Members(theirs)) = said {
                members.extend(theirs);
            }
        }
        asking.complete()?;
        Ok(Answer::Members(merged(members, limit)))
    }

    fn start(&self, hub: &HubName, call: Call) -> Asking<'_> {
        let missing = self.peers().present(Instant::now());
        let id = rand::random();
        let (answers, arriving) = mpsc::channel(missing.len().max(1));
        if !missing.is_empty() && self.is_connected() {
            self.asked().insert(id, answers);
            self.say(hub, &Word::Ask { id, call });
        }
        let until = tokio::time::Instant::now() + ASK_PATIENCE;
        Asking { nodes: self, id, missing, arriving, until }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<(NodeId, Said)>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another node has answered.
    pub(super) fn answered(&self, from: NodeId, id: u64, said: Said) {
        if let Some(answers) = self.asked().get(&id) {
            // More answers than nodes that were asked: nobody waits for them.
            let _ = answers.try_send((from, said));
        }
    }

    // -- to the bus ---------------------------------------------------------------------------------------------

    fn say(&self, hub: &HubName, word: &Word) {
        let Ok(word) = postcard::to_allocvec(word) else { return };
        let len = word.len();
        let outgoing = Outgoing { subject: self.subjects.call(hub), word: word.into() };
        let before = self.waiting_bytes.fetch_add(len, Ordering::Relaxed);
        if before + len > WAITING_BYTES_MAX || self.waiting.try_send(outgoing).is_err() {
            self.waiting_bytes.fetch_sub(len, Ordering::Relaxed);
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Brings words to the bus, in order; while that is away they wait.
    pub(super) async fn publish(self: Arc<Self>, mut outgoing: mpsc::Receiver<Outgoing>) {
        let mut number = 0;
        while let Some(Outgoing { subject, word }) = outgoing.recv().await {
            self.ready().await;
            let limit = self.client.server_info().max_payload;
            let room = limit.saturating_sub(PART_EXTRA).clamp(PART_EXTRA, PART_MAX);
            let mut rest = word.clone();
            let mut first = true;
            while first || !rest.is_empty() {
                number += 1;
                let piece = rest.split_to(room.min(rest.len()));
                let part = Part { from: self.own, number, first, more: !rest.is_empty(), piece };
                self.send(&subject, &part).await;
                first = false;
            }
            self.waiting_bytes.fetch_sub(word.len(), Ordering::Relaxed);
            self.counters.published.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for the bus, and then for the nodes that lost it, too: what is said before they are back does not reach them.
    async fn ready(&self) {
        if self.is_connected() && self.peers().all_back() {
            return;
        }
        let mut connected = self.connected.subscribe();
        if connected.wait_for(|connected| *connected).await.is_err() {
            return;
        }
        let until = tokio::time::Instant::now() + BACK_PATIENCE;
        loop {
            let heard = self.heard.notified();
            if self.peers().all_back() {
                return;
            }
            if timeout_at(until, heard).await.is_err() {
                return self.peers().wait_no_more();
            }
        }
    }

    pub(super) async fn send(&self, subject: &str, content: &impl serde::Serialize) {
        let Some(payload) = self.seal.close(subject, content) else { return };
        if let Err(error) = self.client.publish(subject.to_owned(), payload).await {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, subject, "the bus does not take a message");
        }
    }

    pub(super) async fn tell(&self, node: NodeId, what: &Direct) {
        self.send(&self.subjects.node(node), what).await;
    }

    pub(super) async fn announce(&self, revision: u64, leaves: bool) {
        let said = Presence { from: self.own, leaves, revision };
        self.send(&self.subjects.presence(), &said).await;
    }
}

/// A question under way.
struct Asking<'a> {
    nodes: &'a Nodes,
    id: u64,
    missing: HashSet<NodeId>,
    arriving: mpsc::Receiver<(NodeId, Said)>,
    until: tokio::time::Instant,
}

impl Asking<'_> {
    /// The next answer; `None`: all have answered, or patience is over.
    async fn next(&mut self) -> Option<Said> {
        while !self.missing.is_empty() {
            let (from, said) = timeout_at(self.until, self.arriving.recv()).await.ok().flatten()?;
            if self.missing.remove(&from) {
                return Some(said);
            }
        }
        None
    }

    /// Whether all have answered.
    fn complete(&self) -> Result<(), AskError> {
        if self.missing.is_empty() {
            return Ok(());
        }
        self.nodes.counters.unanswered.fetch_add(1, Ordering::Relaxed);
        Err(AskError::Failed(format!(
            "{} of the nodes of this region did not answer in time: ask again",
            self.missing.len()
        )))
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.nodes.asked().remove(&self.id);
    }
}

/// In order, each connection once, at most `limit`. Each node gave its first `limit`, so the first `limit` of all are there.
fn merged(mut members: Vec<Member>, limit: usize) -> Vec<Member> {
    members.sort();
    members.dedup_by(|one, other| one.connection == other.connection);
    members.truncate(limit);
    members
}
