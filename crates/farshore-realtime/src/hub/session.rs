//! One client of a hub, as long as it is to be known: longer than its connections.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::outbox::{Kept, Outbox};
use super::streams::{StreamCard, Streams};
use crate::filter::Subject;
use crate::frames::{ErrorDetail, Message, Protocol};
use crate::names::{ConnectionId, GroupName, UserId};
use crate::permission::Permissions;

/// Acknowledgement numbers of a client that are remembered: the contract's figure.
const ACK_IDS_MAX: usize = 1_000;

/// The state of a probe's session, which no handler gives: the other region sees by it whether this one works. It is in no
/// count, gets nothing that is for everybody, joins no group in bulk and is not sent elsewhere.
pub(crate) const PROBE_STATE: &str = "farshore.probe";

/// A client's session, whole: how it is shown to the other region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionCard {
    /// Its name, told to the client.
    pub connection: ConnectionId,
    /// Rises each time another region takes the session over and its client comes there.
    pub generation: u32,
    /// Its client is connected.
    pub attached: bool,
    /// Who it is.
    pub user: Option<UserId>,
    /// What it speaks.
    pub protocol: Protocol,
    /// What it may.
    pub permissions: Permissions,
    /// Where it is a member.
    pub groups: BTreeSet<GroupName>,
    /// What its event handler wants to be told with each event.
    pub state: Option<String>,
    /// Number of its last event.
    pub events: u64,
    /// Number of the last message.
    pub last: u64,
    /// Messages that it has not acknowledged.
    pub kept: Vec<(u64, Arc<Message>)>,
    /// Its own acknowledgement numbers that were carried out.
    pub ack_ids: Vec<u64>,
    /// Its streams that are open.
    pub streams: Vec<StreamCard>,
    /// The last of its streams that are over, and why.
    pub streams_over: Vec<(String, Option<ErrorDetail>)>,
}

impl SessionCard {
    /// A new session's.
    pub(super) fn new(connection: ConnectionId, protocol: Protocol) -> Self {
        Self {
            connection,
            generation: 0,
            attached: false,
            user: None,
            protocol,
            permissions: Permissions::default(),
            groups: BTreeSet::new(),
            state: None,
            events: 0,
            last: 0,
            kept: Vec::new(),
            ack_ids: Vec::new(),
            streams: Vec::new(),
            streams_over: Vec::new(),
        }
    }
}

/// A client's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: ConnectionId,
    pub(super) generation: u32,
    pub(super) user: Option<UserId>,
    pub(super) protocol: Protocol,
    pub(super) permissions: Permissions,
    pub(super) groups: BTreeSet<GroupName>,
    pub(super) state: Option<Box<str>>,
    pub(super) events: u64,
    /// Its client's address leads to whichever region is active: it can go on elsewhere.
    pub(super) follows: bool,
    /// Of the other region's: how many messages this region's own sessions had been given when it was last theirs, or when it was
    /// first heard of. Only later ones can be owed to it.
    pub(super) had: u64,
    pub(super) outbox: Arc<Outbox>,
    pub(super) ack_ids: Option<Box<AckIds>>,
    pub(super) streams: Option<Box<Streams>>,
    /// Since when no transport is attached; `None`: one is, or it is another region's.
    pub(super) away_since: Option<Moment>,
}

impl Session {
    pub(super) fn of(card: SessionCard) -> Self {
        let kept = Kept { last: card.last, messages: card.kept };
        let ack_ids = (!card.ack_ids.is_empty()).then(|| {
            let mut ids = AckIds::default();
            card.ack_ids.into_iter().for_each(|id| ids.remember(id));
            Box::new(ids)
        });
        Self {
            connection: card.connection,
            generation: card.generation,
            user: card.user,
            protocol: card.protocol,
            permissions: card.permissions,
            groups: card.groups,
            state: card.state.map(String::into_boxed_str),
            events: card.events,
            follows: false,
            had: 0,
            outbox: Arc::new(Outbox::with(card.protocol, kept)),
            ack_ids,
            streams: Streams::of(card.streams, card.streams_over),
            away_since: None,
        }
    }

    pub(super) fn card(&self) -> SessionCard {
        let kept = self.outbox.kept();
        let (streams, streams_over) = self.streams.as_ref().map(|own| own.cards()).unwrap_or_default();
        SessionCard {
            connection: self.connection.clone(),
            generation: self.generation,
            attached: self.outbox.is_attached(),
            user: self.user.clone(),
            protocol: self.protocol,
            permissions: self.permissions.clone(),
            groups: self.groups.clone(),
            state: self.state.as_deref().map(str::to_owned),
            events: self.events,
            last: kept.last,
            kept: kept.messages,
            ack_ids: self.ack_ids.as_ref().map(|ids| ids.order.iter().copied().collect()).unwrap_or_default(),
            streams,
            streams_over,
        }
    }

    pub(super) fn is_probe(&self) -> bool {
        self.state.as_deref() == Some(PROBE_STATE)
    }

    pub(super) fn has_done(&self, ack_id: u64) -> bool {
        self.ack_ids.as_ref().is_some_and(|ids| ids.known.contains(&ack_id))
    }

    pub(super) fn remember(&mut self, ack_id: u64) {
        self.ack_ids.get_or_insert_default().remember(ack_id);
    }
}

impl Subject for Session {
    fn user_id(&self) -> Option<&str> {
        self.user.as_ref().map(UserId::as_str)
    }
    fn connection_id(&self) -> &str {
        self.connection.as_str()
    }
    fn in_group(&self, group: &str) -> bool {
        self.groups.contains(group)
    }
    fn group_count(&self) -> usize {
        self.groups.len()
    }
    fn protocol(&self) -> Option<&str> {
        self.protocol.subprotocol()
    }
}

/// The last acknowledgement numbers that were carried out.
#[derive(Debug, Default)]
pub(super) struct AckIds {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl AckIds {
    fn remember(&mut self, id: u64) {
        if !self.known.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > ACK_IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
