//! Streams, states of groups and invocations over real sockets: the frames as an official client writes and reads them.

mod deaf;
mod entering;
mod hostile;
mod simple;
mod told;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::connection::Claims;
use crate::connection::admission::Admission;
use crate::handler::{EventHandler, Handlers};
use crate::live::{LiveHub, Settings, now};
use crate::names::{GroupName, HubName, UserId};
use crate::negotiate::Sharing;
use crate::service::{Alone, Front, Hubs, Served, Via};
use crate::token::{AccessKey, AccessKeys, client_token};
use crate::ws::client::{OwnedIncoming, WsClient};

/// Long enough for any machine; nothing waits so long unless it is wrong.
const PATIENCE: Duration = Duration::from_secs(30);
const RELIABLE: &str = "json.reliable.webpubsub.azure.v1";
const ROLES: [&str; 2] = ["webpubsub.sendToGroup", "webpubsub.joinLeaveGroup"];

/// A node with one hub.
struct Node {
    front: Arc<Front>,
    hub: Arc<LiveHub>,
    url: String,
    _until: watch::Sender<bool>,
}

fn hub(handlers: Vec<EventHandler>) -> Arc<LiveHub> {
    let keys = AccessKeys { primary: AccessKey::of([1; 32]), secondary: AccessKey::of([2; 32]) };
    let settings = Settings {
        version: 1,
        hub: HubName::parse("chat").unwrap(),
        keys,
        audiences: Vec::new(),
        handlers,
        sharing: Sharing::ActivePassive,
        members: Vec::new(),
    };
    let hub = LiveHub::new(settings, Handlers::new(), false);
    hub.serve(true);
    hub
}

impl Node {
    async fn start(handlers: Vec<EventHandler>) -> Self {
        Self::of(hub(handlers), Admission::default()).await
    }

    async fn start_with(admission: Admission) -> Self {
        Self::of(hub(Vec::new()), admission).await
    }

    async fn of(hub: Arc<LiveHub>, admission: Admission) -> Self {
        Self::listen(hub, admission, None, Arc::new(Alone)).await
    }

    async fn listen(
        hub: Arc<LiveHub>,
        admission: Admission,
        tls: Option<Arc<rustls::ServerConfig>>,
        claims: Arc<dyn Claims>,
    ) -> Self {
        let hubs = Arc::<Hubs>::default();
        hubs.put(Served { hub: Arc::clone(&hub), pair: None, claims });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/client/hubs/chat", listener.local_addr().unwrap());
        let front = Front::with(hubs, tls, admission);
        let (until, over) = watch::channel(false);
        tokio::spawn(Arc::clone(&front).listen(listener, Via::Region, over));
        Self { front, hub, url, _until: until }
    }

    async fn client(&self, user: &str, groups: &[&str]) -> Talk {
        Talk::connect(&self.invitation(user, groups)).await
    }

    /// The URL with a token.
    fn invitation(&self, user: &str, groups: &[&str]) -> String {
        let roles = ROLES.map(str::to_owned);
        let groups: Vec<GroupName> = groups.iter().map(|group| GroupName::parse(group).unwrap()).collect();
        let key = &self.hub.settings().keys.primary;
        let user = UserId::parse(user).unwrap();
        let token = client_token(&self.url, Some(&user), &roles, &groups, now(), 5, key);
        format!("{}?access_token={token}", self.url.replacen("http", "ws", 1))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.front.stop();
    }
}

/// One client and its connection's name.
struct Talk {
    socket: WsClient,
    connection: String,
    token: String,
}

impl Talk {
    async fn connect(url: &str) -> Self {
        let socket = WsClient::connect(url, &[RELIABLE], &[], None).await.unwrap();
        let mut talk = Self { socket, connection: String::new(), token: String::new() };
        let connected: serde_json::Value = serde_json::from_str(&talk.hears().await).unwrap();
        connected["connectionId"].as_str().unwrap().clone_into(&mut talk.connection);
        connected["reconnectionToken"].as_str().unwrap().clone_into(&mut talk.token);
        talk
    }

    async fn says(&mut self, text: &str) {
        self.socket.send_text(text).await.unwrap();
    }

    async fn hears(&mut self) -> String {
        let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
        match next.expect("nothing came").unwrap() {
            Some(OwnedIncoming::Text(text)) => text,
            other => panic!("{other:?} came instead of a text"),
        }
    }

    /// Says something and hears what comes next.
    async fn asks(&mut self, text: &str) -> String {
        self.says(text).await;
        self.hears().await
    }
}

