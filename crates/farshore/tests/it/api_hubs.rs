//! Device hubs over HTTP and on the command line: what is asked of which region, and that no secret goes astray.

use farshore::api::views::{
    AuditView, HubConnectionStringView, HubDevicesView, HubEventsView, HubImportView, HubKeysView,
    HubMergeView, HubPolicyView, HubView,
};
use farshore_core::workload::StepError;
use reqwest::Method;
use serde_json::{Value, json};

use crate::access_matrix::stored;
use crate::api_bench::{Served, problem};
use crate::cli_verbs::run;
use crate::engine_sim::region;

const HUB: &str = "/api/v1/hubs/fleet";
const PRIMARY: &str = "cHJpbWFyeS1zZWNyZXQ=";
const SECONDARY: &str = "c2Vjb25kYXJ5LXNlY3JldA==";

fn device() -> Value {
    json!({
        "deviceId": "pump-1", "generationId": "g1", "etag": "AAA", "status": "enabled",
        "authentication": {"type": "sas", "symmetricKey": {"primaryKey": PRIMARY, "secondaryKey": SECONDARY}},
        "connectionState": "Connected", "messages_pending": 0, "quarantined_keys": 0,
        "twin": {"deviceId": "pump-1", "tags": {"place": "paris"}, "properties": {"desired": {"every": 5}}},
    })
}

/// The hub fleet in paris, protected to oslo, which answers everything.
async fn hub() -> Served {
    let served = Served::new().await;
    let create = json!({"kind": "hub", "name": "fleet", "region": "paris", "spec": {}});
    assert_eq!(served.run("/api/v1/items", &create).await.state, "succeeded");
    let job = served.run("/api/v1/items/hub/fleet/protect", &json!({"target": "oslo"})).await;
    assert_eq!(job.state, "succeeded");
    let policy =
        json!({"name": "service", "rights": ["ServiceConnect"], "primary": PRIMARY, "secondary": SECONDARY});
    let endpoints =
        json!({"mqtt": "mqtts://127.0.0.2:8883", "https": "https://127.0.0.2:8443", "amqp": null});
    let event = json!({"region": "paris", "offset": 3, "epoch": 1, "late": false, "device": "pump-1",
        "enqueued": "2026-11-21T05:00:00Z", "system": {}, "properties": {}, "body": "{\"t\":20}"});
    let merge = json!({"plan": true, "partner": "oslo", "policy": "by-group", "created": 2, "conflicts": [
        {"device": "pump-7", "group": "status", "why": "disabled-wins",
         "winner": {"region": "oslo", "epoch": 2, "at": "2026-11-21T03:00:00Z", "value": "disabled"},
         "losers": [{"region": "paris", "epoch": 1, "at": "2026-11-21T03:00:00Z", "value": "enabled"}]}]});
    let string = format!("HostName=fleet.hub.test;DeviceId=pump-1;SharedAccessKey={PRIMARY}");
    for (sort, answer) in [
        (
            "summary",
            json!({"hub": "fleet", "hosts": ["fleet.hub.test"], "endpoints": endpoints, "serving": true,
            "region": "paris", "groups": [{"name": "g", "cursor": {"paris": 3}, "behind": 1}]}),
        ),
        ("policies", json!([policy])),
        ("set-policy", policy.clone()),
        ("regenerate", json!({"name": "service", "rights": [], "primary": "anew", "secondary": SECONDARY})),
        ("delete-policy", json!({})),
        ("connection-string", json!({"connection_string": string, "ca": "-----BEGIN CERTIFICATE-----\n"})),
        ("devices", json!({"devices": [{"id": "pump-1", "status": "enabled", "auth": "sas"}], "next": null})),
        ("device", device()),
        ("device-add", device()),
        ("device-set", device()),
        ("device-keys", device()),
        ("device-remove", json!({})),
        ("twin", device()["twin"].clone()),
        ("twin-set", device()["twin"].clone()),
        ("method", json!({"status": 200, "payload": {"ok": true}})),
        ("send", json!({"message_id": "m1"})),
        ("export", json!({"lines": ["{\"id\":\"pump-1\"}"], "next": null})),
        ("import", json!({"applied": 2, "errors": [{"line": 3, "id": "b", "why": "it exists"}]})),
        ("events", json!({"events": [event], "next": {"paris": 4}, "missed": {"oslo": 2}})),
        ("checkpoint", json!({})),
        ("groups", json!([{"name": "g", "cursor": {"paris": 3}, "behind": 1}])),
        ("group-delete", json!({})),
        ("merge", merge),
        ("conflicts", json!({"open": [], "kept": 4, "file": "/data/conflicts.jsonl"})),
    ] {
        served.bench.sim.answer(sort, Ok(answer));
    }
    served
}

