//! App services over HTTP and on the command line: what is asked of which region, and that no secret goes astray.

use farshore::api::views::{
    AppBackupView, AppBegunView, AppBrief, AppExportView, AppKeysView, AppLogView, AppOperationView,
    AppReleaseView, AppScriptsView, AppSettingsView, AppView, AuditView,
};
use farshore_core::workload::StepError;
use reqwest::Method;
use serde_json::{Value, json};

use crate::access_matrix::{stored, tokens};
use crate::api_bench::{Served, problem};
use crate::cli_verbs::run;
use crate::engine_sim::region;

pub(crate) const APP: &str = "/api/v1/apps/todo";
/// In answers of the region.
const SECRETS: [&str; 4] = ["application-s3cret", "master-s3cret", "deployment-s3cret", "setting-s3cret"];
/// In requests.
const SENT: [&str; 4] = ["sent-s3cret-1", "sent-s3cret-2", "sent-s3cret-3", "sent-s3cret-4"];

pub(crate) fn summary() -> Value {
    json!({
        "name": "todo", "urls": ["http://todo.app.test:8080", "http://todo.example.com:8080"],
        "git_url": "http://todo.scm.test:8080/todo.git", "state": "running", "mode": "basic", "instances": 2,
        "hosts": ["todo.app.test", "todo.example.com"], "require_key": true, "reserve_for": null, "lent_to": null,
        "release": {"number": 3, "commit": "0123456789abcdef", "tree": "fedcba", "by": "ada", "at": "2026-11-21T05:00:00Z"},
        "database": {"engine": "sqlite", "name": "main", "reachable": true, "external": false, "size_bytes": 4096,
            "position": {"commits": 12, "bytes": 9000, "at": 1_795_237_200_000_000_u64},
            "confirmed": {"commits": 10, "bytes": 8000, "at": null}},
        "replication": {"target": "oslo", "state": "streaming"},
        "processes": [{"pid": 4711, "port": 40001, "state": "up", "restarts": 1, "memory_bytes": 1_048_576, "since": null}],
        "capacity": {"mib": 4096, "used_mib": 1024},
        "backups": {"count": 2, "newest_at": "2026-11-21T05:00:00Z", "newest_ok": true},
        "settings_count": 1, "operation": null,
    })
}

/// The app todo in paris, protected to oslo, which answers everything.
pub(crate) async fn app() -> Served {
    let served = Served::new().await;
    let create = json!({"kind": "app", "name": "todo", "region": "paris", "spec": {}});
    assert_eq!(served.run("/api/v1/items", &create).await.state, "succeeded");
    let job = served.run("/api/v1/items/app/todo/protect", &json!({"target": "oslo"})).await;
    assert_eq!(job.state, "succeeded");
    let keys = json!({"application": SECRETS[0], "master": SECRETS[1], "deployment": SECRETS[2],
        "git_url": "http://todo.scm.test:8080/todo.git"});
    let release = |number: u64, state: &str| {
        json!({"number": number, "commit": "0123456789abcdef", "tree": "t",
        "by": "ada", "at": "2026-11-21T05:00:00Z", "message": "first\nmore", "state": state, "why": null})
    };
    let backup = json!({"id": "20261121T050000Z", "at": "2026-11-21T05:00:00Z", "bytes": 4096,
        "verified_at": "2026-11-21T05:00:01Z", "ok": true, "why": "schedule", "region": "paris"});
    for (sort, answer) in [
        ("summary", summary()),
        ("keys", keys.clone()),
        ("regenerate", keys.clone()),
        ("set-keys", keys),
        ("settings", json!({"settings": {"SMTP": SECRETS[3]}})),
        ("set-settings", json!({"settings": {"SMTP": SECRETS[3], "B": "2"}})),
        ("releases", json!({"releases": [release(2, "ready"), release(3, "live")]})),
        ("upload", json!({"received": 2048})),
        ("log", json!({"lines": ["a line", "\u{1b}[31mred"]})),
        ("backups", json!({"backups": [backup]})),
        (
            "databases",
            json!({"databases": [{"name": "main", "engine": "sqlite", "active": true, "fenced": false,
            "why": null, "bytes": 4096}]}),
        ),
        ("scale", summary()),
        ("set-hosts", summary()),
        ("set-certificate", json!({})),
        ("delete-certificate", json!({})),
        (
            "scripts-check",
            json!({"commit": "c", "tree": "t", "same": false,
            "differences": [{"path": "api/a.js", "what": "changed"}]}),
        ),
        ("export", json!({"commit": "c1", "len": 7, "data": "YXJjaGl2ZQ==", "next": null})),
        (
            "operation",
            json!({"id": "op1", "kind": "deploy", "state": "done", "lines": ["it answers"],
            "result": {"release": 3}, "error": null}),
        ),
    ] {
        served.bench.sim.answer(sort, Ok(answer));
    }
    for sort in LONG {
        served.bench.sim.answer(sort, Ok(json!({"operation": "op1"})));
    }
    served
}

