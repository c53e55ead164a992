//! The room of app services: application back ends with a name, a URL, keys, scripts, settings, a mode and a database.
//!
//! When its region is lost, a service is recovered onto the capacity that a *secondary* service has reserved in another
//! region: its name, URL, keys, scripts and rows stay what they were.
//!
//! Read in this order: [`mode`] (how much capacity a service has), [`reserve`] (when a secondary may be used), [`spec`], [`keys`] and
//! [`charter`] (what an operator says, and what travels between regions), [`data`] (its database, here and in the other region),
//! [`host`] (its processes), [`scripts`] (its repository and what is pushed to it), [`releases`] (the files that run), [`gateway`] (how
//! clients reach it, wherever it is), [`link`] (what its two regions ask each other), [`workload`] (all of it together).
//!
//! Must always hold: a refusal names the rule, and a secondary is never smaller than what it replaces.

pub mod charter;
pub mod data;
pub mod gateway;
pub mod host;
pub mod keys;
pub mod link;
pub mod mode;
pub mod releases;
pub mod reserve;
pub mod scripts;
pub mod spec;
pub mod workload;
