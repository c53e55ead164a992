//! Apps in simulated regions: what `engine_sim` has, with the answers that only apps give, over a port of this machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use farshore::api::{Compat, router_with};
use farshore::engine::{Control, CrashAt, Options, RegionRecord};
use farshore::serve::{ServeLimits, listen};
use farshore::trust::Trust;
use farshore_core::agents::Agents;
use farshore_core::command::Command;
use farshore_core::fencing::OnControlLoss;
use farshore_core::ids::{ItemId, Region, Token};
use farshore_core::job::JobState;
use farshore_core::moment::Moment;
use farshore_core::workload::{Observation, Order, ReplicationMode, Role, StepError};
use reqwest::{Client, Method, Response};
use rustls::ServerConfig;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::engine_sim::{Bench, region, rested};

pub(crate) const TOKEN: &str = "farshore-0123456789";
/// Nothing here takes as long: only a hang does.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an app's regions say of it.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    pub(crate) mode: &'static str,
    pub(crate) instances: u32,
    pub(crate) state: &'static str,
    pub(crate) lent_to: Option<String>,
    /// For which migration.
    pub(crate) lent_by: Option<String>,
    pub(crate) reserve_for: Option<&'static str>,
    pub(crate) same: bool,
    pub(crate) database_answers: bool,
    /// What scaling is refused with.
    pub(crate) no_room: Option<&'static str>,
    /// Why the region that follows it could not run it.
    pub(crate) cannot_promote: Option<&'static str>,
}

impl Default for Card {
    fn default() -> Self {
        Self {
            mode: "basic",
            instances: 2,
            state: "running",
            lent_to: None,
            lent_by: None,
            reserve_for: None,
            same: true,
            database_answers: true,
            no_room: None,
            cannot_promote: None,
        }
    }
}

/// The regions, and what they say of apps.
#[derive(Debug, Clone)]
pub(crate) struct Apps {
    pub(crate) bench: Bench,
    cards: Arc<Mutex<BTreeMap<ItemId, Card>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Apps {
    fn cards(&self) -> MutexGuard<'_, BTreeMap<ItemId, Card>> {
        self.cards.lock().unwrap()
    }

    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Card)) {
        change(self.cards().entry(app(name)).or_default());
    }

    pub(crate) fn card(&self, name: &str) -> Card {
        self.cards().get(&app(name)).cloned().unwrap_or_default()
    }

    /// What was asked that changes something, oldest first.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        let mut cards = self.cards();
        let card = cards.entry(item.clone()).or_default();
        let sort = question["ask"].as_str().unwrap();
        if !["summary", "scripts-check", "keys", "settings", "log"].contains(&sort) {
            self.asked.lock().unwrap().push(format!("{sort} {item}"));
        }
        match sort {
            "lend" => {
                let said = |what: &str| question[what].as_str().map(str::to_owned);
                (card.lent_to, card.lent_by) = (said("to"), said("migration"));
            }
            "take-back" => {
                let by = question["migration"] == json!(card.lent_by) || card.lent_by.is_none();
                if by && question["of"] == json!(card.lent_to) {
                    (card.lent_to, card.lent_by) = (None, None);
                }
            }
            "scale" => {
                if let Some(why) = card.no_room {
                    return Err(StepError::Fatal { what: why.to_owned() });
                }
                if let Some(mode) = question["mode"].as_str() {
                    card.mode = ["free", "basic", "standard"].into_iter().find(|one| *one == mode).unwrap();
                }
                card.instances = question["instances"].as_u64().map_or(card.instances, |count| count as u32);
            }
            "scripts-check" => {
                let differences =
                    if card.same { json!([]) } else { json!([{"path": "a.js", "what": "changed"}]) };
                return Ok(
                    json!({"commit": "c", "tree": "t", "same": card.same, "differences": differences}),
                );
            }
            "keys" | "regenerate" | "set-keys" => {
                let application = question["application"].as_str().unwrap_or("application-key");
                return Ok(json!({"application": application, "master": "master-key", "deployment": "d",
                                 "git_url": "https://todo.scm.farshore.internal/todo.git"}));
            }
            "settings" | "set-settings" => return Ok(json!({"settings": {"A": "1"}})),
            "log" => {
                return Ok(
                    json!({"lines": ["2026-11-21T05:00:00Z 1/out one", "2026-11-21T05:00:01Z 1/err two"]}),
                );
            }
            "restart" => return Ok(json!({"operation": "1"})),
            "summary" => {}
            other => return Err(StepError::Fatal { what: format!("no {other} here") }),
        }
        let name = item.name.as_str();
        Ok(json!({
            "name": name, "urls": [format!("http://{name}.app.farshore.internal:8080")],
            "git_url": format!("http://{name}.scm.farshore.internal:8080/{name}.git"), "state": card.state,
            "mode": card.mode, "instances": card.instances, "lent_to": card.lent_to, "lent_by": card.lent_by,
            "reserve_for": card.reserve_for, "release": {"number": 3, "commit": "c", "tree": "t", "by": "ann", "at": "x"},
            "database": {"engine": "sqlite", "name": "main", "reachable": card.database_answers, "external": false},
        }))
    }
}

