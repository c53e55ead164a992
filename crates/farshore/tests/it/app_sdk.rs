//! A real azure-mobile-apps back end and its own client through the loss of a region.

use std::os::unix::fs::PermissionsExt as _;

use farshore_app::data::{Position, postgres};
use serde_json::{Value, json};

use crate::app_rig::{HOST, Held, ITEM, Rig, Zumo, until};

/// All that a client does with a table.
async fn use_table(client: &mut Zumo, prefix: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for number in 0..20 {
        let id = format!("{prefix}-{number}");
        client.insert(&id).await;
        rows.push(id);
    }
    let changed = json!({"do": "update", "item": {"id": rows[0], "text": "changed", "complete": true}});
    client.ask(&changed).await.unwrap();
    let seen = client.ask(&json!({"do": "lookup", "id": rows[0]})).await.unwrap();
    assert_eq!((&seen["text"], &seen["complete"]), (&json!("changed"), &json!(true)), "{seen}");
    let deleted = client.ask(&json!({"do": "delete", "id": rows[1]})).await;
    // By an earlier try, whose answer was lost.
    assert!(matches!(deleted, Ok(_) | Err(404)), "{deleted:?}");
    assert_eq!(client.ask(&json!({"do": "lookup", "id": rows[1]})).await, Err(404));
    rows.remove(1);
    rows
}

async fn migrated(rig: &Rig, words: &[&str]) -> String {
    let told = rig.try_farshore(&[&["app", "migrate"], words, &["--quiet"]].concat()).await;
    assert_eq!(told.code, 0, "{}{}", told.out, told.err);
    told.out + &told.err
}

fn missing<'a>(owed: &'a [String], present: &[String]) -> Vec<&'a String> {
    owed.iter().filter(|id| !present.contains(id)).collect()
}

/// The whole story, on either database.
async fn lost_and_recovered(database: &str) {
    let mut rig = Rig::start().await;
    let held = rig.host(json!({"database": database})).await;
    rig.protect("sync").await;
    let mut client = rig.client(&held, &held.application).await;
    let mut owed = use_table(&mut client, "before").await;
    let mut stranger = rig.client(&held, "another").await;
    assert_eq!(stranger.ask(&json!({"do": "read"})).await, Err(401), "a wrong key opens nothing");
    let was = rig.dig(HOST).await;
    let tree = rig.developer().tree(&held).await;
    rig.waits_for_oslo().await;

    rig.cluster.kill("paris").await.unwrap();
    let said = migrated(&rig, &["todo", "todo-dr"]).await;
    assert!(said.contains("info:    Migration complete."), "{said}");

    assert_eq!(rig.held().await, held, "URL, git URL and keys are what they were");
    until("another address of the same name", async || (rig.dig(HOST).await != was).then_some(())).await;
    let present = client.rows().await;
    assert_eq!(missing(&owed, &present), Vec::<&String>::new());
    assert_eq!(client.region().await, "oslo");
    owed.extend(use_table(&mut client, "after").await);
    assert_eq!(missing(&owed, &client.rows().await), Vec::<&String>::new());
    assert_eq!(stranger.ask(&json!({"do": "read"})).await, Err(401));
    let scripts = rig.api.get("apps/todo/scripts/check").await.unwrap();
    assert_eq!((&scripts["tree"], &scripts["same"]), (&json!(tree), &json!(true)), "{scripts}");
    let developer = rig.developer();
    assert_eq!(developer.clone_from(&held, &held.git_url).await, tree);
    let root = held.git_url.trim_end_matches("/todo.git");
    assert_eq!(developer.clone_from(&held, root).await, tree, "the host's root is a remote, too");
    let pushed = developer.push_text(&held, "later.txt", "pushed to the far shore").await;
    assert_eq!(pushed.code, 0, "{pushed:?}");
    let apps = rig.api.get("apps").await.unwrap();
    assert_eq!(apps.as_array().unwrap().len(), 1, "the secondary is gone: {apps}");
    come_home(&mut rig, &mut client, &held, owed).await;
}

