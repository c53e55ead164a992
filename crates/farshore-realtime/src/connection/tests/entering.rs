//! Who is let in, and what strangers can do to those who are.

use super::*;
use crate::names::ConnectionId;
use crate::ws::client::ConnectError;

async fn knock(url: &str) -> Result<WsClient, ConnectError> {
    WsClient::connect(url, &[RELIABLE], &[], None).await
}

impl Node {
    fn ws(&self) -> String {
        self.url.replacen("http", "ws", 1)
    }

    fn recovery(&self, connection: &str, token: &str) -> String {
        format!("{}?awps_connection_id={connection}&awps_reconnection_token={token}", self.ws())
    }
}

/// With what code it is closed, once it is in.
async fn close_code(mut socket: WsClient) -> Option<u16> {
    let next = tokio::time::timeout(PATIENCE, socket.next()).await.expect("it is left waiting");
    match next.unwrap() {
        Some(OwnedIncoming::Close { code, .. }) => code,
        other => panic!("{other:?} came"),
    }
}

#[tokio::test]
async fn strangers_with_forged_tokens_take_nobodys_turn() {
    let node = Node::start_with(Admission::new(1, 1)).await;
    for _ in 0..20 {
        let refused = knock(&format!("{}?access_token=a.b.c", node.ws())).await.unwrap_err();
        assert_eq!(refused.status(), Some(401));
        let unknown = knock(&node.recovery("nobody", "a.b.c")).await.unwrap();
        assert_eq!(close_code(unknown).await, Some(1008));
    }
    // Each turn takes a second: it would have been told to come again.
    node.client("ann", &[]).await;
}

#[tokio::test]
async fn who_comes_back_to_a_hub_that_serves_nobody_is_told_so_unless_its_address_leads_elsewhere() {
    let node = Node::start(Vec::new()).await;
    let ann = node.client("ann", &[]).await;
    let url = node.recovery(&ann.connection, &ann.token);
    drop(ann.socket);
    node.hub.drain();
    // Its address may soon be the other region's: it comes again with its session.
    assert_eq!(knock(&url).await.unwrap_err().status(), Some(503));
    let own = node.url.trim_end_matches("/client/hubs/chat").to_owned();
    node.front.stays.set(vec![own]).unwrap();
    assert_eq!(close_code(knock(&url).await.unwrap()).await, Some(1008));
    let anew = node.ws();
    assert_eq!(knock(&anew).await.unwrap_err().status(), Some(503), "new ones negotiate again by themselves");
}

/// A partner from which sessions are still on their way, and never come.
#[derive(Debug)]
struct Slow;

#[async_trait::async_trait]
impl Claims for Slow {
    async fn claim(&self, _connection: &ConnectionId) {}
    fn may_come(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn who_comes_back_before_their_session_is_told_to_come_again_and_not_to_begin_anew() {
    let node = Node::listen(hub(Vec::new()), Admission::default(), None, Arc::new(Slow)).await;
    let elsewhere = Node::start(Vec::new()).await;
    let ann = elsewhere.client("ann", &[]).await;
    let url = node.recovery(&ann.connection, &ann.token);
    assert_eq!(close_code(knock(&url).await.unwrap()).await, Some(1013));
}

#[tokio::test]
async fn what_is_no_upgrade_is_told_why() {
    let node = Node::start(Vec::new()).await;
    let ask = |headers: &'static str| {
        let (node, path) = (&node, "/client/hubs/chat?access_token=a.b.c");
        async move {
            let mut stream = node.tcp().await;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade\r\n{headers}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    };
    let key = "Upgrade: websocket\r\nSec-WebSocket-Key: c2hvcnQ=\r\nSec-WebSocket-Version: 13\r\n";
    let version =
        "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n";
    for (headers, status, says) in [
        ("", "HTTP/1.1 400 ", "this is a WebSocket endpoint"),
        (key, "HTTP/1.1 400 ", "16 bytes in base64"),
        (version, "HTTP/1.1 426 ", "sec-websocket-version: 13"),
    ] {
        let answer = ask(headers).await;
        assert!(answer.starts_with(status) && answer.contains(says), "{answer}");
    }
}
