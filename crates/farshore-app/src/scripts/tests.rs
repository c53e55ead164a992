//! A real git client against a real server on loopback, and what happens on the disk.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod archives;
mod disk;
mod pushes;
mod regions;
mod rig;
mod wire;
