//! A whole life: made, deployed, protected, lost, recovered, home again.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_made_served_told_of_and_deleted() {
    let paris = Place::open("paris", &Arc::default()).await;
    paris.act(1, Action::Create { spec: spec() }).await.unwrap();
    assert_eq!(paris.ask(json!({ "ask": "summary" })).await.unwrap()["state"], "empty");
    let pushed = paris.push(&[("release.txt", "one")]).await;
    assert!(pushed.status.success(), "{}", said(&pushed));
    assert_eq!(paris.get("/release").await, "one");
    paris.add("row 1").await;
    assert_eq!(paris.get("/rows").await, json!(rows(1, 1)));
    let summary = paris.ask(json!({ "ask": "summary" })).await.unwrap();
    assert_eq!((&summary["state"], &summary["release"]["number"]), (&json!("running"), &json!(1)));
    assert_eq!(summary["database"]["reachable"], true);
    let keys = paris.ask(json!({ "ask": "keys" })).await.unwrap();
    assert_eq!(paris.get("/env/MS_MasterKey").await, keys["master"]);
    assert_eq!(paris.get("/env/FARSHORE_REGION").await, "paris");
    let seen = paris.look().await;
    assert!(seen.ready && seen.shape["healthy"] == true && seen.warnings.is_empty(), "{seen:#?}");
    assert_eq!(seen.endpoints[0].uri, format!("http://{}", paris.http));
    paris.act(1, Action::Delete).await.unwrap();
    assert!(matches!(paris.apps.observe(&todo()).await, Err(StepError::Unknown)));
    assert!(!paris.dir.path().join("apps/todo").exists());
    paris.act(1, Action::Delete).await.unwrap();
    paris.act(2, Action::Create { spec: spec() }).await.unwrap();
    assert_ne!(paris.ask(json!({ "ask": "keys" })).await.unwrap()["master"], keys["master"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_region_is_recovered_with_its_name_keys_scripts_and_rows_and_comes_home() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    for row in rows(1, 5) {
        paris.add(&row).await;
    }
    let keys = paris.ask(json!({ "ask": "keys" })).await.unwrap();
    let tree = paris.look().await.shape["tree"].clone();
    paris.arrived(&oslo).await;
    paris.until("all rows are there", streams).await;
    // The region is lost.
    let world = Arc::clone(&paris.world);
    world.is_cut.store(true, Ordering::SeqCst);
    paris.add("row 6").await;
    paris.add("row 7").await;
    let began = Instant::now();
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    println!("promoted in {:?}", began.elapsed());
    let seen = oslo.look().await;
    assert!(seen.ready && seen.role == Role::Active, "{seen:#?}");
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 5)));
    assert_eq!(oslo.get("/release").await, "one");
    assert_eq!(oslo.get("/env/FARSHORE_REGION").await, "oslo");
    let after = oslo.ask(json!({ "ask": "keys" })).await.unwrap();
    assert_eq!((&after["master"], &after["application"]), (&keys["master"], &keys["application"]));
    assert_eq!(oslo.look().await.shape["tree"], tree);
    let check = oslo.ask(json!({ "ask": "scripts-check" })).await.unwrap();
    assert_eq!((&check["same"], &check["tree"]), (&json!(true), &tree));
    oslo.add("row 6 of oslo").await;
    let promoted = seen.promotion.unwrap().point.watermark;
    // Paris comes back: it hears of the higher token by itself, stops first, and sends on who still comes.
    world.is_cut.store(false, Ordering::SeqCst);
    paris.until("paris fenced itself", |seen| seen.role == Role::Fenced).await;
    let give_up = Instant::now() + GIVE_UP;
    while paris.status("/rows").await != 200 {
        assert!(Instant::now() < give_up);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(paris.get("/env/FARSHORE_REGION").await, "oslo");
    paris.act(2, Action::Fence { lost_after: Some(promoted) }).await.unwrap();
    let lost = paris.look().await.divergence.unwrap();
    assert_eq!((lost.loss.writes, lost.exact), (2, true));
    oslo.act(2, Action::Commit).await.unwrap();
    paris.act(2, Action::Follow { source: region("oslo"), diverged_after: promoted }).await.unwrap();
    replicate(&oslo, "paris", 2, ReplicationMode::Async).await;
    paris.until("paris has a point", |seen| !seen.points.is_empty()).await;
    let kept = paris.look().await.divergence.unwrap().endpoints[0].uri.clone();
    let kept = std::path::PathBuf::from(kept.strip_prefix("file://").unwrap());
    assert!(kept.exists(), "{kept:?}");
    // And home.
    oslo.act(3, Action::Fence { lost_after: None }).await.unwrap();
    oslo.act(3, Action::Drain).await.unwrap();
    paris.act(3, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    let all = [rows(1, 5), vec!["row 6 of oslo".to_owned()]].concat();
    assert_eq!(paris.get("/rows").await, json!(all));
    let home = paris.look().await.promotion.unwrap();
    assert_eq!((home.at_failover.writes, home.at_failover.seconds), (0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_loses_nothing() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    for row in rows(1, 20) {
        paris.add(&row).await;
    }
    paris.act(2, Action::Fence { lost_after: None }).await.unwrap();
    assert_eq!(paris.status("/rows").await, 503);
    paris.act(2, Action::Drain).await.unwrap();
    let (source, target) = (paris.look().await.watermark, oslo.look().await.watermark);
    assert!((target.epoch, target.seq) >= (source.epoch, source.seq), "{source:?} {target:?}");
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 20)));
    let promotion = oslo.look().await.promotion.unwrap();
    assert_eq!((promotion.at_failover.writes, promotion.at_failover.seconds), (0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_answered_is_lost_in_synchronous_mode() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Sync).await;
    let warned = |seen: &Observation| seen.warnings.iter().any(|warning| warning.contains("synchronous"));
    paris.until("it waits for oslo", |seen| !warned(seen)).await;
    for row in rows(1, 20) {
        paris.add(&row).await;
    }
    // On a machine that stood still it may not have waited for a while; what was answered then has come there before it says so.
    paris.until("it still waits for oslo", |seen| !warned(seen)).await;
    // At once: nothing is waited for.
    paris.world.is_cut.store(true, Ordering::SeqCst);
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 20)));
    paris.until("it says that it does not wait", warned).await;
    paris.add("alone").await;
}

