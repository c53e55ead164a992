use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::fixture::{Answered, Fixture};

fn lines(answered: &Answered) -> Vec<Value> {
    let text = std::str::from_utf8(&answered.body).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn events_are_read_page_by_page_with_a_cursor() {
    let hub = Fixture::new().await;
    hub.say("application/json", b"{\"t\":1}").await;
    hub.say("text/plain", b"two").await;
    hub.say("", b"\xff\x00").await;
    let first = hub.get("/messages/events?max=2").await;
    assert_eq!(first.header("content-type"), "application/x-ndjson");
    let events = lines(&first);
    assert_eq!((&events[0]["body"], &events[1]["body"]), (&json!({"t": 1}), &json!("two")));
    assert_eq!(events[0]["properties"], json!({"a": "b", "bare": null}));
    assert_eq!(
        (&events[1]["region"], &events[1]["offset"], &events[1]["late"], &events[1]["deviceId"]),
        (&json!("paris"), &json!(1), &json!(false), &json!("online"))
    );
    assert_eq!(first.header("x-farshore-cursor"), "{\"paris\":2}");
    let rest = hub.get("/messages/events?cursor=%7B%22paris%22%3A2%7D").await;
    assert_eq!(lines(&rest)[0]["bodyBase64"], "/wA=");
    assert_eq!(lines(&hub.get("/messages/events?from=latest").await).len(), 0);
}

#[tokio::test]
async fn a_long_poll_returns_with_the_first_event() {
    let hub = Fixture::new().await;
    let poll = hub.get("/messages/events?from=latest&wait=60");
    let (polled, ()) = tokio::join!(poll, async {
        tokio::task::yield_now().await;
        hub.say("text/plain", b"late").await;
    });
    assert_eq!(lines(&polled)[0]["body"], "late");
}

#[tokio::test]
async fn a_group_goes_on_where_it_stood() {
    let hub = Fixture::new().await;
    for body in [b"0", b"1", b"2"] {
        hub.say("text/plain", body).await;
    }
    let read = hub.get("/messages/events?group=billing&max=2").await;
    assert_eq!(lines(&read).len(), 2, "a group that nobody knows begins at the oldest");
    let cursor: Value = serde_json::from_str(read.header("x-farshore-cursor")).unwrap();
    let stored =
        hub.ask("POST /messages/events/checkpoint", json!({"group": "billing", "cursor": cursor})).await;
    assert_eq!(stored.status, 204);
    assert_eq!(lines(&hub.get("/messages/events?group=billing").await)[0]["body"], "2");
    assert_eq!(
        hub.get("/messages/events/groups").await.json(),
        json!([{"group": "billing", "cursor": {"paris": 2}}])
    );
    assert_eq!(hub.ask("DELETE /messages/events/groups/billing", Value::Null).await.status, 204);
    let again = hub.ask("DELETE /messages/events/groups/billing", Value::Null).await;
    Fixture::is(&again, "forgotten", 404, "GroupNotFound");
    for (line, body) in [
        ("GET /messages/events?group=a%20b", Value::Null),
        ("GET /messages/events?cursor=5", Value::Null),
        ("GET /messages/events?from=middle", Value::Null),
        ("GET /messages/events?max=x", Value::Null),
        ("POST /messages/events/checkpoint", json!({"group": "", "cursor": {}})),
        ("POST /messages/events/checkpoint", json!({"group": "a", "cursor": {"paris": -1}})),
        ("POST /messages/events/checkpoint", json!({"group": "a"})),
    ] {
        Fixture::is(&hub.ask(line, body).await, line, 400, "ArgumentInvalid");
    }
}

#[tokio::test]
async fn a_stream_sends_each_event_with_its_cursor() {
    let hub = Fixture::new().await;
    hub.say("text/plain", b"one").await;
    let mut stream =
        hub.raw("GET /messages/events", &[("accept", "text/event-stream")], b"").await.into_body();
    let mut text = String::new();
    let mut until = async |wanted: &str| {
        while !text.contains(wanted) {
            let frame = tokio::time::timeout(Duration::from_secs(30), stream.frame())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    };
    until("\"one\"").await;
    hub.say("text/plain", b"two").await;
    until("id: {\"paris\":2}\nevent: telemetry\ndata: ").await;
    let resumed = hub.raw(
        "GET /messages/events",
        &[("accept", "text/event-stream"), ("last-event-id", "{\"paris\":1}")],
        b"",
    );
    let mut resumed = resumed.await.into_body();
    resumed.frame().await.unwrap().unwrap();
    let event = resumed.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(std::str::from_utf8(&event).unwrap().contains("\"two\""));
}

#[tokio::test]
async fn a_stream_ends_when_the_key_that_opened_it_is_changed() {
    let hub = Fixture::new().await;
    let accept = [("accept", "text/event-stream")];
    let mut stream = hub.raw("GET /messages/events", &accept, b"").await.into_body();
    stream.frame().await.unwrap().unwrap();
    let policies = hub.registry.policies().unwrap();
    let owner = policies.into_iter().find(|policy| policy.name == "iothubowner").unwrap();
    let changed = crate::sas::Policy { secondary: crate::sas::new_key(), ..owner };
    hub.registry.set_policy(changed).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(30), stream.frame()).await.unwrap();
    assert!(end.is_none(), "the token was signed with the key that was changed");
}

#[tokio::test]
async fn readers_that_wait_are_counted() {
    let hub = Fixture::new().await;
    let accept = [("accept", "text/event-stream")];
    let mut streams = Vec::new();
    for _ in 0..crate::rest::events::READERS_MAX {
        streams.push(hub.raw("GET /messages/events", &accept, b"").await);
    }
    assert!(streams.iter().all(|stream| stream.status() == 200));
    let more = hub.bytes("GET /messages/events", &accept, b"").await;
    Fixture::is(&more, "one more", 429, "ThrottlingException");
    assert_eq!(hub.get("/messages/events").await.status, 200, "who does not wait is answered");
    streams.pop();
    assert_eq!(hub.raw("GET /messages/events", &accept, b"").await.status(), 200);
}
