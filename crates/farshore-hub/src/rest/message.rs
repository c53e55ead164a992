//! Messages to devices.
//!
//! There is no such call in the official service SDKs, which send by AMQP; this is for everybody else. What the SDKs call
//! system properties are headers named as the official device SDKs read them over HTTP.

use std::time::Duration;

use farshore_core::moment::Moment;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::json;

use super::answer::{self, Body};
use super::error::RestError;
use super::hub::Hub;
use super::request;
use super::serve::Asked;
use crate::names::Key;
use crate::percent;
use crate::record::{Ack, Message};

/// Largest message, in bytes; from the contract of the official SDKs.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Most properties, and bytes in them: what fits into a topic.
const PROPERTIES_MAX: usize = 64;
const PROPERTIES_BYTES_MAX: usize = 16 * 1024;

/// How long a message waits when the sender says nothing, and at most; from the contract of the official SDKs.
const LIFE: Duration = Duration::from_secs(60 * 60);
const LIFE_MAX: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// Headers that are system properties.
const SYSTEM: [(&str, &str); 3] =
    [("iothub-messageid", "$.mid"), ("iothub-correlationid", "$.cid"), ("iothub-userid", "$.uid")];

/// Headers with this in front are the application's properties; their case is lost on the way.
const APPLICATION: &str = "iothub-app-";

/// `POST /devices/{id}/messages/devicebound`
pub(super) async fn send(hub: &Hub, key: Key, asked: Asked) -> Result<Response<Body>, RestError> {
    let message = message(&key, asked)?;
    hub.device(&key)?;
    let id = hub.push(&key, message).await?;
    let mut response = answer::json(&json!({ "messageId": id }));
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

/// `DELETE /devices/{id}/commands`
pub(super) async fn purge(hub: &Hub, key: Key) -> Result<Response<Body>, RestError> {
    hub.device(&key)?;
    let purged = hub.purge(&key).await?;
    Ok(answer::json(&json!({
        "totalMessagesPurged": purged,
        "deviceId": key.device.as_str(),
        "moduleId": key.module.as_ref().map(|module| module.as_str()),
    })))
}

fn message(key: &Key, asked: Asked) -> Result<Message, RestError> {
    if asked.body.len() > BODY_BYTES_MAX {
        return Err(RestError::too_large("a message to a device is at most 64 KiB"));
    }
    let parts = &asked.parts;
    let mut message = Message::new(asked.body);
    for (header, name) in SYSTEM {
        if let Some(value) = request::header(parts, header) {
            message.system.push((name.to_owned(), value.to_owned()));
        }
    }
    for (header, name) in [(CONTENT_TYPE, "$.ct"), (CONTENT_ENCODING, "$.ce")] {
        if let Some(value) = request::header(parts, header.as_str()) {
            message.system.push((name.to_owned(), value.to_owned()));
        }
    }
    message.system.push(("$.to".to_owned(), to(key)));
    message.properties = properties(parts)?;
    message.ack = ack(request::header(parts, "iothub-ack"))?;
    message.enqueued = asked.now;
    message.expires = Some(expires(request::header(parts, "iothub-expiry"), asked.now)?);
    Ok(message)
}

/// The address that SDKs expect in a message.
pub(crate) fn to(key: &Key) -> String {
    match &key.module {
        None => format!("/devices/{}/messages/devicebound", key.device),
        Some(module) => format!("/devices/{}/modules/{module}/messages/devicebound", key.device),
    }
}

fn ack(text: Option<&str>) -> Result<Ack, RestError> {
    match text.unwrap_or("none").to_ascii_lowercase().as_str() {
        "none" => Ok(Ack::None),
        "positive" => Ok(Ack::Positive),
        "negative" => Ok(Ack::Negative),
        "full" => Ok(Ack::Full),
        other => Err(RestError::argument(format!(
            "iothub-ack is {other:?}: choose none, positive, negative or full"
        ))),
    }
}

/// A moment, or seconds from now.
fn expires(text: Option<&str>, now: Moment) -> Result<Moment, RestError> {
    let Some(text) = text else { return Ok(now.after(LIFE)) };
    let moment = match text.parse::<u64>() {
        Ok(seconds) => now.after(Duration::from_secs(seconds)),
        Err(_) => text.parse().map_err(|error| RestError::argument(format!("iothub-expiry: {error}")))?,
    };
    if moment <= now || moment > now.after(LIFE_MAX) {
        return Err(RestError::argument("iothub-expiry must be in the future, and within two days"));
    }
    Ok(moment)
}

/// The application's: `iothub-properties: Zone=1&bare` keeps names as they are, `iothub-app-zone: 1` is as the SDKs write it.
fn properties(parts: &Parts) -> Result<Vec<(String, Option<String>)>, RestError> {
    let mut properties = Vec::new();
    for field in request::header(parts, "iothub-properties")
        .unwrap_or_default()
        .split('&')
        .filter(|text| !text.is_empty())
    {
        let (name, value) = field.split_once('=').map_or((field, None), |(name, value)| (name, Some(value)));
        properties.push((decoded(name)?, value.map(decoded).transpose()?));
    }
    for (header, value) in &parts.headers {
        if let Some(name) = header.as_str().strip_prefix(APPLICATION) {
            let value = value.to_str().map_err(|_| RestError::argument(format!("{header} is not ASCII")))?;
            properties.push((name.to_owned(), Some(value.to_owned())));
        }
    }
    let bytes: usize =
        properties.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len)).sum();
    if properties.len() > PROPERTIES_MAX || bytes > PROPERTIES_BYTES_MAX {
        return Err(RestError::too_large("a message has at most 64 properties of 16 KiB together"));
    }
    if properties.iter().any(|(name, _)| name.is_empty() || name.starts_with('$')) {
        return Err(RestError::argument("names of properties must not be empty or begin with '$'"));
    }
    Ok(properties)
}

fn decoded(text: &str) -> Result<String, RestError> {
    percent::decode(text).map_err(|error| RestError::argument(format!("in iothub-properties {error}")))
}
