//! The region agent: the part of a node that acts on its own region's workloads, and the way to reach it from elsewhere.
//!
//! Read in this order: `server` (what an agent answers), `ledger` (an order that was carried out is not carried out again),
//! `claims` (executors that were
//! replaced), `client` (how the engine calls an agent, near or far), `peers` (where the other nodes are and what
//! they are shown), `lease` (keeps the rights of items that fence themselves), `renewal` (the same, on the wire), `view` (what this region sees of the others).
//!
//! Must always hold: every call needs a certificate of the cluster (or, on loopback, its secret) and has a deadline; one item obeys one order at a time; a repeated
//! key gets the earlier answer.

mod claims;
mod client;
mod lease;
mod ledger;
mod peers;
mod renewal;
mod server;
mod view;

pub use client::{RegionAgents, RegionPulls};
pub use lease::{LeaseKeeper, Renewals, boot_now};
pub use ledger::{Ledger, LedgerError};
pub use peers::{Credentials, Peers};
pub use renewal::{ControlNodes, renewal_router};
pub use server::{AgentState, Callers, router};
pub use view::view_router;
pub(crate) use view::{ENDPOINTS_MAX, ITEMS_MAX};

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_core::ids::Kind;
use farshore_core::workload::Workload;

/// The workloads of one region, by kind.
pub type Workloads = BTreeMap<Kind, Arc<dyn Workload>>;
