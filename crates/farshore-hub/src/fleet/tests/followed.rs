//! A device's region is lost, and it goes on in the other without saying anything twice.

use super::*;
use crate::record::Message;

#[tokio::test]
async fn a_device_that_listens_and_says_nothing_again_is_reached_in_the_other_region() {
    let (oslo, paris) = (open("oslo"), closed("paris"));
    let sas = oslo.register("pump").await;
    let session = oslo.connect("pump", &sas).await;
    assert!(!session.is_present());
    session.subscribe(ALL).await.unwrap();
    oslo.edit("pump", vec![desired(json!({ "speed": 1 }))]).await;
    let Outgoing::Desired { version: old, .. } = next(&session).await else { panic!("another thing came") };
    within(session.telemetry(event("1"))).await.unwrap();
    let pump = key("pump");
    oslo.fleet.send(&pump, Message::new(Bytes::from_static(b"unanswered"))).await.unwrap();
    assert!(matches!(next(&session).await, Outgoing::Message(_)), "and the device is cut off here");
    oslo.is_pulled_by(&paris).await;
    drop(oslo);

    paris.fleet.open_to_devices(Epoch(2), Standing::Current);
    let session = paris.connect("pump", &sas).await;
    assert!(session.is_present());
    assert_eq!(session.subscriptions(), ALL);
    let Outgoing::Message(sent) = next(&session).await else { panic!("another thing came") };
    assert_eq!(&*sent.body, b"unanswered");
    session.completed(sent.lock).await;
    paris.edit("pump", vec![desired(json!({ "speed": 2 }))]).await;
    let Outgoing::Desired { version, .. } = next(&session).await else { panic!("another thing came") };
    assert!(version > old, "a device ignores versions that it has seen");
    let fleet = paris.fleet.clone();
    let called = tokio::spawn(async move { fleet.invoke(&key("pump"), call("start")).await });
    let Outgoing::Method { rid, .. } = next(&session).await else { panic!("another thing came") };
    session.answered(&rid, 200, Bytes::new()).await;
    assert_eq!(within(called).await.unwrap(), Ok((200, Value::Null)));
    let twin: Value = serde_json::from_slice(&session.twin().await.unwrap()).unwrap();
    assert_eq!(twin["desired"]["speed"], 2);
    within(session.telemetry(event("2"))).await.unwrap();
    assert_eq!(paris.stored(), ["1", "2"]);
}

#[tokio::test]
async fn who_wants_nothing_remembered_is_not_remembered() {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    let session = hub.connect("pump", &sas).await;
    session.subscribe(ALL).await.unwrap();
    let clean = || Hello { clean: true, ..hello("pump", &sas) };
    let session = opened(hub.admit(clean()).await);
    assert!(!session.is_present());
    assert_eq!(session.subscriptions(), Subs::default());
    session.subscribe(ALL).await.unwrap();
    let session = hub.connect("pump", &sas).await;
    assert!(
        !session.is_present(),
        "the earlier subscriptions were to be forgotten, the others not to be kept"
    );
    assert_eq!(session.subscriptions(), Subs::default());
}

#[tokio::test]
async fn what_comes_from_the_other_region_reaches_those_who_are_connected() {
    let (oslo, paris) = (open("oslo"), open("paris"));
    let sas = oslo.register("pump").await;
    let auth = oslo.fleet.registry().get(&key("pump")).unwrap().unwrap().auth.clone();
    oslo.is_pulled_by(&paris).await;
    assert_eq!(paris.fleet.registry().get(&key("pump")).unwrap().unwrap().auth, auth);
    let session = paris.connect("pump", &sas).await;
    session.subscribe(ALL).await.unwrap();
    oslo.fleet.send(&key("pump"), Message::new(Bytes::from_static(b"late"))).await.unwrap();
    oslo.edit("pump", vec![desired(json!({ "speed": 1 }))]).await;
    oslo.is_pulled_by(&paris).await;
    let mut kinds = Vec::new();
    for _ in 0..2 {
        kinds.push(match next(&session).await {
            Outgoing::Desired { .. } => "desired",
            Outgoing::Message(sent) => {
                session.completed(sent.lock).await;
                "message"
            }
            other => panic!("another thing came: {other:?}"),
        });
    }
    kinds.sort_unstable();
    assert_eq!(kinds, ["desired", "message"]);
}
