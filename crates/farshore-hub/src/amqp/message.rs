//! What messages say: tokens and messages in, answers and feedback out.

use bytes::{Bytes, BytesMut};
use farshore_core::moment::Moment;
use fe2o3_amqp_types::definitions::{self, AmqpError, ErrorCondition, LinkError};
use fe2o3_amqp_types::messaging::{ApplicationProperties, MessageId, Properties};
use fe2o3_amqp_types::primitives::{OrderedMap, SimpleValue, Symbol, Timestamp, Value};

use super::wire::{self, BadFrame};
use super::{Ack, CloudMessage, Feedback, FeedbackRecord, Refused, shape};
use crate::names::{DeviceId, Key, ModuleId};
use crate::percent;

/// Largest message that is put together: 64 KiB of body, 8 KiB of properties, and what the protocol adds.
pub(super) const MESSAGE_BYTES_MAX: usize = 80 * 1024;
/// Largest body of a message to a device, from the contract of the official SDKs.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest request with a token: one is some hundred bytes.
pub(super) const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Most sections of a message: eight are defined, and a body may come in several.
const SECTIONS_MAX: usize = 64;
/// Microseconds of a millisecond.
const MICROS: u64 = 1000;

const PROPERTIES: u64 = 0x73;
const APPLICATION_PROPERTIES: u64 = 0x74;
const DATA: u64 = 0x75;
const SEQUENCE: u64 = 0x76;
const VALUE: u64 = 0x77;

/// The sections of a message that anybody here looks at.
#[derive(Debug, Default)]
struct Sections {
    properties: Properties,
    application: OrderedMap<String, SimpleValue>,
    body: Bytes,
}

/// A token that a peer puts, and where it wants the answer.
#[derive(Debug)]
pub(super) struct PutToken {
    pub(super) token: String,
    pub(super) audience: String,
    pub(super) id: Option<MessageId>,
}

/// Reads the request of a peer that shows its token.
pub(super) fn put_token(bytes: &[u8]) -> Result<PutToken, (Option<MessageId>, Refused)> {
    let sections = sections(bytes).map_err(|why| (None, Refused::Bad(why)))?;
    let id = sections.properties.message_id.clone();
    let text = |name: &str| sections.application.get(name).and_then(plain);
    let bad = |why: &str| (id.clone(), Refused::Bad(why.to_owned()));
    if text("operation").as_deref() != Some("put-token") {
        return Err(bad("the only operation of $cbs is put-token"));
    }
    if text("type").as_deref() != Some("servicebus.windows.net:sastoken") {
        return Err(bad("the only type of token is servicebus.windows.net:sastoken"));
    }
    let token = std::str::from_utf8(&sections.body).map_err(|_| bad("the token is no text"))?;
    Ok(PutToken { token: token.to_owned(), audience: text("name").unwrap_or_default(), id })
}

/// Reads a message for a device.
pub(super) fn cloud_message(bytes: &[u8]) -> Result<CloudMessage, Refused> {
    let Sections { properties, application, body } = sections(bytes).map_err(Refused::Bad)?;
    if body.len() > BODY_BYTES_MAX {
        return Err(Refused::TooLarge);
    }
    let to = properties.to.ok_or_else(|| Refused::Bad("the message says in `to` no device".to_owned()))?;
    let key = destination(&to)?;
    let mut ack = Ack::None;
    let mut texts = Vec::new();
    for (name, value) in application {
        let text =
            plain(&value).ok_or_else(|| Refused::Bad(format!("property {name:?} is no plain value")))?;
        match name.as_str() {
            "iothub-ack" => ack = wanted(&text)?,
            _ => texts.push((name, text)),
        }
    }
    Ok(CloudMessage {
        key,
        to,
        id: properties.message_id.map(id_text),
        correlation: properties.correlation_id.map(id_text),
        user: properties.user_id.map(|user| String::from_utf8_lossy(&user).into_owned()),
        expires: properties.absolute_expiry_time.map(moment),
        ack,
        content_type: properties.content_type.map(|symbol| symbol.as_str().to_owned()),
        content_encoding: properties.content_encoding.map(|symbol| symbol.as_str().to_owned()),
        properties: texts,
        body,
    })
}

