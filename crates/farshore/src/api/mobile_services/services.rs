//! Services: apps as the tools show them, and what they change about them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use farshore_app::mode::Mode;
use farshore_core::access::Right;
use farshore_core::ids::Kind;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::ApiState;
use super::super::access::Caller;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::Problem;
use super::Asker;

/// The kind, as ids write it.
const KIND: &str = "app";
/// Apps asked at once for a list.
const ASKED_AT_ONCE: usize = 16;
/// Lines of the log when nobody says how many, as the tools have it.
const LINES_DEFAULT: u32 = 10;
/// And at most.
const LINES_MAX: u32 = 1000;

type OfService = Path<(String, String)>;

/// The parts of an app's summary that are shown here.
#[derive(Debug, Default, Deserialize)]
struct Summary {
    #[serde(default)]
    urls: Vec<String>,
    #[serde(default)]
    git_url: String,
    #[serde(default)]
    state: String,
    mode: Option<String>,
    instances: Option<u32>,
    #[serde(default)]
    database: Option<DatabaseSaid>,
}

#[derive(Debug, Deserialize)]
struct DatabaseSaid {
    engine: String,
    name: Option<String>,
}

/// A service, as its region tells of it; of one whose region is silent only what others know.
#[derive(Debug)]
pub(super) struct Service {
    name: String,
    region: String,
    summary: Summary,
    /// Its own region has answered.
    answers: bool,
}

impl Service {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn region(&self) -> &str {
        &self.region
    }

    pub(super) fn is_ready(&self) -> bool {
        self.answers && matches!(self.summary.state.as_str(), "running" | "empty")
    }

    pub(super) fn database(&self) -> Option<&str> {
        let database = self.summary.database.as_ref().filter(|database| database.engine != "none")?;
        Some(database.name.as_deref().unwrap_or(&database.engine))
    }

    fn view(&self, keys: &Keys) -> Value {
        let state = if self.is_ready() { "Ready" } else { "Unhealthy" };
        json!({
            "name": self.name,
            "type": "ZumoApp",
            "state": state,
            "applicationUrl": self.summary.urls.first().cloned().unwrap_or_default(),
            "applicationKey": keys.application,
            "masterKey": keys.master,
            "tables": [],
            "webspace": format!("{}WEBSPACE", self.region.to_ascii_uppercase()),
            "region": self.region,
            "sourceRepositoryUrl": self.summary.git_url,
            "deploymentTriggerUrl": self.summary.git_url,
            "backendVersion": env!("CARGO_PKG_VERSION"),
            "platform": "node",
        })
    }
}

#[derive(Default, Deserialize)]
struct Keys {
    #[serde(default)]
    application: String,
    #[serde(default)]
    master: String,
}

impl Keys {
    fn view(&self) -> Value {
        json!({"applicationKey": self.application, "masterKey": self.master})
    }
}

/// The service of this name.
pub(super) async fn find(state: &ApiState, name: &str) -> Result<Service, Problem> {
    Ok(look(&Paired::find(state, KIND, name).await?).await)
}

async fn look(app: &Paired<'_>) -> Service {
    let question = json!({"ask": "summary"});
    let own = app.ask_active::<Summary>(&question).await;
    let answers = own.is_ok();
    let summary = match own {
        Ok(summary) => summary,
        Err(_) => app.ask_either(&question).await.unwrap_or_default(),
    };
    let (name, region) = (app.item.id.name.to_string(), app.item.source.to_string());
    Service { name, region, summary, answers }
}

/// With its keys, for those who may see them.
async fn shown(app: &Paired<'_>, caller: &Caller) -> Result<Value, Problem> {
    let service = look(app).await;
    if caller.check(Right::Contribute).is_err() {
        return Ok(service.view(&Keys::default()));
    }
    app.audit(&caller.name, |app| format!("asked for the keys of {app}")).await?;
    let keys: Keys = app.ask_either(&json!({"ask": "keys"})).await.unwrap_or_default();
    Ok(service.view(&keys))
}

/// All services, by name.
pub(super) async fn list(State(state): State<ApiState>, caller: Caller) -> Result<Json<Vec<Value>>, Problem> {
    let mut items = state.control.items().await?;
    items.retain(|item| item.id.kind == Kind::App);
    items.sort_by(|one, other| one.id.cmp(&other.id));
    let (state, caller) = (&state, &caller);
    let asked = items.into_iter().map(|item| async move {
        match Paired::find(state, KIND, item.id.name.as_str()).await {
            Ok(app) => shown(&app, caller).await.map(Some),
            // Removed in this moment.
            Err(problem) if problem.status == StatusCode::NOT_FOUND.as_u16() => Ok(None),
            Err(problem) => Err(problem),
        }
    });
    let views: Vec<Result<Option<Value>, Problem>> =
        stream::iter(asked).buffered(ASKED_AT_ONCE).collect().await;
    let views: Result<Vec<Option<Value>>, Problem> = views.into_iter().collect();
    Ok(Json(views?.into_iter().flatten().collect()))
}