async fn come_home(rig: &mut Rig, client: &mut Zumo, held: &Held, owed: Vec<String>) {
    rig.cluster.start_region("paris").await.unwrap();
    rig.farshore(&["commit", ITEM, "--yes"]).await;
    until("paris to answer", async || rig.api.verb(ITEM, "reprotect", Value::Null).await.ok()).await;
    rig.is_in("oslo", "Protected").await;
    rig.api.verb(ITEM, "failback", Value::Null).await.unwrap();
    rig.is_in("paris", "FailedOver").await;
    client.insert("home").await;
    assert_eq!(client.region().await, "paris");
    assert_eq!(missing(&owed, &client.rows().await), Vec::<&String>::new());
    assert_eq!(&rig.held().await, held);
    let tree = rig.developer().tree(held).await;
    assert_eq!(rig.developer().clone_from(held, &held.git_url).await, tree, "what was pushed over there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mobile_app_keeps_its_url_keys_and_rows_when_its_region_is_lost() {
    lost_and_recovered("sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mobile_app_on_postgresql_keeps_its_url_keys_and_rows_when_its_region_is_lost() {
    lost_and_recovered("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_does_not_come_up_leaves_the_last_release_running() {
    let rig = Rig::start().await;
    let held = rig.host(json!({"database": "sqlite"})).await;
    let mut client = rig.client(&held, &held.application).await;
    client.insert("one").await;
    let broken = rig.developer().push_text(&held, "server.js", "throw new Error('out of order');").await;
    assert!(broken.err.contains("remote:") && broken.err.contains("out of order"), "{broken:?}");
    assert_eq!(client.rows().await, ["one"], "the release before goes on");
    let releases = rig.api.get("apps/todo/releases").await.unwrap();
    let states: Vec<&Value> = releases.as_array().unwrap().iter().map(|release| &release["state"]).collect();
    assert!(states.contains(&&json!("live")) && states.contains(&&json!("failed")), "{releases}");
    let mended = rig.developer().push(&held, &["server.js"]).await;
    assert_eq!(mended.code, 0, "{mended:?}");
    client.insert("two").await;
    assert_eq!(client.rows().await, ["one", "two"]);
}

/// The name was looked up long ago, and its answer is kept: the old region's gateway sends on what comes.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ignore_the_ttl_are_sent_on_by_the_region_that_they_know() {
    let rig = Rig::start().await;
    let held = rig.host(json!({"database": "sqlite"})).await;
    rig.protect("sync").await;
    let old = rig.dig(HOST).await.remove(0);
    let mut client = rig.client(&held, &held.application).await;
    client.insert("one").await;
    migrated(&rig, &["todo", "todo-dr", "--force"]).await;
    let url: reqwest::Url = held.url.parse().unwrap();
    let address = format!("{old}:{}", url.port().unwrap()).parse().unwrap();
    farshore::trust::provider();
    let stale = reqwest::Client::builder().no_proxy().resolve(HOST, address).build().unwrap();
    let rows: Value = until("an answer through the old region", async || {
        let asked = stale.get(format!("{}/tables/todoitem", held.url));
        let asked = asked.header("x-zumo-application", &held.application).header("zumo-api-version", "2.0.0");
        asked.send().await.ok()?.error_for_status().ok()?.json().await.ok()
    })
    .await;
    assert_eq!(rows[0]["id"], "one", "{rows}");
}

/// A region that hangs answers nothing for ever: recovery asks it for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_does_not_wait_for_a_region_that_hangs_and_it_comes_back_fenced() {
    let rig = Rig::start().await;
    let held = rig.host(json!({"database": "sqlite"})).await;
    rig.protect("sync").await;
    let mut client = rig.client(&held, &held.application).await;
    client.insert("one").await;
    rig.waits_for_oslo().await;
    let pid = rustix::process::Pid::from_raw(rig.cluster.pid("paris").unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    migrated(&rig, &["todo", "todo-dr"]).await;
    client.insert("two").await;
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    until("paris to be fenced", async || {
        let item = rig.api.get(&format!("items/{ITEM}")).await.ok()?;
        item.to_string().contains("fenced").then_some(())
    })
    .await;
    client.insert("three").await;
    assert_eq!(client.rows().await, ["one", "three", "two"], "one region serves");
    assert_eq!(client.region().await, "oslo");
}

/// The tool's own record must not be in the lost region alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_region_that_is_lost_takes_a_control_node_with_it_and_the_app_is_recovered_all_the_same() {
    let mut rig = Rig::start_with_etcd().await;
    let held = rig.host(json!({"database": "sqlite"})).await;
    rig.protect("sync").await;
    let mut client = rig.client(&held, &held.application).await;
    let owed = use_table(&mut client, "before").await;
    rig.waits_for_oslo().await;
    rig.cluster.kill("paris").await.unwrap();
    migrated(&rig, &["todo", "todo-dr"]).await;
    assert_eq!(missing(&owed, &client.rows().await), Vec::<&String>::new());
    assert_eq!(rig.held().await, held);
}

/// Its database was a server of its own in the region that is lost, and is lost with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_lost_with_its_region_is_replaced_by_one_that_a_backup_makes() {
    let mut rig = Rig::start().await;
    let held = rig.host(json!({"database": "sqlite"})).await;
    let mut client = rig.client(&held, &held.application).await;
    client.insert("in the backup").await;
    rig.protect("async").await;
    rig.farshore(&["app", "backup", "now", "todo"]).await;
    let backups = rig.api.get("apps/todo/backups").await.unwrap();
    assert_eq!((backups.as_array().unwrap().len(), &backups[0]["ok"]), (1, &json!(true)), "{backups}");
    let backup = backups[0]["id"].as_str().unwrap().to_owned();
    let own = tempfile::tempdir().unwrap();
    let options = postgres::Options { shared_buffers_mib: 16, sync_new_files: false, ..Default::default() };
    // Whoever runs the server must get there.
    std::fs::set_permissions(own.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    postgres::create(&own.path().join("server"), &options).await.unwrap();
    let server = postgres::open_live(&own.path().join("server"), Position::default(), options).await.unwrap();
    let url = server.env().into_iter().find(|(name, _)| name == "DATABASE_URL").unwrap().1;
    let file = rig.dir.path().join("url");
    std::fs::write(&file, &url).unwrap();
    let file = file.to_str().unwrap();
    rig.farshore(&["app", "change-database", "todo", "--url-file", file, "--yes"]).await;
    client.insert("in the server only").await;
    assert_eq!(client.rows().await, ["in the server only"]);
    until("the backup in oslo", async || {
        let seen = rig.api.get("items/app/todo/points").await.ok()?;
        seen.to_string().contains(&backup).then_some(())
    })
    .await;

    rig.cluster.kill("paris").await.unwrap();
    server.stop().await.unwrap();
    let said = migrated(&rig, &["todo", "todo-dr"]).await;
    assert!(said.contains("change-database"), "the database is gone, and this says what to do: {said}");
    assert!(!said.contains(&url), "the URL is a secret: {said}");
    assert_eq!(rig.held().await, held);
    rig.farshore(&["app", "change-database", "todo", "--backup", &backup, "--yes"]).await;
    let rows = until("an answer", async || {
        let rows = client.ask(&json!({"do": "read"})).await.ok()?;
        Some(rows[0]["id"].clone())
    })
    .await;
    assert_eq!(rows, "in the backup");
    client.insert("after").await;
    assert_eq!(client.region().await, "oslo");
}
