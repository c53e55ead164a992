//! The life of a token: made, shown once, used, ended; and a node that cannot ask the store.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use farshore::access::Token;
use farshore::api::router;
use farshore::api::views::{AuditView, NewTokenView, TokenView, WhoamiView};
use farshore::engine::{Control, Options};
use farshore_core::access::Role;
use farshore_core::store::{CommitError, Entry, ReadError, Revision, Store, Transaction, Watch};
use farshore_store::mem::MemStore;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use crate::access_matrix::{stored, tokens};
use crate::api_bench::{Served, TOKEN, problem};

async fn create(served: &Served, body: &Value) -> Response {
    served.post("/api/v1/tokens", body).await
}

async fn made(served: &Served, name: &str, role: &str) -> NewTokenView {
    let answer = create(served, &json!({"name": name, "role": role})).await;
    assert_eq!(answer.status(), 201);
    answer.json().await.unwrap()
}

async fn get(served: &Served, token: &str, path: &str) -> Response {
    served.bare(Method::GET, path).bearer_auth(token).send().await.unwrap()
}

#[tokio::test]
async fn a_token_is_made_used_listed_and_revoked() {
    let served = Served::new().await;
    let ci = made(&served, "ci", "operator").await;
    assert!(ci.secret.starts_with(&format!("fst_{}_", ci.token.id)));
    assert_eq!((ci.token.state.as_str(), ci.token.created_by.as_str()), ("good", "bootstrap"));
    let who: WhoamiView = get(&served, &ci.secret, "/api/v1/whoami").await.json().await.unwrap();
    assert_eq!((who.name.as_str(), who.token.as_deref()), ("ci", Some(ci.token.id.as_str())));
    assert_eq!(who.expires_at.as_ref(), Some(&ci.token.expires_at));
    let who: WhoamiView = served.get("/api/v1/whoami").await;
    assert_eq!((who.name.as_str(), who.token), ("bootstrap", None));

    let path = format!("/api/v1/tokens/{}", ci.token.id);
    for _ in 0..2 {
        let answer = served.request(Method::DELETE, &path).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let view: TokenView = answer.json().await.unwrap();
        assert_eq!((view.state.as_str(), view.revoked_by.as_deref()), ("revoked", Some("bootstrap")));
    }
    let refused = get(&served, &ci.secret, "/api/v1/whoami").await;
    assert_eq!(refused.status(), 401, "at once, at the node that revoked it");
    assert!(problem(refused).await.detail.contains("the token ci was revoked at "));
    let listed: Vec<TokenView> = served.get("/api/v1/tokens").await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].state, "revoked");
    let audit: Vec<AuditView> = served.get("/api/v1/audit").await;
    let revoked = audit.iter().filter(|entry| entry.what.contains("revoked the token ci")).count();
    assert_eq!(revoked, 1, "the repeat changed nothing");
    made(&served, "ci", "reader").await;
}

