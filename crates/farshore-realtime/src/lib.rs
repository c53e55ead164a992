//! The room of real-time hubs: publish/subscribe over WebSocket, kept up through the loss of a region by negotiation.
//!
//! Read in this order: [`names`], [`token`] and [`permission`] (who may call and do what), [`filter`] (which
//! connections a message is for), [`ws`] and [`frames`] (what clients and hub say to each other), [`handler`] (what
//! applications are told and asked), [`negotiate`] (which endpoint a client is sent to).
//!
//! Must always hold: nobody is sent to a secondary while the primary is healthy.

pub mod filter;
pub mod names;
pub mod permission;
pub mod token;

pub mod frames;
pub mod ws;

pub mod handler;

pub mod negotiate;