/// What takes long.
pub(crate) const LONG: [&str; 7] =
    ["deploy", "rollback", "restart", "backup-now", "backup-verify", "restore", "change-database"];

pub(crate) async fn audited(served: &Served) -> Vec<String> {
    let audit: Vec<AuditView> = served.get("/api/v1/audit?limit=1000").await;
    audit.into_iter().map(|entry| entry.what).collect()
}

#[tokio::test]
async fn secrets_are_shown_only_when_they_are_asked_for_and_stand_in_no_record() {
    let served = app().await;
    for path in ["", "/settings", "/releases", "/backups", "/databases", "/operations/op1"] {
        let shown: Value = served.get(&format!("{APP}{path}")).await;
        for secret in SECRETS {
            assert!(!shown.to_string().contains(secret), "{path}");
        }
    }
    let listed: Value = served.get("/api/v1/apps").await;
    assert!(SECRETS.iter().all(|secret| !listed.to_string().contains(secret)));
    let keys: AppKeysView = served.get(&format!("{APP}/keys")).await;
    assert_eq!((keys.application.as_str(), keys.master.as_str()), (SECRETS[0], SECRETS[1]));
    assert!(!format!("{keys:?}").contains("s3cret"), "it is not logged by accident");
    let settings: AppSettingsView = served.get(&format!("{APP}/settings?values=true")).await;
    assert_eq!(settings.settings["SMTP"].as_deref(), Some(SECRETS[3]));
    let put = |path: &str| served.request(Method::PUT, &format!("{APP}{path}"));
    assert_eq!(put("/keys").json(&json!({"master": SENT[0]})).send().await.unwrap().status(), 200);
    let certificate = json!({"chain": "-----BEGIN CERTIFICATE-----", "key": format!("-----BEGIN PRIVATE KEY-----{}", SENT[1])});
    assert_eq!(put("/certificates/todo.example.com").json(&certificate).send().await.unwrap().status(), 200);
    let set = served.request(Method::PATCH, &format!("{APP}/settings"));
    let set = set.json(&json!({"set": {"SMTP": SENT[2]}, "delete": ["OLD"]})).send().await.unwrap();
    assert!(!set.text().await.unwrap().contains("s3cret"), "who sets it knows it");
    let url = json!({"url": format!("postgres://todo:{}@db/todo", SENT[3])});
    assert_eq!(served.post(&format!("{APP}/change-database"), &url).await.status(), 202);
    let asked = served.bench.sim.questions();
    for secret in SENT {
        assert!(asked.iter().any(|(_, question)| question.to_string().contains(secret)), "{secret} arrives");
    }
    for (key, value) in stored(&served).await {
        let text = String::from_utf8_lossy(&value);
        assert!(!text.contains("s3cret"), "{key} holds a secret");
    }
    let audit = audited(&served).await;
    for line in [
        "asked for the keys of app/todo",
        "asked for the settings of app/todo",
        "asked to give app/todo another master key",
        "asked to set the certificate of todo.example.com for app/todo",
        "asked to set SMTP and delete OLD in the settings of app/todo",
        "asked to give a database on a server of its own to app/todo",
    ] {
        assert_eq!(audit.iter().filter(|what| *what == line).count(), 1, "{line:?} in {audit:?}");
    }
}

