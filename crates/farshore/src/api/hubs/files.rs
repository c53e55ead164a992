//! Identities in and out, a piece of a file at a time: the lines of `devices.txt`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use farshore_core::access::Right;
use farshore_core::ids::ItemId;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use utoipa::IntoParams;

use super::super::ApiState;
use super::super::access::Caller;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{HubExportView, HubImportRequest, HubImportView};
use super::devices::{PAGE_LEN_MAX, limit, put};
use super::{KIND, queried};

/// Longest body of an import: what one region takes from another at once is 2 MiB, quotes of JSON in JSON included.
pub(in crate::api) const IMPORT_LEN_MAX: usize = 1536 * 1024;
/// A file of a million lines is a thousand requests, and one line in the audit for each of these.
const NOTED_FOR: Duration = Duration::from_secs(60);
/// Imports and exports that are remembered as noted.
const NOTED_MAX: usize = 1024;

/// Who reads or writes a file of identities just now, and is in the audit for it.
#[derive(Debug, Default)]
pub(in crate::api) struct Noted {
    until: Mutex<HashMap<(String, ItemId, &'static str), Instant>>,
}

impl Noted {
    /// Whether it has yet to be written down.
    fn is_new(&self, who: &str, hub: &ItemId, what: &'static str) -> bool {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        until.retain(|_, until| *until > now);
        if until.len() >= NOTED_MAX {
            until.clear();
        }
        let key = (who.to_owned(), hub.clone(), what);
        until.get(&key).is_none_or(|until| *until <= now)
    }

    /// It is written down.
    fn note(&self, who: &str, hub: &ItemId, what: &'static str) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.insert((who.to_owned(), hub.clone(), what), Instant::now() + NOTED_FOR);
    }
}

async fn audit(state: &ApiState, hub: &Paired<'_>, who: &str, what: &'static str) -> Result<(), Problem> {
    if state.noted.is_new(who, &hub.item.id, what) {
        hub.audit(who, |hub| format!("asked to {what} {hub}")).await?;
        state.noted.note(who, &hub.item.id, what);
    }
    Ok(())
}

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Export {
    /// Those after this device or module: ask with `next` of each answer.
    after: Option<String>,
    /// At most so many; 100 if absent, 1000 at most.
    limit: Option<u32>,
    /// With keys; needs the right to contribute, and is audited.
    #[serde(default)]
    keys: bool,
}

/// A page of `devices.txt`: identities and twins as lines of JSON.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/export", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path), Export),
    responses((status = 200, body = HubExportView), Refusals))]
pub(super) async fn export(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    query: Result<Query<Export>, QueryRejection>,
    caller: Caller,
) -> Result<Json<HubExportView>, Problem> {
    let Export { after, limit: most, keys } = queried(query)?;
    let hub = Paired::find(&state, KIND, &name).await?;
    if keys {
        caller.check(Right::Contribute)?;
        audit(&state, &hub, &caller.name, "export identities with their keys from").await?;
    }
    let mut question = json!({"ask": "export", "limit": limit(most)?, "keys": keys});
    put(&mut question, "after", after);
    Ok(Json(hub.ask_either(&question).await?))
}

/// Applies lines of `devices.txt`. A line that is wrong changes nothing and is told by its number; the others are applied.
/// Repeating it changes nothing, unless a line says `create` or names an etag.
#[utoipa::path(post, path = "/api/v1/hubs/{name}/import", tag = "hubs",
    security(("token" = ["contribute"])), request_body = HubImportRequest, params(("name" = String, Path)),
    responses((status = 200, body = HubImportView), Refusals))]
pub(super) async fn import(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<HubImportRequest, IMPORT_LEN_MAX>,
) -> Result<Json<HubImportView>, Problem> {
    let HubImportRequest { lines, first_line, mode } = asked.body;
    if lines.len() > PAGE_LEN_MAX as usize {
        return Err(Problem::invalid(format!("lines: at most {PAGE_LEN_MAX} at once")));
    }
    let hub = Paired::find(&state, KIND, &name).await?;
    audit(&state, &hub, &asked.by.who, "import identities into").await?;
    let mut question = json!({"ask": "import", "lines": lines, "first_line": first_line});
    put(&mut question, "mode", mode);
    Ok(Json(hub.ask_active(&question).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_is_noted_once_a_minute() {
        let (noted, hub) = (Noted::default(), ItemId::parse("hub/fleet").unwrap());
        assert!(noted.is_new("ada", &hub, "import"));
        assert!(noted.is_new("ada", &hub, "import"), "it was not written down");
        noted.note("ada", &hub, "import");
        assert!(!noted.is_new("ada", &hub, "import"));
        assert!(noted.is_new("ada", &hub, "export") && noted.is_new("ben", &hub, "import"));
        tokio::time::advance(NOTED_FOR).await;
        assert!(noted.is_new("ada", &hub, "import"));
    }
}
