//! Everything that can be refused over HTTP: its status, its word, and what it says.

use std::collections::BTreeSet;

use farshore::api::document;
use farshore::api::views::JobView;
use reqwest::Method;
use serde_json::{Value, json};

use crate::api_bench::{Served, TOKEN, problem};

/// Routes that say nothing about any item.
const OPEN: [&str; 3] = ["/livez", "/readyz", "/api/v1/openapi.json"];

/// Every route of the document: method and path, with its parameters filled in.
fn documented() -> Vec<(Method, String)> {
    let document = serde_json::to_value(document()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{kind}", "machine").replace("{name}", "none").replace("{id}", "NONE");
            routes.push((method.to_uppercase().parse().unwrap(), path));
        }
    }
    routes
}

#[tokio::test]
async fn every_documented_route_exists_and_wants_the_token() {
    let routes = documented();
    assert!(routes.len() > 30, "{routes:?}");
    // Whoever sends more wrong tokens at once than a person mistypes is not listened to for a while.
    for routes in routes.chunks(100) {
        check_routes(&Served::new().await, routes).await;
    }
}

async fn check_routes(served: &Served, routes: &[(Method, String)]) {
    for (method, path) in routes {
        let bare = served.bare(method.clone(), path).send().await.unwrap();
        if OPEN.contains(&path.as_str()) {
            assert_eq!(bare.status(), 200, "{path}");
            continue;
        }
        assert_eq!(bare.status(), 401, "{method} {path}");
        assert_eq!(bare.headers()["www-authenticate"], "Bearer");
        assert!(problem(bare).await.detail.contains("Authorization: Bearer"));
        let wrong = served.bare(method.clone(), path).bearer_auth("guess").send().await.unwrap();
        assert_eq!(wrong.status(), 401, "{method} {path}");
        let answer = served.request(method.clone(), path).json(&json!({})).send().await.unwrap();
        assert_ne!(answer.status(), 405, "{method} {path}");
        if !answer.status().is_success() {
            assert!(!problem(answer).await.detail.contains("no such route"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn no_route_exists_that_is_not_documented() {
    let served = Served::new().await;
    let routes = documented();
    let paths: BTreeSet<&String> = routes.iter().map(|(_, path)| path).collect();
    for path in paths {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            if routes.iter().any(|(known, at)| *known == method && at == path) {
                continue;
            }
            let answer = served.request(method.clone(), path).send().await.unwrap();
            assert_eq!(answer.status(), 405, "{method} {path}");
            assert_eq!(problem(answer).await.code(), "method");
        }
    }
    let served_document: Value = served.get("/api/v1/openapi.json").await;
    assert_eq!(served_document, serde_json::to_value(document()).unwrap());
    assert_eq!(served_document["openapi"], "3.1.0");
    for path in ["/api/v1/nothing", "/api/v1/items/machine/web-1/explode", "/nothing"] {
        let answer = served.request(Method::POST, path).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        assert!(problem(answer).await.detail.contains("no such route"), "{path}");
    }
}

#[tokio::test]
async fn a_request_that_does_not_fit_says_why_and_what_does() {
    let served = Served::protected().await;
    let create =
        |name: &str, region: &str| json!({"kind": "machine", "name": name, "region": region, "spec": {}});
    let web = |verb: &str| format!("/api/v1/items/machine/web-1/{verb}");
    let table = [
        ("/api/v1/items".to_owned(), create("web-1", "oslo"), 409, "name-taken", "machine/web-1 is taken"),
        ("/api/v1/items".to_owned(), create("Web", "oslo"), 400, "invalid", "lower-case letter"),
        ("/api/v1/items".to_owned(), create("w2", "rome"), 404, "not-found", "there are oslo, paris"),
        (
            "/api/v1/items".to_owned(),
            json!({"kind": "vm", "name": "a", "region": "oslo", "spec": {}}),
            400,
            "invalid",
            "kind must be machine",
        ),
        (
            "/api/v1/items/machine/none/commit".to_owned(),
            json!({}),
            404,
            "not-found",
            "there is machine/web-1",
        ),
        (web("protect"), json!({"target": "oslo"}), 409, "not-now", "possible: test-failover, failover"),
        (web("protect"), json!({"target": "Oslo"}), 400, "invalid", "lower-case"),
        (web("protect"), json!({"target": "rome"}), 404, "not-found", "there is no region rome"),
        (web("commit"), json!({}), 409, "not-now", "commit is not possible now"),
        (web("failback"), json!({}), 409, "at-home", "is at home in paris"),
        (
            web("failover"),
            json!({"planned": true, "point": "latest-processed"}),
            400,
            "invalid",
            "leave the point out",
        ),
        (web("failover"), json!({"point": "p999"}), 404, "no-such-point", "there is no recovery point p999"),
        (web("failover"), json!({"point": ""}), 400, "invalid", "point: give latest"),
        (web("mark-point"), json!({"name": ""}), 400, "invalid", "recovery point's name"),
        ("/api/v1/jobs/NONE/cancel".to_owned(), json!({}), 404, "not-found", "there is no job"),
        ("/api/v1/jobs/a%2Flog%2F1/cancel".to_owned(), json!({}), 404, "not-found", "there is no job"),
    ];
    let before = served.item().await;
    for (path, body, status, code, says) in &table {
        let answer = served.post(path, body).await;
        assert_eq!(answer.status(), *status, "{path} {body}: {:?}", answer.text().await);
        let problem = problem(answer).await;
        assert_eq!(problem.code(), *code, "{path} {body}");
        assert!(problem.detail.contains(says), "{path} {body}: {}", problem.detail);
        assert_eq!(problem.possible.is_empty(), *code != "not-now", "{path} {body}");
    }
    for path in [
        "/api/v1/regions/rome",
        "/api/v1/directory/none.machine",
        "/api/v1/jobs/NONE/log",
        "/api/v1/items/machine/x",
    ] {
        let answer = served.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        assert!(problem(answer).await.detail.contains("there"), "{path}");
    }
    for path in ["/api/v1/jobs?itme=machine/web-1", "/api/v1/jobs?item=web-1", "/api/v1/audit?limit=-1"] {
        let answer = served.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{path}");
    }
    let after = served.item().await;
    assert_eq!(
        (after.phase, after.epoch, after.job),
        (before.phase, before.epoch, None),
        "nothing was changed"
    );
}

#[tokio::test]
async fn a_body_that_is_not_well_formed_changes_nothing() {
    let served = Served::protected().await;
    let path = "/api/v1/items/machine/web-1/failover";
    let long = format!("{{\"point\": \"{}\"}}", "x".repeat(70_000));
    let table = [
        ("application/json", "{", 400, "EOF"),
        ("application/json", "{bad", 400, "the body is not what this route takes: key must be a string"),
        ("application/json", "[1]", 400, "body"),
        ("application/json", r#"{"planned": "yes"}"#, 400, "planned: invalid type"),
        ("application/json", r#"{"plannd": true}"#, 400, "unknown field `plannd`"),
        ("application/json", &long, 413, "65536 bytes"),
        ("text/plain", "{}", 415, "send application/json"),
    ];
    for (media, body, status, says) in table {
        let request = served.request(Method::POST, path).header("content-type", media);
        let answer = request.body(body.to_owned()).send().await.unwrap();
        assert_eq!(answer.status(), status, "{media} {says}");
        let detail = problem(answer).await.detail;
        assert!(detail.contains(says), "{says}: {detail}");
    }
    assert_eq!(served.item().await.phase, "Protected");
}

#[tokio::test]
async fn a_repeated_key_has_one_effect_and_belongs_to_one_request() {
    let served = Served::protected().await;
    let ask = async |path: &str, body: Value, key: &str| {
        let request = served.request(Method::POST, path).header("Idempotency-Key", key);
        request.json(&body).send().await.unwrap()
    };
    let mark = "/api/v1/items/machine/web-1/mark-point";
    let first: JobView = ask(mark, json!({"name": "a"}), "k1").await.json().await.unwrap();
    served.events(&first.id).await;
    let again: JobView = ask(mark, json!({"name": "a"}), "k1").await.json().await.unwrap();
    assert_eq!(first.id, again.id);
    let other = ask(mark, json!({"name": "b"}), "k1").await;
    assert_eq!(other.status(), 422);
    assert_eq!(problem(other).await.code(), "key-reused");
    let elsewhere = ask("/api/v1/items/machine/web-1/commit", json!({}), "k1").await;
    assert_eq!(elsewhere.status(), 422, "the path belongs to the request");
    let bad = ask(mark, json!({"name": "c"}), "no spaces here").await;
    assert_eq!(bad.status(), 400);
}

#[tokio::test]
async fn a_job_in_the_way_is_named_and_a_stuck_one_can_be_steered_once() {
    let served = Served::protected().await;
    let web = "/api/v1/items/machine/web-1";
    served.bench.sim.fail_at("/promote/do");
    let job: JobView =
        served.post(&format!("{web}/failover"), &json!({"planned": true})).await.json().await.unwrap();
    let busy = served.post(&format!("{web}/commit"), &json!({})).await;
    assert_eq!(busy.status(), 409);
    let busy = problem(busy).await;
    assert_eq!((busy.code(), busy.job.as_deref()), ("busy", Some(job.id.as_str())));
    crate::engine_sim::rested(&served.control, &farshore_core::ids::JobId(job.id.clone())).await;
    let stuck: JobView = served.get(&format!("/api/v1/jobs/{}", job.id)).await;
    assert_eq!((stuck.state.as_str(), stuck.ended), ("stuck", false));
    assert_eq!(stuck.possible, ["retry", "skip", "abandon"]);
    let cancel = served.post(&format!("/api/v1/jobs/{}/cancel", job.id), &json!({})).await;
    assert!(problem(cancel).await.detail.contains("point of no return"));
    let silent = served.post(&format!("/api/v1/jobs/{}/skip", job.id), &json!({"reason": " "})).await;
    assert_eq!(silent.status(), 400);
    served.bench.sim.mend();
    let path = format!("/api/v1/jobs/{}/retry", job.id);
    for _ in 0..2 {
        let request = served.request(Method::POST, &path).header("Idempotency-Key", "retry-1");
        assert_eq!(request.send().await.unwrap().status(), 202, "the repeat is no second retry");
    }
    assert_eq!(served.events(&job.id).await.last().unwrap().state, "succeeded");
    let ended = served.post(&path, &json!({})).await;
    assert_eq!(ended.status(), 409);
    assert!(problem(ended).await.detail.contains("has ended"));
}

#[tokio::test]
async fn the_token_is_compared_whole() {
    let served = Served::new().await;
    let status = async |header: &str| {
        let request = served.bare(Method::GET, "/api/v1/items").header("authorization", header);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(&format!("Bearer {TOKEN}")).await, 200);
    assert_eq!(status(&format!("bearer {TOKEN}")).await, 200);
    for bad in [&TOKEN[..5], "", &format!("{TOKEN}0")] {
        assert_eq!(status(&format!("Bearer {bad}")).await, 401);
    }
    assert_eq!(status(&format!("Basic {TOKEN}")).await, 401);
}
