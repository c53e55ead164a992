//! The hub's protobuf frames, written.

use super::super::data::Data;
use super::super::downstream::Downstream;
use super::super::message::{Message, Sender};
use super::wire::{put_bytes, put_number, put_text};

/// A `DownstreamMessage` for one connection; false when this protocol has no word for it.
pub(in super::super) fn control(out: &mut Vec<u8>, what: &Downstream<'_>) -> bool {
    let mut inner = Vec::new();
    let field = match what {
        Downstream::Ack { ack_id, error } => {
            put_number(&mut inner, 1, *ack_id);
            put_number(&mut inner, 2, u64::from(error.is_none()));
            if let Some(error) = error {
                let mut detail = Vec::new();
                put_text(&mut detail, 1, &error.name);
                put_text(&mut detail, 2, &error.message);
                put_bytes(&mut inner, 3, &detail);
            }
            1
        }
        Downstream::Connected { connection, user, reconnection_token } => {
            let mut connected = Vec::new();
            put_text(&mut connected, 1, connection.as_str());
            put_text(&mut connected, 2, user.map_or("", |user| user.as_str()));
            put_text(&mut connected, 3, reconnection_token.unwrap_or_default());
            put_bytes(&mut inner, 1, &connected);
            3
        }
        Downstream::Disconnected { message } => {
            let mut disconnected = Vec::new();
            put_text(&mut disconnected, 2, message);
            put_bytes(&mut inner, 2, &disconnected);
            3
        }
        Downstream::Pong => 4,
        Downstream::InvokeResponse { .. }
        | Downstream::StreamAck { .. }
        | Downstream::StreamNack { .. }
        | Downstream::StreamClosed { .. }
        | Downstream::GroupStateSnapshot { .. }
        | Downstream::GroupStateUpdate { .. } => return false,
    };
    put_bytes(out, field, &inner);
    true
}

/// The `DataMessage` of a message, without its number.
pub(in super::super) fn message(out: &mut Vec<u8>, message: &Message) {
    match &message.from {
        Sender::Server => put_text(out, 1, "server"),
        Sender::Group { group, .. } => {
            put_text(out, 1, "group");
            put_text(out, 2, group.as_str());
        }
    }
    let mut data = Vec::with_capacity(message.len() + 11);
    let field = match &message.data {
        Data::Text(_) => 1,
        Data::Binary(_) => 2,
        Data::Protobuf(_) => 3,
        Data::Json(_) => 4,
    };
    put_bytes(&mut data, field, message.data.bytes());
    put_bytes(out, 3, &data);
    for (key, value) in &message.metadata {
        let mut entry = Vec::with_capacity(key.len() + value.len() + 8);
        put_text(&mut entry, 1, key);
        put_text(&mut entry, 2, value);
        put_bytes(out, 5, &entry);
    }
}

/// A `DownstreamMessage` around a whole `DataMessage`.
pub(in super::super) fn wrap_message(out: &mut Vec<u8>, data_message: &[u8]) {
    put_bytes(out, 2, data_message);
}
