//! Every route of the OpenAPI document times every role, with real tokens, over a port of this machine.

use std::collections::BTreeMap;

use farshore::api::document;
use farshore::api::views::NewTokenView;
use farshore_core::access::{Right, Role};
use farshore_core::store::Store;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::api_bench::{Served, problem};

/// A token of each role.
pub(crate) async fn tokens(served: &Served) -> BTreeMap<Role, NewTokenView> {
    let mut tokens = BTreeMap::new();
    for role in Role::ALL {
        let asked = json!({"name": format!("the-{role}"), "role": role});
        let made = served.post("/api/v1/tokens", &asked).await;
        assert_eq!(made.status(), 201);
        tokens.insert(role, made.json().await.unwrap());
    }
    tokens
}

/// A route that wants a token, and the right that it declares.
struct Route {
    method: Method,
    path: String,
    right: Right,
}

fn routes() -> Vec<Route> {
    let document = serde_json::to_value(document()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security = &operation["security"];
            if *security == json!([{}]) {
                continue;
            }
            let right = security[0]["token"][0].as_str().and_then(Right::parse);
            let right = right.unwrap_or_else(|| panic!("{method} {path} declares no right"));
            // Things that exist, so that a request that slips through would change something.
            let path = path.replace("{kind}", "machine").replace("{id}", "NONE");
            let of_item = path.contains("/items/");
            let path = path.replace("{name}", if of_item { "web-1" } else { "oslo" });
            routes.push(Route { method: method.to_uppercase().parse().unwrap(), path, right });
        }
    }
    routes
}

/// A body that the route takes, for the routes that change something without one job being in the way of the next.
fn body(path: &str) -> Value {
    match path.rsplit('/').next().unwrap() {
        "items" => json!({"kind": "machine", "name": "web-2", "region": "paris", "spec": {}}),
        "protect" => json!({"target": "oslo"}),
        "change-point" => json!({"point": "latest"}),
        "mark-point" => json!({"name": "a"}),
        "skip" | "abandon" => json!({"reason": "a test"}),
        "tokens" => json!({"name": "another", "role": "admin"}),
        _ => json!({}),
    }
}

/// All that is in the store.
pub(crate) async fn stored(served: &Served) -> Vec<(String, Vec<u8>)> {
    let (entries, _) = served.bench.store.list("").await.unwrap();
    entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

#[tokio::test]
async fn a_role_that_is_too_low_is_refused_everywhere_and_changes_nothing() {
    let served = Served::protected().await;
    let tokens = tokens(&served).await;
    // That an executor is alive is written now and then, whoever asks for what.
    let asked_for = |(key, _): &(String, Vec<u8>)| !key.starts_with("executors/");
    let before: Vec<_> = stored(&served).await.into_iter().filter(asked_for).collect();
    let mut refused = 0;
    for Route { method, path, right } in routes() {
        let bare = served.bare(method.clone(), &path).json(&body(&path)).send().await.unwrap();
        assert_eq!(bare.status(), 401, "{method} {path} without a token");
        for (role, token) in tokens.iter().filter(|(role, _)| !role.may(right)) {
            let request = served.bare(method.clone(), &path).bearer_auth(&token.secret);
            let answer = request.json(&body(&path)).send().await.unwrap();
            assert_eq!(answer.status(), 403, "{method} {path} as {role}");
            let problem = problem(answer).await;
            assert_eq!(problem.code(), "forbidden");
            assert!(problem.detail.contains(&format!("needs the role {}", right.least())), "{problem:?}");
            refused += 1;
        }
    }
    assert!(refused > 25, "only {refused}");
    let after: Vec<_> = stored(&served).await.into_iter().filter(asked_for).collect();
    assert_eq!(after, before, "nothing was changed");
}

#[tokio::test]
async fn a_role_that_is_enough_is_let_through_everywhere() {
    let served = Served::new().await;
    let tokens = tokens(&served).await;
    let routes = routes();
    assert!(routes.len() > 30);
    for right in Right::ALL {
        assert!(routes.iter().any(|route| route.right == right), "no route needs {right}");
    }
    for Route { method, path, right } in routes {
        for (role, token) in tokens.iter().filter(|(role, _)| role.may(right)) {
            let request = served.bare(method.clone(), &path).bearer_auth(&token.secret);
            let status = request.json(&body(&path)).send().await.unwrap().status().as_u16();
            assert!(![401, 403, 405, 429].contains(&status), "{method} {path} as {role}: {status}");
        }
    }
}

#[tokio::test]
async fn the_role_is_checked_before_the_body_is_read() {
    let served = Served::protected().await;
    let tokens = tokens(&served).await;
    let address = served.url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    // Nine of the ten bytes of the body never come.
    let head = format!(
        "POST /api/v1/items/machine/web-1/failover HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{",
        tokens[&Role::Reader].secret
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
}

#[tokio::test]
async fn who_asked_stands_in_the_job_and_in_the_audit() {
    let served = Served::protected().await;
    let tokens = tokens(&served).await;
    let operator = &tokens[&Role::Operator].secret;
    let path = "/api/v1/items/machine/web-1/mark-point";
    let request = served.bare(Method::POST, path).bearer_auth(operator).json(&json!({"name": "a"}));
    let job: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(job["asked_by"], "the-operator");
    let audit: Vec<Value> = served.get("/api/v1/audit").await;
    let by = |who: &str| audit.iter().filter(|entry| entry["who"] == who).count();
    assert!(by("the-operator") >= 1);
    let made = audit.iter().filter(|entry| entry["what"].as_str().unwrap().starts_with("made the token "));
    assert!(made.clone().count() == 4 && made.clone().all(|entry| entry["who"] == "bootstrap"));
}
