use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fixture::Fixture;

/// The job once it has ended.
async fn ended(hub: &Fixture, id: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let job = hub.get(&format!("/jobs/v2/{id}")).await.json();
        if !matches!(job["status"].as_str(), Some("scheduled" | "running")) {
            return job;
        }
        assert!(Instant::now() < deadline, "{job}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_job_changes_all_twins_that_its_condition_finds() {
    let hub = Fixture::new().await;
    for id in ["a", "b", "c"] {
        hub.create(id).await;
    }
    let job = json!({
        "jobId": "one", "type": "scheduleUpdateTwin", "queryCondition": "deviceId IN ['a', 'b']",
        "updateTwin": { "etag": "*", "tags": { "done": true } }, "maxExecutionTimeInSeconds": 60,
    });
    assert_eq!(hub.ask("PUT /jobs/v2/one", job.clone()).await.status, 200);
    let done = ended(&hub, "one").await;
    assert_eq!(
        (&done["status"], &done["deviceJobStatistics"]["succeededCount"]),
        (&json!("completed"), &json!(2))
    );
    assert_eq!(hub.get("/twins/b").await.json()["tags"], json!({ "done": true }));
    assert_eq!(hub.get("/twins/c").await.json()["tags"], json!({}));
    Fixture::is(&hub.ask("PUT /jobs/v2/one", job).await, "again", 409, "JobAlreadyExists");
}

#[tokio::test]
async fn a_job_calls_methods_and_counts_who_did_not_answer() {
    let hub = Fixture::new().await;
    hub.create("online").await;
    hub.create("pump").await;
    let job = json!({
        "type": "scheduleDeviceMethod", "queryCondition": "*",
        "cloudToDeviceMethod": { "methodName": "echo", "payload": null },
    });
    hub.ask("PUT /jobs/v2/m", job).await;
    let counts = ended(&hub, "m").await["deviceJobStatistics"].clone();
    assert_eq!((&counts["succeededCount"], &counts["failedCount"]), (&json!(1), &json!(1)));
    let found = hub.get("/jobs/v2/query?jobType=scheduleDeviceMethod&jobStatus=completed").await;
    assert_eq!(found.json().as_array().unwrap().len(), 1);
    assert_eq!(hub.get("/jobs/v2/query?jobStatus=failed").await.json(), json!([]));
}

#[tokio::test]
async fn a_job_that_waits_can_be_cancelled() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    let job = json!({
        "type": "scheduleUpdateTwin", "updateTwin": { "tags": { "x": 1 } }, "startTime": "2999-01-01T00:00:00Z",
    });
    assert_eq!(hub.ask("PUT /jobs/v2/later", job).await.json()["status"], "scheduled");
    assert_eq!(hub.ask("POST /jobs/v2/later/cancel", Value::Null).await.json()["status"], "cancelled");
    assert_eq!(hub.get("/jobs/v2/later").await.json()["status"], "cancelled");
}

#[tokio::test]
async fn wrong_jobs_are_refused() {
    let hub = Fixture::new().await;
    for (line, body, status, code) in [
        ("PUT /jobs/v2/a", json!({}), 400, "ArgumentInvalid"),
        ("PUT /jobs/v2/a", json!({"type": "dance"}), 400, "ArgumentInvalid"),
        ("PUT /jobs/v2/a", json!({"type": "scheduleUpdateTwin"}), 400, "ArgumentInvalid"),
        (
            "PUT /jobs/v2/a",
            json!({"type": "scheduleUpdateTwin", "updateTwin": {}, "queryCondition": "a ="}),
            400,
            "ArgumentInvalid",
        ),
        (
            "PUT /jobs/v2/a",
            json!({"type": "scheduleUpdateTwin", "updateTwin": {}, "startTime": "soon"}),
            400,
            "ArgumentInvalid",
        ),
        (
            "PUT /jobs/v2/a%20b",
            json!({"type": "scheduleUpdateTwin", "updateTwin": {}}),
            400,
            "ArgumentInvalid",
        ),
        ("GET /jobs/v2/none", Value::Null, 404, "JobNotFound"),
        ("POST /jobs/v2/none/cancel", Value::Null, 404, "JobNotFound"),
    ] {
        Fixture::is(&hub.ask(line, body).await, line, status, code);
    }
}
