//! Figures for Prometheus, in its text format.
//!
//! Must always hold: every family has its HELP and TYPE once, before its samples; label values are escaped; labels are names
//! of regions and items and closed sets of words, never texts.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::problem::{Problem, Refusals};
use super::views::{HealthState, ItemView};
use super::{ApiState, health, items};
use crate::engine::{Control, StoreState, now};

/// All states, for one sample each.
const STATES: [HealthState; 4] =
    [HealthState::Healthy, HealthState::Unknown, HealthState::Warning, HealthState::Unhealthy];

/// Figures for Prometheus, in its text format.
#[utoipa::path(get, path = "/metrics", tag = "service",
    security(("token" = ["read"])), responses((status = 200, body = String), Refusals))]
pub(super) async fn metrics(State(state): State<ApiState>) -> Result<impl IntoResponse, Problem> {
    let control = &state.control;
    let items = items::views(control).await?;
    let jobs = control.jobs(None).await?;
    let mut page = Page::default();
    regions(&mut page, control);
    of_items(&mut page, &items);
    page.family("farshore_jobs", "Jobs by state.");
    for state in ["running", "unwinding", "stuck", "succeeded", "failed", "cancelled", "abandoned"] {
        let count = jobs.iter().filter(|job| job.state.as_str() == state).count();
        page.sample("farshore_jobs", &[("state", state)], count as f64);
    }
    service(&mut page, control);
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], page.0))
}

fn regions(page: &mut Page, control: &Control) {
    let seen = control.region_health();
    page.family("farshore_region_up", "Whether the region answers this node.");
    for (region, health) in &seen {
        page.sample("farshore_region_up", &[("region", region.as_str())], f64::from(health.reachable));
    }
    page.family("farshore_region_state", "What the observers agree on, 1 for the state it is in.");
    for region in seen.keys() {
        let now = health::of_region(control, region).state;
        page.states("farshore_region_state", ("region", region.as_str()), now);
    }
}

type Figure = fn(&ItemView) -> Option<f64>;

fn of_items(page: &mut Page, items: &[ItemView]) {
    page.family("farshore_item_healthy", "Whether the item is Healthy.");
    for item in items {
        let healthy = f64::from(item.health.state == HealthState::Healthy);
        page.sample("farshore_item_healthy", &[("item", &item.id), ("phase", &item.phase)], healthy);
    }
    page.family("farshore_item_state", "How well the item is, 1 for the state it is in.");
    for item in items {
        page.states("farshore_item_state", ("item", &item.id), item.health.state);
    }
    let figures: [(&str, &str, Figure); 6] = [
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
        ("farshore_drill_age_seconds", "Since the last test failover that was cleaned up.", |item| {
            let last = item.last_drill.as_ref()?.parse().ok()?;
            Some(now().since(last).as_secs_f64())
        }),
    ];
    for (name, help, figure) in figures {
        page.family(name, help);
        for item in items {
            if let Some(value) = figure(item) {
                page.sample(name, &[("item", &item.id)], value);
            }
        }
    }
}

fn service(page: &mut Page, control: &Control) {
    let open = control.incidents_open();
    page.family("farshore_incidents_open", "Open incidents by severity.");
    for state in [HealthState::Warning, HealthState::Unhealthy] {
        let count = open.iter().filter(|incident| HealthState::from(incident.severity) == state).count();
        page.sample("farshore_incidents_open", &[("severity", state.as_str())], count as f64);
    }
    let live = control.store_state() == StoreState::Live;
    page.family(
        "farshore_store_up",
        "Whether this node reaches its store; without it everything is read-only.",
    );
    page.sample("farshore_store_up", &[], f64::from(live));
    page.family("farshore_executors_alive", "Control nodes that carry out jobs.");
    page.sample("farshore_executors_alive", &[], control.executors_alive().len() as f64);
    if let Some(ends) = control.certificate_ends() {
        page.family("farshore_certificate_expiry_seconds", "Until the certificate of this node ends.");
        page.sample("farshore_certificate_expiry_seconds", &[], ends.since(now()).as_secs_f64());
    }
}

/// The text so far. Writing to a string cannot fail.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
        };
    }

    fn states(&mut self, name: &str, subject: (&str, &str), now: HealthState) {
        for state in STATES {
            self.sample(name, &[subject, ("state", state.as_str())], f64::from(state == now));
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.family("f", "Help.");
        page.sample("f", &[("a", "x\"y\\z\n"), ("b", "plain")], 1.5);
        page.sample("f", &[], 2.0);
        let expected = "# HELP f Help.\n# TYPE f gauge\nf{a=\"x\\\"y\\\\z\\n\",b=\"plain\"} 1.5\nf 2\n";
        assert_eq!(page.0, expected);
    }
}
