//! What devices said: one append-only log per region of origin, of which the partner keeps a copy with the same bytes
//! and the same offsets, so that a consumer's cursor `{region: offset}` means the same in both.
//!
//! Read in this order: [`event`](Event) (what is kept), `frame` (its bytes).
//!
//! Must always hold: an append whose future resolved `Ok` is on disk, or the same event was already; what cannot be read
//! is named and never passed by itself; copies of a log never differ.

#![expect(dead_code, reason = "what writes and reads the frames comes next")]

mod error;
mod event;
mod frame;
mod options;

pub use error::{Damage, NotKept, TelemetryError};
pub use event::{Cursor, Event, Extended, Kept, Lag, Page, RawBatch, Stored, TelemetryStats};
pub use frame::FRAME_BYTES_MAX;
pub use options::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, TelemetryOptions};
