//! App services: what only they have. It is asked of the region that serves the app, through its agent.
//!
//! Read in this order: this file (how apps stand), `operations` (what takes long, and how it is followed), `secrets` (keys, settings,
//! certificates), `scripts` (uploads, deploys, releases, exports), `databases` (backups, restores, another database), `running`
//! (restart, scale, hosts, log).
//!
//! Must always hold: whoever is shown a secret, or changes one, is in the audit before it is shown; no secret is in the
//! audit, in a job, in the store or in a log; an answer holds a key or a setting's value only if it was asked for by name.

mod databases;
mod operations;
mod running;
mod scripts;
mod secrets;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use farshore_core::ids::{Kind, Region};
use farshore_core::lifecycle::Item;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use operations::Begun;
pub(super) use scripts::UPLOAD_LEN_MAX;

use super::ApiState;
use super::paired::Paired;
use super::problem::{Problem, Refusals};
use super::views::{AppBrief, AppView};
use crate::engine::directory_name;

/// The kind, as paths and ids write it.
const KIND: &str = "app";
/// Apps asked at once for a list: their regions answer many others meanwhile.
const ASKED_AT_ONCE: usize = 16;

/// All of it.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(operations::show))
        .routes(routes!(secrets::keys, secrets::set_keys))
        .routes(routes!(secrets::regenerate))
        .routes(routes!(secrets::settings, secrets::set_settings))
        .routes(routes!(secrets::set_certificate, secrets::delete_certificate))
        .routes(routes!(scripts::upload))
        .routes(routes!(scripts::deploy))
        .routes(routes!(scripts::releases))
        .routes(routes!(scripts::rollback))
        .routes(routes!(scripts::check))
        .routes(routes!(scripts::export))
        .routes(routes!(databases::backups, databases::back_up))
        .routes(routes!(databases::verify))
        .routes(routes!(databases::databases))
        .routes(routes!(databases::restore))
        .routes(routes!(databases::change))
        .routes(routes!(running::restart))
        .routes(routes!(running::scale))
        .routes(routes!(running::hosts, running::change_hosts))
        .routes(routes!(running::log))
}

/// All apps, by name, as their regions tell of them now.
#[utoipa::path(get, path = "/api/v1/apps", tag = "apps",
    security(("token" = ["read"])), responses((status = 200, body = Vec<AppBrief>), Refusals))]
async fn list(State(state): State<ApiState>) -> Result<Json<Vec<AppBrief>>, Problem> {
    let mut items = state.control.items().await?;
    items.retain(|item| item.id.kind == Kind::App);
    items.sort_by(|one, other| one.id.cmp(&other.id));
    let asked = items.into_iter().map(|item| brief(&state, item));
    Ok(Json(stream::iter(asked).buffered(ASKED_AT_ONCE).collect().await))
}

/// Of a region that does not answer there is only what was seen last.
async fn brief(state: &ApiState, item: Item) -> AppBrief {
    let (name, region) = (item.id.name.to_string(), item.source.to_string());
    let app = Paired::of(state, item);
    match app.ask_active::<AppView>(&json!({"ask": "summary"})).await {
        Ok(view) => AppBrief {
            name,
            region,
            mode: Some(view.mode),
            state: view.state,
            release: view.release.map(|release| release.number),
            url: view.urls.into_iter().next(),
            reserve_for: view.reserve_for,
        },
        Err(_) => {
            let seen = state.control.seen(&app.item.id).remove(&app.item.source);
            let shape = seen.and_then(|seen| seen.observation).map(|seen| seen.shape).unwrap_or_default();
            let word = |name: &str| shape.get(name).and_then(Value::as_str).map(str::to_owned);
            AppBrief {
                name,
                region,
                mode: word("mode"),
                state: "unknown".to_owned(),
                release: shape.get("release").and_then(Value::as_u64),
                url: None,
                reserve_for: word("reserve_for"),
            }
        }
    }
}

