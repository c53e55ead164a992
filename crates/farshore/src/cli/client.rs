//! HTTP to the control plane.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Global;
use super::exit::Failure;
use crate::api::Problem;
use crate::trust::{CA_CERTIFICATE, CaCertificate};
use crate::up::{CLIENT_FILE, ClientFile};

/// The control plane answers everything but job streams within this; it waits for regions for less.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Requests whose answer was lost are repeated this often: their key makes them one.
const REPEATS_MAX: u32 = 3;
/// A control plane that is started again is back soon after this.
const REPEAT_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Where the control plane is, and the token for it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    api: String,
    token: String,
}

impl Client {
    /// From the options, the environment, or the directory of `farshore up`.
    pub(super) fn find(global: &Global) -> Result<Self, Failure> {
        let data = global.data_dir();
        let (api, token_file) = match (&global.api, &global.token_file) {
            (Some(api), Some(token_file)) => (api.clone(), token_file.clone()),
            (api, token_file) => {
                let found = read_client_file(&data)?;
                (
                    api.clone().unwrap_or(found.api),
                    token_file.clone().unwrap_or_else(|| data.join(found.token_file)),
                )
            }
        };
        let token = std::fs::read_to_string(&token_file).map_err(|error| {
            Failure::failed(format!(
                "cannot read the token file {}: {error}; give the one that `farshore up` printed with --token-file",
                token_file.display()
            ))
        })?;
        crate::trust::provider();
        let builder = match authority(global, &data, &api)? {
            Some(ca) => reqwest::Client::builder().tls_backend_preconfigured(crate::trust::operator(&ca)?),
            None => reqwest::Client::builder(),
        };
        let http = builder
            .no_proxy()
            .connect_timeout(CONNECT_DEADLINE)
            .build()
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
        let api = api.trim_end_matches('/').trim_end_matches("/api/v1").to_owned();
        Ok(Self { http, api, token: token.trim().to_owned() })
    }

    /// What is at the path under `/api/v1`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.answer(self.request(Method::GET, path).timeout(ANSWER_DEADLINE)).await
    }

    /// Asks for something. Repeating it because the answer was lost has one effect.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.change(Method::POST, path, body).await
    }

    /// Asks for a removal.
    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.change(Method::DELETE, path, &serde_json::json!({})).await
    }

    async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let key = ulid::Ulid::generate().to_string();
        let request = self.request(method, path).timeout(ANSWER_DEADLINE);
        self.answer(request.header("idempotency-key", key).json(body)).await
    }

    /// The stream at the path.
    pub(super) async fn stream(&self, path: &str) -> Result<Response, Failure> {
        self.send(self.request(Method::GET, path)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.api)).bearer_auth(&self.token)
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.send(request).await?;
        response.json().await.map_err(|error| {
            Failure::failed(format!(
                "the answer of {} does not read as expected ({}): is it a control plane of this version?",
                self.api,
                reason(&error)
            ))
        })
    }

    /// Sends, and again where the connection was there but the answer was lost. What changes something carries a key,
    /// so that it is done once.
    async fn reach(&self, request: RequestBuilder) -> reqwest::Result<Response> {
        let mut lost = 0;
        loop {
            let Some(copy) = request.try_clone() else { return request.send().await };
            match copy.send().await {
                Err(error) if lost < REPEATS_MAX && !error.is_connect() && !error.is_timeout() => lost += 1,
                // Back in a moment, if it was there a moment ago.
                Err(error) if (1..REPEATS_MAX).contains(&lost) && error.is_connect() => lost += 1,
                result => return result,
            }
            tokio::time::sleep(REPEAT_PAUSE).await;
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = self.reach(request).await.map_err(|error| {
            Failure::failed(format!(
                "cannot reach the control plane at {} ({}): start it with `farshore up`, or say where it is with --api",
                self.api,
                reason(&error)
            ))
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        match response.json::<Problem>().await {
            Ok(problem) => Err(problem.into()),
            Err(_) => Err(not_ours(&self.api, status)),
        }
    }
}

/// The cluster's authority, for an API with TLS. `None`: those of the system are asked.
fn authority(global: &Global, data: &Path, api: &str) -> Result<Option<CaCertificate>, Failure> {
    if !api.starts_with("https://") {
        return Ok(None);
    }
    let own = data.join("trust").join(CA_CERTIFICATE);
    let path = match &global.ca {
        Some(path) => path.clone(),
        None if own.exists() => own,
        None => return Ok(None),
    };
    let pem = std::fs::read_to_string(&path)
        .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    let ca = CaCertificate::from_pem(&pem).map_err(|why| {
        Failure::failed(format!("{} {why}: give the ca.crt of a control node with --ca", path.display()))
    })?;
    Ok(Some(ca))
}

fn not_ours(api: &str, status: StatusCode) -> Failure {
    Failure::failed(format!("{api} answered {status}, but not as a control plane: check --api"))
}

/// The innermost cause: what people can act on.
fn reason(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn read_client_file(data: &Path) -> Result<ClientFile, Failure> {
    let path = data.join(CLIENT_FILE);
    let text = std::fs::read(&path).map_err(|error| {
        Failure::failed(format!(
            "cannot read {} ({error}): start regions with `farshore up`, or say which ones with --data, or with --api \
             and --token-file",
            path.display()
        ))
    })?;
    serde_json::from_slice(&text).map_err(|error| {
        Failure::failed(format!(
            "{} is damaged ({error}): start `farshore up` again, it writes it anew",
            path.display()
        ))
    })
}
