//! Sinks and members over HTTP and on the command line: what is asked of which region, and that no secret goes astray.

use farshore::api::views::{AuditView, HubMemberReportView, HubMemberView, HubSinkView};
use reqwest::Method;
use serde_json::{Value, json};

use crate::access_matrix::stored;
use crate::api_bench::{Served, problem};
use crate::cli_verbs::run;
use crate::engine_sim::region;

const HUB: &str = "/api/v1/hubs/fleet";
const KEY: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA==";
const PASSWORD: &str = "hush-hush";

fn connection_string() -> String {
    format!("HostName=works.test;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}")
}

/// The hub fleet in paris, protected to oslo, which answers everything.
async fn hub() -> Served {
    let served = Served::new().await;
    let create = json!({"kind": "hub", "name": "fleet", "region": "paris", "spec": {}});
    assert_eq!(served.run("/api/v1/items", &create).await.state, "succeeded");
    let job = served.run("/api/v1/items/hub/fleet/protect", &json!({"target": "oslo"})).await;
    assert_eq!(job.state, "succeeded");
    let sink = json!({"name": "bus", "url": "nats://bus.test:4222", "stream": "FLEET", "subject": "fleet",
        "state": "running", "behind": 3, "published": 7});
    let report = json!({"run": 4, "at": "2026-11-21T05:00:00Z", "created": 2, "unchanged": 9, "seconds": 0.5,
        "next": "2026-11-21T05:05:00Z"});
    let member = json!({"name": "works", "host": "works.test", "policy": "iothubowner", "direction": "from",
        "every_seconds": 300, "state": "waiting", "next": "2026-11-21T05:05:00Z", "report": report});
    for (sort, answer) in [
        ("sinks", json!([sink])),
        ("set-sink", sink),
        ("delete-sink", json!({})),
        ("members", json!([member])),
        ("set-member", member),
        ("delete-member", json!({})),
        ("run-member", report),
    ] {
        served.bench.sim.answer(sort, Ok(answer));
    }
    served
}