/// The answer to a token.
pub(super) fn token_answer(
    to: Option<MessageId>,
    answer: &Result<super::Granted, Refused>,
) -> Result<Vec<u8>, serde_amqp::Error> {
    let (status, description) = match answer {
        Ok(_) => (200, "OK".to_owned()),
        Err(refused) => (status(refused), refused.to_string()),
    };
    let mut application = OrderedMap::new();
    application.insert("status-code".to_owned(), SimpleValue::Int(status));
    application.insert("status-description".to_owned(), SimpleValue::String(description));
    let mut bytes = serde_amqp::to_vec(&Properties { correlation_id: to, ..Properties::default() })?;
    bytes.extend(serde_amqp::to_vec(&ApplicationProperties(application))?);
    // An empty value as the body: some peers want one.
    bytes.extend([0x00, 0x53, 0x77, 0x40]);
    Ok(bytes)
}

/// Feedback as a message.
pub(super) fn feedback(hub: &str, feedback: &Feedback) -> Result<Vec<u8>, serde_amqp::Error> {
    let millis = i64::try_from(feedback.enqueued.0 / MICROS).unwrap_or(i64::MAX);
    let properties = Properties {
        message_id: Some(MessageId::String(feedback.lock.clone())),
        user_id: Some(hub.as_bytes().to_vec().into()),
        content_type: Some(Symbol::from("application/vnd.microsoft.iothub.feedback.json")),
        content_encoding: Some(Symbol::from("utf-8")),
        creation_time: Some(Timestamp::from(millis)),
        ..Properties::default()
    };
    let mut bytes = serde_amqp::to_vec(&properties)?;
    let body = feedback_json(feedback);
    bytes.extend([0x00, 0x53, 0x75, 0xB0]);
    bytes.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(body);
    Ok(bytes)
}

/// The body of feedback, as the official SDKs hand it to applications.
fn feedback_json(feedback: &Feedback) -> Vec<u8> {
    let records: Vec<_> = feedback.records.iter().map(record_json).collect();
    serde_json::Value::from(records).to_string().into_bytes()
}

fn record_json(record: &FeedbackRecord) -> serde_json::Value {
    let mut json = serde_json::json!({
        "originalMessageId": record.message,
        "enqueuedTimeUtc": record.at.to_string(),
        "statusCode": record.outcome.as_str(),
        "description": record.outcome.as_str(),
        "deviceId": record.key.device.as_str(),
        "deviceGenerationId": &*record.generation,
    });
    if let Some(module) = &record.key.module {
        json["moduleId"] = module.as_str().into();
    }
    json
}

/// The error of the protocol for a refusal: the official SDKs make their own errors of the condition.
pub(super) fn error(refused: &Refused) -> definitions::Error {
    let condition: ErrorCondition = match refused {
        Refused::Unauthorized(_) => AmqpError::UnauthorizedAccess.into(),
        Refused::UnknownDevice(_) | Refused::NoNode(_) => AmqpError::NotFound.into(),
        Refused::QueueFull => AmqpError::ResourceLimitExceeded.into(),
        Refused::TooLarge => LinkError::MessageSizeExceeded.into(),
        Refused::Bad(_) => ErrorCondition::Custom(Symbol::from("com.microsoft:argument-error")),
        Refused::Unavailable(_) => ErrorCondition::Custom(Symbol::from("com.microsoft:timeout")),
    };
    definitions::Error::new(condition, refused.to_string(), None)
}

fn status(refused: &Refused) -> i32 {
    match refused {
        Refused::Unauthorized(_) => 401,
        Refused::UnknownDevice(_) | Refused::NoNode(_) => 404,
        Refused::QueueFull => 403,
        Refused::TooLarge => 413,
        Refused::Bad(_) => 400,
        Refused::Unavailable(_) => 503,
    }
}

/// Takes a message apart. Sections that nobody here looks at are stepped over.
fn sections(bytes: &[u8]) -> Result<Sections, String> {
    let mut found = Sections::default();
    let mut body = BytesMut::new();
    let mut rest = bytes;
    for _ in 0..SECTIONS_MAX {
        if rest.is_empty() {
            found.body = body.freeze();
            return Ok(found);
        }
        let end = shape::end_of_value(rest).map_err(|why| format!("the message is malformed: {why}"))?;
        let (section, after) = rest.split_at(end);
        rest = after;
        take_section(section, &mut found, &mut body)
            .map_err(|why| format!("a section of the message is malformed: {why}"))?;
    }
    Err(format!("the message has more than {SECTIONS_MAX} sections"))
}

