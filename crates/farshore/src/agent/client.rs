//! How the engine calls the agents of all regions: its own directly, the others over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use farshore_core::agents::Agents;
use farshore_core::ids::{ItemId, Region, Token};
use farshore_core::workload::{Observation, Order, Role, StepError};
use serde::de::DeserializeOwned;

use super::AgentState;

/// A look costs the agent no I/O: one that takes longer will not come.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// An order may fold a journal's index or copy a card: seconds, never minutes.
const ORDER_DEADLINE: Duration = Duration::from_secs(20);
/// A region that is gone must not hold up a failover while its address times out.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// The agents of all regions.
#[derive(Debug)]
pub struct RegionAgents {
    here: Region,
    local: AgentState,
    /// Base URLs of the others.
    remote: BTreeMap<Region, String>,
    secret: String,
    http: reqwest::Client,
}

impl RegionAgents {
    /// Calls `local` for the own region and the URLs for the others.
    pub fn new(
        here: Region,
        local: AgentState,
        remote: BTreeMap<Region, String>,
        secret: &str,
    ) -> Result<Self, reqwest::Error> {
        crate::trust::provider();
        let http = reqwest::Client::builder().connect_timeout(CONNECT_DEADLINE).no_proxy().build()?;
        Ok(Self { here, local, remote, secret: secret.to_owned(), http })
    }

    fn url(&self, region: &Region, path: &str) -> Result<String, StepError> {
        let base = self.remote.get(region).ok_or_else(|| StepError::Fatal {
            what: format!("region {region} is not known here: add it to the control node's configuration"),
        })?;
        Ok(format!("{}/agent/v1/{path}", base.trim_end_matches('/')))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        region: &Region,
        request: reqwest::RequestBuilder,
        deadline: Duration,
    ) -> Result<T, StepError> {
        let retry = |error: reqwest::Error| StepError::Retry { what: unreachable(region, &error) };
        let response = request.bearer_auth(&self.secret).timeout(deadline).send().await.map_err(retry)?;
        if response.status().is_success() {
            return response.json().await.map_err(retry);
        }
        let status = response.status();
        let error = response.json::<StepError>().await;
        Err(error.unwrap_or_else(|_| StepError::Retry { what: format!("region {region} answered {status}") }))
    }
}

fn unreachable(region: &Region, error: &reqwest::Error) -> String {
    let why = if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        // The innermost cause is what a person can act on.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        cause.to_string()
    };
    format!("region {region} cannot be reached: {why}")
}

#[async_trait]
impl Agents for RegionAgents {
    async fn known(&self, region: &Region) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        if *region == self.here {
            return self.local.known().await;
        }
        self.send(region, self.http.get(self.url(region, "known")?), LOOK_DEADLINE).await
    }

    async fn observe(&self, region: &Region, item: &ItemId) -> Result<Observation, StepError> {
        if *region == self.here {
            return self.local.observe(item).await;
        }
        let url = self.url(region, &format!("observe/{item}"))?;
        self.send(region, self.http.get(url), LOOK_DEADLINE).await
    }

    async fn act(&self, region: &Region, order: &Order) -> Result<(), StepError> {
        if *region == self.here {
            return self.local.act(order).await;
        }
        let url = self.url(region, "act")?;
        self.send(region, self.http.post(url).json(order), ORDER_DEADLINE).await
    }
}
