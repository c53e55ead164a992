//! What is asked of apps and cannot be: refused before anything is begun, with the exit status that says so and the way on.

use serde_json::{Value, json};

use crate::api_apps::{audited, summary};
use crate::api_bench::{Served, problem};
use crate::cli_verbs::run;

/// Nothing is there, and nothing was begun.
async fn nothing_was_made(served: &Served, name: &str, line: &str) {
    let items: Vec<Value> = served.get("/api/v1/items").await;
    assert!(items.iter().all(|item| item["name"] != name), "{line}");
    let audit = audited(served).await;
    assert!(!audit.contains(&format!("asked for create of app/{name}")), "{line}: {audit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_made_is_refused_before_a_job_begins() {
    let served = Served::new().await;
    served.bench.sim.answer("summary", Ok(summary()));
    for (more, why) in [
        (
            "--command x --mode free --instances 2",
            "spec: an app of mode free runs from 1 to 1 instances, not 2",
        ),
        ("--command x --instances 0", "spec: an app of mode basic runs from 1 to 6 instances, not 0"),
        ("--command x --host http://x", "spec: \"http://x\" is no host name"),
        ("--command x --probe status", "spec: the probe \"status\" is no path"),
        ("--command ", "spec: the command is empty"),
    ] {
        let line = format!("app create a1 --region paris {more}");
        let (code, out, err) = run(&served, &line).await;
        assert_eq!((code, err.contains(why)), (2, true), "{line}: {out}{err}");
        nothing_was_made(&served, "a1", &line).await;
    }
    let (code, _, err) = run(&served, "app create todo --region paris --command x --mode shared").await;
    assert_eq!(code, 0, "{err}");
    let line = "app reserve spare --region oslo --mode free --instances 2 --for todo";
    let (code, _, err) = run(&served, line).await;
    assert_eq!((code, err.contains("from 1 to 1 instances")), (2, true), "{err}");
    served.bench.sim.answer("room", Ok(json!({"no_room": "this region has 1024 MiB for apps"})));
    for (line, name, region) in [
        ("app create a1 --region paris --command x", "a1", "paris"),
        ("app reserve spare --region oslo --mode basic --for todo", "spare", "oslo"),
    ] {
        let (code, out, err) = run(&served, line).await;
        let why =
            format!("{region} has no room for app/{name}, so nothing was changed: this region has 1024 MiB");
        assert_eq!((code, err.contains(&why)), (3, true), "{line}: {out}{err}");
        nothing_was_made(&served, name, line).await;
    }
    let create = json!({"kind": "app", "name": "a1", "region": "paris", "spec": {}});
    assert_eq!(problem(served.post("/api/v1/items", &create).await).await.code(), "no-room");
}