fn take_section(section: &[u8], found: &mut Sections, body: &mut BytesMut) -> Result<(), BadFrame> {
    let (code, content) = match section {
        [0x00, 0x53, code, content @ ..] => (u64::from(*code), content),
        [0x00, 0x80, a, b, c, d, e, f, g, h, content @ ..] => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), content)
        }
        _ => return Ok(()),
    };
    match code {
        PROPERTIES => found.properties = wire::value(section)?,
        APPLICATION_PROPERTIES => found.application = wire::value(content)?,
        DATA | VALUE => match wire::value::<Value>(content)? {
            Value::Binary(bytes) => body.extend_from_slice(&bytes),
            Value::String(text) => body.extend_from_slice(text.as_bytes()),
            Value::Null => {}
            _ => return Err(serde_amqp::Error::Message("a body is text or bytes".to_owned()).into()),
        },
        SEQUENCE => {
            return Err(serde_amqp::Error::Message("a body is text or bytes, no sequence".to_owned()).into());
        }
        _ => {}
    }
    Ok(())
}

/// `/devices/{id}/messages/devicebound` or `/devices/{id}/modules/{module}/messages/devicebound`.
fn destination(to: &str) -> Result<Key, Refused> {
    let parts: Vec<&str> = to.trim_start_matches('/').split('/').collect();
    let bad = |why: &dyn std::fmt::Display| Refused::Bad(format!("`to` is {to:?}: {why}"));
    let device = |id: &str| DeviceId::parse(&plain_id(id)).map_err(|why| bad(&why));
    match parts.as_slice() {
        ["devices", id, "messages", ending] if ending.eq_ignore_ascii_case("devicebound") => {
            Ok(Key::device(device(id)?))
        }
        ["devices", id, "modules", module, "messages", ending]
            if ending.eq_ignore_ascii_case("devicebound") =>
        {
            Ok(Key::module(device(id)?, ModuleId::parse(&plain_id(module)).map_err(|why| bad(&why))?))
        }
        _ => Err(bad(&"it must be /devices/{id}/messages/devicebound")),
    }
}

/// The official SDK for Node percent-encodes identifiers here and the one for Python does not; an identifier that was not
/// encoded and can be decoded to another one is taken for the other.
fn plain_id(id: &str) -> String {
    percent::decode(id).ok().filter(|plain| DeviceId::parse(plain).is_ok()).unwrap_or_else(|| id.to_owned())
}

fn wanted(text: &str) -> Result<Ack, Refused> {
    match text {
        "none" => Ok(Ack::None),
        "positive" => Ok(Ack::Positive),
        "negative" => Ok(Ack::Negative),
        "full" => Ok(Ack::Full),
        other => Err(Refused::Bad(format!(
            "iothub-ack is {other:?}; none, positive, negative or full is possible"
        ))),
    }
}

/// A plain value as the text a device is given; `None`: it has no such text.
fn plain(value: &SimpleValue) -> Option<String> {
    Some(match value {
        SimpleValue::Null => String::new(),
        SimpleValue::Bool(it) => it.to_string(),
        SimpleValue::Ubyte(it) => it.to_string(),
        SimpleValue::Ushort(it) => it.to_string(),
        SimpleValue::Uint(it) => it.to_string(),
        SimpleValue::Ulong(it) => it.to_string(),
        SimpleValue::Byte(it) => it.to_string(),
        SimpleValue::Short(it) => it.to_string(),
        SimpleValue::Int(it) => it.to_string(),
        SimpleValue::Long(it) => it.to_string(),
        SimpleValue::Float(it) => it.to_string(),
        SimpleValue::Double(it) => it.to_string(),
        SimpleValue::Char(it) => it.to_string(),
        SimpleValue::String(it) => it.clone(),
        SimpleValue::Symbol(it) => it.as_str().to_owned(),
        SimpleValue::Binary(it) => String::from_utf8(it.to_vec()).ok()?,
        SimpleValue::Timestamp(it) => moment(it.clone()).to_string(),
        SimpleValue::Uuid(it) => hyphened(&it.clone().into_inner()),
        _ => return None,
    })
}

/// An identifier as text: the official SDK for Node sends one that looks like a UUID as a UUID.
fn id_text(id: MessageId) -> String {
    match id {
        MessageId::Ulong(number) => number.to_string(),
        MessageId::Uuid(uuid) => hyphened(&uuid.into_inner()),
        MessageId::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        MessageId::String(text) => text,
    }
}

fn hyphened(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A time before 1970 is in the past like any other.
fn moment(at: Timestamp) -> Moment {
    Moment(u64::try_from(at.into_inner()).unwrap_or(0).saturating_mul(MICROS))
}
