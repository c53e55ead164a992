//! The topics of the contract: what a device publishes to, subscribes to and is sent, as types.
//!
//! Topics are the same text for every device except for its own id, so nothing here is routed: a text is read against the [`Key`] of
//! the connection that it came on.
//!
//! A property bag is `name=value&name=value`, percent-encoded; names that begin with `$.` are the system's. Order and doubles are
//! kept; a bare `name` and an empty `name=` stay two things.

use crate::names::{Key, Subs};
use crate::percent::{self, BadEncoding};

use super::behind::{Sent, Telemetered};

#[cfg(test)]
mod tests;

/// Longest number of a request that is repeated in an answer; the official SDKs use 36 characters.
const RID_LEN_MAX: usize = 256;
/// Most properties of one message; what the contract allows to a message is less than this in bytes.
const PROPERTIES_MAX: usize = 1_000;

/// The property that says what a retained message was; it is not retained.
const RETAIN: &str = "mqtt-retain";

/// What a device says by publishing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// Telemetry, its body still missing.
    Telemetry(Telemetered),
    /// Asks for its twin.
    Twin {
        /// The request's number, as sent.
        rid: String,
    },
    /// Reports properties.
    Reported {
        /// The request's number, as sent.
        rid: String,
    },
    /// Answers a method.
    Answer {
        /// The method's number.
        rid: String,
        /// Its status.
        status: i32,
    },
}

/// What a device can subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Cloud-to-device messages.
    Messages,
    /// Answers about its twin.
    Twin,
    /// Changes of desired properties.
    Desired,
    /// Direct methods.
    Methods,
    /// A module's inputs.
    Inputs,
}

/// A topic that is none of the contract's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTopic {
    /// Nothing like it exists for this device.
    #[error(
        "no topic of a device hub: use devices/{{id}}/messages/events/, $iothub/twin/ or $iothub/methods/res/"
    )]
    Unknown,
    /// A property is not encoded as it must be.
    #[error("in its properties, {0}")]
    Encoding(#[from] BadEncoding),
    /// Too many properties.
    #[error("it has more than {PROPERTIES_MAX} properties")]
    Properties,
    /// The request has no number, or a far too long one.
    #[error("it has no $rid of 1 to {RID_LEN_MAX} bytes")]
    Rid,
    /// The answer to a method has no status.
    #[error("its status is no number")]
    Status,
}

/// Reads the topic of a message that a device published.
///
/// # Errors
/// [`BadTopic`] says what is wrong with it.
pub fn published(key: &Key, topic: &str) -> Result<Published, BadTopic> {
    if let Some(rest) = topic.strip_prefix("$iothub/") {
        return asked(rest);
    }
    let bag = after_id(key, topic).and_then(|rest| rest.strip_prefix("/messages/events"));
    let bag = match bag {
        Some("") => "",
        Some(bag) => bag.strip_prefix('/').ok_or(BadTopic::Unknown)?,
        None => return Err(BadTopic::Unknown),
    };
    // Some SDKs close the topic with a slash; inside a bag it is always encoded.
    Ok(Published::Telemetry(read_bag(bag.strip_suffix('/').unwrap_or(bag))?))
}

fn asked(topic: &str) -> Result<Published, BadTopic> {
    if let Some(query) = topic.strip_prefix("twin/GET/") {
        return Ok(Published::Twin { rid: rid(query)? });
    }
    if let Some(query) = topic.strip_prefix("twin/PATCH/properties/reported/") {
        return Ok(Published::Reported { rid: rid(query)? });
    }
    let rest = topic.strip_prefix("methods/res/").ok_or(BadTopic::Unknown)?;
    let (status, query) = rest.split_once('/').ok_or(BadTopic::Unknown)?;
    Ok(Published::Answer { rid: rid(query)?, status: status.parse().map_err(|_| BadTopic::Status)? })
}

/// The number in `?$rid=...`, as it was sent: it is only ever repeated.
fn rid(query: &str) -> Result<String, BadTopic> {
    let query = query.strip_prefix('?').ok_or(BadTopic::Rid)?;
    let mut values = query.split('&').filter_map(|pair| pair.split_once('='));
    let rid = values.find(|(name, _)| matches!(*name, "$rid" | "%24rid")).map(|(_, rid)| rid);
    let rid = rid.filter(|rid| (1..=RID_LEN_MAX).contains(&rid.len())).ok_or(BadTopic::Rid)?;
    Ok(rid.to_owned())
}