async fn audited(served: &Served) -> Vec<String> {
    let audit: Vec<AuditView> = served.get("/api/v1/audit?limit=1000").await;
    audit.into_iter().map(|entry| entry.what).collect()
}

#[tokio::test]
async fn keys_are_shown_only_when_they_are_asked_for_and_stand_in_no_record() {
    let served = hub().await;
    for path in ["", "/devices", "/devices/pump-1", "/devices/pump-1/twin", "/policies"] {
        let shown: Value = served.get(&format!("{HUB}{path}")).await;
        assert!(!shown.to_string().contains(PRIMARY), "{path}");
    }
    let added = served.post(&format!("{HUB}/devices"), &json!({"id": "pump-1"})).await;
    assert!(!added.text().await.unwrap().contains(PRIMARY));
    let keys: HubKeysView = served.get(&format!("{HUB}/devices/pump-1/keys")).await;
    assert_eq!((keys.primary.as_deref(), keys.secondary.as_deref()), (Some(PRIMARY), Some(SECONDARY)));
    assert!(!format!("{keys:?}").contains(PRIMARY), "it is not logged by accident");
    let policies: Vec<HubPolicyView> = served.get(&format!("{HUB}/policies?keys=true")).await;
    assert_eq!(policies[0].primary.as_deref(), Some(PRIMARY));
    let view: HubConnectionStringView =
        served.get(&format!("{HUB}/connection-string?device=pump-1%2Fvalve")).await;
    assert!(view.connection_string.contains(PRIMARY));
    for _ in 0..3 {
        let _: Value = served.get(&format!("{HUB}/export?keys=true")).await;
    }
    for (key, value) in stored(&served).await {
        let text = String::from_utf8_lossy(&value);
        for secret in [PRIMARY, SECONDARY] {
            assert!(!text.contains(secret), "{key} holds a secret");
        }
    }
    let audit = audited(&served).await;
    for line in [
        "asked to add the device pump-1 to hub/fleet",
        "asked for the keys of the device pump-1 of hub/fleet",
        "asked for the keys of all policies of hub/fleet",
        "asked for a connection string of hub/fleet for device pump-1/valve",
        "asked to export identities with their keys from hub/fleet",
    ] {
        assert_eq!(audit.iter().filter(|what| *what == line).count(), 1, "{line:?} in {audit:?}");
    }
}

