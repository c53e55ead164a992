//! What is asked and answered: topics and bodies.

use std::time::Duration;

use farshore_core::moment::Moment;
use ring::digest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Assigned, Assignment};
use crate::names::DeviceId;

/// Where answers are subscribed to.
pub(super) const ANSWERS: &str = "$dps/registrations/res/#";
/// Longest identifier of a request; the official SDKs use a UUID.
const REQUEST_ID_LEN_MAX: usize = 128;

/// What a device asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    Register { request: &'a str },
    Status { request: &'a str, operation: &'a str },
}

impl<'a> Asked<'a> {
    /// Understands the topic of a request; `None`: there is no such topic here.
    pub(super) fn read(topic: &'a str) -> Option<Self> {
        let (path, query) = topic.strip_prefix("$dps/registrations/")?.split_once("/?")?;
        let field =
            |name: &str| query.split('&').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let request = field("$rid").filter(|id| is_request_id(id))?;
        match path {
            "PUT/iotdps-register" => Some(Self::Register { request }),
            "GET/iotdps-get-operationstatus" => {
                Some(Self::Status { request, operation: field("operationId")? })
            }
            _ => None,
        }
    }

    pub(super) fn request(&self) -> &'a str {
        match self {
            Self::Register { request } | Self::Status { request, .. } => request,
        }
    }
}

/// It comes back in a topic, where some characters mean something.
fn is_request_id(text: &str) -> bool {
    (1..=REQUEST_ID_LEN_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'+' | b'/'))
}

/// The body of a request to register.
#[derive(Debug, Deserialize)]
pub(super) struct Registering {
    #[serde(rename = "registrationId")]
    pub(super) registration: String,
    pub(super) payload: Option<Value>,
}

/// An answer, before it has a topic.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Value,
}

impl Answer {
    /// The topic of the answer to `request`.
    pub(super) fn topic(&self, request: &str) -> String {
        let retry =
            self.retry_after.map(|after| format!("&retry-after={}", seconds(after))).unwrap_or_default();
        format!("$dps/registrations/res/{}/?$rid={request}{retry}", self.status)
    }

    /// Where the device belongs.
    pub(super) fn assignment(scope: &str, registration: &DeviceId, assignment: &Assignment) -> Self {
        let operation = operation(scope, registration);
        match assignment {
            Assignment::Assigned(assigned) => Self {
                status: 200,
                retry_after: None,
                body: json!({
                    "operationId": operation,
                    "status": "assigned",
                    "registrationState": state(registration, assigned),
                }),
            },
            Assignment::Assigning { retry_after } => Self {
                status: 202,
                retry_after: Some(*retry_after),
                body: json!({ "operationId": operation, "status": "assigning" }),
            },
            Assignment::Failed { why } => Self {
                status: 200,
                retry_after: None,
                body: json!({
                    "operationId": operation,
                    "status": "failed",
                    "registrationState": {
                        "registrationId": registration.as_str(),
                        "status": "failed",
                        "substatus": "",
                        "errorCode": 400_207,
                        "errorMessage": why,
                    },
                }),
            },
        }
    }

    /// Nobody can tell now: every SDK asks again by itself.
    pub(super) fn later(retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::error(429, 429_001, "the hub is changing sides: ask again", None)
        }
    }

    /// The device is not believed.
    pub(super) fn unauthorized(now: Moment) -> Self {
        Self::error(401, 401_002, "the registration is not proved: check its key or certificate", Some(now))
    }

    /// The request cannot be understood.
    pub(super) fn bad(why: &str, now: Moment) -> Self {
        Self::error(400, 400_004, why, Some(now))
    }

    /// There is no such operation.
    pub(super) fn no_operation(now: Moment) -> Self {
        Self::error(404, 404_204, "there is no such operation: register first", Some(now))
    }

    fn error(status: u16, code: u32, message: &str, now: Option<Moment>) -> Self {
        let mut body = json!({ "errorCode": code, "message": message, "trackingId": "" });
        if let Some(now) = now {
            body["timestampUtc"] = now.to_string().into();
        }
        Self { status, retry_after: None, body }
    }
}

/// `substatus` is always there: the official SDK for Python cannot print a result without it.
fn state(registration: &DeviceId, assigned: &Assigned) -> Value {
    let mut state = json!({
        "registrationId": registration.as_str(),
        "createdDateTimeUtc": assigned.created.to_string(),
        "assignedHub": assigned.hub,
        "deviceId": assigned.device.as_str(),
        "status": "assigned",
        "substatus": "initialAssignment",
        "lastUpdatedDateTimeUtc": assigned.updated.to_string(),
        "etag": assigned.etag,
    });
    if let Some(payload) = &assigned.payload {
        state["payload"] = payload.clone();
    }
    state
}

/// The operation of a registration: always the same, so that a device may ask about it wherever and whenever it connects.
pub(super) fn operation(scope: &str, registration: &DeviceId) -> String {
    let hash = digest::digest(&digest::SHA256, format!("{scope}/{registration}").as_bytes());
    let hex: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("5.{hex}")
}

/// Whole seconds, at least one: zero would make devices ask without a pause.
fn seconds(after: Duration) -> u64 {
    after.as_millis().div_ceil(1000).clamp(1, 3600).try_into().unwrap_or(3600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_their_topics() {
        let status = Asked::Status { request: "1-a", operation: "5.x" };
        let rows = [
            ("$dps/registrations/PUT/iotdps-register/?$rid=1-a", Some(Asked::Register { request: "1-a" })),
            ("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1-a&operationId=5.x", Some(status)),
            ("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1-a", None),
            ("$dps/registrations/PUT/iotdps-register/?$rid=", None),
            ("$dps/registrations/PUT/iotdps-register/?$rid=a+b", None),
            ("$dps/registrations/PUT/iotdps-register/", None),
            ("$dps/registrations/DELETE/x/?$rid=1", None),
            ("devices/pump/messages/events/", None),
        ];
        for (topic, expected) in rows {
            assert_eq!(Asked::read(topic), expected, "{topic}");
        }
    }

    #[test]
    fn devices_never_ask_again_at_once() {
        let later = |millis| Answer::later(Duration::from_millis(millis)).topic("r");
        assert_eq!(later(0), "$dps/registrations/res/429/?$rid=r&retry-after=1");
        assert_eq!(later(1500), "$dps/registrations/res/429/?$rid=r&retry-after=2");
    }
}
