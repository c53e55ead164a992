//! The one binary, as a library: everything that needs sockets, processes or the store meets here.
//!
//! The rooms below know nothing of each other; this crate puts them together.
//!
//! Read in this order: [`engine`] (jobs, and what watches over the regions), [`api`] (HTTP).

pub mod engine;

pub mod api;
