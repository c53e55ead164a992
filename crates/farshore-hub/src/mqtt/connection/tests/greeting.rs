//! The first packet, and waiting for what follows from it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rmqtt_codec::v3::{Connect, ConnectAckReason, LastWill, Packet};
use tokio::time::Instant;

use super::fake::*;
use crate::mqtt::behind::Verdict;
use crate::mqtt::connection::CONNECT_WITHIN;

/// What a connection is told that is not asked about.
async fn refused(connect: Connect) -> Option<ConnectAckReason> {
    let mut rig = rig();
    rig.client.send(connect.into()).await;
    match rig.client.recv().await {
        Some(Packet::ConnectAck(ack)) => {
            assert_eq!(rig.client.recv().await, None);
            Some(ack.return_code)
        }
        None => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_hub_is_told_who_is_there() {
    let mut rig = rig();
    rig.client.send(connect().into()).await;
    let (hello, verdict) = rig.hello().await;
    assert_eq!(hello.key.to_string(), "pump");
    assert_eq!(hello.host, "hub.test");
    assert_eq!(hello.query, "api-version=2021-04-12&DeviceClientType=x%2F1");
    assert_eq!(hello.password.as_deref(), Some("SharedAccessSignature sr=x"));
    assert!(!hello.clean);
    assert_eq!(hello.keep_alive, Duration::from_secs(60));
    let (mut talk, _send) = rig.talk();
    talk.present = true;
    verdict.send(Verdict::Open(Arc::new(talk))).unwrap();
    let Some(Packet::ConnectAck(ack)) = rig.client.recv().await else { panic!() };
    assert!(ack.session_present);
}

#[tokio::test(start_paused = true)]
async fn a_module_by_certificate_names_no_host_and_wants_to_be_forgotten() {
    let mut rig = rig();
    let connect = Connect {
        clean_session: true,
        client_id: "pump/valve".into(),
        username: Some("/pump/valve/?api-version=1".into()),
        password: Some(Bytes::new()),
        ..connect()
    };
    rig.client.send(connect.into()).await;
    let (hello, verdict) = rig.hello().await;
    assert_eq!((hello.key.to_string().as_str(), hello.host.as_str()), ("pump/valve", "by-tls"));
    assert!(hello.clean && hello.password.is_none());
    let (mut talk, _send) = rig.talk();
    talk.present = true;
    verdict.send(Verdict::Open(Arc::new(talk))).unwrap();
    let Some(Packet::ConnectAck(ack)) = rig.client.recv().await else { panic!() };
    assert!(!ack.session_present);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_about_is_refused() {
    let id = ConnectAckReason::IdentifierRejected;
    let name = ConnectAckReason::BadUserNameOrPassword;
    assert_eq!(refused(Connect { client_id: "other".into(), ..connect() }).await, Some(id));
    assert_eq!(refused(Connect { client_id: "pump/valve".into(), ..connect() }).await, Some(id));
    assert_eq!(refused(Connect { client_id: "".into(), ..connect() }).await, Some(id));
    assert_eq!(refused(Connect { username: None, ..connect() }).await, Some(name));
    assert_eq!(refused(Connect { username: Some("pump".into()), ..connect() }).await, Some(name));
    assert_eq!(
        refused(Connect { password: Some(Bytes::from_static(&[0xFF])), ..connect() }).await,
        Some(name)
    );
    let will = LastWill { topic: "devices/other/messages/events/".into(), ..will() };
    assert_eq!(refused(Connect { last_will: Some(will), ..connect() }).await, None);
}

#[tokio::test(start_paused = true)]
async fn other_versions_are_told_so() {
    let five = b"\x10\x11\x00\x04MQTT\x05\xC2\x00\x3C\x00\x00\x04pump";
    let three = b"\x10\x12\x00\x06MQIsdp\x03\x02\x00\x3C\x00\x04pump";
    for bytes in [&five[..], &three[..]] {
        let mut rig = rig();
        rig.client.raw(bytes).await;
        assert_eq!(rig.client.code().await, ConnectAckReason::UnacceptableProtocolVersion);
        assert_eq!(rig.client.recv().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_mqtt_is_closed_without_a_word() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01",
        b"\x10\xFF\xFF\xFF\xFF\x7F",
        b"\xC0\x00",
        b"\x10\x02\x00\x04",
    ] {
        let mut rig = rig();
        rig.client.raw(bytes).await;
        let before = Instant::now();
        assert_eq!(rig.client.recv().await, None, "{bytes:?}");
        assert_eq!(before.elapsed(), Duration::ZERO, "{bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    for said in [&b""[..], b"\x10", b"\x10\x20\x00\x04MQTT"] {
        let mut rig = rig();
        rig.client.raw(said).await;
        let before = Instant::now();
        assert_eq!(rig.client.recv().await, None);
        assert_eq!(before.elapsed(), CONNECT_WITHIN);
    }
}

#[tokio::test(start_paused = true)]
async fn each_verdict_has_its_code() {
    for (verdict, expected) in [
        (Verdict::BadIdentifier, ConnectAckReason::IdentifierRejected),
        (Verdict::Unavailable, ConnectAckReason::ServiceUnavailable),
        (Verdict::BadCredentials, ConnectAckReason::BadUserNameOrPassword),
        (Verdict::Unauthorized, ConnectAckReason::NotAuthorized),
    ] {
        let mut rig = rig();
        rig.client.send(connect().into()).await;
        rig.hello().await.1.send(verdict).unwrap();
        assert_eq!(rig.client.code().await, expected);
        assert_eq!(rig.client.recv().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn the_official_sdk_for_python_is_hung_up_on_because_a_code_may_silence_it_for_good() {
    for (verdict, code) in
        [(Verdict::Unavailable, None), (Verdict::Unauthorized, Some(ConnectAckReason::NotAuthorized))]
    {
        let mut rig = rig();
        let mut packet = connect();
        let name =
            "hub.example/pump/?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0";
        packet.username = Some(name.into());
        rig.client.send(packet.into()).await;
        rig.hello().await.1.send(verdict).unwrap();
        if let Some(code) = code {
            assert_eq!(rig.client.code().await, code);
        }
        assert_eq!(rig.client.recv().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_device_may_ping_and_publish_and_is_answered_afterwards() {
    let mut rig = rig();
    rig.client.send(connect().into()).await;
    let (_, verdict) = rig.hello().await;
    rig.client.send(Packet::PingRequest).await;
    rig.client.send(publish(EVENTS, 7, b"early").into()).await;
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert!(rig.seen.try_recv().is_err());
    let (talk, _send) = rig.talk();
    verdict.send(Verdict::Open(Arc::new(talk))).unwrap();
    assert_eq!(rig.client.code().await, ConnectAckReason::ConnectionAccepted);
    assert_eq!(rig.client.recv().await, Some(Packet::PingResponse));
    rig.telemetry().await.1.send(Ok(())).unwrap();
    assert_eq!(rig.client.acked().await, 7);
}

#[tokio::test(start_paused = true)]
async fn a_held_device_that_goes_away_is_noticed() {
    let mut rig = rig();
    rig.client.send(connect().into()).await;
    let (_, _verdict) = rig.hello().await;
    drop(rig.client);
    assert!(matches!(rig.seen.recv().await, Some(Seen::Abandoned)));
    rig.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_never_decides_is_unavailable() {
    let mut rig = rig();
    rig.client.send(connect().into()).await;
    let (_, _verdict) = rig.hello().await;
    assert_eq!(rig.client.code().await, ConnectAckReason::ServiceUnavailable);
}
