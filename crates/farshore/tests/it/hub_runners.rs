//! What a hub does by itself, in two real regions: its telemetry goes into a stream of NATS, once, across failovers; and it takes over
//! what another hub has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::hub_device::{Device, Talk};
use crate::hub_place::alone;
use crate::hub_rig::{Rig, until};

/// The program under test.
const FARSHORE: &str = env!("CARGO_BIN_EXE_farshore");
/// Acknowledged messages of a device that show that it goes on.
const SOME: usize = 30;
/// Devices of the other hub.
const DEVICES: u64 = 1000;

/// The Debian package's server with JetStream, on loopback; gone when dropped.
struct Nats {
    _server: Child,
    address: SocketAddr,
}

impl Nats {
    async fn start(rig: &Rig) -> Self {
        // The port is free now and chosen by the system; the server cannot be given a listener.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let server = Command::new("nats-server")
            .args(["-a", &address.ip().to_string(), "-p", &address.port().to_string(), "-js", "-sd"])
            .arg(rig.data().join("nats"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nats-server is needed: apt-get install nats-server");
        until("an answer of the NATS server", async || {
            let mut stream = TcpStream::connect(address).await.ok()?;
            let mut info = [0; 4];
            stream.read_exact(&mut info).await.ok().filter(|_| info == *b"INFO").map(|_| ())
        })
        .await;
        Self { _server: server, address }
    }

    /// How often each message is in the stream, by the id that its device gave it.
    async fn stored(&self, stream: &str) -> BTreeMap<String, u32> {
        let client = async_nats::connect(format!("nats://{}", self.address)).await.unwrap();
        let ask = async |subject: String, body: Value| -> Value {
            let answer = client.request(subject, body.to_string().into()).await.unwrap();
            serde_json::from_slice(&answer.payload).unwrap()
        };
        let info = ask(format!("$JS.API.STREAM.INFO.{stream}"), json!({})).await;
        let mut stored = BTreeMap::new();
        for seq in 1..=info["state"]["last_seq"].as_u64().unwrap_or(0) {
            let message = ask(format!("$JS.API.STREAM.MSG.GET.{stream}"), json!({ "seq": seq })).await;
            let headers = message["message"]["hdrs"].as_str().unwrap();
            let headers =
                base64::Engine::decode(&base64::engine::general_purpose::STANDARD, headers).unwrap();
            let headers = String::from_utf8(headers).unwrap();
            let mid = headers.split("%24.mid=").nth(1).unwrap().split(['&', '\r']).next().unwrap();
            *stored.entry(mid.to_owned()).or_insert(0) += 1;
        }
        stored
    }
}

/// The command line, which must succeed.
async fn farshore(rig: &Rig, args: &[&str]) -> String {
    let mut command = Command::new(FARSHORE);
    command.args(args).env("FARSHORE_DATA", rig.data()).stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {out}{err}");
    out.into_owned()
}

async fn sink(rig: &Rig) -> Value {
    let sinks = rig.api.get("hubs/fleet/sinks").await.unwrap_or_default();
    sinks[0].clone()
}

/// Every event of the hub is in the stream.
async fn is_published(rig: &Rig) {
    until("a sink that has nothing left to publish", async || {
        let sink = sink(rig).await;
        (sink["state"] == "running" && sink["behind"] == 0).then_some(())
    })
    .await;
}

#[test]
fn what_is_acknowledged_is_in_the_stream_once_though_regions_die_and_come_home() {
    alone(|| async {
        let mut rig = Rig::start().await;
        let nats = Nats::start(&rig).await;
        let url = format!("nats://{}", nats.address);
        let added =
            farshore(&rig, &["hub", "sink", "add", "fleet", "bus", "--url", &url, "--stream", "FLEET"]).await;
        assert!(
            added.contains("bus publishes farshore.fleet.> into the stream FLEET of nats://127.0.0.1:"),
            "{added}"
        );
        let mut talkers = Vec::new();
        for sdk in ["py", "js"] {
            let device = Device::start(&rig, &format!("device.{sdk}"), &format!("talker-{sdk}"), &[]).await;
            device.ready().await;
            talkers.push(Talk::start(device));
        }
        let talk_on = async || {
            for talker in &talkers {
                talker.goes_on(SOME).await;
            }
        };
        talk_on().await;
        is_published(&rig).await;

        rig.cluster.kill("paris").await.unwrap();
        rig.fail_over().await;
        talk_on().await;
        rig.cluster.start_region("paris").await.unwrap();
        rig.bring_home().await;
        talk_on().await;
        let mut acknowledged = BTreeSet::new();
        for talker in talkers {
            acknowledged.extend(talker.end().await);
        }
        is_published(&rig).await;
        let listed = farshore(&rig, &["hub", "sink", "list", "fleet"]).await;
        assert!(listed.contains("bus   running  0 "), "{listed}");

        let stored = nats.stored("FLEET").await;
        let missing: Vec<&String> = acknowledged.iter().filter(|mid| !stored.contains_key(*mid)).collect();
        assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), acknowledged.len());
        let twice: Vec<_> = stored.iter().filter(|(_, count)| **count != 1).collect();
        assert!(twice.is_empty(), "{} of {} are there more than once: {twice:?}", twice.len(), stored.len());
    });
}

fn line(number: u64) -> String {
    let mut line = json!({"id": format!("pump-{number:04}"), "tags": {"place": {"hall": number % 5}},
        "properties": {"desired": {"every": number}}});
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
    line.to_string()
}

