//! Subscriptions, twins, methods and messages.

use bytes::Bytes;
use rmqtt_codec::types::Publish;
use rmqtt_codec::v3::{Packet, QoS, SubscribeReturnCode};
use serde_json::{Value, json};
use std::num::NonZeroU16;

use super::fake::*;
use crate::mqtt::behind::{NotKept, Outgoing, Sent, TwinError};
use crate::names::Subs;

const MESSAGES: &str = "devices/pump/messages/devicebound/#";
const TWIN: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";
const METHODS: &str = "$iothub/methods/POST/#";

fn subscribe(packet: u16, filters: &[(&str, QoS)]) -> Packet {
    let filters = filters.iter().map(|(filter, qos)| ((*filter).to_owned().into(), *qos));
    Packet::Subscribe { packet_id: NonZeroU16::new(packet).unwrap(), topic_filters: filters.collect() }
}

async fn subscribed(rig: &mut Rig) -> Vec<SubscribeReturnCode> {
    match rig.client.recv().await {
        Some(Packet::SubscribeAck { status, .. }) => status,
        other => panic!("{other:?}"),
    }
}

fn message(lock: u64, again: bool) -> Outgoing {
    Outgoing::Message(Sent {
        lock,
        again,
        system: vec![("$.mid".to_owned(), format!("m{lock}"))],
        properties: vec![("a".to_owned(), None)],
        body: Bytes::from_static(b"do"),
    })
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_told_when_it_is_durable() {
    let mut rig = rig();
    rig.open_with(connect(), |talk| talk.subs.methods = Some(0)).await;
    let most = QoS::ExactlyOnce;
    rig.client
        .send(subscribe(5, &[(MESSAGES, most), (TWIN, QoS::AtMostOnce), (DESIRED, QoS::AtLeastOnce)]))
        .await;
    let Seen::Subscribe(subs, durable) = rig.see().await else { panic!() };
    let expected =
        Subs { messages: Some(1), twin: Some(0), desired: Some(1), methods: Some(0), inputs: None };
    assert_eq!(subs, expected);
    rig.client.ping().await;
    durable.send(Ok(())).unwrap();
    let granted = [QoS::AtLeastOnce, QoS::AtMostOnce, QoS::AtLeastOnce].map(SubscribeReturnCode::Success);
    assert_eq!(subscribed(&mut rig).await, granted);

    let topic_filters = vec![MESSAGES.to_owned().into(), METHODS.to_owned().into()];
    rig.client.send(Packet::Unsubscribe { packet_id: NonZeroU16::MIN, topic_filters }).await;
    let Seen::Subscribe(subs, durable) = rig.see().await else { panic!() };
    assert_eq!(subs, Subs { twin: Some(0), desired: Some(1), ..Subs::default() });
    durable.send(Ok(())).unwrap();
    assert_eq!(rig.client.recv().await, Some(Packet::UnsubscribeAck { packet_id: NonZeroU16::MIN }));
}

#[tokio::test(start_paused = true)]
async fn more_than_five_subscriptions_and_unknown_ones_are_refused() {
    let mut rig = rig();
    rig.open().await;
    let one = QoS::AtLeastOnce;
    rig.client
        .send(subscribe(
            1,
            &[(MESSAGES, one), (TWIN, one), (DESIRED, one), (METHODS, one), (TWIN, one), (MESSAGES, one)],
        ))
        .await;
    let Seen::Subscribe(subs, durable) = rig.see().await else { panic!() };
    assert_eq!(subs, all());
    durable.send(Ok(())).unwrap();
    assert_eq!(subscribed(&mut rig).await[5], SubscribeReturnCode::Failure);
    rig.client.send(subscribe(2, &[("#", one)])).await;
    assert_eq!(rig.client.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_cannot_be_kept_is_not_acknowledged() {
    let mut rig = rig();
    rig.open().await;
    rig.client.send(subscribe(1, &[(TWIN, QoS::AtLeastOnce)])).await;
    let Seen::Subscribe(_, durable) = rig.see().await else { panic!() };
    durable.send(Err(NotKept::Fenced)).unwrap();
    assert_eq!(rig.client.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_twin_is_read_and_reported_in_the_order_asked() {
    let mut rig = rig();
    rig.open_with(connect(), |talk| talk.subs.twin = Some(0)).await;
    rig.client.send(publish("$iothub/twin/PATCH/properties/reported/?$rid=1", 8, b"{\"a\":1}").into()).await;
    rig.client.send(publish("$iothub/twin/GET/?$rid=2", 9, b" ").into()).await;
    let Seen::Report(patch, answer) = rig.see().await else { panic!() };
    assert_eq!(patch, json!({ "a": 1 }));
    assert_eq!([rig.client.acked().await, rig.client.acked().await], [8, 9]);
    assert!(rig.seen.try_recv().is_err());
    answer.send(Ok(17)).unwrap();
    let told = rig.client.published().await;
    assert_eq!(&*told.topic, "$iothub/twin/res/204/?$rid=1&$version=17");
    assert_eq!((told.qos, told.payload.len()), (QoS::AtMostOnce, 0));
    let Seen::Twin(answer) = rig.see().await else { panic!() };
    answer.send(Ok(Bytes::from_static(b"{}"))).unwrap();
    let told = rig.client.published().await;
    assert_eq!((&*told.topic, &told.payload[..]), ("$iothub/twin/res/200/?$rid=2", &b"{}"[..]));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_twin_request_is_told() {
    let mut rig = rig();
    rig.open_with(connect(), |talk| talk.subs = all()).await;
    rig.client.send(publish("$iothub/twin/PATCH/properties/reported/?$rid=1", 0, b"{oops").into()).await;
    let told = rig.client.published().await;
    assert_eq!((&*told.topic, told.qos), ("$iothub/twin/res/400/?$rid=1", QoS::AtLeastOnce));
    let body: Value = serde_json::from_slice(&told.payload).unwrap();
    assert!(body["message"].as_str().unwrap().starts_with("the reported properties are no JSON"));
    for (error, status) in [
        (TwinError::Refused("too deep".to_owned()), 400),
        (TwinError::Throttled, 429),
        (TwinError::Unavailable("fenced".to_owned()), 503),
    ] {
        rig.client.send(publish("$iothub/twin/GET/?$rid=x", 0, b"").into()).await;
        let Seen::Twin(answer) = rig.see().await else { panic!() };
        answer.send(Err(error)).unwrap();
        assert_eq!(*rig.client.published().await.topic, format!("$iothub/twin/res/{status}/?$rid=x"));
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_subscribed_to_is_sent() {
    let mut rig = rig();
    let send = rig.open().await;
    send.send(message(1, false)).unwrap();
    send.send(Outgoing::Desired { version: 1, body: Bytes::new() }).unwrap();
    rig.client.send(publish("$iothub/twin/GET/?$rid=2", 0, b"").into()).await;
    let Seen::Twin(answer) = rig.see().await else { panic!() };
    answer.send(Ok(Bytes::new())).unwrap();
    rig.client.ping().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_is_completed_when_the_device_has_it() {
    let mut rig = rig();
    let send = rig.open_with(connect(), |talk| talk.subs.messages = Some(1)).await;
    send.send(message(11, false)).unwrap();
    send.send(message(12, true)).unwrap();
    let first = rig.client.published().await;
    assert_eq!((&*first.topic, first.dup), ("devices/pump/messages/devicebound/%24.mid=m11&a", false));
    let second = rig.client.published().await;
    assert!(second.dup && second.packet_id != first.packet_id);
    rig.client.ping().await;
    assert!(rig.seen.try_recv().is_err());
    for (of, lock) in [(second, 12), (first, 11)] {
        let packet_id = of.packet_id.unwrap();
        rig.client.send(Packet::PublishAck { packet_id }).await;
        assert!(matches!(rig.see().await, Seen::Completed(completed) if completed == lock));
        rig.client.send(Packet::PublishAck { packet_id }).await;
    }
    rig.client.ping().await;
    assert!(rig.seen.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_message_with_quality_of_service_0_is_completed_when_it_is_sent() {
    let mut rig = rig();
    let send = rig.open_with(connect(), |talk| talk.subs.messages = Some(0)).await;
    send.send(message(11, true)).unwrap();
    let Publish { qos, dup, packet_id, .. } = rig.client.published().await;
    assert_eq!((qos, dup, packet_id), (QoS::AtMostOnce, false, None));
    assert!(matches!(rig.see().await, Seen::Completed(11)));
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_topic_is_too_long_does_not_end_the_connection() {
    let mut rig = rig();
    let send = rig.open_with(connect(), |talk| talk.subs = all()).await;
    let properties = vec![("a".to_owned(), Some(" ".repeat(30_000)))];
    let sent = Sent { lock: 1, again: false, system: Vec::new(), properties, body: Bytes::new() };
    send.send(Outgoing::Message(sent)).unwrap();
    send.send(message(2, false)).unwrap();
    assert!(rig.client.published().await.topic.contains("m2"));
}

#[tokio::test(start_paused = true)]
async fn desired_properties_and_methods_reach_the_device() {
    let mut rig = rig();
    let send = rig.open_with(connect(), |talk| talk.subs = Subs { methods: Some(0), ..all() }).await;
    send.send(Outgoing::Desired { version: 4, body: Bytes::from_static(b"{\"$version\":4}") }).unwrap();
    let told = rig.client.published().await;
    assert_eq!(
        (&*told.topic, told.qos),
        ("$iothub/twin/PATCH/properties/desired/?$version=4", QoS::AtLeastOnce)
    );
    let method =
        Outgoing::Method { rid: "r1".into(), name: "reboot".into(), body: Bytes::from_static(b"{}") };
    send.send(method).unwrap();
    let told = rig.client.published().await;
    assert_eq!((&*told.topic, told.qos), ("$iothub/methods/POST/reboot/?$rid=r1", QoS::AtMostOnce));
    rig.client.send(publish("$iothub/methods/res/200/?$rid=r1", 0, b"null").into()).await;
    let Seen::Answered(rid, status, body) = rig.see().await else { panic!() };
    assert_eq!((rid.as_str(), status, &body[..]), ("r1", 200, &b"null"[..]));
}