#[tokio::test]
async fn readers_see_no_values_and_operators_change_none() {
    let served = app().await;
    let tokens = tokens(&served).await;
    let secret = |role: &str| tokens.iter().find(|(of, _)| of.to_string() == role).unwrap().1.secret.clone();
    let ask = |role: &str, method: Method, path: &str| {
        served.bare(method, &format!("{APP}{path}")).bearer_auth(secret(role)).send()
    };
    assert_eq!(ask("reader", Method::GET, "/settings").await.unwrap().status(), 200);
    assert_eq!(ask("reader", Method::GET, "/settings?values=true").await.unwrap().status(), 403);
    assert_eq!(ask("operator", Method::GET, "/settings?values=true").await.unwrap().status(), 403);
    assert_eq!(ask("operator", Method::GET, "/keys").await.unwrap().status(), 403);
    assert_eq!(ask("operator", Method::POST, "/deploy").await.unwrap().status(), 403);
    assert_eq!(ask("reader", Method::GET, "/log").await.unwrap().status(), 403);
    assert_eq!(ask("operator", Method::POST, "/restart").await.unwrap().status(), 202);
    assert_eq!(ask("contributor", Method::GET, "/keys").await.unwrap().status(), 200);
}

#[tokio::test]
async fn questions_go_to_the_active_region_as_they_are_meant() {
    let served = app().await;
    let paris = |question: Value| (region("paris"), question);
    served.bench.sim.questions();
    let put =
        |path: &str, body: Value| served.request(Method::PUT, &format!("{APP}{path}")).json(&body).send();
    assert_eq!(put("/scale", json!({"mode": "reserved", "instances": 3})).await.unwrap().status(), 200);
    assert_eq!(put("/hosts", json!({"hosts": ["a.example.com"]})).await.unwrap().status(), 200);
    let patch = served.request(Method::PATCH, &format!("{APP}/hosts"));
    let patch =
        patch.json(&json!({"add": ["b.example.com"], "remove": ["c.example.com"]})).send().await.unwrap();
    assert_eq!(
        patch.json::<Value>().await.unwrap(),
        json!({"hosts": ["todo.example.com"]}),
        "as the region says"
    );
    assert_eq!(put("/uploads/u1", json!({"offset": 0, "data": "eA=="})).await.unwrap().status(), 200);
    for (path, body) in [
        ("/deploy", json!({"upload": "u1", "message": "m"})),
        ("/rollback", json!({"to": 2})),
        ("/rollback", json!({})),
        ("/restart", json!({})),
        ("/backups", json!({})),
        ("/backups/20261121T050000Z/verify", json!({})),
        ("/restore", json!({"to": "again"})),
        ("/change-database", json!({"to": "again"})),
        ("/change-database", json!({"to": "again", "force": true})),
    ] {
        let begun = served.post(&format!("{APP}{path}"), &body).await;
        assert_eq!(begun.status(), 202, "{path}");
        assert_eq!(begun.headers()["location"], "/api/v1/apps/todo/operations/op1");
        assert_eq!(begun.json::<AppBegunView>().await.unwrap().operation, "op1");
    }
    let _: AppOperationView = served.get(&format!("{APP}/operations/op1?after=7")).await;
    let _: AppLogView = served.get(&format!("{APP}/log?lines=5")).await;
    let _: AppExportView = served.get(&format!("{APP}/scripts?offset=9&commit=c1")).await;
    let checked: AppScriptsView = served.get(&format!("{APP}/scripts/check")).await;
    assert_eq!(checked.differences[0].path, "api/a.js");
    assert_eq!(
        served.bench.sim.questions(),
        [
            paris(json!({"ask": "scale", "mode": "standard", "instances": 3})),
            paris(json!({"ask": "set-hosts", "hosts": ["a.example.com"]})),
            paris(json!({"ask": "set-hosts", "add": ["b.example.com"], "remove": ["c.example.com"]})),
            paris(json!({"ask": "upload", "id": "u1", "offset": 0, "data": "eA=="})),
            paris(json!({"ask": "deploy", "upload": "u1", "message": "m", "by": "bootstrap"})),
            paris(json!({"ask": "releases"})),
            paris(json!({"ask": "rollback", "to": 2})),
            paris(json!({"ask": "releases"})),
            paris(json!({"ask": "rollback"})),
            paris(json!({"ask": "restart"})),
            paris(json!({"ask": "backup-now"})),
            paris(json!({"ask": "backups"})),
            paris(json!({"ask": "backup-verify", "id": "20261121T050000Z"})),
            paris(json!({"ask": "backups"})),
            paris(json!({"ask": "restore", "to": "again"})),
            paris(json!({"ask": "change-database", "to": "again"})),
            paris(json!({"ask": "change-database", "to": "again", "force": true})),
            paris(json!({"ask": "operation", "id": "op1", "after": 7})),
            paris(json!({"ask": "log", "lines": 5})),
            paris(json!({"ask": "export", "what": "scripts", "offset": 9, "commit": "c1"})),
            paris(json!({"ask": "scripts-check"})),
        ]
    );
}

