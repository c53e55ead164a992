//! What is said to the other hub: requests as the official service SDKs send them, repeated while it is away or busy.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use farshore_core::moment::Moment;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::report::said;
use super::setting::{BadMember, MemberSetting};
use crate::names::Key;
use crate::percent::encode;
use crate::sas::Token;
use crate::trust;

/// The version of the API that all such hubs speak.
const VERSION: &str = "api-version=2021-04-12";
/// A token is made for each request; clocks may differ.
const TOKEN_LIFE: Duration = Duration::from_secs(600);
/// One identity with its keys.
const IDENTITY_BYTES_MAX: usize = 1 << 20;
/// One page of twins: more than a hundred of them usually are.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Where to go on in a list; the vendor's hubs need some hundred characters.
const CONTINUATION_LEN_MAX: usize = 16 * 1024;
/// The first pause after a failure; each one after it is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause, also of those that the other hub asks for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");
const ITEMS_MAX: HeaderName = HeaderName::from_static("x-ms-max-item-count");
const ERROR_CODE: HeaderName = HeaderName::from_static("iothub-errorcode");

/// How long the other hub may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For a connection.
    pub connect: Duration,
    /// For one answer, to its end.
    pub answer: Duration,
    /// For a question, with all its repetitions: a hub that throttles lets somebody in again within a minute or two.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            patience: Duration::from_secs(180),
        }
    }
}

/// Why the other hub did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FarError {
    /// It is not there.
    #[error("{host} cannot be reached: {why}")]
    Away {
        /// Who.
        host: String,
        /// In words.
        why: String,
    },
    /// It is there and does not want to, for now.
    #[error("{host} asked to come again later ({status}), for too long: {why}")]
    Busy {
        /// Who.
        host: String,
        /// What it answered.
        status: u16,
        /// In its words.
        why: String,
    },
    /// It does not let us in.
    #[error(
        "{host} does not let the policy {policy} do that ({status}): {why}; set the member again with a connection string \
         whose policy may read identities and twins, and write them in the direction \"to\""
    )]
    Forbidden {
        /// Who.
        host: String,
        /// As whom.
        policy: String,
        /// What it answered.
        status: u16,
        /// In its words.
        why: String,
    },
    /// It says no.
    #[error("{host} refused {what} ({status}): {why}")]
    Refused {
        /// Who.
        host: String,
        /// What was asked.
        what: String,
        /// What it answered.
        status: u16,
        /// In its words.
        why: String,
    },
    /// What it says makes no sense.
    #[error("the answer of {host} to {what} cannot be understood: {why}")]
    Rubbish {
        /// Who.
        host: String,
        /// What was asked.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// It says too much.
    #[error("the answer of {host} to {what} is larger than {most} bytes")]
    TooLarge {
        /// Who.
        host: String,
        /// What was asked.
        what: String,
        /// The limit.
        most: usize,
    },
}

impl FarError {
    /// Whether the next question may well be answered.
    pub(super) fn is_of_one_entry(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Rubbish { .. } | Self::TooLarge { .. })
    }
}

/// The other hub.
pub(super) struct Far {
    http: reqwest::Client,
    base: String,
    host: String,
    policy: String,
    key: String,
    limits: Limits,
}

impl fmt::Debug for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Far").field("host", &self.host).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// A question.
struct Asked {
    what: String,
    method: Method,
    path: String,
    headers: Vec<(HeaderName, String)>,
    body: Option<Bytes>,
    most: usize,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// A page of a list.
pub(super) struct Listed {
    pub(super) entries: Vec<Value>,
    /// Where to go on; `None`: this was the last.
    pub(super) next: Option<String>,
}

/// An identity that a bulk request did not change.
pub(super) struct NotDone {
    pub(super) id: String,
    pub(super) module: Option<String>,
    pub(super) code: String,
    pub(super) why: String,
}

impl NotDone {
    /// It is there already. Codes are words, or numbers that begin with the status.
    pub(super) fn exists(&self) -> bool {
        self.code.contains("AlreadyExists") || self.code.starts_with("409")
    }

    /// It is not there.
    pub(super) fn is_missing(&self) -> bool {
        self.code.contains("NotFound") || self.code.starts_with("404")
    }
}

/// An attempt that may be repeated.
struct Passing {
    error: FarError,
    after: Option<Duration>,
}

impl Far {
    pub(super) fn new(setting: &MemberSetting, limits: Limits) -> Result<Self, BadMember> {
        let way = setting.way()?;
        let tls = trust::client_config(setting.ca.as_deref())?;
        // Straight to the other hub: no proxy from the environment, no redirect (a token would go with it). The name of the
        // hub is not that of its address where a gateway is named, so HTTP/1.1, which says it in every request.
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(limits.connect)
            .http1_only()
            .user_agent("farshore")
            .tls_backend_preconfigured((*tls).clone())
            .build()
            .map_err(|error| BadMember::Client(error.to_string()))?;
        Ok(Self {
            http,
            base: format!("https://{}", way.at),
            host: way.host,
            policy: way.policy,
            key: way.key,
            limits,
        })
    }

