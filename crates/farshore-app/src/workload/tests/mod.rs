//! Two regions in one process, ordered about as the engine would, with real processes, real requests and real git: what is
//! acknowledged is kept or counted, names and keys stay, and nobody serves who should not.
//!
//! Read in this order: this file (two regions and what is done to them), `life` (a whole life), `postgres` (the same with the other engine),
//! `trouble` (what goes wrong), `old_source` (a source that is stopped or comes back), `asked` (what an operator asks), `backups` (what
//! the other region makes of them), `transfer` (what is taken out), `domains` (names of their own), `turns` (what is asked
//! for meanwhile), `told` (what is not done, and why).

mod asked;
mod backups;
mod domains;
mod life;
mod old_source;
mod postgres;
mod told;
mod transfer;
mod trouble;
mod turns;

use std::io::ErrorKind;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use farshore_core::fencing::FenceTimings;
use farshore_core::ids::Epoch;
use farshore_core::workload::{PointChoice, ReplicationMode, ReplicationState, Watermark};
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;

use super::*;

/// What the tests host.
const SERVER: &str = include_str!("server.py");
/// Nothing here takes so long.
const GIVE_UP: Duration = Duration::from_secs(120);

/// The regions that can be reached.
#[derive(Debug, Default)]
struct World {
    regions: Mutex<BTreeMap<Region, Arc<Apps>>>,
    is_cut: AtomicBool,
    /// How long an answer is on its way.
    far_ms: AtomicU64,
}

/// The way from one region.
#[derive(Debug)]
struct From(Region, Arc<World>);

#[async_trait]
impl Pull for From {
    async fn pull(&self, region: &Region, item: &ItemId, request: Vec<u8>) -> Result<Vec<u8>, StepError> {
        let cut = || StepError::Retry { what: "cut".to_owned() };
        if self.1.is_cut.load(Ordering::SeqCst) {
            return Err(cut());
        }
        tokio::time::sleep(Duration::from_millis(self.1.far_ms.load(Ordering::SeqCst))).await;
        let other = self.1.regions.lock().unwrap().get(region).cloned().ok_or_else(cut)?;
        let answer = other.pulled(item, &self.0, &request).await?;
        // What was under way when the line was cut does not arrive.
        if self.1.is_cut.load(Ordering::SeqCst) { Err(cut()) } else { Ok(answer) }
    }
}

struct Place {
    region: Region,
    apps: Arc<Apps>,
    world: Arc<World>,
    dir: Arc<tempfile::TempDir>,
    http: SocketAddr,
}

static STEP: AtomicU64 = AtomicU64::new(0);

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn todo() -> ItemId {
    ItemId::parse("app/todo").unwrap()
}

fn order(item: &ItemId, epoch: u64, action: Action, lease: Option<FenceTimings>) -> Order {
    let step = STEP.fetch_add(1, Ordering::SeqCst);
    let key = serde_json::from_value(json!(format!("test/{step}"))).unwrap();
    let token = Token::new(1, Epoch(epoch));
    Order { key, item: item.clone(), token, action, only_if: None, lease, by: None }
}

/// What the tests' app is like.
fn spec() -> serde_json::Value {
    json!({ "mode": "free", "command": "exec python3 server.py", "backup_minutes": 0 })
}

/// What every gateway shows and believes.
static CLUSTER: LazyLock<(Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
    let client = client.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider);
    let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    (Arc::new(server), Arc::new(client.with_no_client_auth()))
});

fn options(name: &str, world: &Arc<World>, dir: &tempfile::TempDir, http: SocketAddr) -> AppsOptions {
    let (tls, trust) = &*CLUSTER;
    AppsOptions {
        region: region(name),
        dir: dir.path().join("apps"),
        http,
        https: Some("127.0.0.1:0".parse().unwrap()),
        host: None,
        domain: "farshore.internal".to_owned(),
        tls: Some(Arc::clone(tls)),
        trust: Some(Arc::clone(trust)),
        capacity_mib: 2048,
        far: Arc::new(From(region(name), Arc::clone(world))),
        tokens: None,
    }
}

