//! Disks and replication between hosts: over TLS, with real sockets and the tools that people use.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod certs;
mod clients;
mod nbd;
mod place;
mod replication;
