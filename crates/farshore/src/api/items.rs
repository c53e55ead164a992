//! Items: make, look, remove.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use farshore_app::spec::AppSpec;
use farshore_core::command::Command;
use farshore_core::ids::{ItemId, Kind, Region};
use farshore_core::job::Job;
use farshore_core::lifecycle::{Item, Phase, Stage};
use farshore_core::workload::Observation;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::IntoParams;

use super::body::Asked;
use super::problem::{Problem, Refusals};
use super::verbs::Accepted;
use super::views::{
    CreateRequest, DrillView, HealthView, ItemView, JobBrief, JobView, NoParameters, PointsBrief, PointsView,
    SeenView, proof_text,
};
use super::{ApiState, health, regions};
use crate::engine::{Control, Seen};

/// An item that changes with every look is shown as it was at the last one.
const READS_MAX: u32 = 4;

/// Views made without letting others have their turn: some milliseconds.
const VIEWS_PER_TURN: usize = 256;

/// Which items.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ItemsPage {
    /// At most so many; all if absent.
    limit: Option<usize>,
    /// Those after this one (`KIND/NAME`): to read all of them in pages, ask with the last one of each answer until one is
    /// empty.
    after: Option<String>,
}

/// All items, by name.
#[utoipa::path(get, path = "/api/v1/items", tag = "items", params(ItemsPage),
    security(("token" = ["read"])), responses((status = 200, body = Vec<ItemView>), Refusals))]
pub(super) async fn list(
    State(state): State<ApiState>,
    page: Result<Query<ItemsPage>, QueryRejection>,
) -> Result<Json<Vec<ItemView>>, Problem> {
    let Query(page) = page.map_err(|error| Problem::invalid(error.body_text()))?;
    Ok(Json(views_of(&state.control, &page).await?))
}

/// All items as clients see them.
pub(super) async fn views(control: &Control) -> Result<Vec<ItemView>, Problem> {
    views_of(control, &ItemsPage::default()).await
}

async fn views_of(control: &Control, page: &ItemsPage) -> Result<Vec<ItemView>, Problem> {
    let after = page.after.as_deref().map(ItemId::parse).transpose()?;
    let judge = health::judge(control);
    let (mut items, busy) = control.items_and_busy().await?;
    // In the order of their ids, which is what the next page goes on from.
    items.retain(|item| after.as_ref().is_none_or(|after| item.id > *after));
    items.sort_by(|one, other| one.id.cmp(&other.id));
    items.truncate(page.limit.unwrap_or(usize::MAX));
    let mut views = Vec::with_capacity(items.len());
    for item in items {
        if views.len() % VIEWS_PER_TURN == VIEWS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        let (item, job) = match busy.contains(&item.id) {
            true => with_job(control, item).await?,
            false => (item, None),
        };
        let health = judge(&item, job.as_ref());
        views.push(view(control, &item, job.as_ref(), health));
    }
    Ok(views)
}

/// The item with its job, both of one moment: a job that begins or ends between two reads must not look like a fault.
async fn with_job(control: &Control, mut item: Item) -> Result<(Item, Option<Job>), Problem> {
    for _ in 0..READS_MAX {
        let job = control.active_job(&item.id).await?;
        match control.item(&item.id).await? {
            Some(later) if later != item => item = later,
            _ => return Ok((item, job)),
        }
    }
    let job = control.active_job(&item.id).await?;
    Ok((item, job))
}

/// One item.
#[utoipa::path(get, path = "/api/v1/items/{kind}/{name}", tag = "items",
    security(("token" = ["read"])),
    params(("kind" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ItemView), Refusals))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Json<ItemView>, Problem> {
    let item = find(&state.control, &kind, &name).await?;
    let (item, job) = with_job(&state.control, item).await?;
    let health = health::judge(&state.control)(&item, job.as_ref());
    Ok(Json(view(&state.control, &item, job.as_ref(), health)))
}

/// Makes an item.
#[utoipa::path(post, path = "/api/v1/items", tag = "items",
    security(("token" = ["contribute"])), request_body = CreateRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn create(
    State(state): State<ApiState>,
    asked: Asked<CreateRequest>,
) -> Result<Accepted, Problem> {
    let CreateRequest { kind, name, region, spec, on_control_loss, automatic_failover } = asked.body;
    let id = ItemId::parse(&format!("{kind}/{name}"))?;
    check_spec(id.kind, &spec)?;
    let region = regions::find(&state.control, &Region::parse(&region)?).await?.name;
    let command = Command::Create {
        region,
        spec,
        on_control_loss: on_control_loss.into(),
        automatic: automatic_failover,
    };
    super::verbs::submit(&state, &id, command, asked.by).await
}

/// What no region could make anything of is refused here, where it is known as a mistake of whoever asks: in a job it would be one
/// of the region's failures.
fn check_spec(kind: Kind, spec: &Value) -> Result<(), Problem> {
    if kind != Kind::App {
        return Ok(());
    }
    let wrong = |why: String| Problem::invalid(format!("spec: {why}"));
    let spec = AppSpec::deserialize(spec).map_err(|error| wrong(error.to_string()))?;
    spec.check().map_err(wrong)
}

/// Removes an item and what was made for it. Disks that an operator brought are left in place.
#[utoipa::path(delete, path = "/api/v1/items/{kind}/{name}", tag = "items",
    security(("token" = ["contribute"])),
    params(("kind" = String, Path), ("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView, headers(("Location" = String))), Refusals))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Path((kind, name)): Path<(String, String)>,
    asked: Asked<NoParameters>,
) -> Result<Accepted, Problem> {
    let id = ItemId::parse(&format!("{kind}/{name}"))?;
    super::verbs::submit(&state, &id, Command::Delete, asked.by).await
}

/// What the item can be brought back to, oldest first.
#[utoipa::path(get, path = "/api/v1/items/{kind}/{name}/points", tag = "items",
    security(("token" = ["read"])),
    params(("kind" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = PointsView), Refusals))]
