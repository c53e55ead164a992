//! Who may ask: tokens, what is kept of them in memory, and how often somebody may try.
//!
//! Read in this order: [`token`] (what a token looks like, and its hash), [`certificate`] (what may be shown in its place),
//! [`keys`] (which token is whose, without asking the store at each request), [`throttle`] (how often), `admit` (all of it together). The roles are in `farshore_core::access`; the records are the
//! engine's (`engine/tokens.rs`); what is refused over HTTP, and how, is in `api/auth.rs`.
//!
//! Must always hold: a secret is never stored, logged or compared but by its hash, and that in constant time; what is
//! not known is refused.

mod admit;
pub mod certificate;
pub mod keys;
pub mod throttle;
pub mod token;

pub use admit::NotAdmitted;
pub use token::{Token, TokenHash};
