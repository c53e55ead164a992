//! The hub's JSON frames, written: in a fixed order of fields, without spaces.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::data::{Data, Metadata};
use super::super::downstream::{Downstream, GroupStateItem};
use super::super::message::{Message, Sender, StreamMark};
use super::super::upstream::ErrorDetail;
use crate::names::GroupName;

/// The text of a frame for one connection.
pub(in super::super) fn control(out: &mut Vec<u8>, what: &Downstream<'_>) {
    let mut object = Object::open(out);
    match what {
        Downstream::Connected { connection, user, reconnection_token } => {
            object.text("type", "system").text("event", "connected");
            object.text_or_null("userId", user.map(|user| user.as_str()));
            object.text("connectionId", connection.as_str()).maybe("reconnectionToken", *reconnection_token);
        }
        Downstream::Disconnected { message } => {
            object.text("type", "system").text("event", "disconnected").text("message", message);
        }
        Downstream::Ack { ack_id, error } => {
            object.text("type", "ack").number("ackId", *ack_id).flag("success", error.is_none());
            object.error(*error);
        }
        Downstream::Pong => {
            object.text("type", "pong");
        }
        Downstream::InvokeResponse { invocation_id, outcome } => {
            object.text("type", "invokeResponse").text("invocationId", invocation_id);
            object.flag("success", outcome.is_ok());
            match outcome {
                Ok(data) => data.iter().for_each(|data| object.data(data)),
                Err(error) => object.error(Some(error)),
            }
        }
        Downstream::StreamAck { stream_id, expected } => {
            object.text("type", "streamAck").text("streamId", stream_id);
            object.number("expectedSequenceId", *expected);
        }
        Downstream::StreamNack { stream_id, error, expected } => {
            object.text("type", "streamNack").text("streamId", stream_id).text("name", &error.name);
            object.text("message", &error.message).number("expectedSequenceId", *expected);
        }
        Downstream::StreamClosed { stream_id, error } => {
            object.text("type", "streamClosed").text("streamId", stream_id).error(*error);
        }
        Downstream::GroupStateSnapshot { group, items } => {
            object.text("type", "groupStateSnapshot").items(group, items);
        }
        Downstream::GroupStateUpdate { group, items } => {
            object.text("type", "groupStateUpdate").items(group, items);
        }
    }
    object.close();
}

/// The text of a message up to its sequence number, without the closing brace.
pub(in super::super) fn message(out: &mut Vec<u8>, message: &Message) {
    let mut object = Object::open(out);
    object.text("type", "message");
    match &message.from {
        Sender::Server => {
            object.text("from", "server");
        }
        Sender::Group { group, user } => {
            object.text("from", "group").text("group", group.as_str());
            object.text_or_null("fromUserId", user.as_ref().map(|user| user.as_str()));
        }
    }
    object.data(&message.data);
    if !message.metadata.is_empty() {
        object.metadata(&message.metadata);
    }
    if let Some(mark) = &message.stream {
        object.stream(mark);
    }
}

/// An object that is being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    fn close(self) {
        self.out.push(b'}');
    }

    /// What follows is this key's value.
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.empty, false) {
            self.out.push(b',');
        }
        put_text(self.out, key);
        self.out.push(b':');
        self.out
    }

    fn text(&mut self, key: &str, value: &str) -> &mut Self {
        put_text(self.key(key), value);
        self
    }

    fn maybe(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.text(key, value);
        }
        self
    }

    fn text_or_null(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(key, value),
            None => self.raw(key, b"null"),
        }
    }

    fn raw(&mut self, key: &str, json: &[u8]) -> &mut Self {
        self.key(key).extend_from_slice(json);
        self
    }

    fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.raw(key, value.to_string().as_bytes())
    }

    fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.raw(key, if value { b"true" } else { b"false" })
    }

    fn data(&mut self, data: &Data) {
        self.text("dataType", data.type_name());
        match data {
            Data::Text(bytes) => self.text("data", &String::from_utf8_lossy(bytes)),
            Data::Json(bytes) => self.raw("data", bytes),
            Data::Binary(bytes) | Data::Protobuf(bytes) => self.text("data", &STANDARD.encode(bytes)),
        };
    }

    fn metadata(&mut self, metadata: &Metadata) {
        let mut inner = Object::open(self.key("metadata"));
        for (key, value) in metadata {
            inner.text(key, value);
        }
        inner.close();
    }

    fn error(&mut self, error: Option<&ErrorDetail>) {
        if let Some(error) = error {
            let mut inner = Object::open(self.key("error"));
            inner.text("name", &error.name).text("message", &error.message);
            inner.close();
        }
    }

    fn stream(&mut self, mark: &StreamMark) {
        let mut inner = Object::open(self.key("stream"));
        inner.text("streamId", &mark.stream_id).number("streamSequenceId", mark.sequence);
        if mark.end {
            inner.flag("endOfStream", true);
        }
        if let Some(fault) = &mark.error {
            let mut error = Object::open(inner.key("error"));
            error.text("name", &fault.name).maybe("message", fault.message.as_deref());
            error.maybe("userErrorCode", fault.user_error_code.as_deref());
            error.close();
        }
        inner.close();
    }

    fn items(&mut self, group: &GroupName, items: &[GroupStateItem]) {
        self.text("group", group.as_str()).raw("items", b"[");
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            let mut inner = Object::open(self.out);
            inner.text("connectionId", item.connection.as_str());
            inner.maybe("userId", item.user.as_ref().map(|user| user.as_str()));
            if let Some(state) = &item.state {
                inner.raw("state", state);
            }
            inner.number("updatedAt", item.updated_at.0 / 1000);
            inner.close();
        }
        self.out.push(b']');
    }
}

/// A JSON string: only what must be escaped is.
fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