/// One service.
pub(super) async fn show(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    caller: Caller,
) -> Result<Json<Value>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    Ok(Json(shown(&app, &caller).await?))
}

/// How large it is.
pub(super) async fn scale(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
) -> Result<Json<Value>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    let summary: Summary = app.ask_either(&json!({"ask": "summary"})).await?;
    sized(&summary)
}

fn sized(summary: &Summary) -> Result<Json<Value>, Problem> {
    let mode = summary.mode.as_deref().unwrap_or_default().parse::<Mode>();
    let mode =
        mode.map_err(|error| Problem::new(StatusCode::BAD_GATEWAY, "bad-answer", error.to_string()))?;
    Ok(Json(json!({"tier": mode.tier(), "numberOfInstances": summary.instances.unwrap_or(1)})))
}

/// How large it shall be; what is left out stays.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Size {
    tier: Option<String>,
    number_of_instances: Option<Count>,
}

/// A number, which some tools write as a text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u32),
    Text(String),
}

impl Count {
    fn number(&self) -> Result<u32, Problem> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Text(text) => text
                .parse()
                .map_err(|_| Problem::invalid(format!("numberOfInstances: {text:?} is no number"))),
        }
    }
}

/// Scales it.
pub(super) async fn set_scale(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    asked: Asked<Size>,
) -> Result<Json<Value>, Problem> {
    let Size { tier, number_of_instances } = asked.body;
    let mode = tier.map(|tier| tier.parse::<Mode>()).transpose();
    let mode = mode.map_err(|error| Problem::invalid(format!("tier: {error}")))?;
    let number_of_instances = number_of_instances.map(|count| count.number()).transpose()?;
    if let (Some(mode), Some(instances)) = (mode, number_of_instances)
        && !(1..=mode.instances_max()).contains(&instances)
    {
        let most = mode.instances_max();
        return Err(Problem::invalid(format!("numberOfInstances: {mode} has 1 to {most}")));
    }
    let app = Paired::find(&state, KIND, &name).await?;
    app.audit(&asked.by.who, |app| format!("asked to scale {app}")).await?;
    let mut question = Map::from_iter([("ask".to_owned(), json!("scale"))]);
    question.extend(mode.map(|mode| ("mode".to_owned(), json!(mode))));
    question.extend(number_of_instances.map(|count| ("instances".to_owned(), json!(count))));
    let summary: Summary = app.ask_active(&Value::Object(question)).await?;
    sized(&summary)
}

#[derive(Deserialize)]
struct Settings {
    settings: BTreeMap<String, String>,
}

/// Its settings: name to value.
pub(super) async fn settings(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    caller: Caller,
) -> Result<Json<BTreeMap<String, String>>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    app.audit(&caller.name, |app| format!("asked for the settings of {app}")).await?;
    let answer: Settings = app.ask_either(&json!({"ask": "settings"})).await?;
    Ok(Json(answer.settings))
}

/// Sets those that are given; `null` removes one.
pub(super) async fn set_settings(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    asked: Asked<BTreeMap<String, Option<String>>>,
) -> Result<Json<BTreeMap<String, String>>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    let count = asked.body.len();
    app.audit(&asked.by.who, |app| format!("asked to change {count} settings of {app}")).await?;
    let (set, delete): (Vec<_>, Vec<_>) = asked.body.into_iter().partition(|(_, value)| value.is_some());
    let set: BTreeMap<String, String> =
        set.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let delete: Vec<String> = delete.into_iter().map(|(name, _)| name).collect();
    let question = json!({"ask": "set-settings", "set": set, "delete": delete});
    let answer: Settings = app.ask_active(&question).await?;
    Ok(Json(answer.settings))
}

/// Which key.
#[derive(Debug, Deserialize)]
pub(super) struct WhichKey {
    #[serde(rename = "type")]
    which: String,
}

/// `application` or `master`; the tools write them so, or with a capital.
fn key_word(text: &str) -> Result<&'static str, Problem> {
    match text.to_ascii_lowercase().as_str() {
        "application" => Ok("application"),
        "master" => Ok("master"),
        _ => Err(Problem::invalid(format!("{text:?} is no key: it must be application or master"))),
    }
}

/// Makes a key anew.
pub(super) async fn regenerate(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    which: Result<Query<WhichKey>, QueryRejection>,
    Asker(by): Asker,
) -> Result<Json<Value>, Problem> {
    let Query(WhichKey { which }) = which.map_err(|error| Problem::invalid(error.body_text()))?;
    let key = key_word(&which)?;
    let app = Paired::find(&state, KIND, &name).await?;
    app.audit(&by.who, |app| format!("asked to make the {key} key of {app} anew")).await?;
    let keys: Keys = app.ask_active(&json!({"ask": "regenerate", "type": key})).await?;
    Ok(Json(keys.view()))
}