pub(super) async fn points(
    State(state): State<ApiState>,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Json<PointsView>, Problem> {
    let item = find(&state.control, &kind, &name).await?;
    let Some(region) = points_region(&item) else { return Ok(Json(PointsView::default())) };
    // Asked now: a point may be a second old. What was last seen is better than nothing.
    let now = state.control.observe(region, &item.id).await.ok();
    let seen = now.or_else(|| state.control.seen(&item.id).remove(region)?.observation);
    let points = seen.map(|seen| seen.points).unwrap_or_default();
    let points = points.iter().map(Into::into).collect();
    Ok(Json(PointsView { region: Some(region.to_string()), points }))
}

/// The item of this name, or which ones there are.
pub(super) async fn find(control: &Control, kind: &str, name: &str) -> Result<Item, Problem> {
    let id = ItemId::parse(&format!("{kind}/{name}"))?;
    if let Some(item) = control.item(&id).await? {
        return Ok(item);
    }
    let items = control.items().await?;
    let known = known("item", "items", items.iter().map(|item| item.id.to_string()));
    Err(Problem::not_found(format!("there is no {id}; {known}")))
}

/// `there are the items a, b`, for errors.
pub(super) fn known(one: &str, many: &str, names: impl Iterator<Item = String>) -> String {
    /// What fits on a line or two.
    const NAMES_SHOWN_MAX: usize = 10;
    let names: Vec<String> = names.collect();
    match names.as_slice() {
        [] => format!("there is no {one} yet"),
        [only] => format!("there is {only}"),
        _ if names.len() > NAMES_SHOWN_MAX => {
            format!("there are {} {many}: {}, ...", names.len(), names[..NAMES_SHOWN_MAX].join(", "))
        }
        _ => format!("there are {}", names.join(", ")),
    }
}

/// Where recovery points are offered: at the target; after a failover, where it is served, until commit.
fn points_region(item: &Item) -> Option<&Region> {
    match item.phase {
        Phase::FailedOver => Some(&item.source),
        _ => item.target.as_ref(),
    }
}

/// An item as clients see it.
fn view(control: &Control, item: &Item, job: Option<&Job>, health: HealthView) -> ItemView {
    let seen = control.seen(&item.id);
    let observed = |region: Option<&Region>| observation(&seen, region);
    let source = observed(Some(&item.source));
    let points = observed(points_region(item)).map(|seen| seen.points.as_slice().into());
    ItemView {
        id: item.id.to_string(),
        kind: item.id.kind.to_string(),
        name: item.id.name.to_string(),
        phase: item.phase.as_str().to_owned(),
        phase_note: phase_note(item),
        home: item.home.to_string(),
        source: item.source.to_string(),
        target: item.target.as_ref().map(ToString::to_string),
        epoch: item.epoch.0,
        mode: item.mode.into(),
        on_control_loss: item.on_control_loss.into(),
        automatic_failover: item.automatic,
        next_actions: match job {
            Some(_) => Vec::new(),
            None => item.next_actions().iter().map(ToString::to_string).collect(),
        },
        job: job.map(|job| brief(control, item, job)),
        health,
        replication: source.and_then(|seen| seen.replication.as_ref()).map(Into::into),
        endpoints: source.map(|seen| seen.endpoints.iter().map(Into::into).collect()).unwrap_or_default(),
        points: points.unwrap_or_else(PointsBrief::default),
        drill: drill(item, &seen),
        divergence: item.divergence.as_ref().map(Into::into),
        failover: item.failover.as_ref().map(Into::into),
        operators_words: item.words.iter().map(proof_text).collect(),
        regions: seen.iter().map(|(region, seen)| seen_view(region, seen)).collect(),
        last_drill: item.last_drill.map(|at| at.to_string()),
        created_at: item.created_at.to_string(),
    }
}

fn brief(control: &Control, item: &Item, job: &Job) -> JobBrief {
    let JobView { progress, .. } = super::jobs::view(control, Some(item), job);
    JobBrief { progress, ..job.into() }
}

fn observation<'a>(seen: &'a BTreeMap<Region, Seen>, region: Option<&Region>) -> Option<&'a Observation> {
    seen.get(region?)?.observation.as_ref()
}

fn drill(item: &Item, seen: &BTreeMap<Region, Seen>) -> Option<DrillView> {
    let target = item.target.as_ref()?;
    let drill = observation(seen, Some(target))?.drill.as_ref()?;
    Some(DrillView::new(target.to_string(), drill))
}

fn phase_note(item: &Item) -> Option<String> {
    match &item.phase {
        Phase::NeedsUser { why } => Some(why.clone()),
        Phase::Protected { drill: Some(point) } => Some(format!("a test failover at {point} is open")),
        Phase::FailingOver { planned, stage } => {
            let kind = if *planned { "planned" } else { "unplanned" };
            let stage = match stage {
                Stage::Revoking => "the source is being stopped; it can still be cancelled",
                Stage::Promoting => "the target is being opened; there is no way back",
            };
            Some(format!("{kind}: {stage}"))
        }
        _ => None,
    }
}

fn seen_view(region: &Region, seen: &Seen) -> SeenView {
    SeenView {
        region: region.to_string(),
        observation: seen.observation.as_ref().map(Into::into),
        error: seen.error.clone(),
        at: seen.at.to_string(),
    }
}
