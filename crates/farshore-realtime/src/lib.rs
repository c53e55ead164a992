//! The room of real-time hubs: publish/subscribe over WebSocket, kept up through the loss of a region by negotiation.
//!
//! Read in this order: [`names`], [`token`] and [`permission`] (who may call and do what), [`filter`] (which
//! connections a message is for), [`ws`] and [`frames`] (what clients and hub say to each other), [`hub`] (the state of a hub and
//! of its copy: pure), [`live`] (a hub that is served), [`connection`] (clients), [`handler`] (what applications are told and
//! asked), [`query`], [`rest`] (what application servers ask), [`negotiate`] (which endpoint a client is sent to),
//! [`pair`] (the hub's endpoints in all regions).
//!
//! Must always hold: nobody is sent to a secondary while the primary is healthy; nobody is told that something is done before the
//! other region has it, too, or is known to be away.

#[cfg(test)]
mod authority;
pub mod bus;
pub mod connection;
pub mod filter;
pub mod frames;
pub mod handler;
pub mod hub;
pub mod link;
pub mod live;
pub mod names;
pub mod negotiate;
pub mod pair;
pub mod permission;
pub mod query;
pub mod rest;
pub mod service;
pub mod token;
pub mod workload;
pub mod ws;
