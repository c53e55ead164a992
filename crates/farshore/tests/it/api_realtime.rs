//! Real-time hubs over HTTP: what is asked of which region, and that no secret goes astray.

use farshore::api::views::{
    AuditView, ConnectionStringView, DrainView, HandlersView, KeysView, MembersView, NegotiateView,
    StatsView, UserEventsView,
};
use farshore_core::workload::StepError;
use reqwest::Method;
use serde_json::{Value, json};

use crate::access_matrix::stored;
use crate::api_bench::{Served, problem};
use crate::cli_verbs::run;
use crate::engine_sim::region;

const HUB: &str = "/api/v1/realtime/chat";
const PRIMARY: &str = "cHJpbWFyeS1zZWNyZXQ=";
const SECONDARY: &str = "c2Vjb25kYXJ5LXNlY3JldA==";

/// The hub chat in paris, protected to oslo, with keys.
async fn hub() -> Served {
    let served = Served::new().await;
    let create = json!({"kind": "realtime", "name": "chat", "region": "paris", "automatic_failover": true,
                        "spec": {"mode": "active-passive", "audiences": []}});
    assert_eq!(served.run("/api/v1/items", &create).await.state, "succeeded");
    let job = served.run("/api/v1/items/realtime/chat/protect", &json!({"target": "oslo"})).await;
    assert_eq!(job.state, "succeeded");
    let sim = &served.bench.sim;
    sim.answer("keys", Ok(json!({"primary": PRIMARY, "secondary": SECONDARY})));
    sim.answer("regenerate", Ok(json!({"primary": "anew", "secondary": SECONDARY})));
    let endpoints = json!({"url": "http://127.0.0.1:1", "pair_url": "http://127.0.0.1:2/"});
    sim.answer("endpoints", Ok(endpoints));
    sim.answer("stats", Ok(json!({"connections": 7})));
    sim.answer("drain", Ok(json!({"closing": 7})));
    sim.answer("negotiate", Ok(json!({"url": "http://127.0.0.1:1", "region": "paris", "primary": true})));
    sim.answer("set-members", Ok(json!({})));
    served
}

