//! Identities.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::IntoParams;

use super::super::ApiState;
use super::super::access::Caller;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{
    HubDeviceRequest, HubDevicesView, HubKeysRequest, HubKeysView, HubStatusRequest, NoParameters,
};
use super::{KIND, may_see_keys, once, queried, shown};

/// Most devices of a page; what the region gives at once.
pub(super) const PAGE_LEN_MAX: u32 = 1000;

/// Which devices.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Devices {
    /// Those after this one: ask with `next` of each answer.
    after: Option<String>,
    /// At most so many; 100 if absent, 1000 at most.
    limit: Option<u32>,
    /// Those that match: `SELECT * FROM devices WHERE tags.place = 'paris'`.
    query: Option<String>,
}

/// At most as many as a region gives at once.
pub(super) fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    /// What a person reads.
    const USUAL: u32 = 100;
    match asked.unwrap_or(USUAL) {
        limit @ 1..=PAGE_LEN_MAX => Ok(limit),
        other => Err(Problem::invalid(format!("limit: {other}: give 1 to {PAGE_LEN_MAX}"))),
    }
}

/// A page of devices and modules, by id.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/devices", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path), Devices),
    responses((status = 200, body = HubDevicesView), Refusals))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    query: Result<Query<Devices>, QueryRejection>,
) -> Result<Json<HubDevicesView>, Problem> {
    let Devices { after, limit: most, query } = queried(query)?;
    let hub = Paired::find(&state, KIND, &name).await?;
    let mut question = json!({"ask": "devices", "limit": limit(most)?});
    put(&mut question, "after", after);
    put(&mut question, "query", query);
    Ok(Json(hub.ask_either(&question).await?))
}

/// A member of a question that need not be there.
pub(super) fn put(question: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        question[name] = value.into();
    }
}

/// Makes a device or module.
#[utoipa::path(post, path = "/api/v1/hubs/{name}/devices", tag = "hubs",
    security(("token" = ["contribute"])), request_body = HubDeviceRequest,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn add(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<HubDeviceRequest>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    let HubDeviceRequest { id, auth, enabled } = asked.body;
    hub.audit(&asked.by.who, |hub| format!("asked to add the device {} to {hub}", shown(&id))).await?;
    let mut question = json!({"ask": "device-add", "id": id, "enabled": enabled});
    put(&mut question, "auth", auth.map(|auth| json!(auth)));
    let again = json!({"ask": "device", "id": id});
    let device = once(&state, &hub, asked.by, &question, &again).await?;
    Ok(Json(without_keys(device)))
}

/// A device as the service SDKs know it, with its twin, and without its keys.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/devices/{id}", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path((name, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    Ok(Json(without_keys(hub.ask_either(&json!({"ask": "device", "id": id})).await?)))
}

/// Removes a device, with its modules and the messages on their way to it.
#[utoipa::path(delete, path = "/api/v1/hubs/{name}/devices/{id}", tag = "hubs",
    security(("token" = ["contribute"])), params(("name" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    Path((name, id)): Path<(String, String)>,
    asked: Asked<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| format!("asked to remove the device {} from {hub}", shown(&id))).await?;
    Ok(Json(hub.ask_active(&json!({"ask": "device-remove", "id": id})).await?))
}

/// Lets a device connect, or not. One that is connected and may not is disconnected.
#[utoipa::path(put, path = "/api/v1/hubs/{name}/devices/{id}/status", tag = "hubs",
    security(("token" = ["operate"])), request_body = HubStatusRequest,
    params(("name" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn set_status(
    State(state): State<ApiState>,
    Path((name, id)): Path<(String, String)>,
    asked: Asked<HubStatusRequest>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    let HubStatusRequest { enabled, reason } = asked.body;
    let word = if enabled { "enable" } else { "disable" };
    hub.audit(&asked.by.who, |hub| format!("asked to {word} the device {} of {hub}", shown(&id))).await?;
    let mut question = json!({"ask": "device-set", "id": id, "enabled": enabled});
    put(&mut question, "reason", reason);
    Ok(Json(without_keys(hub.ask_active(&question).await?)))
}

/// The keys of a device.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/devices/{id}/keys", tag = "hubs",
    security(("token" = ["contribute"])), params(("name" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = HubKeysView), Refusals))]
pub(super) async fn keys(
    State(state): State<ApiState>,
    Path((name, id)): Path<(String, String)>,
    caller: Caller,
) -> Result<Json<HubKeysView>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    may_see_keys(&hub, &caller, &format!("the keys of the device {}", shown(&id))).await?;
    let device: Value = hub.ask_either(&json!({"ask": "device", "id": id})).await?;
    Ok(Json(keys_of(id, &device)))
}

/// Makes keys of a device anew. The old ones open nothing any more, in both regions.
#[utoipa::path(post, path = "/api/v1/hubs/{name}/devices/{id}/keys", tag = "hubs",
    security(("token" = ["contribute"])), request_body = HubKeysRequest,
    params(("name" = String, Path), ("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = HubKeysView), Refusals))]
pub(super) async fn regenerate(
    State(state): State<ApiState>,
    Path((name, id)): Path<(String, String)>,
    asked: Asked<HubKeysRequest>,
) -> Result<Json<HubKeysView>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    let which = asked.body.which.as_str();
    hub.audit(&asked.by.who, |hub| {
        format!("asked to make keys ({which}) of the device {} of {hub} anew", shown(&id))
    })
    .await?;
    let question = json!({"ask": "device-keys", "id": id, "which": which});
    let again = json!({"ask": "device", "id": id});
    let device: Value = once(&state, &hub, asked.by, &question, &again).await?;
    Ok(Json(keys_of(id, &device)))
}

fn keys_of(id: String, device: &Value) -> HubKeysView {
    let keys = &device["authentication"]["symmetricKey"];
    let key = |which: &str| keys[which].as_str().filter(|key| !key.is_empty()).map(str::to_owned);
    HubKeysView { id, primary: key("primaryKey"), secondary: key("secondaryKey") }
}

/// A device without what opens anything.
fn without_keys(mut device: Value) -> Value {
    let keys = device.get_mut("authentication").and_then(Value::as_object_mut);
    if let Some(authentication) = keys {
        authentication.insert("symmetricKey".to_owned(), Value::Object(Map::new()));
    }
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_shown_without_its_keys() {
        let device = json!({"deviceId": "a", "authentication": {"type": "sas",
            "symmetricKey": {"primaryKey": "cA==", "secondaryKey": ""}}});
        let keys = keys_of("a".to_owned(), &device);
        assert_eq!((keys.primary.as_deref(), keys.secondary), (Some("cA=="), None));
        let shown = without_keys(device);
        assert_eq!(shown["authentication"]["type"], "sas");
        assert!(!shown.to_string().contains("cA=="));
        assert_eq!(without_keys(json!({"deviceId": "a"})), json!({"deviceId": "a"}));
    }
}
