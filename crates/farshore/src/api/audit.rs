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

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// At most so many; 100 if absent, at most 10,000.
    limit: Option<usize>,
    /// Those with higher numbers than this, the lowest first: to read all of them, ask with the last number of each answer
    /// until one is empty. The newest if absent.
    after: Option<u64>,
}

/// Audit entries, oldest first. Each holds the hash of the one before.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit",
    security(("token" = ["read"])), params(Page),
    responses((status = 200, body = Vec<AuditView>), Refusals))]
pub(super) async fn list(
    State(state): State<ApiState>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Vec<AuditView>>, Problem> {
    let Query(Page { limit, after }) = page.map_err(|error| Problem::invalid(error.body_text()))?;
    let limit = limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let entries = match after {
        Some(after) => state.control.audit_after(after, limit).await?,
        None => state.control.audit_newest(limit).await?,
    };
    Ok(Json(entries.iter().map(|(number, entry)| AuditView::new(*number, entry)).collect()))
}
