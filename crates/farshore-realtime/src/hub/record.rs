//! What changes sessions, one by one and in order: applied where a session is served, and again in the other region.

use serde::{Deserialize, Serialize};

use super::call::Call;
use super::session::SessionCard;
use super::state::BoardCard;
use super::streams::StreamCard;
use crate::frames::GroupStateItem;
use crate::names::{ConnectionId, GroupName};

/// One change. Applied to the same sessions in the same order it leads to the same state: the other region's copies of
/// reliable clients are made so.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record {
    /// A session begins here, or changed hands and goes on here: as it is.
    Opened(Box<SessionCard>),
    /// A session has ended.
    Closed(ConnectionId),
    /// The session is the other region's from here on: its client is there.
    Released(ConnectionId),
    /// Something was asked of the hub.
    Called(Call),
    /// A client asked for something, under its own acknowledgement number.
    Asked {
        /// Which client.
        connection: ConnectionId,
        /// Its number; `None`: it wants no acknowledgement.
        ack_id: Option<u64>,
        /// For what; `None`: the hub was not concerned (an event for a handler).
        call: Option<Call>,
    },
    /// A client has all messages up to a number.
    Acked {
        /// Which client.
        connection: ConnectionId,
        /// The number.
        sequence: u64,
    },
    /// What the event handler wants to be told of a connection.
    State {
        /// Which.
        connection: ConnectionId,
        /// What; `None`: nothing.
        state: Option<String>,
    },
    /// A client begins a stream.
    StreamBegan {
        /// Which client.
        connection: ConnectionId,
        /// The stream.
        stream: StreamCard,
    },
    /// What a connection shows of itself in a group.
    Shown {
        /// Where.
        group: GroupName,
        /// What; without a state: nothing any more.
        item: GroupStateItem,
    },
    /// A client is told what a group shows, or no longer.
    Watches {
        /// Which client.
        connection: ConnectionId,
        /// Which group.
        group: GroupName,
        /// Whether it is told.
        watches: bool,
    },
    /// A message with this id came by and reached nobody whose session is copied.
    Passed(u128),
    /// A message for the members that are connected to the other region: a client's to a group, where no [`Record::Asked`]
    /// says it, or one that came to the pair and that the other region did not answer.
    Relayed(Call),
}

impl Record {
    /// A message in it for members that are not connected to the record's region.
    #[must_use]
    pub fn relayed(&self) -> Option<&Call> {
        match self {
            Self::Relayed(call) | Self::Asked { call: Some(call @ Call::Send { .. }), .. } => Some(call),
            _ => None,
        }
    }
}

/// A place in the order of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
pub struct Position(pub u64);

/// All reliable sessions of a region at one position.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which start of the hub: after another one the sessions of the one before have lost their owner.
    pub start: u128,
    /// Everything up to here is in it.
    pub position: Position,
    /// The sessions.
    pub sessions: Vec<SessionCard>,
    /// Ids of the messages that they were sent, or that came by, within the last while.
    pub seen: Vec<u128>,
    /// What the region's connections show, and watch.
    pub board: BoardCard,
}
