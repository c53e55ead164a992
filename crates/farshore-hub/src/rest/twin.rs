//! Twins as the SDKs read and write them.

use http::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::{self, Body};
use super::error::RestError;
use super::hub::Hub;
use super::identity::{Live, extend, status, time};
use super::request::{self, IfMatch};
use super::serve::Asked;
use crate::names::Key;
use crate::record::{Auth, Device, Edit, Section};

/// A twin as JSON.
pub(crate) fn view(device: &Device, live: Live) -> Value {
    let (primary, secondary) = match &device.auth {
        Auth::SelfSigned { primary_thumbprint, secondary_thumbprint } => {
            (primary_thumbprint.as_ref(), secondary_thumbprint.as_ref())
        }
        _ => (None, None),
    };
    let mut view = json!({
        "deviceId": device.key.device.as_str(),
        "etag": device.twin_etag,
        "deviceEtag": device.etag,
        "status": status(device.enabled),
        "statusUpdateTime": time(device.status_at),
        "connectionState": live.state(),
        "lastActivityTime": time(live.last_activity(device.last_seen)),
        "cloudToDeviceMessageCount": live.messages,
        "authenticationType": device.auth.kind(),
        "x509Thumbprint": { "primaryThumbprint": primary, "secondaryThumbprint": secondary },
        "modelId": "",
        "version": device.desired.version.saturating_add(device.reported.version),
        "tags": device.tags,
        "properties": { "desired": section(&device.desired), "reported": section(&device.reported) },
        "capabilities": { "iotEdge": device.scope.edge },
    });
    let mut more = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        value.map(|value| more.insert(name.to_owned(), value));
    };
    put("moduleId", device.key.module.as_ref().map(|module| module.as_str().into()));
    put(
        "statusReason",
        Some(&device.reason).filter(|reason| !reason.is_empty()).map(|reason| reason.as_str().into()),
    );
    put("deviceScope", device.scope.device.clone().map(Value::String));
    put("parentScopes", (!device.scope.parents.is_empty()).then(|| device.scope.parents.clone().into()));
    extend(&mut view, Value::Object(more));
    view
}

/// A half of a twin with its version and times.
pub(super) fn section(section: &Section) -> Value {
    let mut view = section.value.clone();
    extend(&mut view, json!({ "$metadata": section.metadata, "$version": section.version }));
    view
}

/// A change of a twin as it comes. What else a whole twin has is not for services to change, and is not looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct TwinBody {
    tags: Option<Value>,
    properties: Option<Properties>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Properties {
    desired: Option<Value>,
}

/// Whether what is not mentioned stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// PATCH: it stays, and null deletes.
    Merge,
    /// PUT: it goes.
    Replace,
}

impl TwinBody {
    /// What is to be done to the twin that is there now.
    pub(super) fn edits(
        &self,
        key: &Key,
        current: Option<&Device>,
        if_match: &IfMatch,
        manner: Manner,
    ) -> Result<Vec<Edit>, RestError> {
        let device = current.ok_or_else(|| RestError::no_device(key))?;
        if !if_match.allows(&device.twin_etag) {
            return Err(RestError::precondition(key));
        }
        let replace = manner == Manner::Replace;
        let given = |value: Option<&Value>| match value {
            Some(value) if !value.is_null() => Some(value.clone()),
            _ => replace.then(|| json!({})),
        };
        let desired = self.properties.as_ref().and_then(|properties| properties.desired.as_ref());
        let tags = given(self.tags.as_ref()).map(|patch| Edit::Tags { patch, replace });
        let desired = given(desired).map(|patch| Edit::Desired { patch: without_system(patch), replace });
        Ok(tags.into_iter().chain(desired).collect())
    }
}

/// SDKs send back what they have read: the hub's own members are not part of the change.
fn without_system(mut section: Value) -> Value {
    if let Value::Object(members) = &mut section {
        members.remove("$metadata");
        members.remove("$version");
    }
    section
}

/// `GET /twins/{id}`
pub(super) fn get(hub: &Hub, key: &Key) -> Result<Response<Body>, RestError> {
    shown(hub, &*hub.device(key)?)
}

fn shown(hub: &Hub, device: &Device) -> Result<Response<Body>, RestError> {
    Ok(answer::tagged(&view(device, hub.live(&device.key)?), &device.twin_etag))
}

/// `PATCH` and `PUT /twins/{id}`
pub(super) async fn change(
    hub: &Hub,
    key: Key,
    asked: &Asked,
    manner: Manner,
) -> Result<Response<Body>, RestError> {
    let body: TwinBody = request::json(&asked.body)?;
    let if_match = IfMatch::of(&asked.parts);
    let of = key.clone();
    let device = hub.change(key, move |current| body.edits(&of, current, &if_match, manner)).await?;
    shown(hub, &device)
}
