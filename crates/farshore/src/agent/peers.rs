//! How the nodes of other regions are called: where they are, and what they are shown.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use axum::http::Method;
use farshore_core::ids::Region;
use farshore_core::workload::StepError;

use crate::trust::{Trust, provider};

/// A region that is gone must not hold up a failover while its address times out.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// A connection on which nothing comes is asked for life this often: one that is cut off without a word is noticed.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// A connection that is asked something and says nothing is given up after this, and the next request makes a new one. Otherwise
/// a link that was cut for minutes would go on looking cut for as long again: TCP waits longer with each attempt.
const SILENCE: Duration = Duration::from_secs(2);

/// What nodes prove themselves with.
#[derive(Clone)]
pub enum Credentials {
    /// All nodes know the same secret; for loopback.
    Secret(String),
    /// Certificates of the cluster's authority.
    Trust(Trust),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret(..)",
            Self::Trust(_) => "Trust(..)",
        })
    }
}

/// The nodes of the other regions.
#[derive(Clone)]
pub struct Peers {
    peers: BTreeMap<Region, Peer>,
    secret: Option<String>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("peers", &self.peers).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
struct Peer {
    url: String,
    /// One for each region: it believes only a node of that region.
    http: reqwest::Client,
}

impl Peers {
    /// The regions with their base URLs.
    ///
    /// # Errors
    /// When the system's certificates or resolver cannot be used; nothing is connected to yet.
    pub fn new(urls: BTreeMap<Region, String>, credentials: &Credentials) -> Result<Self, reqwest::Error> {
        provider();
        let mut peers = BTreeMap::new();
        for (region, url) in urls {
            let http = reqwest::Client::builder()
                .connect_timeout(CONNECT_DEADLINE)
                .tcp_keepalive(KEEPALIVE)
                .http2_keep_alive_interval(SILENCE)
                .http2_keep_alive_timeout(SILENCE)
                .no_proxy();
            let http = match credentials {
                Credentials::Secret(_) => http,
                Credentials::Trust(trust) => http.tls_backend_preconfigured((*trust.client(&region)).clone()),
            };
            peers.insert(region, Peer { url: url.trim_end_matches('/').to_owned(), http: http.build()? });
        }
        let secret = match credentials {
            Credentials::Secret(secret) => Some(secret.clone()),
            Credentials::Trust(_) => None,
        };
        Ok(Self { peers, secret })
    }

    /// Which regions can be called.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.peers.keys()
    }

    /// A request to the region's node, `path` with its slash in front.
    ///
    /// # Errors
    /// When the region is not known here.
    pub fn request(
        &self,
        method: Method,
        region: &Region,
        path: &str,
    ) -> Result<reqwest::RequestBuilder, StepError> {
        let peer = self.peers.get(region).ok_or_else(|| StepError::Fatal {
            what: format!(
                "region {region} is not known here: add it to [[regions]] in the node's configuration"
            ),
        })?;
        let request = peer.http.request(method, format!("{}{path}", peer.url));
        Ok(match &self.secret {
            Some(secret) => request.bearer_auth(secret),
            None => request,
        })
    }
}

/// Why a region did not answer: the innermost cause is what a person can act on.
pub(crate) fn unreachable(region: &Region, error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("region {region} cannot be reached: no answer in time");
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    format!("region {region} cannot be reached: {cause}")
}
