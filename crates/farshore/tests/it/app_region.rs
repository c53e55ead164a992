//! A region that is really lost: apps that really run, in regions as processes, recovered onto their reserves.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use farshore::demo::client::Client;
use farshore::up::{Cluster, ClusterOptions};
use farshore_core::ids::Region;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_farshore");
/// Nothing here takes as long: only a hang does.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rows that are written before the region is lost.
const ROWS: usize = 20;

/// Three regions: apps in paris, their reserves in oslo, the control plane in bergen.
struct Rig {
    cluster: Cluster,
    api: Client,
    http: reqwest::Client,
    dir: tempfile::TempDir,
}

impl Rig {
    async fn begin() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = ClusterOptions {
            regions: ["paris", "oslo", "bergen"].map(|name| Region::parse(name).unwrap()).into(),
            point_seconds: 1,
            program: Some(PROGRAM.into()),
            ..ClusterOptions::new(dir.path())
        };
        let cluster = Cluster::start(options).await.unwrap();
        let api = Client::new(cluster.api_url(), cluster.token()).unwrap();
        farshore::trust::provider();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { cluster, api, http, dir }
    }

    /// Runs the program against the cluster; what it printed.
    async fn farshore(&self, line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.run(words).await
    }

    async fn run(&self, words: Vec<String>) -> String {
        let data = self.dir.path().to_owned();
        let said = words.join(" ");
        let run = move || {
            let mut command = Command::new("timeout");
            command.arg(PATIENCE.as_secs().to_string()).arg(PROGRAM).args(words).env("FARSHORE_DATA", data);
            command.stdin(Stdio::null()).output().unwrap()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{said}: {}\n{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// An app in paris with its reserve in oslo, that keeps todos.
    async fn app(&self, name: &str, files: &Path) {
        let words = format!("app create {name} --region paris --mode free --secondary oslo --command");
        let words = words.split_whitespace().map(str::to_owned).chain([format!("{PROGRAM} example todo")]);
        self.run(words.collect()).await;
        self.farshore(&format!("app deploy {name} {}", files.display())).await;
    }

    async fn shown(&self, name: &str) -> Value {
        self.api.get(&format!("apps/{name}")).await.unwrap()
    }

    /// A request to the app by its name, wherever that leads now.
    async fn request(&self, name: &str, method: Method, path: &str) -> RequestBuilder {
        let record = self.api.get(&format!("directory/{name}.app")).await.unwrap();
        let endpoints = record["endpoints"].as_array().unwrap();
        let http = endpoints.iter().find(|endpoint| endpoint["name"] == "http").unwrap();
        let uri = format!("{}{path}", http["uri"].as_str().unwrap().trim_end_matches('/'));
        self.http.request(method, uri).header("host", format!("{name}.app.farshore.internal"))
    }

    /// Writes rows; each is acknowledged.
    async fn write(&self, name: &str, rows: usize) {
        for row in 0..rows {
            let row = json!({"id": format!("row-{row}"), "text": "kept"});
            let request = self.request(name, Method::POST, "/todos").await;
            let status = request.json(&row).send().await.unwrap().status();
            assert!(status.is_success(), "{name}: {status}");
        }
    }

    async fn rows(&self, name: &str) -> usize {
        let request = self.request(name, Method::GET, "/todos").await;
        let all: Value = request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
        all.as_array().unwrap().len()
    }

    /// Waits until the reserve's region has everything: the table, and so many rows. What was seen last may be older than they are.
    async fn settled(&self, name: &str, rows: usize) {
        let seq = |item: &Value, region: &str| {
            let regions = item["regions"].as_array().cloned().unwrap_or_default();
            let seen = regions.into_iter().find(|seen| seen["region"] == region).unwrap_or_default();
            seen["observation"]["watermark"]["seq"].as_u64()
        };
        let settled = |item: &Value| {
            let heads = seq(item, "paris").zip(seq(item, "oslo"));
            heads.is_some_and(|(near, far)| near == far && near > rows as u64)
        };
        self.api.wait_for(&format!("app/{name}"), "everything in oslo", settled).await.unwrap();
    }

    async fn lose(&mut self, region: &str) {
        self.cluster.kill_node(region).unwrap();
    }

    /// The migration when it has ended.
    async fn ended(&self, id: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let view = self.api.get(&format!("migrations/{id}")).await.unwrap_or_default();
            if view["ended"] == true {
                return view;
            }
            assert!(Instant::now() < until, "{id} does not end: {view}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What is deployed.
fn files(dir: &Path) {
    std::fs::create_dir_all(dir.join("service/api")).unwrap();
    std::fs::write(dir.join("service/api/hello.js"), "exports.get = () => 'hello';\n").unwrap();
    std::fs::write(dir.join("package.json"), "{\"name\": \"todo\"}\n").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_app_keeps_its_url_keys_and_rows_on_its_reserves_capacity() {
    let mut rig = Rig::begin().await;
    let scripts = tempfile::tempdir().unwrap();
    files(scripts.path());
    rig.app("todo", scripts.path()).await;
    rig.write("todo", ROWS).await;
    let before = rig.shown("todo").await;
    let keys = rig.api.get("apps/todo/keys").await.unwrap();
    rig.settled("todo", ROWS).await;
    rig.lose("paris").await;
    let out = rig.farshore("app migrate todo todo-dr --quiet").await;
    assert!(out.ends_with("info:    Migration complete.\ninfo:    app migrate command OK\n"), "{out}");
    assert_eq!(rig.rows("todo").await, ROWS);
    let row = json!({"id": "on-the-far-shore", "text": "kept"});
    let written = rig.request("todo", Method::POST, "/todos").await.json(&row).send().await.unwrap();
    assert!(written.status().is_success());
    let after = rig.shown("todo").await;
    for same in ["urls", "git_url", "name", "hosts", "settings_count"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!(after["release"]["tree"], before["release"]["tree"]);
    assert_eq!((&after["region"], &after["state"]), (&json!("oslo"), &json!("running")));
    assert_eq!(rig.api.get("apps/todo/keys").await.unwrap(), keys);
    assert!(rig.api.get("items/app/todo-dr").await.is_err(), "the reserve is gone");
    let all = rig.api.get("migrations").await.unwrap();
    let report = &all[0]["report"];
    assert_eq!(
        (&report["scripts_same"], &report["secondary_deleted"]),
        (&json!(true), &json!(true)),
        "{all}"
    );
    assert_eq!(report["pushed_last_is_here"], true, "{report}");
    assert_eq!(report["database"]["reachable"], true, "{report}");
    println!("RTO {}", report["rto_seconds"]);

    // And home again: onto a reserve in the region that was lost, as planned.
    rig.cluster.start_region("paris").await.unwrap();
    let spec = json!({"mode": "free", "database": "none", "reserve_for": "todo"});
    let reserve = json!({"kind": "app", "name": "todo-home", "region": "paris", "spec": spec});
    rig.api.carry_out("items", &reserve).await.unwrap();
    let out = rig.farshore("app recover todo todo-home --yes --force").await;
    assert!(out.ends_with("info:    app recover command OK\n"), "{out}");
    assert_eq!(rig.rows("todo").await, ROWS + 1);
    let home = rig.shown("todo").await;
    assert_eq!((&home["region"], &home["urls"]), (&json!("paris"), &before["urls"]));
    let all = rig.api.get("migrations").await.unwrap();
    let report = &all[1]["report"];
    assert_eq!((&report["planned"], &report["loss_exact"]), (&json!(true), &json!(true)), "{report}");
    assert_eq!(report["loss"]["writes"], 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_on_the_way_goes_on_when_it_is_back() {
    let mut rig = Rig::begin().await;
    let scripts = tempfile::tempdir().unwrap();
    files(scripts.path());
    let deaths = [0, 40, 120, 300, 700].map(Duration::from_millis);
    let name = |number: usize| format!("todo-{number}");
    for number in 0..deaths.len() {
        rig.app(&name(number), scripts.path()).await;
        rig.write(&name(number), 1).await;
        rig.settled(&name(number), 1).await;
    }
    rig.lose("paris").await;
    for (number, death) in deaths.into_iter().enumerate() {
        let name = name(number);
        let body = json!({"secondary": format!("{name}-dr"), "source_is_down": true});
        let until = Instant::now() + PATIENCE;
        let begun = loop {
            // Until the control plane that was started again has looked at all regions.
            match rig.api.post(&format!("apps/{name}/migrate"), &body).await {
                Ok(begun) => break begun,
                Err(error) => assert!(Instant::now() < until, "{name}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        tokio::time::sleep(death).await;
        rig.lose("bergen").await;
        rig.cluster.start_region("bergen").await.unwrap();
        let ended = rig.ended(begun["id"].as_str().unwrap()).await;
        assert_eq!(ended["state"], "completed", "killed after {death:?}: {ended}");
        assert_eq!(rig.rows(&name).await, 1, "killed after {death:?}");
        assert!(rig.api.get(&format!("items/app/{name}-dr")).await.is_err(), "killed after {death:?}");
    }
}
