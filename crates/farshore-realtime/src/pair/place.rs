//! A member that is reached over the network: where it is, and how calls to it are signed and sent.

use std::error::Error as _;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use farshore_core::ids::Region;
use http::StatusCode;
use rustls_platform_verifier::BuilderVerifierExt as _;
use serde_json::json;

use super::wire::Wire;
use crate::live::{LiveHub, now};
use crate::names::HubName;
use crate::rest::percent::encode;
use crate::token::{self, AccessKey, ConnectionString};

/// Opening a connection, whose other end is in the same region or the next one.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Below the time after which servers close a quiet connection; ours do after 15 seconds.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// A page of two hundred members with the longest names that there are.
const ANSWER_LEN_MAX: usize = 2 << 20;
/// A call is answered in seconds; clocks may differ.
const TOKEN_SECONDS: u64 = 60;

/// What signs calls to a member.
#[derive(Debug)]
enum Keys {
    /// The hub's own, whatever they are at the moment.
    OfHub,
    /// Another server's.
    Foreign(AccessKey),
}

/// Where a member is.
#[derive(Debug)]
pub(super) struct Place {
    /// For people: the region, or the host.
    pub(super) name: String,
    /// Base URL, without a slash at its end.
    pub(super) url: String,
    /// None: another server's.
    pub(super) region: Option<Region>,
    pub(super) hub: Arc<LiveHub>,
    keys: Keys,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    http: reqwest::Client,
}

/// What a member has answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// `x-ms-error-code`.
    pub(super) code: Option<String>,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoReply {
    /// Nobody listens there.
    Refused(String),
    /// The connection could not be made: nothing was asked.
    Unreachable(String),
    /// The connection broke: it may have been done.
    Broken(String),
}

impl NoReply {
    pub(super) fn why(&self) -> &str {
        let (Self::Refused(why) | Self::Unreachable(why) | Self::Broken(why)) = self;
        why
    }
}

/// For endpoints of others: whom this system trusts.
static PUBLIC: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let builder = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring serves the default versions of TLS")
    };
    let trusting = builder().with_platform_verifier().map(|config| config.with_no_client_auth());
    Arc::new(trusting.unwrap_or_else(|error| {
        tracing::warn!(%error, "this system has no certificate authorities: https:// members cannot be reached");
        builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    }))
});

impl Place {
    /// The other region of the pair.
    pub(super) fn of_region(
        region: Region,
        url: &str,
        tls: Option<Arc<rustls::ClientConfig>>,
        hub: Arc<LiveHub>,
    ) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        let http = client(tls.as_deref().unwrap_or(&PUBLIC));
        Self { name: region.to_string(), url, region: Some(region), hub, keys: Keys::OfHub, tls, http }
    }

    /// Another server of the same protocol.
    pub(super) fn foreign(way: &ConnectionString, hub: Arc<LiveHub>) -> Self {
        let name = host(&way.endpoint).to_owned();
        let (keys, tls) = (Keys::Foreign(way.key.clone()), Some(Arc::clone(&PUBLIC)));
        Self { name, url: way.endpoint.clone(), region: None, hub, keys, tls, http: client(&PUBLIC) }
    }

    /// Those that may sign, the likeliest first. While a key is replaced, the regions may know different ones.
    pub(super) fn keys(&self) -> Vec<AccessKey> {
        match &self.keys {
            Keys::Foreign(key) => vec![key.clone()],
            Keys::OfHub => {
                let keys = &self.hub.settings().keys;
                vec![keys.primary.clone(), keys.secondary.clone()]
            }
        }
    }

    /// What tokens of its clients are made for.
    pub(super) fn audience(&self) -> String {
        audience(&self.url, self.hub.name())
    }

    /// Asks it once, under each key until one is believed.
    pub(super) async fn ask(&self, wire: &Wire) -> Result<Reply, NoReply> {
        let url = format!("{}/api/hubs/{}{}", self.url, encode(self.hub.name().as_str()), wire.path);
        let mut keys = self.keys();
        let last = keys.pop();
        for key in &keys {
            let reply = self.ask_as(&url, wire, key).await?;
            if reply.status != StatusCode::UNAUTHORIZED {
                return Ok(reply);
            }
        }
        match last {
            Some(key) => self.ask_as(&url, wire, &key).await,
            None => Err(NoReply::Unreachable("there is no key to it".to_owned())),
        }
    }

    async fn ask_as(&self, url: &str, wire: &Wire, key: &AccessKey) -> Result<Reply, NoReply> {
        let seconds = now().0 / 1_000_000;
        let claims = json!({ "aud": url, "iat": seconds, "exp": seconds + TOKEN_SECONDS });
        let mut request = self.http.request(wire.method.clone(), url).bearer_auth(token::sign(&claims, key));
        for (name, value) in &wire.headers {
            request = request.header(name, value);
        }
        if let Some((content_type, body)) = &wire.body {
            request = request.header(http::header::CONTENT_TYPE, *content_type).body(body.clone());
        }
        let mut response = request.send().await.map_err(no_reply)?;
        let code = response.headers().get("x-ms-error-code").and_then(|code| code.to_str().ok());
        let (status, code) = (response.status(), code.map(str::to_owned));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(no_reply)? {
            if body.len() + chunk.len() > ANSWER_LEN_MAX {
                return Err(NoReply::Broken(format!("its answer is longer than {ANSWER_LEN_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, code, body: body.into() })
    }
}

/// What tokens of clients of a hub are made for.
pub(super) fn audience(url: &str, hub: &HubName) -> String {
    format!("{url}/client/hubs/{}", encode(hub.as_str()))
}

/// `http` to `ws`, `https` to `wss`.
pub(super) fn ws_of(url: &str) -> String {
    url.replacen("http", "ws", usize::from(url.starts_with("http")))
}

fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Goes straight to a member: no proxy from the environment, no redirect (a token would go with it).
fn client(tls: &rustls::ClientConfig) -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_MAX)
        .pool_idle_timeout(IDLE_MAX)
        .tcp_nodelay(true)
        .user_agent("farshore")
        .tls_backend_preconfigured(tls.clone())
        .build()
        .expect("with its TLS given, a client needs nothing from the system")
}

fn no_reply(error: reqwest::Error) -> NoReply {
    let error = error.without_url();
    let causes = || std::iter::successors(error.source(), |cause| (*cause).source());
    let why = causes().last().map_or_else(|| error.to_string(), ToString::to_string);
    let refused = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused)
    };
    if causes().any(refused) {
        NoReply::Refused(why)
    } else if error.is_connect() {
        NoReply::Unreachable(why)
    } else {
        NoReply::Broken(why)
    }
}
