//! The room that remembers: every implementation of the port [`farshore_core::store`].
//!
//! Read in this order: [`rules`] (what every store refuses, and how long it remembers changes), [`watch`] (how a
//! watch follows a change log without gaps), [`mem`] (the shortest complete store), [`redb`] (the embedded one: one
//! file, one process), [`etcd`] (for many nodes), [`mirror`] (a copy
//! in memory), [`transfer`] (backup, restore, migrate), [`dump`] (the file as a person reads it), [`conformance`] (what all stores must do).
//!
//! Must always hold: a commit that returned is durable; the revision rises with each commit; a watch
//! misses nothing or says so; a damaged file is named, never changed, and never served.

pub mod rules;

pub mod watch;

pub mod mem;

pub mod redb;

pub mod etcd;

pub mod mirror;

pub mod transfer;

pub mod dump;

pub mod conformance;

pub use etcd::EtcdStore;
pub use mem::MemStore;
pub use redb::{OpenError, RedbStore};
