//! Device hubs: what only they have. Most of it is asked of the region that serves the hub, through its agent; what may be old is
//! asked of the other region when that one does not answer.
//!
//! Read in this order: this file (how a hub stands, and what it gives to others), `policies`, `trust` (authorities, enrollments), `devices`,
//! `speak` (twins, methods, messages), `files` (import and export), `telemetry`, `runners` (sinks and members), `merge`.
//!
//! Must always hold: whoever is shown a secret, or changes one, is in the audit before it is shown; no secret is in the
//! audit, in a job, in the store or in a log; an answer holds a key only if it was asked for by name.

mod devices;
mod files;
mod merge;
mod policies;
mod runners;
mod speak;
mod telemetry;
mod trust;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use farshore_core::access::Right;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use files::{IMPORT_LEN_MAX, Noted};

use super::ApiState;
use super::access::Caller;
use super::paired::Paired;
use super::problem::{Problem, Refusals};
use super::views::{HubConnectionStringView, HubKeyWord, HubView};

/// The kind, as paths and ids write it.
const KIND: &str = "hub";

/// All of it.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(connection_string))
        .routes(routes!(policies::list))
        .routes(routes!(policies::set, policies::delete))
        .routes(routes!(policies::regenerate))
        .routes(routes!(trust::authorities))
        .routes(routes!(trust::set_authority, trust::delete_authority))
        .routes(routes!(trust::enrollments))
        .routes(routes!(trust::set_enrollment, trust::delete_enrollment))
        .routes(routes!(trust::enrollment_key))
        .routes(routes!(devices::list, devices::add))
        .routes(routes!(devices::show, devices::remove))
        .routes(routes!(devices::set_status))
        .routes(routes!(devices::keys, devices::regenerate))
        .routes(routes!(speak::twin, speak::set_twin))
        .routes(routes!(speak::method))
        .routes(routes!(speak::send))
        .routes(routes!(files::export))
        .routes(routes!(files::import))
        .routes(routes!(telemetry::events))
        .routes(routes!(telemetry::groups))
        .routes(routes!(telemetry::checkpoint))
        .routes(routes!(telemetry::delete))
        .routes(routes!(runners::sinks))
        .routes(routes!(runners::set_sink, runners::delete_sink))
        .routes(routes!(runners::members))
        .routes(routes!(runners::set_member, runners::delete_member))
        .routes(routes!(runners::run_member))
        .routes(routes!(merge::merge))
        .routes(routes!(merge::conflicts))
}

/// A hub at a glance.
#[utoipa::path(get, path = "/api/v1/hubs/{name}", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = HubView), Refusals))]
async fn show(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Json<HubView>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    Ok(Json(hub.ask_either(&json!({"ask": "summary"})).await?))
}

/// For whom.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct For {
    /// A policy, for a back end; `service` when neither is named.
    policy: Option<String>,
    /// A device, or `device/module`.
    device: Option<String>,
    /// With which key.
    #[serde(default)]
    which: HubKeyWord,
}

/// What a device or back end is given: name and key in one text.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/connection-string", tag = "hubs",
    security(("token" = ["contribute"])), params(("name" = String, Path), For),
    responses((status = 200, body = HubConnectionStringView), Refusals))]
async fn connection_string(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    whom: Result<Query<For>, QueryRejection>,
    caller: Caller,
) -> Result<Json<HubConnectionStringView>, Problem> {
    let whom = queried(whom)?;
    let hub = Paired::find(&state, KIND, &name).await?;
    let which = one_key(whom.which)?;
    let (question, of) = match (&whom.device, &whom.policy) {
        (Some(_), Some(_)) => return Err(Problem::invalid("give policy or device, not both")),
        (Some(device), None) => (
            json!({"ask": "connection-string", "device": device, "which": which}),
            format!("device {device}"),
        ),
        (None, policy) => {
            let policy = policy.as_deref().unwrap_or("service");
            (
                json!({"ask": "connection-string", "policy": policy, "which": which}),
                format!("policy {policy}"),
            )
        }
    };
    hub.audit(&caller.name, |hub| format!("asked for a connection string of {hub} for {}", shown(&of)))
        .await?;
    Ok(Json(hub.ask_either(&question).await?))
}

/// What stands after the question mark, or what is wrong with it.
fn queried<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|error| Problem::invalid(error.body_text()))
}

/// One key of the two.
fn one_key(which: HubKeyWord) -> Result<&'static str, Problem> {
    match which {
        HubKeyWord::Both => Err(Problem::invalid("which: choose primary or secondary")),
        one => Ok(one.as_str()),
    }
}

/// Keys are for those who may change them; the audit says that they were shown.
async fn may_see_keys(hub: &Paired<'_>, caller: &Caller, what: &str) -> Result<(), Problem> {
    caller.check(Right::Contribute)?;
    hub.audit(&caller.name, |hub| format!("asked for {what} of {hub}")).await
}

/// Ids go into the audit as they were sent, so far as they can be ids.
fn shown(text: &str) -> String {
    /// A device and its module, each of 128 characters.
    const SHOWN_MAX: usize = 300;
    text.chars().filter(|char| char.is_ascii_graphic() || *char == ' ').take(SHOWN_MAX).collect()
}

/// The same question under the same key, whose answer was lost, is not asked twice.
async fn once<T: serde::de::DeserializeOwned>(
    state: &ApiState,
    hub: &Paired<'_>,
    by: super::body::By,
    question: &Value,
    again: &Value,
) -> Result<T, Problem> {
    if let Some(key) = &by.idempotency
        && state.steered.earlier(key)?
    {
        return hub.ask_active(again).await;
    }
    let answer = hub.ask_active(question).await?;
    if let Some(done) = by.idempotency {
        state.steered.remember(done);
    }
    Ok(answer)
}
