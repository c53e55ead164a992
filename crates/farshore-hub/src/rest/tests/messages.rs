use serde_json::{Value, json};

use super::fixture::Fixture;
use crate::names::Key;
use crate::record::{Ack, Outcome};

const LINE: &str = "POST /devices/pump/messages/devicebound";

#[tokio::test]
async fn a_message_waits_for_its_device_and_is_purged() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    let headers = [
        ("iothub-messageid", "m-1"),
        ("iothub-ack", "full"),
        ("content-type", "application/json"),
        ("iothub-properties", "Zone=a%20b&bare"),
        ("iothub-app-speed", "3"),
    ];
    let sent = hub.bytes(LINE, &headers, b"{\"go\":1}").await;
    assert_eq!((sent.status, sent.json()), (201, json!({ "messageId": "m-1" })));
    let key = Key::parse("pump").unwrap();
    let waiting = hub.registry.messages(&key).unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!((waiting[0].ack, &waiting[0].body[..]), (Ack::Full, &b"{\"go\":1}"[..]));
    assert!(waiting[0].system.contains(&("$.ct".to_owned(), "application/json".to_owned())));
    assert!(
        waiting[0].system.contains(&("$.to".to_owned(), "/devices/pump/messages/devicebound".to_owned()))
    );
    let properties = [("Zone", Some("a b")), ("bare", None), ("speed", Some("3"))];
    let properties = properties.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
    assert_eq!(waiting[0].properties, properties);
    assert_eq!(hub.get("/devices/pump").await.json()["cloudToDeviceMessageCount"], 1);
    let purged = hub.ask("DELETE /devices/pump/commands", Value::Null).await;
    assert_eq!(purged.json(), json!({ "totalMessagesPurged": 1, "deviceId": "pump", "moduleId": null }));
    assert_eq!(hub.get("/twins/pump").await.json()["cloudToDeviceMessageCount"], 0);
}

#[tokio::test]
async fn wrong_messages_and_full_queues_are_refused() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    let large = vec![b'x'; 65 * 1024];
    for (line, headers, body, status, code) in [
        ("POST /devices/none/messages/devicebound", &[][..], &b"x"[..], 404, "DeviceNotFound"),
        (LINE, &[], &large, 413, "MessageTooLarge"),
        (LINE, &[("iothub-ack", "maybe")], b"x", 400, "ArgumentInvalid"),
        (LINE, &[("iothub-expiry", "yesterday")], b"x", 400, "ArgumentInvalid"),
        (LINE, &[("iothub-expiry", "2001-01-01T00:00:00Z")], b"x", 400, "ArgumentInvalid"),
        (LINE, &[("iothub-expiry", "999999")], b"x", 400, "ArgumentInvalid"),
        (LINE, &[("iothub-properties", "%24.to=x")], b"x", 400, "ArgumentInvalid"),
        (LINE, &[("iothub-properties", "a=%zz")], b"x", 400, "ArgumentInvalid"),
    ] {
        Fixture::is(&hub.bytes(line, headers, body).await, line, status, code);
    }
    for _ in 0..50 {
        assert_eq!(hub.bytes(LINE, &[], b"x").await.status, 201);
    }
    let one_more = hub.bytes(LINE, &[], b"x").await;
    Fixture::is(&one_more, "the 51st", 403, "DeviceMaximumQueueDepthExceeded");
}

#[tokio::test]
async fn feedback_is_given_out_under_a_lock() {
    let hub = Fixture::new().await;
    hub.create("pump").await;
    const NEXT: &str = "/messages/serviceBound/feedback";
    assert_eq!(hub.get(NEXT).await.status, 204);
    hub.bytes(LINE, &[("iothub-messageid", "m-1"), ("iothub-ack", "positive")], b"x").await;
    let key = Key::parse("pump").unwrap();
    let id = hub.registry.messages(&key).unwrap()[0].id.clone();
    assert!(hub.registry.finish_message(&key, &id, Outcome::Delivered).await.unwrap());

    let given = hub.get(NEXT).await;
    assert_eq!(given.json()[0]["originalMessageId"], "m-1");
    assert_eq!(given.json()[0]["statusCode"], "Success");
    assert_eq!(hub.get(NEXT).await.status, 204, "somebody has it");
    let lock = given.header("etag").trim_matches('"').to_owned();
    assert_eq!(hub.ask(&format!("POST {NEXT}/{lock}/abandon"), Value::Null).await.status, 204);
    let lock = hub.get(NEXT).await.header("etag").trim_matches('"').to_owned();
    let delete = format!("DELETE {NEXT}/{lock}");
    assert_eq!(hub.ask(&delete, Value::Null).await.status, 204);
    Fixture::is(&hub.ask(&delete, Value::Null).await, "twice", 412, "DeviceMessageLockLost");
    assert_eq!(hub.get(NEXT).await.status, 204);
}
