use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::frames::Sender;
use crate::rest::{Action, Operation};

const NOW: Moment = Moment(1_000_000_000);

fn group() -> GroupName {
    GroupName::parse("a/b &c").unwrap()
}

fn user() -> UserId {
    UserId::parse("us er/1").unwrap()
}

fn connection() -> ConnectionId {
    ConnectionId::parse("c-1").unwrap()
}

/// The request for a call, read by the REST data plane.
fn read(call: &Call) -> Action {
    let wire = Wire::of(call, NOW).unwrap();
    let (path, query) = wire.path.split_once('?').unwrap();
    match Operation::parse(&wire.method, &format!("/api/hubs/chat{path}"), Some(query)).unwrap() {
        Operation::Hub { action, .. } => action,
        Operation::Health => panic!("{call:?} became a question of health"),
    }
}

#[test]
fn what_is_written_is_what_our_own_data_plane_reads() {
    let (permission, target) = (Permission::SendToGroup, Some(group()));
    for call in [
        Call::Exists(Scope::Group(group())),
        Call::Exists(Scope::User(user())),
        Call::Exists(Scope::Connection(connection())),
        Call::Join { connection: connection(), group: group() },
        Call::Leave { connection: connection(), group: group() },
        Call::LeaveAll { connection: connection() },
        Call::UserJoin { user: user(), group: group() },
        Call::UserLeave { user: user(), group: group() },
        Call::UserLeaveAll { user: user() },
        Call::Grant { connection: connection(), permission, group: target.clone() },
        Call::Grant { connection: connection(), permission: Permission::JoinLeaveGroup, group: None },
        Call::Revoke { connection: connection(), permission, group: target.clone() },
        Call::Has { connection: connection(), permission, group: target },
        Call::Close { who: Scope::All, exclude: vec![connection()], reason: "good bye & thanks".to_owned() },
        Call::Close { who: Scope::Group(group()), exclude: Vec::new(), reason: String::new() },
        Call::Close { who: Scope::User(user()), exclude: vec![connection()], reason: String::new() },
        Call::Close { who: Scope::Connection(connection()), exclude: Vec::new(), reason: "x".to_owned() },
    ] {
        let Action::Ask(read) = read(&call) else { panic!("{call:?} became another action") };
        assert_eq!(format!("{read:?}"), format!("{call:?}"));
    }
}

#[test]
fn a_message_keeps_its_receivers_its_filter_and_its_end() {
    for (to, excluded, filtered) in [
        (Scope::All, 1, true),
        (Scope::Group(group()), 1, true),
        (Scope::User(user()), 0, true),
        (Scope::Connection(connection()), 0, false),
    ] {
        let mut message = Message::new(Sender::Server, Data::Json(Bytes::from_static(b"[1]")));
        message.id = Some(255);
        message.expires = Some(NOW.after(Duration::from_millis(9_001)));
        message.metadata.insert("trace".to_owned(), "t 1".to_owned());
        let filter = Some(Filter::parse("userId eq 'a b'").unwrap());
        let call =
            Call::Send { to: to.clone(), message: Arc::new(message), exclude: vec![connection()], filter };
        let wire = Wire::of(&call, NOW).unwrap();
        assert_eq!(wire.body, Some(("application/json", Bytes::from_static(b"[1]"))));
        let id = format!("{:032x}", 255);
        let expected = [("x-webpubsub-metadata-trace", "t 1"), (MESSAGE_ID, id.as_str())];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(wire.headers, expected);
        let Action::Send(sending) = read(&call) else { panic!("{call:?} became another action") };
        assert_eq!((sending.to, sending.exclude.len()), (to, excluded));
        assert_eq!((sending.filter.is_some(), sending.ttl_seconds), (filtered, Some(10)));
    }
}

#[test]
fn a_message_that_ends_now_does_not_live_for_ever() {
    for (left_ms, expected) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (300_000, 300), (900_000, 300)] {
        assert_eq!(seconds_left(NOW.after(Duration::from_millis(left_ms)), NOW), expected, "{left_ms}");
    }
    assert_eq!(seconds_left(Moment(0), NOW), 1);
}

#[test]
fn groups_travel_in_the_body() {
    let groups = vec![group()];
    let filter = Some(Filter::parse("userId eq 'ann'").unwrap());
    let wire = Wire::of(&Call::AddToGroups { groups: groups.clone(), filter }, NOW).unwrap();
    let body = br#"{"filter":"userId eq 'ann'","groups":["a/b &c"]}"#;
    assert_eq!((wire.path.as_str(), wire.method), ("/:addToGroups?api-version=2024-12-01", Method::POST));
    assert_eq!(wire.body, Some(("application/json", Bytes::from_static(body))));
    let wire = Wire::of(&Call::RemoveFromGroups { groups, filter: None }, NOW).unwrap();
    let body = br#"{"groups":["a/b &c"]}"#;
    assert_eq!(wire.path, "/:removeFromGroups?api-version=2024-12-01");
    assert_eq!(wire.body, Some(("application/json", Bytes::from_static(body))));
}

#[test]
fn what_a_status_means() {
    let question = Call::Exists(Scope::Group(group()));
    let order = Call::LeaveAll { connection: connection() };
    for (call, status, code, expected) in [
        (&question, 200, None, Some(Answer::Yes)),
        (&question, 404, None, Some(Answer::No)),
        (&question, 404, Some("Warning.Group.NotExisted"), Some(Answer::No)),
        (&question, 404, Some("Error.Hub.NotExisted"), None),
        (&order, 204, None, Some(Answer::Done)),
        (&order, 202, None, Some(Answer::Done)),
        (&order, 404, Some("Warning.Connection.NotExisted"), Some(Answer::NotFound)),
        (&order, 404, Some("Error.Hub.NotExisted"), None),
        (&order, 401, None, None),
        (&order, 307, None, None),
        (&order, 503, None, None),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(answer(call, status, code), expected, "{status} {code:?}");
    }
}

#[test]
fn pages_are_read_and_their_links_not_followed_elsewhere() {
    for (body, count, mark) in [
        (r#"{"value":[]}"#, Some(0), None),
        (r#"{"value":[{"connectionId":"a"},{"connectionId":"b","userId":"ann"}]}"#, Some(2), None),
        (
            r#"{"value":[{"connectionId":"a"}],"nextLink":"http://evil/?x=1&continuationToken=m%2F1&top=3"}"#,
            Some(1),
            Some("m/1"),
        ),
        (r#"{"value":[{"connectionId":"not an id"}],"nextLink":"nonsense"}"#, Some(0), None),
        (r#"{"value":1}"#, None, None),
        ("", None, None),
    ] {
        let read = page(body.as_bytes());
        assert_eq!(read.as_ref().map(|(members, _)| members.len()), count, "{body}");
        assert_eq!(read.and_then(|(_, mark)| mark).as_deref(), mark, "{body}");
    }
}