impl Place {
    async fn open(name: &str, world: &Arc<World>) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        Self::open_in(name, world, Arc::new(tempfile::tempdir().unwrap()), any).await
    }

    async fn open_in(name: &str, world: &Arc<World>, dir: Arc<tempfile::TempDir>, http: SocketAddr) -> Self {
        let give_up = Instant::now() + GIVE_UP;
        let apps = loop {
            match Apps::open(options(name, world, &dir, http)).await {
                // The port of before: a client of somebody else may have got it for a moment.
                Err(OpenError::Listen(why))
                    if why.source.kind() == ErrorKind::AddrInUse && Instant::now() < give_up =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => break opened.unwrap(),
            }
        };
        world.regions.lock().unwrap().insert(region(name), Arc::clone(&apps));
        let http = apps.bound().http;
        Self { region: region(name), apps, world: Arc::clone(world), dir, http }
    }

    /// As after a crash of the node: what is not on the disk is gone.
    async fn restart(self) -> Self {
        let (region, world, dir, http) = self.end().await;
        Self::open_in(region.as_str(), &world, dir, http).await
    }

    async fn end(self) -> (Region, Arc<World>, Arc<tempfile::TempDir>, SocketAddr) {
        self.world.regions.lock().unwrap().remove(&self.region);
        self.apps.stop().await;
        let Self { region, world, dir, http, .. } = self;
        (region, world, dir, http)
    }

    async fn act(&self, epoch: u64, action: Action) -> Result<(), StepError> {
        self.act_on(&todo(), epoch, action, None).await
    }

    async fn act_on(
        &self,
        item: &ItemId,
        epoch: u64,
        action: Action,
        lease: Option<FenceTimings>,
    ) -> Result<(), StepError> {
        self.apps.act(&order(item, epoch, action, lease)).await
    }

    async fn look(&self) -> Observation {
        self.apps.observe(&todo()).await.unwrap()
    }

    fn item(&self) -> Arc<Item> {
        self.apps.around.item(&todo()).unwrap()
    }

    async fn ask(&self, question: Value) -> Result<Value, StepError> {
        self.apps.ask(&todo(), &question).await
    }

    /// Asks for what takes longer, and waits for its end.
    async fn done(&self, question: Value) -> Value {
        let id = self.ask(question).await.unwrap()["operation"].clone();
        let give_up = Instant::now() + GIVE_UP;
        loop {
            let seen = self.ask(json!({ "ask": "operation", "id": id })).await.unwrap();
            if seen["state"] != "running" {
                return seen;
            }
            assert!(Instant::now() < give_up, "{seen:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until(&self, what: &str, check: impl Fn(&Observation) -> bool) -> Observation {
        let give_up = Instant::now() + GIVE_UP;
        loop {
            let seen = self.look().await;
            if check(&seen) {
                return seen;
            }
            assert!(Instant::now() < give_up, "{what}: {seen:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Until `other` has all that was committed here so far: also what this region has not noticed itself yet.
    async fn arrived(&self, other: &Self) {
        self.item().stock.live().unwrap().settle(GIVE_UP).await.unwrap();
        let all = self.item().watermark().seq;
        other.until("it has everything", |seen| seen.watermark.seq >= all).await;
    }

    /// A request to the app by its name.
    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        client
            .request(method.parse().unwrap(), format!("http://{}{path}", self.http))
            .header("host", "todo.app.farshore.internal")
            .timeout(GIVE_UP)
    }

    /// What is answered as soon as the app serves: what is slow to come up does so after its region was told that it is active.
    async fn get(&self, path: &str) -> Value {
        let give_up = Instant::now() + GIVE_UP;
        loop {
            let answer = self.request("GET", path).send().await.unwrap();
            if answer.status() != 503 || Instant::now() > give_up {
                assert_eq!(answer.status(), 200, "{path}");
                return answer.json().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn status(&self, path: &str) -> u16 {
        self.request("GET", path).send().await.unwrap().status().as_u16()
    }

    async fn add(&self, row: &str) {
        let answer = self.request("POST", "/rows").body(row.to_owned()).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// Pushes a release with these files beside the server.
    async fn push(&self, files: &[(&str, &str)]) -> std::process::Output {
        let keys = self.ask(json!({ "ask": "keys" })).await.unwrap();
        let (http, password) = (self.http, keys["deployment"].as_str().unwrap().to_owned());
        let work = self.dir.path().join("work");
        let files: Vec<(String, String)> =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        tokio::task::spawn_blocking(move || push(&work, http, &password, &files)).await.unwrap()
    }
}

fn push(
    work: &std::path::Path,
    http: SocketAddr,
    password: &str,
    files: &[(String, String)],
) -> std::process::Output {
    let git = |args: &[&str]| {
        Command::new("git")
            .current_dir(work)
            .args(["-c", "user.name=tests", "-c", "user.email=tests@example", "-c", "credential.helper="])
            .args(["-c", "http.extraHeader=Host: todo.scm.farshore.internal", "-c", "http.proxy="])
            .args(args)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .output()
            .unwrap()
    };
    if !work.exists() {
        std::fs::create_dir_all(work).unwrap();
        assert!(git(&["init", "-q", "-b", "main"]).status.success());
    }
    for entry in std::fs::read_dir(work).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    std::fs::write(work.join("server.py"), SERVER).unwrap();
    for (name, text) in files {
        std::fs::write(work.join(name), text).unwrap();
    }
    assert!(git(&["add", "-A"]).status.success());
    assert!(git(&["commit", "-q", "-m", "a release"]).status.success());
    git(&["push", &format!("http://me:{password}@{http}/todo.git"), "main"])
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Paris serves release 1.
async fn served() -> Place {
    served_as(spec()).await
}

async fn served_as(spec: Value) -> Place {
    let paris = Place::open("paris", &Arc::default()).await;
    paris.act(1, Action::Create { spec }).await.unwrap();
    let pushed = paris.push(&[("release.txt", "one")]).await;
    assert!(pushed.status.success() && said(&pushed).contains("release 1 runs"), "{}", said(&pushed));
    paris
}

/// Oslo follows paris and has everything.
async fn follow(paris: &Place, mode: ReplicationMode) -> Place {
    let oslo = Place::open("oslo", &paris.world).await;
    let shape = paris.look().await.shape;
    oslo.act(1, Action::PrepareTarget { source: region("paris"), shape }).await.unwrap();
    replicate(paris, "oslo", 1, mode).await;
    oslo.until("a point", |seen| !seen.points.is_empty()).await;
    oslo
}

async fn replicate(from: &Place, to: &str, epoch: u64, mode: ReplicationMode) {
    let action = Action::Replicate { target: region(to), address: "unused".to_owned(), mode };
    from.act(epoch, action).await.unwrap();
    from.until("streaming", streams).await;
}

fn streams(seen: &Observation) -> bool {
    let replication = seen.replication.as_ref();
    replication.is_some_and(|link| link.state == ReplicationState::Streaming && link.lag.writes == 0)
}

fn rows(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|number| format!("row {number}")).collect()
}
