//! Twins, methods and messages of one hub.

use super::*;
use crate::fleet::{InvokeError, SendError};
use crate::mqtt::behind::{Sent, TwinError};
use crate::record::{Ack, Message, Outcome};

/// A hub with a device that is connected and subscribed to everything.
async fn listening() -> (Hub, String, Arc<dyn Session>) {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    let session = hub.connect("pump", &sas).await;
    session.subscribe(ALL).await.unwrap();
    (hub, sas, session)
}

fn message(body: &str) -> Message {
    Message::new(Bytes::from(body.to_owned()))
}

async fn sent(session: &Arc<dyn Session>) -> Sent {
    match next(session).await {
        Outgoing::Message(sent) => sent,
        other => panic!("this is no message: {other:?}"),
    }
}

#[tokio::test]
async fn a_twin_is_read_and_reported() {
    let (hub, _, session) = listening().await;
    hub.edit("pump", vec![desired(json!({ "speed": 3 }))]).await;
    let version = session.report(json!({ "speed": 2, "valve": { "open": true } })).await.unwrap();
    let twin: Value = serde_json::from_slice(&session.twin().await.unwrap()).unwrap();
    assert_eq!(twin["desired"]["speed"], 3);
    assert!(twin["desired"]["$version"].is_u64());
    assert_eq!(twin["reported"], json!({ "speed": 2, "valve": { "open": true }, "$version": version }));
    assert!(session.report(json!({ "valve": null })).await.unwrap() > version);
    let twin: Value = serde_json::from_slice(&session.twin().await.unwrap()).unwrap();
    assert_eq!(twin["reported"]["speed"], 2);
    assert!(twin["reported"].get("valve").is_none());
    for wrong in [json!(7), json!({ "a.b": 1 }), json!({ "big": "x".repeat(40_000) })] {
        assert!(matches!(session.report(wrong).await, Err(TwinError::Refused(_))));
    }
}

#[tokio::test]
async fn changes_of_desired_properties_come_in_their_order_and_once() {
    let (hub, _, session) = listening().await;
    let mut last = 0;
    for count in 0..50 {
        hub.edit("pump", vec![desired(json!({ "count": count, "old": null }))]).await;
    }
    for count in 0..50 {
        let Outgoing::Desired { version, body } = next(&session).await else { panic!("another thing came") };
        let patch: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(patch["count"], count);
        assert_eq!(patch["$version"], version);
        assert!(version > last);
        last = version;
    }
    assert!(is_quiet(&session).await);
}

#[tokio::test]
async fn what_changed_while_a_device_was_away_is_in_its_twin_and_not_pushed() {
    let (hub, sas, session) = listening().await;
    session.closed(None).await;
    hub.edit("pump", vec![desired(json!({ "speed": 1 }))]).await;
    let session = hub.connect("pump", &sas).await;
    assert!(is_quiet(&session).await);
    hub.edit("pump", vec![desired(json!({ "speed": 2 }))]).await;
    assert!(matches!(next(&session).await, Outgoing::Desired { .. }));
}