#[tokio::test]
async fn each_token_that_is_not_taken_says_why() {
    let served = Served::new().await;
    let short = create(&served, &json!({"name": "short", "role": "reader", "expires_in_seconds": 1})).await;
    let short: NewTokenView = short.json().await.unwrap();
    let good = made(&served, "good", "reader").await.secret;
    // The same record, another secret.
    let forged = Token::generate().unwrap();
    let mistyped = format!("{}{}", &good[..good.len() - 1], if good.ends_with('a') { 'b' } else { 'a' });
    let ended = async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let answer = get(&served, &short.secret, "/api/v1/whoami").await;
            if answer.status() == 401 || tokio::time::Instant::now() > deadline {
                return problem(answer).await.detail;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(ended.await.contains("the token short expired at "));
    let says = async |token: &str| {
        let answer = get(&served, token, "/api/v1/whoami").await;
        assert_eq!(answer.status(), 401, "{token}");
        problem(answer).await.detail
    };
    assert!(says(&mistyped).await.contains("mistyped or cut off"));
    assert!(says(&good[..30]).await.contains("mistyped or cut off"));
    assert!(says(forged.reveal()).await.contains("not known here"));
    assert!(says("farshore-9876543210").await.contains("not the one of this cluster"));
    assert_eq!(get(&served, &good, "/api/v1/whoami").await.status(), 200);
}

#[tokio::test]
async fn a_token_that_cannot_be_is_refused_and_nothing_is_made() {
    let served = Served::new().await;
    made(&served, "taken", "reader").await;
    let before = stored(&served).await;
    let table = [
        (json!({"name": "taken", "role": "admin"}), 409, "revoke it first"),
        (json!({"name": "", "role": "admin"}), 400, "name: "),
        (json!({"name": "a b", "role": "admin"}), 400, "name: "),
        (json!({"name": "a\nb", "role": "admin"}), 400, "name: "),
        (json!({"name": "x".repeat(41), "role": "admin"}), 400, "name: "),
        (json!({"name": "bootstrap", "role": "reader"}), 400, "calls itself"),
        (json!({"name": "control-plane", "role": "reader"}), 400, "calls itself"),
        (json!({"name": "a", "role": "root"}), 400, "role: unknown variant"),
        (json!({"name": "a", "role": "reader", "expires_in_seconds": 0}), 400, "expires_in_seconds"),
        (json!({"name": "a", "role": "reader", "expires_in_seconds": 366 * 86_400 + 1}), 400, "a year"),
        (json!({"name": "a", "role": "reader", "secret": "mine"}), 400, "unknown field"),
    ];
    for (body, status, says) in table {
        let answer = create(&served, &body).await;
        assert_eq!(answer.status(), status, "{body}");
        let detail = problem(answer).await.detail;
        assert!(detail.contains(says), "{body}: {detail}");
    }
    for id in ["none", "aaaaaaaaaa", "..%2Fmeta"] {
        let answer = served.request(Method::DELETE, &format!("/api/v1/tokens/{id}")).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{id}");
    }
    assert_eq!(stored(&served).await, before);
}

#[tokio::test]
async fn two_that_make_a_token_of_one_name_at_once_make_one() {
    let served = Served::new().await;
    let asked = json!({"name": "one", "role": "reader"});
    let answers = futures_util::future::join_all((0..8).map(|_| create(&served, &asked))).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status().as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 409].contains(status)), "{statuses:?}");
    let listed: Vec<TokenView> = served.get("/api/v1/tokens").await;
    assert_eq!(listed.len(), 1);
}

#[tokio::test]
async fn a_repeat_whose_answer_was_lost_makes_no_second_token() {
    let served = Served::new().await;
    let ask = async |body: Value| {
        let request = served.request(Method::POST, "/api/v1/tokens").header("idempotency-key", "k");
        request.json(&body).send().await.unwrap()
    };
    assert_eq!(ask(json!({"name": "a", "role": "reader"})).await.status(), 201);
    assert_eq!(ask(json!({"name": "a", "role": "reader"})).await.status(), 409);
    assert_eq!(ask(json!({"name": "b", "role": "reader"})).await.status(), 422);
}

/// What was logged.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_a_log_in_the_store_or_in_any_answer() {
    let log = Log::default();
    let into = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("farshore=trace")
        .with_writer(move || into.clone())
        .finish();
    // One thread: what the control plane logs is logged here.
    let _logging = tracing::subscriber::set_default(subscriber);
    let served = Served::protected().await;
    let tokens = tokens(&served).await;
    let mut told = String::new();
    let mut secrets = vec![TOKEN.to_owned()];
    for (role, token) in &tokens {
        secrets.push(token.secret.clone());
        for path in
            ["/api/v1/tokens", "/api/v1/whoami", "/api/v1/jobs", "/api/v1/audit?limit=1000", "/metrics"]
        {
            told.push_str(&get(&served, &token.secret, path).await.text().await.unwrap());
        }
        let verb = served.bare(Method::POST, "/api/v1/items/machine/web-1/mark-point");
        let asked = verb.bearer_auth(&token.secret).json(&json!({"name": format!("p-{role}")}));
        told.push_str(&asked.send().await.unwrap().text().await.unwrap());
        // A secret where a name belongs is refused, and not repeated by the log.
        let wrong = &token.secret[..token.secret.len() - 1];
        told.push_str(&get(&served, wrong, "/api/v1/items").await.text().await.unwrap());
    }
    let revoke = format!("/api/v1/tokens/{}", tokens[&Role::Reader].token.id);
    told.push_str(&served.request(Method::DELETE, &revoke).send().await.unwrap().text().await.unwrap());
    told.push_str(&get(&served, &tokens[&Role::Reader].secret, "/api/v1/items").await.text().await.unwrap());
    let kept: String = stored(&served)
        .await
        .iter()
        .map(|(key, value)| format!("{key} {}\n", String::from_utf8_lossy(value)))
        .collect();
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let debugged = format!("{tokens:?}");
    assert!(logged.contains("refused a token") && logged.contains("another role is needed"), "{logged}");
    assert!(kept.contains("tokens/") && told.contains("made the token"));
    for (place, text) in [("log", logged), ("store", kept), ("answers", told), ("debug", debugged)] {
        for secret in &secrets {
            // Also not in part: after the id, which is no secret.
            let part = &secret[secret.len() - 15..];
            assert!(!text.contains(part), "{place} tells a secret: {text}");
        }
    }
}

