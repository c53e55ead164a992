//! One item's life over HTTP: what is asked, what is answered, what is shown.

use farshore::api::views::HealthState;
use farshore::api::views::{
    AuditView, DirectoryView, ItemView, JobView, LogView, PointsView, RegionView, StatusView,
};
use reqwest::Method;
use serde_json::json;

use crate::api_bench::Served;

const ITEM: &str = "/api/v1/items/machine/web-1";

#[tokio::test]
async fn an_item_is_made_protected_lost_and_brought_home_over_http() {
    let served = Served::protected().await;
    let item = served.item().await;
    assert_eq!(
        (item.phase.as_str(), item.source.as_str(), item.target.as_deref()),
        ("Protected", "paris", Some("oslo"))
    );
    assert_eq!(item.next_actions, ["test-failover", "failover", "mark-point", "disable"]);

    served.bench.sim.write(&served.bench.item, 5);
    let points: PointsView = served.get(&format!("{ITEM}/points")).await;
    assert_eq!(points.region.as_deref(), Some("oslo"));
    let oldest = &points.points.first().unwrap().id;

    served.run(&format!("{ITEM}/test-failover"), &json!({"point": oldest})).await;
    until(&served, |item| item.drill.is_some()).await;
    served.run(&format!("{ITEM}/cleanup"), &json!({})).await;
    let job = served.run(&format!("{ITEM}/failover"), &json!({"planned": true})).await;
    assert_eq!((job.state.as_str(), job.progress), ("succeeded", 1.0));
    let item = until(&served, |item| item.phase == "FailedOver" && item.points.count > 0).await;
    let report = item.failover.unwrap();
    assert_eq!((report.from.as_str(), report.to.as_str(), report.rpo.exact), ("paris", "oslo", true));
    let name: DirectoryView = served.get("/api/v1/directory/web-1.machine").await;
    assert_eq!((name.region.as_str(), name.epoch), ("oslo", 2));

    served.run(&format!("{ITEM}/change-point"), &json!({"point": oldest})).await;
    served.run(&format!("{ITEM}/change-point"), &json!({"point": "latest"})).await;
    for verb in ["commit", "reprotect", "failback", "commit", "reprotect"] {
        let job = served.run(&format!("{ITEM}/{verb}"), &json!({})).await;
        assert_eq!(job.state, "succeeded", "{verb}: {:?}", job.notes);
    }
    assert_eq!(served.item().await.source, "paris");
    served.run(&format!("{ITEM}/disable"), &json!({})).await;
    let response = served.request(Method::DELETE, ITEM).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let job: JobView = response.json().await.unwrap();
    served.events(&job.id).await;
    assert_eq!(served.request(Method::GET, ITEM).send().await.unwrap().status(), 404);

    let audit: Vec<AuditView> = served.get("/api/v1/audit?limit=1000").await;
    assert!(audit.iter().any(|entry| entry.what.contains("failback")));
    assert!(audit.windows(2).all(|pair| pair[0].hash == pair[1].previous), "the chain has no gaps");
}

#[tokio::test]
async fn items_are_given_in_pages_to_who_asks_for_them() {
    let served = Served::protected().await;
    for name in ["web-3", "web-2"] {
        let body = json!({"kind": "machine", "name": name, "region": "paris", "spec": {}});
        served.run("/api/v1/items", &body).await;
    }
    let page = async |query: &str| -> Vec<String> {
        let items: Vec<ItemView> = served.get(&format!("/api/v1/items{query}")).await;
        items.into_iter().map(|item| item.id).collect()
    };
    assert_eq!(page("").await, ["machine/web-1", "machine/web-2", "machine/web-3"]);
    assert_eq!(page("?limit=2").await, ["machine/web-1", "machine/web-2"]);
    assert_eq!(page("?limit=2&after=machine/web-2").await, ["machine/web-3"]);
    assert_eq!(page("?after=machine/web-3").await, Vec::<String>::new());
    let response = served.request(Method::GET, "/api/v1/items?after=web").send().await.unwrap();
    assert_eq!(response.status(), 400);
}

async fn until(
    served: &Served,
    wanted: impl Fn(&farshore::api::views::ItemView) -> bool,
) -> farshore::api::views::ItemView {
    loop {
        let item = served.item().await;
        if wanted(&item) {
            return item;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_stream_of_a_job_tells_its_steps_and_ends_with_it() {
    let served = Served::protected().await;
    let response = served.post(&format!("{ITEM}/failover"), &json!({"planned": true})).await;
    let job: JobView = response.json().await.unwrap();
    let views = served.events(&job.id).await;
    let last = views.last().unwrap();
    assert!(last.ended && last.steps.iter().all(|step| step.state == "done"));
    assert!(views.iter().rev().skip(1).all(|view| !view.ended), "only the last view has ended");
    assert!(views.windows(2).all(|pair| pair[0].progress <= pair[1].progress));
    assert_eq!(served.events(&job.id).await.len(), 1, "an ended job is told once");
    let log: Vec<LogView> = served.get(&format!("/api/v1/jobs/{}/log", job.id)).await;
    assert!(log.iter().any(|entry| entry.text == "promote verified"), "{log:?}");
    let jobs: Vec<JobView> = served.get("/api/v1/jobs?item=machine/web-1&ended=true").await;
    assert_eq!(
        jobs.iter().map(|job| job.verb.as_str()).collect::<Vec<_>>(),
        ["create", "protect", "failover"]
    );
}

#[tokio::test]
async fn a_lost_region_is_on_the_banner_with_what_to_do() {
    let served = Served::protected().await;
    until(&served, |item| item.health.state == HealthState::Healthy).await;
    let status: StatusView = served.get("/api/v1/status").await;
    assert_eq!(status.banner, []);
    served.bench.sim.set_down("paris", true);
    let item = until(&served, |item| item.health.state == HealthState::Unhealthy).await;
    assert!(item.health.advice.unwrap().contains("failover machine/web-1 --source-is-down"));
    let status: StatusView = served.get("/api/v1/status").await;
    let subjects: Vec<&str> = status.banner.iter().map(|line| line.subject.as_str()).collect();
    assert_eq!(subjects, ["region/paris", "machine/web-1"]);
    let region: RegionView = served.get("/api/v1/regions/paris").await;
    assert_eq!(region.health.state, HealthState::Unhealthy);
    let text = served.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    for line in [
        "farshore_region_up{region=\"paris\"} 0",
        "farshore_region_up{region=\"oslo\"} 1",
        "farshore_item_healthy{item=\"machine/web-1\",phase=\"Protected\"} 0",
        "farshore_jobs{state=\"succeeded\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn an_item_whose_target_cannot_follow_is_not_healthy() {
    let served = Served::protected().await;
    until(&served, |item| item.health.state == HealthState::Healthy).await;
    served.bench.sim.set_link_down(true);
    let item = until(&served, |item| item.health.state == HealthState::Warning).await;
    assert!(item.health.reason.unwrap().contains("disconnected"));
    served.bench.sim.set_link_down(false);
    until(&served, |item| item.health.state == HealthState::Healthy).await;
    served.bench.sim.set_down("oslo", true);
    let item = until(&served, |item| item.health.state == HealthState::Warning).await;
    assert!(item.health.reason.unwrap().contains("its target oslo has not answered"));
}
