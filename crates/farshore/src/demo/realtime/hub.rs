//! The hub as applications know it: two connection strings of the pair, and what to trust.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farshore_realtime::live::now;
use farshore_realtime::names::UserId;
use farshore_realtime::token::{ConnectionString, client_token, sign};
use farshore_realtime::ws::client::{ConnectError, WsClient, tls_trusting};
use reqwest::StatusCode;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use crate::demo::client::{Broken, Client, broken, text};

/// The item's name, and the hub's.
pub(super) const HUB: &str = "chat";
/// The only subprotocol with sequence numbers that official clients use by default.
const SUBPROTOCOL: &str = "json.reliable.webpubsub.azure.v1";
/// What the official SDKs send.
const API_VERSION: &str = "2024-12-01";
/// Where no answer comes at all, the publisher turns to the other region after this.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longer than any act.
const TOKEN_MINUTES: u32 = 60;

/// The pair's endpoint in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shore {
    Home,
    Far,
}

impl Shore {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Home => Self::Far,
            Self::Far => Self::Home,
        }
    }
}

/// Why a message was not accepted. It may have been sent to clients all the same.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAccepted {
    #[error("no answer: {0}")]
    NoAnswer(#[from] reqwest::Error),
    #[error("answered {0}")]
    Status(StatusCode),
}

/// The way to the hub.
#[derive(Debug)]
pub(super) struct Hub {
    home: ConnectionString,
    far: ConnectionString,
    http: reqwest::Client,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Hub {
    /// Asks Farshore for the connection strings.
    pub(super) async fn find(api: &Client, ca_file: Option<&Path>) -> Result<Self, Broken> {
        let [home, far] = [ask(api, "paris").await?, ask(api, "oslo").await?];
        crate::trust::provider();
        let http = reqwest::Client::builder().timeout(PATIENCE).connect_timeout(PATIENCE).no_proxy();
        let (http, tls) = match ca_file {
            None => (http, None),
            Some(path) => {
                let pem = std::fs::read(path).map_err(broken)?;
                let http = http.tls_certs_only([reqwest::Certificate::from_pem(&pem).map_err(broken)?]);
                let trusted: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
                (http, Some(tls_trusting(trusted.map_err(broken)?).map_err(broken)?))
            }
        };
        Ok(Self { home, far, http: http.build().map_err(broken)?, tls })
    }

    fn at(&self, shore: Shore) -> &ConnectionString {
        match shore {
            Shore::Home => &self.home,
            Shore::Far => &self.far,
        }
    }

    /// What an application's negotiation gives a client: where to connect, with a token.
    pub(super) fn client_url(&self, shore: Shore, number: usize) -> Result<String, Broken> {
        let ConnectionString { endpoint, key } = self.at(shore);
        let user = UserId::parse(&format!("client-{number}")).map_err(broken)?;
        let place = format!("{endpoint}/client/hubs/{HUB}");
        let token = client_token(&place, Some(&user), &[], &[], now(), TOKEN_MINUTES, key);
        Ok(format!("{}?access_token={token}", place.replacen("http", "ws", 1)))
    }

    /// Connects as the official client does.
    pub(super) async fn connect(&self, url: &str) -> Result<WsClient, ConnectError> {
        WsClient::connect(url, &[SUBPROTOCOL], &[], self.tls.clone()).await
    }

    /// Sends a numbered message to all clients, by REST, as the official SDK does. `Ok`: the hub has accepted it.
    pub(super) async fn send(&self, shore: Shore, number: usize) -> Result<(), NotAccepted> {
        let ConnectionString { endpoint, key } = self.at(shore);
        let url = format!("{endpoint}/api/hubs/{HUB}/:send?api-version={API_VERSION}");
        let issued = now().0 / 1_000_000;
        let token = sign(&json!({"iat": issued, "exp": issued + 3600, "aud": url}), key);
        let body = json!({ "number": number });
        let answer = self.http.post(&url).bearer_auth(token).json(&body).send().await?;
        match answer.status() {
            StatusCode::ACCEPTED => Ok(()),
            other => Err(NotAccepted::Status(other)),
        }
    }
}

async fn ask(api: &Client, region: &str) -> Result<ConnectionString, Broken> {
    let told = api.get(&format!("realtime/{HUB}/connection-string?of=pair&region={region}")).await?;
    ConnectionString::parse(&text(&told, "/connection_string")?).map_err(broken)
}
