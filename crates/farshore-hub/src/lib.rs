//! The room of device hubs: identities, twins and telemetry of devices, kept in two regions and merged on the way home.
//!
//! What lives here first is what the merge stands on: the order of changes made in regions that could not see each other.
//!
//! Read in this order: [`names`] (who is meant), [`clock`] (an order of events that agrees with cause and, nearly, with the wall),
//! [`versions`] (what a region has seen, and which of two changes knew of the other), [`sas`] (who may do what),
//! [`mqtt`] (devices connect here),
//! [`amqp`] (services send them messages here),
//! [`provision`] (devices ask here which hub is theirs now),
//! [`telemetry`] (what devices said), [`sink`] (where it goes on),
//! [`query`] (finding devices by what is known of them),
//! [`record`] (what is kept, as values that can be joined), [`registry`] (where it is kept, and how regions exchange it),
//! [`import`] (identities as lines of a file), [`rest`] (services ask it over HTTP),
//! [`fleet`] (one hub in one region, alive: who comes in, what may be acknowledged),
//! [`link`] (what the two regions of a hub ask each other),
//! [`member`] (other hubs, compared on a schedule), [`trust`] (whom a hub believes when it goes out).
//!
//! Must always hold: the order is the same in every region; merging is commutative, associative and idempotent; an
//! operation that was seen is never applied twice.

pub mod amqp;
pub mod clock;
pub mod fleet;
pub mod front;
pub mod import;
pub mod link;
pub mod member;
pub mod mqtt;
pub mod names;
pub mod percent;
pub mod provision;
pub mod query;
pub mod record;
pub mod registry;
pub mod rest;
pub mod sas;
pub mod sink;
pub mod telemetry;
pub mod trust;
pub mod versions;
pub mod workload;
