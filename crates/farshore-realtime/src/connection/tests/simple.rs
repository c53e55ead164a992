//! Clients without a subprotocol, and which one is agreed.

use super::*;
use crate::frames::{Data, Message, Sender};
use crate::handler::tests::server::{Reply, Server};
use crate::hub::call::{Call, Scope};

const PLAIN: &str = "json.webpubsub.azure.v1";

async fn connect(url: &str, offers: &[&str]) -> WsClient {
    WsClient::connect(url, offers, &[], None).await.unwrap()
}

async fn next(socket: &mut WsClient) -> OwnedIncoming {
    let next = tokio::time::timeout(PATIENCE, socket.next()).await.expect("nothing came");
    next.unwrap().expect("it has ended")
}

async fn send(node: &Node, data: Data) {
    let message = Arc::new(Message::new(Sender::Server, data));
    let call = Call::Send { to: Scope::All, message, exclude: Vec::new(), filter: None };
    node.hub.ask(call).await.unwrap();
}

#[tokio::test]
async fn a_simple_client_sends_to_its_group_and_gets_data_as_it_is() {
    let node = Node::start(Vec::new()).await;
    let mut bob = node.client("bob", &["g"]).await;
    let by_query = node.invitation("ann", &["g"]).replace("/client/hubs/chat?", "/client/?hub=chat&");
    // A subprotocol that nobody speaks is none.
    let mut ann =
        connect(&format!("{by_query}&webpubsub_mode=sendToGroup&group=g&noEcho=true"), &["chat.v7"]).await;
    ann.send_text("hello").await.unwrap();
    let heard = bob.hears().await;
    assert!(heard.contains(r#""group":"g","fromUserId":"ann","dataType":"text","data":"hello""#), "{heard}");
    send(&node, Data::text("a text")).await;
    send(&node, Data::Json(br#"{"a":1}"#.as_slice().into())).await;
    send(&node, Data::Binary(b"\0\xff".as_slice().into())).await;
    assert_eq!(next(&mut ann).await, OwnedIncoming::Text("a text".into()), "and no echo");
    assert_eq!(next(&mut ann).await, OwnedIncoming::Text(r#"{"a":1}"#.into()));
    assert_eq!(next(&mut ann).await, OwnedIncoming::Binary(b"\0\xff".as_slice().into()));
}

#[tokio::test]
async fn a_simple_clients_frames_are_events_and_a_failed_one_ends_it() {
    let server = Server::start(|_, seen| match &seen.body[..] {
        b"fail" => Reply::status(404),
        _ => Reply::body("text/plain", "so it is"),
    })
    .await;
    let node = Node::start(vec![EventHandler::parse(&server.url).unwrap()]).await;
    let mut ann = connect(&node.invitation("ann", &[]), &[]).await;
    ann.send_text("is it?").await.unwrap();
    assert_eq!(next(&mut ann).await, OwnedIncoming::Text("so it is".into()));
    let seen = server.seen();
    assert_eq!(
        (seen[0].header("ce-type"), seen[0].header("content-type")),
        ("azure.webpubsub.user.message", "text/plain")
    );
    ann.send_text("fail").await.unwrap();
    assert!(matches!(next(&mut ann).await, OwnedIncoming::Close { code: Some(1011), .. }));
}

#[tokio::test]
async fn the_handler_chooses_the_subprotocol_else_it_is_the_first_that_is_spoken() {
    let offers = ["chat.v7", RELIABLE, PLAIN];
    let node = Node::start(Vec::new()).await;
    let url = node.invitation("ann", &[]);
    assert_eq!(connect(&url, &offers).await.subprotocol(), Some(RELIABLE));
    let answer = r#"{"subprotocol":"json.webpubsub.azure.v1","userId":"zoe","groups":["g"],"roles":["webpubsub.sendToGroup"]}"#;
    let server = Server::always(Reply::body("application/json", answer)).await;
    let handler = format!("url-template={} user-event-pattern= system-event=connect", server.url);
    let node = Node::start(vec![EventHandler::parse(&handler).unwrap()]).await;
    let mut ann = connect(&node.invitation("ann", &[]), &offers).await;
    assert_eq!(ann.subprotocol(), Some(PLAIN));
    let OwnedIncoming::Text(hello) = next(&mut ann).await else { panic!("no hello") };
    assert!(hello.contains(r#""userId":"zoe""#), "{hello}");
    let exists = Call::Exists(Scope::Group(GroupName::parse("g").unwrap()));
    assert_eq!(node.hub.ask(exists).await.unwrap(), crate::hub::call::Answer::Yes);
}

#[tokio::test]
async fn a_client_that_the_handler_refuses_is_told_its_words_and_nothing_is_left_of_it() {
    let server = Server::always(Reply::Answer(403, Vec::new(), "not you".into())).await;
    let handler = format!("url-template={} user-event-pattern= system-event=connect", server.url);
    let node = Node::start(vec![EventHandler::parse(&handler).unwrap()]).await;
    let refused = WsClient::connect(&node.invitation("ann", &[]), &[RELIABLE], &[], None).await.unwrap_err();
    assert_eq!(refused.status(), Some(403));
    assert_eq!(node.hub.counts(), Default::default());
}
