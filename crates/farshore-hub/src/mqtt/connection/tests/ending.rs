//! How connections end, and what follows from it.

use std::time::Duration;

use bytes::Bytes;
use farshore_core::moment::Moment;
use rmqtt_codec::v3::{Connect, Packet};
use tokio::time::Instant;

use super::fake::*;
use crate::mqtt::behind::{Closing, Outgoing, Telemetered};
use crate::mqtt::listener::Stopping;

fn mortal() -> Connect {
    Connect { last_will: Some(will()), ..connect() }
}

fn is_will(event: &Option<Telemetered>) -> bool {
    event.as_ref().is_some_and(|event| {
        let kind = ("iothub-MessageType".to_owned(), Some("Will".to_owned()));
        event.body == b"gone"[..] && event.properties == [("a".to_owned(), Some("b".to_owned())), kind]
    })
}

#[tokio::test(start_paused = true)]
async fn who_says_good_bye_leaves_no_will() {
    let mut rig = rig();
    rig.open_with(mortal(), |_| {}).await;
    rig.client.send(Packet::Disconnect).await;
    assert_eq!(rig.closed().await, None);
    assert_eq!(rig.client.recv().await, None);
    drop(rig.client);
    rig.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_vanishes_leaves_a_will() {
    let mut rig = rig();
    rig.open_with(mortal(), |_| {}).await;
    drop(std::mem::replace(&mut rig.client, super::fake::rig().client));
    assert!(is_will(&rig.closed().await));
    rig.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silence_is_allowed_for_one_and_a_half_of_what_was_promised() {
    for (keep_alive, allowed) in [(60, 90), (1740, 1767), (0, 1767)] {
        let mut rig = rig();
        rig.open_with(Connect { keep_alive, ..mortal() }, |_| {}).await;
        tokio::time::sleep(Duration::from_secs(allowed - 1)).await;
        rig.client.ping().await;
        let heard = Instant::now();
        assert_eq!(rig.client.recv().await, None);
        assert_eq!(heard.elapsed(), Duration::from_secs(allowed), "{keep_alive}");
        assert!(is_will(&rig.closed().await));
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_ends_the_connection() {
    let mut rig = rig();
    let before = Instant::now();
    let expires = clock().after(Duration::from_secs(7));
    rig.open_with(connect(), |talk| talk.expires = Some(expires)).await;
    assert_eq!(rig.client.recv().await, None);
    assert_eq!(before.elapsed(), Duration::from_secs(7));
    let mut rig = super::fake::rig();
    rig.open_with(connect(), |talk| talk.expires = Some(Moment(1))).await;
    assert_eq!(rig.client.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn the_hub_closes_and_only_a_replaced_connection_leaves_a_will() {
    for (closing, expected) in
        [(Closing::Replaced, true), (Closing::Revoked, false), (Closing::Leaving, false)]
    {
        let mut rig = rig();
        let send = rig.open_with(mortal(), |_| {}).await;
        rig.client.send(publish(EVENTS, 1, b"x").into()).await;
        let (_, kept) = rig.telemetry().await;
        send.send(Outgoing::Close(closing)).unwrap();
        assert_eq!(is_will(&rig.closed().await), expected, "{closing}");
        let _ = kept.send(Ok(()));
        assert_eq!(rig.client.recv().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_let_go_and_meanwhile_not_read() {
    let mut rig = rig();
    let send = rig.open_with(connect(), |talk| talk.subs = all()).await;
    for _ in 0..100 {
        let body = Bytes::from(vec![b'x'; 64 * 1024]);
        send.send(Outgoing::Method { rid: "r".into(), name: "m".into(), body }).unwrap();
    }
    let before = Instant::now();
    assert_eq!(rig.closed().await, None);
    // What it may still take of what is queued is waited for as long as any last word.
    assert_eq!(before.elapsed(), Duration::from_secs(35));
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_is_waited_for() {
    let mut rig = rig();
    let send = rig.open_with(connect(), |talk| talk.subs = all()).await;
    for _ in 0..20 {
        let body = Bytes::from(vec![b'x'; 64 * 1024]);
        send.send(Outgoing::Method { rid: "r".into(), name: "m".into(), body }).unwrap();
    }
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(25)).await;
        let packet_id = rig.client.published().await.packet_id.unwrap();
        let _ = rig.client.try_raw(&[0x40, 2, 0, u8::try_from(packet_id.get()).unwrap()]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_soft_stop_acknowledges_what_was_read_and_then_closes() {
    let mut rig = rig();
    rig.open_with(mortal(), |_| {}).await;
    rig.client.send(publish(EVENTS, 1, b"x").into()).await;
    let (_, kept) = rig.telemetry().await;
    rig.stops.send_replace(Stopping::Soon);
    rig.client.send(publish(EVENTS, 2, b"unread").into()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    kept.send(Ok(())).unwrap();
    assert_eq!(rig.client.acked().await, 1);
    assert_eq!(rig.client.recv().await, None);
    assert_eq!(rig.closed().await, None);
    drop(rig.client);
    rig.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hard_stop_waits_for_nothing_but_tells_the_hub() {
    let mut rig = rig();
    rig.open_with(mortal(), |_| {}).await;
    rig.client.send(publish(EVENTS, 1, b"x").into()).await;
    let (_, _kept) = rig.telemetry().await;
    let before = Instant::now();
    rig.stops.send_replace(Stopping::Now);
    rig.task.await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(matches!(rig.seen.recv().await, Some(Seen::Closed(None))));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_those_that_wait_to_be_let_in() {
    let mut rig = rig();
    rig.client.send(connect().into()).await;
    let (_, _verdict) = rig.hello().await;
    rig.stops.send_replace(Stopping::Soon);
    assert!(matches!(rig.see().await, Seen::Abandoned));
    rig.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_the_end_is_done() {
    let mut rig = rig();
    let send = rig.open_with(connect(), |talk| talk.subs = all()).await;
    let sent = crate::mqtt::behind::Sent {
        lock: 5,
        again: false,
        system: Vec::new(),
        properties: Vec::new(),
        body: Bytes::new(),
    };
    send.send(Outgoing::Message(sent)).unwrap();
    let packet_id = rig.client.published().await.packet_id.unwrap();
    let id = packet_id.get().to_be_bytes();
    rig.client.raw(&[0x40, 2, id[0], id[1], 0xE0, 0]).await;
    assert!(matches!(rig.see().await, Seen::Completed(5)));
    assert_eq!(rig.closed().await, None);
}
