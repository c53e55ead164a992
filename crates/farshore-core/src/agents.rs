//! The port to the region agents: how the engine reaches a workload in any region, local or remote.

use async_trait::async_trait;

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
}
