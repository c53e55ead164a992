//! The demo's way to Farshore: the HTTP API that everybody has, and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A job of the demo that takes longer is a failure of the demo.
const JOB_DEADLINE: Duration = Duration::from_secs(180);
/// How often a job or an item is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// An answer of the API that takes longer is none.
const CALL_DEADLINE: Duration = Duration::from_secs(40);

/// A node that is gone makes way for the next after this.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// What went wrong in a step; ends the story.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

/// A failure with this text.
pub fn broken(text: impl std::fmt::Display) -> Broken {
    Broken(text.to_string())
}

/// A client of the API.
#[derive(Debug, Clone)]
pub struct Client {
    /// Control nodes: the next one is asked when one does not answer.
    bases: Vec<String>,
    good: Arc<AtomicUsize>,
    token: String,
    http: reqwest::Client,
}

impl Client {
    /// A client of the API at `base`.
    pub fn new(base: &str, token: &str) -> Result<Self, Broken> {
        Self::of(&[base.to_owned()], token, None)
    }

    /// A client of the API at several control nodes, which show certificates of the authority in `ca_file`.
    pub fn of(bases: &[String], token: &str, ca_file: Option<&Path>) -> Result<Self, Broken> {
        crate::trust::provider();
        let http =
            reqwest::Client::builder().timeout(CALL_DEADLINE).connect_timeout(CONNECT_DEADLINE).no_proxy();
        let http = match ca_file {
            None => http,
            Some(path) => {
                let pem = std::fs::read(path).map_err(broken)?;
                http.tls_certs_only([reqwest::Certificate::from_pem(&pem).map_err(broken)?])
            }
        };
        let bases = bases.iter().map(|base| base.trim_end_matches('/').to_owned()).collect();
        Ok(Self { bases, good: Arc::default(), token: token.to_owned(), http: http.build().map_err(broken)? })
    }

    /// The answer to a question.
    pub async fn get(&self, path: &str) -> Result<Value, Broken> {
        self.send(|url| self.http.get(url), path).await
    }

    /// Asks for something; what takes time is answered with its job. The key makes it one request, however often it is sent.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Broken> {
        let key = ulid::Ulid::generate().to_string();
        self.send(|url| self.http.post(url).header("idempotency-key", &key).json(body), path).await
    }

    /// A node that is gone makes way for the next; one that is alone for the moment is asked again.
    async fn send(
        &self,
        request: impl Fn(String) -> reqwest::RequestBuilder,
        path: &str,
    ) -> Result<Value, Broken> {
        let until = Instant::now() + CALL_DEADLINE;
        loop {
            let base = &self.bases[self.good.load(Ordering::Relaxed) % self.bases.len()];
            let sent = request(format!("{base}/api/v1/{path}")).bearer_auth(&self.token).send().await;
            let alone = match &sent {
                Ok(response) => response.status() == reqwest::StatusCode::SERVICE_UNAVAILABLE,
                Err(_) => true,
            };
            if !alone || self.bases.len() == 1 || Instant::now() > until {
                return answered(sent.map_err(broken)?, path).await;
            }
            self.good.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    /// Asks for something that takes a job, and waits until it is done.
    pub async fn carry_out(&self, path: &str, body: &Value) -> Result<Value, Broken> {
        let job = self.post(path, body).await?;
        let id = text(&job, "/id")?;
        let until = Instant::now() + JOB_DEADLINE;
        loop {
            let job = self.get(&format!("jobs/{id}")).await?;
            match text(&job, "/state")?.as_str() {
                "succeeded" => return Ok(job),
                "running" | "unwinding" if Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
                state => return Err(broken(format!("{path}: job {id} is {state}: {}", job["notes"]))),
            }
        }
    }

    /// Looks at the item until it satisfies; says what was waited for when it does not in time.
    pub async fn wait_for(
        &self,
        item: &str,
        what: &str,
        mut holds: impl FnMut(&Value) -> bool,
    ) -> Result<Value, Broken> {
        let until = Instant::now() + JOB_DEADLINE;
        loop {
            let seen = self.get(&format!("items/{item}")).await?;
            if holds(&seen) {
                return Ok(seen);
            }
            if Instant::now() > until {
                return Err(broken(format!("{what} was not seen in time; {item} is {seen}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The lifecycle verb on the item, waited for.
    pub async fn verb(&self, item: &str, verb: &str, body: Value) -> Result<Value, Broken> {
        let body = if body.is_null() { json!({}) } else { body };
        self.carry_out(&format!("items/{item}/{verb}"), &body).await
    }
}

async fn answered(response: reqwest::Response, path: &str) -> Result<Value, Broken> {
    let status = response.status();
    let body: Value = response.json().await.map_err(broken)?;
    if status.is_success() {
        return Ok(body);
    }
    let why = body.get("detail").and_then(Value::as_str).unwrap_or("no reason given");
    Err(broken(format!("{path}: {status}: {why}")))
}

/// A text at a JSON pointer.
pub fn text(value: &Value, pointer: &str) -> Result<String, Broken> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| broken(format!("no text at {pointer} in {value}")))
}

/// The two disks among endpoints, in the order of the machine's disks.
pub fn two_uris(endpoints: &Value) -> Option<[String; 2]> {
    let uri = |index: usize| endpoints.get(index)?.get("uri")?.as_str().map(str::to_owned);
    Some([uri(0)?, uri(1)?])
}
