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