#[tokio::test]
async fn a_method_is_called_and_answered() {
    let (hub, _, session) = listening().await;
    let fleet = hub.fleet.clone();
    let called = tokio::spawn(async move { fleet.invoke(&key("pump"), call("start")).await });
    let Outgoing::Method { rid, name, body } = next(&session).await else { panic!("another thing came") };
    assert_eq!((&*name, &*body), ("start", &br#"{"fast":true}"#[..]));
    session.answered("ffffff", 500, Bytes::new()).await;
    session.answered("not a number", 500, Bytes::new()).await;
    session.answered(&rid, 200, Bytes::from_static(b"[1]")).await;
    session.answered(&rid, 500, Bytes::new()).await;
    assert_eq!(within(called).await.unwrap(), Ok((200, json!([1]))));
}

#[tokio::test]
async fn a_method_that_has_no_answer_says_why() {
    let (hub, _, session) = listening().await;
    let pump = key("pump");
    hub.register("away").await;
    let cases = [
        (key("unknown"), call("start"), InvokeError::Unknown(key("unknown"))),
        (key("away"), call("start"), InvokeError::NotOnline(key("away"))),
    ];
    for (of, call, expected) in cases {
        assert_eq!(hub.fleet.invoke(&of, call).await, Err(expected));
    }
    assert!(matches!(hub.fleet.invoke(&pump, call("a/b")).await, Err(InvokeError::Refused(_))));
    let brief = MethodCall { response_timeout: Duration::from_millis(20), ..call("start") };
    assert!(matches!(hub.fleet.invoke(&pump, brief).await, Err(InvokeError::TimedOut { .. })));
    // It was not read from the connection before its time was over: it is not sent any more.
    assert!(is_quiet(&session).await);

    let fleet = hub.fleet.clone();
    let called = tokio::spawn(async move { fleet.invoke(&key("pump"), call("start")).await });
    assert!(matches!(next(&session).await, Outgoing::Method { .. }));
    session.closed(None).await;
    assert_eq!(within(called).await.unwrap(), Err(InvokeError::Disconnected(pump)));
}

#[tokio::test]
async fn a_method_waits_for_its_device_and_is_not_sent_to_the_next_connection() {
    let (hub, sas, session) = listening().await;
    session.closed(None).await;
    let fleet = hub.fleet.clone();
    let waits = MethodCall { connect_timeout: PATIENCE, ..call("start") };
    let called = tokio::spawn(async move { fleet.invoke(&key("pump"), waits).await });
    let second = hub.connect("pump", &sas).await;
    assert!(matches!(next(&second).await, Outgoing::Method { .. }));
    let third = hub.connect("pump", &sas).await;
    assert_eq!(within(called).await.unwrap(), Err(InvokeError::Disconnected(key("pump"))));
    assert!(is_quiet(&third).await, "a method is sent once");
}

#[tokio::test]
async fn a_message_is_done_when_the_device_says_so_and_comes_again_until_then() {
    let (hub, sas, session) = listening().await;
    let pump = key("pump");
    let mut first = message("1");
    first.ack = Ack::Full;
    first.system.push(("$.mid".to_owned(), "one".to_owned()));
    first.properties.push(("bare".to_owned(), None));
    assert_eq!(hub.fleet.send(&pump, first).await.unwrap(), "one");
    hub.fleet.send(&pump, message("2")).await.unwrap();
    let got = sent(&session).await;
    assert_eq!((&*got.body, got.again), (&b"1"[..], false));
    assert!(got.system.contains(&("$.to".to_owned(), "/devices/pump/messages/devicebound".to_owned())));
    assert!(got.properties.contains(&("iothub-ack".to_owned(), Some("full".to_owned()))));
    session.completed(got.lock).await;
    session.completed(got.lock).await;
    assert_eq!(&*sent(&session).await.body, b"2");
    assert!(is_quiet(&session).await, "what is on its way is not sent twice over one connection");
    within(async {
        while hub.fleet.registry().messages(&pump).unwrap()[0].deliveries == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let second = hub.connect("pump", &sas).await;
    let again = sent(&second).await;
    assert_eq!((&*again.body, again.again), (&b"2"[..], true));
    second.completed(again.lock).await;
    let third = hub.connect("pump", &sas).await;
    assert!(is_quiet(&third).await);
    let feedback = hub.fleet.registry().feedback(10).unwrap();
    let told: Vec<_> = feedback.iter().map(|news| (&*news.message_id, news.outcome)).collect();
    assert_eq!(told, [("one", Outcome::Delivered)]);
}

#[tokio::test]
async fn nothing_is_sent_before_the_device_listens() {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    let session = hub.connect("pump", &sas).await;
    hub.fleet.send(&key("pump"), message("1")).await.unwrap();
    assert!(is_quiet(&session).await);
    assert_eq!(hub.fleet.registry().messages(&key("pump")).unwrap()[0].deliveries, 0);
    session.subscribe(Subs { messages: Some(1), ..Subs::default() }).await.unwrap();
    assert_eq!(&*sent(&session).await.body, b"1");
}

#[tokio::test]
async fn messages_have_limits() {
    let (hub, _, session) = listening().await;
    session.closed(None).await;
    let pump = key("pump");
    assert_eq!(hub.fleet.send(&key("unknown"), message("1")).await, Err(SendError::Unknown(key("unknown"))));
    let large = hub.fleet.send(&pump, message(&"x".repeat(65_537))).await;
    assert!(matches!(large, Err(SendError::TooLarge { .. })));
    for expires in [now(), now().after(Duration::from_secs(49 * 3600))] {
        let wrong = Message { expires: Some(expires), ..message("1") };
        assert!(matches!(hub.fleet.send(&pump, wrong).await, Err(SendError::BadExpiry(_))));
    }
    for count in 0..50 {
        hub.fleet.send(&pump, message(&count.to_string())).await.unwrap();
    }
    assert_eq!(hub.fleet.send(&pump, message("51")).await, Err(SendError::QueueFull(pump.clone())));
    assert_eq!(hub.fleet.purge(&pump).await, Ok(50));
    let brief = || Message { expires: Some(now().after(Duration::from_millis(200))), ..message("brief") };
    for _ in 0..50 {
        hub.fleet.send(&pump, brief()).await.unwrap();
    }
    // Those whose time is over make room for others.
    within(async {
        while let Err(full) = hub.fleet.send(&pump, message("1")).await {
            assert_eq!(full, SendError::QueueFull(pump.clone()));
        }
    })
    .await;
    hub.fleet.purge(&pump).await.unwrap();
    assert_eq!(hub.fleet.registry().messages(&pump).unwrap().len(), 0);
    hub.fleet.fence().await;
    assert_eq!(hub.fleet.send(&pump, message("1")).await, Err(SendError::NotServing));
}

#[tokio::test]
async fn a_message_that_expired_or_was_sent_in_vain_too_often_ends_and_its_sender_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options("oslo", &dir);
    options.messages.deliveries_max = 2;
    let hub = Hub { fleet: Fleet::open(options).unwrap(), dir };
    hub.fleet.open_to_devices(Epoch(1), Standing::Current);
    let sas = hub.register("pump").await;
    let session = hub.connect("pump", &sas).await;
    session.subscribe(ALL).await.unwrap();
    let pump = key("pump");
    let brief = Message {
        expires: Some(now().after(Duration::from_millis(1))),
        ack: Ack::Negative,
        ..message("brief")
    };
    session.closed(None).await;
    hub.fleet.send(&pump, brief).await.unwrap();
    hub.fleet.send(&pump, Message { ack: Ack::Negative, ..message("stubborn") }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    for delivery in 1..=2 {
        let session = hub.connect("pump", &sas).await;
        assert_eq!(&*sent(&session).await.body, b"stubborn");
        within(async {
            while hub.fleet.registry().messages(&pump).unwrap()[0].deliveries < delivery {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let session = hub.connect("pump", &sas).await;
    assert!(is_quiet(&session).await);
    let feedback = || hub.fleet.registry().feedback(10).unwrap();
    within(async {
        while feedback().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut told: Vec<_> = feedback().into_iter().map(|news| news.outcome).collect();
    told.sort();
    assert_eq!(told, [Outcome::DeliveredTooOften, Outcome::Expired]);
}

#[tokio::test]
async fn the_last_words_of_a_device_are_telemetry() {
    let (hub, _, session) = listening().await;
    session.closed(Some(event("gone"))).await;
    let page = hub.fleet.telemetry().read(&Cursor::default(), 10).unwrap();
    assert_eq!(page.events[0].event.property("iothub-MessageType"), Some("Will"));
}

#[tokio::test]
async fn a_message_that_was_answered_is_not_sent_again_while_that_is_being_written() {
    let (hub, _, session) = listening().await;
    let pump = key("pump");
    hub.fleet.send(&pump, message("1")).await.unwrap();
    let got = sent(&session).await;
    // The registry is busy, and so the message's end waits.
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let registry = hub.fleet.registry().clone();
    let busy = tokio::spawn(async move {
        let decide = move |_: Option<&crate::registry::Device>| {
            let _ = gone.recv();
            Ok::<_, Infallible>(Vec::new())
        };
        registry.change(key("busy"), decide).await
    });
    tokio::task::yield_now().await;
    let answering = tokio::spawn({
        let session = Arc::clone(&session);
        async move { session.completed(got.lock).await }
    });
    tokio::task::yield_now().await;
    hub.fleet.sessions().get(&pump).unwrap().look_for_messages();
    assert!(is_quiet(&session).await);
    go.send(()).unwrap();
    within(answering).await.unwrap();
    within(busy).await.unwrap().unwrap();
    assert!(is_quiet(&session).await);
    let mut same = message("2");
    same.system.push(("$.mid".to_owned(), "same".to_owned()));
    for _ in 0..2 {
        hub.fleet.send(&pump, same.clone()).await.unwrap();
        let got = sent(&session).await;
        session.completed(got.lock).await;
    }
}
