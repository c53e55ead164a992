//! Regions over real sockets: hubs with their data plane and their clients, and all that can go wrong with them.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use farshore_core::ids::Region;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::connection::{Asking, Claims, enter};
use crate::frames::{Data, Message, Sender};
use crate::handler::Handlers;
use crate::hub::call::{Call, Scope};
use crate::live::{LiveHub, Settings, now};
use crate::names::{ConnectionId, GroupName, HubName, UserId};
use crate::negotiate::Sharing;
use crate::pair::{Pair, PairOptions, PairPartner};
use crate::rest::{self, Hubs, RestContext};
use crate::token::{AccessKey, AccessKeys, ConnectionString, client_token};
use crate::ws::client::{OwnedIncoming, WsClient};

/// Long enough for any machine; nothing waits so long unless it is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn keys(of: u8) -> AccessKeys {
    AccessKeys { primary: AccessKey::of([of; 32]), secondary: AccessKey::of([of + 1; 32]) }
}

pub(super) fn settings(keys: AccessKeys) -> Settings {
    Settings {
        version: 1,
        hub: HubName::parse("chat").unwrap(),
        keys,
        audiences: Vec::new(),
        handlers: Vec::new(),
        sharing: Sharing::ActivePassive,
        members: Vec::new(),
    }
}

/// What a region does to calls; those of probes included unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// As it should.
    Good,
    /// Takes connections and answers nothing.
    Silent,
    /// Keeps sends, except those of probes, until it is told to go on.
    Holding,
    /// Does what it is asked, and breaks the connection instead of saying so, once; not for probes.
    Rude,
}

/// One region, or one server of somebody else's.
pub(super) struct Site {
    pub(super) hub: Arc<LiveHub>,
    pub(super) url: String,
    pub(super) mood: Arc<Mutex<Mood>>,
    pub(super) go_on: Arc<Notify>,
    /// Lines of requests that were no probe's.
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Alone;

#[async_trait::async_trait]
impl Claims for Alone {
    async fn claim(&self, _: &ConnectionId) {}
    fn may_come(&self) -> bool {
        false
    }
}

struct One(Arc<LiveHub>);

impl Hubs for One {
    fn named(&self, name: &str) -> Option<Arc<LiveHub>> {
        (name == "chat").then(|| Arc::clone(&self.0))
    }
    fn every(&self) -> Vec<Arc<LiveHub>> {
        vec![Arc::clone(&self.0)]
    }
}

impl Site {
    pub(super) async fn start(settings: Settings) -> Self {
        let hub = LiveHub::new(settings, Handlers::new(), false);
        hub.serve(true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(hub, listener)
    }

    fn serve(hub: Arc<LiveHub>, listener: TcpListener) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut site = Self {
            hub,
            url: url.clone(),
            mood: Arc::new(Mutex::new(Mood::Good)),
            go_on: Arc::new(Notify::new()),
            asked: Arc::default(),
            tasks: JoinSet::new(),
        };
        let door = Door {
            hub: Arc::clone(&site.hub),
            url,
            mood: Arc::clone(&site.mood),
            go_on: Arc::clone(&site.go_on),
            asked: Arc::clone(&site.asked),
        };
        site.tasks.spawn(door.listen(listener));
        site
    }

    pub(super) fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// The region dies: nobody listens any more, and every connection is gone.
    pub(super) async fn die(&mut self) {
        self.tasks.shutdown().await;
    }

    /// It is back, at the same address.
    pub(super) async fn rise(&mut self) {
        let address = self.address();
        let listener = until("the address is free", async || TcpListener::bind(address).await.ok()).await;
        *self = Self::serve(Arc::clone(&self.hub), listener);
    }

    /// A client of a user, in a group.
    pub(super) async fn client(&self, user: &str, group: &str) -> WsClient {
        let audience = format!("{}/client/hubs/chat", self.url);
        let (user, groups) = (UserId::parse(user).unwrap(), [GroupName::parse(group).unwrap()]);
        let key = &self.hub.settings().keys.primary;
        let token = client_token(&audience, Some(&user), &[], &groups, now(), 5, key);
        let url = format!("{}?access_token={token}", audience.replacen("http", "ws", 1));
        WsClient::connect(&url, &[], &[], None).await.unwrap()
    }

