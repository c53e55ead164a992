//! Questions and orders about what is on another node.

use super::*;
use crate::permission::Permission;

#[tokio::test]
async fn one_connection_is_found_wherever_it_is() {
    let nats = Nats::start().await;
    let [one, two] = nats.two().await;
    let client = Client::open(&two, "there");
    let (there, nobody, g) = (connection("there"), connection("nobody"), group("g"));
    let permission = Permission::SendToGroup;
    let join = |connection: &ConnectionId| Call::Join { connection: connection.clone(), group: g.clone() };
    let grant =
        |connection: &ConnectionId| Call::Grant { connection: connection.clone(), permission, group: None };
    let has =
        |connection: &ConnectionId, group| Call::Has { connection: connection.clone(), permission, group };
    for (call, answer) in [
        (Call::Exists(Scope::Connection(there.clone())), Answer::Yes),
        (Call::Exists(Scope::Connection(nobody.clone())), Answer::No),
        (Call::Exists(Scope::Group(g.clone())), Answer::No),
        (join(&there), Answer::Done),
        (Call::Exists(Scope::Group(g.clone())), Answer::Yes),
        (join(&nobody), Answer::NotFound),
        (grant(&there), Answer::Done),
        (grant(&nobody), Answer::NotFound),
        (has(&there, None), Answer::Yes),
        (Call::Revoke { connection: there.clone(), permission, group: None }, Answer::Done),
        (Call::Revoke { connection: nobody.clone(), permission, group: None }, Answer::Done),
        (has(&there, None), Answer::No),
        (Call::Leave { connection: there.clone(), group: g.clone() }, Answer::Done),
        (Call::Exists(Scope::Group(g.clone())), Answer::No),
        (send(Scope::Connection(nobody.clone()), "to nobody"), Answer::Done),
        (send(Scope::Connection(there.clone()), "to you"), Answer::Done),
    ] {
        assert_eq!(one.ask(call.clone()).await, answer, "{call:?}");
    }
    let close =
        |who| Call::Close { who: Scope::Connection(who), exclude: Vec::new(), reason: "bye".to_owned() };
    assert_eq!(one.ask(close(nobody)).await, Answer::Done);
    assert_eq!(one.ask(close(there)).await, Answer::Done);
    assert_eq!(client.until("closed: 1000 bye").await, ["to you", "closed: 1000 bye"]);
    assert_eq!(one.bus.stats().unanswered, 0);
}

#[tokio::test]
async fn users_and_groups_are_those_of_all_nodes() {
    let nats = Nats::start().await;
    let [one, two] = nats.two().await;
    let clients = [
        Client::of(&one.hub(), "c1", Some("ann"), &[]),
        Client::of(&two.hub(), "c2", Some("ann"), &[]),
        Client::of(&two.hub(), "c3", Some("bob"), &[]),
    ];
    let join = |name| Call::UserJoin { user: user(name), group: group("g") };
    let members =
        |after: Option<&str>, limit| Call::Members { group: group("g"), after: after.map(connection), limit };
    let named = |answer| match answer {
        Answer::Members(members) => {
            members.iter().map(|member| member.connection.to_string()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(one.ask(join("ann")).await, Answer::Done);
    assert_eq!(one.ask(join("bob")).await, Answer::Done, "he is on the other node only");
    assert_eq!(one.ask(join("eve")).await, Answer::NotFound);
    assert_eq!(one.ask(Call::Exists(Scope::User(user("bob")))).await, Answer::Yes);
    assert_eq!(named(one.ask(members(None, 10)).await), ["c1", "c2", "c3"]);
    assert_eq!(named(two.ask(members(None, 2)).await), ["c1", "c2"]);
    assert_eq!(named(two.ask(members(Some("c1"), 2)).await), ["c2", "c3"]);
    two.send(Scope::Group(group("g")), "to all three").await;
    for client in &clients {
        client.until("to all three").await;
    }
    assert_eq!(two.ask(Call::UserLeaveAll { user: user("ann") }).await, Answer::Done);
    eventually("only bob is left", async || named(one.ask(members(None, 10)).await) == ["c3"]).await;
    let groups = vec![group("h")];
    assert_eq!(one.ask(Call::AddToGroups { groups, filter: None }).await, Answer::Done);
    one.send(Scope::Group(group("h")), "to h").await;
    for client in &clients {
        client.until("to h").await;
    }
    let everybody =
        Call::Close { who: Scope::All, exclude: vec![connection("c2")], reason: "over".to_owned() };
    assert_eq!(one.ask(everybody).await, Answer::Done);
    for client in [&clients[0], &clients[2]] {
        client.until("closed: 1000 over").await;
    }
    assert_eq!(two.hub().counts().sessions, 1);
}
