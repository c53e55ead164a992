//! Connections against a hub that is made up and a client that may do anything.

mod ending;
mod fake;
mod greeting;
mod talking;
mod telemetry;
