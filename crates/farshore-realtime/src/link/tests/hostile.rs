//! Peers that are not what they should be.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::hub::record::{Position, Record};
use crate::link::session::Progress;
use crate::link::wire::{
    Applied, FRAME_MAX, Frame, FrameReader, FrameWriter, HELLO_MAX, Hello, Message as Said,
};
use crate::link::wire::{WireError, decode, encode};

fn frame(said: Said) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&Frame { token: token(1), message: said }, &mut out).unwrap();
    out
}

fn every_kind() -> Vec<Said> {
    let side = hello("oslo", "paris");
    let call = Call::Join { connection: connection(1), group: group(1) };
    let records = vec![
        Record::Called(call),
        Record::Called(send(Scope::All, "hello", Some(7))),
        Record::Passed(u128::MAX),
        Record::Acked { connection: connection(1), sequence: 9 },
    ];
    vec![
        side,
        Said::Refused("no".into()),
        Said::Settings(serde_json::to_vec(&settings(1)).unwrap()),
        Said::Records { first: Position(3), records },
        Said::Has(Position(9)),
        Said::Claim(connection(3)),
        Said::NotMine(connection(4)),
        Said::Ping,
        Said::Pong,
        Said::End,
    ]
}

fn hello(from: &str, to: &str) -> Said {
    let hub = HubName::parse("chat").unwrap();
    Said::Hello(Box::new(Hello { hub, from: region(from), to: region(to), start: 1, applied: None }))
}

/// It says that it has some of the receiver's records.
fn hello_with(from: &str, to: &str, applied: Applied) -> Said {
    let Said::Hello(mut hello) = hello(from, to) else { unreachable!() };
    hello.applied = Some(applied);
    Said::Hello(hello)
}

#[test]
fn frames_come_out_as_they_went_in_however_they_are_cut() {
    let whole: Vec<u8> = every_kind().into_iter().flat_map(frame).collect();
    for cut in 0..whole.len() {
        let (mut buf, mut again) = (BytesMut::new(), Vec::new());
        for piece in [&whole[..cut], &whole[cut..]] {
            buf.extend_from_slice(piece);
            while let Some(frame) = decode(&mut buf, FRAME_MAX).unwrap() {
                encode(&frame, &mut again).unwrap();
            }
        }
        assert_eq!(again, whole);
    }
}

#[test]
fn a_frame_that_is_announced_as_too_long_is_refused_before_it_came() {
    let mut buf = BytesMut::from(&u32::try_from(FRAME_MAX + 1).unwrap().to_be_bytes()[..]);
    assert!(matches!(decode(&mut buf, FRAME_MAX), Err(WireError::TooLong { .. })));
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut framed = BytesMut::from(&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..]);
        framed.extend_from_slice(&bytes);
        let _ = decode(&mut framed, FRAME_MAX);
    }

    #[test]
    fn frames_with_some_bytes_changed_decode_or_are_refused(
        kind in 0usize..10, at in any::<prop::sample::Index>(), byte in any::<u8>(), drop in 0usize..4,
    ) {
        let mut bytes = frame(every_kind().swap_remove(kind));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(bytes.len() - drop);
        let _ = decode(&mut BytesMut::from(&bytes[..]), FRAME_MAX);
    }
}

/// A peer that says hello as it should, and then whatever the test wants.
async fn stranger(to: &Side) -> (FrameReader, FrameWriter) {
    stranger_saying(to, hello("oslo", "paris")).await
}

async fn stranger_saying(to: &Side, hello: Said) -> (FrameReader, FrameWriter) {
    let (near, far) = duplex(1 << 16);
    let (mut reader, mut writer) = halves(near);
    let secret = Secret::new("secret");
    let greets = async {
        greet(Role::Dialer, &secret, &mut reader, &mut writer, SILENCE_MAX).await.unwrap();
        writer.write(&frame(hello), SILENCE_MAX).await.unwrap();
        reader.next(HELLO_MAX, SILENCE_MAX, |_| {}).await.unwrap();
    };
    let takes = async {
        let (mut reader, mut writer) = halves(far);
        greet(Role::Listener, &secret, &mut reader, &mut writer, SILENCE_MAX).await.unwrap();
        to.takers.take(reader, writer, &Proof::Loopback).await.unwrap();
    };
    tokio::join!(greets, takes);
    (reader, writer)
}

/// What the link makes of these bytes, after a good hello.
async fn check(bytes: &[u8], note: &str) {
    let paris = Side::new("paris", "oslo");
    let (reader, mut writer) = stranger(&paris).await;
    writer.write(bytes, SILENCE_MAX).await.unwrap();
    drop((reader, writer));
    let has = |progress: &Progress| progress.note.as_ref().is_some_and(|found| found.contains(note));
    eventually(note, || has(&paris.shared.progress())).await;
    assert!(matches!(paris.link.status().state, LinkState::Disconnected { .. }));
    assert_eq!(paris.hub.counts(), Default::default(), "nothing was applied");
}

#[tokio::test]
async fn whoever_does_not_keep_to_the_protocol_is_cut_off() {
    check(&u32::MAX.to_be_bytes(), "longer than").await;
    check(&[0, 0, 0, 3, 255, 255, 255], "does not decode").await;
    check(&[0, 0, 0, 3, 255], "within a frame").await;
    let mut longer = frame(Said::Ping);
    longer[3] += 1;
    longer.push(0);
    check(&longer, "left over").await;
    check(&frame(hello("oslo", "paris")), "a second hello").await;
    check(&frame(Said::End), "no snapshot").await;
    check(&frame(Said::Part(Default::default())), "no snapshot").await;
    let records = Said::Records { first: Position(1), records: vec![Record::Passed(1)] };
    check(&frame(records), "without a snapshot").await;
    check(&frame(Said::Has(Position(9))), "was not sent").await;
    let stale = Frame { token: token(0), message: Said::<Record>::Ping };
    let mut bytes = Vec::new();
    encode(&stale, &mut bytes).unwrap();
    check(&bytes, "is over").await;
}

