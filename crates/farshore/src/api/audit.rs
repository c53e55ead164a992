//! The audit: who did what.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::ApiState;
use super::problem::{Problem, Refusals};
use super::views::AuditView;

/// Entries given when no limit is asked for: some screens.
const LIMIT: usize = 100;
/// Most entries in one answer: under a few MiB.
const LIMIT_MAX: usize = 10_000;

/// How many entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Newest {
    /// The newest so many; 100 if absent, at most 10,000.
    limit: Option<usize>,
}

/// The newest audit entries, oldest of them first. Each holds the hash of the one before.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit",
    security(("token" = ["read"])), params(Newest),
    responses((status = 200, body = Vec<AuditView>), Refusals))]
pub(super) async fn list(
    State(state): State<ApiState>,
    newest: Result<Query<Newest>, QueryRejection>,
) -> Result<Json<Vec<AuditView>>, Problem> {
    let Query(Newest { limit }) = newest.map_err(|error| Problem::invalid(error.body_text()))?;
    let entries = state.control.audit(limit.unwrap_or(LIMIT).min(LIMIT_MAX)).await?;
    Ok(Json(entries.iter().map(Into::into).collect()))
}
