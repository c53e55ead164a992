//! Two regions in one process, over real sockets: what clients live through, as the engine would order it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::{Epoch, ItemId, Region, StepKey, Token};
use farshore_core::workload::{
    Action, Observation, Order, PointChoice, ReplicationMode, ReplicationState, Role, Workload,
};
use farshore_realtime::live::now;
use farshore_realtime::names::UserId;
use farshore_realtime::token::{AccessKey, client_token};
use farshore_realtime::workload::{PartnerAddress, Realtime, RealtimeOptions, TakeOver};
use farshore_realtime::ws::client::{OwnedIncoming, WsClient};
use serde_json::{Value, json};
use tempfile::TempDir;

const RELIABLE: &str = "json.reliable.webpubsub.azure.v1";
const PLAIN: &str = "json.webpubsub.azure.v1";
/// Nothing here takes as long; only a hang does.
const PATIENCE: Duration = Duration::from_secs(20);

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn chat() -> ItemId {
    ItemId::parse("realtime/chat").unwrap()
}

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A region that can be stopped and started again at the same addresses.
struct Place {
    name: &'static str,
    at: PartnerAddress,
    dir: TempDir,
    node: Option<Arc<Realtime>>,
}

struct World {
    places: Vec<Place>,
    orders: u64,
    key: AccessKey,
}

impl World {
    /// A hub in paris, followed by oslo.
    async fn protected() -> Self {
        let place = |name| Place {
            name,
            at: PartnerAddress { listen: free(), pair: free(), link: free(), url: None, pair_url: None },
            dir: tempfile::tempdir().unwrap(),
            node: None,
        };
        let places = vec![place("paris"), place("oslo")];
        let mut world = Self { places, orders: 0, key: AccessKey::of([0; 32]) };
        world.start("paris").await;
        world.start("oslo").await;
        world.order("paris", 1, Action::Create { spec: json!({}) }).await;
        let shape = world.look("paris").await.shape;
        world.order("oslo", 1, Action::PrepareTarget { source: region("paris"), shape }).await;
        let address = world.place("oslo").at.link.to_string();
        let mode = ReplicationMode::Async;
        world.order("paris", 1, Action::Replicate { target: region("oslo"), address, mode }).await;
        let keys = world.node("paris").ask(&chat(), &json!({"ask": "keys"})).await.unwrap();
        world.key = AccessKey::parse(keys["primary"].as_str().unwrap()).unwrap();
        world.streaming("paris").await;
        world
    }

    /// Paris was lost and follows oslo now, where its client went on.
    async fn away() -> (Self, Client) {
        let mut world = Self::protected().await;
        let home = world.place("paris").at.pair;
        let client = world.client(home, RELIABLE).await;
        world.lose("paris").await;
        let mut client = client.recover().await;
        assert_eq!(client.frame().await["event"], "connected");
        world.order("oslo", 2, Action::Promote { point: PointChoice::Latest }).await;
        world.start("paris").await;
        assert_eq!(world.look("paris").await.role, Role::Unconfirmed);
        world.order("paris", 2, Action::Fence { lost_after: None }).await;
        world.order("oslo", 2, Action::Commit).await;
        let after = Default::default();
        world.order("paris", 2, Action::Follow { source: region("oslo"), diverged_after: after }).await;
        let address = world.place("paris").at.link.to_string();
        let mode = ReplicationMode::Async;
        world.order("oslo", 2, Action::Replicate { target: region("paris"), address, mode }).await;
        world.streaming("oslo").await;
        (world, client)
    }

    fn place(&self, name: &str) -> &Place {
        self.places.iter().find(|place| place.name == name).unwrap()
    }

    fn node(&self, name: &str) -> Arc<Realtime> {
        Arc::clone(self.place(name).node.as_ref().unwrap())
    }

    async fn start(&mut self, name: &str) {
        let partners: BTreeMap<_, _> = self
            .places
            .iter()
            .filter(|place| place.name != name)
            .map(|place| (region(place.name), place.at.clone()))
            .collect();
        let place = self.places.iter_mut().find(|place| place.name == name).unwrap();
        let options = RealtimeOptions {
            region: region(name),
            dir: place.dir.path().to_owned(),
            listen: place.at.listen,
            pair: place.at.pair,
            link: place.at.link,
            url: None,
            pair_url: None,
            partners,
            take_over: TakeOver::Address,
            secret: "the regions' secret".to_owned(),
            tls: None,
            bus: None,
        };
        place.node = Some(Realtime::open(options).await.unwrap());
    }

