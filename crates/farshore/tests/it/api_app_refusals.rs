//! What is asked of apps and cannot be: refused before anything is begun, with the exit status that says so and the way on.

use reqwest::Method;
use serde_json::{Value, json};

use crate::api_apps::{APP, LONG, app, audited, summary};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_that_cannot_be_is_found_before_the_app_is_made() {
    let served = Served::new().await;
    served.bench.sim.answer("summary", Ok(summary()));
    let line = "app create todo --region paris --command x --secondary madrid";
    let (code, _, err) = run(&served, line).await;
    assert_eq!((code, err.contains("there is no region madrid; there are ")), (3, true), "{err}");
    nothing_was_made(&served, "todo", line).await;
    assert_eq!(run(&served, "app create todo-dr --region oslo --command x").await.0, 0);
    let line = "app create todo --region paris --command x --secondary oslo";
    let (code, _, err) = run(&served, line).await;
    assert_eq!(
        (code, err.contains("app/todo-dr, which the reserve would be called, is there already")),
        (3, true),
        "{err}"
    );
    nothing_was_made(&served, "todo", line).await;
    served.bench.sim.set_down("oslo", true);
    while served.get::<Value>("/api/v1/regions/oslo").await["health"]["state"] != "Unhealthy" {
        tokio::task::yield_now().await;
    }
    let line = "app create blog --region paris --command x --secondary oslo";
    let (code, _, err) = run(&served, line).await;
    assert_eq!((code, err.contains("nothing was made: name another region")), (3, true), "{err}");
    nothing_was_made(&served, "blog", line).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_without_its_replica_is_no_refusal() {
    let served = Served::new().await;
    served.bench.sim.answer("summary", Ok(summary()));
    served.bench.sim.fail_at("/prepare-target/do");
    let (code, out, err) = run(&served, "app create todo --region paris --command x --secondary oslo").await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("app/todo was made, but it runs in one region only: "), "{err}");
    assert!(err.ends_with("\nto go on: farshore protect app/todo --to oslo\n"), "{err}");
    served.bench.sim.mend();
    let (code, _, err) = run(&served, "protect app/todo --to oslo").await;
    assert_eq!(code, 0, "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_a_refusal_that_names_what_lists_it() {
    let served = app().await;
    let check = async |line: &str, why: &str| {
        served.bench.sim.questions();
        let (code, out, err) = run(&served, line).await;
        assert_eq!((code, err.contains(why)), (3, true), "{line}: {out}{err}");
        let asked = served.bench.sim.questions();
        assert!(
            asked.iter().all(|(_, question)| !LONG.contains(&question["ask"].as_str().unwrap())),
            "{asked:?}"
        );
    };
    let (releases, backups) =
        ("farshore app releases todo lists them", "farshore app backup list todo lists them");
    check("app rollback todo --to 99", releases).await;
    check("app rollback todo --to 3", "release 3 of app/todo runs already").await;
    check("app backup verify todo nope", backups).await;
    check("app restore todo --to again --backup nope", backups).await;
    check("app change-database todo --backup nope --yes", backups).await;
    check("app migrations abc", "farshore app migrations lists them").await;
    served.bench.sim.answer("releases", Ok(json!({"releases": [{"number": 3, "state": "live"}]})));
    served.bench.sim.answer("backups", Ok(json!({"backups": [{"id": "a", "ok": false}]})));
    check("app rollback todo", releases).await;
    check("app restore todo --to again", "farshore app backup now todo takes one").await;
    let (code, _, err) = run(&served, "app backup verify todo ../../x").await;
    assert_eq!((code, err.contains("farshore app backup list todo shows them")), (2, true), "{err}");
}

#[tokio::test]
async fn what_was_done_once_is_not_looked_at_again() {
    let served = app().await;
    let again = async || {
        let request =
            served.request(Method::POST, &format!("{APP}/rollback")).header("idempotency-key", "k1");
        request.json(&json!({})).send().await.unwrap().status()
    };
    assert_eq!(again().await, 202);
    served.bench.sim.answer("releases", Ok(json!({"releases": [{"number": 2, "state": "live"}]})));
    assert_eq!(again().await, 202, "it is live because of the first");
}
