//! Two hubs that are compared over TLS, as they would be in two clusters; and hubs that are none.

mod fake;
mod given;
mod hostile;
mod taken;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::fleet::{FleetOptions, Standing};
use crate::front::{Addresses, Fronts, Listeners, Served};
use crate::import::Line;
use crate::names::Key;
use crate::record::Device;

/// How the other hub is called.
const HOST: &str = "far.test";
/// A key that must be shown nowhere.
const KEY: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA==";

/// A certificate for loopback, its own authority.
struct Identity(rcgen::CertifiedKey<rcgen::KeyPair>);

impl Identity {
    fn new() -> Self {
        Self(rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap())
    }

    fn server(&self) -> Arc<rustls::ServerConfig> {
        let key = PrivateKeyDer::try_from(self.0.signing_key.serialize_der()).unwrap();
        crate::mqtt::tls::server_config(vec![self.0.cert.der().clone()], key).unwrap()
    }

    fn pem(&self) -> String {
        self.0.cert.pem()
    }
}

/// A hub that serves.
struct Hub {
    fleet: Fleet,
    _dir: TempDir,
}

impl Hub {
    async fn open(region: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let region = Region::parse(region).unwrap();
        let fleet = Fleet::open(FleetOptions::new("fleet", region, dir.path().join("fleet"))).unwrap();
        fleet.open_to_devices(Epoch(1), Standing::Current);
        fleet.make_policies().await.unwrap();
        Self { fleet, _dir: dir }
    }

    /// Imports lines, all of which must be good.
    async fn fill(&self, lines: impl IntoIterator<Item = Value>) {
        let decide = |line| serde_json::from_value::<Line>(line).unwrap().decide().unwrap();
        let changes = lines.into_iter().map(decide).collect();
        for done in self.fleet.registry().change_many(changes).await {
            done.unwrap();
        }
    }

    fn get(&self, id: &str) -> Option<Arc<Device>> {
        self.fleet.registry().get(&Key::parse(id).unwrap()).unwrap()
    }

    fn all(&self) -> Vec<Arc<Device>> {
        self.fleet.registry().page(None, 100_000).unwrap()
    }

    /// The newest change: the same number means that nothing was written.
    fn own(&self) -> u64 {
        self.fleet.registry().own()
    }
}

/// A hub that is served over TLS.
struct FarHub {
    hub: Hub,
    at: SocketAddr,
    ca: String,
    _listeners: Listeners,
}

impl FarHub {
    async fn open() -> Self {
        let hub = Hub::open("berlin").await;
        let identity = Identity::new();
        let fronts = Arc::<Fronts>::default();
        fronts.put(Served::new(&hub.fleet, vec![HOST.to_owned()], None));
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let addresses = Addresses { mqtt: any, https: any, amqp: any };
        let listeners =
            Listeners::open(addresses, Some(identity.server()), fronts, crate::fleet::now).await.unwrap();
        Self { hub, at: listeners.bound().https, ca: identity.pem(), _listeners: listeners }
    }

    fn setting(&self) -> MemberSetting {
        let policies = self.hub.fleet.registry().policies().unwrap();
        let owner = policies.iter().find(|policy| policy.name == "iothubowner").unwrap();
        setting(self.at, &owner.primary, &self.ca)
    }

    fn member(&self, of: &Hub, change: impl FnOnce(&mut MemberSetting)) -> Member {
        let mut setting = self.setting();
        change(&mut setting);
        Member::new(&setting, of.fleet.clone(), Limits::default()).unwrap()
    }
}

fn setting(at: SocketAddr, key: &str, ca: &str) -> MemberSetting {
    let connection_string =
        format!("HostName={HOST};SharedAccessKeyName=iothubowner;SharedAccessKey={key};GatewayHostName={at}");
    serde_json::from_value(json!({ "connection_string": connection_string, "ca": ca })).unwrap()
}

/// A run, and what it left behind.
async fn run(member: &mut Member, manner: Manner) -> (Result<(), RunError>, Report) {
    let tally = Tally::begin(1, manner, Moment(0));
    let done = member.run(manner, &tally).await;
    let report = tally.end(&done);
    (done, report)
}

/// A run that must be whole.
async fn whole(member: &mut Member) -> Report {
    let (done, report) = run(member, Manner::Do).await;
    done.unwrap();
    assert_eq!(report.failed, []);
    report
}

/// created, updated, deleted, unchanged
fn counts(report: &Report) -> (u64, u64, u64, u64) {
    (report.created, report.updated, report.deleted, report.unchanged)
}

fn device(number: u64) -> Value {
    let id = format!("pump-{number:04}");
    let mut line = json!({
        "id": id,
        "tags": { "place": { "hall": number % 5 }, "empty": {} },
        "properties": { "desired": { "every": number }, "reported": { "firmware": "1.2" } },
    });
    if number.is_multiple_of(10) {
        line["status"] = json!("disabled");
        line["statusReason"] = json!("stolen");
    }
    match number % 7 {
        0 => {
            let print = format!("{number:040x}");
            line["authentication"] =
                json!({"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": print}});
        }
        1 => line["authentication"] = json!({"type": "certificateAuthority"}),
        _ => {}
    }
    line
}

fn module(device: u64, name: &str) -> Value {
    json!({"id": format!("pump-{device:04}"), "moduleId": name, "tags": {"of": device},
        "properties": {"desired": {"on": true}}})
}

/// What is to be the same on both sides.
fn shown(device: &Device) -> Value {
    json!({
        "key": device.key.to_string(), "generation": &*device.generation, "enabled": device.enabled,
        "reason": device.reason, "auth": serde_json::to_value(&device.auth).unwrap(), "tags": device.tags,
        "desired": device.desired.value, "scope": serde_json::to_value(&device.scope).unwrap(),
    })
}

fn shown_of(hub: &Hub) -> Vec<Value> {
    hub.all().iter().map(|device| shown(device)).collect()
}

/// A deadline that only a hang reaches.
const PATIENCE: Duration = Duration::from_secs(60);