/// An app at a glance. When its active region does not answer, the other one tells what it has.
#[utoipa::path(get, path = "/api/v1/apps/{name}", tag = "apps",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = AppView), Refusals))]
async fn show(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Json<AppView>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    let (region, mut view) = summary(&app).await?;
    let id = &app.item.id;
    for warning in state
        .control
        .seen(id)
        .into_values()
        .filter_map(|seen| seen.observation)
        .flat_map(|seen| seen.warnings)
    {
        if !view.warnings.contains(&warning) {
            view.warnings.push(warning);
        }
    }
    let record = state.control.directory(&directory_name(id)).await?;
    view.ttl_seconds = record.map(|record| record.ttl_seconds);
    view.reserve = reserve(&state, &app.item).await?;
    finish(&mut view, &app.item, &region);
    Ok(Json(view))
}

/// What a region does not say of itself. The app's own host name, which regions tell first, is not one of those beside it.
fn finish(view: &mut AppView, item: &Item, region: &Region) {
    let own = format!("{}.app.", item.id.name);
    if view.hosts.first().is_some_and(|first| first.starts_with(&own)) {
        view.hosts.remove(0);
    }
    view.name = item.id.name.to_string();
    view.region = region.to_string();
}

/// What the region says that answers, and which one that is.
async fn summary(app: &Paired<'_>) -> Result<(Region, AppView), Problem> {
    let question = json!({"ask": "summary"});
    let source = app.item.source.clone();
    let first = app.ask_active(&question).await.map(|view| (source, view));
    match (first, &app.item.target) {
        (Err(problem), Some(target)) if problem.status == StatusCode::SERVICE_UNAVAILABLE.as_u16() => {
            let other = app.ask_in(target, &question).await;
            other.map(|view| (target.clone(), view)).map_err(|_| problem)
        }
        (first, _) => first,
    }
}

/// The app that keeps capacity for this one, as regions saw it last.
async fn reserve(state: &ApiState, app: &Item) -> Result<Option<String>, Problem> {
    let items = state.control.items().await?;
    let others = items.into_iter().filter(|item| item.id.kind == Kind::App && item.id != app.id);
    Ok(others.into_iter().find_map(|item| {
        let seen = state.control.seen(&item.id).remove(&item.source)?;
        let is_for = seen.observation?.shape.get("reserve_for")?.as_str()? == app.id.name.as_str();
        is_for.then(|| item.id.name.to_string())
    }))
}

/// What stands after the question mark, or what is wrong with it.
fn queried<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|error| Problem::invalid(error.body_text()))
}

/// A word of the client's that regions may make a file of.
fn plain<'a>(what: &str, text: &'a str) -> Result<&'a str, Problem> {
    /// Names, ids and hashes are shorter.
    const LEN_MAX: usize = 64;
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins_well && text.len() <= LEN_MAX && text.bytes().all(is_known) {
        return Ok(text);
    }
    Err(Problem::invalid(format!(
        "{what}: it has 1 to {LEN_MAX} letters, digits and -_. and begins with no sign"
    )))
}

/// Host names in small letters, without scheme and port.
fn host<'a>(what: &str, text: &'a str) -> Result<&'a str, Problem> {
    /// The longest name of DNS.
    const LEN_MAX: usize = 253;
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if text.len() <= LEN_MAX && text.contains('.') && text.split('.').all(is_label) {
        return Ok(text);
    }
    Err(Problem::invalid(format!(
        "{what}: {text:?} is no host name: write one such as todo.example.com, in small letters, without scheme and port"
    )))
}

/// Adds what was given.
fn put(question: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let (Some(fields), Some(value)) = (question.as_object_mut(), value) {
        fields.insert(name.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_a_path_is_refused() {
        for good in ["a", "01J9", "todo-2.db", "A_b"] {
            assert!(plain("id", good).is_ok(), "{good}");
        }
        for bad in ["", "..", ".a", "a/b", "-rf", "a b", "ä", &"x".repeat(65)] {
            assert!(plain("id", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_has_neither_scheme_nor_port() {
        assert!(host("host", "todo.example.com").is_ok());
        for bad in [
            "",
            "todo",
            "https://todo.example.com",
            "todo.example.com:443",
            "Todo.example.com",
            "a..b",
            "-a.b",
        ] {
            let problem = host("host", bad).unwrap_err();
            assert!(problem.detail.contains("without scheme and port"), "{bad}");
        }
    }
}