/// Reads what a device wants to subscribe to.
///
/// # Errors
/// [`BadTopic::Unknown`]: nothing of the kind exists for this device.
pub fn filter(key: &Key, topic: &str) -> Result<Filter, BadTopic> {
    let own = || after_id(key, topic);
    match topic {
        "$iothub/twin/res/#" => Ok(Filter::Twin),
        "$iothub/twin/PATCH/properties/desired/#" => Ok(Filter::Desired),
        "$iothub/methods/POST/#" => Ok(Filter::Methods),
        _ if own() == Some("/messages/devicebound/#") => Ok(Filter::Messages),
        _ if key.module.is_some() && own() == Some("/inputs/#") => Ok(Filter::Inputs),
        _ => Err(BadTopic::Unknown),
    }
}

impl Filter {
    /// Where this subscription stands.
    pub fn of(self, subs: &mut Subs) -> &mut Option<u8> {
        match self {
            Self::Messages => &mut subs.messages,
            Self::Twin => &mut subs.twin,
            Self::Desired => &mut subs.desired,
            Self::Methods => &mut subs.methods,
            Self::Inputs => &mut subs.inputs,
        }
    }
}

/// What follows `devices/{id}` or `devices/{id}/modules/{module}`, if the ids are this connection's. The SDKs do not encode them;
/// who does is understood, too.
fn after_id<'a>(key: &Key, topic: &'a str) -> Option<&'a str> {
    let rest = after_one(topic.strip_prefix("devices/")?, key.device.as_str())?;
    match &key.module {
        None => Some(rest),
        Some(module) => after_one(rest.strip_prefix("/modules/")?, module.as_str()),
    }
}

fn after_one<'a>(topic: &'a str, id: &str) -> Option<&'a str> {
    let (segment, rest) = topic.split_at(topic.find('/').unwrap_or(topic.len()));
    (segment == id || percent::decode(segment).is_ok_and(|decoded| decoded == id)).then_some(rest)
}

/// Reads a property bag.
///
/// # Errors
/// [`BadTopic`] if a name or value is not encoded as it must be, or there are too many.
pub fn read_bag(bag: &str) -> Result<Telemetered, BadTopic> {
    let mut read = Telemetered::default();
    for (nth, pair) in bag.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if nth == PROPERTIES_MAX {
            return Err(BadTopic::Properties);
        }
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (decode(name)?, Some(decode(value)?)),
            None => (decode(pair)?, None),
        };
        if name.starts_with("$.") {
            read.system.push((name, value.unwrap_or_default()));
        } else {
            read.properties.push((name, value));
        }
    }
    Ok(read)
}

/// Most of what devices send needs no decoding.
fn decode(text: &str) -> Result<String, BadEncoding> {
    if text.as_bytes().contains(&b'%') { percent::decode(text) } else { Ok(text.to_owned()) }
}

/// Writes a property bag: the system's first.
#[must_use]
pub fn write_bag(system: &[(String, String)], properties: &[(String, Option<String>)]) -> String {
    let system = system.iter().map(|(name, value)| (name, Some(value)));
    let properties = properties.iter().map(|(name, value)| (name, value.as_ref()));
    let mut bag = String::new();
    for (name, value) in system.chain(properties) {
        if !bag.is_empty() {
            bag.push('&');
        }
        bag.push_str(&percent::encode(name));
        if let Some(value) = value {
            bag.push('=');
            bag.push_str(&percent::encode(value));
        }
    }
    bag
}

/// Marks a message that the device wanted to be retained; nothing is.
pub fn mark_retained(event: &mut Telemetered) {
    event.properties.push((RETAIN.to_owned(), Some("true".to_owned())));
}

/// Marks a message as its sender's will.
pub fn mark_will(event: &mut Telemetered) {
    event.properties.push(("iothub-MessageType".to_owned(), Some("Will".to_owned())));
}

/// Where a cloud-to-device message is delivered.
#[must_use]
pub fn message(key: &Key, sent: &Sent) -> String {
    let bag = write_bag(&sent.system, &sent.properties);
    match &key.module {
        None => format!("devices/{}/messages/devicebound/{bag}", key.device),
        Some(module) => format!("devices/{}/modules/{module}/messages/devicebound/{bag}", key.device),
    }
}

/// Where a request about a twin is answered.
#[must_use]
pub fn twin_answer(status: u16, rid: &str) -> String {
    format!("$iothub/twin/res/{status}/?$rid={rid}")
}

/// Where a device is told that what it reported is kept, as this version.
#[must_use]
pub fn reported_answer(rid: &str, version: u64) -> String {
    format!("$iothub/twin/res/204/?$rid={rid}&$version={version}")
}

/// Where a change of desired properties is told.
#[must_use]
pub fn desired(version: u64) -> String {
    format!("$iothub/twin/PATCH/properties/desired/?$version={version}")
}

/// Where a method is called.
#[must_use]
pub fn method(name: &str, rid: &str) -> String {
    format!("$iothub/methods/POST/{}/?$rid={rid}", percent::encode(name))
}
