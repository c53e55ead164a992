//! The strategy between regions: which endpoint is healthy, which one a client is sent to, and calls that go to all.
//!
//! A pair's members are, in order, its own regions (the primary first) and endpoints of other servers of the protocol.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use farshore_core::ids::Region;
use farshore_core::moment::Moment;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::watch;

use crate::hub::call::Call;
use crate::live::{AskError, LiveHub, now};
use crate::rest::{Broadcast, Told};

/// The other region of a pair.
#[derive(Debug, Clone)]
pub struct PairPartner {
    /// Its name.
    pub region: Region,
    /// Base URL of its own endpoint, without a slash at its end.
    pub url: String,
    /// How to know it, where its URL is https.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// What a pair is made of.
#[derive(Debug)]
pub struct PairOptions {
    /// This region.
    pub here: Region,
    /// The hub in this region.
    pub hub: Arc<LiveHub>,
    /// Base URL of this region's own endpoint, without a slash at its end.
    pub own_url: String,
    /// The other region, if there is one.
    pub partner: Option<PairPartner>,
    /// The active region, as known here.
    pub primary: watch::Receiver<Region>,
}

/// A request to negotiate, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub struct PairContext<'a> {
    /// Decoded query parameters.
    pub query: &'a [(String, String)],
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The time of the request.
    pub now: Moment,
}

/// Where new clients are sent now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// Base URL of the endpoint; empty when nobody is healthy.
    pub url: String,
    /// Its region, or its name where it is none of ours; empty when nobody is healthy.
    pub region: String,
    /// It is the one that is preferred while all are healthy.
    pub primary: bool,
}

/// How one member is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberHealth {
    /// Its region, or the host of an endpoint that is none of ours.
    pub name: String,
    /// Base URL of its endpoint.
    pub url: String,
    /// It is the one that is preferred while all are healthy.
    pub primary: bool,
    /// A message went through, from end to end.
    pub healthy: bool,
    /// What makes us think so.
    pub why: String,
    /// Since when it is so.
    pub since: Moment,
    /// How long the last message took.
    pub latency_ms: Option<u64>,
}

/// A hub's endpoints in all regions, watched from this one.
#[derive(Debug)]
pub struct Pair {
    options: PairOptions,
}

impl Pair {
    /// Begins to watch the members; ends when the last handle is dropped.
    #[must_use]
    pub fn spawn(options: PairOptions) -> Arc<Self> {
        Arc::new(Self { options })
    }

    /// The partner region does not work, from end to end, or refuses connections.
    #[must_use]
    pub fn partner_is_lost(&self) -> bool {
        false
    }

    /// The partner region works, from end to end.
    #[must_use]
    pub fn partner_is_healthy(&self) -> bool {
        false
    }

    /// Answers `GET /negotiate?hub=…`.
    pub async fn negotiate(&self, hub: &Arc<LiveHub>, context: &PairContext<'_>) -> Response<Full<Bytes>> {
        let _ = (hub, context);
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        answer
    }

    /// Where new clients are sent now.
    #[must_use]
    pub fn advice(&self) -> Advice {
        let (url, region) = (self.options.own_url.clone(), self.options.here.to_string());
        Advice { url, region, primary: *self.options.primary.borrow() == self.options.here }
    }

    /// How each member is, in order.
    #[must_use]
    pub fn health(&self) -> Vec<MemberHealth> {
        let healthy = self.options.hub.is_serving();
        let advice = self.advice();
        let why = if healthy { "it serves" } else { "it does not serve now" }.to_owned();
        let (name, url, primary) = (advice.region, advice.url, advice.primary);
        vec![MemberHealth { name, url, primary, healthy, why, since: now(), latency_ms: None }]
    }
}

#[async_trait]
impl Broadcast for Pair {
    async fn ask(&self, hub: &Arc<LiveHub>, call: Call) -> Result<Told, AskError> {
        Ok(Told { answer: hub.ask(call).await?, report: None })
    }
}
