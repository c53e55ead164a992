//! A message on its way to many: encoded once for each protocol, then shared.

use std::sync::OnceLock;

use bytes::Bytes;
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::data::{Data, Metadata};
use super::{Protocol, json, protobuf, simple};
use crate::names::{GroupName, UserId};
use crate::ws::codec::{self, Opcode};

/// One message, as all its receivers get it. Held by `Arc`; its fields are not changed after it was first encoded.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    /// Who sent it.
    pub from: Sender,
    /// What it carries.
    pub data: Data,
    /// Beside the data.
    pub metadata: Metadata,
    /// Not delivered after this.
    pub expires: Option<Moment>,
    /// Names it across regions, so that it is delivered once.
    pub id: Option<u128>,
    /// It is a piece of a stream.
    pub stream: Option<StreamMark>,
    #[serde(skip)]
    encoded: [OnceLock<Shared>; Protocol::COUNT],
}

/// Who sent a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sender {
    /// The application's server.
    Server,
    /// A client, or the server, to a group.
    Group {
        /// Which.
        group: GroupName,
        /// The client's user.
        user: Option<UserId>,
    },
}

/// Which piece of which stream a message is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamMark {
    /// Which stream.
    pub stream_id: String,
    /// From 1.
    pub sequence: u64,
    /// Nothing follows. An end that carries no data has empty text as its data.
    pub end: bool,
    /// Why it ended, if not by its publisher's wish.
    pub error: Option<StreamFault>,
}

/// Why a stream broke off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFault {
    /// `IdleTimeout`, …
    pub name: String,
    /// For people.
    pub message: Option<String>,
    /// For the application.
    pub user_error_code: Option<String>,
}

/// A message as one protocol says it.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The type of its frame.
    pub opcode: Opcode,
    /// With [`Tail::None`] the whole frame, header included; else what stands between the head and the tail.
    pub body: Bytes,
    /// What each connection adds.
    pub tail: Tail,
}

/// What differs from one receiver of a message to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    None,
    /// `,"sequenceId":N}`
    JsonSequence,
    /// The field `sequence_id` of the `DataMessage`, and the lengths before it.
    ProtobufSequence,
}

impl Message {
    /// A message that lives for ever and belongs to no stream.
    #[must_use]
    pub fn new(from: Sender, data: Data) -> Self {
        Self {
            from,
            data,
            metadata: Metadata::new(),
            expires: None,
            id: None,
            stream: None,
            encoded: Default::default(),
        }
    }

    /// Bytes of data.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.bytes().len()
    }

    /// Whether it carries no data.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// This message as `protocol` says it; encoded when it is first asked for.
    pub fn shared(&self, protocol: Protocol) -> &Shared {
        self.encoded[protocol as usize].get_or_init(|| self.encode(protocol))
    }

    fn encode(&self, protocol: Protocol) -> Shared {
        let mut body = Vec::with_capacity(self.len() + ENVELOPE_LEN);
        let (opcode, tail) = match protocol {
            Protocol::Simple => {
                return Shared::whole(simple::opcode(&self.data), self.data.bytes());
            }
            Protocol::Json => {
                json::message(&mut body, self);
                body.push(b'}');
                return Shared::whole(Opcode::Text, &body);
            }
            Protocol::Protobuf => {
                let mut inner = Vec::with_capacity(self.len() + ENVELOPE_LEN);
                protobuf::message(&mut inner, self);
                protobuf::wrap_message(&mut body, &inner);
                return Shared::whole(Opcode::Binary, &body);
            }
            Protocol::ReliableJson => {
                json::message(&mut body, self);
                (Opcode::Text, Tail::JsonSequence)
            }
            Protocol::ReliableProtobuf => {
                protobuf::message(&mut body, self);
                (Opcode::Binary, Tail::ProtobufSequence)
            }
        };
        body.shrink_to_fit();
        Shared { opcode, body: body.into(), tail }
    }

    /// Whether a protocol can say this message at all: the bare end of a stream means nothing to one without streams.
    #[must_use]
    pub fn concerns(&self, protocol: Protocol) -> bool {
        matches!(protocol, Protocol::Json | Protocol::ReliableJson)
            || !self.is_empty()
            || !self.stream.as_ref().is_some_and(|mark| mark.end)
    }
}

