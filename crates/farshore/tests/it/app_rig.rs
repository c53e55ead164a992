//! An app service in two regions that are real processes: an azure-mobile-apps back end, deployed with git, used by its own client.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use farshore::config::NodeConfig;
use farshore::demo::client::Client;
use farshore::up::{Cluster, ClusterOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::hub_logs;

/// Nothing here takes as long: only a hang does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The program under test.
pub(crate) const FARSHORE: &str = env!("CARGO_BIN_EXE_farshore");
pub(crate) const ITEM: &str = "app/todo";
/// How its clients know it.
pub(crate) const HOST: &str = "todo.app.farshore.internal";
/// Where the programs of the application are.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/app");

/// Two regions, or three with etcd; gone when dropped.
pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    pub(crate) api: Client,
    pub(crate) dir: tempfile::TempDir,
}

/// Whoever reads of a failure reads why.
impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            hub_logs::tell(self.dir.path());
        }
    }
}

/// What clients and developers hold in their hands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Held {
    pub(crate) url: String,
    pub(crate) git_url: String,
    pub(crate) application: String,
    pub(crate) master: String,
    pub(crate) deployment: String,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Waits until it holds.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "{what} was not seen in {PATIENCE:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Where the packages of the application are: `./test` installs them beside what is built.
pub(crate) fn modules() -> PathBuf {
    let target = Path::new(FARSHORE).ancestors().find(|dir| dir.join("sdk-app/installed").exists());
    let dir = target.expect("the application's packages are installed by ./test").join("sdk-app");
    dir.canonicalize().unwrap()
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_as(ClusterOptions::new).await
    }

    pub(crate) async fn start_with_etcd() -> Self {
        Self::start_as(ClusterOptions::with_etcd).await
    }

    async fn start_as(options: fn(&Path) -> ClusterOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = ClusterOptions { program: Some(FARSHORE.into()), ..options(dir.path()) };
        let cluster = Cluster::start(options).await.unwrap();
        let api = Client::of(cluster.apis(), cluster.token(), cluster.ca_file()).unwrap();
        Self { cluster, api, dir }
    }

    /// The application in paris, its scripts pushed; `spec` says what is special about it.
    pub(crate) async fn host(&self, spec: Value) -> Held {
        let mut whole = json!({"mode": "basic", "command": "exec node server.js", "require_key": true});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let wish = json!({"kind": "app", "name": "todo", "region": "paris", "spec": whole});
        self.api.carry_out("items", &wish).await.unwrap();
        let modules = modules();
        self.farshore(&["app", "setting", "set", "todo", &format!("MODULES={}", modules.display())]).await;
        let held = self.held().await;
        self.is_named().await;
        let pushed = self.developer().push(&held, &["server.js", "postgres.js"]).await;
        assert_eq!(pushed.code, 0, "{pushed:?}");
        held
    }

    /// Keeps capacity in oslo and follows there. What is answered from then on is there as well, if that is how it is protected.
    pub(crate) async fn protect(&self, replication: &str) {
        self.reserve("todo-dr", "oslo").await;
        let wish = json!({"target": "oslo", "replication": replication});
        self.api.verb(ITEM, "protect", wish).await.unwrap();
        if replication == "sync" {
            self.waits_for_oslo().await;
        }
    }

    /// Until answers wait for oslo, and all that were given before have arrived there. A machine that stands still for seconds may
    /// end that in between.
    pub(crate) async fn waits_for_oslo(&self) {
        let is_waited_for = async || {
            let app = self.api.get("apps/todo").await.ok()?;
            let warnings = app["warnings"].as_array()?;
            let is_not = |warning: &Value| warning.as_str().is_some_and(|text| text.contains("synchronous"));
            (!warnings.iter().any(is_not)).then_some(())
        };
        until("answers that wait for oslo", is_waited_for).await;
    }

    pub(crate) async fn reserve(&self, name: &str, region: &str) {
        let spec = json!({"mode": "basic", "database": "none", "reserve_for": "todo"});
        let wish = json!({"kind": "app", "name": name, "region": region, "spec": spec});
        self.api.carry_out("items", &wish).await.unwrap();
    }

    pub(crate) async fn held(&self) -> Held {
        let app = self.api.get("apps/todo").await.unwrap();
        let keys = self.api.get("apps/todo/keys").await.unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Held {
            url: text(&app["urls"][0]).trim_end_matches('/').to_owned(),
            git_url: text(&app["git_url"]),
            application: text(&keys["application"]),
            master: text(&keys["master"]),
            deployment: text(&keys["deployment"]),
        }
    }

    /// The DNS server of a region that has one.
    pub(crate) fn dns(&self) -> std::net::SocketAddr {
        let path = self.dir.path().join("oslo/region.toml");
        let config = NodeConfig::load(&path, std::iter::empty()).unwrap();
        config.dns.unwrap().listen
    }

    /// The addresses that `dig` finds for a name. What it says beside them, of a server that is not up yet, is none.
    pub(crate) async fn dig(&self, name: &str) -> Vec<String> {
        let dns = self.dns();
        let mut dig = Command::new("dig");
        dig.args(["+short", "+time=1", "+tries=1", "-p", &dns.port().to_string(), &format!("@{}", dns.ip())]);
        let output = dig.args([name, "A"]).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().filter(|line| line.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned).collect()
    }

    /// Waits until DNS tells where the app is: it does so a moment after the app was made.
    async fn is_named(&self) {
        until("the app's name in DNS", async || (!self.dig(HOST).await.is_empty()).then_some(())).await;
    }

    /// A client with the application key, or another one.
    pub(crate) async fn client(&self, held: &Held, key: &str) -> Zumo {
        Zumo::start(&held.url, key, &self.dns().to_string()).await
    }

    /// Somebody who pushes; their repositories are in the rig's directory.
    pub(crate) fn developer(&self) -> Developer<'_> {
        Developer { rig: self, work: self.dir.path().join("work") }
    }

    /// `farshore`, as the operator runs it; must have done what it was asked.
    pub(crate) async fn farshore(&self, words: &[&str]) -> String {
        let told = self.try_farshore(words).await;
        assert_eq!(told.code, 0, "farshore {words:?}: {}{}", told.out, told.err);
        told.out
    }

    pub(crate) async fn try_farshore(&self, words: &[&str]) -> Told {
        let mut command = Command::new(FARSHORE);
        command.args(words).env("FARSHORE_DATA", self.dir.path()).stdin(Stdio::null()).kill_on_drop(true);
        told(command).await
    }

    /// Waits until it is on record.
    pub(crate) async fn is_in(&self, source: &str, phase: &str) {
        let holds = |item: &Value| item["source"] == source && item["phase"] == phase;
        self.api.wait_for(ITEM, &format!("{phase} in {source}"), holds).await.unwrap();
    }
}

