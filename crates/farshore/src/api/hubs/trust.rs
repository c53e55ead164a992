//! Authorities whose devices may connect, and groups of devices that may register themselves.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::super::ApiState;
use super::super::access::Caller;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{
    HubAuthorityRequest, HubAuthorityView, HubEnrollmentRequest, HubEnrollmentView, HubKeysView, NoParameters,
};
use super::policies::WithKeys;
use super::{KIND, may_see_keys, queried, shown};

/// The authorities whose devices may connect.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/authorities", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = Vec<HubAuthorityView>), Refusals))]
pub(super) async fn authorities(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<HubAuthorityView>>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    Ok(Json(hub.ask_either(&json!({"ask": "authorities"})).await?))
}

/// Lets devices connect whose certificates this authority has signed, if they are registered so.
#[utoipa::path(put, path = "/api/v1/hubs/{name}/authorities/{authority}", tag = "hubs",
    security(("token" = ["contribute"])), request_body = HubAuthorityRequest,
    params(("name" = String, Path), ("authority" = String, Path)),
    responses((status = 200, body = HubAuthorityView), Refusals))]
pub(super) async fn set_authority(
    State(state): State<ApiState>,
    Path((name, authority)): Path<(String, String)>,
    asked: Asked<HubAuthorityRequest>,
) -> Result<Json<HubAuthorityView>, Problem> {
    check_name("authority", &authority)?;
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| {
        format!("asked to believe the authority {authority} about devices of {hub}")
    })
    .await?;
    let question = json!({"ask": "set-authority", "name": authority, "pem": asked.body.pem});
    Ok(Json(hub.ask_active(&question).await?))
}

/// Lets its devices connect no more.
#[utoipa::path(delete, path = "/api/v1/hubs/{name}/authorities/{authority}", tag = "hubs",
    security(("token" = ["contribute"])), params(("name" = String, Path), ("authority" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn delete_authority(
    State(state): State<ApiState>,
    Path((name, authority)): Path<(String, String)>,
    asked: Asked<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    let said = shown(&authority);
    hub.audit(&asked.by.who, |hub| {
        format!("asked to believe the authority {said} no more about devices of {hub}")
    })
    .await?;
    Ok(Json(hub.ask_active(&json!({"ask": "delete-authority", "name": authority})).await?))
}

/// The groups of devices that may register themselves.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/enrollments", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path), WithKeys),
    responses((status = 200, body = Vec<HubEnrollmentView>), Refusals))]
pub(super) async fn enrollments(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    query: Result<Query<WithKeys>, QueryRejection>,
    caller: Caller,
) -> Result<Json<Vec<HubEnrollmentView>>, Problem> {
    let keys = queried(query)?.keys;
    let hub = Paired::find(&state, KIND, &name).await?;
    if keys {
        may_see_keys(&hub, &caller, "the keys of all enrollments").await?;
    }
    let mut all: Vec<HubEnrollmentView> =
        hub.ask_either(&json!({"ask": "enrollments", "keys": keys})).await?;
    if !keys {
        all.iter_mut().for_each(without_keys);
    }
    Ok(Json(all))
}

fn without_keys(enrollment: &mut HubEnrollmentView) {
    (enrollment.primary, enrollment.secondary) = (None, None);
}

/// Lets devices of a group register themselves: by keys that are derived from the group's, or by certificates of an authority.
/// A group that has keys keeps those that are not given.
#[utoipa::path(put, path = "/api/v1/hubs/{name}/enrollments/{enrollment}", tag = "hubs",
    security(("token" = ["contribute"])), request_body = HubEnrollmentRequest,
    params(("name" = String, Path), ("enrollment" = String, Path)),
    responses((status = 200, body = HubEnrollmentView), Refusals))]
pub(super) async fn set_enrollment(
    State(state): State<ApiState>,
    Path((name, enrollment)): Path<(String, String)>,
    asked: Asked<HubEnrollmentRequest>,
) -> Result<Json<HubEnrollmentView>, Problem> {
    check_name("enrollment", &enrollment)?;
    let HubEnrollmentRequest { pem, primary, secondary } = asked.body;
    if pem.is_some() && (primary.is_some() || secondary.is_some()) {
        return Err(Problem::invalid("give pem or keys, not both: a group proves itself in one way"));
    }
    let by = if pem.is_some() { "certificates" } else { "keys" };
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| {
        format!("asked to let devices of the enrollment {enrollment} register themselves with {hub} by {by}")
    })
    .await?;
    let mut question = json!({"ask": "set-enrollment", "name": enrollment});
    for (field, value) in [("pem", pem), ("primary", primary), ("secondary", secondary)] {
        if let Some(value) = value {
            question[field] = json!(value);
        }
    }
    let mut set: HubEnrollmentView = hub.ask_active(&question).await?;
    without_keys(&mut set);
    Ok(Json(set))
}

/// Lets devices of a group register themselves no more. Those that did stay registered.
#[utoipa::path(delete, path = "/api/v1/hubs/{name}/enrollments/{enrollment}", tag = "hubs",
    security(("token" = ["contribute"])), params(("name" = String, Path), ("enrollment" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn delete_enrollment(
    State(state): State<ApiState>,
    Path((name, enrollment)): Path<(String, String)>,
    asked: Asked<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    let said = shown(&enrollment);
    hub.audit(&asked.by.who, |hub| format!("asked to delete the enrollment {said} of {hub}")).await?;
    Ok(Json(hub.ask_active(&json!({"ask": "delete-enrollment", "name": enrollment})).await?))
}

/// Whose key.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OfDevice {
    /// The device's registration id, which becomes its id.
    device: String,
}

/// The keys with which one device of a group registers itself, and connects.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/enrollments/{enrollment}/key", tag = "hubs",
    security(("token" = ["contribute"])),
    params(("name" = String, Path), ("enrollment" = String, Path), OfDevice),
    responses((status = 200, body = HubKeysView), Refusals))]
pub(super) async fn enrollment_key(
    State(state): State<ApiState>,
    Path((name, enrollment)): Path<(String, String)>,
    query: Result<Query<OfDevice>, QueryRejection>,
    caller: Caller,
) -> Result<Json<HubKeysView>, Problem> {
    let device = queried(query)?.device;
    let hub = Paired::find(&state, KIND, &name).await?;
    let what = format!("the key of the device {} by the enrollment {}", shown(&device), shown(&enrollment));
    may_see_keys(&hub, &caller, &what).await?;
    let question = json!({"ask": "enrollment-key", "name": enrollment, "device": device});
    Ok(Json(hub.ask_either(&question).await?))
}

/// What the hub would refuse is refused before it is in the audit.
fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    /// As the hub has it.
    const NAME_LEN_MAX: usize = 64;
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(is_known) {
        true => Err(Problem::invalid(format!("{what}: its name has 1 to 64 letters, digits and -_."))),
        false => Ok(()),
    }
}