/// About what stands around the data of a message: saves growing the buffer step by step.
const ENVELOPE_LEN: usize = 192;

impl Shared {
    /// The same bytes for all receivers.
    fn whole(opcode: Opcode, payload: &[u8]) -> Self {
        Self { opcode, body: codec::frame(opcode, payload), tail: Tail::None }
    }
}

/// A frame's header, and before a protobuf message its tag and length.
const HEAD_MAX: usize = 10 + 1 + 10;
/// `,"sequenceId":`, twenty digits and a brace.
const TAIL_MAX: usize = 14 + 20 + 1;

/// What goes on the wire to one connection: a head and a tail of its own around the shared body, for one vectored write.
#[derive(Debug, Clone)]
pub struct Framed {
    head: [u8; HEAD_MAX],
    tail: [u8; TAIL_MAX],
    head_len: u8,
    tail_len: u8,
    body: Bytes,
}

impl Framed {
    /// Frames a message for one connection. A number is used by reliable protocols only; they can do without.
    #[must_use]
    pub fn new(shared: &Shared, sequence: Option<u64>) -> Self {
        let mut framed = Self {
            head: [0; HEAD_MAX],
            tail: [0; TAIL_MAX],
            head_len: 0,
            tail_len: 0,
            body: shared.body.clone(),
        };
        match shared.tail {
            Tail::None => {}
            Tail::JsonSequence => {
                if let Some(sequence) = sequence {
                    framed.push_tail(b",\"sequenceId\":");
                    framed.push_digits(sequence);
                }
                framed.push_tail(b"}");
                framed.push_head(codec::head(shared.opcode, framed.payload_len()).as_slice());
            }
            Tail::ProtobufSequence => {
                if let Some(sequence) = sequence {
                    framed.push_tail(&[protobuf::SEQUENCE_TAG]);
                    let used = protobuf::put_varint(&mut framed.tail[1..], sequence);
                    framed.tail_len += used as u8;
                }
                let inner = framed.payload_len();
                let outer = 1 + protobuf::varint_len(inner as u64) + inner;
                framed.push_head(codec::head(shared.opcode, outer).as_slice());
                framed.push_head(&[protobuf::MESSAGE_TAG]);
                let at = usize::from(framed.head_len);
                let used = protobuf::put_varint(&mut framed.head[at..], inner as u64);
                framed.head_len += used as u8;
            }
        }
        framed
    }

    /// Head, body and tail; any of them may be empty.
    #[must_use]
    pub fn slices(&self) -> [&[u8]; 3] {
        [&self.head[..usize::from(self.head_len)], &self.body, &self.tail[..usize::from(self.tail_len)]]
    }

    /// Bytes on the wire.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.head_len) + self.payload_len()
    }

    /// Never: a frame has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn payload_len(&self) -> usize {
        self.body.len() + usize::from(self.tail_len)
    }

    fn push_head(&mut self, bytes: &[u8]) {
        let at = usize::from(self.head_len);
        self.head[at..at + bytes.len()].copy_from_slice(bytes);
        self.head_len += bytes.len() as u8;
    }

    fn push_tail(&mut self, bytes: &[u8]) {
        let at = usize::from(self.tail_len);
        self.tail[at..at + bytes.len()].copy_from_slice(bytes);
        self.tail_len += bytes.len() as u8;
    }

    /// In decimal. By hand: this runs once for each delivery, and the formatter costs more than the rest of the frame.
    fn push_digits(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut from = digits.len();
        loop {
            from -= 1;
            digits[from] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push_tail(&digits[from..]);
    }
}

/// Without what was encoded: the copy may be changed before it is sent.
impl Clone for Message {
    fn clone(&self) -> Self {
        Self {
            from: self.from.clone(),
            data: self.data.clone(),
            metadata: self.metadata.clone(),
            expires: self.expires,
            id: self.id,
            stream: self.stream.clone(),
            encoded: Default::default(),
        }
    }
}

/// Two messages are the same when they say the same; whether they were encoded already does not matter.
impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.from == other.from
            && self.data == other.data
            && self.metadata == other.metadata
            && self.expires == other.expires
            && self.id == other.id
            && self.stream == other.stream
    }
}
