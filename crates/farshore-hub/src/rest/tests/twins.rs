use serde_json::{Value, json};

use super::fixture::Fixture;

#[tokio::test]
async fn twins_are_merged_and_replaced() {
    let hub = Fixture::new().await;
    let device = hub.create("pump").await;
    let read = hub.get("/twins/pump").await.json();
    assert_eq!(read["deviceEtag"], device["etag"]);
    assert_ne!(read["etag"], device["etag"]);
    assert_eq!(read["properties"]["desired"]["$metadata"], json!({}));

    let patch = json!({ "tags": { "place": "paris", "n": { "a": 1, "b": 2 } }, "properties": { "desired": { "limit": 7 } } });
    let merged = hub.ask("PATCH /twins/pump", patch).await.json();
    assert_eq!(merged["tags"], json!({ "place": "paris", "n": { "a": 1, "b": 2 } }));
    assert_eq!(merged["properties"]["desired"]["limit"], 7);
    assert!(merged["properties"]["desired"]["$metadata"]["limit"]["$lastUpdated"].is_string());
    let version = |twin: &Value| twin["properties"]["desired"]["$version"].as_u64().unwrap();
    assert!(version(&merged) > version(&read));
    assert_eq!(merged["deviceEtag"], device["etag"], "a twin's change is not the identity's");

    let merged = hub.ask("PATCH /twins/pump", json!({ "tags": { "n": { "a": null } } })).await.json();
    assert_eq!(merged["tags"], json!({ "place": "paris", "n": { "b": 2 } }));

    // What was read can be written back as it is.
    let etag = merged["etag"].as_str().unwrap().to_owned();
    let same = hub.with("PUT /twins/pump", &[("if-match", &etag)], merged.clone()).await.json();
    assert_eq!((&same["tags"], &same["properties"]["desired"]["limit"]), (&merged["tags"], &json!(7)));

    let replaced = hub.ask("PUT /twins/pump", json!({ "tags": { "only": 1 } })).await.json();
    assert_eq!(replaced["tags"], json!({ "only": 1 }));
    assert_eq!(replaced["properties"]["desired"].get("limit"), None);
    assert!(version(&replaced) > version(&merged));
}

#[tokio::test]
async fn wrong_changes_of_twins_are_refused_and_change_nothing() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    hub.ask("PATCH /twins/pump", json!({ "tags": { "a": 1 } })).await;
    let mut deep = json!(1);
    for _ in 0..14 {
        deep = json!({ "a": deep });
    }
    for (line, headers, body, status, code) in [
        ("PATCH /twins/none", &[][..], json!({}), 404, "DeviceNotFound"),
        ("PATCH /twins/pump/modules/none", &[], json!({}), 404, "ModuleNotFound"),
        ("PATCH /twins/pump", &[("if-match", "\"stale\"")], json!({}), 412, "PreconditionFailed"),
        ("PATCH /twins/pump", &[], json!({ "tags": 5 }), 400, "ArgumentInvalid"),
        ("PATCH /twins/pump", &[], json!({ "tags": { "b": "x".repeat(9000) } }), 400, "ArgumentInvalid"),
        (
            "PATCH /twins/pump",
            &[],
            json!({ "properties": { "desired": { "b": "x".repeat(40_000) } } }),
            400,
            "ArgumentInvalid",
        ),
        ("PATCH /twins/pump", &[], json!({ "tags": deep }), 400, "ArgumentInvalid"),
        ("PATCH /twins/pump", &[], json!({ "tags": { "a.b": 1 } }), 400, "ArgumentInvalid"),
        ("PATCH /twins/pump", &[], Value::Null, 400, "ArgumentInvalid"),
    ] {
        Fixture::is(&hub.with(line, headers, body).await, line, status, code);
    }
    let broken = hub.bytes("PATCH /twins/pump", &[], b"{\"tags\": {").await;
    Fixture::is(&broken, "broken JSON", 400, "ArgumentInvalid");
    let nested = "[".repeat(100_000);
    let nested = hub.bytes("PATCH /twins/pump", &[], nested.as_bytes()).await;
    Fixture::is(&nested, "nested JSON", 400, "ArgumentInvalid");
    assert_eq!(hub.get("/twins/pump").await.json()["tags"], json!({ "a": 1 }));
}

#[tokio::test]
async fn methods_are_called_once_and_their_ends_have_codes() {
    let hub = Fixture::new().await;
    hub.create("online").await;
    hub.create("pump").await;
    let call =
        |name: &str| json!({ "methodName": name, "payload": { "a": 1 }, "responseTimeoutInSeconds": 5 });
    let echoed = hub.ask("POST /twins/online/methods", call("echo")).await;
    assert_eq!(echoed.json(), json!({ "status": 200, "payload": { "a": 1 } }));
    for (line, body, status, code) in [
        ("POST /twins/pump/methods", call("echo"), 404, "DeviceNotOnline"),
        ("POST /twins/none/methods", call("echo"), 404, "DeviceNotFound"),
        ("POST /twins/online/methods", call("hang"), 504, "GatewayTimeout"),
        ("POST /twins/online/methods", call("other"), 400, "ArgumentInvalid"),
        ("POST /twins/online/methods", call(""), 400, "ArgumentInvalid"),
        ("POST /twins/online/methods", json!({}), 400, "ArgumentInvalid"),
        (
            "POST /twins/online/methods",
            json!({"methodName": "echo", "payload": "x".repeat(140_000)}),
            413,
            "MessageTooLarge",
        ),
        (
            "POST /twins/online/methods",
            json!({"methodName": "echo", "responseTimeoutInSeconds": 301}),
            400,
            "ArgumentInvalid",
        ),
    ] {
        Fixture::is(&hub.ask(line, body).await, line, status, code);
    }
}
