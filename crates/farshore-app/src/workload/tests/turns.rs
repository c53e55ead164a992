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

/// Settings and keys are changed by all of them at once, so often.
const ROUNDS: usize = 20;
/// Operators who change something at once.
const OPERATORS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn what_many_change_at_once_is_all_there() {
    let paris = Place::open("paris", &Arc::default()).await;
    paris.act(1, Action::Create { spec: spec() }).await.unwrap();
    for round in 1..=ROUNDS {
        let before = paris.item().stock.charter().keys.clone();
        let asked = (0..OPERATORS).map(|operator| match operator {
            0 => json!({ "ask": "regenerate", "type": "application" }),
            1 => json!({ "ask": "regenerate", "type": "master" }),
            _ => {
                let (name, before) = (format!("S_{round}_{operator}"), format!("S_{}_{operator}", round - 1));
                let delete = if round == 1 { Vec::new() } else { vec![before] };
                json!({ "ask": "set-settings", "set": { name: "set" }, "delete": delete })
            }
        });
        let asking: Vec<_> = asked
            .map(|question| {
                let apps = Arc::clone(&paris.apps);
                tokio::spawn(async move { apps.ask(&todo(), &question).await })
            })
            .collect();
        for answer in asking {
            answer.await.unwrap().unwrap();
        }
        let charter = paris.item().stock.charter().clone();
        let these = charter.settings.keys().filter(|name| name.starts_with(&format!("S_{round}_")));
        assert_eq!((these.count(), charter.settings.len()), (OPERATORS - 2, OPERATORS - 2), "round {round}");
        assert_ne!(charter.keys.application, before.application, "round {round}");
        assert_ne!(charter.keys.master, before.master, "round {round}");
        assert_eq!(charter.keys.deployment, before.deployment);
    }
    let tag = || paris.item().stock.charter().tag;
    let before = tag();
    let refused = json!({ "ask": "set-settings", "set": { "NEW": "1" }, "delete": ["ABSENT"] });
    assert!(paris.ask(refused).await.unwrap_err().to_string().contains("nothing was changed"));
    assert_eq!(tag(), before);
}
