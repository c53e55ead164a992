//! The management wire of mobile services: its calls and answers, word by word.

use farshore::engine::JobVerb;
use farshore_core::access::Role;
use farshore_core::ids::JobId;
use farshore_core::job::JobState;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::app_sim::{Served, TOKEN, app, apps, until};
use crate::engine_sim::{job_until, rested};

const SERVICES: &str = "/sub-1/services/mobileservices/mobileservices";

async fn call(served: &Served, method: Method, path: &str) -> Response {
    served.send(method, path, TOKEN, None).await
}

/// An answer of text, its status and its type.
async fn text(response: Response) -> (u16, String, String) {
    let content_type = response.headers().get("content-type");
    let content_type = content_type.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    (response.status().as_u16(), content_type, response.text().await.unwrap())
}

async fn refusal(response: Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
    (status, body["code"].as_str().unwrap().to_owned(), body["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn services_are_listed_and_shown_with_their_keys() {
    let served = Served::new(apps().await).await;
    let all: Vec<Value> = served.get(SERVICES).await;
    let names: Vec<&str> = all.iter().map(|service| service["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["todo", "todo-dr"]);
    let one: Value = served.get(&format!("{SERVICES}/todo")).await;
    assert_eq!(one, all[0]);
    for (key, value) in [
        ("type", "ZumoApp"),
        ("state", "Ready"),
        ("applicationUrl", "http://todo.app.farshore.internal:8080"),
        ("applicationKey", "application-key"),
        ("masterKey", "master-key"),
        ("region", "paris"),
        ("webspace", "PARISWEBSPACE"),
        ("sourceRepositoryUrl", "http://todo.scm.farshore.internal:8080/todo.git"),
        ("deploymentTriggerUrl", "http://todo.scm.farshore.internal:8080/todo.git"),
        ("backendVersion", env!("CARGO_PKG_VERSION")),
        ("platform", "node"),
    ] {
        assert_eq!(one[key], value, "{key}");
    }
    assert_eq!(one["tables"], json!([]));
    let regions: Value = served.get("/sub-1/services/mobileservices/regions").await;
    assert_eq!(regions, json!([{"region": "oslo"}, {"region": "paris"}]));
    served.apps.bench.sim.set_down("paris", true);
    let lost: Value = served.get(&format!("{SERVICES}/todo")).await;
    assert_eq!((&lost["state"], &lost["applicationKey"]), (&json!("Unhealthy"), &json!("application-key")));
    let absent = refusal(call(&served, Method::GET, &format!("{SERVICES}/nobody")).await).await;
    assert_eq!((absent.0, absent.1.as_str()), (404, "not-found"));
}

#[tokio::test]
async fn an_application_is_xml_and_its_removal_an_operation() {
    let served = Served::new(apps().await).await;
    let (status, kind, body) =
        text(call(&served, Method::GET, "/sub-1/applications/todomobileservice").await).await;
    assert_eq!((status, kind.as_str()), (200, "application/xml; charset=utf-8"));
    assert!(body.starts_with(
        "<Application xmlns=\"http://schemas.microsoft.com/windowsazure\"><Name>todomobileservice</Name>"
    ));
    assert!(body.contains("<State>Healthy</State><InternalResources><InternalResource>"), "{body}");
    assert!(body.ends_with("</InternalResources><ExternalResources/></Application>"), "{body}");

    let gone = call(&served, Method::DELETE, "/sub-1/applications/nobodymobileservice").await;
    assert_eq!(gone.status(), 202);
    let id = gone.headers()["x-ms-request-id"].to_str().unwrap().to_owned();
    let (status, _, body) = text(call(&served, Method::GET, &format!("/sub-1/operations/{id}")).await).await;
    let expected = format!(
        "<Operation xmlns=\"http://schemas.microsoft.com/windowsazure\"><ID>{id}</ID><Status>Succeeded</Status>\
         <HttpStatusCode>200</HttpStatusCode></Operation>"
    );
    assert_eq!((status, body), (200, expected));
    let there = call(&served, Method::DELETE, "/sub-1/applications/todo-drmobileservice").await;
    assert_eq!(there.status(), 202);
    let id = there.headers()["x-ms-request-id"].to_str().unwrap().to_owned();
    let look =
        || async { text(call(&served, Method::GET, &format!("/sub-1/operations/{id}")).await).await.2 };
    until("its removal", look, |body: &String| body.contains("<Status>Succeeded</Status>")).await;
    assert_eq!(served.control.item(&app("todo-dr")).await.unwrap(), None);
    let absent = refusal(call(&served, Method::GET, "/sub-1/operations/none").await).await;
    assert_eq!((absent.0, absent.1.as_str()), (404, "not-found"));
}

#[tokio::test]
async fn a_removal_that_is_stuck_is_in_progress_until_it_is_given_up() {
    let served = Served::new(apps().await).await;
    served.apps.bench.sim.fail_at("/delete/do");
    let begun = call(&served, Method::DELETE, "/sub-1/applications/todo-drmobileservice").await;
    assert_eq!(begun.status(), 202);
    let id = begun.headers()["x-ms-request-id"].to_str().unwrap().to_owned();
    let job = rested(&served.control, &JobId(id.clone())).await;
    assert!(matches!(job.state, JobState::Stuck { .. }), "{:?}", job.state);
    let said = |status: &str, code: &str| {
        format!(
            "<Operation xmlns=\"http://schemas.microsoft.com/windowsazure\"><ID>{id}</ID><Status>{status}</Status>\
             <HttpStatusCode>{code}</HttpStatusCode></Operation>"
        )
    };
    let look =
        || async { text(call(&served, Method::GET, &format!("/sub-1/operations/{id}")).await).await.2 };
    assert_eq!(look().await, said("InProgress", "200"));
    served
        .control
        .steer(&job.id, JobVerb::Abandon { reason: "oslo burnt down".into() }, "ann")
        .await
        .unwrap();
    job_until(&served.control, &job.id, |job| job.state.is_terminal()).await;
    assert_eq!(look().await, said("Failed", "500"));
}

#[tokio::test]
async fn a_migration_that_comes_to_nothing_has_failed_and_so_has_a_recovery() {
    let served = Served::new(apps().await).await;
    served.apps.change("todo", |card| card.state = "failed");
    served.apps.bench.sim.fail_at("/drain/do");
    let migrate = format!("{SERVICES}/todo/migrate");
    let (status, _, id) =
        text(call(&served, Method::POST, &format!("{migrate}?targetMobileService=todo-dr")).await).await;
    assert_eq!((status, id.len()), (200, 32), "{id}");
    let look = || async {
        let path = format!("{migrate}?operationId={id}");
        let (status, _, state) = text(call(&served, Method::GET, &path).await).await;
        assert_eq!(status, 200);
        assert!(["Running", "Failed"].contains(&state.as_str()), "{state}");
        state
    };
    until("its end", look, |state: &String| state == "Failed").await;
    let recover = format!("{SERVICES}/todo/recover?targetMobileService=todo-dr");
    let (status, code, message) = refusal(call(&served, Method::POST, &recover).await).await;
    assert_eq!((status, code.as_str()), (500, "migration-failed"));
    assert!(message.contains("made to fail"), "{message}");
    let item = served.control.item(&app("todo")).await.unwrap().unwrap();
    assert_eq!(item.source.as_str(), "paris");
    assert!(served.control.item(&app("todo-dr")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_migration_has_an_id_in_plain_text_and_runs_until_it_is_complete() {
    let served = Served::new(apps().await).await;
    let migrate = format!("{SERVICES}/todo/migrate");
    let path = format!("{migrate}?targetMobileService=todo-dr");
    let healthy = refusal(call(&served, Method::POST, &path).await).await;
    assert_eq!((healthy.0, healthy.1.as_str()), (409, "primary-healthy"));
    served.apps.bench.sim.set_down("paris", true);
    let (status, kind, id) = text(call(&served, Method::POST, &path).await).await;
    assert_eq!((status, kind.as_str(), id.len()), (200, "text/plain; charset=utf-8", 32));
    assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let look = || async {
        let path = format!("{migrate}?operationId={id}");
        let (status, kind, state) = text(call(&served, Method::GET, &path).await).await;
        assert_eq!((status, kind.as_str()), (200, "text/plain; charset=utf-8"));
        assert!(["Running", "Completed"].contains(&state.as_str()), "{state}");
        state
    };
    until("its end", look, |state: &String| state == "Completed").await;
    let other = format!("{SERVICES}/todo-dr/migrate?operationId={id}");
    assert_eq!(call(&served, Method::GET, &other).await.status(), 404, "it is another one's");
    // What the tool asks for now is done already.
    let gone = call(&served, Method::DELETE, "/sub-1/applications/todo-drmobileservice").await;
    assert_eq!(gone.status(), 202);
    let item = served.control.item(&app("todo")).await.unwrap().unwrap();
    assert_eq!(item.source.as_str(), "oslo");
}

#[tokio::test]
async fn a_recovery_answers_when_it_is_done() {
    let served = Served::new(apps().await).await;
    served.apps.bench.sim.set_down("paris", true);
    let recover = format!("{SERVICES}/todo/recover");
    let wrong = refusal(call(&served, Method::POST, &recover).await).await;
    assert_eq!((wrong.0, wrong.1.as_str()), (400, "invalid"));
    let path = format!("{recover}?targetMobileService=todo-dr");
    assert_eq!(call(&served, Method::POST, &path).await.status(), 200);
    assert_eq!(served.control.item(&app("todo-dr")).await.unwrap(), None);
    let again = refusal(call(&served, Method::POST, &path).await).await;
    assert_eq!((again.0, again.1.as_str()), (404, "not-found"));
}

#[tokio::test]
async fn sizes_settings_keys_and_logs_are_as_named() {
    let served = Served::new(apps().await).await;
    let path = |rest: &str| format!("{SERVICES}/todo/{rest}");
    let size: Value = served.get(&path("scalesettings")).await;
    assert_eq!(size, json!({"tier": "tier2", "numberOfInstances": 2}));
    let put = async |rest: &str, body: Value| served.send(Method::PUT, &path(rest), TOKEN, Some(body)).await;
    let size: Value =
        put("scalesettings", json!({"tier": "tier3", "numberOfInstances": "4"})).await.json().await.unwrap();
    assert_eq!(size, json!({"tier": "tier3", "numberOfInstances": 4}));
    for (wrong, says) in [
        (json!({"tier": "tier9"}), "tier: \"tier9\" is no mode"),
        (json!({"numberOfInstances": "many"}), "numberOfInstances: \"many\" is no number"),
        (json!({"tier": "tier1", "numberOfInstances": 2}), "numberOfInstances: free has 1 to 1"),
    ] {
        let (status, code, message) = refusal(put("scalesettings", wrong).await).await;
        assert_eq!((status, code.as_str()), (400, "invalid"));
        assert!(message.starts_with(says), "{message}");
    }
    let settings: Value = served.get(&path("settings")).await;
    assert_eq!(settings, json!({"A": "1"}));
    let patched =
        served.send(Method::PATCH, &path("settings"), TOKEN, Some(json!({"A": "1", "B": null}))).await;
    assert_eq!(patched.status(), 200);
    let keys: Value = served
        .send(Method::POST, &path("regenerateKey?type=application"), TOKEN, None)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(keys, json!({"applicationKey": "application-key", "masterKey": "master-key"}));
    let keys: Value =
        put("keys", json!({"Type": "application", "Value": "chosen"})).await.json().await.unwrap();
    assert_eq!(keys["applicationKey"], "chosen");
    for rest in ["restart", "redeploy"] {
        assert_eq!(call(&served, Method::POST, &path(rest)).await.status(), 200, "{rest}");
    }
    let logs: Value = served.get(&path("logs?$top=5")).await;
    assert_eq!(logs["results"][0]["message"], "two", "the newest first: {logs}");
}

#[tokio::test]
async fn it_asks_for_the_same_rights_and_answers_in_its_own_words() {
    let served = Served::new(apps().await).await;
    let bare = served.send(Method::GET, SERVICES, "wrong", None).await;
    let (status, code, _) = refusal(bare).await;
    assert_eq!((status, code.as_str()), (401, "unauthorised"));
    let token = async |role: Role| {
        let made = served.post("/api/v1/tokens", json!({"name": format!("a-{role}"), "role": role})).await;
        made.json::<Value>().await.unwrap()["secret"].as_str().unwrap().to_owned()
    };
    let (reader, operator) = (token(Role::Reader).await, token(Role::Operator).await);
    let shown: Value =
        served.send(Method::GET, &format!("{SERVICES}/todo"), &reader, None).await.json().await.unwrap();
    assert_eq!(
        (&shown["name"], &shown["applicationKey"], &shown["masterKey"]),
        (&json!("todo"), &json!(""), &json!(""))
    );
    let path = format!("{SERVICES}/todo/migrate?targetMobileService=todo-dr");
    let (status, code, _) = refusal(served.send(Method::POST, &path, &reader, None).await).await;
    assert_eq!((status, code.as_str()), (403, "forbidden"));
    let settings = served.send(Method::GET, &format!("{SERVICES}/todo/settings"), &operator, None).await;
    assert_eq!(settings.status(), 403);
    let log = async |who: &str| {
        served.send(Method::GET, &format!("{SERVICES}/todo/logs?$top=5"), who, None).await.status().as_u16()
    };
    assert_eq!(
        (log(&reader).await, log(&operator).await),
        (403, 200),
        "an app may print what not all may read"
    );
    let removal = |name: &str| format!("/sub-1/applications/{name}mobileservice");
    let there = served.send(Method::DELETE, &removal("todo-dr"), &operator, None).await;
    assert_eq!(there.status(), 403, "removing an app needs more than recovering one");
    let gone = served.send(Method::DELETE, &removal("nobody"), &operator, None).await;
    assert_eq!(gone.status(), 202);
    let nothing = refusal(call(&served, Method::GET, &format!("{SERVICES}/todo/nothing")).await).await;
    assert_eq!(nothing.0, 404);
    let ours = call(&served, Method::GET, "/api/v1/nothing").await;
    assert_eq!(ours.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn without_being_asked_for_it_is_not_there() {
    let served = crate::api_bench::Served::new().await;
    let response = served.request(Method::GET, SERVICES).send().await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
}
