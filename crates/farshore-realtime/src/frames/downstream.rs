//! What the service says to one client, besides messages.

use bytes::Bytes;
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::data::Data;
use super::upstream::ErrorDetail;
use crate::names::{ConnectionId, GroupName, UserId};

/// A frame for one connection. Only [`crate::frames::message::Message`]s are numbered and kept; these are not.
#[derive(Debug, Clone, Copy)]
pub enum Downstream<'a> {
    /// The connection is open, or recovered.
    Connected {
        /// Its id.
        connection: &'a ConnectionId,
        /// Whose it is.
        user: Option<&'a UserId>,
        /// With which it can be recovered: reliable protocols only.
        reconnection_token: Option<&'a str>,
    },
    /// The connection will be closed.
    Disconnected {
        /// Why.
        message: &'a str,
    },
    /// The answer to a frame with an ack id.
    Ack {
        /// Which.
        ack_id: u64,
        /// Absent: it was done. `Duplicate`: it was done before.
        error: Option<&'a ErrorDetail>,
    },
    /// The answer to a ping.
    Pong,
    /// The answer to an invocation.
    InvokeResponse {
        /// Which.
        invocation_id: &'a str,
        /// What came of it.
        outcome: Result<Option<&'a Data>, &'a ErrorDetail>,
    },
    /// So far a stream has arrived.
    StreamAck {
        /// Which.
        stream_id: &'a str,
        /// The next piece that is wanted.
        expected: u64,
    },
    /// A piece of a stream was not taken.
    StreamNack {
        /// Which.
        stream_id: &'a str,
        /// `InvalidSequenceId`, …
        error: &'a ErrorDetail,
        /// The next piece that is wanted.
        expected: u64,
    },
    /// A stream is over.
    StreamClosed {
        /// Which.
        stream_id: &'a str,
        /// Absent: its publisher ended it.
        error: Option<&'a ErrorDetail>,
    },
    /// What the connections of a group show: all of them.
    GroupStateSnapshot {
        /// Which group.
        group: &'a GroupName,
        /// One for each connection.
        items: &'a [GroupStateItem],
    },
    /// What has changed since.
    GroupStateUpdate {
        /// Which group.
        group: &'a GroupName,
        /// One for each connection that changed.
        items: &'a [GroupStateItem],
    },
}

/// What one connection shows of itself in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStateItem {
    /// Whose.
    pub connection: ConnectionId,
    /// Whose connection it is.
    pub user: Option<UserId>,
    /// A JSON object as it was sent; absent when it was cleared.
    pub state: Option<Bytes>,
    /// Since when.
    pub updated_at: Moment,
}