/// Method, path, body, and what is said of it.
type Mistake = (Method, &'static str, Value, &'static str);

fn likely_mistakes() -> Vec<Mistake> {
    let of_running = vec![
        (Method::GET, "/log?lines=0", json!({}), "lines: 0: give 1 to 5000"),
        (Method::GET, "/operations/..%2Fa", json!({}), "operation: it has 1 to 64 letters"),
        (Method::GET, "/settings?value=true", json!({}), "unknown field `value`"),
        (Method::GET, "/scripts?offset=9", json!({}), "offset: give commit, too"),
        (Method::GET, "/scripts?commit=..%2Fa", json!({}), "commit: it has 1 to 64 letters"),
        (Method::PUT, "/scale", json!({}), "give mode, instances or both"),
        (Method::PUT, "/scale", json!({"mode": "premium"}), "mode: \"premium\" is no mode"),
        (Method::PUT, "/scale", json!({"mode": "basic", "instances": 7}), "of the mode basic has 1 to 6"),
        (Method::PUT, "/scale", json!({"instances": 0}), "instances: 0: an app has 1 to 25"),
        (
            Method::PUT,
            "/hosts",
            json!({"hosts": ["https://a.example"]}),
            "hosts[0]: \"https://a.example\" is no host",
        ),
        (Method::PUT, "/hosts", json!({"hosts": vec!["a.example"; 17]}), "hosts: an app has 16 at most"),
        (Method::PATCH, "/hosts", json!({}), "give add, remove or both"),
        (Method::PATCH, "/hosts", json!({"add": ["A"]}), "add[0]: \"A\" is no host name"),
        (
            Method::PATCH,
            "/hosts",
            json!({"add": ["a.example"], "remove": ["a.example"]}),
            "remove: a.example is in add, too",
        ),
        (Method::PUT, "/keys", json!({}), "give application, master or both"),
        (Method::PUT, "/keys", json!({"master": "short"}), "master: a key has 8 to 128"),
        (Method::POST, "/keys/regenerate", json!({"type": "primary"}), "type: unknown variant `primary`"),
        (Method::PATCH, "/settings", json!({}), "give set or delete"),
        (Method::PATCH, "/settings", json!({"set": {"1A": ""}}), "settings: \"1A\" is no name"),
        (Method::PATCH, "/settings", json!({"set": {"A": ""}, "delete": ["A"]}), "delete: A is in set, too"),
        (Method::PATCH, "/settings", json!({"set": {"A": 1}}), "set.A: invalid type"),
    ];
    of_running.into_iter().chain(mistakes_with_files()).collect()
}

