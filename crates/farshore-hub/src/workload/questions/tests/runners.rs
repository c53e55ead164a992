//! Sinks and members, as an operator sets them.

use super::*;
use crate::fleet::Standing;

const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA==";

fn member(host: &str) -> Value {
    let connection_string =
        format!("HostName={host};SharedAccessKeyName=iothubowner;SharedAccessKey={SECRET}");
    json!({"ask": "set-member", "name": "berlin", "connection_string": connection_string})
}

#[tokio::test]
async fn sinks_and_members_are_set_shown_without_secrets_and_taken_away() {
    let hub = hub("paris", 1).await;
    assert_eq!(hub.ask(json!({"ask": "sinks"})).await, json!([]));
    let set = hub.ask(json!({"ask": "set-sink", "name": "bus", "url": "nats://me:secret@127.0.0.1:1"})).await;
    assert_eq!(
        (&set["url"], &set["stream"], &set["subject"], &set["group"]),
        (
            &json!("nats://127.0.0.1:1"),
            &json!("farshore-fleet"),
            &json!("farshore.fleet"),
            &json!("sink.bus")
        )
    );
    // Nobody listens there: it says so, and goes on trying.
    let seen = until(async || {
        let sinks = hub.ask(json!({"ask": "sinks"})).await;
        (sinks[0]["state"] == "failing").then_some(sinks)
    })
    .await;
    assert!(seen[0]["failing"].as_str().unwrap().contains("the NATS server is away"), "{seen}");
    assert!(hub.desk.runners.warnings()[0].contains("the sink bus does not go on"));

    hub.ask(member("127.0.0.1:1")).await;
    let members = hub.ask(json!({"ask": "members"})).await;
    assert_eq!(
        (&members[0]["host"], &members[0]["policy"], &members[0]["direction"], &members[0]["every_seconds"]),
        (&json!("127.0.0.1:1"), &json!("iothubowner"), &json!("from"), &json!(300))
    );
    for shown in [seen, members, json!(format!("{:?}", hub.desk))] {
        assert!(!shown.to_string().contains("secret") && !shown.to_string().contains(SECRET), "{shown}");
    }
    for (question, what) in [("delete-sink", "bus"), ("delete-member", "berlin")] {
        hub.ask(json!({"ask": question, "name": what})).await;
    }
    until(async || {
        (hub.desk.runners.sink("bus").is_none() && hub.desk.runners.member("berlin").is_none()).then_some(())
    })
    .await;
    assert_eq!(
        (hub.ask(json!({"ask": "sinks"})).await, hub.ask(json!({"ask": "members"})).await),
        (json!([]), json!([]))
    );
}

#[tokio::test]
async fn a_region_that_does_not_serve_runs_nothing_and_says_what_is_set() {
    let hub = hub("paris", 1).await;
    hub.ask(json!({"ask": "set-sink", "name": "bus", "url": "nats://127.0.0.1:1", "stream": "S"})).await;
    hub.ask(member("127.0.0.1:1")).await;
    let runs = || hub.desk.runners.sink("bus").is_some() && hub.desk.runners.member("berlin").is_some();
    until(async || runs().then_some(())).await;
    hub.desk.fleet.stand_by();
    until(async || (!runs() && hub.desk.runners.sink("bus").is_none()).then_some(())).await;
    let (sinks, members) = (hub.ask(json!({"ask": "sinks"})).await, hub.ask(json!({"ask": "members"})).await);
    assert_eq!((&sinks[0]["state"], &members[0]["state"]), (&json!("standby"), &json!("standby")));
    for question in [
        member("other.test"),
        json!({"ask": "set-sink", "name": "bus", "url": "nats://127.0.0.1:1"}),
        json!({"ask": "delete-sink", "name": "bus"}),
        json!({"ask": "delete-member", "name": "berlin"}),
        json!({"ask": "run-member", "name": "berlin"}),
    ] {
        assert!(hub.refusal(question).await.contains("does not serve in paris now"));
    }
    hub.desk.fleet.open_to_devices(Epoch(3), Standing::Current);
    until(async || runs().then_some(())).await;
}

#[tokio::test]
async fn a_run_that_is_asked_for_is_answered_when_it_is_over() {
    let hub = hub("paris", 1).await;
    hub.ask(member("127.0.0.1:1")).await;
    // Nobody is there, which is known only after minutes of patience: the answer says how to ask again.
    let asked = tokio::time::timeout(
        Duration::from_secs(60),
        hub.ask(json!({"ask": "run-member", "name": "berlin"})),
    );
    let report = asked.await.unwrap();
    assert!(report["running"] == true && report["run"].as_u64().is_some_and(|run| run > 0), "{report}");
    for (question, why) in [
        (json!({"ask": "run-member", "name": "none"}), "there is no member \"none\"; there are: berlin"),
        (json!({"ask": "run-member", "name": "berlin", "run": 99}), "run it again"),
        (json!({"ask": "delete-sink", "name": "none"}), "there is no sink \"none\"; there is none"),
        (json!({"ask": "set-sink", "name": "a b", "url": "nats://a"}), "a sink is named by"),
        (json!({"ask": "set-sink", "name": "a", "url": "http://a"}), "is no NATS server"),
        (json!({"ask": "set-sink", "name": "a", "url": "nats://a", "stream": "a.b"}), "the stream \"a.b\""),
        (json!({"ask": "set-sink", "name": "a", "url": "nats://a", "ca": "x"}), "write tls://"),
        (
            json!({"ask": "set-sink", "name": "a", "url": "tls://a", "ca": "x"}),
            "this is no certificate authority",
        ),
        (
            json!({"ask": "set-member", "name": "a", "connection_string": "HostName=a"}),
            "SharedAccessKey is missing",
        ),
        (json!({"ask": "set-member", "name": "", "connection_string": "x"}), "a member is named by"),
    ] {
        let said = hub.refusal(question).await;
        assert!(said.contains(why), "{said}");
    }
    for number in 0..16 {
        let mut question = member("127.0.0.1:1");
        question["name"] = json!(if number == 0 { "berlin".to_owned() } else { format!("m{number}") });
        hub.ask(question).await;
    }
    let mut question = member("127.0.0.1:1");
    question["name"] = json!("one-more");
    assert!(hub.refusal(question).await.contains("at most 16 members"));
}

async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