    /// The region is gone, with everything that it had in memory.
    async fn lose(&mut self, name: &str) {
        let place = self.places.iter_mut().find(|place| place.name == name).unwrap();
        place.node.take().unwrap().stop().await;
    }

    async fn order(&mut self, name: &str, epoch: u64, action: Action) {
        self.orders += 1;
        let order = Order {
            key: StepKey(format!("test/{}", self.orders)),
            item: chat(),
            token: Token::new(1, Epoch(epoch)),
            action,
            only_if: None,
            lease: None,
            by: None,
        };
        self.node(name).act(&order).await.unwrap();
    }

    async fn look(&self, name: &str) -> Observation {
        self.node(name).observe(&chat()).await.unwrap()
    }

    async fn streaming(&self, name: &str) {
        eventually(&format!("{name} streams"), async || {
            let replication = self.look(name).await.replication;
            replication.is_some_and(|link| link.state == ReplicationState::Streaming)
        })
        .await;
    }

    async fn stats(&self, name: &str) -> Value {
        self.node(name).ask(&chat(), &json!({"ask": "stats"})).await.unwrap()
    }

    /// A token for the hub as it is reached at `address`, good for `minutes`.
    fn token(&self, address: SocketAddr, minutes: u32) -> String {
        let user = UserId::parse("ann").unwrap();
        let roles = ["webpubsub.joinLeaveGroup".to_owned(), "webpubsub.sendToGroup".to_owned()];
        let endpoint = format!("http://{address}/client/hubs/chat");
        client_token(&endpoint, Some(&user), &roles, &[], now(), minutes, &self.key)
    }

    async fn client(&self, address: SocketAddr, subprotocol: &str) -> Client {
        let query = format!("access_token={}", self.token(address, 60));
        let mut client = Client::connect(address, &query, subprotocol).await;
        let connected = client.frame().await;
        assert_eq!(connected["event"], "connected", "{connected}");
        client.connection = connected["connectionId"].as_str().unwrap().to_owned();
        client.recovery = connected["reconnectionToken"].as_str().unwrap_or_default().to_owned();
        client
    }

    /// Sends through a region's pair endpoint. The status of the answer.
    async fn publish(&self, name: &str, text: &str) -> u16 {
        let url = format!("http://{}/api/hubs/chat/:send?api-version=2024-12-01", self.place(name).at.pair);
        let claims = json!({ "aud": url, "exp": now().0 / 1_000_000 + 60 });
        let token = farshore_realtime::token::sign(&claims, &self.key);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let request = reqwest::Client::builder().no_proxy().build().unwrap().post(&url);
        let request = request.bearer_auth(token).header("content-type", "text/plain").body(text.to_owned());
        request.send().await.map_or(0, |answer| answer.status().as_u16())
    }
}

/// A client that does by hand what the official ones do.
struct Client {
    socket: WsClient,
    address: SocketAddr,
    connection: String,
    recovery: String,
    last: u64,
}

