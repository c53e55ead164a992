//! Health over HTTP: incidents that open and close by themselves and by hand, and figures that a monitor can read.

use std::collections::{BTreeMap, BTreeSet};

use farshore::api::views::{AuditView, HealthState, IncidentView, ItemView, StatusView};
use reqwest::Method;
use serde_json::json;

use crate::api_bench::Served;

const ITEM: &str = "/api/v1/items/machine/web-1";

async fn incidents_until(
    served: &Served,
    path: &str,
    wanted: impl Fn(&[IncidentView]) -> bool,
) -> Vec<IncidentView> {
    loop {
        let incidents: Vec<IncidentView> = served.get(path).await;
        if wanted(&incidents) {
            return incidents;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lost_region_opens_an_incident_that_closes_when_it_is_back() {
    let served = Served::protected().await;
    served.bench.sim.set_down("paris", true);
    let about = |incidents: &[IncidentView], subject: &str| {
        incidents.iter().any(|incident| incident.subject == subject && incident.cause == "unreachable")
    };
    let open =
        incidents_until(&served, "/api/v1/incidents", |incidents| about(incidents, "region/paris")).await;
    assert!(
        !open.iter().any(|incident| incident.subject == "machine/web-1"),
        "one loss is one incident: {open:?}"
    );
    let subjects: BTreeSet<(&str, &str)> =
        open.iter().map(|incident| (incident.subject.as_str(), incident.cause.as_str())).collect();
    assert_eq!(subjects.len(), open.len(), "one for each subject and cause: {open:?}");
    assert!(open.iter().all(|incident| incident.closed_at.is_none() && incident.advice.is_some()));

    served.bench.sim.set_down("paris", false);
    incidents_until(&served, "/api/v1/incidents?state=open", |incidents| incidents.is_empty()).await;
    let all: Vec<IncidentView> = served.get("/api/v1/incidents?state=all").await;
    assert!(!all.is_empty() && all.iter().all(|incident| incident.closed_at.is_some()));
    assert!(all.iter().all(|incident| incident.history.len() >= 2), "{all:?}");
    let audit: Vec<AuditView> = served.get("/api/v1/audit?limit=1000").await;
    assert!(audit.iter().any(|entry| entry.who == "control-plane" && entry.what.contains("incident")));
}

#[tokio::test]
async fn a_person_opens_updates_and_closes_an_incident() {
    let served = Served::protected().await;
    let ask =
        json!({"subject": "region/paris", "severity": "unhealthy", "text": "the air conditioning is out"});
    let response = served.post("/api/v1/incidents", &ask).await;
    assert_eq!(response.status(), 201);
    let incident: IncidentView = response.json().await.unwrap();
    assert_eq!((incident.cause.as_str(), incident.severity), ("reported", HealthState::Unhealthy));
    let at = format!("/api/v1/incidents/{}", incident.id);
    let response = served.post(&format!("{at}/update"), &json!({"text": "somebody is on the way"})).await;
    assert_eq!(response.status(), 200);
    let open: Vec<IncidentView> = served.get("/api/v1/incidents").await;
    assert_eq!(open.len(), 1, "nothing closes it but a person");
    let response = served.post(&format!("{at}/close"), &json!({"text": "mended"})).await;
    assert_eq!(response.status(), 200);
    let closed: IncidentView = served.get(&at).await;
    let said: Vec<&str> = closed.history.iter().map(|change| change.what.as_str()).collect();
    assert_eq!(said, ["the air conditioning is out", "somebody is on the way", "mended"]);
    assert!(closed.closed_at.is_some());
    for (path, body, status) in [
        (format!("{at}/close"), json!({"text": "again"}), 409),
        ("/api/v1/incidents/nothing/close".to_owned(), json!({"text": "again"}), 404),
        ("/api/v1/incidents".to_owned(), json!({"subject": "the moon", "text": "x"}), 400),
        ("/api/v1/incidents".to_owned(), json!({"text": " "}), 400),
    ] {
        assert_eq!(served.post(&path, &body).await.status(), status, "{path} {body}");
    }
}

#[tokio::test]
async fn a_test_failover_that_was_cleaned_up_is_remembered() {
    let served = Served::protected().await;
    let item: ItemView = served.item().await;
    assert_eq!(item.last_drill, None);
    served.run(&format!("{ITEM}/test-failover"), &json!({})).await;
    served.run(&format!("{ITEM}/cleanup"), &json!({})).await;
    assert!(served.item().await.last_drill.is_some());
    let metrics = served.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("farshore_drill_age_seconds{item=\"machine/web-1\"}"));
}

/// Reads Prometheus' text format strictly: samples by family; panics on anything out of order.
fn parse(text: &str) -> BTreeMap<String, Vec<(String, f64)>> {
    let mut families: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    let mut current = String::new();
    let mut helped = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').unwrap().0.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!((name, kind), (helped.as_str(), "gauge"), "{line}");
            assert!(families.insert(name.to_owned(), Vec::new()).is_none(), "{name} is described twice");
            current = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert_eq!(name, current, "a sample outside its family: {line}");
            assert!(name.chars().all(|char| char.is_ascii_lowercase() || char == '_'), "{name}");
            let labels = series.strip_prefix(name).unwrap();
            assert!(labels.is_empty() || (labels.starts_with('{') && labels.ends_with("\"}")), "{line}");
            let value: f64 = value.parse().unwrap();
            families.get_mut(name).unwrap().push((series.to_owned(), value));
        }
    }
    families
}

#[tokio::test]
async fn a_monitor_can_read_the_figures() {
    let served = Served::protected().await;
    let text = served.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    let families = parse(&text);
    for (family, samples) in &families {
        let distinct: BTreeSet<&String> = samples.iter().map(|(series, _)| series).collect();
        assert_eq!(distinct.len(), samples.len(), "{family} says something twice");
    }
    for name in ["farshore_region_state", "farshore_item_state"] {
        let ones = families[name].iter().filter(|(_, value)| *value == 1.0).count();
        assert_eq!(ones * 4, families[name].len(), "one state each: {:?}", families[name]);
    }
    for name in ["farshore_incidents_open", "farshore_store_up", "farshore_executors_alive", "farshore_jobs"]
    {
        assert!(!families[name].is_empty(), "{name}");
    }
    let status: StatusView = served.get("/api/v1/status").await;
    assert_eq!(status.control.read_only_since, None);
}
