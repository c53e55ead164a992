//! Jobs: look, and say something to one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use farshore_core::ids::{ItemId, JobId};
use farshore_core::job::{Does, Job};
use farshore_core::lifecycle::Item;
use farshore_core::workload::{Replication, ReplicationState};
use serde::Deserialize;
use utoipa::IntoParams;

use super::ApiState;
use super::body::{Asked, By};
use super::items::known;
use super::problem::{Problem, Refusals};
use super::verbs::Accepted;
use super::views::{BytesView, JobView, LogView, NoParameters, ReasonRequest};
use crate::engine::{Control, Idempotency, JobVerb};

/// Which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only those of this item: `KIND/NAME`.
    item: Option<String>,
    /// Only those that have ended, or have not.
    ended: Option<bool>,
}

/// Jobs, oldest first.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs",
    security(("token" = ["read"])), params(Filter),
    responses((status = 200, body = Vec<JobView>), Refusals))]
pub(super) async fn list(
    State(state): State<ApiState>,
    filter: Result<Query<Filter>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Vec<JobView>>, Problem> {
    let Query(filter) = filter.map_err(|error| Problem::invalid(error.body_text()))?;
    let item = filter.item.as_deref().map(ItemId::parse).transpose()?;
    let mut views = views(&state.control, item.as_ref()).await?;
    views.retain(|job| filter.ended.is_none_or(|ended| job.ended == ended));
    Ok(Json(views))
}

/// Jobs as clients see them.
pub(super) async fn views(control: &Control, item: Option<&ItemId>) -> Result<Vec<JobView>, Problem> {
    let mut views = Vec::new();
    for job in control.jobs(item).await? {
        views.push(read_view(control, &job).await?);
    }
    Ok(views)
}

/// The jobs that have not ended.
pub(super) async fn under_way(control: &Control) -> Result<Vec<JobView>, Problem> {
    let mut views = Vec::new();
    for job in control.jobs(None).await? {
        if !job.state.is_terminal() {
            views.push(read_view(control, &job).await?);
        }
    }
    Ok(views)
}

/// One job.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "jobs",
    security(("token" = ["read"])), params(("id" = String, Path)),
    responses((status = 200, body = JobView), Refusals))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    let job = find(&state.control, &id).await?;
    Ok(Json(read_view(&state.control, &job).await?))
}

/// A job's journal, oldest first.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/log", tag = "jobs",
    security(("token" = ["read"])), params(("id" = String, Path)),
    responses((status = 200, body = Vec<LogView>), Refusals))]
