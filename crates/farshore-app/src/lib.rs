//! The room of app services: application back ends with a name, a URL, keys, scripts, settings, a mode and a database.
//!
//! When its region is lost, a service is recovered onto the capacity that a *secondary* service has reserved in another
//! region. What lives here decides whether that may be done; nothing here does it yet.
//!
//! Read in this order: [`mode`] (how much capacity a service has), [`reserve`] (when a secondary may be used), [`data`] (its
//! database, here and in the other region).
//!
//! Must always hold: a refusal names the rule, and a secondary is never smaller than what it replaces.

pub mod data;
pub mod mode;
pub mod reserve;
