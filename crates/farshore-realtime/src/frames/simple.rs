//! Connections without a subprotocol of ours: bare payloads in both directions.
//!
//! Up, each frame is the event `message`; a connection that asked for `webpubsub_mode=sendToGroup` has its data sent to its
//! group instead (whoever holds the connection does that). Down, text and JSON come in text frames, all else in binary ones.

use std::sync::LazyLock;

use bytes::Bytes;

use super::data::{Data, Metadata};
use super::upstream::{BadFrame, Upstream};
use crate::names::EventName;
use crate::ws::Opcode;

/// The event that a frame without a protocol is.
static MESSAGE: LazyLock<EventName> =
    LazyLock::new(|| EventName::parse("message").expect("the name is valid as it stands here"));

pub(super) fn read(opcode: Opcode, payload: &[u8]) -> Result<Upstream, BadFrame> {
    let data = match opcode {
        Opcode::Text if std::str::from_utf8(payload).is_err() => {
            return Err(BadFrame::content("a text message is not UTF-8"));
        }
        Opcode::Text => Data::Text(Bytes::copy_from_slice(payload)),
        Opcode::Binary => Data::Binary(Bytes::copy_from_slice(payload)),
        _ => return Err(BadFrame::frame_type("only text and binary frames carry messages")),
    };
    Ok(Upstream::Event { event: MESSAGE.clone(), ack_id: None, data, metadata: Metadata::new() })
}

/// The type of the frame in which data goes out.
pub(super) fn opcode(data: &Data) -> Opcode {
    match data {
        Data::Text(_) | Data::Json(_) => Opcode::Text,
        Data::Binary(_) | Data::Protobuf(_) => Opcode::Binary,
    }
}