#[tokio::test]
async fn questions_go_to_the_active_region_as_they_are_meant() {
    let served = hub().await;
    let paris = |question: Value| (region("paris"), question);
    served.bench.sim.questions();
    let _: HubDevicesView = served.get(&format!("{HUB}/devices?limit=5&after=a%2Fb&query=SELECT%20*")).await;
    let _: HubEventsView = served.get(&format!("{HUB}/events?cursor=%7B%22paris%22%3A3%7D&wait_ms=10")).await;
    let status = json!({"enabled": false, "reason": "stolen"});
    served.request(Method::PUT, &format!("{HUB}/devices/a%2Fb/status")).json(&status).send().await.unwrap();
    let twin = json!({"tags": {"place": null}});
    served.request(Method::PATCH, &format!("{HUB}/devices/a%23/twin")).json(&twin).send().await.unwrap();
    served.post(&format!("{HUB}/devices/a/methods"), &json!({"name": "open", "payload": [1]})).await;
    let merged = served.post(&format!("{HUB}/merge"), &json!({"plan": true})).await;
    assert_eq!(merged.json::<HubMergeView>().await.unwrap().created, 2);
    assert_eq!(
        served.bench.sim.questions(),
        [
            paris(json!({"ask": "devices", "limit": 5, "after": "a/b", "query": "SELECT *"})),
            paris(json!({"ask": "events", "limit": 100, "wait_ms": 10, "cursor": {"paris": 3}})),
            paris(json!({"ask": "device-set", "id": "a/b", "enabled": false, "reason": "stolen"})),
            paris(json!({"ask": "twin-set", "id": "a#", "tags": {"place": null}})),
            paris(json!({"ask": "method", "id": "a", "name": "open", "payload": [1], "timeout_seconds": 10})),
            paris(json!({"ask": "merge", "plan": true})),
        ]
    );
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anybody_is_asked() {
    let served = hub().await;
    served.bench.sim.questions();
    for (method, path, body, why) in [
        (Method::GET, "/devices?limit=0", json!({}), "limit: 0: give 1 to 1000"),
        (Method::GET, "/events?cursor=12", json!({}), "write it like {\"paris\":12}"),
        (Method::GET, "/events?wait_ms=60000", json!({}), "wait_ms: at most 10000"),
        (Method::GET, "/connection-string?policy=a&device=b", json!({}), "not both"),
        (Method::PUT, "/policies/a%20b", json!({"rights": ["RegistryRead"]}), "policy: its name"),
        (Method::PUT, "/policies/a", json!({"rights": ["Everything"]}), "rights: there is no \"Everything\""),
        (Method::PUT, "/policies/a", json!({"rights": []}), "rights: name at least one"),
        (Method::POST, "/policies/a/regenerate", json!({"which": "both"}), "choose primary or secondary"),
        (Method::POST, "/devices", json!({"id": "a", "auth": {"type": "magic"}}), "auth"),
        (Method::PATCH, "/devices/a/twin", json!({}), "give desired or tags"),
        (Method::PATCH, "/devices/a/twin", json!({"tags": [1]}), "tags"),
        (Method::POST, "/devices/a/methods", json!({"name": "m", "timeout_seconds": 60}), "give 1 to 10"),
        (
            Method::POST,
            "/devices/a/messages",
            json!({"body": "", "properties": {"$x": ""}}),
            "begin with '$'",
        ),
        (Method::POST, "/import", json!({"lines": vec![""; 1001]}), "lines: at most 1000"),
        (Method::POST, "/merge", json!({"policy": "mine"}), "policy: there is no \"mine\""),
    ] {
        let request = served.request(method.clone(), &format!("{HUB}{path}"));
        let request = if method == Method::GET { request } else { request.json(&body) };
        let refused = problem(request.send().await.unwrap()).await;
        assert_eq!(refused.status, 400, "{path}: {refused:?}");
        assert!(refused.detail.contains(why), "{path}: {}", refused.detail);
    }
    assert!(served.bench.sim.questions().is_empty());
}

#[tokio::test]
async fn a_piece_of_a_file_may_be_large_and_nothing_else() {
    let served = hub().await;
    let line = "x".repeat(1000);
    let lines = json!({"lines": vec![line; 900], "first_line": 7});
    let response = served.post(&format!("{HUB}/import"), &lines).await;
    assert_eq!(response.json::<HubImportView>().await.unwrap().applied, 2);
    let (_, question) = served.bench.sim.questions().pop().unwrap();
    assert_eq!(
        (question["first_line"].as_u64(), question["lines"].as_array().unwrap().len()),
        (Some(7), 900)
    );
    let body = json!({"body": "x".repeat(70_000)});
    assert_eq!(served.post(&format!("{HUB}/devices/a/messages"), &body).await.status(), 413);
    let lines = json!({"lines": ["x".repeat(2 << 20)]});
    assert_eq!(served.post(&format!("{HUB}/import"), &lines).await.status(), 413);
}

#[tokio::test]
async fn a_lost_answer_adds_nothing_twice() {
    let served = hub().await;
    served.bench.sim.questions();
    for (path, body, expected) in [
        ("/devices", json!({"id": "pump-1"}), ["device-add", "device"]),
        ("/policies/service/regenerate", json!({"which": "primary"}), ["regenerate", "policies"]),
        ("/devices/pump-1/keys", json!({"which": "both"}), ["device-keys", "device"]),
    ] {
        for sort in expected {
            let request =
                served.request(Method::POST, &format!("{HUB}{path}")).header("idempotency-key", path);
            assert_eq!(request.json(&body).send().await.unwrap().status(), 200, "{path}");
            assert_eq!(served.bench.sim.questions()[0].1["ask"], sort);
        }
    }
    let call = || {
        let request = served.request(Method::POST, &format!("{HUB}/devices/a/methods"));
        request.header("idempotency-key", "m").json(&json!({"name": "open"})).send()
    };
    assert_eq!(call().await.unwrap().status(), 200);
    let again = problem(call().await.unwrap()).await;
    assert!(again.detail.contains("it is not called again"), "{}", again.detail);
}

#[tokio::test]
async fn what_both_regions_know_is_asked_of_the_one_that_answers() {
    let served = hub().await;
    served.bench.sim.set_down("paris", true);
    let view: HubView = served.get(HUB).await;
    assert_eq!(view.hub, "fleet");
    let status = |path: &str| served.request(Method::GET, &format!("{HUB}{path}")).send();
    assert_eq!(status("/events").await.unwrap().status(), 503);
    served.bench.sim.set_down("paris", false);
    served.bench.sim.answer("device", Err(StepError::Fatal { what: "there is no device a".to_owned() }));
    let refused = problem(status("/devices/a").await.unwrap()).await;
    assert_eq!((refused.status, refused.detail.as_str()), (409, "there is no device a"));
    assert_eq!(served.request(Method::GET, "/api/v1/hubs/none").send().await.unwrap().status(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_is_made_in_two_regions_with_one_command() {
    let served = Served::new().await;
    let line = "hub create fleet --region paris --secondary oslo --host contoso.example --retention-hours 24 \
                --merge-policy newest";
    let (code, out, err) = run(&served, line).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("hub/fleet is served in paris and replicated to oslo\n"), "{out}");
    let (code, _, err) = run(&served, "hub create fleet --region paris").await;
    assert_eq!(code, 3, "{err}");
    let (code, out, _) = run(&served, "hub list").await;
    assert_eq!((code, out.contains("hub/fleet")), (0, true), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_hubs_have_is_on_the_command_line() {
    let served = hub().await;
    let ca = served.dir.path().join("ca.crt");
    let save_ca = format!("hub connection-string fleet --device pump-1 --gateway --save-ca {}", ca.display());
    for (line, expected) in [
        ("hub list", "hub/fleet"),
        ("hub show fleet", "mqtts://127.0.0.2:8883"),
        ("hub device add fleet pump-1", "next: farshore hub connection-string fleet --device pump-1"),
        ("hub device list fleet", "pump-1  enabled"),
        ("hub device show fleet pump-1", "\"place\": \"paris\""),
        ("hub device keys fleet pump-1", PRIMARY),
        ("hub device keys fleet pump-1 --regenerate both --yes", PRIMARY),
        ("hub device disable fleet pump-1 --reason stolen", "pump-1 may connect no more"),
        ("hub device enable fleet pump-1", "pump-1 may connect"),
        ("hub device remove fleet pump-1 --yes", "pump-1 is removed"),
        ("hub policy list fleet", "service  ServiceConnect"),
        ("hub policy list fleet --keys", PRIMARY),
        ("hub policy add fleet service --rights service-connect", "service opens ServiceConnect"),
        ("hub policy regenerate fleet service primary --yes", "anew"),
        ("hub policy delete fleet service --yes", "service is deleted"),
        ("hub twin show fleet pump-1", "\"every\": 5"),
        ("hub twin set fleet pump-1 --tags {\"place\":\"paris\"}", "\"place\": \"paris\""),
        ("hub send fleet pump-1 hello --property a=1", "message m1"),
        ("hub method fleet pump-1 open --payload [1]", "status 200"),
        ("hub export fleet", "{\"id\":\"pump-1\"}"),
        ("hub merge fleet --plan", "pump-7: status: who was disabled stays disabled"),
        ("hub merge fleet --yes", "2 new"),
        ("hub conflicts fleet", "4 were noted"),
        ("hub group list fleet", "g      1       paris 3"),
        ("hub group delete fleet g --yes", "g is forgotten"),
        ("hub monitor fleet --count 1 --from start", "pump-1            {\"t\":20}"),
        (&save_ca, ";GatewayHostName=127.0.0.2\n"),
    ] {
        let (code, out, err) = run(&served, line).await;
        assert_eq!(code, 0, "{line}: {err}");
        assert!(out.contains(expected), "{line}: {out}");
        assert!(
            line.contains("--keys") || out.lines().all(|line| line.chars().count() <= 120),
            "{line}: {out}"
        );
    }
    assert!(std::fs::read_to_string(&ca).unwrap().starts_with("-----BEGIN"));
    let (_, _, err) = run(&served, "hub connection-string fleet --device pump-1").await;
    assert!(err.contains("fleet.hub.test leads to mqtts://127.0.0.2:8883 in paris now"), "{err}");
    assert!(err.contains("--save-ca FILE"), "{err}");
    for (line, code, why) in [
        ("hub device remove fleet pump-1", 2, "add --yes"),
        ("hub device keys fleet pump-1 --regenerate primary", 2, "add --yes"),
        ("hub policy delete fleet service", 2, "add --yes"),
        ("hub merge fleet", 2, "add --yes"),
        ("hub delete fleet", 2, "add --yes"),
        ("hub device add fleet a --auth self-signed", 2, "--primary <KEY>"),
        ("hub policy add fleet p --rights everything", 2, "registry-read"),
        ("hub monitor fleet --from yesterday", 2, "write start, now, or a moment"),
        ("hub twin set fleet a", 2, "--desired <JSON>"),
        ("hub show none", 3, "there is hub/fleet"),
        ("hub import fleet /nowhere", 2, "cannot read /nowhere"),
        ("hub export fleet /nowhere/file", 1, "cannot write /nowhere/file.new"),
    ] {
        let (status, _, err) = run(&served, line).await;
        assert_eq!(status, code, "{line}: {err}");
        assert!(err.contains(why), "{line}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_identities_go_in_and_out() {
    let served = hub().await;
    let path = |name: &str| served.dir.path().join(name).display().to_string();
    let (file, errors) = (path("devices.txt"), path("errors"));
    std::fs::write(&file, b"{\"id\":\"a\"}\n\n{\"id\":\"b\"}\n\xff\n").unwrap();
    let (code, out, err) = run(&served, &format!("hub import fleet {file} --mode create")).await;
    assert_eq!((code, out.as_str()), (1, "3 lines: 2 applied, 2 wrong\n"), "{err}");
    assert!(err.contains("line 3 (b): it exists\nline 4: it is not UTF-8\n"), "{err}");
    assert!(err.contains("2 lines were not imported; the others were"), "{err}");
    let (_, question) = served.bench.sim.questions().pop().unwrap();
    let lines = json!(["{\"id\":\"a\"}", "", "{\"id\":\"b\"}", ""]);
    assert_eq!(
        (&question["lines"], &question["mode"], &question["first_line"]),
        (&lines, &json!("create"), &json!(1))
    );
    let (code, _, _) = run(&served, &format!("hub import fleet {file} --errors {errors}")).await;
    let told = std::fs::read_to_string(&errors).unwrap();
    assert_eq!((code, told.lines().count()), (1, 2), "{told}");
    assert!(told.starts_with("{\"line\":3,\"id\":\"b\",\"why\":\"it exists\"}\n"), "{told}");

    let out = path("out.txt");
    let (code, said, err) = run(&served, &format!("hub export fleet {out}")).await;
    assert_eq!((code, said), (0, format!("1 lines are in {out}\n")), "{err}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "{\"id\":\"pump-1\"}\n");
    served.bench.sim.answer("export", Err(StepError::Fatal { what: "no".to_owned() }));
    let (code, _, _) = run(&served, &format!("hub export fleet {out}")).await;
    assert_eq!(code, 3);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "{\"id\":\"pump-1\"}\n", "what was there stays");
    assert!(!std::path::Path::new(&format!("{out}.new")).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_goes_on_with_its_cursor_across_a_failover() {
    let served = hub().await;
    // What it waits for is said on the far shore only.
    let page = |device: &str| {
        let event =
            json!({"region": "paris", "offset": 3, "device": device, "enqueued": "2026-11-21T05:00:00Z"});
        Ok(json!({"events": [event], "next": {"paris": 4}, "missed": {"oslo": 2}}))
    };
    served.bench.sim.answer("events", page("other"));
    let line = "hub monitor fleet --group g --device pump-1 --count 1 --output json";
    served.bench.sim.questions();
    let failover = async {
        // After its first page, the region is gone for a moment.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut seen = Vec::new();
        while !seen.iter().any(|(_, question): &(_, Value)| question["ask"] == "checkpoint") {
            assert!(tokio::time::Instant::now() < deadline, "the monitor does not read");
            seen.extend(served.bench.sim.questions());
            tokio::task::yield_now().await;
        }
        served.bench.sim.set_down("paris", true);
        let job = served.run("/api/v1/items/hub/fleet/failover", &json!({"source_is_down": true})).await;
        assert_eq!(job.state, "succeeded", "{job:?}");
        served.bench.sim.answer("events", page("pump-1"));
        seen
    };
    let ((code, out, err), seen) = tokio::join!(run(&served, line), failover);
    assert_eq!((code, out.lines().count()), (0, 1), "{err}");
    let first = json!({"ask": "events", "limit": 500, "wait_ms": 10_000, "group": "g", "from": "start"});
    assert_eq!(seen[0], (region("paris"), first));
    let after = served.bench.sim.questions();
    let from_oslo = after.iter().find(|(at, question)| *at == region("oslo") && question["ask"] == "events");
    let next = json!({"ask": "events", "limit": 500, "wait_ms": 10_000, "cursor": {"paris": 4}});
    assert_eq!(from_oslo.map(|(_, question)| question), Some(&next), "{err}");
    assert!(err.contains("warning: 2 events of oslo are no longer kept"), "{err}");
    // It may have looked away while nobody answered; what it saw, it says once.
    let said = |text: &str| err.matches(text).count();
    assert!(said("going on as soon as it answers") <= 1, "{err}");
    assert_eq!(said("going on as soon as it answers"), said("it answers again"), "{err}");
}
