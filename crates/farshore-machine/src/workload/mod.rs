//! Machines as a [`farshore_core::workload::Workload`]: where disks, journal, wire and NBD server become one thing that the engine can order about.
//!
//! Read in this order: `spec` (what an operator says), `card` (what is remembered), `machine` (one machine: every order),
//! `look` (what it tells), `machines` (all machines of a region, and the asynchronous face).
//!
//! Must always hold: the card with the new token is durable before the order's effect; a machine that wakes up after a
//! restart serves nothing until it is told to.

mod card;
mod leases;
mod look;
mod machine;
mod machines;
mod spec;

pub use crate::tls::MachineTls;
pub use machines::{Machines, MachinesOptions, OpenError};
pub use spec::{DiskSpec, MachineSpec};
