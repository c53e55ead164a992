//! Nodes that share hubs through a real nats-server, which each test starts for itself.

mod asked;
mod faults;
mod followers;
mod sent;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::wire::Part;
use super::*;
use crate::frames::{Data, Message, Protocol, Sender};
use crate::hub::call::{Answer, Call, Scope};
use crate::hub::outbox::{Next, Out};
use crate::hub::{Arrival, Asked, Attached, Seen};
use crate::live::{Settings, now};
use crate::names::{ConnectionId, GroupName, HubName, UserId};
use crate::negotiate::Course;
use crate::permission::Permissions;

const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &str = "what the nodes know";

/// The Debian package's server, on loopback.
struct Nats {
    server: Child,
    address: SocketAddr,
    arguments: Vec<String>,
}

impl Nats {
    async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    async fn start_with(arguments: Vec<String>) -> Self {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let server = Self::run(address, &arguments).await;
        Self { server, address, arguments }
    }

    async fn run(address: SocketAddr, arguments: &[String]) -> Child {
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let server = Command::new("nats-server")
            .args(["-a", &host, "-p", &port])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is needed: apt-get install nats-server");
        eventually("the server answers", async || {
            let Ok(mut stream) = TcpStream::connect(address).await else { return false };
            let mut info = [0; 4];
            stream.read_exact(&mut info).await.is_ok() && info == *b"INFO"
        })
        .await;
        server
    }

    fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    async fn again(&mut self) {
        self.server = Self::run(self.address, &self.arguments).await;
    }

    fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    async fn node(&self, region: &str, hub: Option<Arc<LiveHub>>) -> Node {
        Node::at(&self.url(), region, hub).await
    }

    /// Two nodes of a region that have each other in sight.
    async fn two(&self) -> [Node; 2] {
        let nodes = [self.node("paris", Some(hub(1))).await, self.node("paris", Some(hub(1))).await];
        eventually("they see each other", async || nodes.iter().all(|node| node.bus.stats().nodes == 1))
            .await;
        nodes
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The hubs of a node without listeners.
#[derive(Debug, Default)]
struct Known(Mutex<Vec<Arc<LiveHub>>>, Mutex<Option<Course>>);

impl Known {
    fn put(&self, hub: Arc<LiveHub>) {
        let mut known = self.0.lock().unwrap();
        known.retain(|other| other.name() != hub.name());
        known.push(hub);
    }
}

impl Hubs for Known {
    fn named(&self, name: &str) -> Option<Arc<LiveHub>> {
        let known = self.0.lock().unwrap();
        known.iter().find(|hub| hub.name().as_str().eq_ignore_ascii_case(name)).cloned()
    }
    fn every(&self) -> Vec<Arc<LiveHub>> {
        self.0.lock().unwrap().clone()
    }
    fn course(&self, _: &HubName) -> Option<Course> {
        self.1.lock().unwrap().clone()
    }
}

struct Node {
    bus: Arc<Bus>,
    known: Arc<Known>,
}

impl Node {
    async fn at(url: &str, region: &str, hub: Option<Arc<LiveHub>>) -> Self {
        Self::with(url, region, hub, None).await
    }

    async fn with(
        url: &str,
        region: &str,
        hub: Option<Arc<LiveHub>>,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Self {
        let known = Arc::<Known>::default();
        let options = BusOptions {
            url: url.to_owned(),
            region: Region::parse(region).unwrap(),
            secret: SECRET.to_owned(),
            tls,
            hubs: Arc::clone(&known) as Arc<dyn Hubs + Send + Sync>,
        };
        let bus = Bus::spawn(options).await.unwrap();
        if let Some(hub) = hub {
            bus.attach(&hub);
            known.put(hub);
        }
        Self { bus, known }
    }

    fn follow(&self) {
        let known = Arc::clone(&self.known);
        self.bus
            .follow(
                Handlers::new(),
                Arc::new(move |hub, course| {
                    *known.1.lock().unwrap() = course;
                    known.put(hub);
                }),
            )
            .unwrap();
    }

    fn hub(&self) -> Arc<LiveHub> {
        self.known.named("chat").unwrap()
    }

    async fn ask(&self, call: Call) -> Answer {
        self.hub().ask(call).await.unwrap()
    }

    async fn send(&self, to: Scope, text: &str) {
        assert_eq!(self.ask(send(to, text)).await, Answer::Done);
    }
}

fn settings(version: u64) -> Settings {
    let keys = json!({ "primary": format!("key {version}"), "secondary": "another key of it" });
    serde_json::from_value(json!({ "version": version, "hub": "chat", "keys": keys })).unwrap()
}

fn hub(version: u64) -> Arc<LiveHub> {
    let hub = LiveHub::new(settings(version), Handlers::new(), false);
    hub.serve(true);
    hub
}

/// A client of a hub, without a connection.
struct Client {
    hub: Arc<LiveHub>,
    connection: ConnectionId,
    attached: Attached,
    got: Mutex<Vec<String>>,
}

impl Client {
    fn open(node: &Node, name: &str) -> Self {
        Self::of(&node.hub(), name, None, &[])
    }

    fn of(hub: &Arc<LiveHub>, name: &str, user_name: Option<&str>, groups: &[&str]) -> Self {
        let arrival = Arrival {
            connection: connection(name),
            user: user_name.map(user),
            protocol: Protocol::Json,
            permissions: Permissions::from_roles(&["webpubsub.sendToGroup".to_owned()]),
            groups: groups.iter().map(|name| group(name)).collect(),
            state: None,
        };
        let seen = Seen { pulse: crate::connection::pulse(), now: now(), follows: false };
        let attached = hub.with(|hub| hub.open(arrival, None, seen));
        Self { hub: Arc::clone(hub), connection: connection(name), attached, got: Mutex::default() }
    }

    /// Everything that it has got.
    fn got(&self) -> Vec<String> {
        let (mut taken, context) = (Vec::new(), Context::from_waker(Waker::noop()));
        let next = self.attached.outbox.poll_take(self.attached.transport, 100, &mut taken, &context);
        let mut got = self.got.lock().unwrap();
        got.extend(taken.iter().filter_map(|out| match out {
            Out::Message(message, _) => Some(String::from_utf8_lossy(message.data.bytes()).into_owned()),
            Out::Frame(_) => None,
        }));
        if let Poll::Ready(Next::End(end)) = next {
            // It is told again to whoever asks again.
            let end = format!("closed: {} {}", end.code, end.reason);
            if got.last() != Some(&end) {
                got.push(end);
            }
        }
        got.clone()
    }

    async fn until(&self, last: &str) -> Vec<String> {
        eventually(last, async || self.got().iter().any(|got| got == last)).await;
        self.got()
    }

    fn says(&self, group_name: &str, text: &str) {
        let mut message = Message::new(Sender::Group { group: group(group_name), user: None }, words(text));
        message.id = Some(rand::random());
        let (to, message) = (Scope::Group(group(group_name)), Arc::new(message));
        let call = Call::Send { to, message, exclude: vec![self.connection.clone()], filter: None };
        assert_eq!(self.hub.client_asks(&self.connection, None, call).value, Asked::Done);
    }
}

/// Looks again until it is so.
async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn words(text: &str) -> Data {
    Data::Text(text.to_owned().into())
}

fn send(to: Scope, text: &str) -> Call {
    let message = Arc::new(Message::new(Sender::Server, words(text)));
    Call::Send { to, message, exclude: Vec::new(), filter: None }
}

fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn connection(name: &str) -> ConnectionId {
    ConnectionId::parse(name).unwrap()
}
