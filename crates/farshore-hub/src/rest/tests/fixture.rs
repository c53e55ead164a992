//! One hub and a client of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::names::Key;
use crate::registry::Registry;
use crate::rest::{Behind, Body, Call, Held, Hub, HubOptions, NotInvoked, Serving, now, serve};
use crate::sas::{Policy, Token};
use crate::telemetry::{Event, Telemetry, TelemetryOptions};

/// What the token and the requests call the hub.
pub(super) const HOST: &str = "contoso.hub";

/// A hub that serves or not, and one device that is there.
#[derive(Debug, Default)]
pub(super) struct Pretended {
    serving: AtomicU8,
    changed: Notify,
    /// Whoever holds the right to change something has lost it by the time they ask.
    is_fenced: Arc<AtomicBool>,
}

impl Pretended {
    pub(super) fn set(&self, serving: Serving) {
        self.serving.store(serving as u8, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// From now on whoever changes something may not say so.
    pub(super) fn fence_meanwhile(&self) {
        self.is_fenced.store(true, Ordering::Relaxed);
    }
}

struct Fenced(Arc<AtomicBool>);

impl Held for Fenced {
    fn may_answer(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Behind for Pretended {
    fn serving(&self) -> Serving {
        let all = [Serving::Active, Serving::Standby, Serving::FailingOver];
        all.into_iter().find(|one| *one as u8 == self.serving.load(Ordering::Relaxed)).unwrap()
    }

    async fn stopped(&self) {
        loop {
            let changed = self.changed.notified();
            if self.serving() != Serving::Active {
                return;
            }
            changed.await;
        }
    }

    fn hold(&self) -> Option<Box<dyn Held>> {
        let held: Box<dyn Held> = Box::new(Fenced(Arc::clone(&self.is_fenced)));
        (self.serving() == Serving::Active).then_some(held)
    }

    fn connected(&self) -> u64 {
        1
    }

    fn connected_since(&self, key: &Key) -> Option<Moment> {
        (key.to_string() == "online").then_some(Moment(1_000_000))
    }

    async fn invoke(&self, key: &Key, call: Call) -> Result<(i32, Value), NotInvoked> {
        self.connected_since(key).ok_or(NotInvoked::NotOnline)?;
        match call.name.as_str() {
            "echo" => Ok((200, call.payload)),
            "hang" => Err(NotInvoked::TimedOut),
            _ => Err(NotInvoked::Refused("no such method".to_owned())),
        }
    }
}

/// The hub, and who asks it.
pub(super) struct Fixture {
    pub(super) hub: Arc<Hub>,
    pub(super) behind: Arc<Pretended>,
    pub(super) telemetry: Telemetry,
    pub(super) registry: Registry,
    directory: TempDir,
    policies: Vec<Policy>,
}

/// What came back.
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answered {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code of a refusal.
    pub(super) fn code(&self) -> String {
        let message = self.json()["Message"].as_str().unwrap_or_default().to_owned();
        message.split(';').next().unwrap().trim_start_matches("ErrorCode:").to_owned()
    }
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let region = Region::parse("paris").unwrap();
        let registry = Registry::open(&directory.path().join("registry"), region.clone()).unwrap();
        registry.activate(Epoch(1));
        let policies = Policy::well_known();
        for policy in &policies {
            registry.set_policy(policy.clone()).await.unwrap();
        }
        let options = TelemetryOptions { segment_bytes: 1 << 20, ..TelemetryOptions::default() };
        let telemetry = Telemetry::open(&directory.path().join("telemetry"), region, options).unwrap();
        let behind = Arc::new(Pretended::default());
        let files = directory.path().join("files");
        std::fs::create_dir(&files).unwrap();
        let options = HubOptions { names: vec![HOST.to_owned()], files: Some(files) };
        let hub = Hub::new(options, registry.clone(), telemetry.clone(), Arc::<Pretended>::clone(&behind));
        Self { hub, behind, telemetry, registry, directory, policies }
    }

    /// A directory that jobs may use.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("files").join(name)
    }

    /// Its address.
    pub(super) fn uri(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    /// A token of a policy.
    pub(super) fn token(&self, policy: &str) -> String {
        let policy = self.policies.iter().find(|one| one.name == policy).unwrap();
        let end = now().after(std::time::Duration::from_secs(600));
        Token::make(HOST, &policy.secondary, Some(&policy.name), end).unwrap()
    }

    /// `METHOD path` with headers `name: value`, and a body.
    pub(super) async fn raw(
        &self,
        line: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> http::Response<Body> {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path).header("host", HOST);
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", self.token("iothubowner"));
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        serve(&self.hub, request.body(Full::new(Bytes::copy_from_slice(body))).unwrap()).await
    }

    pub(super) async fn bytes(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answered {
        let (parts, body) = self.raw(line, headers, body).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answered { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(super) async fn with(&self, line: &str, headers: &[(&str, &str)], body: Value) -> Answered {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.bytes(line, headers, &body).await
    }

    pub(super) async fn ask(&self, line: &str, body: Value) -> Answered {
        self.with(line, &[], body).await
    }

    pub(super) async fn get(&self, path: &str) -> Answered {
        self.ask(&format!("GET {path}"), Value::Null).await
    }

    pub(super) async fn create(&self, device: &str) -> Value {
        let created = self.ask(&format!("PUT /devices/{device}"), json!({ "deviceId": device })).await;
        assert_eq!(created.status, 200, "{:?}", created.json());
        created.json()
    }

    /// A device says something.
    pub(super) async fn say(&self, kind: &str, body: &[u8]) {
        let event = Event {
            key: Key::parse("online").unwrap(),
            generation: "1".into(),
            enqueued: now(),
            system: vec![("$.ct".to_owned(), kind.to_owned())],
            properties: vec![("a".to_owned(), Some("b".to_owned())), ("bare".to_owned(), None)],
            body: Bytes::copy_from_slice(body),
        };
        self.telemetry.append(Epoch(1), event).await.unwrap();
    }

    /// Checks a row of `request -> status code`.
    #[track_caller]
    pub(super) fn is(answered: &Answered, line: &str, status: u16, code: &str) {
        assert_eq!(
            (answered.status, answered.code().as_str()),
            (status, code),
            "{line}: {}",
            answered.json()
        );
    }
}
