//! The room that decides.
//!
//! Everything here is a pure function of its arguments: no clock, no file, no socket, no thread, no chance.
//! What happens in the world enters as a value ([`lifecycle::Event`], [`job::Happened`]) and leaves as a value
//! (the next state and what must be done). The shells store both in one transaction and then do.
//!
//! Read in this order: [`ids`] and [`moment`] (the words), [`lifecycle`] (the life of an item), [`command`] (what
//! people ask for), [`job`] (how a wish becomes durable steps), [`fencing`] (the arithmetic of waiting), [`lease`] (an item's right to serve, and its end),
//! [`reconcile`] (what is mended without being asked), [`directory`] (what names lead to), [`access`] (who may ask for what), [`verdict`] and [`incident`] (how well it all is), [`workload`] (what every kind can
//! do), [`store`] (what remembers).
//!
//! Must always hold: this crate does not depend on tokio, and `clippy.toml` beside it bans clocks and I/O.

pub mod access;
pub mod agents;
pub mod command;
pub mod directory;
pub mod fencing;
pub mod ids;
pub mod incident;
pub mod job;
pub mod lease;
pub mod lifecycle;
pub mod moment;
pub mod reconcile;
pub mod store;
pub mod verdict;
pub mod workload;
