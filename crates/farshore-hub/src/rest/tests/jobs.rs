use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fixture::{Answered, Fixture};

/// The job once it has ended.
async fn ended(hub: &Fixture, created: &Answered) -> Value {
    assert_eq!(created.status, 200, "{}", created.json());
    let path = format!("/jobs/{}", created.json()["jobId"].as_str().unwrap());
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let job = hub.get(&path).await.json();
        if job["status"] != "running" {
            return job;
        }
        assert!(Instant::now() < deadline, "{job}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn many_identities_in_one_request() {
    let hub = Fixture::new().await;
    let create = json!([
        {"id": "a", "importMode": "create"},
        {"id": "b", "importMode": "Create", "status": "disabled", "tags": {"x": 1}},
        {"id": "a b", "importMode": "create"},
        ["c"],
    ]);
    let answered = hub.ask("POST /devices", create).await;
    assert_eq!((answered.status, &answered.json()["isSuccessful"]), (200, &json!(false)));
    let errors = answered.json()["errors"].as_array().unwrap().clone();
    assert_eq!(errors.len(), 2);
    assert_eq!((&errors[0]["deviceId"], &errors[0]["errorCode"]), (&json!("a b"), &json!("ArgumentInvalid")));
    assert_eq!(hub.get("/twins/b").await.json()["tags"], json!({"x": 1}));
    for (item, code) in [
        (json!({"id": "a", "importMode": "create"}), "DeviceAlreadyExists"),
        (json!({"id": "none", "importMode": "Update"}), "DeviceNotFound"),
        (json!({"id": "none", "importMode": "delete"}), "DeviceNotFound"),
        (json!({"id": "a", "importMode": "UpdateIfMatchETag", "eTag": "stale"}), "PreconditionFailed"),
        (json!({"id": "a", "importMode": "DeleteIfMatchETag", "eTag": "stale"}), "PreconditionFailed"),
        (json!({"id": "a", "importMode": "dance"}), "ArgumentInvalid"),
    ] {
        let answered = hub.ask("POST /devices", json!([item])).await.json();
        assert_eq!(answered["errors"][0]["errorCode"], code, "{item}");
    }
    let deleted = hub.ask("POST /devices", json!([{"id": "a", "importMode": "delete"}])).await.json();
    assert_eq!(deleted, json!({"isSuccessful": true, "errors": [], "warnings": []}));
    let many: Vec<Value> = (0..101).map(|id| json!({"id": format!("m{id}")})).collect();
    Fixture::is(&hub.ask("POST /devices", many.into()).await, "101", 400, "ArgumentInvalid");
    Fixture::is(&hub.ask("POST /devices", json!([])).await, "none", 400, "ArgumentInvalid");
    Fixture::is(&hub.ask("POST /devices", json!({})).await, "no list", 400, "ArgumentInvalid");
    let twice = hub.ask("POST /devices", json!([{"id": "x"}, {"id": "x"}])).await;
    Fixture::is(&twice, "twice", 400, "DeviceDefinedMultipleTimes");
}

#[tokio::test]
async fn what_one_hub_exports_another_imports() {
    let (one, other) = (Fixture::new().await, Fixture::new().await);
    for id in ["a", "b"] {
        one.create(id).await;
    }
    one.ask("PUT /devices/a/modules/m", json!({})).await;
    one.ask("PATCH /twins/a", json!({"tags": {"x": 1}, "properties": {"desired": {"y": 2}}})).await;
    let to = one.uri("out");
    let job = one.ask("POST /jobs/create", json!({"type": "export", "outputBlobContainerUri": to})).await;
    let job = ended(&one, &job).await;
    assert_eq!(
        (&job["status"], &job["progress"], &job["result"]),
        (&json!("completed"), &json!(100), &json!({"exported": 3}))
    );

    let mut exported = std::fs::read_to_string(one.path("out").join("devices.txt")).unwrap();
    exported.push_str("{\"id\": \"broken\n");
    std::fs::create_dir_all(other.path("in")).unwrap();
    std::fs::write(other.path("in").join("devices.txt"), exported).unwrap();
    let import = json!({
        "type": "import", "inputBlobContainerUri": other.uri("in"), "outputBlobContainerUri": other.uri("in"),
    });
    let job = other.ask("POST /jobs/create", import).await;
    let job = ended(&other, &job).await;
    assert_eq!(
        (&job["status"], &job["result"]["created"], &job["result"]["failed"]),
        (&json!("completed"), &json!(3), &json!(1))
    );
    let errors = std::fs::read_to_string(other.path("in").join("importErrors.log")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(errors.trim()).unwrap()["line"], 4);
    for (path, field) in [
        ("/devices/a", "generationId"),
        ("/devices/a", "etag"),
        ("/devices/a", "authentication"),
        ("/twins/a", "tags"),
    ] {
        assert_eq!(other.get(path).await.json()[field], one.get(path).await.json()[field], "{path} {field}");
    }
    assert_eq!(other.get("/jobs").await.json().as_array().unwrap().len(), 1);
    let without = json!({"type": "export", "outputBlobContainerUri": one.uri("out"), "outputBlobName": "k.txt", "excludeKeysInExport": true});
    let job = one.ask("POST /jobs/create", without).await;
    ended(&one, &job).await;
    let text = std::fs::read_to_string(one.path("out").join("k.txt")).unwrap();
    let key = one.get("/devices/a").await.json()["authentication"]["symmetricKey"]["primaryKey"].clone();
    assert!(!text.contains(key.as_str().unwrap()));
}

#[tokio::test]
async fn wrong_jobs_are_refused_and_jobs_can_be_cancelled() {
    let hub = Fixture::new().await;
    hub.create("a").await;
    for (body, code) in [
        (json!({"type": "export"}), "ArgumentInvalid"),
        (json!({"type": "dance", "outputBlobContainerUri": hub.uri("x")}), "ArgumentInvalid"),
        (json!({"type": "export", "outputBlobContainerUri": "file:///etc"}), "BlobContainerValidationError"),
        (json!({"type": "export", "outputBlobContainerUri": "https://x/y"}), "BlobContainerValidationError"),
        (
            json!({"type": "export", "outputBlobContainerUri": hub.uri("x"), "outputBlobName": "../y"}),
            "BlobContainerValidationError",
        ),
        (
            json!({"type": "import", "inputBlobContainerUri": hub.uri("none"), "outputBlobContainerUri": hub.uri("x")}),
            "BlobContainerValidationError",
        ),
    ] {
        Fixture::is(&hub.ask("POST /jobs/create", body.clone()).await, &body.to_string(), 400, code);
    }
    Fixture::is(&hub.get("/jobs/none").await, "none", 404, "JobNotFound");
    Fixture::is(&hub.ask("DELETE /jobs/none", Value::Null).await, "none", 404, "JobNotFound");
    // This runtime has one thread: the job has not begun when it is cancelled, and meanwhile no other begins.
    let export = json!({"type": "export", "outputBlobContainerUri": hub.uri("x")});
    let job = hub.ask("POST /jobs/create", export.clone()).await;
    let path = format!("/jobs/{}", job.json()["jobId"].as_str().unwrap());
    assert_eq!(hub.ask(&format!("DELETE {path}"), Value::Null).await.status, 204);
    assert_eq!(ended(&hub, &job).await["status"], "cancelled");
    assert!(!hub.path("x").join("devices.txt").exists() && !hub.path("x").join("devices.txt.part").exists());
}

#[tokio::test]
async fn an_import_ends_when_the_hub_serves_no_more() {
    let hub = Fixture::new().await;
    std::fs::create_dir_all(hub.path("in")).unwrap();
    std::fs::write(hub.path("in").join("devices.txt"), "{\"id\":\"a\"}\n".repeat(10)).unwrap();
    let import = json!({"type": "import", "inputBlobContainerUri": hub.uri("in"), "outputBlobContainerUri": hub.uri("in")});
    let job = hub.ask("POST /jobs/create", import).await;
    hub.behind.fence_meanwhile();
    let job = ended(&hub, &job).await;
    assert_eq!(job["status"], "failed");
    assert!(job["failureReason"].as_str().unwrap().contains("moved to another region"), "{job}");
}
