//! The port to the region agents: how the engine reaches a workload in any region, local or remote.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{ItemId, Region, Token};
use crate::workload::{Observation, Order, Role, StepError};

/// Calls an agent in a region. Every call has a deadline inside; a region that does not answer is `StepError::Retry`.
/// Real: HTTP. Simulated: the tests' network.
#[async_trait]
pub trait Agents: Send + Sync + std::fmt::Debug {
    /// The items known in the region.
    async fn known(&self, region: &Region) -> Result<Vec<(ItemId, Token, Role)>, StepError>;
    /// What the region knows of one item.
    async fn observe(&self, region: &Region, item: &ItemId) -> Result<Observation, StepError>;
    /// Gives an order.
    async fn act(&self, region: &Region, order: &Order) -> Result<(), StepError>;
    /// Where this process is, if it is in one of the regions.
    fn here(&self) -> Option<&Region> {
        None
    }
    /// What the region knows of each of these items, in their order: one call for many. For the looks that go on all the
    /// time; a job looks at its item alone.
    async fn observe_all(
        &self,
        region: &Region,
        items: &[ItemId],
    ) -> Result<Vec<Result<Observation, StepError>>, StepError> {
        let mut seen = Vec::with_capacity(items.len());
        for item in items {
            seen.push(self.observe(region, item).await);
        }
        Ok(seen)
    }
    /// Lets the region look at others now. `Fatal`: it is no observer.
    async fn view(&self, region: &Region, at: &LookAt) -> Result<RegionView, StepError> {
        let _ = at;
        Err(StepError::Fatal { what: format!("region {region} cannot be asked what it sees") })
    }
    /// Asks the item's workload in the region: see [`crate::workload::Workload::ask`].
    async fn ask(&self, region: &Region, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        let _ = (item, question);
        Err(StepError::Fatal { what: format!("region {region} cannot be asked anything") })
    }
}

/// What a region is asked to look at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LookAt {
    /// Other regions. It looks at those that it knows.
    pub regions: Vec<Region>,
    /// Endpoints of active items, as URIs.
    pub endpoints: Vec<String>,
}

/// What a region sees of others. `None`: it answers; else how it failed. What is absent was not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RegionView {
    /// Other regions.
    pub regions: BTreeMap<Region, Option<String>>,
    /// Endpoints, by URI.
    pub endpoints: BTreeMap<String, Option<String>>,
}
