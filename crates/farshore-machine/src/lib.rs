//! The room of machines: disks that are served over NBD, replicated write by write, and brought back to any moment.
//!
//! Data path on ordinary threads and blocking calls (a page-cached write costs less than a task switch); only
//! `workload` meets the asynchronous world.
//!
//! Read in this order: [`disk`] (bytes at offsets), [`record`] (one write, as it travels and rests), [`sink`] (what the
//! receiving side can do), [`replica`] (the receiving side), [`tls`] (how bytes travel between hosts).
//!
//! Must always hold: a write is in the source's log before it is on the disk; the target's journal is append-only;
//! an offered recovery point is a prefix of the sequence of writes over all disks of the machine.

pub mod disk;
pub mod nbd;
pub mod raw;
pub mod record;
pub mod replica;
pub mod sink;
pub mod source;
pub mod tls;
pub mod wire;
pub mod workload;