#[async_trait]
impl Agents for Apps {
    async fn known(&self, region: &Region) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        self.bench.sim.known(region).await
    }
    async fn observe(&self, region: &Region, item: &ItemId) -> Result<Observation, StepError> {
        let mut seen = self.bench.sim.observe(region, item).await?;
        let card = self.cards().get(item).cloned().unwrap_or_default();
        seen.shape = json!({
            "spec": {}, "mode": card.mode, "instances": card.instances, "reserve_for": card.reserve_for,
            "lent_to": card.lent_to, "lent_by": card.lent_by, "healthy": seen.role == Role::Active && card.state == "running", "release": 3, "tree": "t",
        });
        seen.cannot_promote = card.cannot_promote.filter(|_| seen.role == Role::Target).map(str::to_owned);
        Ok(seen)
    }
    async fn act(&self, region: &Region, order: &Order) -> Result<(), StepError> {
        self.bench.sim.act(region, order).await
    }
    async fn ask(&self, region: &Region, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        self.bench.sim.observe(region, item).await?;
        self.answer(item, question)
    }
}

pub(crate) fn app(name: &str) -> ItemId {
    ItemId::parse(&format!("app/{name}")).unwrap()
}

/// Quick about everything.
pub(crate) fn quick(crash_at: Option<CrashAt>) -> Options {
    Options {
        health_every: Duration::from_millis(20),
        poll_first: Duration::from_millis(5),
        poll_max: Duration::from_millis(5),
        retry_first: Duration::from_millis(5),
        retry_max: Duration::from_millis(5),
        crash_at,
        ..Options::default()
    }
}

/// A control plane over these regions.
pub(crate) async fn control(apps: &Apps, options: Options) -> Control {
    let regions = ["oslo", "paris"].map(|name| RegionRecord {
        name: region(name),
        agent_url: String::new(),
        replication: format!("{name}:1"),
        realtime: format!("{name}:2"),
        since: Moment(1),
    });
    let store = Arc::new(apps.bench.store.clone());
    let control = Control::start(store, Arc::new(apps.clone()), regions.into(), options).await.unwrap();
    farshore::migrate::start(&control);
    control
}

/// Runs the command to its end.
pub(crate) async fn run(control: &Control, name: &str, command: Command) {
    let job = control.submit(&app(name), command, "ann", None).await.unwrap();
    let job = rested(control, &job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.notes);
}

/// The app `todo` in paris, protected toward oslo, and its reserve `todo-dr` there.
pub(crate) async fn apps() -> Apps {
    let apps = Apps { bench: Bench::new(), cards: Arc::default(), asked: Arc::default() };
    apps.change("todo-dr", |card| card.mode = "standard");
    apps.change("todo-dr", |card| card.reserve_for = Some("todo"));
    let control = control(&apps, quick(None)).await;
    for (name, at) in [("todo", "paris"), ("todo-dr", "oslo")] {
        let (on_control_loss, spec) = (OnControlLoss::Hold, json!({}));
        let create = Command::Create { region: region(at), spec, on_control_loss, automatic: false };
        run(&control, name, create).await;
    }
    run(&control, "todo", Command::Protect { target: region("oslo"), mode: ReplicationMode::Async }).await;
    control.shutdown().await;
    apps
}

/// A control plane that answers on a port.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) apps: Apps,
    pub(crate) control: Control,
    pub(crate) url: String,
    http: Client,
    server: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The authority of a node's cluster, as a client believes it.
pub(crate) fn authority(trust: &Trust) -> reqwest::Certificate {
    reqwest::Certificate::from_pem(trust.ca_pem().as_bytes()).unwrap()
}

impl Served {
    pub(crate) async fn new(apps: Apps) -> Self {
        farshore::trust::provider();
        Self::with(apps, None, Client::builder().no_proxy().build().unwrap()).await
    }

    /// By TLS, with the certificate of this node.
    pub(crate) async fn trusted(apps: Apps, trust: &Trust) -> Self {
        farshore::trust::provider();
        let http = Client::builder().no_proxy().add_root_certificate(authority(trust)).build().unwrap();
        Self::with(apps, Some(trust.server()), http).await
    }

    async fn with(apps: Apps, tls: Option<Arc<ServerConfig>>, http: Client) -> Self {
        let control = control(&apps, quick(None)).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (scheme, port) =
            (if tls.is_some() { "https" } else { "http" }, listener.local_addr().unwrap().port());
        let url = format!("{scheme}://localhost:{port}");
        let routes = router_with(control.clone(), TOKEN, Compat { mobile_services: true });
        let (stop, stopped) = watch::channel(false);
        let served = listen(listener, tls, routes, stopped, ServeLimits::default());
        let server = tokio::spawn(async move {
            served.await.unwrap();
            drop(stop);
        });
        Self { apps, control, url, http, server }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> Response {
        let request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        request.send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Response {
        self.send(Method::POST, path, TOKEN, Some(body)).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let response = self.send(Method::GET, path, TOKEN, None).await;
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    }
}

/// Looks until it is as wanted.
pub(crate) async fn until<T, F: Future<Output = T>>(
    what: &str,
    look: impl Fn() -> F,
    wanted: impl Fn(&T) -> bool,
) -> T
where
    T: std::fmt::Debug,
{
    let begun = tokio::time::Instant::now();
    loop {
        let seen = look().await;
        if wanted(&seen) {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} does not come about: {seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
