//! Identities as the SDKs read and write them.

use farshore_core::moment::Moment;
use serde_json::{Map, Value, json};

use super::error::RestError;
use super::hub::broken;
use super::request::IfMatch;
use crate::import::{ImportMode, Line, LineError};
use crate::names::Key;
use crate::record::{Auth, Device};
use crate::registry::Decide;

/// What the SDKs take for “never”.
pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

/// What only the living hub knows of a device.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Live {
    /// Since when it is connected.
    pub(crate) connected: Option<Moment>,
    /// When it was last heard of, if it is connected.
    pub(crate) heard: Option<Moment>,
    /// How many messages wait for it.
    pub(crate) messages: usize,
}

impl Live {
    /// When the device was last heard of; `kept`: as its identity says.
    pub(super) fn last_activity(self, kept: Moment) -> Moment {
        self.heard.map_or(kept, |heard| heard.max(kept))
    }

    pub(super) fn state(self) -> &'static str {
        if self.connected.is_some() { "Connected" } else { "Disconnected" }
    }
}

/// A moment; the epoch is never.
pub(super) fn time(moment: Moment) -> String {
    if moment == Moment::default() { NEVER.to_owned() } else { moment.to_string() }
}

/// The word for a status.
pub(super) fn status(enabled: bool) -> &'static str {
    if enabled { "enabled" } else { "disabled" }
}

/// An identity as JSON.
pub(crate) fn view(device: &Device, live: Live) -> Value {
    let mut view = json!({
        "deviceId": device.key.device.as_str(),
        "generationId": &*device.generation,
        "etag": device.etag,
        "connectionState": live.state(),
        "connectionStateUpdatedTime": time(live.connected.unwrap_or(device.last_seen)),
        "lastActivityTime": time(live.last_activity(device.last_seen)),
        "cloudToDeviceMessageCount": live.messages,
        "authentication": auth_view(&device.auth),
    });
    let fields = match &device.key.module {
        Some(module) => json!({ "moduleId": module.as_str(), "managedBy": null }),
        None => json!({
            "status": status(device.enabled),
            "statusReason": Some(&device.reason).filter(|reason| !reason.is_empty()),
            "statusUpdatedTime": time(device.status_at),
            "capabilities": { "iotEdge": device.scope.edge },
            "deviceScope": device.scope.device,
            "parentScopes": device.scope.parents,
        }),
    };
    extend(&mut view, fields);
    view
}

/// Puts the members of one object into another.
pub(super) fn extend(view: &mut Value, fields: Value) {
    if let (Value::Object(view), Value::Object(fields)) = (view, fields) {
        view.extend(fields);
    }
}

fn auth_view(auth: &Auth) -> Value {
    let (mut keys, mut prints) = ((None, None), (None, None));
    match auth {
        Auth::Sas { primary, secondary } => keys = (Some(primary), Some(secondary)),
        Auth::SelfSigned { primary_thumbprint, secondary_thumbprint } => {
            prints = (primary_thumbprint.as_ref(), secondary_thumbprint.as_ref());
        }
        Auth::Authority | Auth::None => {}
    }
    json!({
        "type": auth.kind(),
        "symmetricKey": { "primaryKey": keys.0, "secondaryKey": keys.1 },
        "x509Thumbprint": { "primaryThumbprint": prints.0, "secondaryThumbprint": prints.1 },
    })
}

/// What is to be done so that the identity at `key` becomes what the body of a request says. What is missing keeps its value, or
/// gets the usual one; what is not for services to change is not looked at.
pub(super) fn decide(
    key: &Key,
    mut body: Map<String, Value>,
    if_match: &IfMatch,
) -> Result<Decide<LineError>, RestError> {
    let named = key.module.as_ref().map(|module| module.as_str());
    check_name(&mut body, "deviceId", Some(key.device.as_str()))?;
    check_name(&mut body, "moduleId", named)?;
    body.insert("id".to_owned(), key.device.as_str().into());
    let body: Line = serde_json::from_value(Value::Object(body))
        .map_err(|error| RestError::argument(format!("the body is not as expected: {error}")))?;
    let (mode, etag) = match if_match {
        IfMatch::Absent => (ImportMode::Create, None),
        IfMatch::Any => (ImportMode::Update, None),
        IfMatch::Etag(etag) => (ImportMode::UpdateIfMatchEtag, Some(etag.clone())),
    };
    let line = Line {
        module_id: named.map(str::to_owned),
        import_mode: Some(mode.as_str().to_owned()),
        etag,
        generation_id: None,
        twin_etag: None,
        tags: None,
        properties: None,
        ..body
    };
    line.decide().map(|(_, decide)| decide).map_err(|error| refused(&error))
}

/// Takes a name out of the body: it says the same as the path, or nothing.
fn check_name(body: &mut Map<String, Value>, field: &str, named: Option<&str>) -> Result<(), RestError> {
    match body.remove(field) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(name)) if Some(name.as_str()) == named => Ok(()),
        Some(other) => Err(RestError::argument(format!("{field} is {other}, the path says {named:?}"))),
    }
}

/// Why an identity is not created or changed.
pub(super) fn refused(error: &LineError) -> RestError {
    match error {
        LineError::Exists(key) => RestError::exists(key),
        LineError::Missing(key) => RestError::no_device(key),
        LineError::Etag(key) => RestError::precondition(key),
        LineError::Malformed(_) | LineError::Invalid(_) => RestError::argument(error.to_string()),
        LineError::Registry(what) => broken(what),
    }
}