    /// A page of twins.
    pub(super) async fn page(
        &self,
        query: &str,
        after: Option<&str>,
        size: usize,
    ) -> Result<Listed, FarError> {
        let what = "its list";
        let mut headers = vec![(ITEMS_MAX, size.to_string())];
        headers.extend(after.map(|after| (CONTINUATION, after.to_owned())));
        let asked = Asked {
            headers,
            most: PAGE_BYTES_MAX,
            ..self.question(what, Method::POST, "/devices/query", Some(&json!({ "query": query })))
        };
        let answer = self.must(asked).await?;
        let entries =
            serde_json::from_slice(&answer.body).map_err(|error| self.rubbish(what, &error.to_string()))?;
        let next = match answer.headers.get(CONTINUATION).map(|next| next.to_str()) {
            None | Some(Ok("")) => None,
            Some(Ok(next)) if next.len() <= CONTINUATION_LEN_MAX => Some(next.to_owned()),
            Some(_) => return Err(self.rubbish(what, "its x-ms-continuation cannot be sent back")),
        };
        Ok(Listed { entries, next })
    }

    /// An identity with its keys; `None`: there is none.
    pub(super) async fn identity(&self, key: &Key) -> Result<Option<Value>, FarError> {
        let what = format!("a question about {key}");
        let path = self.path_of("/devices", key)?;
        let asked = self.question(&what, Method::GET, &path, None);
        let answer = self.ask(asked).await?;
        if is_missing(&answer) {
            return Ok(None);
        }
        let answer = self.good(&what, answer)?;
        serde_json::from_slice(&answer.body)
            .map(Some)
            .map_err(|error| self.rubbish(&what, &error.to_string()))
    }

    /// Creates, changes or deletes up to a hundred identities, as each says itself.
    pub(super) async fn bulk(&self, lines: &[Value]) -> Result<Vec<NotDone>, FarError> {
        let what = "a change of identities";
        let asked = self.question(what, Method::POST, "/devices", Some(&json!(lines)));
        let answer = self.ask(asked).await?;
        // The vendor's hubs answer 400 when only some were refused.
        if answer.status == StatusCode::BAD_REQUEST
            && let Some(refused) = not_done(&answer.body).filter(|refused| !refused.is_empty())
        {
            return Ok(refused);
        }
        let answer = self.good(what, answer)?;
        not_done(&answer.body).ok_or_else(|| self.rubbish(what, "it does not list its errors"))
    }

    /// Changes tags and desired properties: `null` deletes.
    pub(super) async fn patch_twin(&self, key: &Key, tags: &Value, desired: &Value) -> Result<(), FarError> {
        let what = format!("a change of the twin of {key}");
        let path = self.path_of("/twins", key)?;
        let body = json!({ "tags": tags, "properties": { "desired": desired } });
        let question = self.question(&what, Method::PATCH, &path, Some(&body));
        self.must(Asked { headers: vec![(IF_MATCH, "\"*\"".to_owned())], ..question }).await.map(|_| ())
    }

    pub(super) fn rubbish(&self, what: &str, why: &str) -> FarError {
        FarError::Rubbish { host: self.host.clone(), what: what.to_owned(), why: said(why) }
    }

    fn path_of(&self, start: &str, key: &Key) -> Result<String, FarError> {
        let ids =
            std::iter::once(key.device.as_str()).chain(key.module.as_ref().map(|module| module.as_str()));
        let mut path = start.to_owned();
        for (id, between) in ids.zip(["/", "/modules/"]) {
            // Addresses are normalised on their way.
            if id == "." || id == ".." {
                let why = format!("no address leads to {id:?}");
                return Err(self.rubbish("a question", &why));
            }
            path.push_str(between);
            path.push_str(&encode(id));
        }
        Ok(path)
    }

    fn question(&self, what: &str, method: Method, path: &str, body: Option<&Value>) -> Asked {
        Asked {
            what: what.to_owned(),
            method,
            path: path.to_owned(),
            headers: Vec::new(),
            body: body.map(|body| Bytes::from(body.to_string())),
            most: IDENTITY_BYTES_MAX,
        }
    }