/// A store that can be cut off.
#[derive(Debug, Clone)]
struct Cut {
    store: MemStore,
    off: Arc<AtomicBool>,
}

impl Cut {
    fn check(&self) -> Result<(), String> {
        if self.off.load(Ordering::SeqCst) { Err("cut off by the test".to_owned()) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for Cut {
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.check().map_err(ReadError::Unavailable)?;
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), ReadError> {
        self.check().map_err(ReadError::Unavailable)?;
        self.store.list(prefix).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        self.check().map_err(CommitError::Unavailable)?;
        self.store.commit(transaction).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        self.check().map_err(ReadError::Unavailable)?;
        self.store.watch(prefix, after).await
    }
}

/// Two control nodes on one store, each with its own way to it.
struct Nodes {
    served: Served,
    http: Client,
    url: String,
    off: Arc<AtomicBool>,
    _server: tokio::task::JoinHandle<()>,
}

impl Nodes {
    async fn new() -> Self {
        let served = Served::new().await;
        let off = Arc::new(AtomicBool::new(false));
        let store = Cut { store: served.bench.store.clone(), off: Arc::clone(&off) };
        let agents = Arc::new(served.bench.sim.clone());
        let control = Control::start(Arc::new(store), agents, Vec::new(), Options::default()).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = router(control, TOKEN);
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let http = Client::builder().no_proxy().build().unwrap();
        Self { served, http, url, off, _server: server }
    }

    /// Asks the second node.
    async fn other(&self, method: Method, path: &str, token: &str) -> Response {
        let request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        request.json(&json!({})).send().await.unwrap()
    }
}

#[tokio::test]
async fn a_token_that_is_made_or_revoked_at_one_node_is_known_at_the_other() {
    let nodes = Nodes::new().await;
    let ci = made(&nodes.served, "ci", "operator").await;
    let status = async || nodes.other(Method::GET, "/api/v1/whoami", &ci.secret).await.status();
    assert_eq!(status().await, 200, "at once, though it was never seen there");
    let path = format!("/api/v1/tokens/{}", ci.token.id);
    nodes.served.request(Method::DELETE, &path).send().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while status().await != 401 {
        assert!(tokio::time::Instant::now() < deadline, "the revocation never arrives");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn without_the_store_a_known_token_looks_and_changes_nothing() {
    let nodes = Nodes::new().await;
    let known = made(&nodes.served, "known", "admin").await.secret;
    assert_eq!(nodes.other(Method::GET, "/api/v1/whoami", &known).await.status(), 200);
    let unseen = Token::generate().unwrap();
    nodes.off.store(true, Ordering::SeqCst);
    // Until what was read is no longer fresh.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let refusal = loop {
        let answer = nodes.other(Method::DELETE, "/api/v1/tokens/aaaaaaaaaa", &known).await;
        let problem = problem(answer).await;
        if problem.detail.contains("answers only what it knows") || tokio::time::Instant::now() > deadline {
            break problem;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((refusal.status, refusal.code()), (503, "store"));
    assert_eq!(nodes.other(Method::GET, "/api/v1/whoami", &known).await.status(), 200, "it still looks");
    let answer = nodes.other(Method::GET, "/api/v1/whoami", unseen.reveal()).await;
    assert_eq!(answer.status(), 503, "nobody can say whether this one is good");
    assert!(problem(answer).await.detail.contains("ask another node"));
    assert_eq!(nodes.other(Method::GET, "/api/v1/whoami", TOKEN).await.status(), 200);
    nodes.off.store(false, Ordering::SeqCst);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while nodes.other(Method::DELETE, "/api/v1/tokens/aaaaaaaaaa", &known).await.status() != 404 {
        assert!(tokio::time::Instant::now() < deadline, "the store is back, the token is not");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_interface_without_a_safe_token_opens_to_nobody() {
    let served = Served::new().await;
    for token in ["", " ", "short", "15-characters.."] {
        let routes = router(served.control.clone(), token);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let http = Client::builder().no_proxy().build().unwrap();
        for sent in [format!("Bearer {token}"), "Bearer ".to_owned(), "Bearer".to_owned()] {
            let request = http.get(format!("{url}/api/v1/items")).header("authorization", sent);
            assert_eq!(request.send().await.unwrap().status(), 401, "{token:?}");
        }
        server.abort();
    }
}