    pub(super) fn connection_string(&self) -> ConnectionString {
        let key = self.hub.settings().keys.primary.clone();
        ConnectionString { endpoint: self.url.clone(), key }
    }
}

struct Door {
    hub: Arc<LiveHub>,
    url: String,
    mood: Arc<Mutex<Mood>>,
    go_on: Arc<Notify>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Door {
    async fn listen(self, listener: TcpListener) {
        let door = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let door = Arc::clone(&door);
            connections.spawn(async move {
                let service = service_fn(|request| Arc::clone(&door).answer(request));
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            });
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let probes = request.uri().path().contains("farshore-probe");
        let is_send = request.uri().path().ends_with(":send");
        let mood = *self.mood.lock().unwrap();
        if mood == Mood::Silent {
            return pending().await;
        }
        if request.uri().path().starts_with("/client") {
            return Ok(self.let_in(request).await.unwrap_or_else(|never| match never {}));
        }
        if !probes {
            let line = format!("{} {}", request.method(), request.uri().path());
            self.asked.lock().unwrap().push(line);
        }
        if mood == Mood::Holding && is_send && !probes {
            self.go_on.notified().await;
        }
        let context = RestContext { base_urls: vec![self.url.clone()], broadcast: None, now: now() };
        let response = rest::serve(&One(Arc::clone(&self.hub)), request, &context).await;
        if mood == Mood::Rude && !probes {
            *self.mood.lock().unwrap() = Mood::Good;
            return Err(std::io::Error::other("rude"));
        }
        Ok(response)
    }

    async fn let_in(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let query = crate::query::parse(request.uri().query().unwrap_or_default());
        let asking = Asking {
            hub: Arc::clone(&self.hub),
            query,
            base_urls: vec![self.url.clone()],
            claims: Arc::new(Alone),
            follows: false,
            admission: Arc::default(),
        };
        Ok(enter::<TcpStream>(request, asking).await)
    }
}

pub(super) fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

/// The pair as seen from paris; its partner is oslo.
pub(super) fn pair(paris: &Site, oslo: Option<&Site>, primary: &watch::Sender<Region>) -> Arc<Pair> {
    let partner = oslo.map(|oslo| PairPartner { region: region("oslo"), url: oslo.url.clone(), tls: None });
    Pair::spawn(PairOptions {
        here: region("paris"),
        hub: Arc::clone(&paris.hub),
        own_url: paris.url.clone(),
        partner,
        primary: primary.subscribe(),
    })
}

/// Two regions and a pair that has seen both work.
pub(super) async fn two() -> (Site, Site, Arc<Pair>, watch::Sender<Region>) {
    let (paris, oslo) = (Site::start(settings(keys(1))).await, Site::start(settings(keys(1))).await);
    let primary = watch::Sender::new(region("paris"));
    let pair = pair(&paris, Some(&oslo), &primary);
    until("oslo is healthy", async || pair.partner_is_healthy().then_some(())).await;
    (paris, oslo, pair, primary)
}

/// Polls until there is something.
pub(super) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(super) fn to(to: Scope, text: &str) -> Call {
    let message = Arc::new(Message::new(Sender::Server, Data::text(text)));
    Call::Send { to, message, exclude: Vec::new(), filter: None }
}

pub(super) fn to_group(text: &str) -> Call {
    to(Scope::Group(GroupName::parse("g").unwrap()), text)
}

/// The next text that a client gets.
pub(super) async fn hears(client: &mut WsClient) -> String {
    let next = async {
        loop {
            match client.next().await.unwrap() {
                Some(OwnedIncoming::Text(text)) => return text,
                Some(_) => {}
                None => panic!("the connection has ended"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.unwrap()
}