pub(super) async fn log(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Vec<LogView>>, Problem> {
    let job = find(&state.control, &id).await?;
    let entries = state.control.job_log(&job.id).await?;
    Ok(Json(entries.iter().map(Into::into).collect()))
}

/// Takes back what was done; before the point of no return only.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs",
    security(("token" = ["operate"])), request_body = NoParameters,
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn cancel(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    asked: Asked<NoParameters>,
) -> Result<Accepted, Problem> {
    steer(&state, &id, JobVerb::Cancel, asked.by).await
}

/// Tries a stuck step again.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/retry", tag = "jobs",
    security(("token" = ["operate"])), request_body = NoParameters,
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn retry(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    asked: Asked<NoParameters>,
) -> Result<Accepted, Problem> {
    steer(&state, &id, JobVerb::Retry, asked.by).await
}

/// Says that a stuck step need not be done.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/skip", tag = "jobs",
    security(("token" = ["contribute"])), request_body = ReasonRequest,
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn skip(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    asked: Asked<ReasonRequest>,
) -> Result<Accepted, Problem> {
    let reason = reason(asked.body)?;
    steer(&state, &id, JobVerb::Skip { reason }, asked.by).await
}

/// Gives a stuck job up; nothing is taken back.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/abandon", tag = "jobs",
    security(("token" = ["contribute"])), request_body = ReasonRequest,
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn abandon(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    asked: Asked<ReasonRequest>,
) -> Result<Accepted, Problem> {
    let reason = reason(asked.body)?;
    steer(&state, &id, JobVerb::Abandon { reason }, asked.by).await
}

fn reason(asked: ReasonRequest) -> Result<String, Problem> {
    match asked.reason.trim() {
        "" => Err(Problem::invalid("reason: say why; it is kept in the audit")),
        reason => Ok(reason.to_owned()),
    }
}

/// Job verbs asked under an idempotency key, while this process lives: repeating one answers with the job, and a key
/// used for something else is refused. After a restart a repeat is judged by the job's state, so it has no second effect.
#[derive(Debug, Default)]
pub(super) struct Steered {
    hashes: Mutex<HashMap<String, String>>,
}

/// Keys remembered; people steer jobs by hand.
const STEERED_MAX: usize = 10_000;

impl Steered {
    pub(super) fn earlier(&self, asked: &Idempotency) -> Result<bool, Problem> {
        let hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        match hashes.get(&asked.key) {
            None => Ok(false),
            Some(hash) if *hash == asked.body_hash => Ok(true),
            Some(_) => {
                let detail = format!("the idempotency key {:?} was used for another request", asked.key);
                Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", detail))
            }
        }
    }

    pub(super) fn remember(&self, asked: Idempotency) {
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if hashes.len() >= STEERED_MAX {
            hashes.clear();
        }
        hashes.insert(asked.key, asked.body_hash);
    }
}

async fn steer(state: &ApiState, id: &str, verb: JobVerb, by: By) -> Result<Accepted, Problem> {
    let job = find(&state.control, id).await?;
    if let Some(asked) = &by.idempotency
        && state.steered.earlier(asked)?
    {
        return Ok(Accepted(read_view(&state.control, &job).await?));
    }
    let job = state.control.steer(&job.id, verb, &by.who).await?;
    if let Some(asked) = by.idempotency {
        state.steered.remember(asked);
    }
    Ok(Accepted(read_view(&state.control, &job).await?))
}

/// The job of this id, or which ones are under way.
pub(super) async fn find(control: &Control, id: &str) -> Result<Job, Problem> {
    // An id is a part of a key in the store: nothing else may come through.
    let plausible = !id.is_empty() && id.len() <= 26 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plausible && let Some(job) = control.job(&JobId(id.to_ascii_uppercase())).await? {
        return Ok(job);
    }
    let mut jobs = control.jobs(None).await?;
    jobs.retain(|job| !job.state.is_terminal());
    let known = known("job under way", "jobs under way", jobs.iter().map(|job| job.id.to_string()));
    Err(Problem::not_found(format!("there is no job {id:?}; {known}; GET /api/v1/jobs lists all")))
}

/// A job with the progress of what it copies.
pub(super) async fn read_view(control: &Control, job: &Job) -> Result<JobView, Problem> {
    let item = if job.state.is_terminal() { None } else { control.item(&job.item).await? };
    Ok(view(control, item.as_ref(), job))
}

/// The same, where the item is at hand.
pub(super) fn view(control: &Control, item: Option<&Item>, job: &Job) -> JobView {
    let mut view = JobView::from(job);
    let Some(item) = item.filter(|_| copying(job)) else { return view };
    let seen = control.seen(&item.id).remove(&item.source).and_then(|seen| seen.observation);
    let bytes = seen.and_then(|seen| seen.replication).as_ref().and_then(copied);
    if let Some(bytes) = bytes {
        #[expect(clippy::cast_precision_loss, reason = "a share of a progress bar")]
        let share = bytes.done as f64 / bytes.total as f64;
        let weights = job.steps.iter().map(|step| f64::from(step.weight)).sum::<f64>().max(1.0);
        let weight = job.steps.get(job.cursor).map_or(0.0, |step| f64::from(step.weight));
        view.progress = (view.progress + share * weight / weights).min(1.0);
        view.bytes = Some(bytes);
    }
    view
}

/// The present step waits for a copy.
fn copying(job: &Job) -> bool {
    job.next() != farshore_core::job::Next::Rest
        && job.steps.get(job.cursor).is_some_and(|step| step.act.does == Does::Wait && step.weight > 10)
}

fn copied(replication: &Replication) -> Option<BytesView> {
    let copying = matches!(replication.state, ReplicationState::Seeding | ReplicationState::CatchingUp);
    let total = replication.total_bytes;
    (copying && total > 0).then(|| BytesView { done: total.saturating_sub(replication.behind_bytes), total })
}
