//! Talking to devices: twins, methods, messages.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::super::ApiState;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{
    HubMessageRequest, HubMessageView, HubMethodRequest, HubMethodView, HubTwinRequest,
};
use super::devices::put;
use super::{KIND, once, shown};

/// A device has less time than a region that is asked.
const METHOD_SECONDS_MAX: u32 = 10;

/// The twin of a device.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/devices/{id}/twin", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn twin(
    State(state): State<ApiState>,
    Path((name, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    Ok(Json(hub.ask_either(&json!({"ask": "twin", "id": id})).await?))
}

/// Changes desired properties and tags. What is not mentioned stays.
#[utoipa::path(patch, path = "/api/v1/hubs/{name}/devices/{id}/twin", tag = "hubs",
    security(("token" = ["contribute"])), request_body = HubTwinRequest,
    params(("name" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn set_twin(
    State(state): State<ApiState>,
    Path((name, id)): Path<(String, String)>,
    asked: Asked<HubTwinRequest>,
) -> Result<Json<Value>, Problem> {
    let HubTwinRequest { desired, tags } = asked.body;
    if desired.is_none() && tags.is_none() {
        return Err(Problem::invalid("give desired or tags: nothing would change"));
    }
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| format!("asked to change the twin of {} of {hub}", shown(&id))).await?;
    let mut question = json!({"ask": "twin-set", "id": id});
    put(&mut question, "desired", desired);
    put(&mut question, "tags", tags);
    Ok(Json(hub.ask_active(&question).await?))
}

/// Calls a method of a device, once: it is never repeated.
#[utoipa::path(post, path = "/api/v1/hubs/{name}/devices/{id}/methods", tag = "hubs",
    security(("token" = ["operate"])), request_body = HubMethodRequest,
    params(("name" = String, Path), ("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = HubMethodView), Refusals))]
pub(super) async fn method(
    State(state): State<ApiState>,
    Path((name, id)): Path<(String, String)>,
    asked: Asked<HubMethodRequest>,
) -> Result<Json<HubMethodView>, Problem> {
    let HubMethodRequest { name: method, payload, timeout_seconds } = asked.body;
    let seconds = timeout_seconds.unwrap_or(METHOD_SECONDS_MAX);
    if !(1..=METHOD_SECONDS_MAX).contains(&seconds) {
        return Err(Problem::invalid(format!(
            "timeout_seconds: give 1 to {METHOD_SECONDS_MAX}; for longer ones ask the hub's own REST interface"
        )));
    }
    let hub = Paired::find(&state, KIND, &name).await?;
    if let Some(key) = &asked.by.idempotency {
        if state.steered.earlier(key)? {
            let detail =
                format!("{method} was called before and its answer was lost: it is not called again");
            return Err(Problem::new(axum::http::StatusCode::CONFLICT, "not-possible", detail));
        }
        // Before it is called: it may be carried out although its answer is lost.
        state.steered.remember(key.clone());
    }
    let said = shown(&method);
    hub.audit(&asked.by.who, |hub| format!("asked to call {said} of the device {} of {hub}", shown(&id)))
        .await?;
    let question =
        json!({"ask": "method", "id": id, "name": method, "payload": payload, "timeout_seconds": seconds});
    Ok(Json(hub.ask_active(&question).await?))
}

/// Sends a message to a device, which gets it when it is connected.
#[utoipa::path(post, path = "/api/v1/hubs/{name}/devices/{id}/messages", tag = "hubs",
    security(("token" = ["operate"])), request_body = HubMessageRequest,
    params(("name" = String, Path), ("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = HubMessageView), Refusals))]
pub(super) async fn send(
    State(state): State<ApiState>,
    Path((name, id)): Path<(String, String)>,
    asked: Asked<HubMessageRequest>,
) -> Result<Json<HubMessageView>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    let HubMessageRequest { body, properties } = asked.body;
    if let Some(name) = properties.keys().find(|name| name.is_empty() || name.starts_with('$')) {
        return Err(Problem::invalid(format!(
            "properties: {name:?}: names must not be empty or begin with '$'"
        )));
    }
    hub.audit(&asked.by.who, |hub| format!("asked to send a message to the device {} of {hub}", shown(&id)))
        .await?;
    // The hub keeps a message with this id once while it waits, so it may be asked again.
    let message_id = asked.by.idempotency.as_ref().map(|asked| asked.key.clone());
    let mut question = json!({"ask": "send", "id": id, "body": body, "properties": properties});
    put(&mut question, "message_id", message_id);
    Ok(Json(once(&state, &hub, asked.by, &question, &question).await?))
}