async fn import(rig: &Rig, hub: &str, lines: Vec<String>) {
    for some in lines.chunks(500) {
        let done = rig.api.post(&format!("hubs/{hub}/import"), &json!({ "lines": some })).await.unwrap();
        assert_eq!((&done["applied"], &done["errors"]), (&json!(some.len()), &json!([])));
    }
}

/// Everything that two hubs are to have in common, by id.
async fn exported(rig: &Rig, hub: &str) -> Vec<Value> {
    let text = farshore(rig, &["hub", "export", hub]).await;
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let desired = line["properties"]["desired"]["every"].clone();
        json!([
            line["id"],
            line["moduleId"],
            line["generationId"],
            line["status"],
            line["statusReason"],
            line["authentication"],
            line["tags"],
            desired
        ])
    };
    text.lines().map(read).collect()
}

async fn report(rig: &Rig) -> Option<Value> {
    let members = rig.api.get("hubs/fleet/members").await.ok()?;
    Some(members[0]["report"].clone()).filter(|report| !report.is_null())
}

async fn run_member(rig: &Rig, more: &[&str]) -> Value {
    let args = [&["hub", "member", "run", "fleet", "works", "--output", "json"], more].concat();
    serde_json::from_str(&farshore(rig, &args).await).unwrap()
}

fn counts(report: &Value) -> [u64; 5] {
    ["created", "updated", "deleted", "unchanged", "failures"].map(|name| report[name].as_u64().unwrap())
}

/// The hub `works`, in oslo, with a thousand devices and some modules; and what a member of it is set with.
async fn other_hub(rig: &Rig) -> std::path::PathBuf {
    let body = json!({"kind": "hub", "name": "works", "region": "oslo", "spec": {}});
    rig.api.carry_out("items", &body).await.unwrap();
    import(rig, "works", (0..DEVICES).map(line).collect()).await;
    let module = |number: u64| {
        json!({"id": format!("pump-{number:04}"), "moduleId": "valve", "tags": {"of": number}}).to_string()
    };
    import(rig, "works", (0..DEVICES).step_by(50).map(module).collect()).await;
    let string = farshore(rig, &["hub", "connection-string", "works", "--policy", "iothubowner"]).await;
    let file = rig.data().join("works.connection");
    std::fs::write(&file, format!("{};GatewayHostName=127.0.0.3\n", string.trim())).unwrap();
    file
}

#[test]
fn a_hub_takes_over_what_another_one_has_in_whichever_region_it_serves() {
    alone(|| async {
        let rig = Rig::start().await;
        let (file, ca) = (other_hub(&rig).await, rig.ca_file());
        let [file, ca] = [file, ca].map(|path| path.display().to_string());
        let add = [
            "hub",
            "member",
            "add",
            "fleet",
            "works",
            "--connection-string-file",
            &file,
            "--server-ca",
            &ca,
            "--every",
            "1h",
        ];
        let added = farshore(&rig, &add).await;
        assert!(added.contains("is taken over from works.hub.farshore.internal every 1 h 0 min"), "{added}");
        let first = until("the first run", async || report(&rig).await).await;
        let all = DEVICES + DEVICES / 50;
        assert_eq!(counts(&first), [all, 0, 0, 0, 0], "{first}");
        assert_eq!(exported(&rig, "fleet").await, exported(&rig, "works").await);
        let listed = farshore(&rig, &["hub", "member", "list", "fleet", "--output", "json"]).await;
        assert!(
            listed.contains("\"policy\": \"iothubowner\"") && !listed.contains("SharedAccessKey"),
            "{listed}"
        );

        let changes = [
            json!({"id": "pump-0002", "status": "disabled", "statusReason": "lost"}),
            json!({"id": "pump-0003", "importMode": "updateTwin", "tags": {}, "properties": {"desired": {"every": 1}}}),
            json!({"id": "pump-0004", "importMode": "delete"}),
            json!({"id": "new"}),
        ];
        import(&rig, "works", changes.iter().map(Value::to_string).collect()).await;
        let plan = run_member(&rig, &["--plan"]).await;
        assert_eq!((counts(&plan), &plan["only_here"]), ([1, 2, 0, all - 3, 0], &json!(1)), "{plan}");
        let done = run_member(&rig, &[]).await;
        assert_eq!((counts(&done), &done["only_here"]), ([1, 2, 0, all - 3, 0], &json!(1)), "{done}");
        assert_eq!(counts(&run_member(&rig, &[]).await), [0, 0, 0, all, 0]);

        // The other region goes on, and has nothing to do.
        rig.move_to_oslo().await;
        let there = until("the first run in oslo", async || {
            report(&rig).await.filter(|report| report["unchanged"] != 0)
        })
        .await;
        assert_eq!(counts(&there), [0, 0, 0, all, 0], "{there}");
        let add = [&add[..], &["--prune", "--yes"]].concat();
        farshore(&rig, &add).await;
        let pruned =
            until("a run that prunes", async || report(&rig).await.filter(|report| report["deleted"] != 0))
                .await;
        assert_eq!(counts(&pruned), [0, 0, 1, all, 0], "{pruned}");
        assert_eq!(exported(&rig, "fleet").await, exported(&rig, "works").await);
        let removed = farshore(&rig, &["hub", "member", "remove", "fleet", "works", "--yes"]).await;
        assert_eq!(removed, "works is removed\n");
    });
}
