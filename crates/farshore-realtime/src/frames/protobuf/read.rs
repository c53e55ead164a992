//! A client's protobuf frame, read.
//!
//! Of a field that is there twice the last counts; unknown fields, and known ones of another wire type, are skipped.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::super::data::{Data, Metadata, check_metadata};
use super::super::json::{JSON_DEPTH_MAX, is_too_deep};
use super::super::upstream::{BadFrame, TTL_SECONDS_MAX, Upstream};
use super::wire::{Malformed, Reader, Value, is_any};
use crate::names::{EventName, GroupName};

/// Reads one frame.
pub(in super::super) fn read(payload: &[u8]) -> Result<Upstream, BadFrame> {
    let malformed = |_| BadFrame::content("the frame is not a protobuf UpstreamMessage");
    let (kind, body) = kind(payload).map_err(malformed)?;
    let Some(numbers) = numbers(kind) else {
        return Err(BadFrame::content("the UpstreamMessage has no message of a known kind"));
    };
    let fields = Fields::read(body, numbers).map_err(malformed)?;
    let ack_id = fields.ack_id;
    fields.upstream(kind).map_err(|reason| BadFrame { ack_id, ..BadFrame::content(&reason) })
}

/// Which message of the oneof it is (0 for none), and its bytes.
fn kind(payload: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let mut reader = Reader::new(payload);
    let mut found = (0, &[][..]);
    while let Some((number, value)) = reader.field()? {
        if let (1 | 5..=9, Value::Bytes(body)) = (number, value) {
            found = (number, body);
        }
    }
    Ok(found)
}

const SEND: u64 = 1;
const EVENT: u64 = 5;
const JOIN: u64 = 6;
const LEAVE: u64 = 7;
const SEQUENCE_ACK: u64 = 8;
const PING: u64 = 9;

/// What the numbers of a message's fields mean.
fn numbers(kind: u64) -> Option<fn(u64) -> Field> {
    Some(match kind {
        SEND => |number| match number {
            1 => Field::Name,
            2 => Field::AckId,
            3 => Field::Data,
            4 => Field::NoEcho,
            5 => Field::TtlSeconds,
            6 => Field::Metadata,
            7 => Field::Stream,
            _ => Field::Unknown,
        },
        EVENT => |number| match number {
            1 => Field::Name,
            2 => Field::Data,
            3 => Field::AckId,
            4 => Field::Metadata,
            5 => Field::Stream,
            _ => Field::Unknown,
        },
        JOIN | LEAVE => |number| match number {
            1 => Field::Name,
            2 => Field::AckId,
            _ => Field::Unknown,
        },
        SEQUENCE_ACK => |number| if number == 1 { Field::SequenceId } else { Field::Unknown },
        PING => |_| Field::Unknown,
        _ => return None,
    })
}

enum Field {
    /// Of a group or an event.
    Name,
    AckId,
    Data,
    NoEcho,
    TtlSeconds,
    Metadata,
    Stream,
    SequenceId,
    Unknown,
}

/// The fields of all messages, as they were found.
#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    ack_id: Option<u64>,
    data: Option<&'a [u8]>,
    no_echo: bool,
    ttl_seconds: Option<u64>,
    metadata: Vec<&'a [u8]>,
    stream: bool,
    sequence_id: u64,
}

/// Entries of metadata that are kept before the limits are looked at; more cannot be within them.
const METADATA_ENTRIES_MAX: usize = super::super::data::METADATA_LEN_MAX;

impl<'a> Fields<'a> {
    fn read(body: &'a [u8], numbers: fn(u64) -> Field) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        let mut reader = Reader::new(body);
        while let Some((number, value)) = reader.field()? {
            match (numbers(number), value) {
                (Field::Name, Value::Bytes(name)) => fields.name = name,
                (Field::AckId, Value::Varint(id)) => fields.ack_id = Some(id),
                (Field::Data, Value::Bytes(data)) => fields.data = Some(data),
                (Field::NoEcho, Value::Varint(flag)) => fields.no_echo = flag != 0,
                (Field::TtlSeconds, Value::Varint(ttl)) => fields.ttl_seconds = Some(ttl),
                (Field::Metadata, Value::Bytes(entry)) if fields.metadata.len() <= METADATA_ENTRIES_MAX => {
                    fields.metadata.push(entry);
                }
                (Field::Stream, Value::Bytes(_)) => fields.stream = true,
                (Field::SequenceId, Value::Varint(id)) => fields.sequence_id = id,
                _ => {}
            }
        }
        Ok(fields)
    }

