//! A client's JSON frame, read.
//!
//! One pass finds the fields that are known and keeps where they lie; only those that the frame's type asks for are looked
//! into. Of a field that is there twice the last counts, unknown ones are skipped, `null` is the same as absent except as
//! data of the type `json`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::data::{Data, Metadata, check_metadata};
use super::super::protobuf::is_any;
use super::super::upstream::{
    BadFrame, CLIENT_ID_LEN_MAX, ErrorDetail, StreamEndError, StreamStart, TTL_SECONDS_MAX, Upstream,
};
use crate::names::{EventName, GroupName};

/// How deep arrays and objects of a client's data may nest: what receivers' parsers commonly take. Deeper data would break
/// the receivers, not the sender.
pub(in super::super) const JSON_DEPTH_MAX: usize = 64;

/// Reads one frame.
pub(in super::super) fn read(payload: &[u8]) -> Result<Upstream, BadFrame> {
    let fields: Fields<'_> = serde_json::from_slice(payload)
        .map_err(|error| BadFrame::content(&format!("the frame is not a JSON object: {error}")))?;
    let kind = fields.required_text(Key::Type).map_err(|reason| BadFrame::content(&reason))?;
    let ack_id = fields.number(Key::AckId).map_err(|reason| BadFrame::content(&reason))?;
    match fields.upstream(&kind, ack_id) {
        Some(Ok(upstream)) => Ok(upstream),
        Some(Err(reason)) => Err(BadFrame { ack_id, ..BadFrame::content(&reason) }),
        None => Err(BadFrame::content(&format!("unknown type: {kind:.32}"))),
    }
}

/// The fields of all types of frames, and of the objects in them.
#[derive(Deserialize, Clone, Copy)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Key {
    Type,
    AckId,
    Group,
    Event,
    NoEcho,
    DataType,
    Data,
    TtlSeconds,
    Metadata,
    Stream,
    SequenceId,
    InvocationId,
    Target,
    Success,
    Error,
    StreamId,
    StreamSequenceId,
    IdleTimeoutMs,
    State,
    Name,
    Message,
    UserErrorCode,
    #[serde(other)]
    Unknown,
}

impl Key {
    /// As it is written.
    fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::AckId => "ackId",
            Self::Group => "group",
            Self::Event => "event",
            Self::NoEcho => "noEcho",
            Self::DataType => "dataType",
            Self::Data => "data",
            Self::TtlSeconds => "ttlSeconds",
            Self::Metadata => "metadata",
            Self::Stream => "stream",
            Self::SequenceId => "sequenceId",
            Self::InvocationId => "invocationId",
            Self::Target => "target",
            Self::Success => "success",
            Self::Error => "error",
            Self::StreamId => "streamId",
            Self::StreamSequenceId => "streamSequenceId",
            Self::IdleTimeoutMs => "idleTimeoutMs",
            Self::State => "state",
            Self::Name => "name",
            Self::Message => "message",
            Self::UserErrorCode => "userErrorCode",
            Self::Unknown => "unknown",
        }
    }
}

