//! The operations, asked of a hub as it is: what each changes is seen by the next.

use std::task::{Context, Poll, Waker};

use serde_json::Value;

use super::tests::{hub, request, send_via, text_of};
use super::*;
use crate::frames::{Data, Protocol};
use crate::hub::outbox::{Next, Out, Pulse};
use crate::hub::{Arrival, Attached, Seen};
use crate::names::{ConnectionId, UserId};
use crate::permission::Permissions;

/// A client of the hub, without a connection.
struct Client(Attached);

impl Client {
    fn open(hub: &Arc<LiveHub>, connection: &str, user: Option<&str>) -> Self {
        let arrival = Arrival {
            connection: ConnectionId::parse(connection).unwrap(),
            user: user.map(|user| UserId::parse(user).unwrap()),
            protocol: Protocol::Json,
            permissions: Permissions::default(),
            groups: Vec::new(),
            state: None,
        };
        let seen = Seen { pulse: Pulse(0), now: super::tests::NOW, follows: true };
        Self(hub.with(|hub| hub.open(arrival, None, seen)))
    }

    /// What it has got since the last time: texts, and `end: REASON` when it is closed.
    fn got(&self) -> Vec<String> {
        let (mut taken, context) = (Vec::new(), Context::from_waker(Waker::noop()));
        let next = self.0.outbox.poll_take(self.0.transport, 100, &mut taken, &context);
        let end = match next {
            Poll::Ready(Next::End(end)) => Some(format!("end: {}", end.code)),
            _ => None,
        };
        taken.iter().map(text).chain(end).collect()
    }
}