fn mistakes_with_files() -> Vec<Mistake> {
    let pem = "-----BEGIN CERTIFICATE-----";
    vec![
        (Method::PUT, "/uploads/..", json!({"offset": 0, "data": "eA=="}), "there is no such route"),
        (Method::PUT, "/uploads/.a", json!({"offset": 0, "data": "eA=="}), "upload: it has 1 to 64"),
        (Method::PUT, "/uploads/u", json!({"offset": 0, "data": "?"}), "data: it is no base64"),
        (Method::PUT, "/uploads/u", json!({"offset": 0, "data": ""}), "data: a piece has 1 to"),
        (Method::PUT, "/uploads/u", json!({"offset": 256 << 20, "data": "eA=="}), "at most 256 MiB"),
        (Method::POST, "/deploy", json!({}), "missing field `upload`"),
        (
            Method::POST,
            "/deploy",
            json!({"upload": "u", "message": "x".repeat(1001)}),
            "message: at most 1000",
        ),
        (Method::POST, "/restore", json!({}), "missing field `to`"),
        (Method::POST, "/restore", json!({"to": "../main"}), "to: it has 1 to 64"),
        (Method::POST, "/backups/a%2Fb/verify", json!({}), "backup: it has 1 to 64"),
        (Method::POST, "/change-database", json!({}), "give one of to, backup and url"),
        (
            Method::POST,
            "/change-database",
            json!({"to": "a", "backup": "b"}),
            "give one of to, backup and url",
        ),
        (Method::POST, "/change-database", json!({"backup": "b", "force": true}), "force: it goes with to"),
        (Method::POST, "/change-database", json!({"url": "mysql://a"}), "url: write postgres://"),
        (Method::PUT, "/certificates/A", json!({"chain": pem, "key": ""}), "host: \"A\" is no host name"),
        (
            Method::PUT,
            "/certificates/a.example",
            json!({"chain": "", "key": ""}),
            "chain: it holds no certificate",
        ),
        (
            Method::PUT,
            "/certificates/a.example",
            json!({"chain": pem, "key": ""}),
            "key: it holds no private key",
        ),
    ]
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anybody_is_asked_and_changes_nothing() {
    let served = app().await;
    served.bench.sim.questions();
    let before = audited(&served).await;
    for (method, path, body, why) in likely_mistakes() {
        let request = served.request(method.clone(), &format!("{APP}{path}"));
        let request = if method == Method::GET { request } else { request.json(&body) };
        let answer = request.send().await.unwrap();
        let refused = problem(answer).await;
        assert!([400, 404].contains(&refused.status), "{path}: {refused:?}");
        assert!(refused.detail.contains(why), "{path}: {}", refused.detail);
    }
    assert!(served.bench.sim.questions().is_empty());
    assert_eq!(audited(&served).await, before);
    let long = json!({"offset": 0, "data": "x".repeat(2 << 20)});
    let request = served.request(Method::PUT, &format!("{APP}/uploads/u")).json(&long);
    assert_eq!(request.send().await.unwrap().status(), 413);
    assert_eq!(
        served.post(&format!("{APP}/deploy"), &json!({"message": "x".repeat(70_000)})).await.status(),
        413
    );
}

#[tokio::test]
async fn a_lost_answer_begins_nothing_twice() {
    let served = app().await;
    let post = |path: &str, body: Value, key: &str| {
        let request = served.request(Method::POST, &format!("{APP}{path}")).header("idempotency-key", key);
        request.json(&body).send()
    };
    served.bench.sim.questions();
    for _ in 0..2 {
        let begun = post("/restart", json!({}), "k1").await.unwrap();
        assert_eq!(begun.headers()["location"], "/api/v1/apps/todo/operations/op1");
    }
    assert_eq!(served.bench.sim.questions().len(), 1);
    assert_eq!(problem(post("/backups", json!({}), "k1").await.unwrap()).await.code(), "key-reused");
    for sort in ["regenerate", "keys"] {
        let done = post("/keys/regenerate", json!({"type": "master"}), "k2").await.unwrap();
        assert_eq!(done.status(), 200);
        assert_eq!(served.bench.sim.questions()[0].1["ask"], sort);
    }
}

#[tokio::test]
async fn what_both_regions_know_is_asked_of_the_one_that_answers() {
    let served = app().await;
    let view: AppView = served.get(APP).await;
    assert_eq!(
        (view.region.as_str(), view.hosts.as_slice()),
        ("paris", &["todo.example.com".to_owned()][..])
    );
    served.bench.sim.set_down("paris", true);
    let view: AppView = served.get(APP).await;
    assert_eq!((view.name.as_str(), view.region.as_str()), ("todo", "oslo"));
    let _: AppKeysView = served.get(&format!("{APP}/keys")).await;
    let releases: Vec<AppReleaseView> = served.get(&format!("{APP}/releases")).await;
    assert_eq!(releases.iter().map(|release| release.number).collect::<Vec<_>>(), [3, 2]);
    let backups: Vec<AppBackupView> = served.get(&format!("{APP}/backups")).await;
    assert_eq!(backups.len(), 1);
    let apps: Vec<AppBrief> = served.get("/api/v1/apps").await;
    assert_eq!((apps[0].name.as_str(), apps[0].state.as_str()), ("todo", "unknown"));
    for path in ["/log", "/scripts/check", "/operations/op1"] {
        let silent = served.request(Method::GET, &format!("{APP}{path}")).send().await.unwrap();
        assert_eq!(silent.status(), 503, "{path}");
    }
    served.bench.sim.set_down("paris", false);
    served.bench.sim.answer("deploy", Err(StepError::Fatal { what: "there is no upload u".to_owned() }));
    let refused = problem(served.post(&format!("{APP}/deploy"), &json!({"upload": "u"})).await).await;
    assert_eq!((refused.status, refused.detail.as_str()), (409, "there is no upload u"));
    let none = served.request(Method::GET, "/api/v1/apps/none").send().await.unwrap();
    assert_eq!(none.status(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_and_its_reserve_are_made_with_one_command() {
    let served = Served::new().await;
    served.bench.sim.answer("summary", Ok(summary()));
    let line = "app create todo --region paris --command ./run --mode standard --instances 2 --host a.example.com \
                --require-key --database postgres --secondary oslo";
    let (code, out, err) = run(&served, line).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with(
            "app/todo is in paris at http://todo.app.test:8080\nreplicated to oslo, where app/todo-dr"
        ),
        "{out}"
    );
    let item: Value = served.get("/api/v1/items/app/todo").await;
    assert_eq!((item["phase"].as_str(), item["target"].as_str()), (Some("Protected"), Some("oslo")));
    let reserve: Value = served.get("/api/v1/items/app/todo-dr").await;
    assert_eq!((reserve["phase"].as_str(), reserve["source"].as_str()), (Some("Unprotected"), Some("oslo")));
    let (code, out, err) =
        run(&served, "app reserve todo-2 --region bergen --mode standard --for todo").await;
    assert_eq!((code, err.contains("bergen")), (3, true), "{out}{err}");
    let (code, _, err) = run(&served, "app reserve todo-2 --region paris --mode standard --for todo").await;
    assert_eq!((code, err.contains("would be lost with it")), (3, true), "{err}");
    let (code, _, err) = run(&served, "app create b --region paris --command x --secondary paris").await;
    assert_eq!((code, err.contains("name another one")), (2, true), "{err}");
    let (code, _, err) = run(&served, "app create todo --region paris --command x").await;
    assert_eq!(code, 3, "{err}");
    let (code, out, err) = run(&served, "app create alone --region paris --command x").await;
    assert_eq!((code, out.lines().count()), (0, 2), "{err}");
    let (code, out, err) = run(&served, "app reserve spare --region oslo --mode free --for alone").await;
    assert_eq!((code, out.contains("app/alone is replicated to oslo")), (0, true), "{out}{err}");
    let small = "warning: the reserve spare is 1 x free, but app/alone is 2 x basic: run farshore app scale spare --mode basic --instances 2\n";
    assert!(err.ends_with(small), "{err}");
    let (code, out, err) =
        run(&served, "app reserve spare-2 --region oslo --mode reserved --instances 1 --for alone").await;
    assert_eq!((code, err.contains("warning")), (0, false), "{err}");
    assert!(
        out.starts_with("app/spare-2 keeps standard capacity for 1 process of app/alone in oslo\n"),
        "{out}"
    );
    let item: Value = served.get("/api/v1/items/app/alone").await;
    assert_eq!(item["target"].as_str(), Some("oslo"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_apps_have_is_on_the_command_line() {
    let served = app().await;
    let path = |name: &str| served.dir.path().join(name).display().to_string();
    let (file, out_file) = (path("value"), path("out"));
    std::fs::write(&file, "postgres://todo:s3cret@db/todo\n").unwrap();
    for (line, expected) in [
        ("app list", "todo  basic  paris   running  3        http://todo.app.test:8080"),
        ("app show todo", "2 commits (1000 B) behind"),
        ("app releases todo", "3        live   0123456789"),
        ("app rollback todo --to 2", "release 3 is live (0123456789)"),
        ("app restart todo", "app/todo was started again"),
        ("app scale todo --instances 2", "app/todo is basic with 2 processes; 1024 of 4096 MiB"),
        ("app log todo --lines 2", "a line\n\\u{1b}[31mred"),
        ("app key show todo", SECRETS[1]),
        ("app key regenerate todo deployment --yes", SECRETS[2]),
        ("app key set todo --master 12345678 --yes", SECRETS[1]),
        ("app setting list todo", "SMTP"),
        ("app setting list todo --values", "SMTP=setting-s3cret"),
        (&format!("app setting set todo B=2 SMTP=@{file}"), "SMTP"),
        ("app setting delete todo OLD", "SMTP"),
        ("app host add todo b.example.com", "app/todo is known as todo.example.com, too"),
        ("app host remove todo todo.example.com --yes", "app/todo is known as todo.example.com, too"),
        ("app certificate remove todo todo.example.com --yes", "the gateway's own"),
        ("app backup now todo", "a backup was taken"),
        ("app backup list todo", "20261121T050000Z  2026-11-21 05:00:00Z  4 KiB  whole"),
        ("app backup verify todo 20261121T050000Z", "is whole"),
        ("app restore todo --to again", "next: farshore app change-database todo --to again"),
        ("app database todo", "main      sqlite  in use"),
        ("app change-database todo --to again --yes", "uses its new database"),
        ("app change-database todo --to main --force --yes", "uses its new database"),
        (&format!("app change-database todo --url-file {file} --yes"), "uses its new database"),
        (&format!("app export todo --scripts {out_file} --settings {out_file}.json"), "1 settings are in"),
    ] {
        let (code, out, err) = run(&served, line).await;
        assert_eq!(code, 0, "{line}: {err}");
        assert!(out.contains(expected), "{line}: {out}");
    }
    // No list that somebody else may have changed meanwhile is written back.
    let asked = served.bench.sim.questions();
    let names = asked.into_iter().map(|(_, question)| question).filter(|asked| asked["ask"] == "set-hosts");
    assert_eq!(
        names.collect::<Vec<_>>(),
        [
            json!({"ask": "set-hosts", "add": ["b.example.com"]}),
            json!({"ask": "set-hosts", "remove": ["todo.example.com"]}),
        ]
    );
    assert_eq!(std::fs::read(&out_file).unwrap(), b"archive");
    assert!(std::fs::read_to_string(format!("{out_file}.json")).unwrap().contains("s3cret"));
    for (line, code, why) in [
        ("app delete todo", 2, "add --yes"),
        ("app key regenerate todo master", 2, "All users are logged out"),
        ("app change-database todo --to a", 2, "add --yes"),
        ("app change-database todo --url postgres://a:b@c/d", 2, "--url-file"),
        ("app change-database todo --url-file /nowhere --yes", 2, "cannot read /nowhere"),
        ("app change-database todo", 2, "--to <DATABASE>"),
        ("app change-database todo --backup a --force --yes", 2, "cannot be used with"),
        ("app setting set todo NOVALUE", 2, "write NAME=VALUE"),
        ("app deploy todo /nowhere", 2, "/nowhere is no directory"),
        ("app deploy none /nowhere", 3, "there is app/todo"),
        ("app host remove todo nobody.example --yes", 3, "it is known as todo.example.com"),
        ("app scale todo", 2, "--mode <MODE>"),
        ("app scale todo --instances 99", 2, "has 1 to 25"),
        ("app create a --region paris", 2, "--command <COMMAND>"),
        ("app certificate set todo a.example --chain /nowhere --key /nowhere", 2, "--chain: cannot read"),
    ] {
        let (status, out, err) = run(&served, line).await;
        assert_eq!(status, code, "{line}: {out}{err}");
        assert!(err.contains(why), "{line}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_did_not_come_whole_is_not_written() {
    let served = app().await;
    let file = served.dir.path().join("out");
    let line = format!("app export todo --scripts {}", file.display());
    for (answer, why) in [
        (json!({"commit": "c1", "len": 9, "data": "YXJjaGl2ZQ==", "next": null}), "7 of the 9 bytes"),
        (json!({"commit": "c1", "len": 9, "data": "YXJjaGl2ZQ==", "next": 8}), "make no archive"),
        (json!({"commit": "c1", "len": 9, "data": "", "next": 0}), "make no archive"),
    ] {
        served.bench.sim.answer("export", Ok(answer));
        let (code, out, err) = run(&served, &line).await;
        assert!(code != 0 && err.contains(why), "{out}{err}");
        assert!(!file.exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_deployed_and_its_lines_are_told() {
    let served = app().await;
    let dir = served.dir.path().join("scripts");
    std::fs::create_dir_all(dir.join(".git")).unwrap();
    std::fs::write(dir.join("server.js"), "x").unwrap();
    std::fs::write(dir.join(".git/config"), "x").unwrap();
    served.bench.sim.questions();
    let line = format!("app deploy todo {} --message first", dir.display());
    let (code, out, err) = run(&served, &line).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("sending 1 files, 2 KiB\nit answers\n"), "{err}");
    assert!(out.contains("release 3 is live (0123456789)\nhttp://todo.app.test:8080"), "{out}");
    let asked = served.bench.sim.questions();
    let upload = asked.iter().find(|(_, question)| question["ask"] == "upload").unwrap();
    let deploy = asked.iter().find(|(_, question)| question["ask"] == "deploy").unwrap();
    assert_eq!(upload.1["id"], deploy.1["upload"]);
    assert_eq!(deploy.1["message"], "first");
    let failed = json!({"id": "op1", "kind": "deploy", "state": "failed", "lines": ["starting"],
        "error": "it ended at once with status 1"});
    served.bench.sim.answer("operation", Ok(failed));
    let (code, out, err) = run(&served, &line).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(
        err.ends_with("starting\nerror: deploy of app/todo failed: it ended at once with status 1\n"),
        "{err}"
    );
}
