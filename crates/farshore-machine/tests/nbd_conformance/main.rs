//! The NBD server before the clients that people really use, and before rubbish.
//!
//! `stage` makes disks to serve (plain, read-only, replicating, promoted); `clients` runs libnbd's, QEMU's and fio's tools on
//! them, `protocol.py` being what `nbdsh` is asked to do; `sockets` speaks the protocol byte by byte. A tool that is missing
//! fails the test and names its package.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clients;
mod sockets;
mod stage;
