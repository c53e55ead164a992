//! Reading what devices said, and how far groups have read.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::super::ApiState;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{HubCheckpointRequest, HubCursor, HubEventsView, HubGroupView, NoParameters};
use super::devices::{limit, put};
use super::{KIND, queried, shown};

/// A region that is asked has fifteen seconds to answer.
const WAIT_MILLIS_MAX: u32 = 10_000;

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Events {
    /// Those after this: `{"paris":12}`, as `next` of an answer says.
    cursor: Option<String>,
    /// Those that this group has not read; it is not moved.
    group: Option<String>,
    /// Where neither is named, or the group is new: `start`, `now` or a moment in RFC 3339.
    from: Option<String>,
    /// At most so many; 100 if absent, 1000 at most.
    limit: Option<u32>,
    /// How long to wait for a first one; 10000 at most.
    #[serde(default)]
    wait_ms: u32,
}

/// A page of what devices said.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/events", tag = "hubs",
    security(("token" = ["operate"])), params(("name" = String, Path), Events),
    responses((status = 200, body = HubEventsView), Refusals))]
pub(super) async fn events(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    query: Result<Query<Events>, QueryRejection>,
) -> Result<Json<HubEventsView>, Problem> {
    let Events { cursor, group, from, limit: most, wait_ms } = queried(query)?;
    if wait_ms > WAIT_MILLIS_MAX {
        return Err(Problem::invalid(format!("wait_ms: at most {WAIT_MILLIS_MAX}")));
    }
    let cursor: Option<HubCursor> = cursor
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| Problem::invalid(format!("cursor: {error}: write it like {{\"paris\":12}}")))?;
    let hub = Paired::find(&state, KIND, &name).await?;
    let mut question = json!({"ask": "events", "limit": limit(most)?, "wait_ms": wait_ms});
    put(&mut question, "cursor", cursor.map(|cursor| json!(cursor)));
    put(&mut question, "group", group);
    put(&mut question, "from", from);
    Ok(Json(hub.ask_active(&question).await?))
}

/// Consumer groups, and how far each has read.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/groups", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = Vec<HubGroupView>), Refusals))]
pub(super) async fn groups(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<HubGroupView>>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    Ok(Json(hub.ask_either(&json!({"ask": "groups"})).await?))
}

/// From now on the group has read so far. Makes the group where there is none.
#[utoipa::path(put, path = "/api/v1/hubs/{name}/groups/{group}", tag = "hubs",
    security(("token" = ["operate"])), request_body = HubCheckpointRequest,
    params(("name" = String, Path), ("group" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn checkpoint(
    State(state): State<ApiState>,
    Path((name, group)): Path<(String, String)>,
    asked: Asked<HubCheckpointRequest>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    let question = json!({"ask": "checkpoint", "group": group, "cursor": asked.body.cursor});
    Ok(Json(hub.ask_active(&question).await?))
}

/// Forgets a group. Whoever reads under its name begins anew.
#[utoipa::path(delete, path = "/api/v1/hubs/{name}/groups/{group}", tag = "hubs",
    security(("token" = ["contribute"])), params(("name" = String, Path), ("group" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Path((name, group)): Path<(String, String)>,
    asked: Asked<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| format!("asked to delete the consumer group {} of {hub}", shown(&group)))
        .await?;
    Ok(Json(hub.ask_active(&json!({"ask": "group-delete", "group": group})).await?))
}
