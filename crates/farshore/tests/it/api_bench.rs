//! The HTTP interface on a port of this machine, over the engine and simulated regions.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use farshore::api::views::{ItemView, JobView};
use farshore::api::{Problem, router};
use farshore::engine::{Control, Options};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::engine_sim::Bench;

pub(crate) const TOKEN: &str = "farshore-0123456789";

/// A control plane that answers.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) bench: Bench,
    pub(crate) control: Control,
    pub(crate) url: String,
    pub(crate) dir: tempfile::TempDir,
    http: Client,
    server: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Served {
    pub(crate) async fn new() -> Self {
        let bench = Bench::new();
        let fast = Options {
            health_every: Duration::from_millis(20),
            poll_first: Duration::from_millis(5),
            poll_max: Duration::from_millis(5),
            retry_first: Duration::from_millis(5),
            retry_max: Duration::from_millis(5),
            ..Options::default()
        };
        let control = bench.control(fast).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = router(control.clone(), TOKEN);
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
        std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        farshore::trust::provider();
        let http = Client::builder().no_proxy().build().unwrap();
        Self { bench, control, url, dir, http, server }
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// Without a token.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(TOKEN)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let response = self.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.request(Method::POST, path).json(body).send().await.unwrap()
    }

    pub(crate) async fn item(&self) -> ItemView {
        self.get("/api/v1/items/machine/web-1").await
    }

    /// Asks for a verb of the item and follows its job's events to the end.
    pub(crate) async fn run(&self, path: &str, body: &Value) -> JobView {
        let response = self.post(path, body).await;
        assert_eq!(response.status(), 202, "{path}: {:?}", response.text().await);
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        let job: JobView = response.json().await.unwrap();
        assert_eq!(location, format!("/api/v1/jobs/{}", job.id));
        self.events(&job.id).await.pop().unwrap()
    }

    /// All views that the stream tells until it ends by itself.
    pub(crate) async fn events(&self, job: &str) -> Vec<JobView> {
        let response = self.request(Method::GET, &format!("/api/v1/jobs/{job}/events")).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.text().await.unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// Machine web-1 in paris, protected to oslo.
    pub(crate) async fn protected() -> Self {
        let served = Self::new().await;
        let create = json!({"kind": "machine", "name": "web-1", "region": "paris", "spec": {}});
        assert_eq!(served.run("/api/v1/items", &create).await.state, "succeeded");
        let job = served.run("/api/v1/items/machine/web-1/protect", &json!({"target": "oslo"})).await;
        assert_eq!(job.state, "succeeded");
        served
    }
}

/// The problem that the answer tells.
pub(crate) async fn problem(response: Response) -> Problem {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let status = response.status();
    let path = response.url().path().to_owned();
    let text = response.text().await.unwrap();
    assert!(!text.contains(TOKEN), "no answer holds the token");
    let problem: Problem = serde_json::from_str(&text).unwrap();
    assert_eq!(problem.status, status.as_u16());
    assert_eq!(problem.instance, Some(path));
    problem
}
