//! The source side of a machine: numbers every write over all its disks, remembers what the target does not have, and
//! ships it.
//!
//! Read in this order: `source` (what the rest of the house calls), `disk` (one write, from the gate to the outbox),
//! `lease` (until when it may), `core` (what is known, under one short mutex), `log`, `map` and `extents` (what survives a crash of the process and
//! of the machine), `recovery` (opening after one), `flow` (what to put on the wire next), `resume` (where to go on
//! after a cut), `sender` (the thread that does it).
//!
//! Must always hold: a write is in the log before it is on its disk; in the log's order overlapping writes reach the
//! disk in order; every difference from the target is in the window, the outbox or a map until the target has
//! acknowledged it as durable; after a fence has returned, no write is acknowledged.

mod core;
mod disk;
mod extents;
mod flow;
mod lease;
mod log;
mod map;
#[cfg(test)]
mod model;
mod recovery;
mod resume;
mod sender;
mod shared;
#[expect(clippy::module_inception, reason = "the room's main type has the room's name")]
mod source;
#[cfg(test)]
mod tests;

pub use disk::SourceDisk;
pub use lease::{boot_time, holding};
pub use shared::Options;
pub use source::{Link, Source, SourceError};
