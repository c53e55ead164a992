//! Devices by the official SDKs, as processes of their own, and back ends' programs. See `tests/hub`.
//!
//! Names are found through the regions' own DNS: in the programs' mount namespace `/etc/resolv.conf` names it, and nothing else is
//! different from any machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use crate::hub_rig::{Rig, seen, until};

/// How a device connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Tcp,
    WebSocket,
}

/// Messages of one device that are under way at once.
const LANES: u64 = 4;
/// A lane sends a message so often.
const PACE: Duration = Duration::from_millis(100);
/// Sees to it that the program, and nothing else, asks the regions for names.
const WITH_RESOLVER: &str = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;

/// Where the official packages are.
fn packages() -> PathBuf {
    let sdk = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("sdk-hub");
    let mark = sdk.join("installed");
    assert!(
        mark.exists(),
        "{} is missing: run ./test once, it installs the official SDKs that these tests run",
        mark.display()
    );
    sdk
}

/// A program of `tests/hub`.
pub(crate) fn program(rig: &Rig, name: &str) -> Command {
    let (sdk, ca) = (packages(), rig.ca_file());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITH_RESOLVER]).arg(rig.resolv_conf());
    if name.ends_with(".py") {
        // Nothing is to be left behind among the sources.
        command.arg(sdk.join("venv/bin/python")).env("PYTHONDONTWRITEBYTECODE", "1");
    } else {
        command.arg("node").env("NODE_PATH", sdk.join("node_modules"));
    }
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hub").join(name));
    command.env("NODE_EXTRA_CA_CERTS", &ca).env("REQUESTS_CA_BUNDLE", &ca).env("SSL_CERT_FILE", &ca);
    command.kill_on_drop(true);
    command
}

/// The last event: the program has ended.
const GONE: &str = "gone";

/// A device that is on; it ends with its test.
pub(crate) struct Device {
    pub(crate) id: String,
    orders: Arc<tokio::sync::Mutex<ChildStdin>>,
    heard: Arc<Mutex<Vec<Value>>>,
    orders_given: Arc<AtomicU64>,
    _child: Child,
}

impl Device {
    /// Registers a device, or a module of one, and switches it on.
    pub(crate) async fn start(rig: &Rig, name: &str, id: &str, listen: &[&str]) -> Self {
        Self::start_via(rig, name, id, listen, Via::Tcp).await
    }

    /// The same by another way.
    pub(crate) async fn start_via(rig: &Rig, name: &str, id: &str, listen: &[&str], via: Via) -> Self {
        let connection = rig.device(id).await;
        let given = json!({"connection": connection, "listen": listen, "websockets": via == Via::WebSocket});
        Self::run(rig, name, id, given).await
    }

    /// Switches on a device that is registered.
    pub(crate) async fn run(rig: &Rig, name: &str, id: &str, mut given: Value) -> Self {
        given["ca"] = json!(std::fs::read_to_string(rig.ca_file()).unwrap());
        given["keep_alive"] = json!(20);
        let mut command = program(rig, name);
        let log = std::fs::File::create(rig.data().join(format!("{}.log", id.replace('/', "-")))).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let heard = Arc::<Mutex<Vec<Value>>>::default();
        let kept = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // An SDK may print what it likes; events are JSON.
                if let Ok(event) = serde_json::from_str(&line) {
                    kept.lock().unwrap().push(event);
                }
            }
            kept.lock().unwrap().push(json!({"event": GONE}));
        });
        let orders = Arc::new(tokio::sync::Mutex::new(child.stdin.take().unwrap()));
        let device = Self { id: id.to_owned(), orders, heard, orders_given: Arc::default(), _child: child };
        device.order(&given).await;
        device
    }

    async fn order(&self, order: &Value) {
        self.orders.lock().await.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    }

    /// How much it has said so far.
    pub(crate) fn mark(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// Waits until it says this, after the mark.
    pub(crate) async fn says(&self, from: usize, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let what = format!("{event} from {}", self.id);
        seen(&what, || {
            let heard = self.heard.lock().unwrap();
            let mut later = heard.iter().skip(from);
            let said = later.find(|line| line["event"] == event && wanted(line)).cloned();
            self.must_live(said.as_ref(), &what, &heard);
            said
        })
        .await
    }

    /// A program that has ended will not say anything any more.
    fn must_live(&self, said: Option<&Value>, what: &str, heard: &[Value]) {
        let is_gone = heard.last().is_some_and(|line| line["event"] == GONE);
        assert!(
            said.is_some() || !is_gone,
            "{what} will not come: the program has ended; its log is {}.log",
            self.id
        );
    }

    /// Waits until it is connected for the first time.
    pub(crate) async fn ready(&self) {
        self.says(0, "ready", |_| true).await;
    }

    /// Its twin, as it gets it itself.
    pub(crate) async fn twin(&self) -> Value {
        let mut answer = until(&format!("the twin of {}", self.id), async || {
            let (mark, id) = (self.mark(), self.orders_given.fetch_add(1, Ordering::Relaxed));
            self.order(&json!({"do": "twin", "id": id})).await;
            // The SDKs fail an operation whose connection breaks: applications ask again.
            let said = self.answer(mark, &id.into(), &["twin", "failed"]).await;
            (said["event"] == "twin").then_some(said)
        })
        .await;
        answer["twin"].take()
    }

    async fn answer(&self, from: usize, id: &Value, events: &[&str]) -> Value {
        let what = format!("an answer of {} to {id}", self.id);
        seen(&what, || {
            let heard = self.heard.lock().unwrap();
            let mut later = heard.iter().skip(from);
            let answers =
                |line: &&Value| line["id"] == *id && events.iter().any(|event| line["event"] == *event);
            let said = later.find(answers).cloned();
            self.must_live(said.as_ref(), &what, &heard);
            said
        })
        .await
    }
}

/// What a device tells the hub without end.
pub(crate) struct Talk {
    device: Arc<Device>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
    lanes: Vec<JoinHandle<()>>,
}

impl Talk {
    /// Begins.
    pub(crate) fn start(device: Device) -> Self {
        let device = Arc::new(device);
        let (acknowledged, stop) = (Arc::default(), Arc::<AtomicBool>::default());
        let lane = |lane: u64| {
            let device = Arc::clone(&device);
            tokio::spawn(talk(device, lane, Arc::clone(&acknowledged), Arc::clone(&stop)))
        };
        Self { lanes: (0..LANES).map(lane).collect(), device, acknowledged, stop }
    }

    /// Who talks.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// How many of its messages were acknowledged to it.
    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until so many messages more were acknowledged.
    pub(crate) async fn goes_on(&self, more: usize) {
        let goal = self.count() + more;
        seen(&format!("{more} messages more from {}", self.device.id), || {
            (self.count() >= goal).then_some(())
        })
        .await;
    }

    /// Ends; the ids of all messages that were acknowledged.
    pub(crate) async fn end(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        for lane in self.lanes {
            lane.await.unwrap();
        }
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

/// One message after the other; what is not acknowledged is sent again under its id, as applications do it.
async fn talk(
    device: Arc<Device>,
    lane: u64,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let mid = format!("{}-{lane}-{number}", device.id);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (mark, id) = (device.mark(), format!("{mid}/{attempt}"));
            device.order(&json!({"do": "send", "id": id, "mid": mid, "body": {"n": number}})).await;
            let said = device.answer(mark, &id.into(), &["sent", "unsent"]).await;
            tokio::time::sleep(PACE).await;
            if said["event"] == "sent" {
                break;
            }
        }
        acknowledged.lock().unwrap().insert(mid);
    }
}
