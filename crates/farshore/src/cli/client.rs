//! HTTP to the control plane.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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
/// A store whose leader is gone chooses another well within this.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// What a problem is called when the store does not take changes; nothing was changed then.
const STORE_PROBLEM: &str = "store";
/// How long to wait for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Where the control plane is, and the token for it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    /// Control nodes: asked in turn, beginning with the one that answered last.
    apis: Vec<String>,
    good: Arc<AtomicUsize>,
    token: String,
}

/// Where to find it all.
struct Found {
    apis: Vec<String>,
    token_file: PathBuf,
    ca_file: Option<PathBuf>,
}

impl Client {
    /// From the options, the environment, or the directory of `farshore up`.
    pub(super) fn find(global: &Global) -> Result<Self, Failure> {
        let Found { apis, token_file, ca_file } = find(global)?;
        let token = std::fs::read_to_string(&token_file).map_err(|error| {
            Failure::failed(format!(
                "cannot read the token file {}: {error}; give the one that `farshore up` printed with --token-file",
                token_file.display()
            ))
        })?;
        let http = http_believing(ca_file.as_deref())?;
        Ok(Self { http, apis, good: Arc::default(), token: token.trim().to_owned() })
    }

    /// What is at the path under `/api/v1`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.answer(|api| self.request(&Method::GET, api, path).timeout(ANSWER_DEADLINE)).await
    }

    /// Asks for something. Repeating it because the answer was lost has one effect.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.change(Method::POST, path, body).await
    }

    /// Puts something in the place of what was there.
    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.change(Method::PUT, path, body).await
    }

    /// Changes a part of what is there.
    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.change(Method::PATCH, path, body).await
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
        self.answer(|api| {
            let request = self.request(&method, api, path).timeout(ANSWER_DEADLINE);
            request.header("idempotency-key", &key).json(body)
        })
        .await
    }

    /// The stream at the path.
    pub(super) async fn stream(&self, path: &str) -> Result<Response, Failure> {
        self.send(|api| self.request(&Method::GET, api, path)).await
    }

    fn request(&self, method: &Method, api: &str, path: &str) -> RequestBuilder {
        self.http.request(method.clone(), format!("{api}/api/v1{path}")).bearer_auth(&self.token)
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        request: impl Fn(&str) -> RequestBuilder,
    ) -> Result<T, Failure> {
        let response = self.send(request).await?;
        response.json().await.map_err(|error| {
            Failure::failed(format!(
                "the answer of {} does not read as expected ({}): is it a control plane of this version?",
                self.present(),
                reason(&error)
            ))
        })
    }

    /// The control node that is asked now.
    fn present(&self) -> &str {
        let good = self.good.load(Ordering::Relaxed);
        self.apis.get(good % self.apis.len().max(1)).map_or("", String::as_str)
    }

    /// Sends, and again where the connection was there but the answer was lost: what changes something carries a key, so
    /// that it is done once. A control node that cannot be reached makes way for the next.
    async fn reach(&self, request: &impl Fn(&str) -> RequestBuilder) -> reqwest::Result<Response> {
        let mut lost = 0;
        let mut unreached = 1;
        loop {
            match request(self.present()).send().await {
                Err(error) if error.is_connect() && unreached < self.apis.len() => {
                    unreached += 1;
                    self.good.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Err(error) if lost < REPEATS_MAX && !error.is_connect() && !error.is_timeout() => lost += 1,
                // Back in a moment, if it was there a moment ago.
                Err(error) if (1..REPEATS_MAX).contains(&lost) && error.is_connect() => lost += 1,
                result => return result,
            }
            tokio::time::sleep(REPEAT_PAUSE).await;
        }
    }

    /// Sends; where the store cannot be written now, to one control node after the other until it can, or not soon enough.
    async fn send(&self, request: impl Fn(&str) -> RequestBuilder) -> Result<Response, Failure> {
        let end = Instant::now() + STORE_PATIENCE;
        let mut is_said = false;
        loop {
            match self.send_once(&request).await? {
                Ok(response) => return Ok(response),
                Err(problem) if problem.code() == STORE_PROBLEM && Instant::now() < end => {}
                Err(problem) => return Err(problem.into()),
            }
            if !std::mem::replace(&mut is_said, true) {
                eprintln!(
                    "the control plane is read-only now: asking again, {} s at most",
                    STORE_PATIENCE.as_secs()
                );
            }
            self.good.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(REPEAT_PAUSE).await;
        }
    }

    async fn send_once(
        &self,
        request: &impl Fn(&str) -> RequestBuilder,
    ) -> Result<Result<Response, Problem>, Failure> {
        let response = self.reach(request).await.map_err(|error| {
            Failure::failed(format!(
                "cannot reach the control plane at {} ({}): start it with `farshore up`, or say where it is with --api",
                self.apis.join(", "),
                reason(&error)
            ))
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(Ok(response));
        }
        match response.json::<Problem>().await {
            Ok(problem) => Ok(Err(problem)),
            Err(_) => Err(not_ours(self.present(), status)),
        }
    }
}

/// The control nodes that the options or the directory of `farshore up` name, and the authority to believe.
pub(super) fn known_nodes(global: &Global) -> Option<(Vec<String>, Option<PathBuf>)> {
    find(global).ok().map(|found| (found.apis, found.ca_file))
}

fn find(global: &Global) -> Result<Found, Failure> {
    let data = global.data_dir();
    let split = |apis: &str| -> Vec<String> { apis.split(',').map(base_url).collect() };
    // Of a node on this machine; without any, the system's authorities are asked.
    let of_node = || Some(data.join("trust").join(CA_CERTIFICATE)).filter(|path| path.exists());
    if let (Some(api), Some(token_file)) = (&global.api, &global.token_file) {
        let (token_file, ca_file) = (token_file.clone(), global.ca.clone().or_else(of_node));
        return Ok(Found { apis: split(api), token_file, ca_file });
    }
    let found = read_client_file(&data)?;
    let listed = || std::iter::once(&found.api).chain(&found.others).map(|api| base_url(api)).collect();
    let of_cluster = || found.ca_file.as_ref().map(|file| data.join(file));
    Ok(Found {
        apis: global.api.as_deref().map_or_else(listed, split),
        token_file: global.token_file.clone().unwrap_or_else(|| data.join(&found.token_file)),
        ca_file: global.ca.clone().or_else(of_cluster).or_else(of_node),
    })
}

/// The authority that servers are believed by when nobody names a token, either: --ca, or the one of a node on this machine.
pub(super) fn authority_file(global: &Global) -> Option<PathBuf> {
    let of_node = || Some(global.data_dir().join("trust").join(CA_CERTIFICATE)).filter(|path| path.exists());
    global.ca.clone().or_else(of_node)
}

/// Believes the cluster of this authority; without one, whom the system believes.
pub(super) fn http_believing(ca_file: Option<&Path>) -> Result<reqwest::Client, Failure> {
    crate::trust::provider();
    let builder = match ca_file {
        Some(path) => {
            let ca = read_authority(path)?;
            reqwest::Client::builder().tls_backend_preconfigured(crate::trust::operator(&ca)?)
        }
        None => reqwest::Client::builder(),
    };
    builder
        .no_proxy()
        .connect_timeout(CONNECT_DEADLINE)
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))
}

pub(super) fn base_url(api: &str) -> String {
    api.trim().trim_end_matches('/').trim_end_matches("/api/v1").to_owned()
}

fn read_authority(path: &Path) -> Result<CaCertificate, Failure> {
    let pem = std::fs::read_to_string(path)
        .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    CaCertificate::from_pem(&pem).map_err(|why| {
        Failure::failed(format!("{} {why}: give the ca.crt of a control node with --ca", path.display()))
    })
}

fn not_ours(api: &str, status: StatusCode) -> Failure {
    Failure::failed(format!("{api} answered {status}, but not as a control plane: check --api"))
}

/// The innermost cause: what people can act on.
pub(super) fn reason(error: &dyn std::error::Error) -> String {
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
