//! A life with PostgreSQL.

use super::*;

fn with_postgres() -> Value {
    let mut spec = spec();
    spec["database"] = json!("postgres");
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_postgres_survive_their_region_and_come_home() {
    let paris = served_as(with_postgres()).await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    for row in rows(1, 5) {
        paris.add(&row).await;
    }
    paris.arrived(&oslo).await;
    paris.until("it is confirmed", streams).await;
    let world = Arc::clone(&paris.world);
    world.is_cut.store(true, Ordering::SeqCst);
    paris.add("row 6").await;
    let began = Instant::now();
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    println!("promoted in {:?}", began.elapsed());
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 5)));
    oslo.add("row 6 of oslo").await;
    let after = oslo.look().await.promotion.unwrap().point.watermark;
    world.is_cut.store(false, Ordering::SeqCst);
    paris.until("paris fenced itself", |seen| seen.role == Role::Fenced).await;
    paris.act(2, Action::Fence { lost_after: Some(after) }).await.unwrap();
    let lost = paris.look().await.divergence.unwrap();
    assert_eq!((lost.loss.writes, lost.exact), (1, true));
    oslo.act(2, Action::Commit).await.unwrap();
    paris.act(2, Action::Follow { source: region("oslo"), diverged_after: after }).await.unwrap();
    replicate(&oslo, "paris", 2, ReplicationMode::Async).await;
    oslo.act(3, Action::Fence { lost_after: None }).await.unwrap();
    oslo.act(3, Action::Drain).await.unwrap();
    paris.act(3, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    let all = [rows(1, 5), vec!["row 6 of oslo".to_owned()]].concat();
    assert_eq!(paris.get("/rows").await, json!(all));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_answered_is_lost_with_synchronous_postgres() {
    let paris = served_as(with_postgres()).await;
    let oslo = follow(&paris, ReplicationMode::Sync).await;
    let warned = |seen: &Observation| seen.warnings.iter().any(|warning| warning.contains("synchronous"));
    paris.until("it waits for oslo", |seen| seen.ready && !warned(seen)).await;
    for row in rows(1, 10) {
        paris.add(&row).await;
    }
    // On a machine that stood still it may not have waited for a while; what was answered then has come there before it says so.
    paris.until("it still waits for oslo", |seen| !warned(seen)).await;
    paris.world.is_cut.store(true, Ordering::SeqCst);
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 10)));
}

/// The log from where the other region stood is gone: how much was written after it, nobody can say.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_counted_is_kept_and_never_called_nothing() {
    let paris = served_as(with_postgres()).await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.add("row 1").await;
    paris.arrived(&oslo).await;
    let world = Arc::clone(&paris.world);
    world.is_cut.store(true, Ordering::SeqCst);
    paris.add("only here").await;
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    let after = oslo.look().await.promotion.unwrap().point.watermark;
    oslo.act(2, Action::Commit).await.unwrap();
    let database = paris.item().database_dir(&paris.item().databases()[0]);
    let (name, _, dir, http) = paris.end().await;
    let log = database.join("data/pg_wal");
    for (number, segment) in segments(&log).into_iter().enumerate() {
        std::fs::rename(segment, log.join(format!("0000000100000000{:08X}", 0x80 + number))).unwrap();
    }
    let paris = Place::open_in(name.as_str(), &world, dir, http).await;
    for _ in 0..2 {
        paris.act(2, Action::Fence { lost_after: Some(after) }).await.unwrap();
        let lost = paris.look().await.divergence.unwrap();
        assert_eq!((lost.after, lost.exact), (after, false));
    }
    world.is_cut.store(false, Ordering::SeqCst);
    paris.act(2, Action::Follow { source: region("oslo"), diverged_after: after }).await.unwrap();
    let seen = paris.look().await;
    let lost = seen.divergence.unwrap();
    assert_eq!((seen.role, lost.exact), (Role::Target, false));
    let kept = std::path::PathBuf::from(lost.endpoints[0].uri.strip_prefix("file://").unwrap());
    assert!(kept.join("data/pg_wal").exists() && kept.join("charter.json").exists(), "{kept:?}");
    assert!(kept.parent().unwrap().ends_with("divergent") && !database.exists(), "{kept:?}");
    replicate(&oslo, "paris", 2, ReplicationMode::Async).await;
    paris.act(2, Action::DropDivergence).await.unwrap();
    assert!(paris.look().await.divergence.is_none() && !kept.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_postgres_that_can_be_read_as_a_whole_is_changed_to() {
    let paris = served_as(with_postgres()).await;
    paris.add("row 1").await;
    let env = paris.item().stock.live().unwrap().env();
    let asked =
        Command::new("psql").args(["-XqAtc", "SELECT pg_relation_filepath('rows')"]).envs(env).output();
    let heap = String::from_utf8(asked.unwrap().stdout).unwrap();
    paris.done(json!({ "ask": "backup-now" })).await;
    for name in ["good", "bad"] {
        let restored = paris.done(json!({ "ask": "restore", "to": name })).await;
        assert_eq!(restored["state"], "done", "{restored:#}");
    }
    paris.add("row 2").await;
    let file = paris.item().database_dir("bad").join("data").join(heap.trim());
    let file = std::fs::File::options().write(true).open(file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xA5; 8192], 0).unwrap();
    let changed = paris.done(json!({ "ask": "change-database", "to": "bad" })).await;
    let why = changed["error"].as_str().unwrap_or_default();
    assert!(changed["state"] == "failed" && why.contains("nothing was changed"), "{changed:#}");
    assert_eq!(paris.get("/rows").await, json!(rows(1, 2)));
    let changed = paris.done(json!({ "ask": "change-database", "to": "good" })).await;
    assert_eq!(changed["state"], "done", "{changed:#}");
    assert_eq!(paris.get("/rows").await, json!(rows(1, 1)));
}

fn segments(log: &std::path::Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().len() == 24).collect()
}