#[tokio::test]
async fn questions_go_to_the_active_region_and_secrets_stand_in_no_record() {
    let served = hub().await;
    served.bench.sim.questions();
    let url = format!("nats://me:{PASSWORD}@bus.test:4222");
    let put = async |path: &str, body: &Value| {
        let answer = served.request(Method::PUT, &format!("{HUB}{path}")).json(body).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    };
    put("/sinks/bus", &json!({"url": url, "stream": "FLEET"})).await;
    put("/members/works", &json!({"connection_string": connection_string(), "prune": true})).await;
    let ran = served.post(&format!("{HUB}/members/works/run"), &json!({"plan": true, "run": 4})).await;
    assert_eq!(ran.json::<HubMemberReportView>().await.unwrap().created, 2);
    served.post(&format!("{HUB}/members/works/run"), &json!({})).await;
    let sinks: Vec<HubSinkView> = served.get(&format!("{HUB}/sinks")).await;
    let members: Vec<HubMemberView> = served.get(&format!("{HUB}/members")).await;
    assert_eq!((sinks[0].behind, members[0].report.as_ref().unwrap().unchanged), (3, 9));
    for path in ["/sinks/bus", "/members/works"] {
        let answer =
            served.request(Method::DELETE, &format!("{HUB}{path}")).json(&json!({})).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    let paris = |question: Value| (region("paris"), question);
    assert_eq!(
        served.bench.sim.questions(),
        [
            paris(json!({"ask": "set-sink", "name": "bus", "url": url, "stream": "FLEET"})),
            paris(json!({"ask": "set-member", "name": "works", "connection_string": connection_string(),
                "every_seconds": 300, "direction": "from", "prune": true})),
            paris(json!({"ask": "run-member", "name": "works", "plan": true, "run": 4})),
            paris(json!({"ask": "run-member", "name": "works", "plan": false})),
            paris(json!({"ask": "sinks"})),
            paris(json!({"ask": "members"})),
            paris(json!({"ask": "delete-sink", "name": "bus"})),
            paris(json!({"ask": "delete-member", "name": "works"})),
        ]
    );
    for (key, value) in stored(&served).await {
        let text = String::from_utf8_lossy(&value);
        assert!(!text.contains(KEY) && !text.contains(PASSWORD), "{key} holds a secret");
    }
    let audit: Vec<AuditView> = served.get("/api/v1/audit?limit=1000").await;
    for line in [
        "asked to set the sink bus of hub/fleet",
        "asked to set the member works of hub/fleet: from works.test, deleting what only one side has",
        "asked to run the member works of hub/fleet",
        "asked to remove the sink bus of hub/fleet",
        "asked to remove the member works of hub/fleet",
    ] {
        assert_eq!(audit.iter().filter(|entry| entry.what == line).count(), 1, "{line}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anybody_is_asked() {
    let served = hub().await;
    served.bench.sim.questions();
    let member = |change: Value| {
        let mut body = json!({"connection_string": connection_string()});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    for (path, body, why) in [
        ("/sinks/a%20b", json!({"url": "nats://a"}), "sink: its name has 1 to 48"),
        ("/sinks/a", json!({}), "url"),
        ("/sinks/a", json!({"url": "http://me:hush-hush@a"}), "\"http://a\" is no NATS server"),
        ("/sinks/a", json!({"url": "nats://a", "stream": "a.b"}), "the stream \"a.b\" cannot be used"),
        ("/sinks/a", json!({"url": "tls://a", "ca": "x"}), "ca: this is no certificate authority"),
        ("/members/a%2Fb", member(json!({})), "member: its name has 1 to 48"),
        ("/members/a", member(json!({"connection_string": "HostName=a"})), "SharedAccessKey is missing"),
        ("/members/a", member(json!({"every_seconds": 5})), "every_seconds: 5 is not between 10 and 86400"),
        ("/members/a", member(json!({"direction": "both"})), "direction"),
        ("/members/a", member(json!({"ca": "x"})), "ca: this is no certificate authority"),
    ] {
        let request = served.request(Method::PUT, &format!("{HUB}{path}")).json(&body);
        let refused = problem(request.send().await.unwrap()).await;
        assert_eq!(refused.status, 400, "{path}: {refused:?}");
        assert!(refused.detail.contains(why), "{path}: {}", refused.detail);
        assert!(!refused.detail.contains(KEY) && !refused.detail.contains(PASSWORD), "{}", refused.detail);
    }
    assert!(served.bench.sim.questions().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sinks_and_members_are_on_the_command_line() {
    let served = hub().await;
    let path = |name: &str| served.dir.path().join(name).display().to_string();
    let (file, url, empty) = (path("works.connection"), path("url"), path("empty"));
    std::fs::write(&file, format!("{}\n", connection_string())).unwrap();
    std::fs::write(&url, format!("nats://me:{PASSWORD}@bus.test:4222\n")).unwrap();
    std::fs::write(&empty, "").unwrap();
    let add = format!("hub member add fleet works --connection-string-file {file}");
    for (line, expected) in [
        ("hub sink list fleet", "bus   running  3       7          FLEET   nats://bus.test:4222"),
        (&format!("hub sink add fleet bus --url @{url}"), "bus publishes fleet.> into the stream FLEET"),
        ("hub sink remove fleet bus --yes", "bus is removed"),
        ("hub member list fleet", "works   from  works.test (iothubowner)"),
        (&add, "works: what differs is taken over from works.test every 5 min 0 s"),
        (
            &format!("{add} --prune --yes --every 1h --direction to"),
            "next: farshore hub member run fleet works --plan",
        ),
        ("hub member run fleet works --plan", "identities  2 new, 9 the same"),
        ("hub member remove fleet works --yes", "works is removed"),
    ] {
        let (code, out, err) = run(&served, line).await;
        assert_eq!(code, 0, "{line}: {err}");
        assert!(out.contains(expected), "{line}: {out}");
        assert!(out.lines().all(|line| line.chars().count() <= 120), "{line}: {out}");
    }
    for (line, code, why) in [
        ("hub sink add fleet bus", 2, "--url <URL>"),
        ("hub sink remove fleet bus", 2, "add --yes"),
        ("hub sink add fleet bus --url http://a", 2, "is no NATS server"),
        ("hub member add fleet works", 2, "--connection-string-file <FILE>"),
        (&format!("{add} --prune"), 2, "will be deleted from hub/fleet"),
        (&format!("{add} --every 5"), 2, "write it like 90d, 12h, 30m or 45s"),
        (&format!("{add} --every 5s"), 2, "every_seconds: 5 is not between"),
        ("hub member add fleet works --connection-string-file /nowhere", 2, "/nowhere cannot be read"),
        (&format!("hub member add fleet works --connection-string-file {empty}"), 2, "is empty"),
        (&format!("{add} --server-ca /nowhere"), 2, "--server-ca: cannot read /nowhere"),
    ] {
        let (status, _, err) = run(&served, line).await;
        assert_eq!(status, code, "{line}: {err}");
        assert!(err.contains(why), "{line}: {err}");
    }
    let failed =
        json!({"run": 5, "failures": 1, "failed": [{"id": "pump-7", "why": "its keys are not shown"}]});
    served.bench.sim.answer("run-member", Ok(failed));
    let (code, out, err) = run(&served, "hub member run fleet works").await;
    assert_eq!(code, 1, "{err}");
    assert!(
        out.contains("pump-7: its keys are not shown") && err.contains("1 identity was not taken over"),
        "{out}{err}"
    );
}
