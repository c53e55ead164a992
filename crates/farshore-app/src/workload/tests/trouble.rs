//! What goes wrong, and what does not go wrong with it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_does_not_come_up_leaves_the_one_before_running() {
    let paris = served().await;
    let pushed = paris.push(&[("release.txt", "two"), ("broken.txt", "")]).await;
    let told = said(&pushed);
    assert!(told.contains("release 2 failed") && told.contains("release 1 runs on"), "{told}");
    assert!(told.contains("this release is broken"), "{told}");
    assert_eq!(paris.get("/release").await, "one");
    let releases = paris.ask(json!({ "ask": "releases" })).await.unwrap();
    let states: Vec<&str> =
        releases["releases"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["live", "failed"]);
    let warnings = paris.look().await.warnings;
    assert!(warnings.iter().any(|warning| warning.contains("release 2 failed")), "{warnings:?}");
    let pushed = paris.push(&[("release.txt", "three")]).await;
    assert!(pushed.status.success(), "{}", said(&pushed));
    assert_eq!(paris.get("/release").await, "three");
    assert!(paris.look().await.warnings.is_empty());
    let back = paris.done(json!({ "ask": "rollback" })).await;
    assert_eq!((&back["state"], &back["result"]["release"]), (&json!("done"), &json!(1)), "{back:#}");
    assert_eq!(paris.get("/release").await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_is_told_to_the_pusher() {
    let mut with_build = spec();
    with_build["build"] = json!("test ! -e bad.txt && echo made it > made.txt || { echo no good; exit 4; }");
    let paris = served_as(with_build).await;
    let pushed = paris.push(&[("bad.txt", "")]).await;
    let told = said(&pushed);
    assert!(told.contains("no good") && told.contains("the build failed"), "{told}");
    assert_eq!(paris.get("/release").await, "one");
    let oslo = follow(&paris, ReplicationMode::Async).await;
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert!(oslo.dir.path().join("apps/todo/releases/1/made.txt").exists(), "what was built travels");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_without_room_refuses() {
    let paris = served().await;
    let other = ItemId::parse("app/other").unwrap();
    let large = Action::Create { spec: json!({ "mode": "standard" }) };
    let refused = paris.act_on(&other, 1, large, None).await.unwrap_err().to_string();
    assert!(refused.contains("2048 MiB for apps and 128 of them are used"), "{refused}");
    assert!(matches!(paris.apps.observe(&other).await, Err(StepError::Unknown)));
    let room = async |spec: Value| {
        let question = json!({ "ask": "room", "spec": spec });
        paris.apps.ask(&other, &question).await.unwrap()["no_room"].clone()
    };
    assert_eq!(room(json!({ "mode": "basic", "instances": 3 })).await, Value::Null);
    assert_eq!(room(json!({ "mode": "standard" })).await, refused, "known before it is tried");
    let refused = paris.ask(json!({ "ask": "scale", "mode": "basic", "instances": 5 })).await.unwrap_err();
    assert!(refused.to_string().contains("5 x basic needs 2560"), "{refused}");
    let oslo = follow(&paris, ReplicationMode::Async).await;
    let full = Action::Create { spec: json!({ "mode": "standard" }) };
    assert_eq!(oslo.look().await.cannot_promote, None);
    oslo.act_on(&other, 1, full, None).await.unwrap();
    let told = oslo.look().await.cannot_promote.unwrap();
    assert!(told.contains("2048 of them are used"), "{told}");
    let refused = oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap_err().to_string();
    assert!(refused.contains("2048 of them are used"), "{refused}");
    assert_eq!(oslo.look().await.role, Role::Target, "nothing was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reserve_gives_its_room_to_the_app_that_it_is_for() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    let warned =
        |seen: &Observation| seen.warnings.iter().any(|warning| warning.contains("no capacity is reserved"));
    oslo.until("the missing reserve is told", warned).await;
    let reserve = ItemId::parse("app/todo-dr").unwrap();
    let spec = json!({ "mode": "standard", "reserve_for": "todo" });
    oslo.act_on(&reserve, 1, Action::Create { spec }, None).await.unwrap();
    oslo.until("it is there", |seen| !warned(seen)).await;
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    let seen = oslo.look().await;
    assert_eq!(
        (&seen.shape["mode"], &seen.shape["capacity"]["used_mib"]),
        (&json!("standard"), &json!(2048))
    );
    let lent = oslo.apps.observe(&reserve).await.unwrap();
    assert_eq!(lent.shape["lent_to"], "todo");
    assert_eq!(oslo.get("/release").await, "one");
    oslo.act_on(&reserve, 1, Action::Delete, None).await.unwrap();
    assert_eq!(oslo.look().await.shape["capacity"]["used_mib"], 2048);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_fences_itself_answers_nothing_without_its_right() {
    let paris = served().await;
    paris.act_on(&todo(), 1, Action::Serve, Some(FenceTimings::FAST)).await.unwrap();
    assert_ne!(paris.status("/rows").await, 200, "not renewed yet");
    let leased = paris.apps.leased().await.unwrap();
    assert_eq!((leased.len(), leased[0].until), (1, None));
    // On a busy machine a request may take longer than its right lasts: then it gets another one.
    let give_up = Instant::now() + GIVE_UP;
    let until = loop {
        let until = boot_time().after(Duration::from_millis(700));
        paris.apps.renewed(&todo(), leased[0].token, until).await.unwrap();
        if paris.status("/rows").await == 200 {
            break until;
        }
        assert!(boot_time() >= until, "refused within its right");
        assert!(Instant::now() < give_up, "no request was answered");
    };
    while boot_time() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_ne!(paris.status("/rows").await, 200, "its right is over");
    paris.apps.expired(&todo(), leased[0].token).await.unwrap();
    assert_eq!(paris.look().await.role, Role::Fenced);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_source_that_was_not_fenced_keeps_what_only_it_has() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.add("row 1").await;
    paris.arrived(&oslo).await;
    paris.world.is_cut.store(true, Ordering::SeqCst);
    paris.add("only here").await;
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    oslo.act(2, Action::Commit).await.unwrap();
    let after = oslo.look().await.watermark;
    paris.act(2, Action::Follow { source: region("oslo"), diverged_after: after }).await.unwrap();
    let lost = paris.look().await.divergence.unwrap();
    assert_eq!((lost.loss.writes, lost.exact), (1, true));
    let kept = std::path::PathBuf::from(lost.endpoints[0].uri.strip_prefix("file://").unwrap());
    assert!(kept.join("charter.json").exists(), "{kept:?}");
    paris.act(2, Action::DropDivergence).await.unwrap();
    assert!(paris.look().await.divergence.is_none() && !kept.exists());
}

/// Writes a row that the other region does not get. The app is no older than its test, and neither is what is at risk.
async fn at_risk(alone: &Place, row: &str) {
    alone.add(row).await;
    let is_told = |seen: &Observation| seen.replication.as_ref().is_some_and(|link| link.lag.writes > 0);
    let lag = alone.until("it is at risk", is_told).await.replication.unwrap().lag;
    assert!(lag.seconds < 3600.0, "after {row}: {lag:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_confirmed_is_counted_from_when_the_lost_region_was_last_heard() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.add("row 1").await;
    paris.arrived(&oslo).await;
    paris.world.is_cut.store(true, Ordering::SeqCst);
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    at_risk(&oslo, "row 2").await;
    oslo.act(2, Action::Commit).await.unwrap();
    at_risk(&oslo, "row 3").await;
    let oslo = oslo.restart().await;
    oslo.act(2, Action::Serve).await.unwrap();
    oslo.until("it serves again", |seen| seen.ready).await;
    at_risk(&oslo, "row 4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_told_to_serve_has_what_has_arrived() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.add("row 1").await;
    paris.arrived(&oslo).await;
    paris.act(2, Action::Fence { lost_after: None }).await.unwrap();
    oslo.act(3, Action::Serve).await.unwrap();
    oslo.until("it serves", |seen| seen.ready).await;
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_ends_a_deploy_that_is_under_way() {
    let mut slow = spec();
    slow["build"] = json!("test ! -e slow.txt || sleep 600");
    let paris = served_as(slow).await;
    let pushing = paris.push(&[("slow.txt", "")]);
    let fencing = async {
        let give_up = Instant::now() + GIVE_UP;
        while paris.item().stock.charter().releases.len() < 2 {
            assert!(Instant::now() < give_up);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        paris.act(2, Action::Fence { lost_after: None }).await.unwrap();
    };
    let (pushed, ()) = tokio::join!(pushing, fencing);
    assert!(!said(&pushed).contains("release 2 runs"), "{}", said(&pushed));
    paris.act(3, Action::Serve).await.unwrap();
    paris.until("it serves again", |seen| seen.ready).await;
    assert_eq!(paris.get("/release").await, "one");
    let refused = paris.apps.ask(&todo(), &json!({ "ask": "rollback", "to": 2 })).await.unwrap();
    assert!(refused["operation"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_prints_without_a_line_end_is_deployed() {
    let mut loud = spec();
    loud["build"] = json!("head -c 20000000 /dev/zero | tr '\\0' x; echo; echo built");
    let paris = Place::open("paris", &Arc::default()).await;
    paris.act(1, Action::Create { spec: loud }).await.unwrap();
    let pushed = paris.push(&[("release.txt", "one")]).await;
    assert!(pushed.status.success() && said(&pushed).contains("built"), "{}", said(&pushed));
    assert_eq!(paris.get("/release").await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_another_app_has_is_refused() {
    let paris = Place::open("paris", &Arc::default()).await;
    let mut named = spec();
    named["hosts"] = json!(["todo.example"]);
    paris.act(1, Action::Create { spec: named.clone() }).await.unwrap();
    let other = ItemId::parse("app/other").unwrap();
    let refused = paris.act_on(&other, 1, Action::Create { spec: named }, None).await.unwrap_err();
    assert!(refused.to_string().contains("todo.example"), "{refused}");
    paris.act_on(&other, 1, Action::Create { spec: spec() }, None).await.unwrap();
    let taken = json!({ "ask": "set-hosts", "hosts": ["todo.example"] });
    let refused = paris.apps.ask(&other, &taken).await.unwrap_err();
    assert!(refused.to_string().contains("todo.example"), "{refused}");
    let free = json!({ "ask": "set-hosts", "hosts": ["other.example"] });
    let summary = paris.apps.ask(&other, &free).await.unwrap();
    assert_eq!(summary["hosts"], json!(["other.app.farshore.internal", "other.example"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lent_reserve_rests_while_its_room_is_used_and_comes_back_when_it_is_not() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    let reserve = ItemId::parse("app/spare").unwrap();
    oslo.act_on(&reserve, 1, Action::Create { spec: json!({ "mode": "basic" }) }, None).await.unwrap();
    let lend = json!({ "ask": "lend", "to": "todo" });
    oslo.apps.ask(&reserve, &lend).await.unwrap();
    oslo.apps.ask(&reserve, &lend).await.unwrap();
    let other = oslo.apps.ask(&reserve, &json!({ "ask": "lend", "to": "blog" })).await.unwrap_err();
    assert!(other.to_string().contains("lent to app/todo already"), "{other}");
    let state =
        async || oslo.apps.ask(&reserve, &json!({ "ask": "summary" })).await.unwrap()["state"].clone();
    assert_eq!(state().await, "empty", "it runs on until its room is used");
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert_eq!(state().await, "stopped");
    assert_eq!(oslo.look().await.shape["mode"], "basic");
    assert_eq!(oslo.look().await.shape["capacity"]["used_mib"], 512);
    oslo.act(3, Action::Fence { lost_after: None }).await.unwrap();
    assert_eq!(state().await, "empty");
    let lent_to = async || oslo.apps.observe(&reserve).await.unwrap().shape["lent_to"].clone();
    let take_back = async |of: &str, migration: Value| {
        let asked = json!({ "ask": "take-back", "of": of, "migration": migration });
        oslo.apps.ask(&reserve, &asked).await.unwrap();
        lent_to().await
    };
    assert_eq!(take_back("blog", Value::Null).await, "todo", "it was lent to another one");
    // Lent by a migration, and asked for by one that was given up before.
    let again = json!({ "ask": "lend", "to": "todo", "migration": "2" });
    oslo.apps.ask(&reserve, &again).await.unwrap();
    assert_eq!(take_back("todo", json!("1")).await, "todo");
    assert_eq!(take_back("todo", Value::Null).await, "todo");
    assert_eq!(take_back("todo", json!("2")).await, Value::Null);
    // Nobody knows for which: its name is enough.
    oslo.apps.ask(&reserve, &lend).await.unwrap();
    assert_eq!(take_back("todo", json!("3")).await, Value::Null);
}

/// The branch has moved, so git would not push it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_before_the_node_died_is_deployed_when_it_is_back() {
    let mut slow = spec();
    slow["build"] =
        json!("test ! -e slow.txt || test -e \"$HOME/begun\" || { touch \"$HOME/begun\"; exec sleep 600; }");
    let paris = served_as(slow).await;
    let begun = paris.dir.path().join("apps/todo/home/begun");
    let pushing = paris.push(&[("slow.txt", ""), ("release.txt", "two")]);
    let dying = async {
        let give_up = Instant::now() + GIVE_UP;
        while !begun.exists() {
            assert!(Instant::now() < give_up);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        paris.apps.stop().await;
    };
    let (pushed, ()) = tokio::join!(pushing, dying);
    assert!(!said(&pushed).contains("release 2 runs"), "{}", said(&pushed));
    let paris = paris.restart().await;
    paris.act(1, Action::Serve).await.unwrap();
    paris.until("the release that was pushed", |seen| seen.shape["release"] == 3).await;
    assert_eq!(paris.get("/release").await, "two");
}

/// Its instances are ended by force only: what replaces them takes as long as they are given.
fn stubborn() -> Value {
    let mut stubborn = spec();
    stubborn["command"] = json!("trap '' TERM; exec python3 server.py");
    stubborn
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_database_that_a_fence_overtakes_changes_nothing() {
    let paris = served_as(stubborn()).await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.add("row 1").await;
    paris.done(json!({ "ask": "backup-now" })).await;
    let restored = paris.done(json!({ "ask": "restore", "to": "older" })).await;
    assert_eq!(restored["state"], "done", "{restored:#}");
    paris.add("row 2").await;
    let stands = || {
        let item = paris.item();
        let database = item.card().database.clone();
        (database, item.stock.charter().tag)
    };
    let before = stands();
    let changing = paris.done(json!({ "ask": "change-database", "to": "older" }));
    let fencing = async {
        let give_up = Instant::now() + GIVE_UP;
        while paris.status("/rows").await == 200 {
            assert!(Instant::now() < give_up);
        }
        paris.act(2, Action::Fence { lost_after: None }).await.unwrap();
    };
    let (changed, ()) = tokio::join!(changing, fencing);
    let why = changed["error"].as_str().unwrap();
    assert!(why.contains("nothing was changed"), "{changed:#}");
    assert_eq!(stands(), before);
    // One that began before, and looked longer.
    let late = paris.item().use_database(Some(("older".to_owned(), Default::default())), None).await;
    assert!(late.unwrap_err().to_string().contains("nothing was changed"));
    assert_eq!(stands(), before);
    paris.act(2, Action::Drain).await.unwrap();
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_started_while_the_database_is_changed_finds_the_new_one() {
    let paris = served_as(stubborn()).await;
    paris.add("row 1").await;
    paris.done(json!({ "ask": "backup-now" })).await;
    paris.done(json!({ "ask": "restore", "to": "older" })).await;
    paris.add("row 2").await;
    let changing = paris.done(json!({ "ask": "change-database", "to": "older" }));
    let restarting = async {
        let give_up = Instant::now() + GIVE_UP;
        while paris.status("/rows").await == 200 {
            assert!(Instant::now() < give_up);
        }
        // The old instances are being ended: whoever wants to start others waits for that.
        paris.ask(json!({ "ask": "set-settings", "set": { "COLOUR": "red" } })).await.unwrap();
    };
    let (changed, ()) = tokio::join!(changing, restarting);
    assert_eq!(changed["state"], "done", "{changed:#}");
    let file = paris.get("/env/DATABASE_FILE").await;
    assert!(file.as_str().is_some_and(|file| file.ends_with("/older/app.db")), "{file}");
    assert_eq!(paris.get("/rows").await, json!(rows(1, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_not_started_without_its_database() {
    let paris = served().await;
    paris.add("row 1").await;
    let database = paris.item().database_dir("main-e1");
    let away = paris.dir.path().join("away");
    let (region, world, dir, http) = paris.end().await;
    std::fs::rename(&database, &away).unwrap();
    let paris = Place::open_in(region.as_str(), &world, dir, http).await;
    paris.act(1, Action::Serve).await.unwrap();
    paris.until("it does not come up", |seen| !seen.warnings.is_empty()).await;
    let restarted = paris.done(json!({ "ask": "restart" })).await;
    assert_eq!(restarted["state"], "failed", "{restarted:#}");
    let why = restarted["error"].as_str().unwrap();
    assert!(why.contains("app.db is not there"), "{why}");
    let pushed = paris.push(&[("release.txt", "two")]).await;
    assert!(said(&pushed).contains("release 2 failed"), "{}", said(&pushed));
    assert_ne!(paris.status("/rows").await, 200);
    std::fs::rename(&away, &database).unwrap();
    paris.act(1, Action::Serve).await.unwrap();
    paris.until("it serves", |seen| seen.ready).await;
    assert_eq!(paris.get("/rows").await, json!(rows(1, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_a_fence_overtakes_at_its_end_is_done_and_changes_nothing_more() {
    let paris = served_as(stubborn()).await;
    let pushing = paris.push(&[("release.txt", "two")]);
    let stands = || {
        let charter = paris.item().stock.charter().clone();
        (charter.live, charter.tag)
    };
    let fencing = async {
        let give_up = Instant::now() + GIVE_UP;
        let runs = async || {
            let answer = paris.request("GET", "/release").send().await.unwrap();
            answer.json::<Value>().await.is_ok_and(|release| release == "two")
        };
        while !runs().await {
            assert!(Instant::now() < give_up);
        }
        // The new instances serve, those before are being ended.
        let before = stands();
        paris.act(2, Action::Fence { lost_after: None }).await.unwrap();
        before
    };
    let (_, before) = tokio::join!(pushing, fencing);
    assert_eq!((before.0, stands()), (Some(2), before));
    paris.act(3, Action::Serve).await.unwrap();
    paris.until("it serves again", |seen| seen.ready).await;
    assert_eq!(paris.get("/release").await, "two");
}

/// Rounds of two promotions at once.
const ROUNDS: u64 = 20;
/// Within this both have come to where they look for room. Nothing depends on it but how sharp the test is.
const NEAR: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread")]
async fn two_apps_that_are_recovered_at_once_do_not_get_the_same_room() {
    let world = Arc::default();
    let (todo, blog) = (todo(), ItemId::parse("app/blog").unwrap());
    let oslo = Place::open("oslo", &world).await;
    for (item, home) in [(&todo, "paris"), (&blog, "rome")] {
        let place = Place::open(home, &world).await;
        let spec = json!({ "mode": "standard", "database": "none" });
        place.act_on(item, 1, Action::Create { spec }, None).await.unwrap();
        let shape = place.apps.observe(item).await.unwrap().shape;
        let prepare = Action::PrepareTarget { source: region(home), shape };
        oslo.act_on(item, 1, prepare, None).await.unwrap();
        let mode = ReplicationMode::Async;
        let replicate = Action::Replicate { target: region("oslo"), address: "unused".to_owned(), mode };
        place.act_on(item, 1, replicate, None).await.unwrap();
        let give_up = Instant::now() + GIVE_UP;
        while oslo.apps.observe(item).await.unwrap().points.is_empty() {
            assert!(Instant::now() < give_up);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    world.is_cut.store(true, Ordering::SeqCst);
    for round in 1..=ROUNDS {
        let promoting = {
            let known = oslo.apps.around.items();
            let promoting = [&todo, &blog].map(|item| {
                let promote = Action::Promote { point: PointChoice::Latest };
                let (item, order) = (Arc::clone(&known[item]), order(item, 2 * round, promote, None));
                tokio::spawn(async move { item.act(&order).await })
            });
            std::thread::sleep(NEAR);
            promoting
        };
        let mut served = Vec::new();
        for (item, promoted) in [&todo, &blog].into_iter().zip(promoting) {
            match promoted.await.unwrap() {
                Ok(()) => served.push(item),
                Err(refused) => assert!(refused.to_string().contains("2048 of them are used"), "{refused}"),
            }
        }
        assert_eq!(served.len(), 1, "round {round}: {served:?}");
        oslo.act_on(served[0], 2 * round + 1, Action::Fence { lost_after: None }, None).await.unwrap();
    }
}
