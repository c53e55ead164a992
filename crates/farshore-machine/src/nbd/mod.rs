//! How guests and tools reach disks: an NBD server on ordinary threads, and a small client.
//!
//! Read in this order: [`export`] (what can be served), [`registry`] (which exports there are), [`server`] (sockets and
//! threads), `handshake` (agreeing on an export and its terms), `session` (requests in, replies out), `work` (what may
//! wait); pure and below them: `proto` (the numbers), `option` and `request` (foreign bytes to types), `reply` (types to
//! bytes), [`errno`].
//! [`client`] is the other end, for readiness checks and workloads.
//!
//! Must always hold: foreign bytes never panic and never allocate beyond a named limit; a request that was read is
//! answered exactly once, in any order; after [`registry::Exports::remove`] no request of that export runs.

pub mod client;
pub mod errno;
pub mod export;
mod handshake;
mod inbox;
mod option;
mod proto;
pub mod registry;
mod reply;
mod request;
pub mod server;
mod session;
mod stream;
mod work;

pub use client::Client;
pub use errno::shutdown_error;
pub use export::{DiskExport, Export};
pub use registry::Exports;
pub use server::{Limits, Options, Server};
