//! Keys, settings, certificates: shown to those who may change them, and only when asked for.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use farshore_core::access::Right;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::super::ApiState;
use super::super::access::Caller;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{
    AppCertificateRequest, AppKeysRequest, AppKeysView, AppRegenerateRequest, AppSettingsRequest,
    AppSettingsView, NoParameters,
};
use super::{KIND, host, put, queried};

/// Longest key that an app brings along; those that are made here have 32 characters.
const KEY_LEN_MAX: usize = 128;
/// Shorter ones are guessed.
const KEY_LEN_MIN: usize = 8;
/// Longest name of a setting.
const SETTING_LEN_MAX: usize = 128;

/// The app's keys: secrets.
#[utoipa::path(get, path = "/api/v1/apps/{name}/keys", tag = "apps",
    security(("token" = ["contribute"])), params(("name" = String, Path)),
    responses((status = 200, body = AppKeysView), Refusals))]
pub(super) async fn keys(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<AppKeysView>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    app.audit(&caller.name, |app| format!("asked for the keys of {app}")).await?;
    Ok(Json(app.ask_either(&json!({"ask": "keys"})).await?))
}

/// Gives the app keys that it had elsewhere: its clients notice nothing. Keys that are absent stay.
#[utoipa::path(put, path = "/api/v1/apps/{name}/keys", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppKeysRequest, params(("name" = String, Path)),
    responses((status = 200, body = AppKeysView), Refusals))]
pub(super) async fn set_keys(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<AppKeysRequest>,
) -> Result<Json<AppKeysView>, Problem> {
    let AppKeysRequest { application, master } = asked.body;
    let given = [("application", &application), ("master", &master)];
    for (what, key) in given.iter().filter_map(|(what, key)| Some((what, (*key).as_ref()?))) {
        // What it is, is not repeated.
        if !(KEY_LEN_MIN..=KEY_LEN_MAX).contains(&key.len())
            || !key.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(Problem::invalid(format!(
                "{what}: a key has {KEY_LEN_MIN} to {KEY_LEN_MAX} ASCII characters without spaces"
            )));
        }
    }
    let names: Vec<&str> = given.iter().filter(|(_, key)| key.is_some()).map(|(what, _)| *what).collect();
    if names.is_empty() {
        return Err(Problem::invalid("give application, master or both"));
    }
    let app = Paired::find(&state, KIND, &name).await?;
    let what = names.join(" and ");
    app.audit(&asked.by.who, |app| format!("asked to give {app} another {what} key")).await?;
    let mut question = json!({"ask": "set-keys"});
    put(&mut question, "application", application);
    put(&mut question, "master", master);
    Ok(Json(app.ask_active(&question).await?))
}

/// Makes one key anew. The old one opens nothing any more, in both regions.
#[utoipa::path(post, path = "/api/v1/apps/{name}/keys/regenerate", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppRegenerateRequest,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = AppKeysView), Refusals))]
pub(super) async fn regenerate(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<AppRegenerateRequest>,
) -> Result<Json<AppKeysView>, Problem> {
    let app = Paired::find(&state, KIND, &name).await?;
    if let Some(key) = &asked.by.idempotency
        && state.steered.earlier(key)?
    {
        // Done before, and its answer was lost.
        return Ok(Json(app.ask_active(&json!({"ask": "keys"})).await?));
    }
    let which = asked.body.which.as_str();
    app.audit(&asked.by.who, |app| format!("asked to make the {which} key of {app} anew")).await?;
    let keys = app.ask_active(&json!({"ask": "regenerate", "type": which})).await?;
    if let Some(done) = asked.by.idempotency {
        state.steered.remember(done);
    }
    Ok(Json(keys))
}

/// Whether values are shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WithValues {
    /// With their values; needs the right to contribute, and is audited.
    #[serde(default)]
    values: bool,
}

/// The app's settings: their names, and their values if they are asked for.
#[utoipa::path(get, path = "/api/v1/apps/{name}/settings", tag = "apps",
    security(("token" = ["read"])), params(("name" = String, Path), WithValues),
    responses((status = 200, body = AppSettingsView), Refusals))]