async fn told(mut command: Command) -> Told {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Told { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A developer with git.
pub(crate) struct Developer<'a> {
    rig: &'a Rig,
    work: PathBuf,
}

impl Developer<'_> {
    /// Commits these of the application's programs as they are, and pushes.
    pub(crate) async fn push(&self, held: &Held, files: &[&str]) -> Told {
        self.prepare(held).await;
        for file in files {
            std::fs::copy(Path::new(PROGRAMS).join(file), self.work.join(file)).unwrap();
        }
        self.commit_and_push(held).await
    }

    /// Commits this text under this name, and pushes.
    pub(crate) async fn push_text(&self, held: &Held, file: &str, text: &str) -> Told {
        self.prepare(held).await;
        std::fs::write(self.work.join(file), text).unwrap();
        self.commit_and_push(held).await
    }

    async fn prepare(&self, held: &Held) {
        if !self.work.exists() {
            std::fs::create_dir_all(&self.work).unwrap();
            self.must(held, &self.work, &["init", "-q", "-b", "main"]).await;
            self.must(held, &self.work, &["remote", "add", "farshore", &held.git_url]).await;
        }
    }

    async fn commit_and_push(&self, held: &Held) -> Told {
        self.must(held, &self.work, &["add", "-A"]).await;
        self.must(held, &self.work, &["commit", "-q", "-m", "scripts"]).await;
        self.git(held, &self.work, &["push", "farshore", "main"]).await
    }

    /// The tree that was committed last.
    pub(crate) async fn tree(&self, held: &Held) -> String {
        self.must(held, &self.work, &["rev-parse", "HEAD^{tree}"]).await
    }

    /// Clones anew from a URL; the tree that came.
    pub(crate) async fn clone_from(&self, held: &Held, url: &str) -> String {
        let clone = tempfile::tempdir_in(self.rig.dir.path()).unwrap().keep();
        self.must(held, &clone, &["clone", "-q", url, "."]).await;
        self.must(held, &clone, &["rev-parse", "HEAD^{tree}"]).await
    }

    async fn must(&self, held: &Held, dir: &Path, args: &[&str]) -> String {
        let told = self.git(held, dir, args).await;
        assert_eq!(told.code, 0, "git {args:?}: {told:?}");
        told.out.trim().to_owned()
    }

    async fn git(&self, held: &Held, dir: &Path, args: &[&str]) -> Told {
        let url: reqwest::Url = held.git_url.parse().unwrap();
        let (host, port) = (url.host_str().unwrap(), url.port_or_known_default().unwrap());
        let mut git = Command::new("git");
        git.current_dir(dir).args(["-c", "user.name=Developer", "-c", "user.email=developer@example.com"]);
        let address =
            until("the git host's name in DNS", async || self.rig.dig(host).await.into_iter().next()).await;
        git.args(["-c", &format!("http.curloptResolve={host}:{port}:{address}")]);
        let login = base64_of(&format!("deploy:{}", held.deployment));
        git.args(["-c", &format!("http.extraHeader=Authorization: Basic {login}")]).args(args);
        git.env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0");
        git.stdin(Stdio::null()).kill_on_drop(true);
        told(git).await
    }
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The official client of the application, as a program that is told what to do.
pub(crate) struct Zumo {
    _child: Child,
    asks: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Zumo {
    pub(crate) async fn start(url: &str, key: &str, dns: &str) -> Self {
        let mut node = Command::new("node");
        node.arg(Path::new(PROGRAMS).join("client.js")).arg(url);
        node.env("KEY", key).env("DNS", dns).env("MODULES", modules());
        let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { asks: child.stdin.take().unwrap(), says, _child: child }
    }

    /// One call of the client; its answer, or the status of its failure. One that got no answer, or is to come again, is made
    /// again: none of them does anything more the second time.
    pub(crate) async fn ask(&mut self, what: &Value) -> Result<Value, u16> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.ask_once(what).await {
                Err(0 | 503) if Instant::now() < end => tokio::time::sleep(LOOK_EVERY).await,
                answer => return answer,
            }
        }
    }

    async fn ask_once(&mut self, what: &Value) -> Result<Value, u16> {
        self.asks.write_all(format!("{what}\n").as_bytes()).await.unwrap();
        let line = tokio::time::timeout(PATIENCE, self.says.next_line()).await.unwrap().unwrap().unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        match answer["ok"] == true {
            true => Ok(answer["value"].clone()),
            false => Err(u16::try_from(answer["status"].as_u64().unwrap_or(0)).unwrap()),
        }
    }

    /// Adds a row, again and again under its id until that is acknowledged.
    pub(crate) async fn insert(&mut self, id: &str) {
        let item = json!({"id": id, "text": format!("row {id}"), "complete": false});
        let end = Instant::now() + PATIENCE;
        loop {
            match self.ask_once(&json!({"do": "insert", "item": item})).await {
                // It had arrived before, and only the answer was lost.
                Ok(_) | Err(409) => return,
                Err(status) => assert!(Instant::now() < end, "row {id} is answered with {status}"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The ids of all rows.
    pub(crate) async fn rows(&mut self) -> Vec<String> {
        let rows = self.ask(&json!({"do": "read"})).await.unwrap();
        let mut ids: Vec<_> =
            rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }

    /// The region whose process answers.
    pub(crate) async fn region(&mut self) -> Value {
        self.ask(&json!({"do": "where"})).await.unwrap()["region"].clone()
    }
}