#[tokio::test]
async fn keys_are_asked_of_the_active_region_and_stand_in_no_record() {
    let served = hub().await;
    let keys: KeysView = served.get(&format!("{HUB}/keys")).await;
    assert_eq!((keys.primary.as_str(), keys.secondary.as_str()), (PRIMARY, SECONDARY));
    assert!(!format!("{keys:?}").contains(PRIMARY), "it is not logged by accident");
    assert_eq!(served.bench.sim.questions(), [(region("paris"), json!({"ask": "keys"}))]);
    let asked = json!({"key": "primary"});
    let response = served.post(&format!("{HUB}/keys/regenerate"), &asked).await;
    assert_eq!(response.json::<KeysView>().await.unwrap().primary, "anew");
    let question = json!({"ask": "regenerate", "key": "primary"});
    assert_eq!(served.bench.sim.questions(), [(region("paris"), question)]);
    let text = |which: &str| format!("Endpoint=http://127.0.0.1:{which};Version=1.0;");
    for (query, expected) in [
        ("", text(&format!("2;AccessKey={PRIMARY}"))),
        ("?which=secondary&of=region", text(&format!("1;AccessKey={SECONDARY}"))),
        ("?region=oslo&of=region", text(&format!("1;AccessKey={PRIMARY}"))),
    ] {
        let view: ConnectionStringView = served.get(&format!("{HUB}/connection-string{query}")).await;
        assert_eq!(view.connection_string, expected, "{query}");
    }
    let members = json!({"members": ["Endpoint=http://elsewhere;AccessKey=bWVtYmVy;"]});
    let request = served.request(Method::PUT, &format!("{HUB}/members")).json(&members);
    let view: MembersView = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(view.members, 1);
    for (key, value) in stored(&served).await {
        let text = String::from_utf8_lossy(&value);
        for secret in [PRIMARY, SECONDARY, "bWVtYmVy"] {
            assert!(!text.contains(secret), "{key} holds a secret");
        }
    }
    let audit: Vec<AuditView> = served.get("/api/v1/audit?limit=1000").await;
    for line in [
        "asked for the access keys of realtime/chat",
        "asked to make the primary access key of realtime/chat anew",
        "asked for a connection string of realtime/chat with the secondary key",
        "asked to give the pair of realtime/chat 1 other members",
    ] {
        let found = audit.iter().find(|entry| entry.what == line);
        let found = found.unwrap_or_else(|| panic!("{line:?} is not in the audit"));
        assert_eq!((found.who.as_str(), found.item.as_deref()), ("bootstrap", Some("realtime/chat")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_is_made_in_two_regions_with_one_command() {
    let served = Served::new().await;
    served.bench.sim.answer("set-members", Ok(json!({})));
    let file = served.dir.path().join("member");
    std::fs::write(&file, "Endpoint=http://elsewhere;AccessKey=bWVtYmVy;\n").unwrap();
    let line = format!(
        "realtime create chat --region paris --secondary oslo --mode active-active --hub-audience https://chat.example.com \
         --member @{}",
        file.display()
    );
    let (code, out, err) = run(&served, &line).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("realtime/chat is served in paris and oslo\n"), "{out}");
    let (at, question) = served.bench.sim.questions().remove(0);
    assert_eq!((at, question["ask"].as_str()), (region("paris"), Some("set-members")));
    assert_eq!(question["members"], json!(["Endpoint=http://elsewhere;AccessKey=bWVtYmVy;"]));
    let item: Value = served.get("/api/v1/items/realtime/chat").await;
    assert_eq!(
        (item["phase"].as_str(), item["automatic_failover"].as_bool()),
        (Some("Protected"), Some(true))
    );
    for (key, value) in stored(&served).await {
        assert!(!String::from_utf8_lossy(&value).contains("bWVtYmVy"), "{key} holds a secret");
    }
    let (code, _, err) = run(&served, "realtime create chat --region paris").await;
    assert_eq!(code, 3, "{err}");
    let (code, _, err) = run(&served, "realtime create other --region paris --member @/nowhere").await;
    assert_eq!((code, err.contains("cannot read /nowhere")), (2, true), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_hubs_have_is_on_the_command_line() {
    let served = hub().await;
    let handlers = json!({"handlers": [
        {"url_template": "https://app/{event}", "user_events": {"list": ["a"]}, "system_events": [], "auth": {"bearer": "t"}},
    ]});
    served.bench.sim.answer("handlers", Ok(handlers.clone()));
    served.bench.sim.answer("set-handlers", Ok(handlers));
    for (line, expected) in [
        ("realtime list", "realtime/chat"),
        ("realtime show chat", "Protected"),
        ("realtime key list chat", PRIMARY),
        ("realtime key regenerate chat primary --yes", "anew"),
        ("realtime connection-string chat", "Endpoint=http://127.0.0.1:2;AccessKey="),
        ("realtime connection-string chat --of region --region oslo", "Endpoint=http://127.0.0.1:1;"),
        ("realtime handler list chat", "https://app/{event}"),
        (
            "realtime handler set chat --url https://app/{event} --events a,b --system connect",
            "https://app/{event}",
        ),
        ("realtime stats chat", "connections  7      7"),
        (
            "realtime drain chat --region oslo --per-second 20",
            "7 connections in oslo are being closed, 20 a second",
        ),
        ("realtime negotiate chat", "http://127.0.0.1:1"),
    ] {
        let (code, out, err) = run(&served, line).await;
        assert_eq!(code, 0, "{line}: {err}");
        assert!(out.contains(expected), "{line}: {out}");
    }
    let (code, _, err) = run(&served, "realtime key regenerate chat primary").await;
    assert_eq!((code, err.contains("add --yes")), (2, true), "it is not done by accident: {err}");
    let (code, _, err) = run(&served, "realtime drain chat --region rome").await;
    assert_eq!((code, err.contains("it is in paris and oslo")), (2, true), "{err}");
}

#[tokio::test]
async fn a_key_is_made_anew_once_however_often_the_answer_is_lost() {
    let served = hub().await;
    for expected in ["regenerate", "keys"] {
        let path = format!("{HUB}/keys/regenerate");
        let request = served.request(Method::POST, &path).header("idempotency-key", "k");
        assert_eq!(request.json(&json!({"key": "primary"})).send().await.unwrap().status(), 200);
        assert_eq!(served.bench.sim.questions()[0].1["ask"], expected);
    }
}

#[tokio::test]
async fn handlers_are_checked_before_anybody_is_asked() {
    let served = hub().await;
    let handlers = json!({"handlers": [
        {"url_template": "https://app/{event}", "user_events": "*", "system_events": ["connect"]},
        {"url_template": "https://app/b", "user_events": ["a", "b"]},
    ]});
    // As the workload tells of them.
    let told = json!({"handlers": [
        {"url_template": "https://app/{event}", "user_events": "all", "system_events": ["connect"], "auth": "none"},
        {"url_template": "https://app/b", "user_events": {"list": ["a", "b"]}, "system_events": [], "auth": "none"},
    ], "warnings": ["it does not answer yet"]});
    served.bench.sim.answer("set-handlers", Ok(told.clone()));
    let put = |body: Value| served.request(Method::PUT, &format!("{HUB}/handlers")).json(&body).send();
    let view: HandlersView = put(handlers).await.unwrap().json().await.unwrap();
    assert_eq!(view.handlers[0].user_events, UserEventsView::Word("*".to_owned()));
    assert_eq!(view.warnings, ["it does not answer yet"]);
    let (at, question) = served.bench.sim.questions().remove(0);
    assert_eq!((at, &question["handlers"]), (region("paris"), &told["handlers"]));
    for (body, why) in [
        (json!({"handlers": [{"url_template": "x"}]}), "handlers[0].url_template"),
        (
            json!({"handlers": [{"url_template": "http://x", "system_events": ["x"]}]}),
            "handlers[0].system_events",
        ),
        (json!({"handlers": [{"url_template": "http://x", "colour": 1}]}), "unknown field `colour`"),
    ] {
        let refused = put(body).await.unwrap();
        assert_eq!(refused.status(), 400);
        let problem = problem(refused).await;
        assert!(problem.detail.contains(why), "{problem:?}");
    }
    assert!(served.bench.sim.questions().is_empty());
}

#[tokio::test]
async fn a_drain_goes_to_the_region_that_is_named() {
    let served = hub().await;
    let asked = json!({"region": "oslo", "per_second": 20});
    let view: DrainView = served.post(&format!("{HUB}/drain"), &asked).await.json().await.unwrap();
    assert_eq!((view.region.as_str(), view.closing), ("oslo", 7));
    let question = json!({"ask": "drain", "per_second": 20});
    assert_eq!(served.bench.sim.questions(), [(region("oslo"), question)]);
    for (body, why) in [
        (json!({"region": "rome"}), "realtime/chat is not in \"rome\"; it is in paris and oslo"),
        (json!({"per_second": 0}), "give 1 to 10000"),
    ] {
        let problem = problem(served.post(&format!("{HUB}/drain"), &body).await).await;
        assert!(problem.detail.contains(why), "{problem:?}");
    }
}

#[tokio::test]
async fn a_region_that_is_down_is_told_apart_from_one_that_refuses() {
    let served = hub().await;
    served.bench.sim.set_down("oslo", true);
    let stats: StatsView = served.get(&format!("{HUB}/stats")).await;
    let told: Vec<(&str, bool)> =
        stats.regions.iter().map(|one| (one.region.as_str(), one.error.is_none())).collect();
    assert_eq!(told, [("paris", true), ("oslo", false)]);
    assert_eq!(stats.regions[0].stats["connections"], 7);

    let get = |path: &str| served.request(Method::GET, &format!("{HUB}/{path}")).send();
    served.bench.sim.answer("keys", Err(StepError::Fatal { what: "it has none yet".to_owned() }));
    let refused = problem(get("keys").await.unwrap()).await;
    assert_eq!(
        (refused.status, refused.code(), refused.detail.as_str()),
        (409, "not-possible", "it has none yet")
    );
    served.bench.sim.answer("keys", Ok(json!({"primary": PRIMARY})));
    let odd = problem(get("keys").await.unwrap()).await;
    assert_eq!((odd.status, odd.detail.contains(PRIMARY)), (502, false));
    assert_eq!(get("nothing").await.unwrap().status(), 404);
    let missing = served.request(Method::GET, "/api/v1/realtime/nobody/keys").send().await.unwrap();
    assert_eq!(missing.status(), 404);
}

#[tokio::test]
async fn what_both_regions_know_is_asked_of_the_one_that_answers() {
    let served = hub().await;
    served.bench.sim.set_down("paris", true);
    let advice: NegotiateView = served.get(&format!("{HUB}/negotiate")).await;
    assert!(advice.primary);
    assert!(served.bench.sim.questions().iter().any(|(at, _)| *at == region("oslo")));
    served.bench.sim.answer("negotiate", Ok(json!({"url": "", "region": "", "primary": false})));
    let response = served.request(Method::GET, &format!("{HUB}/negotiate")).send().await.unwrap();
    assert_eq!(problem(response).await.code(), "nobody-healthy");
}
