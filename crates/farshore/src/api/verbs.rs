//! The verbs of the lifecycle: each makes a job and answers where it is.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use farshore_core::command::Command;
use farshore_core::ids::{Epoch, ItemId, Region};
use farshore_core::moment::Moment;
use farshore_core::workload::PointChoice;

use super::ApiState;
use super::body::{Asked, By};
use super::problem::{Problem, Refusals};
use super::views::{
    AdoptRequest, ChangePointRequest, FailoverRequest, JobView, MarkPointRequest, NoParameters,
    ProtectRequest, TestFailoverRequest,
};

/// `202`: the job is durable and under way.
#[derive(Debug)]
pub(super) struct Accepted(pub(super) JobView);

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        let location = format!("/api/v1/jobs/{}", self.0.id);
        (StatusCode::ACCEPTED, [(LOCATION, location)], Json(self.0)).into_response()
    }
}

/// Asks the engine.
pub(super) async fn submit(
    state: &ApiState,
    id: &ItemId,
    command: Command,
    by: By,
) -> Result<Accepted, Problem> {
    let job = state.control.submit(id, command, &by.who, by.idempotency).await?;
    Ok(Accepted((&job).into()))
}

type Name = Path<(String, String)>;

async fn ask(
    state: &ApiState,
    Path((kind, name)): Name,
    command: Command,
    by: By,
) -> Result<Accepted, Problem> {
    let item = super::items::find(&state.control, &kind, &name).await?;
    submit(state, &item.id, command, by).await
}

/// `latest`, `latest-processed`, a time, else a point's id or name.
fn point(text: Option<&str>) -> Result<PointChoice, Problem> {
    match text.map(str::trim) {
        None | Some("latest") => Ok(PointChoice::Latest),
        Some("latest-processed") => Ok(PointChoice::LatestProcessed),
        Some("") => Err(Problem::invalid("point: give latest, latest-processed, a point's id, or a time")),
        Some(text) => Ok(match text.parse::<Moment>() {
            Ok(at) => PointChoice::At(at),
            Err(_) => PointChoice::Id(text.to_owned()),
        }),
    }
}

/// Replicates to another region.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/protect", tag = "verbs",
    security(("token" = ["contribute"])), request_body = ProtectRequest,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn protect(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<ProtectRequest>,
) -> Result<Accepted, Problem> {
    let target = super::regions::find(&state.control, &Region::parse(&asked.body.target)?).await?.name;
    let command = Command::Protect { target, mode: asked.body.replication.into() };
    ask(&state, name, command, asked.by).await
}

/// Stops replicating and removes the replica.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/disable", tag = "verbs",
    security(("token" = ["contribute"])), request_body = NoParameters,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn disable(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<NoParameters>,
) -> Result<Accepted, Problem> {
    ask(&state, name, Command::Disable, asked.by).await
}

/// Makes the target the active region.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/failover", tag = "verbs",
    security(("token" = ["operate"])), request_body = FailoverRequest,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn failover(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<FailoverRequest>,
) -> Result<Accepted, Problem> {
    let FailoverRequest { planned, point: chosen, source_is_down } = asked.body;
    let command = Command::Failover { planned, point: point(chosen.as_deref())?, source_is_down };
    ask(&state, name, command, asked.by).await
}

/// Opens a point in isolation beside the running original.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/test-failover", tag = "verbs",
    security(("token" = ["operate"])),
    request_body = TestFailoverRequest,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn test_failover(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<TestFailoverRequest>,
) -> Result<Accepted, Problem> {
    let command = Command::TestFailover { point: point(asked.body.point.as_deref())? };
    ask(&state, name, command, asked.by).await
}

/// Ends the test failover and removes its copy.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/cleanup", tag = "verbs",
    security(("token" = ["operate"])), request_body = NoParameters,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn clean_up(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<NoParameters>,
) -> Result<Accepted, Problem> {
    ask(&state, name, Command::CleanUp, asked.by).await
}

/// Serves another point, after a failover and before its commit.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/change-point", tag = "verbs",
    security(("token" = ["operate"])),
    request_body = ChangePointRequest,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn change_point(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<ChangePointRequest>,
) -> Result<Accepted, Problem> {
    let command = Command::ChangePoint { point: point(Some(&asked.body.point))? };
    ask(&state, name, command, asked.by).await
}

/// Accepts the failover; the point can no longer be changed.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/commit", tag = "verbs",
    security(("token" = ["operate"])), request_body = NoParameters,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn commit(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<NoParameters>,
) -> Result<Accepted, Problem> {
    ask(&state, name, Command::Commit, asked.by).await
}

/// Replicates in the reverse direction: sends what differs, then follows the changes.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/reprotect", tag = "verbs",
    security(("token" = ["operate"])), request_body = NoParameters,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn reprotect(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<NoParameters>,
) -> Result<Accepted, Problem> {
    ask(&state, name, Command::Reprotect, asked.by).await
}

/// Planned failover toward home: nothing is lost.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/failback", tag = "verbs",
    security(("token" = ["operate"])), request_body = NoParameters,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn failback(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<NoParameters>,
) -> Result<Accepted, Problem> {
    ask(&state, name, Command::Failback, asked.by).await
}

/// Makes a recovery point with a name.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/mark-point", tag = "verbs",
    security(("token" = ["operate"])),
    request_body = MarkPointRequest,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn mark_point(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<MarkPointRequest>,
) -> Result<Accepted, Problem> {
    ask(&state, name, Command::MarkPoint { name: asked.body.name }, asked.by).await
}

/// Throws away the kept divergent writes.
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/drop-divergence", tag = "verbs",
    security(("token" = ["contribute"])),
    request_body = NoParameters,
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn drop_divergence(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<NoParameters>,
) -> Result<Accepted, Problem> {
    ask(&state, name, Command::DropDivergence, asked.by).await
}

/// Says which region is active, after the store and the agents disagreed (`NeedsUser`).
#[utoipa::path(post, path = "/api/v1/items/{kind}/{name}/adopt", tag = "verbs", request_body = AdoptRequest,
    security(("token" = ["contribute"])),
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn adopt(
    State(state): State<ApiState>,
    name: Name,
    asked: Asked<AdoptRequest>,
) -> Result<Accepted, Problem> {
    let AdoptRequest { region, others_are_down } = asked.body;
    let command =
        Command::Adopt { region: Region::parse(&region)?, above: Epoch::default(), others_are_down };
    ask(&state, name, command, asked.by).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_word_a_time_or_an_id() {
        let check = |text, expected| assert_eq!(point(text).unwrap(), expected);
        check(None, PointChoice::Latest);
        check(Some("latest"), PointChoice::Latest);
        check(Some("latest-processed"), PointChoice::LatestProcessed);
        check(Some("1970-01-01T00:00:01Z"), PointChoice::At(Moment(1_000_000)));
        check(Some("20261121T050000Z-17"), PointChoice::Id("20261121T050000Z-17".into()));
        assert!(point(Some(" ")).is_err());
    }
}
