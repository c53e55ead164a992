//! The one binary, as a library: everything that needs sockets, processes or the store meets here.
//!
//! The rooms below know nothing of each other; this crate puts them together.
//!
//! Read in this order: [`engine`] (jobs, and what watches over the regions), [`migrate`] (sagas over jobs of two apps), [`agent`] (how it reaches workloads),
//! [`trust`] (who belongs to the cluster), [`serve`] (accepts connections), [`access`] (which of them may), [`api`] (how people reach it), [`names`] (where clients find what is active), [`config`] and [`node`] (the composition root), [`up`] (regions on one machine),
//! [`demo`] (all of it, against a real disaster), [`example`] (an application to host), [`cli`] (the program's arguments).

pub mod access;
pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod demo;
pub mod engine;
pub mod example;
pub mod migrate;
pub mod names;
pub mod node;
pub mod serve;
pub mod trust;
pub mod up;
