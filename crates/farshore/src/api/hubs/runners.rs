//! Sinks and members: what a hub does by itself while it serves.

use axum::Json;
use axum::extract::{Path, State};
use farshore_hub::member::{Direction, EVERY_DEFAULT, MemberSetting};
use farshore_hub::sink::SinkOptions;
use farshore_hub::trust;
use serde_json::{Value, json};

use super::super::ApiState;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{
    HubDirectionWord, HubMemberReportView, HubMemberRequest, HubMemberRunRequest, HubMemberView,
    HubSinkRequest, HubSinkView, NoParameters,
};
use super::devices::put;
use super::{KIND, shown};

/// All sinks, and how each does.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/sinks", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = Vec<HubSinkView>), Refusals))]
pub(super) async fn sinks(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<HubSinkView>>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    Ok(Json(hub.ask_either(&json!({"ask": "sinks"})).await?))
}

/// Makes a sink, or changes the one of this name, which goes on where it was.
#[utoipa::path(put, path = "/api/v1/hubs/{name}/sinks/{sink}", tag = "hubs",
    security(("token" = ["contribute"])), request_body = HubSinkRequest,
    params(("name" = String, Path), ("sink" = String, Path)),
    responses((status = 200, body = HubSinkView), Refusals))]
pub(super) async fn set_sink(
    State(state): State<ApiState>,
    Path((name, sink)): Path<(String, String)>,
    asked: Asked<HubSinkRequest>,
) -> Result<Json<HubSinkView>, Problem> {
    check_name("sink", &sink)?;
    check_sink(&asked.body)?;
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| format!("asked to set the sink {sink} of {hub}")).await?;
    let HubSinkRequest { url, stream, subject, ca } = asked.body;
    let mut question = json!({"ask": "set-sink", "name": sink, "url": url});
    put(&mut question, "stream", stream);
    put(&mut question, "subject", subject);
    put(&mut question, "ca", ca);
    Ok(Json(hub.ask_active(&question).await?))
}

/// Takes a sink away, and forgets how far it came. What is in the stream stays there.
#[utoipa::path(delete, path = "/api/v1/hubs/{name}/sinks/{sink}", tag = "hubs",
    security(("token" = ["contribute"])), params(("name" = String, Path), ("sink" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn delete_sink(
    State(state): State<ApiState>,
    Path((name, sink)): Path<(String, String)>,
    asked: Asked<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| format!("asked to remove the sink {} of {hub}", shown(&sink))).await?;
    Ok(Json(hub.ask_active(&json!({"ask": "delete-sink", "name": sink})).await?))
}

/// All members, and how each was compared last. No keys.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/members", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = Vec<HubMemberView>), Refusals))]
pub(super) async fn members(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<HubMemberView>>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    Ok(Json(hub.ask_either(&json!({"ask": "members"})).await?))
}

/// Makes a member of another hub, or changes the one of this name. It runs at once, and then on its schedule.
#[utoipa::path(put, path = "/api/v1/hubs/{name}/members/{member}", tag = "hubs",
    security(("token" = ["contribute"])), request_body = HubMemberRequest,
    params(("name" = String, Path), ("member" = String, Path)),
    responses((status = 200, body = HubMemberView), Refusals))]
pub(super) async fn set_member(
    State(state): State<ApiState>,
    Path((name, member)): Path<(String, String)>,
    asked: Asked<HubMemberRequest>,
) -> Result<Json<HubMemberView>, Problem> {
    check_name("member", &member)?;
    let HubMemberRequest { connection_string, every_seconds, direction, prune, ca } = asked.body;
    let direction = match direction {
        HubDirectionWord::From => Direction::From,
        HubDirectionWord::To => Direction::To,
    };
    let every_seconds = every_seconds.unwrap_or(EVERY_DEFAULT);
    let setting = MemberSetting { connection_string, every_seconds, direction, prune, ca };
    setting.check().map_err(|error| Problem::invalid(error.to_string()))?;
    let (host, _) = setting.shown().map_err(|error| Problem::invalid(error.to_string()))?;
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| {
        let pruning = if prune { ", deleting what only one side has" } else { "" };
        format!("asked to set the member {member} of {hub}: {} {}{pruning}", direction.as_str(), shown(&host))
    })
    .await?;
    let mut question = json!(setting);
    (question["ask"], question["name"]) = ("set-member".into(), member.into());
    Ok(Json(hub.ask_active(&question).await?))
}

/// Takes a member away. What was taken over stays.
#[utoipa::path(delete, path = "/api/v1/hubs/{name}/members/{member}", tag = "hubs",
    security(("token" = ["contribute"])), params(("name" = String, Path), ("member" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn delete_member(
    State(state): State<ApiState>,
    Path((name, member)): Path<(String, String)>,
    asked: Asked<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| format!("asked to remove the member {} of {hub}", shown(&member))).await?;
    Ok(Json(hub.ask_active(&json!({"ask": "delete-member", "name": member})).await?))
}

/// Brings a member up to date now, or says what that would do. Repeating it changes nothing. A run that takes longer than ten seconds
/// goes on: ask again with `run` while `running` is set.
#[utoipa::path(post, path = "/api/v1/hubs/{name}/members/{member}/run", tag = "hubs",
    security(("token" = ["operate"])), request_body = HubMemberRunRequest,
    params(("name" = String, Path), ("member" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = HubMemberReportView), Refusals))]
pub(super) async fn run_member(
    State(state): State<ApiState>,
    Path((name, member)): Path<(String, String)>,
    asked: Asked<HubMemberRunRequest>,
) -> Result<Json<HubMemberReportView>, Problem> {
    let HubMemberRunRequest { plan, run } = asked.body;
    let hub = Paired::find(&state, KIND, &name).await?;
    if !plan && run.is_none() {
        hub.audit(&asked.by.who, |hub| format!("asked to run the member {} of {hub}", shown(&member)))
            .await?;
    }
    let mut question = json!({"ask": "run-member", "name": member, "plan": plan});
    put(&mut question, "run", run);
    Ok(Json(hub.ask_active(&question).await?))
}

/// What the hub would refuse, too; said before anything is on record.
fn check_sink(asked: &HubSinkRequest) -> Result<(), Problem> {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "farshore".to_owned());
    let options = SinkOptions {
        url: asked.url.clone(),
        tls: None,
        stream: text(&asked.stream),
        subject: text(&asked.subject),
        group: String::new(),
        duplicate_window: std::time::Duration::ZERO,
        named_by: Vec::new(),
    };
    options.check().map_err(|error| Problem::invalid(error.to_string()))?;
    trust::client_config(asked.ca.as_deref()).map_err(|error| Problem::invalid(format!("ca: {error}")))?;
    Ok(())
}

fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    /// A consumer group is called after it.
    const NAME_LEN_MAX: usize = 48;
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(is_known) {
        true => {
            Err(Problem::invalid(format!("{what}: its name has 1 to {NAME_LEN_MAX} letters, digits and -_.")))
        }
        false => Ok(()),
    }
}
