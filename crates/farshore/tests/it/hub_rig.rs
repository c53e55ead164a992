//! A device hub in two regions that are real processes, each at an address of its own with the ports that official SDKs know.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farshore::demo::client::Client;
use farshore::demo::link;
use farshore::up::{Cluster, ClusterOptions, Line};
use farshore_core::moment::Moment;
use farshore_hub::sas::Token;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::hub_logs;

/// Nothing here takes as long: only a hang does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The program under test.
const FARSHORE: &str = env!("CARGO_BIN_EXE_farshore");
/// The hub of all tests here.
const HUB: &str = "fleet";
pub(crate) const ITEM: &str = "hub/fleet";
/// How devices and back ends know it.
pub(crate) const HOST: &str = "fleet.hub.farshore.internal";
/// Where the regions are.
const ADDRESSES: [(&str, &str); 3] = [("paris", "127.0.0.2"), ("oslo", "127.0.0.3"), ("bergen", "127.0.0.4")];
/// The policy that may do everything.
const POLICY: &str = "iothubowner";

/// Paris and oslo with one hub, made as a person would make it; gone when dropped.
pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    pub(crate) api: Client,
    http: reqwest::Client,
    key: String,
    line: link::Line,
    dir: tempfile::TempDir,
}

/// Whoever reads of a failure reads why: what every program said is told before it is gone.
impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (region, pid) in
                ADDRESSES.iter().filter_map(|(name, _)| Some((name, self.cluster.pid(name)?)))
            {
                hub_logs::tell_threads(region, pid);
            }
            hub_logs::tell(self.dir.path());
        }
    }
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

/// The same, of what is looked at without waiting.
pub(crate) async fn seen<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} was not seen in {PATIENCE:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn address(region: &str) -> &'static str {
    ADDRESSES.iter().find(|(name, _)| *name == region).unwrap().1
}

/// Waits until the regions' DNS says where the hub is: it does so a moment after the hub was made, and programs that are told that there
/// is no such name do not all ask again.
async fn is_named(resolv: &Path) {
    let resolv = std::fs::read_to_string(resolv).unwrap();
    let server = resolv.lines().find_map(|line| line.strip_prefix("nameserver ")).unwrap();
    until("the hub's name in DNS", async || {
        let mut dig = tokio::process::Command::new("dig");
        dig.args(["+short", "+time=1", "+tries=1", &format!("@{server}"), HOST, "A"]);
        let output = dig.output().await.unwrap();
        (output.status.success() && !output.stdout.is_empty()).then_some(())
    })
    .await;
}

impl Rig {
    /// A hub at home in paris and kept in oslo, which answers questions about names.
    pub(crate) async fn start() -> Self {
        Self::start_as(ClusterOptions::new, &["oslo"]).await
    }

    /// The same with a control node in each of three regions, and etcd.
    pub(crate) async fn start_with_etcd() -> Self {
        Self::start_as(ClusterOptions::with_etcd, &["bergen", "oslo", "paris"]).await
    }

    async fn start_as(options: fn(&Path) -> ClusterOptions, resolvers: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let line = link::Line::default();
        let laid = line.clone();
        let options = ClusterOptions {
            program: Some(FARSHORE.into()),
            device_ports: true,
            line: Some(Line(std::sync::Arc::new(move |far| laid.lay(far)))),
            ..options(dir.path())
        };
        let cluster = Cluster::start(options).await.unwrap();
        let resolvers = resolvers.iter().map(|region| format!("nameserver {}\n", address(region)));
        let resolv = format!("{}options timeout:1 attempts:5\n", resolvers.collect::<String>());
        std::fs::write(dir.path().join("resolv.conf"), resolv).unwrap();
        let api = Client::of(cluster.apis(), cluster.token(), cluster.ca_file()).unwrap();
        let body = json!({"kind": "hub", "name": HUB, "region": "paris", "spec": {}});
        api.carry_out("items", &body).await.unwrap();
        api.verb(ITEM, "protect", json!({"target": "oslo"})).await.unwrap();
        let policies = api.get(&format!("hubs/{HUB}/policies?keys=true")).await.unwrap();
        let owner = policies.as_array().unwrap().iter().find(|policy| policy["name"] == POLICY).unwrap();
        let key = owner["primary"].as_str().unwrap().to_owned();
        let ca = std::fs::read(dir.path().join("devices-ca.pem")).unwrap();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
            // A region that is stopped holds a question for ever.
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        is_named(&dir.path().join("resolv.conf")).await;
        Self { cluster, api, http, key, line, dir }
    }

