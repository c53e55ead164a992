//! What is asked for while something else is being done: each has its turn, and none is forgotten.

use std::path::Path;

use super::*;

/// Releases with a file `slow.txt` wait before they listen, until there is a file `go` in `gate`. Every start is noted in `starts`.
fn gated(gate: &Path) -> Value {
    let mut gated = spec();
    gated["mode"] = json!("basic");
    gated["command"] = json!(format!(
        "cat release.txt >>{0}/starts; echo >>{0}/starts
         while test -e slow.txt && ! test -e {0}/go; do sleep 0.02; done
         exec python3 server.py",
        gate.display()
    ));
    gated
}

fn starts(gate: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(gate.join("starts")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn until_true(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + GIVE_UP;
    while !check().await {
        assert!(Instant::now() < give_up, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_waits_for_a_deploy_restarts_what_was_deployed() {
    let gate = tempfile::tempdir().unwrap();
    let paris = served_as(gated(gate.path())).await;
    let pushing = paris.push(&[("release.txt", "two"), ("slow.txt", "")]);
    let setting = async {
        until_true("release 2 is started", async || starts(gate.path()).len() == 2).await;
        let set = paris.ask(json!({ "ask": "set-settings", "set": { "COLOUR": "red" } }));
        let opened = async {
            until_true("it is kept", async || !paris.item().stock.charter().settings.is_empty()).await;
            std::fs::write(gate.path().join("go"), "").unwrap();
        };
        tokio::join!(set, opened).0.unwrap();
    };
    let (pushed, ()) = tokio::join!(pushing, setting);
    assert!(said(&pushed).contains("release 2 runs"), "{}", said(&pushed));
    until_true("the setting is there", async || {
        let Ok(answer) = paris.request("GET", "/env/COLOUR").send().await else { return false };
        answer.text().await.is_ok_and(|text| text == "\"red\"")
    })
    .await;
    assert_eq!(paris.get("/release").await, "two");
    assert_eq!(starts(gate.path()), ["one", "two", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scaling_that_nobody_waits_for_any_more_is_carried_out() {
    let gate = tempfile::tempdir().unwrap();
    let paris = served_as(gated(gate.path())).await;
    let pushing = paris.push(&[("release.txt", "two"), ("slow.txt", "")]);
    let scaling = async {
        until_true("release 2 is started", async || starts(gate.path()).len() == 2).await;
        tokio::select! {
            _ = paris.ask(json!({ "ask": "scale", "instances": 2 })) => {}
            () = until_true("it is kept", async || paris.item().stock.charter().spec.instances == 2) => {}
        }
        std::fs::write(gate.path().join("go"), "").unwrap();
    };
    let (pushed, ()) = tokio::join!(pushing, scaling);
    assert!(said(&pushed).contains("release 2 runs"), "{}", said(&pushed));
    until_true("two of them are up", async || {
        let summary = paris.ask(json!({ "ask": "summary" })).await.unwrap();
        let processes = summary["processes"].as_array().unwrap();
        processes.iter().filter(|process| process["state"] == "up").count() == 2
    })
    .await;
}
