//! A hub without sockets: devices come in as a connection would bring them, and services ask it directly.

mod admitted;
mod fenced;
mod followed;
mod messaged;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_core::ids::{Epoch, Region};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{AdmissionOptions, Fleet, FleetOptions, MethodCall, Standing, now};
use crate::mqtt::behind::{Behind as _, Hello, Outgoing, Session, Telemetered, Verdict};
use crate::names::{Key, Subs};
use crate::record::{Auth, Edit, NewDevice};
use crate::sas::{Token, new_key};
use crate::telemetry::Cursor;

/// Nothing here takes as long: only a hang does.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const HOST: &str = "contoso.hub";

pub(super) const ALL: Subs =
    Subs { messages: Some(1), twin: Some(1), desired: Some(1), methods: Some(1), inputs: None };

pub(super) fn key(id: &str) -> Key {
    Key::parse(id).unwrap()
}

pub(super) struct Hub {
    pub(super) fleet: Fleet,
    pub(super) dir: TempDir,
}

/// Opens a hub that serves nobody yet.
pub(super) fn closed(region: &str) -> Hub {
    let dir = tempfile::tempdir().unwrap();
    Hub { fleet: Fleet::open(options(region, &dir)).unwrap(), dir }
}

pub(super) fn options(region: &str, dir: &TempDir) -> FleetOptions {
    let mut options = FleetOptions::new("contoso", Region::parse(region).unwrap(), dir.path().to_owned());
    options.hosts = vec![HOST.to_owned()];
    options.admission =
        AdmissionOptions { hold_max: Duration::from_millis(300), ..AdmissionOptions::default() };
    options
}

/// A hub that serves.
pub(super) fn open(region: &str) -> Hub {
    let hub = closed(region);
    hub.fleet.open_to_devices(Epoch(1), Standing::Current);
    hub
}

impl Hub {
    /// Registers a device; its key.
    pub(super) async fn register(&self, id: &str) -> String {
        let primary = new_key();
        let auth = Auth::Sas { primary: primary.clone(), secondary: new_key() };
        self.edit(id, vec![Edit::Create(NewDevice::with(auth))]).await;
        primary
    }

    pub(super) async fn edit(&self, id: &str, edits: Vec<Edit>) {
        self.fleet.registry().change(key(id), |_| Ok::<_, Infallible>(edits)).await.unwrap();
    }

    pub(super) async fn admit(&self, hello: Hello) -> Verdict {
        within(self.fleet.admit(hello)).await
    }

    pub(super) async fn connect(&self, id: &str, sas: &str) -> Arc<dyn Session> {
        opened(self.admit(hello(id, sas)).await)
    }

    /// The bodies of everything that is in the log, in its order.
    pub(super) fn stored(&self) -> Vec<String> {
        let (mut cursor, mut bodies) = (Cursor::default(), Vec::new());
        loop {
            let page = self.fleet.telemetry().read(&cursor, 1000).unwrap();
            if page.events.is_empty() && page.next == cursor {
                return bodies;
            }
            bodies.extend(
                page.events.iter().map(|stored| String::from_utf8(stored.event.body.to_vec()).unwrap()),
            );
            cursor = page.next;
        }
    }

    /// What a partner pulls: everything that this region has and the other lacks.
    pub(super) async fn is_pulled_by(&self, other: &Self) {
        let region = &self.fleet.options().region;
        loop {
            let seen = other.fleet.registry().seen(region);
            let batch = self.fleet.registry().since(seen, 1 << 20).unwrap();
            let last = batch.is_last();
            other.fleet.registry().join(region, batch).await.unwrap();
            if last {
                break;
            }
        }
        let from = other.fleet.telemetry().ends().get(region).copied().unwrap_or(0);
        let batch = self.fleet.telemetry().raw(region, from, 8 << 20).unwrap();
        other.fleet.telemetry().extend(batch).await.unwrap();
    }
}

pub(super) fn hello(id: &str, sas: &str) -> Hello {
    let key = key(id);
    let module = key.module.as_ref().map(|module| format!("/modules/{module}")).unwrap_or_default();
    let resource = format!("{HOST}/devices/{}{module}", key.device);
    let token = Token::make(&resource, sas, None, now().after(Duration::from_secs(3600))).unwrap();
    Hello {
        key,
        host: HOST.to_owned(),
        query: "api-version=2021-04-12".to_owned(),
        password: Some(token),
        certificates: Vec::new(),
        clean: false,
        keep_alive: Duration::from_secs(60),
        peer: "127.0.0.1:1".parse().unwrap(),
    }
}

pub(super) fn opened(verdict: Verdict) -> Arc<dyn Session> {
    match verdict {
        Verdict::Open(session) => session,
        other => panic!("it was not let in: {other:?}"),
    }
}

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it hangs")
}

/// Whether nothing is there to be sent. Everything that could be sent has been queued by the caller.
pub(super) async fn is_quiet(session: &Arc<dyn Session>) -> bool {
    timeout(Duration::from_millis(50), session.next()).await.is_err()
}

pub(super) fn event(body: &str) -> Telemetered {
    Telemetered { body: Bytes::from(body.to_owned()), ..Telemetered::default() }
}

pub(super) fn call(name: &str) -> MethodCall {
    MethodCall {
        name: name.to_owned(),
        payload: json!({ "fast": true }),
        response_timeout: PATIENCE,
        connect_timeout: Duration::ZERO,
    }
}

pub(super) fn desired(patch: Value) -> Edit {
    Edit::Desired { patch, replace: false }
}

pub(super) async fn next(session: &Arc<dyn Session>) -> Outgoing {
    within(session.next()).await
}