/// Where each field lies in the frame.
#[derive(Default)]
struct Fields<'a> {
    at: [Option<&'a RawValue>; Key::Unknown as usize],
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key::<Key>()? {
                    if matches!(key, Key::Unknown) {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        let at = fields.at.get_mut(key as usize).ok_or_else(|| A::Error::custom("key"))?;
                        *at = Some(map.next_value()?);
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Why a frame cannot be used.
type Reason = String;

impl<'a> Fields<'a> {
    /// Nothing when there is no such type.
    fn upstream(&self, kind: &str, ack_id: Option<u64>) -> Option<Result<Upstream, Reason>> {
        type Read = fn(&Fields<'_>, Option<u64>) -> Result<Upstream, Reason>;
        const KINDS: &[(&str, Read)] = &[
            ("sendToGroup", |fields, ack_id| fields.send(ack_id)),
            ("sequenceAck", |fields, _| Ok(Upstream::SequenceAck(fields.required_number(Key::SequenceId)?))),
            ("ping", |_, _| Ok(Upstream::Ping)),
            ("event", |fields, ack_id| fields.event(ack_id)),
            ("joinGroup", |fields, ack_id| Ok(Upstream::Join { group: fields.group()?, ack_id })),
            ("leaveGroup", |fields, ack_id| Ok(Upstream::Leave { group: fields.group()?, ack_id })),
            ("streamData", |fields, _| fields.stream_data()),
            ("streamEnd", |fields, _| fields.stream_end()),
            ("invoke", |fields, _| fields.invoke()),
            ("invokeResponse", |fields, _| fields.invoke_response()),
            ("cancelInvocation", |fields, _| {
                Ok(Upstream::CancelInvocation { invocation_id: fields.id(Key::InvocationId)? })
            }),
            ("setGroupState", |fields, ack_id| fields.set_group_state(ack_id)),
            ("subscribeGroupState", |fields, ack_id| {
                Ok(Upstream::SubscribeGroupState { group: fields.group()?, ack_id })
            }),
            ("unsubscribeGroupState", |fields, ack_id| {
                Ok(Upstream::UnsubscribeGroupState { group: fields.group()?, ack_id })
            }),
        ];
        let known = KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind));
        known.map(|(_, read)| read(self, ack_id))
    }

    fn send(&self, ack_id: Option<u64>) -> Result<Upstream, Reason> {
        let group = self.group()?;
        let metadata = self.metadata()?;
        let stream = self.stream_start()?;
        let data = match (&stream, self.data_or_metadata(&metadata)?) {
            (None, None) => return Err(missing(Key::Data)),
            (_, data) => data,
        };
        let ttl_seconds = match self.number(Key::TtlSeconds)? {
            None => None,
            Some(ttl) => Some(
                u32::try_from(ttl)
                    .ok()
                    .filter(|ttl| *ttl <= TTL_SECONDS_MAX)
                    .ok_or_else(|| format!("ttlSeconds {ttl} is out of range: 0 to {TTL_SECONDS_MAX}"))?,
            ),
        };
        let no_echo = self.flag(Key::NoEcho)?.unwrap_or(false);
        Ok(Upstream::Send { group, ack_id, no_echo, data, ttl_seconds, metadata, stream })
    }

    fn event(&self, ack_id: Option<u64>) -> Result<Upstream, Reason> {
        let event = self.required_text(Key::Event)?;
        let event = EventName::parse(&event).map_err(|bad| bad.to_string())?;
        let metadata = self.metadata()?;
        let data = self.data_or_metadata(&metadata)?.ok_or_else(|| missing(Key::Data))?;
        Ok(Upstream::Event { event, ack_id, data, metadata })
    }

    fn invoke(&self) -> Result<Upstream, Reason> {
        let event = match self.text(Key::Event)? {
            Some(event) => Some(EventName::parse(&event).map_err(|bad| bad.to_string())?),
            None => None,
        };
        let target = self.text(Key::Target)?.map(Cow::into_owned);
        Ok(Upstream::Invoke { invocation_id: self.id(Key::InvocationId)?, target, event, data: self.data()? })
    }

    fn invoke_response(&self) -> Result<Upstream, Reason> {
        let error = match self.object(Key::Error)? {
            Some(error) => Some(ErrorDetail {
                name: error.text(Key::Name)?.unwrap_or_default().into_owned(),
                message: error.text(Key::Message)?.unwrap_or_default().into_owned(),
            }),
            None => None,
        };
        Ok(Upstream::InvokeResponse {
            invocation_id: self.id(Key::InvocationId)?,
            success: self.flag(Key::Success)?.unwrap_or(error.is_none()),
            data: self.data()?,
            error,
        })
    }

    fn stream_data(&self) -> Result<Upstream, Reason> {
        let data = self.data()?;
        let sequence = if data.is_some() { self.required_number(Key::StreamSequenceId)? } else { 0 };
        Ok(Upstream::StreamData { stream_id: self.id(Key::StreamId)?, sequence, data })
    }

    fn stream_end(&self) -> Result<Upstream, Reason> {
        let error = match self.object(Key::Error)? {
            Some(error) => Some(StreamEndError {
                message: error.text(Key::Message)?.map(Cow::into_owned),
                user_error_code: error.text(Key::UserErrorCode)?.map(Cow::into_owned),
            }),
            None => None,
        };
        Ok(Upstream::StreamEnd { stream_id: self.id(Key::StreamId)?, error })
    }

    fn stream_start(&self) -> Result<Option<StreamStart>, Reason> {
        let Some(stream) = self.object(Key::Stream)? else { return Ok(None) };
        let idle_timeout_ms = stream.number(Key::IdleTimeoutMs)?;
        Ok(Some(StreamStart { stream_id: stream.id(Key::StreamId)?, idle_timeout_ms }))
    }

    fn set_group_state(&self, ack_id: Option<u64>) -> Result<Upstream, Reason> {
        let state = match self.get(Key::State) {
            Some(state) => {
                let _texts: Metadata =
                    serde_json::from_str(state.get()).map_err(|_| "state must be an object of texts")?;
                Some(Bytes::copy_from_slice(state.get().as_bytes()))
            }
            None => None,
        };
        Ok(Upstream::SetGroupState { group: self.group()?, state, ack_id })
    }

    /// Absent when it is `null`.
    fn get(&self, key: Key) -> Option<&'a RawValue> {
        self.at.get(key as usize).copied().flatten().filter(|raw| raw.get() != "null")
    }

    fn text(&self, key: Key) -> Result<Option<Cow<'a, str>>, Reason> {
        match self.get(key) {
            None => Ok(None),
            Some(raw) => text(raw).map(Some).ok_or_else(|| format!("{} must be a text", key.name())),
        }
    }

    fn required_text(&self, key: Key) -> Result<Cow<'a, str>, Reason> {
        self.text(key)?.ok_or_else(|| missing(key))
    }

    fn number(&self, key: Key) -> Result<Option<u64>, Reason> {
        match self.get(key) {
            None => Ok(None),
            Some(raw) => match raw.get().parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(format!("{} must be a whole number from 0 to 2^64-1", key.name())),
            },
        }
    }

    fn required_number(&self, key: Key) -> Result<u64, Reason> {
        self.number(key)?.ok_or_else(|| missing(key))
    }

    fn flag(&self, key: Key) -> Result<Option<bool>, Reason> {
        match self.get(key).map(RawValue::get) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(format!("{} must be true or false", key.name())),
        }
    }

    fn object(&self, key: Key) -> Result<Option<Self>, Reason> {
        match self.get(key) {
            None => Ok(None),
            Some(raw) => match serde_json::from_str(raw.get()) {
                Ok(fields) => Ok(Some(fields)),
                Err(_) => Err(format!("{} must be an object", key.name())),
            },
        }
    }

    fn group(&self) -> Result<GroupName, Reason> {
        GroupName::parse(&self.required_text(Key::Group)?).map_err(|bad| bad.to_string())
    }

    fn id(&self, key: Key) -> Result<String, Reason> {
        let id = self.required_text(key)?;
        if (1..=CLIENT_ID_LEN_MAX).contains(&id.len()) {
            Ok(id.into_owned())
        } else {
            Err(format!("{} must have 1 to {CLIENT_ID_LEN_MAX} bytes", key.name()))
        }
    }

    fn metadata(&self) -> Result<Metadata, Reason> {
        let Some(raw) = self.get(Key::Metadata) else { return Ok(Metadata::new()) };
        let metadata: Metadata =
            serde_json::from_str(raw.get()).map_err(|_| "metadata must be an object of texts")?;
        check_metadata(&metadata)?;
        Ok(metadata)
    }

    /// Metadata alone is a message too: its data is empty text.
    fn data_or_metadata(&self, metadata: &Metadata) -> Result<Option<Data>, Reason> {
        let only_metadata = (!metadata.is_empty()).then(|| Data::Text(Bytes::new()));
        Ok(self.data()?.or(only_metadata))
    }

    fn data(&self) -> Result<Option<Data>, Reason> {
        let Some(raw) = self.at[Key::Data as usize] else { return Ok(None) };
        let kind = self.text(Key::DataType)?.unwrap_or(Cow::Borrowed("json"));
        let is = |name: &str| kind.eq_ignore_ascii_case(name);
        if is("json") {
            if is_too_deep(raw.get().as_bytes()) {
                return Err(format!("data is nested more than {JSON_DEPTH_MAX} levels deep"));
            }
            return Ok(Some(Data::Json(Bytes::copy_from_slice(raw.get().as_bytes()))));
        }
        let content = text(raw).ok_or_else(|| format!("data of the type {kind:.16} must be a text"))?;
        if is("text") {
            return Ok(Some(Data::text(&content)));
        }
        if !is("binary") && !is("protobuf") {
            return Err(format!("unknown dataType: {kind:.32}"));
        }
        let bytes = STANDARD.decode(content.as_bytes()).map_err(|_| "data is not valid base64")?;
        if is("binary") {
            return Ok(Some(Data::Binary(bytes.into())));
        }
        if is_any(&bytes) {
            Ok(Some(Data::Protobuf(bytes.into())))
        } else {
            Err("data is not an encoded google.protobuf.Any".to_owned())
        }
    }
}

fn missing(key: Key) -> Reason {
    format!("{} is missing", key.name())
}

/// What a JSON string says; nothing if the value is not one.
fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// Whether valid JSON nests more than [`JSON_DEPTH_MAX`] arrays and objects.
pub(in super::super) fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest > JSON_DEPTH_MAX
}