    async fn must(&self, asked: Asked) -> Result<Answer, FarError> {
        let what = asked.what.clone();
        self.ask(asked).await.and_then(|answer| self.good(&what, answer))
    }

    fn good(&self, what: &str, answer: Answer) -> Result<Answer, FarError> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        let (host, status, why) = (self.host.clone(), answer.status.as_u16(), words(&answer));
        Err(match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                FarError::Forbidden { host, policy: self.policy.clone(), status, why }
            }
            _ => FarError::Refused { host, what: what.to_owned(), status, why },
        })
    }

    /// Asks until there is an answer that will not be another one soon.
    async fn ask(&self, asked: Asked) -> Result<Answer, FarError> {
        let give_up = Instant::now() + self.limits.patience;
        let mut pause = PAUSE_MIN;
        loop {
            let Passing { error, after } = match self.once(&asked).await? {
                Ok(answer) => return Ok(answer),
                Err(passing) => passing,
            };
            // Members that were refused at once are not to come back at once.
            let wait = after.unwrap_or_else(|| pause.mul_f64(0.5 + rand::random::<f64>())).min(PAUSE_MAX);
            if Instant::now() + wait >= give_up {
                return Err(error);
            }
            tracing::debug!(%error, ?wait, "the other hub is asked again");
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn once(&self, asked: &Asked) -> Result<Result<Answer, Passing>, FarError> {
        let token = Token::make(&self.host, &self.key, Some(&self.policy), now().after(TOKEN_LIFE))
            .expect("the key was checked with its connection string");
        let mut request = self
            .http
            .request(asked.method.clone(), format!("{}{}?{VERSION}", self.base, asked.path))
            .header(AUTHORIZATION, token)
            .header(HOST, &self.host)
            .timeout(self.limits.answer);
        for (name, value) in &asked.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &asked.body {
            request = request.header(CONTENT_TYPE, "application/json; charset=utf-8").body(body.clone());
        }
        let away = |error| Passing { error: self.away(error), after: None };
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(Err(away(error))),
        };
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > asked.most => {
                    let (host, what) = (self.host.clone(), asked.what.clone());
                    return Err(FarError::TooLarge { host, what, most: asked.most });
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Ok(Err(away(error))),
            }
        }
        let answer = Answer { status, headers, body: body.into() };
        if status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
            || status.is_server_error()
        {
            let (host, after) = (self.host.clone(), retry_after(&answer.headers));
            let error = FarError::Busy { host, status: status.as_u16(), why: words(&answer) };
            return Ok(Err(Passing { error, after }));
        }
        Ok(Ok(answer))
    }

    fn away(&self, error: reqwest::Error) -> FarError {
        let error = error.without_url();
        let why = if error.is_timeout() {
            "it did not answer in time".to_owned()
        } else {
            let causes = std::iter::successors(error.source(), |cause| (*cause).source());
            causes.last().map_or_else(|| error.to_string(), ToString::to_string)
        };
        FarError::Away { host: self.host.clone(), why: said(&why) }
    }
}

/// Seconds; who writes a date is waited for as for everybody.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// Whether the hub itself says that there is no such device: not a proxy before it, and not another page.
fn is_missing(answer: &Answer) -> bool {
    if answer.status != StatusCode::NOT_FOUND {
        return false;
    }
    let code = answer.headers.get(ERROR_CODE).and_then(|code| code.to_str().ok()).unwrap_or_default();
    let message = words(answer);
    ["DeviceNotFound", "ModuleNotFound"].iter().any(|missing| code == *missing || message.contains(missing))
}

/// What the hub says of an error.
fn words(answer: &Answer) -> String {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let message =
        body.as_ref().and_then(|body| body["Message"].as_str().or_else(|| body["message"].as_str()));
    match message {
        Some(message) => said(message),
        None if answer.body.is_empty() => "it says nothing".to_owned(),
        None => said(&String::from_utf8_lossy(&answer.body[..answer.body.len().min(1000)])),
    }
}

/// What a bulk request lists as not done; `None`: it is no such answer.
fn not_done(body: &[u8]) -> Option<Vec<NotDone>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let errors = match &body["errors"] {
        Value::Array(errors) => errors.as_slice(),
        Value::Null if body["isSuccessful"] == true => &[],
        _ => return None,
    };
    let read = errors.iter().map(|error| NotDone {
        id: text(&error["deviceId"]),
        module: error["moduleId"].as_str().filter(|module| !module.is_empty()).map(str::to_owned),
        code: said(&text(&error["errorCode"])),
        why: said(&text(&error["errorStatus"])),
    });
    Some(read.collect())
}

fn now() -> Moment {
    crate::fleet::now()
}
