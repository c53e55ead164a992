//! Silent clients, clients that are away, and those for whom too much is kept.

use super::super::call::{Call, Scope};
use super::super::outbox::{KEPT_MESSAGES_MAX, Next, Out};
use super::super::scene::Scene;
use super::*;
use crate::frames::{Data, Message, Sender};

const AFTER_PING: u32 = PING_AFTER_SECONDS + 2;
const AFTER_ALL: u32 = SILENT_SECONDS_MAX + 2;

/// Ids and reasons of the sessions that a look after so many seconds of silence has ended.
fn sweep(scene: &mut Scene, seconds: u32) -> Vec<(String, String)> {
    let now = scene.now();
    let ended = scene.hub.sweep(Pulse(seconds), now);
    ended.into_iter().map(|ended| (ended.connection.to_string(), ended.reason)).collect()
}

fn pair(connection: &str, reason: &str) -> (String, String) {
    (connection.to_owned(), reason.to_owned())
}

fn message() -> Call {
    let message = Arc::new(Message::new(Sender::Server, Data::text("hello")));
    Call::Send { to: Scope::All, message, exclude: Vec::new(), filter: None }
}

#[test]
fn who_is_silent_is_asked_and_then_let_go_of() {
    let mut scene = Scene::new();
    scene.open("plain", Protocol::Json, &[], &[]);
    scene.open("reliable", Protocol::ReliableJson, &[], &[]);
    assert_eq!(sweep(&mut scene, PING_AFTER_SECONDS), []);
    assert!(scene.nexts("plain").is_empty(), "they were heard a moment ago");
    assert_eq!(sweep(&mut scene, AFTER_PING), []);
    for name in ["plain", "reliable"] {
        let nexts = scene.nexts(name);
        assert!(
            matches!(nexts.as_slice(), [(Next::Write, Some(Out::Frame(ping)))] if ping[..] == [0x89, 0]),
            "{nexts:?}"
        );
    }
    // One gives a sign of life.
    scene.hears("plain", Pulse(AFTER_PING));
    assert_eq!(sweep(&mut scene, AFTER_ALL), [], "a reliable one may come back");
    let nexts = scene.nexts("reliable");
    assert!(matches!(nexts.as_slice(), [(Next::End(end), None)] if end.code == close::AWAY), "{nexts:?}");
    assert_eq!(scene.hub.counts().attached, 1);
    assert_eq!(sweep(&mut scene, 2 * AFTER_ALL), [pair("plain", "PingTimeout")]);
    scene.recover("reliable");
    assert_eq!(scene.hub.counts().attached, 1);
}

#[test]
fn who_does_not_come_back_in_time_is_forgotten_and_who_does_is_not() {
    let mut scene = Scene::new();
    for name in ["late", "early"] {
        scene.open(name, Protocol::ReliableJson, &[], &["g"]);
        scene.lose(name);
    }
    let milliseconds = u64::try_from(AWAY_MAX.as_millis()).unwrap();
    scene.wait(milliseconds - 1);
    scene.recover("early");
    let ended = scene.wait(2);
    let expected = [pair("late", "the client did not come back")];
    assert_eq!(
        ended.into_iter().map(|ended| (ended.connection.to_string(), ended.reason)).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(scene.hub.counts().sessions, 1);
}

#[test]
fn a_client_that_is_away_is_kept_so_many_messages_and_is_then_unknown() {
    let mut scene = Scene::new();
    scene.open("ann", Protocol::ReliableJson, &[], &[]);
    scene.lose("ann");
    let now = scene.now();
    for _ in 0..KEPT_MESSAGES_MAX {
        assert_eq!(scene.hub.call(message(), now).ended, []);
    }
    let ended = scene.hub.call(message(), now).ended;
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].reason, "SlowClient");
    assert_eq!(scene.hub.counts().sessions, 0);
    let seen = Seen { pulse: Pulse(1), now, follows: true };
    let recovery = scene.hub.recover(&Scene::id("ann"), false, |_, _| Bytes::new(), seen);
    assert!(matches!(recovery, Recovery::Unknown), "it negotiates anew: {recovery:?}");
}

#[test]
fn a_node_that_stops_tells_its_clients_to_come_again_and_forgets_none() {
    let mut scene = Scene::new();
    scene.open("ann", Protocol::ReliableJson, &[], &[]);
    scene.hub.leave();
    let nexts = scene.nexts("ann");
    assert!(matches!(nexts.as_slice(), [(Next::End(end), None)] if end.code == close::AWAY), "{nexts:?}");
    assert_eq!(scene.hub.counts().sessions, 1);
}
