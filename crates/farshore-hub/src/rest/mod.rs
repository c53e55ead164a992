//! The service side over HTTP, as the official service SDKs ask it: identities, twins, methods, queries, jobs, messages to
//! devices, and reading what devices said.
//!
//! Read in this order: [`behind`] (what is asked of the living hub), [`hub`] (one hub's face), `route` (the table of operations),
//! `request` (what came, read), [`serve`](mod@serve) (from the request to the answer), `answer` and [`error`] (what goes out); then one
//! file for each kind of operation: `devices` and `identity`, `twin`, `bulk`, `find`, `method`, `message`, `feedback`, `events`,
//! `job` with `container` and `files`, `scheduled`.
//!
//! Must always hold: nothing is asked of the registry before the token was verified; a hub that does not serve changes
//! nothing and says so with a code of its own; no body is read without a bound and a deadline; a change and the check of its
//! etag are one transaction.

mod answer;
pub mod behind;
mod bulk;
mod container;
mod devices;
pub mod error;
mod events;
mod feedback;
mod files;
mod find;
pub mod hub;
mod identity;
mod job;
mod message;
mod method;
mod request;
mod route;
mod scheduled;
pub mod serve;
mod twin;

use farshore_core::moment::Moment;

pub use answer::Body;
pub use behind::{Behind, Call, Held, NotInvoked, Serving};
pub use error::RestError;
pub use hub::{Hub, HubOptions};
pub(crate) use identity::{Live, view as identity_view};
pub(crate) use message::to as address_of;
pub use serve::{Hubs, Service, serve};
pub(crate) use twin::view as twin_view;

/// The clock of this room.
fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