/// A key that somebody chose.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NewKey {
    #[serde(alias = "type")]
    r#type: String,
    #[serde(alias = "value")]
    value: String,
}

/// Sets a key.
pub(super) async fn set_key(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    asked: Asked<NewKey>,
) -> Result<Json<Value>, Problem> {
    let NewKey { r#type, value } = asked.body;
    let key = key_word(&r#type)?;
    let app = Paired::find(&state, KIND, &name).await?;
    app.audit(&asked.by.who, |app| format!("asked to set the {key} key of {app}")).await?;
    let keys: Keys = app.ask_active(&json!({"ask": "set-keys", key: value})).await?;
    Ok(Json(keys.view()))
}

/// Starts its processes again, from the files of its release.
pub(super) async fn restart(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    Asker(by): Asker,
) -> Result<Json<Value>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    app.audit(&by.who, |app| format!("asked to restart {app}")).await?;
    let _: Value = app.ask_active(&json!({"ask": "restart"})).await?;
    Ok(Json(json!({})))
}

/// How much of the log.
#[derive(Debug, Deserialize)]
pub(super) struct HowMuch {
    #[serde(rename = "$top")]
    top: Option<u32>,
}

#[derive(Deserialize)]
struct Lines {
    lines: Vec<String>,
}

/// What its processes said last, newest first.
pub(super) async fn logs(
    State(state): State<ApiState>,
    Path((_, name)): OfService,
    how_much: Result<Query<HowMuch>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(HowMuch { top }) = how_much.map_err(|error| Problem::invalid(error.body_text()))?;
    let app = Paired::find(&state, KIND, &name).await?;
    let lines = top.unwrap_or(LINES_DEFAULT).clamp(1, LINES_MAX);
    let Lines { lines } = app.ask_active(&json!({"ask": "log", "lines": lines})).await?;
    let results: Vec<Value> = lines.iter().rev().map(|line| entry(line)).collect();
    Ok(Json(json!({"results": results, "continuationToken": null})))
}

/// `TIME INSTANCE TEXT`, in parts.
fn entry(line: &str) -> Value {
    let (time, rest) = line.split_once(' ').unwrap_or(("", line));
    let (source, message) = rest.split_once(' ').unwrap_or(("", rest));
    json!({"timeCreated": time, "type": "information", "source": source, "message": message})
}

/// The regions.
pub(super) async fn regions(State(state): State<ApiState>) -> Result<Json<Vec<Value>>, Problem> {
    let regions = state.control.regions().await?;
    Ok(Json(regions.iter().map(|record| json!({"region": record.name})).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(state: &str, answers: bool) -> Service {
        let summary = Summary {
            urls: vec!["https://todo.app.farshore.internal".to_owned()],
            git_url: "https://todo.scm.farshore.internal/todo.git".to_owned(),
            state: state.to_owned(),
            mode: Some("basic".to_owned()),
            instances: Some(2),
            database: Some(DatabaseSaid { engine: "sqlite".to_owned(), name: None }),
        };
        Service { name: "todo".to_owned(), region: "paris".to_owned(), summary, answers }
    }

    #[test]
    fn a_service_is_shown_with_the_words_of_the_tools() {
        let keys = Keys { application: "a".repeat(32), master: "m".repeat(32) };
        let view = service("running", true).view(&keys);
        assert_eq!((view["type"].as_str(), view["state"].as_str()), (Some("ZumoApp"), Some("Ready")));
        assert_eq!(
            (view["webspace"].as_str(), view["region"].as_str()),
            (Some("PARISWEBSPACE"), Some("paris"))
        );
        assert_eq!(
            (view["applicationKey"].as_str(), view["masterKey"].as_str()),
            (Some(&*keys.application), Some(&*keys.master))
        );
        for (state, answers) in [("running", false), ("failed", true), ("recovering", true), ("", false)] {
            assert_eq!(service(state, answers).view(&keys)["state"], "Unhealthy", "{state} {answers}");
        }
        assert_eq!(service("running", true).database(), Some("sqlite"));
    }

    #[test]
    fn sizes_and_keys_have_the_words_of_the_tools() {
        assert_eq!(
            sized(&service("running", true).summary).unwrap().0,
            json!({"tier": "tier2", "numberOfInstances": 2})
        );
        assert!(sized(&Summary::default()).is_err());
        assert_eq!(key_word("Master").unwrap(), "master");
        assert!(key_word("deployment").is_err());
        let line = entry("2026-11-21T05:00:00Z 1/out hello there");
        assert_eq!((line["source"].as_str(), line["message"].as_str()), (Some("1/out"), Some("hello there")));
    }
}
