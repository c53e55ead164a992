//! The way home: what the other region has from its own time, taken over.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::json;

use super::super::ApiState;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{HubConflictsView, HubMergeRequest, HubMergeView};
use super::KIND;
use super::devices::put;

/// How conflicts can be settled.
const POLICIES: [&str; 6] =
    ["by-group", "active-epoch-wins", "primary-wins", "secondary-wins", "newest", "manual"];

/// Says what a merge with the other region would do, or does it. Repeating it changes nothing; a long one is done in pieces:
/// ask again while `partial` is set.
#[utoipa::path(post, path = "/api/v1/hubs/{name}/merge", tag = "hubs",
    security(("token" = ["operate"])), request_body = HubMergeRequest,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = HubMergeView), Refusals))]
pub(super) async fn merge(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<HubMergeRequest>,
) -> Result<Json<HubMergeView>, Problem> {
    let HubMergeRequest { plan, policy } = asked.body;
    if let Some(policy) = policy.as_deref().filter(|policy| !POLICIES.contains(policy)) {
        return Err(Problem::invalid(format!(
            "policy: there is no {policy:?}; there are {}",
            POLICIES.join(", ")
        )));
    }
    let hub = Paired::find(&state, KIND, &name).await?;
    if !plan {
        let how = policy.as_deref().map(|policy| format!(" by the policy {policy}")).unwrap_or_default();
        hub.audit(&asked.by.who, |hub| format!("asked to merge both regions of {hub}{how}")).await?;
    }
    let mut question = json!({"ask": "merge", "plan": plan});
    put(&mut question, "policy", policy);
    Ok(Json(hub.ask_active(&question).await?))
}

/// What two regions changed at once.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/conflicts", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = HubConflictsView), Refusals))]
pub(super) async fn conflicts(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<HubConflictsView>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    Ok(Json(hub.ask_either(&json!({"ask": "conflicts"})).await?))
}
