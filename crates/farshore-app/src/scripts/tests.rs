//! A real git client against a real server on loopback, and what happens on the disk.

mod archives;
mod disk;
mod gateways;
mod node;
mod pushes;
mod regions;
mod rig;
mod wire;
