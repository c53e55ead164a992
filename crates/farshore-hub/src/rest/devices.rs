//! Identities: listed, read, created, changed, deleted, counted.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::answer::{self, Body};
use super::error::RestError;
use super::hub::{Hub, broken};
use super::identity::{self, view};
use super::request::{self, IfMatch};
use super::serve::Asked;
use crate::names::{DeviceId, Key};
use crate::record::{Device, Edit};

/// Most identities in one list; from the contract of the official SDKs.
const LIST_LEN_MAX: usize = 1000;

/// `GET /devices?top=N`
pub(super) async fn list(hub: &Hub, asked: &Asked) -> Result<Response<Body>, RestError> {
    let top = request::parameter(&asked.parts, "top")?;
    let top = request::number(top.as_deref(), "top", LIST_LEN_MAX, LIST_LEN_MAX)?;
    let mut devices: Vec<Value> = Vec::new();
    let mut after: Option<Key> = None;
    while devices.len() < top {
        let page = hub.registry().page(after.as_ref(), LIST_LEN_MAX).map_err(broken)?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        let found = page.iter().filter(|device| device.key.module.is_none());
        for device in found.take(top - devices.len()) {
            devices.push(view(device, hub.live(&device.key)?));
        }
        tokio::task::yield_now().await;
    }
    Ok(answer::json(&devices))
}

/// `GET /devices/{id}`
pub(super) fn get(hub: &Hub, key: &Key) -> Result<Response<Body>, RestError> {
    shown(hub, &*hub.device(key)?)
}

/// `GET /devices/{id}/modules`
pub(super) fn modules(hub: &Hub, device: &DeviceId) -> Result<Response<Body>, RestError> {
    hub.device(&Key::device(device.clone()))?;
    let modules = hub.registry().modules(device).map_err(broken)?;
    let views = modules.iter().map(|module| Ok(view(module, hub.live(&module.key)?)));
    Ok(answer::json(&views.collect::<Result<Vec<Value>, RestError>>()?))
}

/// `PUT /devices/{id}`: creates without `If-Match`, changes with it.
pub(super) async fn put(hub: &Hub, key: Key, asked: &Asked) -> Result<Response<Body>, RestError> {
    let decide = identity::decide(&key, request::json(&asked.body)?, &IfMatch::of(&asked.parts))?;
    if key.module.is_some() {
        hub.device(&Key::device(key.device.clone()))?;
    }
    let device =
        hub.change(key, move |current| decide(current).map_err(|error| identity::refused(&error))).await?;
    shown(hub, &device)
}

fn shown(hub: &Hub, device: &Device) -> Result<Response<Body>, RestError> {
    Ok(answer::tagged(&view(device, hub.live(&device.key)?), &device.etag))
}

/// `DELETE /devices/{id}`
pub(super) async fn delete(hub: &Hub, key: Key, asked: &Asked) -> Result<Response<Body>, RestError> {
    let if_match = IfMatch::of(&asked.parts);
    let of = key.clone();
    hub.edit(key, move |current| match current {
        None => Err(RestError::no_device(&of)),
        Some(device) if !if_match.allows(&device.etag) => Err(RestError::precondition(&of)),
        Some(_) => Ok(vec![Edit::Delete]),
    })
    .await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `GET /statistics/devices`
pub(super) fn statistics(hub: &Hub) -> Response<Body> {
    let counts = hub.registry().counts();
    answer::json(&json!({
        "totalDeviceCount": counts.devices,
        "enabledDeviceCount": counts.enabled,
        "disabledDeviceCount": counts.disabled,
    }))
}

/// `GET /statistics/service`
pub(super) fn connections(hub: &Hub) -> Response<Body> {
    answer::json(&json!({ "connectedDeviceCount": hub.behind().connected() }))
}
