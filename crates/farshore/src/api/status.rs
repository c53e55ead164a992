//! Everything at a glance.

use axum::Json;
use axum::extract::State;

use super::problem::{Problem, Refusals};
use super::views::{BannerView, ControlView, HealthState, HealthView, StatusView};
use super::{ApiState, items, jobs, regions};
use crate::engine::{Control, StoreState};

/// Regions, items, jobs under way, and what is not Healthy.
#[utoipa::path(get, path = "/api/v1/status", tag = "status",
    security(("token" = ["read"])), responses((status = 200, body = StatusView), Refusals))]
pub(super) async fn status(State(state): State<ApiState>) -> Result<Json<StatusView>, Problem> {
    let regions = regions::views(&state.control).await?;
    let items = items::views(&state.control).await?;
    let under_way = jobs::under_way(&state.control).await?;
    let incidents = state.control.incidents_open();
    let incidents = incidents.iter().map(Into::into).collect();
    let control = control(&state.control);
    let of_regions = regions.iter().map(|region| (format!("region/{}", region.name), region.health.clone()));
    let of_items = items.iter().map(|item| (item.id.clone(), item.health.clone()));
    let banner = banner(of_regions.chain(of_items));
    let at = crate::engine::now().to_string();
    Ok(Json(StatusView { at, banner, regions, items, jobs: under_way, incidents, control }))
}

fn control(control: &Control) -> ControlView {
    let (read_only_since, store_error) = match control.store_state() {
        StoreState::Live => (None, None),
        StoreState::ReadOnly { since, why } => (Some(since.to_string()), Some(why)),
    };
    let region = control.here().map(ToString::to_string);
    ControlView { region, read_only_since, store_error, nodes: control.executors_alive() }
}

/// What is not Healthy, worst first; regions before items.
fn banner(all: impl Iterator<Item = (String, HealthView)>) -> Vec<BannerView> {
    let not_healthy = all.filter(|(_, health)| health.state != HealthState::Healthy);
    let mut lines: Vec<BannerView> =
        not_healthy.map(|(subject, health)| BannerView { subject, health }).collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.health.state));
    lines
}
