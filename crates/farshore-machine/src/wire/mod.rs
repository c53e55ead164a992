//! The replication wire: how a source's writes cross from one region to another.
//!
//! Read in this order: [`frame`] (the bytes, and what each frame means), [`receiver`] (the listener of the target's
//! side). The sending side lives in [`crate::source`]. `docs/formats/wire.md` shows a session.
//!
//! Must always hold: every frame carries `(incarnation, epoch)` and a checksum; nothing a peer sends can make this side
//! panic or allocate more than a named limit; a receiver acknowledges as durable only what its sink has synced.

mod bytes;
pub mod frame;
pub mod receiver;
