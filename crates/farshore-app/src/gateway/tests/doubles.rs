//! Instances that answer what a test needs, a gateway in front of them, and a client that sees every byte.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farshore_core::ids::Region;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, split};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use super::super::{Gateway, GatewayBody, GatewayLimits, GatewayOptions, Pass, Scripts, Site, SiteState};

/// How long a test waits for what must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const HOST: &str = "todo.example";
pub(super) const GIT_HOST: &str = "todo.scm.example";

pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

pub(super) fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(super) fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

/// An instance that says who it is, what it was sent, and echoes.
pub(super) struct Instance {
    pub(super) address: SocketAddr,
    /// Connections that it has taken.
    pub(super) connections: Arc<AtomicUsize>,
    ended: CancellationToken,
}

impl Instance {
    pub(super) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let ended = CancellationToken::new();
        let end = ended.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = end.cancelled() => return,
                };
                count.fetch_add(1, Ordering::SeqCst);
                let service =
                    service_fn(move |request| async move { Ok::<_, Infallible>(reply(name, request).await) });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                let end = end.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = connection.with_upgrades() => {}
                        () = end.cancelled() => {}
                    }
                });
            }
        });
        Self { address, connections, ended }
    }

    pub(super) fn here(&self) -> SiteState {
        here(&[self.address])
    }

    /// It takes no further connection and closes those it has.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }
}

pub(super) fn here(instances: &[SocketAddr]) -> SiteState {
    SiteState::Here { instances: instances.into(), pass: None }
}

async fn reply(name: &'static str, mut request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/seen" => {
            let mut seen = BTreeMap::new();
            for (name, value) in request.headers() {
                let all: &mut Vec<&str> = seen.entry(name.as_str()).or_default();
                all.push(value.to_str().unwrap());
            }
            let uri = request.uri().to_string();
            let method = request.method().as_str();
            let told = serde_json::json!({ "by": name, "method": method, "uri": uri, "headers": seen });
            Response::new(text(told.to_string()))
        }
        "/echo" => Response::new(request.into_body().boxed_unsync()),
        "/upgrade" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = split(TokioIo::new(upgrade.await.unwrap()));
                let _ = copy(&mut read, &mut write).await;
            });
            let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            response.header("connection", "Upgrade").header("upgrade", "echo").body(text("")).unwrap()
        }
        "/hop-by-hop" => {
            let response =
                Response::builder().header("connection", "close, x-mine").header("keep-alive", "timeout=5");
            response.header("x-mine", "1").header("x-yours", "2").body(text(name)).unwrap()
        }
        "/length" => {
            let length = request.into_body().collect().await.unwrap().to_bytes().len();
            Response::new(text(length.to_string()))
        }
        "/silent" => std::future::pending().await,
        "/fails" => {
            Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).body(text("broken")).unwrap()
        }
        _ => Response::new(text(name)),
    }
}

/// Reads a request's head and hangs up; counts how often.
pub(super) async fn dying() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, count)
}

/// Where nobody listens, and nobody will: the address is taken until the tests end.
pub(super) async fn nowhere() -> SocketAddr {
    static KEPT: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(any_port()).unwrap();
    let address = socket.local_addr().unwrap();
    KEPT.lock().unwrap().push(socket);
    address
}

#[derive(Debug)]
pub(super) struct GitDouble;

#[async_trait]
impl Scripts for GitDouble {
    async fn call(&self, request: Request<Incoming>) -> Response<GatewayBody> {
        Response::new(GatewayBody::whole(format!("git {}", request.uri().path())))
    }
}

/// Lets nothing pass, or everything.
#[derive(Debug)]
pub(super) struct PassDouble {
    pub(super) free: bool,
    pub(super) answer: Result<(), &'static str>,
    pub(super) asked: AtomicUsize,
}

#[async_trait]
impl Pass for PassDouble {
    fn free(&self) -> bool {
        self.free
    }

    async fn wait(&self) -> Result<(), String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.answer.map_err(str::to_owned)
    }
}

/// A gateway with one app.
pub(super) struct Rig {
    pub(super) gateway: Arc<Gateway>,
    pub(super) site: Arc<Site>,
}

impl Rig {
    pub(super) async fn new(state: SiteState) -> Self {
        Self::of("paris", state).await
    }

    pub(super) async fn of(name: &str, state: SiteState) -> Self {
        Self::within(name, state, GatewayLimits::default()).await
    }

    pub(super) async fn within(name: &str, state: SiteState, limits: GatewayLimits) -> Self {
        let options = GatewayOptions { http: any_port(), https: None, tls: None, region: region(name) };
        let gateway = Gateway::open_within(options, limits).await.unwrap();
        let hosts = vec![HOST.to_owned(), "127.0.0.1".to_owned()];
        let site = Site::new("todo", hosts, vec![GIT_HOST.to_owned()], Arc::new(GitDouble));
        site.set(state);
        gateway.put(Arc::clone(&site)).unwrap();
        Self { gateway, site }
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.gateway.bound().http
    }

    pub(super) async fn client(&self) -> Client {
        Client::connect(self.http()).await
    }

    /// One request on a connection of its own.
    pub(super) async fn get(&self, path: &str) -> Answer {
        self.client().await.get(path).await
    }

    /// This region's app is served by that gateway.
    pub(super) fn there(&self, other: SocketAddr) {
        let http = Some(other.to_string());
        self.site.set(SiteState::There { region: region("oslo"), http, https: None });
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// In lower case.
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1);
        lines.find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name).map(|(_, value)| value))
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// It is a problem whose detail has these words.
    #[track_caller]
    pub(super) fn check_problem(&self, status: u16, words: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["detail"], problem["error"]);
        let detail = problem["detail"].as_str().unwrap();
        for word in words {
            assert!(detail.contains(word), "{word:?} is not in {detail:?}");
        }
    }
}

/// One connection that speaks HTTP/1.1 to the byte.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub(super) async fn connect(to: SocketAddr) -> Self {
        Self::of(TcpStream::connect(to).await.unwrap())
    }

    pub(super) fn of(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(super) async fn get(&mut self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await
    }

    pub(super) async fn ask(&mut self, request: &str) -> Answer {
        self.send(request).await;
        self.answer().await
    }

    pub(super) async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    pub(super) async fn answer(&mut self) -> Answer {
        tokio::time::timeout(PATIENCE, self.read_answer()).await.unwrap()
    }

    /// An answer that has no body, whatever it tells of one.
    pub(super) async fn head(&mut self) -> Answer {
        tokio::time::timeout(PATIENCE, self.read_head()).await.unwrap()
    }

    async fn read_head(&mut self) -> Answer {
        let end = loop {
            match self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => assert!(self.more().await, "the connection ended before an answer: {:?}", self.read),
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: String::new() }
    }

    async fn read_answer(&mut self) -> Answer {
        let mut answer = self.read_head().await;
        if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            while self.read.len() < length {
                assert!(self.more().await, "the connection ended in the body");
            }
            answer.body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        } else if answer.header("transfer-encoding").is_some() {
            let end = loop {
                match self.read.windows(5).position(|five| five == b"0\r\n\r\n") {
                    Some(at) => break at + 5,
                    None => assert!(self.more().await, "the connection ended in the body"),
                }
            };
            answer.body = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        }
        answer
    }

    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.read).await.unwrap() > 0
    }

    /// The other side has closed it, and said nothing more.
    pub(super) async fn is_closed(&mut self) -> bool {
        let mut rest = [0; 16];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut rest)).await.unwrap();
        matches!(read, Ok(0) | Err(_))
    }
}

/// Returns when `holds`; a test that waits in vain fails.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
