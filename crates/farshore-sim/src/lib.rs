//! The room of simulation: faults that real hardware keeps for the worst moment, made on demand and from a seed.
//!
//! Used by tests only (a dev-dependency, never linked into the program).
//!
//! Read in this order: [`seed`] (chance that can be repeated), [`disk`] (a disk that tears, forgets, fills up and fails),
//! [`oracle`] (which says whether what a disk holds can have come about by the writes it was given).
//!
//! Must always hold: everything follows from the seed; a failing test prints it, and `FARSHORE_SEED` runs it again.

pub mod disk;
pub mod oracle;
pub mod seed;
