//! Identities as the SDKs read and write them.

use farshore_core::moment::Moment;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::RestError;
use super::request::IfMatch;
use crate::names::Key;
use crate::record::{Auth, Device, Edit, NewDevice, Scope};
use crate::sas::certificate::is_thumbprint;
use crate::sas::new_key;
use crate::sas::token::check_key;

/// What the SDKs take for “never”.
pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

/// What only the living hub knows of a device.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Live {
    /// Since when it is connected.
    pub(super) connected: Option<Moment>,
    /// How many messages wait for it.
    pub(super) messages: usize,
}

impl Live {
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
pub(super) fn view(device: &Device, live: Live) -> Value {
    let mut view = json!({
        "deviceId": device.key.device.as_str(),
        "generationId": &*device.generation,
        "etag": device.etag,
        "connectionState": live.state(),
        "connectionStateUpdatedTime": time(live.connected.unwrap_or(device.last_seen)),
        "lastActivityTime": time(device.last_seen),
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

/// An identity as it comes. What is missing keeps its value, or gets the usual one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct IdentityBody {
    device_id: Option<String>,
    module_id: Option<String>,
    status: Option<String>,
    status_reason: Option<String>,
    authentication: Option<AuthBody>,
    capabilities: Option<Capabilities>,
    device_scope: Option<String>,
    parent_scopes: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Capabilities {
    iot_edge: Option<bool>,
}

/// Credentials as they come.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthBody {
    #[serde(rename = "type")]
    kind: Option<String>,
    symmetric_key: Option<Keys>,
    x509_thumbprint: Option<Thumbprints>,
}

impl std::fmt::Debug for AuthBody {
    /// Without the keys: this ends in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthBody").field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Thumbprints {
    primary_thumbprint: Option<String>,
    secondary_thumbprint: Option<String>,
}

impl IdentityBody {
    /// Whether it is about the identity that the path names.
    pub(super) fn check(&self, key: &Key) -> Result<(), RestError> {
        let device = self.device_id.as_deref().unwrap_or(key.device.as_str());
        let named = key.module.as_ref().map(|module| module.as_str());
        let module = self.module_id.as_deref().or(named);
        if device != key.device.as_str() || module != named {
            return Err(RestError::argument(format!("the body is about {device:?}, the path about {key}")));
        }
        Ok(())
    }

    /// What is to be done to create or change the identity that is there now.
    pub(super) fn edits(
        &self,
        key: &Key,
        current: Option<&Device>,
        if_match: &IfMatch,
    ) -> Result<Vec<Edit>, RestError> {
        match (current, if_match) {
            (None, IfMatch::Absent) => Ok(vec![Edit::Create(self.create()?)]),
            (None, _) => Err(RestError::no_device(key)),
            (Some(_), IfMatch::Absent) => Err(RestError::exists(key)),
            (Some(device), _) if !if_match.allows(&device.etag) => Err(RestError::precondition(key)),
            (Some(device), _) => self.update(device),
        }
    }

    fn create(&self) -> Result<NewDevice, RestError> {
        let mut new = NewDevice::with(self.auth(None)?);
        new.enabled = self.enabled()?.unwrap_or(true);
        new.reason = self.status_reason.clone().unwrap_or_default();
        new.scope = self.scope(&Scope::default());
        Ok(new)
    }

    fn update(&self, device: &Device) -> Result<Vec<Edit>, RestError> {
        let mut edits = Vec::new();
        let enabled = self.enabled()?.unwrap_or(device.enabled);
        let is_said = self.status.is_some() || self.status_reason.is_some();
        let reason =
            if is_said { self.status_reason.clone().unwrap_or_default() } else { device.reason.clone() };
        if enabled != device.enabled || reason != device.reason {
            edits.push(Edit::Status { enabled, reason });
        }
        if self.authentication.is_some() {
            let auth = self.auth(Some(&device.auth))?;
            if auth != device.auth {
                edits.push(Edit::Auth(auth));
            }
        }
        let scope = self.scope(&device.scope);
        if scope != device.scope {
            edits.push(Edit::Scope(scope));
        }
        Ok(edits)
    }

    fn enabled(&self) -> Result<Option<bool>, RestError> {
        match self.status.as_deref() {
            None => Ok(None),
            Some(word) if word.eq_ignore_ascii_case("enabled") => Ok(Some(true)),
            Some(word) if word.eq_ignore_ascii_case("disabled") => Ok(Some(false)),
            Some(word) => Err(RestError::argument(format!("status is {word:?}: choose enabled or disabled"))),
        }
    }

    fn scope(&self, current: &Scope) -> Scope {
        let edge = self.capabilities.as_ref().and_then(|capabilities| capabilities.iot_edge);
        let empty = |text: &String| !text.is_empty();
        Scope {
            edge: edge.unwrap_or(current.edge),
            device: self.device_scope.clone().filter(empty).or_else(|| current.device.clone()),
            parents: self.parent_scopes.clone().unwrap_or_else(|| current.parents.clone()),
        }
    }

    fn auth(&self, current: Option<&Auth>) -> Result<Auth, RestError> {
        let body = self.authentication.clone().unwrap_or_default();
        let prints = body.x509_thumbprint.unwrap_or_default();
        let has_prints = filled(&prints.primary_thumbprint) || filled(&prints.secondary_thumbprint);
        let inferred = if has_prints { "selfSigned" } else { "sas" };
        match body.kind.as_deref().unwrap_or(inferred).to_ascii_lowercase().as_str() {
            "sas" => sas(body.symmetric_key.unwrap_or_default(), current),
            "selfsigned" => self_signed(prints),
            "certificateauthority" => Ok(Auth::Authority),
            "none" => Ok(Auth::None),
            other => Err(RestError::argument(format!(
                "authentication.type is {other:?}: choose sas, selfSigned, certificateAuthority or none"
            ))),
        }
    }
}

fn filled(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

/// Keys that are missing keep their value or are made.
fn sas(keys: Keys, current: Option<&Auth>) -> Result<Auth, RestError> {
    let (old_primary, old_secondary) = match current {
        Some(Auth::Sas { primary, secondary }) => (Some(primary.clone()), Some(secondary.clone())),
        _ => (None, None),
    };
    let choose =
        |given: Option<String>, old: Option<String>, what: &str| match given.filter(|key| !key.is_empty()) {
            Some(key) => check_key(&key)
                .map(|()| key)
                .map_err(|error| RestError::argument(format!("authentication.symmetricKey.{what}: {error}"))),
            None => Ok(old.filter(|key| !key.is_empty()).unwrap_or_else(new_key)),
        };
    Ok(Auth::Sas {
        primary: choose(keys.primary_key, old_primary, "primaryKey")?,
        secondary: choose(keys.secondary_key, old_secondary, "secondaryKey")?,
    })
}

fn self_signed(prints: Thumbprints) -> Result<Auth, RestError> {
    if !filled(&prints.primary_thumbprint) && !filled(&prints.secondary_thumbprint) {
        return Err(RestError::argument("authentication.x509Thumbprint: selfSigned needs a thumbprint"));
    }
    let check = |print: Option<String>| match print.filter(|print| !print.is_empty()) {
        Some(print) if !is_thumbprint(&print) => Err(RestError::argument(
            "authentication.x509Thumbprint: a thumbprint is 40 or 64 hexadecimal digits (SHA-1 or SHA-256)",
        )),
        other => Ok(other),
    };
    Ok(Auth::SelfSigned {
        primary_thumbprint: check(prints.primary_thumbprint)?,
        secondary_thumbprint: check(prints.secondary_thumbprint)?,
    })
}
