//! What runs: restart, scale, the names it answers to, and what it says.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use farshore_app::mode::Mode;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::super::ApiState;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{
    AppBegunView, AppHostsChangeRequest, AppHostsRequest, AppLogView, AppScaleRequest, AppView, NoParameters,
};
use super::operations::{UnderWay, begin};
use super::{KIND, finish, host, put, queried};

/// Most lines of a log at once.
const LINES_MAX: u32 = 5_000;
/// What a person reads.
const LINES_USUAL: u32 = 100;
/// Most host names that an app has beside its own.
const HOSTS_MAX: usize = 16;

/// Starts the app's processes again, one after the other.
#[utoipa::path(post, path = "/api/v1/apps/{name}/restart", tag = "apps",
    security(("token" = ["operate"])), request_body = NoParameters,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = AppBegunView, headers(("Location" = String))), Refusals))]
pub(super) async fn restart(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<NoParameters>,
) -> Result<UnderWay, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    begin(&state, &app, asked.by, "restart", &json!({"ask": "restart"})).await
}

/// Gives the app another mode, or another number of processes.
#[utoipa::path(put, path = "/api/v1/apps/{name}/scale", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppScaleRequest, params(("name" = String, Path)),
    responses((status = 200, body = AppView), Refusals))]
pub(super) async fn scale(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<AppScaleRequest>,
) -> Result<Json<AppView>, Problem> {
    let AppScaleRequest { mode, instances } = asked.body;
    let mode = mode.map(|mode| mode.parse::<Mode>()).transpose();
    let mode = mode.map_err(|error| Problem::invalid(format!("mode: {error}")))?;
    if mode.is_none() && instances.is_none() {
        return Err(Problem::invalid("give mode, instances or both"));
    }
    let most = mode.unwrap_or(Mode::Standard).instances_max();
    if let Some(instances) = instances.filter(|instances| !(1..=most).contains(instances)) {
        let of = mode.map(|mode| format!(" of the mode {mode}")).unwrap_or_default();
        return Err(Problem::invalid(format!("instances: {instances}: an app{of} has 1 to {most}")));
    }
    let app = Paired::find(&state, KIND, &name).await?;
    let told =
        [mode.map(|mode| mode.to_string()), instances.map(|instances| format!("{instances} instances"))];
    let told = told.into_iter().flatten().collect::<Vec<_>>().join(", ");
    app.audit(&asked.by.who, |app| format!("asked to scale {app} to {told}")).await?;
    let mut question = json!({"ask": "scale"});
    put(&mut question, "mode", mode.map(Mode::as_str));
    put(&mut question, "instances", instances);
    let mut view: AppView = app.ask_active(&question).await?;
    finish(&mut view, &app.item, &app.item.source);
    Ok(Json(view))
}

/// Says under which host names the app is known beside its own, instead of those until now.
#[utoipa::path(put, path = "/api/v1/apps/{name}/hosts", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppHostsRequest, params(("name" = String, Path)),
    responses((status = 200, body = AppHostsRequest), Refusals))]
pub(super) async fn hosts(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<AppHostsRequest>,
) -> Result<Json<AppHostsRequest>, Problem> {
    let AppHostsRequest { hosts } = asked.body;
    if hosts.len() > HOSTS_MAX {
        return Err(Problem::invalid(format!("hosts: an app has {HOSTS_MAX} at most beside its own")));
    }
    for (at, one) in hosts.iter().enumerate() {
        host(&format!("hosts[{at}]"), one)?;
    }
    let app = Paired::find(&state, KIND, &name).await?;
    let told = if hosts.is_empty() { "no further host names".to_owned() } else { hosts.join(", ") };
    app.audit(&asked.by.who, |app| format!("asked to make {app} known as {told}")).await?;
    let _: serde_json::Value = app.ask_active(&json!({"ask": "set-hosts", "hosts": hosts})).await?;
    Ok(Json(AppHostsRequest { hosts }))
}

/// Adds host names to those under which the app is known, and takes some away; the others stay.
#[utoipa::path(patch, path = "/api/v1/apps/{name}/hosts", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppHostsChangeRequest, params(("name" = String, Path)),
    responses((status = 200, body = AppHostsRequest), Refusals))]
pub(super) async fn change_hosts(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<AppHostsChangeRequest>,
) -> Result<Json<AppHostsRequest>, Problem> {
    let AppHostsChangeRequest { add, remove } = asked.body;
    if add.is_empty() && remove.is_empty() {
        return Err(Problem::invalid("give add, remove or both"));
    }
    for (at, one) in add.iter().enumerate() {
        host(&format!("add[{at}]"), one)?;
    }
    if let Some(both) = remove.iter().find(|one| add.contains(one)) {
        return Err(Problem::invalid(format!("remove: {both} is in add, too: say only one of both")));
    }
    let app = Paired::find(&state, KIND, &name).await?;
    let told =
        |what: &str, hosts: &[String]| (!hosts.is_empty()).then(|| format!("{what} {}", hosts.join(", ")));
    let said: Vec<String> = [told("add", &add), told("remove", &remove)].into_iter().flatten().collect();
    let said = said.join(" and ");
    app.audit(&asked.by.who, |app| format!("asked to {said} in the host names of {app}")).await?;
    let mut question = json!({"ask": "set-hosts"});
    put(&mut question, "add", (!add.is_empty()).then_some(add));
    put(&mut question, "remove", (!remove.is_empty()).then_some(remove));
    let mut view: AppView = app.ask_active(&question).await?;
    finish(&mut view, &app.item, &app.item.source);
    Ok(Json(AppHostsRequest { hosts: view.hosts }))
}

/// How much.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Lines {
    /// The newest so many; 100 if absent, 5000 at most.
    lines: Option<u32>,
}

/// What the app's processes said last. It may hold whatever they say.
#[utoipa::path(get, path = "/api/v1/apps/{name}/log", tag = "apps",
    security(("token" = ["operate"])), params(("name" = String, Path), Lines),
    responses((status = 200, body = AppLogView), Refusals))]
pub(super) async fn log(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    query: Result<Query<Lines>, QueryRejection>,
) -> Result<Json<AppLogView>, Problem> {
    let lines = queried(query)?.lines.unwrap_or(LINES_USUAL);
    if !(1..=LINES_MAX).contains(&lines) {
        return Err(Problem::invalid(format!("lines: {lines}: give 1 to {LINES_MAX}")));
    }
    let app = Paired::find(&state, KIND, &name).await?;
    Ok(Json(app.ask_active(&json!({"ask": "log", "lines": lines})).await?))
}