fn text(out: &Out) -> String {
    match out {
        Out::Message(message, _) => match &message.data {
            Data::Text(text) | Data::Json(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        },
        Out::Frame(frame) => format!("frame of {} bytes", frame.len()),
    }
}

/// Asks one thing after the other, as text; each row says what the answer is.
async fn ask(hub: &Arc<LiveHub>, rows: &[(&str, u16)]) {
    for (line, expected) in rows {
        let (line, body) = line.split_once(" < ").unwrap_or((line, ""));
        let content_type = if body.starts_with('{') { "application/json" } else { "text/plain" };
        let response = send_via(hub, None, request(line, Some(content_type), body)).await;
        let status = response.status().as_u16();
        assert_eq!(status, *expected, "{line}: {}", text_of(response).await);
    }
}

#[tokio::test]
async fn connections_and_users_are_put_into_groups_and_taken_out() {
    let hub = hub();
    let _clients = [Client::open(&hub, "c1", Some("ann")), Client::open(&hub, "c2", Some("bob"))];
    ask(
        &hub,
        &[
            ("HEAD /api/hubs/chat/connections/c1", 200),
            ("HEAD /api/hubs/chat/connections/c9", 404),
            ("HEAD /api/hubs/chat/users/ann", 200),
            ("HEAD /api/hubs/chat/users/eve", 404),
            ("HEAD /api/hubs/chat/groups/g%2F1", 404),
            ("PUT /api/hubs/chat/groups/g%2F1/connections/c1", 200),
            ("PUT /api/hubs/chat/groups/g%2F1/connections/c1", 200),
            ("PUT /api/hubs/chat/groups/g%2F1/connections/c9", 404),
            ("HEAD /api/hubs/chat/groups/g%2F1", 200),
            ("DELETE /api/hubs/chat/groups/g%2F1/connections/c9", 204),
            ("DELETE /api/hubs/chat/groups/g%2F1/connections/c1", 204),
            ("HEAD /api/hubs/chat/groups/g%2F1", 404),
            ("PUT /api/hubs/chat/users/bob/groups/g", 200),
            ("PUT /api/hubs/chat/users/eve/groups/g", 404),
            ("HEAD /api/hubs/chat/groups/g", 200),
            ("DELETE /api/hubs/chat/users/eve/groups/g", 204),
            ("DELETE /api/hubs/chat/users/bob/groups/g", 204),
            ("HEAD /api/hubs/chat/groups/g", 404),
            ("PUT /api/hubs/chat/users/bob/groups/g", 200),
            ("DELETE /api/hubs/chat/users/bob/groups", 204),
            ("DELETE /api/hubs/chat/users/eve/groups", 204),
            ("HEAD /api/hubs/chat/groups/g", 404),
            ("PUT /api/hubs/chat/groups/g/connections/c2", 200),
            ("DELETE /api/hubs/chat/connections/c2/groups", 204),
            ("DELETE /api/hubs/chat/connections/c9/groups", 204),
            ("HEAD /api/hubs/chat/groups/g", 404),
            ("POST /api/hubs/chat/:addToGroups < {\"groups\":[\"g\",\"h\"],\"filter\":\"userId eq 'ann'\"}", 200),
            ("HEAD /api/hubs/chat/groups/h", 200),
            ("POST /api/hubs/chat/:removeFromGroups < {\"groups\":[\"h\"]}", 200),
            ("HEAD /api/hubs/chat/groups/h", 404),
        ],
    )
    .await;
    let members = send_via(&hub, None, request("GET /api/hubs/chat/groups/g/connections", None, "")).await;
    assert_eq!(text_of(members).await, r#"{"value":[{"connectionId":"c1","userId":"ann"}]}"#);
}

#[tokio::test]
async fn permissions_are_granted_and_revoked() {
    let hub = hub();
    let _client = Client::open(&hub, "c1", None);
    let base = "/api/hubs/chat/permissions/sendToGroup/connections";
    ask(
        &hub,
        &[
            (&format!("HEAD {base}/c1?targetName=g"), 404),
            (&format!("PUT {base}/c1?targetName=g"), 200),
            (&format!("HEAD {base}/c1?targetName=g"), 200),
            (&format!("HEAD {base}/c1?targetName=h"), 404),
            (&format!("HEAD {base}/c1"), 404),
            (&format!("DELETE {base}/c1?targetName=g"), 204),
            (&format!("HEAD {base}/c1?targetName=g"), 404),
            (&format!("PUT {base}/c1"), 200),
            (&format!("HEAD {base}/c1"), 200),
            (&format!("HEAD {base}/c1?targetName=h"), 200),
            (&format!("PUT {base}/c9"), 404),
            (&format!("HEAD {base}/c9"), 404),
            (&format!("DELETE {base}/c9"), 204),
        ],
    )
    .await;
}

#[tokio::test]
async fn messages_reach_those_who_are_meant() {
    let hub = hub();
    let ann = Client::open(&hub, "c1", Some("ann"));
    let bob = Client::open(&hub, "c2", Some("us er/1"));
    let nobody = Client::open(&hub, "c3", None);
    ask(
        &hub,
        &[
            ("PUT /api/hubs/chat/groups/g/connections/c1", 200),
            ("PUT /api/hubs/chat/groups/g/connections/c2", 200),
            ("POST /api/hubs/chat/:send < all", 202),
            ("POST /api/hubs/chat/:send?excluded=c1&excluded=c2 < not c1, c2", 202),
            ("POST /api/hubs/chat/:send?filter=userId%20eq%20null < without user", 202),
            ("POST /api/hubs/chat/groups/g/:send < group", 202),
            ("POST /api/hubs/chat/groups/g/:send?excluded=c1 < group without c1", 202),
            ("POST /api/hubs/chat/users/us%20er%2F1/:send < user", 202),
            ("POST /api/hubs/chat/connections/c1/:send < {\"to\":\"c1\"}", 202),
            ("POST /api/hubs/chat/connections/c9/:send < lost", 202),
            ("POST /api/hubs/chat/users/eve/:send < lost", 202),
            ("POST /api/hubs/chat/groups/empty/:send < lost", 202),
            ("POST /api/hubs/chat/:send?messageTtlSeconds=301 < never", 400),
            ("POST /api/hubs/chat/:send?filter=userId < never", 400),
        ],
    )
    .await;
    assert_eq!(ann.got(), ["all", "group", "{\"to\":\"c1\"}"]);
    assert_eq!(bob.got(), ["all", "group", "group without c1", "user"]);
    assert_eq!(nobody.got(), ["all", "not c1, c2", "without user"]);
}

#[tokio::test]
async fn closed_connections_are_gone() {
    let hub = hub();
    let clients = ["c1", "c2", "c3", "c4"].map(|id| Client::open(&hub, id, (id == "c3").then_some("ann")));
    ask(
        &hub,
        &[
            ("PUT /api/hubs/chat/groups/g/connections/c2", 200),
            ("DELETE /api/hubs/chat/connections/c1?reason=go%20away", 204),
            ("DELETE /api/hubs/chat/connections/c1", 204),
            ("HEAD /api/hubs/chat/connections/c1", 404),
            ("HEAD /api/hubs/chat/connections/c2", 200),
            ("POST /api/hubs/chat/groups/g/:closeConnections", 204),
            ("HEAD /api/hubs/chat/connections/c2", 404),
            ("POST /api/hubs/chat/users/ann/:closeConnections?excluded=c3", 204),
            ("HEAD /api/hubs/chat/connections/c3", 200),
            ("POST /api/hubs/chat/:closeConnections?excluded=c4", 204),
            ("HEAD /api/hubs/chat/connections/c3", 404),
            ("HEAD /api/hubs/chat/connections/c4", 200),
        ],
    )
    .await;
    let ends: Vec<_> =
        clients.iter().map(|client| client.got().last().cloned().unwrap_or_default()).collect();
    assert_eq!(ends, ["end: 1000", "end: 1000", "end: 1000", ""]);
}

#[tokio::test]
async fn a_large_group_is_read_in_pages() {
    let hub = hub();
    let _clients: Vec<_> = (100..350).map(|n| Client::open(&hub, &format!("c{n}"), None)).collect();
    ask(&hub, &[("POST /api/hubs/chat/:addToGroups < {\"groups\":[\"g\"]}", 200)]).await;
    let mut url = "/api/hubs/chat/groups/g/connections?maxpagesize=100".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = send_via(&hub, None, request(&format!("GET {url}"), None, "")).await;
        let page: Value = serde_json::from_str(&text_of(page).await).unwrap();
        seen.extend(
            page["value"].as_array().unwrap().iter().map(|member| member["connectionId"].to_string()),
        );
        let Some(next) = page["nextLink"].as_str() else { break };
        url = next.strip_prefix(super::tests::BASE).unwrap().to_owned();
    }
    assert_eq!(seen, (100..350).map(|n| format!("\"c{n}\"")).collect::<Vec<_>>());
}