impl Client {
    async fn connect(address: SocketAddr, query: &str, subprotocol: &str) -> Self {
        let url = format!("ws://{address}/client/hubs/chat?{query}");
        let mut last = None;
        for _ in 0..200 {
            match WsClient::connect(&url, &[subprotocol], &[], None).await {
                Ok(socket) => {
                    return Self {
                        socket,
                        address,
                        connection: String::new(),
                        recovery: String::new(),
                        last: 0,
                    };
                }
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody answers at {address}: {last:?}");
    }

    /// Comes back to the same address, with what it knows and a token that has expired meanwhile.
    async fn recover(self) -> Self {
        let query = format!(
            "access_token=expired&awps_connection_id={}&awps_reconnection_token={}",
            self.connection, self.recovery
        );
        let again = Self::connect(self.address, &query, RELIABLE).await;
        Self { socket: again.socket, ..self }
    }

    async fn incoming(&mut self) -> Option<OwnedIncoming> {
        let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("something comes in time");
        next.unwrap_or(None)
    }

    async fn frame(&mut self) -> Value {
        loop {
            match self.incoming().await {
                Some(OwnedIncoming::Text(text)) => return serde_json::from_str(&text).unwrap(),
                Some(OwnedIncoming::Close { code, reason }) => {
                    return json!({ "closed": code, "reason": reason });
                }
                Some(_) => {}
                None => return json!({ "closed": null }),
            }
        }
    }

    /// The next message that it had not had before.
    async fn message(&mut self) -> String {
        loop {
            let frame = self.frame().await;
            assert!(frame.get("closed").is_none(), "{frame}");
            let sequence = frame["sequenceId"].as_u64();
            if frame["type"] != "message" || sequence.is_some_and(|sequence| sequence <= self.last) {
                continue;
            }
            self.last = sequence.unwrap_or(self.last);
            return frame["data"].as_str().unwrap().to_owned();
        }
    }

    async fn say(&mut self, frame: Value) {
        self.socket.send_text(&frame.to_string()).await.unwrap();
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < until, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reliable_client_of_a_lost_region_goes_on_at_the_same_address_with_all_it_was_owed() {
    let mut world = World::protected().await;
    let home = world.place("paris").at.pair;
    let mut client = world.client(home, RELIABLE).await;
    client.say(json!({"type": "joinGroup", "group": "lobby", "ackId": 1})).await;
    assert_eq!(client.frame().await["success"], true);
    assert_eq!(world.publish("paris", "1").await, 202);
    assert_eq!(client.message().await, "1");
    // Promised, and not read before the region dies.
    assert_eq!(world.publish("paris", "2").await, 202);
    world.lose("paris").await;
    assert_eq!(world.publish("oslo", "3").await, 202);
    let mut client = client.recover().await;
    let back = client.frame().await;
    assert_eq!(back["connectionId"], client.connection.as_str(), "{back}");
    assert_eq!([client.message().await, client.message().await], ["2", "3"]);
    // It is still in its group, and its own acknowledgements are remembered.
    client.say(json!({"type": "joinGroup", "group": "lobby", "ackId": 1})).await;
    let again = client.frame().await;
    assert_eq!((&again["success"], &again["error"]["name"]), (&json!(false), &json!("Duplicate")));
    client
        .say(json!({"type": "sendToGroup", "group": "lobby", "dataType": "text", "data": "4", "ackId": 2}))
        .await;
    assert_eq!(client.message().await, "4");
    assert_eq!(world.stats("oslo").await["recovered"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_brought_home_with_their_sessions_when_their_region_is_active_again() {
    let (mut world, mut client) = World::away().await;
    let mode = ReplicationMode::Async;
    // Home by a planned failover.
    world.order("oslo", 3, Action::Fence { lost_after: None }).await;
    world.order("paris", 3, Action::Promote { point: PointChoice::Latest }).await;
    let after = Default::default();
    world.order("oslo", 3, Action::Follow { source: region("paris"), diverged_after: after }).await;
    let address = world.place("oslo").at.link.to_string();
    world.order("paris", 3, Action::Replicate { target: region("oslo"), address, mode }).await;
    assert_eq!(world.publish("paris", "home").await, 202);
    let mut texts = Vec::new();
    loop {
        let frame = client.frame().await;
        if frame.get("closed").is_some() {
            client = client.recover().await;
        } else if frame["type"] == "message" {
            texts.push(frame["data"].clone());
        }
        if world.stats("paris").await["connections"] == 1 && !texts.is_empty() {
            break;
        }
    }
    assert_eq!(texts, ["home"], "once, wherever it was at that moment");
    eventually("oslo has no clients", async || world.stats("oslo").await["connections"] == 0).await;
}

/// Paris hears of its return from those who come before it is told.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_home_before_their_region_has_the_word_are_not_sent_off() {
    let (mut world, mut client) = World::away().await;
    world.order("oslo", 3, Action::Fence { lost_after: None }).await;
    loop {
        if client.frame().await.get("closed").is_some() {
            client = client.recover().await;
        }
        if world.stats("paris").await["connections"] == 1 {
            break;
        }
    }
    // For longer than anybody is waited for who is to go elsewhere.
    for number in 0..60 {
        assert_eq!(world.publish("paris", &number.to_string()).await, 202);
        assert_eq!(client.message().await, number.to_string());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.order("paris", 3, Action::Promote { point: PointChoice::Latest }).await;
    assert_eq!(world.publish("paris", "home").await, 202);
    assert_eq!(client.message().await, "home");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_knows_is_refused_by_a_close_code_and_at_once() {
    let world = World::protected().await;
    let home = world.place("paris").at.listen;
    let client = world.client(home, RELIABLE).await;
    let stranger = Client { connection: "nobody".to_owned(), ..client };
    let mut refused = stranger.recover().await;
    assert_eq!(refused.frame().await["closed"], 1008);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_no_keys_and_serves_nobody_before_it_is_confirmed() {
    let mut world = World::protected().await;
    let home = world.place("paris").at.listen;
    drop(world.client(home, PLAIN).await);
    world.lose("paris").await;
    world.lose("oslo").await;
    world.start("paris").await;
    let url = format!("ws://{home}/client/hubs/chat?access_token={}", world.token(home, 60));
    let refused = WsClient::connect(&url, &[PLAIN], &[], None).await.unwrap_err();
    assert_eq!(refused.status(), Some(503), "{refused}");
    world.order("paris", 1, Action::Serve).await;
    drop(world.client(home, PLAIN).await);
    assert!(keys_are_private(world.place("paris").dir.path()));
}

fn keys_are_private(dir: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let card = dir.join("chat.json").metadata().unwrap();
    card.permissions().mode() & 0o077 == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_unknown_hubs_and_bad_frames_are_told_apart_and_disturb_nobody() {
    let world = World::protected().await;
    let home = world.place("paris").at.listen;
    let mut witness = world.client(home, RELIABLE).await;
    let refused = async |path: &str| {
        let url = format!("ws://{home}{path}");
        WsClient::connect(&url, &[PLAIN], &[], None).await.unwrap_err().status()
    };
    assert_eq!(refused("/client/hubs/other?access_token=x").await, Some(404));
    assert_eq!(refused("/client/hubs/chat").await, Some(401));
    assert_eq!(refused("/client/hubs/chat?access_token=x.y.z").await, Some(401));
    let elsewhere = world.token(world.place("oslo").at.listen, 60);
    assert_eq!(refused(&format!("/client/hubs/chat?access_token={elsewhere}")).await, Some(401));
    let token = world.token(home, 60);
    let group = format!("/client/hubs/chat?access_token={token}&webpubsub_mode=sendToGroup");
    assert_eq!(refused(&group).await, Some(400));
    for (frame, code) in [("{", 1007), ("{\"type\":\"nonsense\"}", 1007), ("[]", 1007)] {
        let mut client = world.client(home, PLAIN).await;
        client.socket.send_text(frame).await.unwrap();
        assert_eq!(client.frame().await["closed"], code, "{frame}");
    }
    let mut client = world.client(home, PLAIN).await;
    client.socket.send_binary(b"x").await.unwrap();
    assert_eq!(client.frame().await["closed"], 1003);
    let mut client = world.client(home, PLAIN).await;
    let big = "x".repeat(1024 * 1024 + 1);
    let _ = client.socket.send_text(&big).await;
    assert_eq!(client.frame().await["closed"], 1009);
    assert_eq!(world.publish("paris", "still here").await, 202);
    assert_eq!(witness.message().await, "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_closed_and_holds_nobody_up() {
    let world = World::protected().await;
    let home = world.place("paris").at.listen;
    let lazy = world.client(home, PLAIN).await;
    let mut eager = world.client(home, PLAIN).await;
    let text = "x".repeat(512 * 1024);
    for _ in 0..60 {
        assert_eq!(world.publish("paris", &text).await, 202);
        assert_eq!(eager.message().await.len(), text.len());
    }
    eventually("the lazy one is closed", async || world.stats("paris").await["connections"] == 1).await;
    drop(lazy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_opens_a_copy_apart_from_the_running_hub() {
    let mut world = World::protected().await;
    let home = world.place("paris").at.pair;
    let mut client = world.client(home, RELIABLE).await;
    world.order("oslo", 1, Action::TestFailover { point: PointChoice::Latest }).await;
    let drill = world.look("oslo").await.drill.expect("it is open");
    let uri = &drill.endpoints[0].uri;
    let address: SocketAddr = uri.trim_start_matches("ws://").split('/').next().unwrap().parse().unwrap();
    let query =
        format!("awps_connection_id={}&awps_reconnection_token={}", client.connection, client.recovery);
    let mut copy = Client::connect(address, &query, RELIABLE).await;
    assert_eq!(copy.frame().await["connectionId"], client.connection.as_str(), "the session is in the copy");
    assert_eq!(world.publish("paris", "real").await, 202);
    assert_eq!(client.message().await, "real", "and the original is not touched");
    world.order("oslo", 1, Action::CleanUp).await;
    assert!(world.look("oslo").await.drill.is_none());
}
