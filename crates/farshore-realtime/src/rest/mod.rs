//! The REST data plane: what application servers ask of a hub, as the official service SDKs ask it.
//!
//! Read in this order: `percent` and `query` (what came, decoded), `route` (the table of operations), [`operation`] (a
//! request, read without its body), [`body`] and [`metadata`] (what a message is made of), `serve` (from the request to the
//! answer), `answer` (answers as bytes), [`error`] (refusals).
//!
//! Must always hold: a path is cut at its slashes before it is decoded; parsing is pure and never panics; nothing is asked
//! of a hub before the token was verified; no body is read without a bound and a deadline.

mod answer;
pub mod body;
pub mod error;
pub mod metadata;
pub mod operation;
pub(crate) mod percent;
mod query;
mod route;
mod serve;

pub use error::{Absent, RestError};
pub use operation::{Action, Operation};
pub use route::hub_of;
pub use serve::{Broadcast, ENDPOINTS, Hubs, RestContext, Told, base_url, serve};
