//! What event handlers are told of clients.

use super::*;
use crate::authority::Authority;
use crate::handler::tests::server::{Reply, Seen, Server};
use crate::hub::call::Call;
use crate::names::ConnectionId;

/// It takes these events of the service, and says yes to everything.
async fn told(events: &str) -> (Server, EventHandler) {
    let server = Server::always(Reply::status(204)).await;
    let handler = format!("url-template={}/{{event}} user-event-pattern= system-event={events}", server.url);
    (server, EventHandler::parse(&handler).unwrap())
}

/// So many requests, in the order of their events.
async fn seen(server: &Server, count: usize) -> Vec<Seen> {
    let until = tokio::time::Instant::now() + PATIENCE;
    while server.seen().len() < count {
        assert!(tokio::time::Instant::now() < until, "it was told {} times", server.seen().len());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut seen = server.seen();
    seen.sort_by_key(|seen| seen.header("ce-id").parse::<u64>().unwrap());
    seen
}

fn summary(seen: &Seen) -> String {
    let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    let (id, name) = (seen.header("ce-id"), seen.header("ce-eventname"));
    format!("{id} {name} {}", body["group"].as_str().unwrap_or_default()).trim().to_owned()
}

#[tokio::test]
async fn handlers_are_told_who_comes_into_groups_and_goes() {
    let (server, handler) = told("connected,disconnected,joined,left").await;
    let node = Node::start(vec![handler]).await;
    let mut ann = node.client("ann", &["first"]).await;
    seen(&server, 2).await;
    let join = r#"{"type":"joinGroup","group":"second","ackId":1}"#;
    let acked = |id: u64| format!(r#"{{"type":"ack","ackId":{id},"success":true}}"#);
    assert_eq!(ann.asks(join).await, acked(1));
    assert_eq!(ann.asks(&join.replace(":1", ":2")).await, acked(2), "it is there already");
    assert_eq!(ann.asks(r#"{"type":"leaveGroup","group":"first","ackId":3}"#).await, acked(3));
    let connection = ConnectionId::parse(&ann.connection).unwrap();
    let group = GroupName::parse("third").unwrap();
    node.hub.ask(Call::Join { connection, group }).await.unwrap();
    seen(&server, 5).await;
    ann.socket.close(1000, "").await.unwrap();
    let seen = seen(&server, 8).await;
    let found: Vec<String> = seen.iter().map(summary).collect();
    let expected = [
        "1 connected",
        "2 joined first",
        "3 joined second",
        "4 left first",
        "5 joined third",
        "6 left second",
        "7 left third",
        "8 disconnected",
    ];
    assert_eq!(found, expected);
    assert!(seen.iter().all(|seen| seen.header("ce-userid") == "ann"));
}

#[tokio::test]
async fn handlers_are_told_which_certificate_a_client_has_shown() {
    let authority = Authority::new();
    let (server, client) = (authority.vouch_for("127.0.0.1"), authority.vouch_for("ann"));
    let (handler, tls) = (told("connect").await, authority.server(&server));
    let (handler, hub) = (handler.0, hub(vec![handler.1]));
    let node = Node::listen(hub, Admission::default(), Some(tls), Arc::new(Alone)).await;
    let url = node.invitation("ann", &[]);
    let _client = WsClient::connect(&url, &[RELIABLE], &[], Some(authority.client(&client))).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&seen(&handler, 1).await[0].body).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &client.certificate);
    let thumbprint: String = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(body["clientCertificates"], serde_json::json!([{ "thumbprint": thumbprint }]));
}

#[tokio::test]
async fn events_of_one_client_that_wait_for_a_handler_that_hangs_are_bounded_in_bytes() {
    let server = Server::always(Reply::Hang).await;
    let node = Node::start(vec![EventHandler::parse(&server.url).unwrap()]).await;
    let mut ann = node.client("ann", &[]).await;
    let data = "x".repeat(900_000);
    let event = |id: u64, data: &str| {
        format!(r#"{{"type":"event","event":"e","ackId":{id},"dataType":"text","data":"{data}"}}"#)
    };
    for id in 1..5 {
        ann.says(&event(id, &data)).await;
    }
    let refused = ann.asks(&event(5, &data)).await;
    assert!(refused.contains(r#""ackId":5,"success":false"#), "{refused}");
    assert!(refused.contains("too many events"), "{refused}");
    let others = node.client("bob", &[]).await.asks(r#"{"type":"ping"}"#).await;
    assert_eq!(others, r#"{"type":"pong"}"#, "nobody else is disturbed");
}

#[tokio::test]
async fn a_recovery_is_no_coming_and_no_going() {
    let (server, handler) = told("connected,disconnected,joined,left").await;
    let node = Node::start(vec![handler]).await;
    let ann = node.client("ann", &["g"]).await;
    drop(ann.socket);
    let url = node.url.replacen("http", "ws", 1);
    let url = format!("{url}?awps_connection_id={}&awps_reconnection_token={}", ann.connection, ann.token);
    let mut again = Talk::connect(&url).await;
    assert_eq!(again.connection, ann.connection);
    again.socket.close(1000, "").await.unwrap();
    let found: Vec<String> = seen(&server, 4).await.iter().map(summary).collect();
    assert_eq!(found, ["1 connected", "2 joined g", "3 left g", "4 disconnected"]);
}
