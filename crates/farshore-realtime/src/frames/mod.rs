//! What clients and hub say to each other, in five protocols.
//!
//! Read in this order: [`data`] (what messages carry), [`upstream`] and [`downstream`] (both directions as types),
//! [`message`] (a message for many, encoded once), then how each protocol writes all that: `json`, `protobuf`, `simple`.
//!
//! Must always hold: whatever a client sends is either an [`Upstream`] with everything checked, or a [`BadFrame`]; decoders
//! never panic and keep no more than they were given. A message is encoded at most once for each protocol.

pub mod data;
pub mod downstream;
pub mod message;
pub mod upstream;

mod json;
mod protobuf;
mod simple;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use data::{Data, Metadata, check_metadata};
pub use downstream::{Downstream, GroupStateItem};
pub use message::{Framed, Message, Sender, Shared, StreamFault, StreamMark, Tail};
pub use upstream::{BadFrame, ErrorDetail, StreamEndError, StreamStart, Upstream};

use crate::ws::codec::{self, Opcode};

/// How a connection speaks. It stays what it is over recoveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// No subprotocol, or one of the application's own: bare payloads.
    Simple,
    /// `json.webpubsub.azure.v1`
    Json,
    /// `json.reliable.webpubsub.azure.v1`
    ReliableJson,
    /// `protobuf.webpubsub.azure.v1`
    Protobuf,
    /// `protobuf.reliable.webpubsub.azure.v1`
    ReliableProtobuf,
}

impl Protocol {
    /// How many there are.
    pub const COUNT: usize = 5;

    const NAMED: [(Self, &'static str); 4] = [
        (Self::Json, "json.webpubsub.azure.v1"),
        (Self::ReliableJson, "json.reliable.webpubsub.azure.v1"),
        (Self::Protobuf, "protobuf.webpubsub.azure.v1"),
        (Self::ReliableProtobuf, "protobuf.reliable.webpubsub.azure.v1"),
    ];

    /// The protocol that a subprotocol of a WebSocket names, in any case; nothing for one that is not known here.
    #[must_use]
    pub fn of(subprotocol: &str) -> Option<Self> {
        let known = Self::NAMED.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(subprotocol));
        known.map(|(protocol, _)| protocol)
    }

    /// Its name as a subprotocol; the simple client has none.
    #[must_use]
    pub fn subprotocol(self) -> Option<&'static str> {
        Self::NAMED.into_iter().find(|(protocol, _)| *protocol == self).map(|(_, name)| name)
    }

    /// Whether messages are numbered and kept until they are acknowledged.
    #[must_use]
    pub fn is_reliable(self) -> bool {
        matches!(self, Self::ReliableJson | Self::ReliableProtobuf)
    }
}

/// One received frame of a client.
///
/// # Errors
///
/// The frame cannot be used; [`BadFrame`] says whether the client can be answered or must be closed.
pub fn decode(protocol: Protocol, opcode: Opcode, payload: &[u8]) -> Result<Upstream, BadFrame> {
    match (protocol, opcode) {
        (Protocol::Simple, _) => simple::read(opcode, payload),
        (Protocol::Json | Protocol::ReliableJson, Opcode::Text) => json::read(payload),
        (Protocol::Json | Protocol::ReliableJson, _) => {
            Err(BadFrame::frame_type("the JSON subprotocol requires text messages"))
        }
        (Protocol::Protobuf | Protocol::ReliableProtobuf, Opcode::Binary) => protobuf::read(payload),
        (Protocol::Protobuf | Protocol::ReliableProtobuf, _) => {
            Err(BadFrame::frame_type("the protobuf subprotocol requires binary messages"))
        }
    }
}

/// A whole server-to-client WebSocket frame, header included. Empty when the protocol has no word for it (the simple client
/// knows none of these, protobuf no streams, group state or invocations): then there is nothing to send.
#[must_use]
pub fn control(protocol: Protocol, what: &Downstream<'_>) -> Bytes {
    match protocol {
        Protocol::Simple => Bytes::new(),
        Protocol::Json | Protocol::ReliableJson => {
            let mut text = Vec::new();
            json::control(&mut text, what);
            codec::frame(Opcode::Text, &text)
        }
        Protocol::Protobuf | Protocol::ReliableProtobuf => {
            let mut bytes = Vec::new();
            if protobuf::control(&mut bytes, what) {
                codec::frame(Opcode::Binary, &bytes)
            } else {
                Bytes::new()
            }
        }
    }
}

#[cfg(test)]
mod tests;
