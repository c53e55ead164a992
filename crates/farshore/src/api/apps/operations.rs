//! What takes long: it is begun at once, answered `202`, and followed by its id.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use farshore_core::ids::Name;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::super::ApiState;
use super::super::body::By;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{AppBegunView, AppOperationView};
use super::{KIND, plain, queried};
use crate::engine::Idempotency;

/// Keys remembered; what they began is over long before so many others.
const REMEMBERED_MAX: usize = 10_000;

/// Which operation a key has begun: the same request, whose answer was lost, does not begin another.
#[derive(Debug, Default)]
pub(in crate::api) struct Begun {
    by_key: Mutex<HashMap<String, (String, String)>>,
}

impl Begun {
    fn earlier(&self, asked: &Idempotency) -> Result<Option<String>, Problem> {
        let by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        match by_key.get(&asked.key) {
            None => Ok(None),
            Some((hash, operation)) if *hash == asked.body_hash => Ok(Some(operation.clone())),
            Some(_) => {
                let detail = format!("the idempotency key {:?} was used for another request", asked.key);
                Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", detail))
            }
        }
    }

    fn remember(&self, asked: Idempotency, operation: &str) {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if by_key.len() >= REMEMBERED_MAX {
            by_key.clear();
        }
        by_key.insert(asked.key, (asked.body_hash, operation.to_owned()));
    }
}

/// `202`: it is under way in its region.
#[derive(Debug)]
pub(super) struct UnderWay {
    app: Name,
    operation: String,
}

impl IntoResponse for UnderWay {
    fn into_response(self) -> Response {
        let location = format!("/api/v1/apps/{}/operations/{}", self.app, self.operation);
        let body = Json(AppBegunView { operation: self.operation });
        (StatusCode::ACCEPTED, [(LOCATION, location)], body).into_response()
    }
}

/// Writes `what` (then the app's id) into the audit and asks the active region to begin.
pub(super) async fn begin(
    state: &ApiState,
    app: &Paired<'_>,
    by: By,
    what: &str,
    question: &Value,
) -> Result<UnderWay, Problem> {
    begin_if(state, app, by, what, question, async { Ok(()) }).await
}

/// The same, when what is named exists. A request that was carried out already is not looked at again: what it did may have changed
/// the answer.
pub(super) async fn begin_if(
    state: &ApiState,
    app: &Paired<'_>,
    by: By,
    what: &str,
    question: &Value,
    exists: impl Future<Output = Result<(), Problem>> + Send,
) -> Result<UnderWay, Problem> {
    let name = app.item.id.name.clone();
    if let Some(asked) = &by.idempotency
        && let Some(operation) = state.begun.earlier(asked)?
    {
        return Ok(UnderWay { app: name, operation });
    }
    exists.await?;
    app.audit(&by.who, |app| format!("asked to {what} {app}")).await?;
    let AppBegunView { operation } = app.ask_active(question).await?;
    if let Some(asked) = by.idempotency {
        state.begun.remember(asked, &operation);
    }
    Ok(UnderWay { app: name, operation })
}

/// From where on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct After {
    /// Only lines after so many.
    #[serde(default)]
    after: u64,
}

/// How something goes that was begun, with what it said since. Kept by the region that carries it out.
#[utoipa::path(get, path = "/api/v1/apps/{name}/operations/{operation}", tag = "apps",
    security(("token" = ["read"])), params(("name" = String, Path), ("operation" = String, Path), After),
    responses((status = 200, body = AppOperationView), Refusals))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path((name, operation)): Path<(String, String)>,
    query: Result<Query<After>, QueryRejection>,
) -> Result<Json<AppOperationView>, Problem> {
    let After { after } = queried(query)?;
    let operation = plain("operation", &operation)?;
    let app = Paired::find(&state, KIND, &name).await?;
    Ok(Json(app.ask_active(&json!({"ask": "operation", "id": operation, "after": after})).await?))
}
