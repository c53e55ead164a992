//! The first packet: who says that they are there.

use std::time::Duration;

use bytes::Bytes;
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::types::MQTT_LEVEL_311;
use rmqtt_codec::v3::{Connect, ConnectAckReason, LastWill, Packet};

use super::super::behind::{Hello, Telemetered};
use super::super::listener::Origin;
use super::super::topic::{self, BadTopic, Published};
use super::super::wire::BadPacket;
use super::MESSAGE_MAX;
use crate::names::Key;

/// What a CONNECT says, understood.
#[derive(Debug)]
pub(super) struct Introduced {
    pub(super) hello: Hello,
    pub(super) will: Option<Telemetered>,
}

/// Why the first packet leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// To be answered with a return code.
    #[error("{why}")]
    Code { code: ConnectAckReason, why: &'static str },
    /// Not to be answered: it is no CONNECT, or what it wills cannot be.
    #[error("{0}")]
    Close(String),
}

const fn code(code: ConnectAckReason, why: &'static str) -> Refusal {
    Refusal::Code { code, why }
}

/// What to do about a first packet that could not be read.
pub(super) fn unreadable(error: &BadPacket) -> Refusal {
    match error {
        BadPacket::Malformed(DecodeError::UnsupportedProtocolLevel) => OTHER_VERSION,
        BadPacket::Malformed(DecodeError::InvalidClientId) => {
            code(ConnectAckReason::IdentifierRejected, "an empty client id")
        }
        error => Refusal::Close(error.to_string()),
    }
}

const OTHER_VERSION: Refusal =
    code(ConnectAckReason::UnacceptableProtocolVersion, "another version of MQTT: only 3.1.1 is spoken here");

/// Understands a first packet.
pub(super) fn introduced(packet: Packet, origin: Origin) -> Result<Introduced, Refusal> {
    let Packet::Connect(connect) = packet else {
        return Err(Refusal::Close("the first packet is no CONNECT".to_owned()));
    };
    let connect = *connect;
    if connect.protocol.level() != MQTT_LEVEL_311 {
        return Err(OTHER_VERSION);
    }
    let name = connect.username.as_deref().map(username);
    let name = name.flatten().ok_or(code(
        ConnectAckReason::BadUserNameOrPassword,
        "the user name is not {host}/{device}/?api-version=... or {host}/{device}/{module}/?api-version=...",
    ))?;
    if *connect.client_id != *name.key.to_string() {
        return Err(code(
            ConnectAckReason::IdentifierRejected,
            "the client id is not the one in the user name",
        ));
    }
    let will = connect.last_will.as_ref().map(|will| will_of(&name.key, will)).transpose()?;
    let hello = hello(&connect, name, origin)?;
    Ok(Introduced { hello, will })
}

fn hello(connect: &Connect, name: Username<'_>, origin: Origin) -> Result<Hello, Refusal> {
    let password = connect.password.as_ref().filter(|password| !password.is_empty());
    let password = password.map(|password| String::from_utf8(password.to_vec())).transpose();
    let password = password.map_err(|_| {
        code(ConnectAckReason::BadUserNameOrPassword, "the password is no text, so no SAS token")
    })?;
    let host =
        if name.host.is_empty() { origin.server_name.unwrap_or_default() } else { name.host.to_owned() };
    Ok(Hello {
        query: name.query.to_owned(),
        host,
        key: name.key,
        password,
        certificates: origin.certificates,
        clean: connect.clean_session,
        keep_alive: Duration::from_secs(u64::from(connect.keep_alive)),
        peer: origin.peer,
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Username<'a> {
    host: &'a str,
    key: Key,
    query: &'a str,
}

/// `{host}/{device}[/{module}]/?{query}`, and the older forms: without the question mark, or without a query at all.
fn username(text: &str) -> Option<Username<'_>> {
    let (path, query) = match text.rsplit_once("/?") {
        Some(both) => both,
        // An id may contain anything but a slash; this is how every query begins.
        None => match text.rsplit_once('/') {
            Some((path, query)) if query.starts_with("api-version=") => (path, query),
            _ => (text, ""),
        },
    };
    let (host, id) = path.split_once('/')?;
    Some(Username { host, key: Key::parse(id).ok()?, query })
}

/// A will is telemetry that is sent when its sender no longer can: only to where telemetry goes.
fn will_of(key: &Key, will: &LastWill) -> Result<Telemetered, Refusal> {
    let Ok(Published::Telemetry(mut event)) = topic::published(key, &will.topic) else {
        let why = format!("a will for {:?}: {}", &*will.topic, BadTopic::Unknown);
        return Err(Refusal::Close(why));
    };
    if will.message.len() > MESSAGE_MAX {
        return Err(Refusal::Close("a will that is too long".to_owned()));
    }
    if will.retain {
        topic::mark_retained(&mut event);
    }
    topic::mark_will(&mut event);
    // Copied: it may wait for months, and must not keep the whole packet alive.
    event.body = Bytes::copy_from_slice(&will.message);
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_of_the_sdks_and_older_ones() {
        for (text, host, key, query) in [
            ("h.net/pump/?api-version=2019-10-01&D=x%2F1", "h.net", "pump", "api-version=2019-10-01&D=x%2F1"),
            ("h.net/pump/valve/?api-version=1", "h.net", "pump/valve", "api-version=1"),
            ("h:8883/pump/?", "h:8883", "pump", ""),
            ("h.net/pump/api-version=2016-11-14", "h.net", "pump", "api-version=2016-11-14"),
            ("h.net/pump", "h.net", "pump", ""),
            ("/pump/?api-version=1", "", "pump", "api-version=1"),
            ("h.net/?odd/?api-version=1", "h.net", "?odd", "api-version=1"),
        ] {
            let key = Key::parse(key).unwrap();
            assert_eq!(username(text), Some(Username { host, key, query }), "{text}");
        }
        for bad in ["", "pump", "h.net/", "h.net/pu mp/?a", "h.net/a/b/c/?x", "h.net/a//?x"] {
            assert_eq!(username(bad), None, "{bad}");
        }
    }
}