#[tokio::test]
async fn a_stream_is_published_and_goes_on_after_a_recovery() {
    let node = Node::start(Vec::new()).await;
    let mut publisher = node.client("ann", &[]).await;
    let mut receiver = node.client("bob", &["g"]).await;
    let begin = r#"{"type":"sendToGroup","group":"g","noEcho":false,"stream":{"streamId":"s"}}"#;
    let piece = |number: u64, text: &str| {
        format!(
            r#"{{"type":"streamData","streamId":"s","streamSequenceId":{number},"dataType":"text","data":"{text}"}}"#
        )
    };
    let acked =
        |expected: u64| format!(r#"{{"type":"streamAck","streamId":"s","expectedSequenceId":{expected}}}"#);
    assert_eq!(publisher.asks(begin).await, acked(1));
    assert_eq!(publisher.asks(&piece(1, "hello ")).await, acked(2));
    // It comes back as the same session and repeats what it does not know to have arrived.
    drop(publisher.socket);
    let url = format!(
        "{}?awps_connection_id={}&awps_reconnection_token={}",
        node.url.replacen("http", "ws", 1),
        publisher.connection,
        publisher.token
    );
    let mut publisher = Talk::connect(&url).await;
    assert_eq!(publisher.asks(&piece(1, "hello ")).await, acked(2));
    assert_eq!(publisher.asks(&piece(2, "world")).await, acked(3));
    let closed = r#"{"type":"streamClosed","streamId":"s"}"#;
    assert_eq!(publisher.asks(r#"{"type":"streamEnd","streamId":"s"}"#).await, closed);
    let came = |text: &str, number: u64, end: &str| {
        format!(
            r#"{{"type":"message","from":"group","group":"g","fromUserId":"ann","dataType":"text","data":"{text}","stream":{{"streamId":"s","streamSequenceId":{number}{end}}},"sequenceId":{number}}}"#
        )
    };
    assert_eq!(receiver.hears().await, came("hello ", 1, ""));
    assert_eq!(receiver.hears().await, came("world", 2, ""));
    assert_eq!(receiver.hears().await, came("", 3, r#","endOfStream":true"#));
}

#[tokio::test]
async fn who_watches_a_group_is_acknowledged_then_told() {
    let node = Node::start(Vec::new()).await;
    let mut ann = node.client("ann", &["g"]).await;
    let mut bob = node.client("bob", &["g"]).await;
    let set = r#"{"type":"setGroupState","group":"g","ackId":1,"state":{"mood":"fine"}}"#;
    let acked = |number: u64| format!(r#"{{"type":"ack","ackId":{number},"success":true}}"#);
    assert_eq!(ann.asks(set).await, acked(1));
    assert_eq!(bob.asks(r#"{"type":"subscribeGroupState","group":"g","ackId":7}"#).await, acked(7));
    let snapshot = bob.hears().await;
    let item = format!(
        r#"{{"connectionId":"{}","userId":"ann","state":{{"mood":"fine"}},"updatedAt":"#,
        ann.connection
    );
    assert!(snapshot.starts_with(r#"{"type":"groupStateSnapshot","group":"g","items":["#), "{snapshot}");
    assert!(snapshot.contains(&item), "{snapshot}");
    ann.socket.close(1000, "").await.unwrap();
    let update = bob.hears().await;
    let gone = format!(
        r#"{{"type":"groupStateUpdate","group":"g","items":[{{"connectionId":"{}","userId":"ann","updatedAt":"#,
        ann.connection
    );
    assert!(update.starts_with(&gone), "{update}");
}

/// An event handler that answers each event `order` with JSON, and `slow` never.
async fn handler() -> EventHandler {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = vec![0; 16 * 1024];
                let count = stream.read(&mut read).await.unwrap_or(0);
                if read[..count].starts_with(b"POST /slow") {
                    return std::future::pending().await;
                }
                let status =
                    if read[..count].starts_with(b"POST /order") { "200 OK" } else { "400 Bad Request" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: 8\r\nconnection: close\r\n\r\n{{\"no\":7}}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    EventHandler::parse(&format!("url-template=http://{address}/{{event}} user-event-pattern=order,slow,bad"))
        .unwrap()
}

#[tokio::test]
async fn an_invocation_is_answered_whatever_else_is_under_way() {
    let node = Node::start(vec![handler().await]).await;
    let mut ann = node.client("ann", &[]).await;
    let invoke = |id: &str, event: &str| {
        format!(
            r#"{{"type":"invoke","invocationId":"{id}","target":"event","event":"{event}","dataType":"json","data":{{"a":1}}}}"#
        )
    };
    let failed = |id: &str, name: &str, message: &str| {
        format!(
            r#"{{"type":"invokeResponse","invocationId":"{id}","success":false,"error":{{"name":"{name}","message":"{message}"}}}}"#
        )
    };
    ann.says(&invoke("1", "slow")).await;
    assert_eq!(
        ann.asks(&invoke("2", "order")).await,
        r#"{"type":"invokeResponse","invocationId":"2","success":true,"dataType":"json","data":{"no":7}}"#
    );
    let again = failed("1", "BadRequest", "an invocation with this id is under way");
    assert_eq!(ann.asks(&invoke("1", "order")).await, again);
    ann.says(r#"{"type":"cancelInvocation","invocationId":"1"}"#).await;
    let answer = ann.asks(&invoke("1", "order")).await;
    assert!(answer.contains(r#""success":true"#), "the id is free again: {answer}");
    let bad = failed("3", "InternalServerError", "The event handler failed");
    assert_eq!(ann.asks(&invoke("3", "bad")).await, bad);
    let nobody = failed("4", "NotFound", "no event handler takes the event other");
    assert_eq!(ann.asks(&invoke("4", "other")).await, nobody);
    let group = invoke("5", "order").replace(r#""target":"event""#, r#""target":"group""#);
    let refused = failed("5", "BadRequest", r#"the target \"group\" cannot be invoked: only event can"#);
    assert_eq!(ann.asks(&group).await, refused);
}