pub(super) async fn settings(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    query: Result<Query<WithValues>, QueryRejection>,
    caller: Caller,
) -> Result<Json<AppSettingsView>, Problem> {
    let WithValues { values } = queried(query)?;
    let app = Paired::find(&state, KIND, &name).await?;
    if values {
        caller.check(Right::Contribute)?;
        app.audit(&caller.name, |app| format!("asked for the settings of {app}")).await?;
    }
    let view: AppSettingsView = app.ask_either(&json!({"ask": "settings"})).await?;
    Ok(Json(if values { view } else { without_values(view) }))
}

fn without_values(mut view: AppSettingsView) -> AppSettingsView {
    view.settings.values_mut().for_each(|value| *value = None);
    view
}

/// Sets and deletes settings; the others stay. The app's processes are started again with them.
#[utoipa::path(patch, path = "/api/v1/apps/{name}/settings", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppSettingsRequest, params(("name" = String, Path)),
    responses((status = 200, body = AppSettingsView), Refusals))]
pub(super) async fn set_settings(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<AppSettingsRequest>,
) -> Result<Json<AppSettingsView>, Problem> {
    let AppSettingsRequest { set, delete } = asked.body;
    if set.is_empty() && delete.is_empty() {
        return Err(Problem::invalid("give set or delete"));
    }
    for name in set.keys().chain(&delete) {
        setting(name)?;
    }
    if let Some(both) = delete.iter().find(|name| set.contains_key(*name)) {
        return Err(Problem::invalid(format!("delete: {both} is in set, too: say only one of both")));
    }
    let app = Paired::find(&state, KIND, &name).await?;
    let list = |names: Vec<&str>, what: &str| match names.is_empty() {
        true => None,
        false => Some(format!("{what} {}", names.join(", "))),
    };
    let told = [
        list(set.keys().map(String::as_str).collect(), "set"),
        list(delete.iter().map(String::as_str).collect(), "delete"),
    ];
    let told = told.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    app.audit(&asked.by.who, |app| format!("asked to {told} in the settings of {app}")).await?;
    let question = json!({"ask": "set-settings", "set": set, "delete": delete});
    Ok(Json(without_values(app.ask_active(&question).await?)))
}

/// What an environment variable can be called, and what older servers called their settings.
fn setting(name: &str) -> Result<(), Problem> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    let begins_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    match begins_well && name.len() <= SETTING_LEN_MAX && name.bytes().all(is_known) {
        true => Ok(()),
        false => Err(Problem::invalid(format!(
            "settings: {name:?} is no name: it has 1 to {SETTING_LEN_MAX} letters, digits and _.:- and begins with a letter"
        ))),
    }
}

/// Shows clients this certificate at one of the app's own host names, in both regions.
#[utoipa::path(put, path = "/api/v1/apps/{name}/certificates/{host}", tag = "apps",
    security(("token" = ["contribute"])), request_body = AppCertificateRequest,
    params(("name" = String, Path), ("host" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn set_certificate(
    State(state): State<ApiState>,
    Path((name, at)): Path<(String, String)>,
    asked: Asked<AppCertificateRequest>,
) -> Result<Json<Value>, Problem> {
    let at = host("host", &at)?;
    let AppCertificateRequest { chain, key } = asked.body;
    if !chain.contains("-----BEGIN CERTIFICATE-----") {
        return Err(Problem::invalid("chain: it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    if !key.contains("PRIVATE KEY-----") {
        return Err(Problem::invalid("key: it holds no private key in PEM (-----BEGIN PRIVATE KEY-----)"));
    }
    let app = Paired::find(&state, KIND, &name).await?;
    app.audit(&asked.by.who, |app| format!("asked to set the certificate of {at} for {app}")).await?;
    let question = json!({"ask": "set-certificate", "host": at, "chain": chain, "key": key});
    let _: Value = app.ask_active(&question).await?;
    Ok(Json(json!({})))
}

/// Takes the certificate of a host name away: clients are shown the gateway's own.
#[utoipa::path(delete, path = "/api/v1/apps/{name}/certificates/{host}", tag = "apps",
    security(("token" = ["contribute"])), params(("name" = String, Path), ("host" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn delete_certificate(
    State(state): State<ApiState>,
    Path((name, at)): Path<(String, String)>,
    asked: Asked<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let at = host("host", &at)?;
    let app = Paired::find(&state, KIND, &name).await?;
    app.audit(&asked.by.who, |app| format!("asked to remove the certificate of {at} from {app}")).await?;
    let _: Value = app.ask_active(&json!({"ask": "delete-certificate", "host": at})).await?;
    Ok(Json(json!({})))
}
