//! Sinks into a real nats-server with JetStream, which each test starts for itself.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::*;
use crate::names::Key;
use crate::telemetry::{Event, TelemetryOptions};

const PATIENCE: Duration = Duration::from_secs(30);

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The Debian package's server, on loopback, with its store in a directory that outlives it.
struct Nats {
    server: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl Nats {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The port is free now and chosen by the system; the server cannot be given a listener.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let server = Self::run(address, &dir).await;
        Self { server, address, dir }
    }

    async fn run(address: SocketAddr, dir: &TempDir) -> Child {
        let server = Command::new("nats-server")
            .args(["-a", &address.ip().to_string(), "-p", &address.port().to_string(), "-js", "-sd"])
            .arg(dir.path())
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
        self.server = Self::run(self.address, &self.dir).await;
    }

    fn options(&self) -> SinkOptions {
        SinkOptions {
            url: format!("nats://{}", self.address),
            tls: None,
            stream: "FLEET".into(),
            subject: "hub.fleet".into(),
            group: "sink".into(),
            duplicate_window: Duration::from_secs(600),
            named_by: Vec::new(),
        }
    }

    async fn client(&self) -> Client {
        async_nats::connect(format!("nats://{}", self.address)).await.unwrap()
    }

    async fn ask(&self, subject: &str, body: Value) -> Value {
        let answer = self.client().await.request(subject.to_owned(), body.to_string().into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    async fn count(&self) -> u64 {
        self.ask("$JS.API.STREAM.INFO.FLEET", json!({})).await["state"]["messages"].as_u64().unwrap_or(0)
    }

    /// A message of the stream: its subject, its headers as they are on the wire, its body.
    async fn message(&self, seq: u64) -> (String, String, String) {
        let message =
            self.ask("$JS.API.STREAM.MSG.GET.FLEET", json!({ "seq": seq })).await["message"].clone();
        let text = |field: &str| {
            use base64::Engine as _;
            let encoded = message[field].as_str().unwrap_or_default();
            String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()).unwrap()
        };
        (message["subject"].as_str().unwrap().to_owned(), text("hdrs"), text("data"))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Cursors in memory, which can refuse.
#[derive(Debug, Default)]
struct Kept {
    cursors: Mutex<BTreeMap<String, Cursor>>,
    refuses: Mutex<bool>,
}

#[async_trait]
impl Cursors for Kept {
    async fn load(&self, group: &str) -> Result<Option<Cursor>, String> {
        Ok(self.cursors.lock().unwrap().get(group).cloned())
    }

    async fn store(&self, group: &str, cursor: &Cursor) -> Result<(), String> {
        if *self.refuses.lock().unwrap() {
            return Err("the disk is full".into());
        }
        self.cursors.lock().unwrap().insert(group.to_owned(), cursor.clone());
        Ok(())
    }
}

fn telemetry(dir: &TempDir) -> Telemetry {
    Telemetry::open(dir.path(), Region::parse("oslo").unwrap(), TelemetryOptions::default()).unwrap()
}

async fn say(telemetry: &Telemetry, range: std::ops::Range<u64>) {
    for n in range {
        let event = Event {
            key: Key::parse("pump.1").unwrap(),
            generation: "1".into(),
            enqueued: Moment(n),
            system: Vec::new(),
            properties: Vec::new(),
            body: Bytes::from(format!("reading {n}")),
        };
        telemetry.append(Epoch(1), event).await.unwrap();
    }
}

async fn spawn(nats: &Nats, telemetry: &Telemetry, kept: &Arc<Kept>) -> Sink {
    Sink::spawn(nats.options(), telemetry.clone(), Arc::<Kept>::clone(kept)).await.unwrap()
}

#[tokio::test]
async fn everything_arrives_once_though_both_sides_are_started_again() {
    let (mut nats, dir, kept) = (Nats::start().await, tempfile::tempdir().unwrap(), Arc::<Kept>::default());
    let log = telemetry(&dir);
    say(&log, 0..20).await;
    let sink = spawn(&nats, &log, &kept).await;
    eventually("the first arrive", async || sink.stats().cursor == log.latest()).await;
    assert_eq!(nats.count().await, 20);
    nats.kill();
    say(&log, 20..40).await;
    eventually("it notices", async || sink.stats().failing.is_some()).await;
    nats.again().await;
    eventually("the next arrive", async || sink.stats().cursor == log.latest()).await;
    assert_eq!(sink.stats().failing, None);
    sink.stop().await;
    // The cursor is behind what was published, as after a crash between the two.
    kept.cursors.lock().unwrap().insert("sink".into(), serde_json::from_str(r#"{"oslo":5}"#).unwrap());
    drop(log);
    let log = telemetry(&dir);
    say(&log, 40..50).await;
    let sink = spawn(&nats, &log, &kept).await;
    eventually("the last arrive", async || sink.stats().cursor == log.latest()).await;
    assert_eq!((sink.stats().published, sink.stats().repeated), (10, 35));
    assert_eq!(nats.count().await, 50);
    for seq in 1..=50 {
        let (subject, headers, body) = nats.message(seq).await;
        assert_eq!((subject.as_str(), body), ("hub.fleet.pump%2E1", format!("reading {}", seq - 1)));
        assert!(headers.contains(&format!("Nats-Msg-Id: oslo:{}\r\n", seq - 1)), "{headers}");
    }
    assert_eq!(kept.cursors.lock().unwrap()["sink"], log.latest());
}

#[tokio::test]
async fn a_cursor_that_cannot_be_kept_holds_it_and_a_server_may_come_later() {
    let (mut nats, dir, kept) = (Nats::start().await, tempfile::tempdir().unwrap(), Arc::<Kept>::default());
    nats.kill();
    let log = telemetry(&dir);
    say(&log, 0..3).await;
    *kept.refuses.lock().unwrap() = true;
    let sink = spawn(&nats, &log, &kept).await;
    eventually("it says that nobody is there", async || sink.stats().failing.is_some()).await;
    nats.again().await;
    eventually("it says what is wrong", async || {
        matches!(sink.stats().failing, Some(SinkError::Cursor { ref why, .. }) if why == "the disk is full")
    })
    .await;
    assert_eq!(sink.stats().cursor, Cursor::default());
    *kept.refuses.lock().unwrap() = false;
    eventually("it goes on", async || sink.stats().cursor == log.latest()).await;
    assert_eq!((nats.count().await, sink.stats().failing), (3, None));
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_in_words() {
    let (nats, dir, kept) = (Nats::start().await, tempfile::tempdir().unwrap(), Arc::<Kept>::default());
    let log = telemetry(&dir);
    let with = |change: fn(&mut SinkOptions)| {
        let mut options = nats.options();
        change(&mut options);
        Sink::spawn(options, log.clone(), Arc::<Kept>::clone(&kept))
    };
    for (refused, words) in [
        (
            with(|options| options.url = "http://u:secret@host".into()).await,
            "\"http://host\" is no NATS server",
        ),
        (with(|options| options.stream = "a.b".into()).await, "the stream \"a.b\" cannot be used"),
        (with(|options| options.subject = "a..b".into()).await, "it has an empty part"),
        (with(|options| options.subject = "a.>".into()).await, "use letters"),
        (with(|options| options.subject = "$JS".into()).await, "belong to the server"),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    nats.ask("$JS.API.STREAM.CREATE.FLEET", json!({"name": "FLEET", "subjects": ["hub.>"]})).await;
    let sink = spawn(&nats, &log, &kept).await;
    let words = "the stream FLEET takes \"hub.>\" and must take hub.fleet.> only: name another stream";
    eventually("the stream is looked at", async || {
        sink.stats().failing.is_some_and(|error| error.to_string() == words)
    })
    .await;
}
