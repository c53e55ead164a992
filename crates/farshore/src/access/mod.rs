//! Who may ask: tokens, what is kept of them in memory, and how often somebody may try.
//!
//! Read in this order: [`token`] (what a token looks like, and its hash), [`keys`] (which token is whose, without asking
//! the store at each request), [`throttle`] (how often). The roles are in `farshore_core::access`; the records are the
//! engine's (`engine/tokens.rs`); what is refused over HTTP, and how, is in `api/auth.rs`.
//!
//! Must always hold: a secret is never stored, logged or compared but by its hash, and that in constant time; what is
//! not known is refused.

pub mod keys;
pub mod throttle;
pub mod token;

pub use token::{Token, TokenHash};
