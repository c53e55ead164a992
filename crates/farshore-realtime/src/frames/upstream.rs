//! What clients say.

use bytes::Bytes;

use super::data::{Data, Metadata};
use crate::names::{EventName, GroupName};
use crate::ws::encode::{CLOSE_REASON_MAX, cut};

/// One frame of a client, checked: names are valid, data is what its type says, limits hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Upstream {
    /// Receive what is sent to a group.
    Join {
        /// Which.
        group: GroupName,
        /// Answer with this.
        ack_id: Option<u64>,
    },
    /// No longer receive what is sent to a group.
    Leave {
        /// Which.
        group: GroupName,
        /// Answer with this.
        ack_id: Option<u64>,
    },
    /// Publish to a group, or begin a stream to it.
    Send {
        /// Which.
        group: GroupName,
        /// Answer with this.
        ack_id: Option<u64>,
        /// Not back to the sender.
        no_echo: bool,
        /// Absent only where `stream` is present.
        data: Option<Data>,
        /// At most [`TTL_SECONDS_MAX`]; 0 and absent mean: for ever.
        ttl_seconds: Option<u32>,
        /// Beside the data.
        metadata: Metadata,
        /// This frame begins a stream.
        stream: Option<StreamStart>,
    },
    /// An event for the application's handler.
    Event {
        /// Which.
        event: EventName,
        /// Answer with this.
        ack_id: Option<u64>,
        /// For the handler.
        data: Data,
        /// Beside the data.
        metadata: Metadata,
    },
    /// All messages up to this number have been received.
    SequenceAck(u64),
    /// To be answered by a pong.
    Ping,
    /// An event whose answer the client waits for.
    Invoke {
        /// The client's name for this call.
        invocation_id: String,
        /// What kind of thing is called: `event`, if anything.
        target: Option<String>,
        /// Which event.
        event: Option<EventName>,
        /// For the handler.
        data: Option<Data>,
    },
    /// The client no longer waits.
    CancelInvocation {
        /// As in [`Upstream::Invoke`].
        invocation_id: String,
    },
    /// The client's answer to a call from the server.
    InvokeResponse {
        /// The server's name for the call.
        invocation_id: String,
        /// Whether it went well.
        success: bool,
        /// The result.
        data: Option<Data>,
        /// Why it did not.
        error: Option<ErrorDetail>,
    },
    /// The next piece of a stream, or without data a sign that the stream lives.
    StreamData {
        /// Which.
        stream_id: String,
        /// From 1; 0 where there is no data.
        sequence: u64,
        /// Absent: only a sign of life.
        data: Option<Data>,
    },
    /// The last of a stream.
    StreamEnd {
        /// Which.
        stream_id: String,
        /// It was broken off.
        error: Option<StreamEndError>,
    },
    /// What this connection shows of itself in a group.
    SetGroupState {
        /// Where.
        group: GroupName,
        /// A JSON object of texts, as it was sent; absent: nothing any more.
        state: Option<Bytes>,
        /// Answer with this.
        ack_id: Option<u64>,
    },
    /// Be told what the connections of a group show.
    SubscribeGroupState {
        /// Which.
        group: GroupName,
        /// Answer with this.
        ack_id: Option<u64>,
    },
    /// No longer be told.
    UnsubscribeGroupState {
        /// Which.
        group: GroupName,
        /// Answer with this.
        ack_id: Option<u64>,
    },
}

impl Upstream {
    /// The number under which the client waits for an answer.
    #[must_use]
    pub fn ack_id(&self) -> Option<u64> {
        match self {
            Self::Join { ack_id, .. }
            | Self::Leave { ack_id, .. }
            | Self::Send { ack_id, .. }
            | Self::Event { ack_id, .. }
            | Self::SetGroupState { ack_id, .. }
            | Self::SubscribeGroupState { ack_id, .. }
            | Self::UnsubscribeGroupState { ack_id, .. } => *ack_id,
            _ => None,
        }
    }
}

/// The longest life that a message may be given.
pub const TTL_SECONDS_MAX: u32 = 300;
/// Longest id of a stream or an invocation, in bytes: they are kept while the stream lives.
pub const CLIENT_ID_LEN_MAX: usize = 1024;

/// Begins a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStart {
    /// The client's name for it: 1 to [`CLIENT_ID_LEN_MAX`] bytes.
    pub stream_id: String,
    /// How long it may say nothing.
    pub idle_timeout_ms: Option<u64>,
}

/// Why something failed, as acks and responses say it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ErrorDetail {
    /// `Forbidden`, `InternalServerError`, `Duplicate`, `BadRequest`, `NotFound`, …
    pub name: String,
    /// For people.
    pub message: String,
}

impl ErrorDetail {
    /// From its two parts.
    pub fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), message: message.into() }
    }
}

/// Why a publisher broke its stream off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamEndError {
    /// For people.
    pub message: Option<String>,
    /// For the application.
    pub user_error_code: Option<String>,
}

/// A frame that cannot be used.
///
/// With `ack_id` the client can be told: answer an ack with the error `BadRequest` and `reason`, and go on. Without, close
/// the connection with `code` and `reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BadFrame {
    /// 1007 for bad content, 1003 for the wrong type of frame.
    pub code: u16,
    /// At most 123 bytes, so that it fits into a close frame.
    pub reason: String,
    /// Whose request it was, where that could be read.
    pub ack_id: Option<u64>,
}

impl BadFrame {
    /// Bad content: nothing can be answered.
    pub(super) fn content(reason: &str) -> Self {
        Self { code: 1007, reason: cut(reason, CLOSE_REASON_MAX).to_owned(), ack_id: None }
    }

    /// The wrong type of frame.
    pub(super) fn frame_type(reason: &str) -> Self {
        Self { code: 1003, ..Self::content(reason) }
    }
}