/// Of an app that never pauses, something is always on its way to the other region.
#[tokio::test(flavor = "multi_thread")]
async fn synchronous_mode_comes_into_force_while_an_app_is_written_to_without_pause() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.world.far_ms.store(400, Ordering::SeqCst);
    let acknowledged = AtomicU64::new(0);
    let write = async || {
        loop {
            paris.add("row").await;
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
    };
    let warned = |seen: &Observation| seen.warnings.iter().any(|warning| warning.contains("synchronous"));
    let begins = async {
        let (target, address) = (region("oslo"), "unused".to_owned());
        let sync = Action::Replicate { target, address, mode: ReplicationMode::Sync };
        paris.act(1, sync).await.unwrap();
        paris.until("it waits for oslo", |seen| !warned(seen)).await;
        let owed = acknowledged.load(Ordering::SeqCst);
        paris.world.is_cut.store(true, Ordering::SeqCst);
        owed
    };
    let owed = tokio::select! {
        owed = begins => owed,
        _ = async { tokio::join!(write(), write(), write(), write()) } => unreachable!("they write for ever"),
    };
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    let kept = oslo.get("/rows").await.as_array().unwrap().len() as u64;
    assert!(kept >= owed && owed > 0, "{kept} of {owed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_restarted_serves_nobody_until_it_is_told_to() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.add("row 1").await;
    let paris = paris.restart().await;
    let seen = paris.look().await;
    assert_eq!((seen.role, seen.ready), (Role::Unconfirmed, false));
    assert_eq!(paris.status("/rows").await, 503);
    let refused = paris.act(0, Action::Serve).await.unwrap_err();
    assert!(matches!(refused, StepError::Fenced { .. }), "{refused}");
    paris.act(1, Action::Serve).await.unwrap();
    paris.until("it serves", |seen| seen.ready).await;
    assert_eq!(paris.get("/rows").await, json!(rows(1, 1)));
    paris.add("row 2").await;
    let oslo = oslo.restart().await;
    oslo.until("oslo follows again", |seen| seen.role == Role::Target).await;
    paris.arrived(&oslo).await;
    paris.until("streaming again", streams).await;
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_is_beside_and_leaves_nothing() {
    let paris = served().await;
    paris.add("row 1").await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.arrived(&oslo).await;
    oslo.act(1, Action::TestFailover { point: PointChoice::Latest }).await.unwrap();
    let drill = oslo.look().await.drill.unwrap();
    let copy = Place {
        region: region("drill"),
        apps: Arc::clone(&oslo.apps),
        world: Arc::clone(&oslo.world),
        dir: Arc::clone(&oslo.dir),
        http: drill.endpoints[0].uri.strip_prefix("http://").unwrap().parse().unwrap(),
    };
    assert_eq!(copy.get("/rows").await, json!(rows(1, 1)));
    copy.add("only in the drill").await;
    oslo.act(1, Action::CleanUp).await.unwrap();
    assert!(oslo.look().await.drill.is_none());
    assert!(copy.request("GET", "/status").send().await.is_err());
    assert!(!oslo.dir.path().join("apps/todo/drill").exists());
    paris.until("replication goes on", streams).await;
    assert_eq!(paris.get("/rows").await, json!(rows(1, 1)));
}
