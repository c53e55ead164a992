use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::fixture::Fixture;
use crate::rest::{Serving, serve};

#[tokio::test]
async fn a_hub_that_does_not_serve_reads_and_changes_nothing() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    for (serving, code) in
        [(Serving::Standby, "UnsupportedOperationOnReplica"), (Serving::FailingOver, "IotHubFailingOver")]
    {
        hub.behind.set(serving);
        let read = hub.get("/devices/pump").await;
        assert_eq!(
            (read.status, read.header("connection")),
            (200, "close"),
            "clients look the name up again"
        );
        for (line, body) in [
            ("GET /messages/events", Value::Null),
            ("GET /messages/events?wait=60&group=billing", Value::Null),
            ("PUT /devices/new", json!({})),
            ("DELETE /devices/pump", Value::Null),
            ("PATCH /twins/pump", json!({})),
            ("POST /twins/pump/methods", json!({"methodName": "echo"})),
            ("POST /devices/pump/messages/devicebound", Value::Null),
            ("POST /messages/events/checkpoint", json!({"group": "a", "cursor": {}})),
            ("PUT /jobs/v2/a", json!({})),
        ] {
            let answered = hub.ask(line, body).await;
            Fixture::is(&answered, line, 503, code);
            assert!(!answered.header("retry-after").is_empty());
            assert_eq!(answered.header("connection"), "close");
        }
    }
    hub.behind.set(Serving::Active);
    assert_eq!(hub.get("/devices/pump").await.header("connection"), "");
    assert_eq!(hub.get("/devices/new").await.status, 404);
}

#[tokio::test]
async fn a_hub_answers_to_its_names_only() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    let ask = async |host: &str| {
        let request = Request::get("/devices/pump")
            .header("host", host)
            .header("authorization", hub.token("iothubowner"));
        serve(&hub.hub, request.body(Full::new(Bytes::new())).unwrap()).await
    };
    assert_eq!(ask("contoso.hub").await.status(), 200);
    assert_eq!(ask("CONTOSO.hub:8443").await.status(), 200);
    let other = ask("other.hub").await;
    assert_eq!(
        (other.status().as_u16(), &other.headers()["iothub-errorcode"]),
        (404, &http::HeaderValue::from_static("IotHubNotFound"))
    );
}

#[tokio::test]
async fn what_was_changed_while_the_hub_moved_is_not_acknowledged() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    hub.create("online").await;
    hub.behind.fence_meanwhile();
    for (line, body) in [
        ("PUT /devices/new", json!({})),
        ("PATCH /twins/pump", json!({"tags": {"a": 1}})),
        ("POST /devices", json!([{"id": "bulk"}])),
        ("POST /devices/pump/messages/devicebound", Value::Null),
        ("POST /messages/events/checkpoint", json!({"group": "a", "cursor": {}})),
        ("DELETE /devices/pump", Value::Null),
    ] {
        Fixture::is(&hub.ask(line, body).await, line, 503, "IotHubFailingOver");
    }
    let called = hub.ask("POST /twins/online/methods", json!({"methodName": "echo", "payload": 1})).await;
    assert_eq!(called.status, 200, "a method keeps nothing");
    assert_eq!(hub.get("/devices/online").await.status, 200, "nor does reading");
}

#[tokio::test]
async fn readers_who_wait_are_told_at_once_that_the_hub_has_moved() {
    let hub = Fixture::new().await;
    let accept = [("accept", "text/event-stream")];
    let mut stream = hub.raw("GET /messages/events", &accept, b"").await.into_body();
    assert!(stream.frame().await.unwrap().unwrap().is_data(), "the stream is open");
    let (waited, ended, ()) = tokio::join!(
        hub.get("/messages/events?from=latest&wait=60"),
        async { stream.frame().await.is_none() },
        async {
            tokio::task::yield_now().await;
            hub.behind.set(Serving::FailingOver);
        }
    );
    Fixture::is(&waited, "a long poll", 503, "IotHubFailingOver");
    assert_eq!(waited.header("connection"), "close");
    assert!(!waited.header("retry-after").is_empty());
    assert!(ended, "a stream ends, and its reader comes again");
    let refused = hub.bytes("GET /messages/events", &accept, b"").await;
    Fixture::is(&refused, "a stream", 503, "IotHubFailingOver");
}
