//! What an operator asks.

use base64::Engine as _;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_keys_reach_the_app_and_its_gateway() {
    let mut guarded = spec();
    guarded["require_key"] = json!(true);
    let paris = Place::open("paris", &Arc::default()).await;
    paris.act(1, Action::Create { spec: guarded }).await.unwrap();
    assert!(paris.push(&[("release.txt", "one")]).await.status.success());
    assert_eq!((paris.status("/status").await, paris.status("/rows").await), (200, 401));
    let set = json!({ "ask": "set-settings", "set": { "COLOUR": "red" } });
    paris.ask(set).await.unwrap();
    let keys = paris.ask(json!({ "ask": "regenerate", "type": "application" })).await.unwrap();
    let key = keys["application"].as_str().unwrap();
    let with_key = async |path: &str| -> Value {
        let asked = paris.request("GET", path).header("x-zumo-application", key).send().await.unwrap();
        assert_eq!(asked.status(), 200, "{path}");
        asked.json().await.unwrap()
    };
    assert_eq!(with_key("/env/COLOUR").await, "red");
    assert_eq!(with_key("/env/MS_ApplicationKey").await, key);
    let refused = paris.ask(json!({ "ask": "set-settings", "set": { "PORT": "1" } })).await.unwrap_err();
    assert!(refused.to_string().contains("set by Farshore"), "{refused}");
    paris.ask(json!({ "ask": "set-settings", "delete": ["COLOUR"] })).await.unwrap();
    assert_eq!(with_key("/env/COLOUR").await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_deployed_without_git() {
    let paris = Place::open("paris", &Arc::default()).await;
    paris.act(1, Action::Create { spec: spec() }).await.unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in [("server.py", SERVER), ("release.txt", "from a directory")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let bytes = archive.into_inner().unwrap();
    let (first, second) = bytes.split_at(1000);
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let sent = json!({ "ask": "upload", "id": "one", "offset": 0, "data": encode(first) });
    assert_eq!(paris.ask(sent).await.unwrap()["received"], 1000);
    let gap = json!({ "ask": "upload", "id": "one", "offset": 2000, "data": encode(second) });
    assert_eq!(paris.ask(gap).await.unwrap()["received"], 1000);
    let sent = json!({ "ask": "upload", "id": "one", "offset": 1000, "data": encode(second) });
    assert_eq!(paris.ask(sent).await.unwrap()["received"], bytes.len());
    let done = paris.done(json!({ "ask": "deploy", "upload": "one", "message": "m", "by": "me" })).await;
    assert_eq!((&done["state"], &done["result"]["release"]), (&json!("done"), &json!(1)), "{done:#}");
    assert_eq!(paris.get("/release").await, "from a directory");
    let scaled = paris.ask(json!({ "ask": "scale", "mode": "basic", "instances": 2 })).await.unwrap();
    assert_eq!(scaled["instances"], 2);
    let give_up = Instant::now() + GIVE_UP;
    loop {
        let summary = paris.ask(json!({ "ask": "summary" })).await.unwrap();
        let processes = summary["processes"].as_array().unwrap();
        if processes.iter().filter(|process| process["state"] == "up").count() == 2 {
            break;
        }
        assert!(Instant::now() < give_up, "{summary:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = paris.ask(json!({ "ask": "log", "lines": 10 })).await.unwrap();
    assert!(log["lines"].to_string().contains("listening"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_points_and_a_restore_never_overwrites() {
    let paris = served().await;
    paris.add("row 1").await;
    let taken = paris.done(json!({ "ask": "backup-now" })).await;
    assert_eq!((&taken["state"], &taken["result"]["ok"]), (&json!("done"), &json!(true)), "{taken:#}");
    let id = taken["result"]["id"].as_str().unwrap().to_owned();
    paris.add("row 2").await;
    let restored = paris.done(json!({ "ask": "restore", "backup": id, "to": "older" })).await;
    assert_eq!(restored["state"], "done", "{restored:#}");
    assert_eq!(paris.get("/rows").await, json!(rows(1, 2)), "the one in use is not touched");
    let again = paris.ask(json!({ "ask": "restore", "to": "older" })).await.unwrap_err();
    assert!(again.to_string().contains("never overwrites"), "{again}");
    let changed = paris.done(json!({ "ask": "change-database", "to": "older" })).await;
    assert_eq!(changed["state"], "done", "{changed:#}");
    assert_eq!(paris.get("/rows").await, json!(rows(1, 1)));
    let databases = paris.ask(json!({ "ask": "databases" })).await.unwrap();
    let all = databases["databases"].as_array().unwrap();
    let one = |name: &str| all.iter().find(|one| one["name"] == name).unwrap().clone();
    assert_eq!((&one("older")["active"], &one("main-e1")["fenced"]), (&json!(true), &json!(true)));
    // The other region follows the new database, and has the backup, too.
    paris.add("row 2 again").await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    oslo.until("the backup is there", |seen| seen.points.iter().any(|point| point.id == id)).await;
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert_eq!(oslo.get("/rows").await, json!(["row 1", "row 2 again"]));
    oslo.act(2, Action::ChangePoint { point: PointChoice::Id(id) }).await.unwrap();
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 1)));
    oslo.act(2, Action::Commit).await.unwrap();
    assert!(oslo.look().await.points.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_restore_left_is_no_database_and_goes_when_the_node_starts() {
    let paris = served().await;
    let half = paris.item().database_dir(".older.partial");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("app.db"), "half").unwrap();
    assert_eq!(paris.item().databases(), ["main-e1"]);
    let paris = paris.restart().await;
    assert!(!half.exists());
    assert_eq!(paris.item().databases(), ["main-e1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_never_changed_to() {
    let paris = served().await;
    paris.add("row 1").await;
    paris.done(json!({ "ask": "backup-now" })).await;
    let restored = paris.done(json!({ "ask": "restore", "to": "bad" })).await;
    assert_eq!(restored["state"], "done", "{restored:#}");
    paris.add("row 2").await;
    let file = std::fs::File::options().write(true).open(paris.item().database_dir("bad").join("app.db"));
    std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), &[0xA5; 4096], 4096).unwrap();
    let changed = paris.done(json!({ "ask": "change-database", "to": "bad" })).await;
    let why = changed["error"].as_str().unwrap_or_default();
    assert!(changed["state"] == "failed" && why.contains("nothing was changed"), "{changed:#}");
    let databases = paris.ask(json!({ "ask": "databases" })).await.unwrap();
    for one in databases["databases"].as_array().unwrap() {
        assert_eq!((&one["active"], &one["fenced"]), (&json!(one["name"] == "main-e1"), &json!(false)));
    }
    assert_eq!(paris.get("/rows").await, json!(rows(1, 2)));
}

/// The databases that are told of as given up.
async fn given_up(place: &Place) -> Vec<String> {
    let told = place.ask(json!({ "ask": "databases" })).await.unwrap();
    let all = told["databases"].as_array().unwrap().iter();
    all.filter(|one| one["fenced"] == true).map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_where_nobody_answers_is_refused_before_anything_is_changed() {
    let paris = served().await;
    paris.add("row 1").await;
    let url = "postgres://me:s3cret@127.0.0.1:1/rows";
    let refused = paris.ask(json!({ "ask": "change-database", "url": url })).await.unwrap_err().to_string();
    assert!(refused.contains("127.0.0.1:1") && refused.contains("nothing was changed"), "{refused}");
    assert!(!refused.contains("s3cret"), "{refused}");
    assert_eq!(paris.get("/rows").await, json!(rows(1, 1)));
    assert!(given_up(&paris).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_does_not_come_up_with_another_database_goes_back_to_its_own() {
    let mut choosy = spec();
    choosy["command"] =
        json!("case $DATABASE_URL in postgres:*) echo no such user; exit 3;; esac; exec python3 server.py");
    let paris = served_as(choosy).await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.add("row 1").await;
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://me@{}/rows", server.local_addr().unwrap());
    let changed = paris.done(json!({ "ask": "change-database", "url": url })).await;
    let why = changed["error"].as_str().unwrap_or_default();
    assert!(why.contains("no such user") && why.contains("nothing was changed"), "{changed:#}");
    assert!(given_up(&paris).await.is_empty());
    paris.add("row 2").await;
    assert_eq!(paris.get("/rows").await, json!(rows(1, 2)));
    paris.arrived(&oslo).await;
    paris.act(2, Action::Fence { lost_after: None }).await.unwrap();
    paris.act(2, Action::Drain).await.unwrap();
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_given_up_is_used_again_only_by_force() {
    let paris = served().await;
    paris.add("row 1").await;
    paris.done(json!({ "ask": "backup-now" })).await;
    let restored = paris.done(json!({ "ask": "restore", "to": "older" })).await;
    assert_eq!(restored["state"], "done", "{restored:#}");
    paris.add("row 2").await;
    let before = std::fs::read(paris.dir.path().join("apps/todo/card.json")).unwrap();
    let changed = paris.done(json!({ "ask": "change-database", "to": "older" })).await;
    assert_eq!(changed["state"], "done", "{changed:#}");
    paris.add("row 2 again").await;
    let now_rows = json!(["row 1", "row 2 again"]);
    let refused = paris.ask(json!({ "ask": "change-database", "to": "main-e1" })).await.unwrap_err();
    assert!(refused.to_string().contains("--force"), "{refused}");
    assert_eq!(
        (paris.get("/rows").await, given_up(&paris).await),
        (now_rows.clone(), vec!["main-e1".into()])
    );
    // The node was killed when one of the two files was written.
    let (region, world, dir, http) = paris.end().await;
    std::fs::write(dir.path().join("apps/todo/card.json"), before).unwrap();
    let paris = Place::open_in(region.as_str(), &world, dir, http).await;
    paris.act(1, Action::Serve).await.unwrap();
    paris.until("it serves", |seen| seen.ready).await;
    assert_eq!((paris.get("/rows").await, given_up(&paris).await), (now_rows, vec!["main-e1".into()]));
    let forced = paris.done(json!({ "ask": "change-database", "to": "main-e1", "force": true })).await;
    assert_eq!(forced["state"], "done", "{forced:#}");
    assert_eq!(paris.get("/rows").await, json!(rows(1, 2)));
    assert_eq!(given_up(&paris).await, ["older"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_choice_the_newest_backup_is_meant_and_a_time_means_the_last_one_before_it() {
    let paris = served().await;
    let mut ids = Vec::new();
    for row in rows(1, 2) {
        paris.add(&row).await;
        let taken = paris.done(json!({ "ask": "backup-now" })).await;
        ids.push(taken["result"]["id"].as_str().unwrap().to_owned());
    }
    paris.add("row 3").await;
    let told = paris.ask(json!({ "ask": "backups" })).await.unwrap();
    let told: Vec<&str> =
        told["backups"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(told, ids, "oldest first");
    let restored = paris.done(json!({ "ask": "restore", "to": "newest" })).await;
    assert_eq!(restored["state"], "done", "{restored:#}");
    let changed = paris.done(json!({ "ask": "change-database", "to": "newest" })).await;
    assert_eq!(changed["state"], "done", "{changed:#}");
    assert_eq!(paris.get("/rows").await, json!(rows(1, 2)));
    paris.add("row 3 again").await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    let seen = oslo.until("the backups are there", |seen| seen.points.len() == 3).await;
    let (offered, times): (Vec<&str>, Vec<_>) =
        seen.points.iter().map(|point| (point.id.as_str(), point.at)).unzip();
    assert_eq!(offered, [&ids[0], &ids[1], look::POINT]);
    assert!(times.is_sorted(), "{times:?}");
    let between = times[1].after(Duration::from_micros(1));
    oslo.act(2, Action::Promote { point: PointChoice::At(between) }).await.unwrap();
    assert_eq!(oslo.look().await.promotion.unwrap().point.id, ids[1]);
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 2)));
    oslo.act(2, Action::ChangePoint { point: PointChoice::At(times[0]) }).await.unwrap();
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 1)));
}
