//! Regions: which there are, and whether they answer.

use axum::Json;
use axum::extract::{Path, State};
use farshore_core::ids::{ItemId, Region};
use farshore_core::lifecycle::Item;

use super::items::known;
use super::problem::{Problem, Refusals};
use super::views::{RegionItemView, RegionView, role_word};
use super::{ApiState, health};
use crate::engine::{Control, RegionRecord};

/// All regions, by name.
#[utoipa::path(get, path = "/api/v1/regions", tag = "regions",
    security(("token" = ["read"])),
    responses((status = 200, body = Vec<RegionView>), Refusals))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<RegionView>>, Problem> {
    Ok(Json(views(&state.control).await?))
}

/// All regions as clients see them.
pub(super) async fn views(control: &Control) -> Result<Vec<RegionView>, Problem> {
    let items = control.items().await?;
    let records = control.regions().await?;
    Ok(records.iter().map(|record| view(control, record, &items)).collect())
}

/// One region.
#[utoipa::path(get, path = "/api/v1/regions/{name}", tag = "regions",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = RegionView), Refusals))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<RegionView>, Problem> {
    let record = find(&state.control, &Region::parse(&name)?).await?;
    Ok(Json(view(&state.control, &record, &state.control.items().await?)))
}

/// The region of this name, or which ones there are.
pub(super) async fn find(control: &Control, name: &Region) -> Result<RegionRecord, Problem> {
    let records = control.regions().await?;
    if let Some(record) = records.iter().find(|record| record.name == *name) {
        return Ok(record.clone());
    }
    let known = known("region", "regions", records.iter().map(|record| record.name.to_string()));
    Err(Problem::not_found(format!("there is no region {name}; {known}")))
}

fn view(control: &Control, record: &RegionRecord, items: &[Item]) -> RegionView {
    let seen = control.region_health().remove(&record.name);
    RegionView {
        name: record.name.to_string(),
        agent_url: Some(record.agent_url.clone()).filter(|url| !url.is_empty()),
        replication: Some(record.replication.clone()).filter(|address| !address.is_empty()),
        since: record.since.to_string(),
        health: health::of_region(control, &record.name),
        last_seen: seen.as_ref().and_then(|seen| seen.last_seen).map(|at| at.to_string()),
        changed_at: seen.as_ref().map(|seen| seen.since.to_string()),
        items: items.iter().filter_map(|item| region_item(control, record, &item.id)).collect(),
    }
}

fn region_item(control: &Control, record: &RegionRecord, id: &ItemId) -> Option<RegionItemView> {
    let observation = control.seen(id).remove(&record.name)?.observation?;
    Some(RegionItemView { id: id.to_string(), role: role_word(observation.role).to_owned() })
}
