//! Who may do what: tokens signed with a shared key, policies of a hub, connection strings, certificates of devices.
//!
//! Read in this order: [`token`] (parse, verify, make), [`policy`] (named keys and their rights), [`connection`] (the text
//! that people paste into applications), [`certificate`] (thumbprints, and chains to a known authority), [`authority`] (authorities as
//! they are handed over).
//!
//! Must always hold: a signature is checked over the bytes as they came, never over a tidied form of them; keys are
//! compared in constant time and never printed; the time is an argument.

pub mod authority;
pub mod certificate;
pub mod connection;
pub mod policy;
pub mod token;

pub use authority::{AUTHORITIES, Authority, BadAuthority, Issuers};
pub use certificate::{Authorities, BadCertificate};
pub use connection::{BadConnectionString, ConnectionString, Credential};
pub use policy::{KeyMark, Policy, Rights};
pub use token::{BadKey, BadToken, Refused, Token, new_key};
