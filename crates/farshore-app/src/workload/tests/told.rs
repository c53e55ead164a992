//! What an operator is told when nothing is done: because nothing runs, or because it would harm what does.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_run_is_not_said_to_be_started_again() {
    let paris = Place::open("paris", &Arc::default()).await;
    paris.act(1, Action::Create { spec: spec() }).await.unwrap();
    let told = paris.ask(json!({ "ask": "restart" })).await.unwrap_err().to_string();
    assert!(told.contains("nothing is deployed yet"), "{told}");
    // Settings are kept for when something is.
    paris.ask(json!({ "ask": "set-settings", "set": { "COLOUR": "red" } })).await.unwrap();
    let pushed = paris.push(&[("broken.txt", "")]).await;
    assert!(said(&pushed).contains("nothing runs: push a release that starts"), "{}", said(&pushed));
    assert!(paris.ask(json!({ "ask": "restart" })).await.is_err());
    let pushed = paris.push(&[("release.txt", "two")]).await;
    assert!(pushed.status.success(), "{}", said(&pushed));
    assert_eq!(paris.done(json!({ "ask": "restart" })).await["state"], "done");
    let idle = ItemId::parse("app/idle").unwrap();
    paris.act_on(&idle, 1, Action::Create { spec: json!({ "mode": "free" }) }, None).await.unwrap();
    let item = paris.apps.around.item(&idle).unwrap();
    item.charter_changes(|charter| charter.live = Some(1)).unwrap();
    let told = paris.apps.ask(&idle, &json!({ "ask": "restart" })).await.unwrap_err().to_string();
    assert!(told.contains("has no command"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_down_is_not_said_to_run_on() {
    let gate = tempfile::tempdir().unwrap();
    let down = gate.path().join("down");
    let mut fragile = spec();
    fragile["command"] = json!(format!("test ! -e {} || exit 5; exec python3 server.py", down.display()));
    let paris = served_as(fragile).await;
    std::fs::write(down, "").unwrap();
    let summary = paris.ask(json!({ "ask": "summary" })).await.unwrap();
    let pid = i32::try_from(summary["processes"][0]["pid"].as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    paris.until("it is down", |seen| !seen.ready).await;
    let pushed = paris.push(&[("release.txt", "two")]).await;
    let told = said(&pushed);
    assert!(told.contains("release 1 stays the live one, but does not run now"), "{told}");
    assert!(!told.contains("runs on"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_whose_database_is_not_copied_is_not_rehearsed_on_the_one_in_use() {
    let gate = tempfile::tempdir().unwrap();
    let starts = gate.path().join("starts");
    let mut noted = spec();
    noted["command"] = json!(format!("echo $FARSHORE_REGION >>{}; exec python3 server.py", starts.display()));
    let paris = served_as(noted).await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    let elsewhere = Some("postgres://127.0.0.1:1/todo".to_owned());
    paris.item().charter_changes(|charter| charter.external = elsewhere).unwrap();
    oslo.until("it has heard of it", |_| oslo.item().stock.charter().external.is_some()).await;
    let told =
        oslo.act(1, Action::TestFailover { point: PointChoice::Latest }).await.unwrap_err().to_string();
    assert!(told.contains("a rehearsal would work on the one in use"), "{told}");
    assert!(oslo.look().await.drill.is_none());
    let started = std::fs::read_to_string(starts).unwrap();
    assert!(!started.contains("oslo"), "{started}");
    oslo.until("it can still be recovered", |seen| !seen.points.is_empty()).await;
}