    fn upstream(&self, kind: u64) -> Result<Upstream, String> {
        if self.stream {
            return Err("streams need a JSON subprotocol".to_owned());
        }
        let ack_id = self.ack_id;
        Ok(match kind {
            SEND => return self.send(),
            EVENT => return self.event(),
            JOIN => Upstream::Join { group: self.group()?, ack_id },
            LEAVE => Upstream::Leave { group: self.group()?, ack_id },
            SEQUENCE_ACK => Upstream::SequenceAck(self.sequence_id),
            _ => Upstream::Ping,
        })
    }

    fn send(&self) -> Result<Upstream, String> {
        let ttl_seconds = match self.ttl_seconds.map(u32::try_from) {
            None => None,
            Some(Ok(ttl)) if ttl <= TTL_SECONDS_MAX => Some(ttl),
            Some(_) => return Err(format!("ttl_seconds is out of range: 0 to {TTL_SECONDS_MAX}")),
        };
        let (data, metadata) = self.data_and_metadata()?;
        Ok(Upstream::Send {
            group: self.group()?,
            ack_id: self.ack_id,
            no_echo: self.no_echo,
            data: Some(data),
            ttl_seconds,
            metadata,
            stream: None,
        })
    }

    fn event(&self) -> Result<Upstream, String> {
        let event = EventName::parse(self.name()?).map_err(|bad| bad.to_string())?;
        let (data, metadata) = self.data_and_metadata()?;
        Ok(Upstream::Event { event, ack_id: self.ack_id, data, metadata })
    }

    fn name(&self) -> Result<&'a str, String> {
        std::str::from_utf8(self.name).map_err(|_| "the name is not UTF-8".to_owned())
    }

    fn group(&self) -> Result<GroupName, String> {
        GroupName::parse(self.name()?).map_err(|bad| bad.to_string())
    }

    /// Metadata alone is a message too: its data is empty text.
    fn data_and_metadata(&self) -> Result<(Data, Metadata), String> {
        let metadata = self.metadata()?;
        let data = match self.data {
            Some(data) => data_of(data)?,
            None => None,
        };
        let only_metadata = (!metadata.is_empty()).then(|| Data::Text(Bytes::new()));
        let data = data.or(only_metadata).ok_or("data is missing: text, binary, protobuf or JSON")?;
        Ok((data, metadata))
    }

    fn metadata(&self) -> Result<Metadata, String> {
        if self.metadata.len() > METADATA_ENTRIES_MAX {
            return Err(format!("the metadata has more than {METADATA_ENTRIES_MAX} entries"));
        }
        let mut metadata = Metadata::new();
        for entry in &self.metadata {
            let (key, value) = entry_of(entry).ok_or("an entry of the metadata is not two texts")?;
            metadata.insert(key.into_owned(), value.into_owned());
        }
        check_metadata(&metadata)?;
        Ok(metadata)
    }
}

/// An entry of a map from text to text.
fn entry_of(bytes: &[u8]) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let mut reader = Reader::new(bytes);
    let (mut key, mut value) = ("", "");
    while let Some((number, found)) = reader.field().ok()? {
        match (number, found) {
            (1, Value::Bytes(text)) => key = std::str::from_utf8(text).ok()?,
            (2, Value::Bytes(text)) => value = std::str::from_utf8(text).ok()?,
            _ => {}
        }
    }
    Some((key.into(), value.into()))
}

/// What a `MessageData` carries; nothing when it is of no kind that is known.
fn data_of(bytes: &[u8]) -> Result<Option<Data>, String> {
    let mut reader = Reader::new(bytes);
    let mut found = None;
    while let Some(field) = reader.field().map_err(|Malformed| "data is not a protobuf MessageData")? {
        if let (1..=4, Value::Bytes(_)) = field {
            found = Some(field);
        }
    }
    let Some((number, Value::Bytes(bytes))) = found else { return Ok(None) };
    let copy = Bytes::copy_from_slice;
    Ok(Some(match number {
        1 if std::str::from_utf8(bytes).is_err() => return Err("text_data is not UTF-8".to_owned()),
        1 => Data::Text(copy(bytes)),
        2 => Data::Binary(copy(bytes)),
        3 if !is_any(bytes) => return Err("protobuf_data is not a google.protobuf.Any".to_owned()),
        3 => Data::Protobuf(copy(bytes)),
        _ => {
            check_json(bytes)?;
            Data::Json(copy(bytes))
        }
    }))
}

/// It is passed on to clients of the JSON protocol as a part of their frames.
fn check_json(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "json_data is not UTF-8")?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| format!("json_data is not JSON: {error}"))?;
    if is_too_deep(bytes) {
        return Err(format!("json_data is nested more than {JSON_DEPTH_MAX} levels deep"));
    }
    Ok(())
}