    /// What devices must believe.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("devices-ca.pem")
    }

    /// How programs find names: through the regions.
    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.dir.path().join("resolv.conf")
    }

    /// A region's directory.
    pub(crate) fn data(&self) -> &Path {
        self.dir.path()
    }

    /// What a back end connects with.
    pub(crate) fn service(&self) -> String {
        format!("HostName={HOST};SharedAccessKeyName={POLICY};SharedAccessKey={}", self.key)
    }

    /// The API that official service SDKs use, in a region.
    pub(crate) fn rest(&self, region: &str) -> Rest {
        Rest { http: self.http.clone(), base: format!("https://{}", address(region)), key: self.key.clone() }
    }

    /// The same in the region that is active.
    pub(crate) async fn active(&self) -> Rest {
        let item = self.api.get(&format!("items/{ITEM}")).await.unwrap();
        self.rest(item["source"].as_str().unwrap())
    }

    /// Paris is lost, says the operator.
    pub(crate) async fn fail_over(&self) {
        self.api.verb(ITEM, "failover", json!({"source_is_down": true})).await.unwrap();
        self.is_in("oslo", "FailedOver").await;
        self.api.verb(ITEM, "commit", Value::Null).await.unwrap();
    }

    /// A planned failover: nothing is lost.
    pub(crate) async fn move_to_oslo(&self) {
        self.api.verb(ITEM, "failover", json!({"planned": true})).await.unwrap();
        self.api.wait_for(ITEM, "oslo as the active region", |item| item["source"] == "oslo").await.unwrap();
    }

    /// Paris takes part again, and then everything goes home.
    pub(crate) async fn bring_home(&self) {
        self.api.verb(ITEM, "reprotect", Value::Null).await.unwrap();
        self.is_in("oslo", "Protected").await;
        self.api.verb(ITEM, "failback", Value::Null).await.unwrap();
        self.is_in("paris", "FailedOver").await;
        self.api.verb(ITEM, "commit", Value::Null).await.unwrap();
        self.api.verb(ITEM, "reprotect", Value::Null).await.unwrap();
        self.is_in("paris", "Protected").await;
    }

    /// Waits until it is on record.
    pub(crate) async fn is_in(&self, source: &str, phase: &str) {
        let holds = |item: &Value| item["source"] == source && item["phase"] == phase;
        self.api.wait_for(ITEM, &format!("{phase} in {source}"), holds).await.unwrap();
    }

    /// The line between paris and oslo.
    pub(crate) fn line(&self) -> &link::Line {
        &self.line
    }

    /// Registers a device, or a module of one: `device/module`; what it connects with.
    pub(crate) async fn device(&self, id: &str) -> String {
        let made = self.active().await.put_device(id, &json!({})).await;
        let key = made["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap();
        let id = id.replacen('/', ";ModuleId=", 1);
        format!("HostName={HOST};DeviceId={id};SharedAccessKey={key}")
    }

    /// `farshore`, as the operator runs it: what it prints as JSON, and must have done.
    pub(crate) async fn farshore(&self, words: &str) -> Value {
        self.try_farshore(words).await.unwrap()
    }

    /// The same; or what it says on stderr.
    pub(crate) async fn try_farshore(&self, words: &str) -> Result<Value, String> {
        let mut command = tokio::process::Command::new(FARSHORE);
        command.args(words.split_whitespace()).args(["--yes", "--output", "json"]);
        command.env("FARSHORE_DATA", self.dir.path()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(format!("farshore {words}: {}: {error}", output.status)),
        }
    }
}

