//! The demo's way to Farshore: the HTTP API that everybody has, and nothing else.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A job of the demo that takes longer is a failure of the demo.
const JOB_DEADLINE: Duration = Duration::from_secs(180);
/// How often a job or an item is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// An answer of the API that takes longer is none.
const CALL_DEADLINE: Duration = Duration::from_secs(40);

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
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Client {
    /// A client of the API at `base`.
    pub fn new(base: &str, token: &str) -> Result<Self, Broken> {
        crate::trust::provider();
        let http = reqwest::Client::builder().timeout(CALL_DEADLINE).build().map_err(broken)?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token: token.to_owned(), http })
    }

    /// The answer to a question.
    pub async fn get(&self, path: &str) -> Result<Value, Broken> {
        self.send(self.http.get(self.url(path)), path).await
    }

    /// Asks for something; what takes time is answered with its job.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Broken> {
        self.send(self.http.post(self.url(path)).json(body), path).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v1/{path}", self.base)
    }

    async fn send(&self, request: reqwest::RequestBuilder, path: &str) -> Result<Value, Broken> {
        let response = request.bearer_auth(&self.token).send().await.map_err(broken)?;
        let status = response.status();
        let body: Value = response.json().await.map_err(broken)?;
        if status.is_success() {
            return Ok(body);
        }
        let why = body.get("detail").and_then(Value::as_str).unwrap_or("no reason given");
        Err(broken(format!("{path}: {status}: {why}")))
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
