//! Telemetry: acknowledged when it is durable, in order, and never otherwise.

use std::time::Duration;

use rmqtt_codec::types::Publish;
use rmqtt_codec::v3::{Connect, QoS};
use tokio::time::Instant;

use super::fake::*;
use crate::mqtt::behind::NotKept;
use crate::mqtt::connection::MESSAGE_MAX;

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_waits_for_the_disk_and_for_its_turn() {
    let mut rig = rig();
    rig.open().await;
    let mut kept = Vec::new();
    for packet in 1..=3 {
        rig.client.send(publish(EVENTS, packet, b"x").into()).await;
        kept.push(rig.telemetry().await.1);
    }
    let [first, second, third] = kept.try_into().unwrap();
    third.send(Ok(())).unwrap();
    second.send(Ok(())).unwrap();
    rig.client.ping().await;
    first.send(Ok(())).unwrap();
    assert_eq!([rig.client.acked().await, rig.client.acked().await, rig.client.acked().await], [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_a_message_carries() {
    let mut rig = rig();
    rig.open().await;
    let topic = format!("{EVENTS}%24.mid=m%201&a=1&b");
    rig.client.send(Publish { retain: true, ..publish(&topic, 0, b"body") }.into()).await;
    let (event, _) = rig.telemetry().await;
    assert_eq!(event.system, [("$.mid".to_owned(), "m 1".to_owned())]);
    let expected = [("a", Some("1")), ("b", None), ("mqtt-retain", Some("true"))];
    let properties: Vec<_> =
        event.properties.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    assert_eq!(properties, expected);
    assert_eq!(event.body, b"body"[..]);
}

#[tokio::test(start_paused = true)]
async fn quality_of_service_0_is_kept_and_not_acknowledged() {
    let mut rig = rig();
    rig.open().await;
    rig.client.send(publish(EVENTS, 0, b"x").into()).await;
    rig.telemetry().await.1.send(Ok(())).unwrap();
    rig.client.ping().await;
}

#[tokio::test(start_paused = true)]
async fn a_sender_faster_than_the_disk_is_not_read_and_loses_nothing() {
    const SENT: u16 = 10_000;
    let mut rig = rig();
    rig.open().await;
    let mut client = rig.client;
    let (reader, writer) = (rig.seen, async move {
        for packet in 1..=SENT {
            client.send(publish(EVENTS, packet, b"x").into()).await;
        }
        for packet in 1..=SENT {
            assert_eq!(client.acked().await, packet);
        }
    });
    let writer = tokio::spawn(writer);
    let mut seen = reader;
    let mut kept = Vec::new();
    // Paused time passes only when nothing else can happen.
    while let Ok(Some(Seen::Telemetry(_, keep))) =
        tokio::time::timeout(Duration::from_secs(1), seen.recv()).await
    {
        kept.push(keep);
    }
    assert!(kept.len() < usize::from(SENT) / 2, "{}", kept.len());
    let mut total = kept.len();
    for keep in kept {
        keep.send(Ok(())).unwrap();
    }
    while total < usize::from(SENT) {
        if let Some(Seen::Telemetry(_, keep)) = seen.recv().await {
            keep.send(Ok(())).unwrap();
            total += 1;
        }
    }
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_not_kept_ends_the_connection_after_a_moment_and_without_a_will() {
    let mut rig = rig();
    rig.open_with(Connect { last_will: Some(will()), ..connect() }, |_| {}).await;
    let mut kept = Vec::new();
    for packet in 1..=3 {
        rig.client.send(publish(EVENTS, packet, b"x").into()).await;
        kept.push(rig.telemetry().await.1);
    }
    let [first, second, third] = kept.try_into().unwrap();
    third.send(Ok(())).unwrap();
    second.send(Err(NotKept::Fenced)).unwrap();
    first.send(Ok(())).unwrap();
    let before = Instant::now();
    assert_eq!(rig.client.acked().await, 1);
    assert_eq!(rig.client.recv().await, None);
    assert_eq!(before.elapsed(), Duration::from_secs(1));
    assert_eq!(rig.closed().await, None);
}

#[tokio::test(start_paused = true)]
async fn the_longest_message_is_taken_and_a_longer_one_is_not() {
    for (len, taken) in [(MESSAGE_MAX, true), (MESSAGE_MAX + 1, false), (2 * MESSAGE_MAX, false)] {
        let mut rig = rig();
        rig.open().await;
        let mut client = rig.client;
        let sending = tokio::spawn(async move {
            let message = publish(EVENTS, 1, &vec![b'x'; len]);
            let mut bytes = bytes::BytesMut::new();
            let mut codec = rmqtt_codec::v3::Codec::new(0);
            tokio_util::codec::Encoder::encode(&mut codec, message.into(), &mut bytes).unwrap();
            client.try_raw(&bytes).await;
            client.recv().await
        });
        match rig.seen.recv().await {
            Some(Seen::Telemetry(event, kept)) => {
                assert!(taken && event.body.len() == len);
                kept.send(Ok(())).unwrap();
                assert!(sending.await.unwrap().is_some());
            }
            Some(Seen::Closed(None)) => {
                assert!(!taken);
                assert!(sending.await.unwrap().is_none());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_outside_the_contract_closes_the_link() {
    let mut two = publish(EVENTS, 1, b"x");
    two.qos = QoS::ExactlyOnce;
    for message in [
        two,
        publish("devices/other/messages/events/", 1, b"x"),
        publish("any/topic", 0, b"x"),
        publish("$iothub/twin/GET/", 1, b" "),
        publish("devices/pump/messages/events/a=%zz", 1, b"x"),
    ] {
        let mut rig = rig();
        rig.open().await;
        rig.client.send(message.clone().into()).await;
        assert_eq!(rig.client.recv().await, None, "{message:?}");
        assert_eq!(rig.closed().await, None);
    }
    let mut rig = rig();
    rig.open().await;
    rig.client.send(connect().into()).await;
    assert_eq!(rig.client.recv().await, None);
}
