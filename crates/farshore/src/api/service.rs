//! What supervisors and monitoring ask: alive, ready, metrics, and the description of all this.

use std::fmt::Write as _;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::problem::{Problem, Refusals};
use super::views::{HealthState, ItemView, VersionView};
use super::{ApiState, items, jobs};

/// The process runs.
#[utoipa::path(get, path = "/livez", tag = "service", security(()), responses((status = 200, body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// The control plane can answer: its store can be read.
#[utoipa::path(get, path = "/readyz", tag = "service", security(()), responses((status = 200, body = String), Refusals))]
pub(super) async fn readyz(State(state): State<ApiState>) -> Result<&'static str, Problem> {
    state.control.revision().await?;
    Ok("ok\n")
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "service", security(()),
    responses((status = 200, body = serde_json::Value)))]
pub(super) async fn openapi(State(state): State<ApiState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], state.document.to_string())
}

/// Which program answers, for which cluster.
#[utoipa::path(get, path = "/api/v1/version", tag = "service",
    security(("token" = ["read"])), responses((status = 200, body = VersionView), Refusals))]
pub(super) async fn version(State(state): State<ApiState>) -> Json<VersionView> {
    let cluster = state.control.meta().cluster.clone();
    Json(VersionView { version: env!("CARGO_PKG_VERSION").to_owned(), cluster })
}

/// Figures for Prometheus, in its text format.
#[utoipa::path(get, path = "/metrics", tag = "service",
    security(("token" = ["read"])), responses((status = 200, body = String), Refusals))]
pub(super) async fn metrics(State(state): State<ApiState>) -> Result<impl IntoResponse, Problem> {
    let items = items::views(&state.control).await?;
    let jobs = jobs::views(&state.control, None).await?;
    let mut out = String::new();
    describe(&mut out, "farshore_region_up", "Whether the region answers.");
    for (region, health) in state.control.region_health() {
        sample(&mut out, "farshore_region_up", &[("region", region.as_str())], f64::from(health.reachable));
    }
    describe(&mut out, "farshore_item_healthy", "Whether the item is Healthy.");
    for item in &items {
        let healthy = f64::from(item.health.state == HealthState::Healthy);
        sample(&mut out, "farshore_item_healthy", &[("item", &item.id), ("phase", &item.phase)], healthy);
    }
    item_samples(&mut out, &items);
    describe(&mut out, "farshore_jobs", "Jobs by state.");
    for state in ["running", "unwinding", "stuck", "succeeded", "failed", "cancelled", "abandoned"] {
        let count = jobs.iter().filter(|job| job.state == state).count();
        sample(&mut out, "farshore_jobs", &[("state", state)], count as f64);
    }
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], out))
}

type Figure = fn(&ItemView) -> Option<f64>;

fn item_samples(out: &mut String, items: &[ItemView]) {
    let figures: [(&str, &str, Figure); 5] = [
        ("farshore_item_epoch", "The item's epoch.", |item| Some(item.epoch as f64)),
        ("farshore_replication_lag_writes", "Writes not yet durable at the target.", |item| {
            Some(item.replication.as_ref()?.lag.writes as f64)
        }),
        ("farshore_replication_lag_bytes", "Bytes not yet durable at the target.", |item| {
            Some(item.replication.as_ref()?.lag.bytes as f64)
        }),
        ("farshore_replication_lag_seconds", "Seconds of writes not yet durable at the target.", |item| {
            Some(item.replication.as_ref()?.lag.seconds)
        }),
        ("farshore_recovery_points", "Recovery points offered.", |item| Some(item.points.count as f64)),
    ];
    for (name, help, figure) in figures {
        describe(out, name, help);
        for item in items {
            if let Some(value) = figure(item) {
                sample(out, name, &[("item", &item.id)], value);
            }
        }
    }
}

fn describe(out: &mut String, name: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
}

/// Label values are names of ours: no quote or backslash is in them.
fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let _ = writeln!(out, "{name}{{{}}} {value}", labels.join(","));
}