/// Where a device, or `device/module`, is among devices and twins.
fn path_of(id: &str) -> String {
    id.replacen('/', "/modules/", 1)
}

/// The REST API of a hub in one region.
#[derive(Clone)]
pub(crate) struct Rest {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Rest {
    /// A question as the service SDKs ask it; status, headers and body of the answer.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Asked {
        let token = Token::make(HOST, &self.key, Some(POLICY), in_an_hour()).unwrap();
        let mut request = self.http.request(method, format!("{}/{path}", self.base));
        request = request.header("authorization", token);
        if let Some(body) = body {
            request = request.header("if-match", "*").json(body);
        }
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let cursor = answer.headers().get("x-farshore-cursor").map(|it| it.to_str().unwrap().to_owned());
        let status = answer.status();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        Ok(Answer { status, cursor, text })
    }

    async fn must(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let path = with_version(path);
        let answer = self.ask(method.clone(), &path, body).await.unwrap();
        assert!(answer.status.is_success(), "{method} {path}: {} {}", answer.status, answer.text);
        if answer.text.is_empty() { Value::Null } else { serde_json::from_str(&answer.text).unwrap() }
    }

    /// A device as it is registered; `None`: it is not.
    pub(crate) async fn find_device(&self, id: &str) -> Option<Value> {
        let answer =
            self.ask(Method::GET, &with_version(&format!("devices/{}", path_of(id))), None).await.ok()?;
        answer.status.is_success().then(|| serde_json::from_str(&answer.text).unwrap())
    }

    /// Registers a device, or changes it.
    pub(crate) async fn put_device(&self, id: &str, change: &Value) -> Value {
        let new = || match id.split_once('/') {
            Some((device, module)) => json!({"deviceId": device, "moduleId": module}),
            None => json!({"deviceId": id}),
        };
        let mut body = self.find_device(id).await.unwrap_or_else(new);
        let is_new = body["etag"].is_null();
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let path = with_version(&format!("devices/{}", path_of(id)));
        let token = Token::make(HOST, &self.key, Some(POLICY), in_an_hour()).unwrap();
        let mut request = self.http.put(format!("{}/{path}", self.base)).header("authorization", token);
        if !is_new {
            request = request.header("if-match", "\"*\"");
        }
        let answer = request.json(&body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "PUT {path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// A twin.
    pub(crate) async fn twin(&self, id: &str) -> Value {
        self.must(Method::GET, &format!("twins/{}", path_of(id)), None).await
    }

    /// Changes what a device is to be like.
    pub(crate) async fn desire(&self, id: &str, desired: &Value) {
        let body = json!({"properties": {"desired": desired}});
        self.must(Method::PATCH, &format!("twins/{}", path_of(id)), Some(&body)).await;
    }

    /// Calls a method; the device's answer.
    pub(crate) async fn call(&self, id: &str, name: &str, payload: &Value) -> Value {
        let body = json!({"methodName": name, "payload": payload, "responseTimeoutInSeconds": 60,
            "connectTimeoutInSeconds": 60});
        let path = with_version(&format!("twins/{}/methods", path_of(id)));
        let answer = until(&format!("an answer of {id} to {name}"), async || {
            // Not connected yet, or on its way to another region: asked again, as an application would.
            let answer = self.ask(Method::POST, &path, Some(&body)).await.ok()?;
            (answer.status == StatusCode::OK).then_some(answer)
        })
        .await;
        serde_json::from_str(&answer.text).unwrap()
    }

    /// Sends a message to a device.
    pub(crate) async fn send(&self, id: &str, body: &Value) {
        self.must(Method::POST, &format!("devices/{id}/messages/devicebound"), Some(body)).await;
    }
}

/// What a region answers; or why it does not.
pub(crate) type Asked = Result<Answer, String>;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Where the reader of events is after it.
    pub(crate) cursor: Option<String>,
    pub(crate) text: String,
}

fn with_version(path: &str) -> String {
    format!("{path}?api-version=2021-04-12")
}

fn in_an_hour() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Moment(u64::try_from(since.as_micros()).unwrap() + 3_600_000_000)
}