#[tokio::test]
async fn what_comes_under_a_token_that_is_over_is_refused_and_the_peer_learns_the_new_one() {
    let (paris, oslo) =
        (Side::of("paris", "oslo", settings(1), 5), Side::of("oslo", "paris", settings(1), 4));
    let (near, far) = duplex(4096);
    assert!(!join(&oslo, &paris, near, far).await, "refused");
    assert_eq!(oslo.fence.highest(), token(5));
    assert_eq!(paris.hub.counts().copies, 0);
    plug(&oslo, &paris).await;
    level(&paris, &oslo).await;
    // It rises while they are connected: the same.
    paris.fence.see(token(6)).unwrap();
    oslo.open(1);
    plug(&paris, &oslo).await;
    assert_eq!(oslo.fence.highest(), token(6));
    level(&paris, &oslo).await;
    assert_eq!(paris.hub.counts().copies, 1);
}

#[tokio::test]
async fn records_that_came_before_are_not_applied_again() {
    let paris = Side::new("paris", "oslo");
    let (_reader, mut writer) = stranger(&paris).await;
    let begin = crate::link::wire::Begin { start: 1, position: Position(5), seen: Vec::new() };
    let opened = {
        let oslo = Side::new("oslo", "paris");
        oslo.open(1);
        oslo.hub.snapshot().sessions.remove(0)
    };
    let say = [
        Said::Begin(begin),
        Said::End,
        Said::Records { first: Position(6), records: vec![Record::Opened(Box::new(opened))] },
        Said::Records { first: Position(7), records: vec![Record::Called(send(Scope::All, "one", None))] },
        Said::Records {
            first: Position(7),
            records: vec![
                Record::Called(send(Scope::All, "one", None)),
                Record::Called(send(Scope::All, "two", None)),
            ],
        },
    ];
    for said in say {
        writer.write(&frame(said), SILENCE_MAX).await.unwrap();
    }
    let expected = Some(Applied { start: 1, position: Position(8) });
    eventually("applied", || paris.shared.applied() == expected).await;
    paris.link.stop().await;
    paris.hub.adopt();
    assert_eq!(paris.cards()[0].kept.len(), 2);
}

#[tokio::test]
async fn a_wrong_secret_and_a_wrong_address_are_named() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let options = crate::link::ListenerOptions { listen, secret: Secret::new("another"), tls: None };
    let listener = crate::link::LinkListener::bind(options).await.unwrap();
    let paris = Side::new("paris", "oslo");
    paris.link.dial(Some(listener.local_addr().to_string())).await;
    let says = |what: &'static str| {
        let shared = &paris.shared;
        move || shared.progress().note.as_ref().is_some_and(|note| note.contains(what))
    };
    eventually("secret", says("secret")).await;
    listener.stop().await;

    let options = crate::link::ListenerOptions { listen, secret: Secret::new("secret"), tls: None };
    let listener = crate::link::LinkListener::bind(options).await.unwrap();
    paris.link.dial(Some(listener.local_addr().to_string())).await;
    eventually("no such hub", says("there is no link of chat")).await;
    paris.link.dial(Some("192.0.2.1:9".into())).await;
    eventually("plain text", says("without TLS")).await;
    let options = crate::link::ListenerOptions {
        listen: "0.0.0.0:0".parse().unwrap(),
        secret: Secret::new("secret"),
        tls: None,
    };
    assert!(crate::link::LinkListener::bind(options).await.is_err());
}

#[tokio::test]
async fn strangers_get_nowhere() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let options = crate::link::ListenerOptions { listen, secret: Secret::new("secret"), tls: None };
    let listener = crate::link::LinkListener::bind(options).await.unwrap();
    for says in [&b"GET / HTTP/1.1\r\nHost: chat.example.com\r\n\r\n......."[..], &[0; 80], b"FSRL\x09\x09"] {
        let mut stream = tokio::net::TcpStream::connect(listener.local_addr()).await.unwrap();
        stream.write_all(says).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() <= 38, "nothing but an opening: {}", answer.len());
    }
    listener.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_partner_that_comes_again_and_again_and_takes_nothing_holds_nobody_up() {
    let paris = Side::new("paris", "oslo");
    let has = Applied { start: paris.shared.start, position: paris.hub.position() };
    paris.open(1);
    let comes = async {
        loop {
            let (_reader, mut writer) = stranger_saying(&paris, hello_with("oslo", "paris", has)).await;
            sleep(Duration::from_millis(200)).await;
            let _ = writer.write(&[0, 0, 0, 1, 255], SILENCE_MAX).await;
        }
    };
    let asks = async {
        eventually("it seems to be here", || paris.hub.is_partner_here()).await;
        paris.hub.ask(send(Scope::All, "hello", None)).await.unwrap();
    };
    tokio::select! {
        () = comes => unreachable!("it comes for ever"),
        // The clock is the test's own.
        asked = tokio::time::timeout(3 * SILENCE_MAX, asks) => asked.expect("a publisher is held up"),
    }
}
