//! Device hubs.
