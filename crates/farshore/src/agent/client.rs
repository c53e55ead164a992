//! How the engine calls the agents of all regions, its own directly and the others over HTTP; and how a workload reaches the
//! same item in another region.

use std::time::Duration;

use async_trait::async_trait;
use axum::http::Method;
use farshore_core::agents::{Agents, LookAt, RegionView};
use farshore_core::ids::{ItemId, Region, Token};
use farshore_core::workload::{Observation, Order, Pull, Role, StepError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::AgentState;
use super::peers::{Peers, unreachable};
use super::server::REGION_HEADER;
use super::view;

/// A look costs the agent no I/O: one that takes longer will not come.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// An order may fold a journal's index or copy a card: seconds, never minutes.
const ORDER_DEADLINE: Duration = Duration::from_secs(20);
/// A question may make the workload call somebody else, who has ten seconds to answer.
const ASK_DEADLINE: Duration = Duration::from_secs(15);

/// Whoever is pulled from waits up to ten seconds for something to tell; then a few megabytes come over a slow line.
const PULL_DEADLINE: Duration = Duration::from_secs(60);

/// The agents of all regions.
#[derive(Debug)]
pub struct RegionAgents {
    here: Region,
    local: AgentState,
    peers: Peers,
}

impl RegionAgents {
    /// Calls `local` for the own region and `peers` for the others.
    #[must_use]
    pub fn new(here: Region, local: AgentState, peers: Peers) -> Self {
        Self { here, local, peers }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        region: &Region,
        request: reqwest::RequestBuilder,
        deadline: Duration,
    ) -> Result<T, StepError> {
        let response = answered(region, request.timeout(deadline)).await?;
        response.json().await.map_err(|error| StepError::Retry { what: unreachable(region, &error) })
    }
}

/// The answer of a region that does what it is asked; else what it says instead.
async fn answered(region: &Region, request: reqwest::RequestBuilder) -> Result<reqwest::Response, StepError> {
    let retry = |error: reqwest::Error| StepError::Retry { what: unreachable(region, &error) };
    let response = request.send().await.map_err(retry)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let error = response.json::<StepError>().await;
    Err(error.unwrap_or_else(|_| StepError::Retry { what: format!("region {region} answered {status}") }))
}

/// The way of a node's workloads to the same items elsewhere.
#[derive(Debug)]
pub struct RegionPulls {
    here: Region,
    peers: Peers,
}

impl RegionPulls {
    /// For the workloads of the region `here`.
    #[must_use]
    pub fn new(here: Region, peers: Peers) -> Self {
        Self { here, peers }
    }
}

#[async_trait]
impl Pull for RegionPulls {
    async fn pull(&self, region: &Region, item: &ItemId, request: Vec<u8>) -> Result<Vec<u8>, StepError> {
        let call = self.peers.request(Method::POST, region, &format!("/agent/v1/pull/{item}"))?;
        let call = call.header(REGION_HEADER, self.here.as_str()).body(request).timeout(PULL_DEADLINE);
        let response = answered(region, call).await?;
        let bytes = response.bytes().await;
        let bytes = bytes.map_err(|error| StepError::Retry { what: unreachable(region, &error) })?;
        Ok(bytes.into())
    }
}

#[async_trait]
impl Agents for RegionAgents {
    async fn known(&self, region: &Region) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        if *region == self.here {
            return self.local.known().await;
        }
        self.send(region, self.peers.request(Method::GET, region, "/agent/v1/known")?, LOOK_DEADLINE).await
    }

    async fn observe(&self, region: &Region, item: &ItemId) -> Result<Observation, StepError> {
        if *region == self.here {
            return self.local.observe(item).await;
        }
        let request = self.peers.request(Method::GET, region, &format!("/agent/v1/observe/{item}"))?;
        self.send(region, request, LOOK_DEADLINE).await
    }

    async fn act(&self, region: &Region, order: &Order) -> Result<(), StepError> {
        if *region == self.here {
            return self.local.act(order).await;
        }
        let request = self.peers.request(Method::POST, region, "/agent/v1/act")?;
        self.send(region, request.json(order), ORDER_DEADLINE).await
    }

    async fn ask(&self, region: &Region, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        if *region == self.here {
            let late = || StepError::Retry { what: format!("region {region} gave no answer in time") };
            let answer = tokio::time::timeout(ASK_DEADLINE, self.local.ask(item, question)).await;
            return answer.unwrap_or_else(|_| Err(late()));
        }
        let request = self.peers.request(Method::POST, region, &format!("/agent/v1/ask/{item}"))?;
        self.send(region, request.json(question), ASK_DEADLINE).await
    }

    fn here(&self) -> Option<&Region> {
        Some(&self.here)
    }

    async fn observe_all(
        &self,
        region: &Region,
        items: &[ItemId],
    ) -> Result<Vec<Result<Observation, StepError>>, StepError> {
        if *region == self.here {
            return Ok(view::observe_all(&self.local, items).await);
        }
        let request = self.peers.request(Method::POST, region, "/agent/v1/observations")?;
        self.send(region, request.json(items), LOOK_DEADLINE).await
    }

    async fn view(&self, region: &Region, at: &LookAt) -> Result<RegionView, StepError> {
        if *region == self.here {
            return Ok(view::look(&self.peers, at).await);
        }
        let request = self.peers.request(Method::POST, region, "/agent/v1/view")?;
        self.send(region, request.json(at), LOOK_DEADLINE).await
    }
}
