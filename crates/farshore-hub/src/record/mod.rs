//! What a hub remembers, as values that can be joined. Pure: no file, no clock, no chance.
//!
//! Everything that two regions keep is an [`Entry`]: a device or module, a message on its way to one, a consumer group, an
//! access policy, the rules of the merge, a setting of the hub. `join` of two entries is commutative, associative and idempotent, so regions may
//! exchange them in any order, as often as they like, and end up with the same.
//!
//! Read in this order: [`mark`] (which change), [`register`] (a value that two regions may have changed at once),
//! [`leaves`] (JSON as one register per leaf), [`device`] (the groups of an identity), [`edit`] (what can be done to it), [`draft`] (one that is about to be made),
//! [`rules`] (who wins), [`view`] (the identity as it reads), [`conflict`] (what had to be decided for that), [`message`], [`shared`] (groups,
//! policies, settings), [`entry`] (all of them behind one join), `format` (their bytes).
//!
//! Must always hold: joining decides nothing. Of concurrent changes all are kept until a later change, made in sight of
//! them, replaces them; who wins meanwhile is decided on *reading*, by [`rules::Rules`], in every region alike.

pub mod mark;
pub mod register;

pub mod leaves;

pub mod device;
pub mod edit;

pub mod draft;

pub mod rules;
pub mod view;

pub mod conflict;

pub mod message;
pub mod shared;

pub mod entry;
mod format;

pub use conflict::{Conflict, Group, Side, Why};
pub use device::{Auth, Record, Scope, Status};
pub use draft::Draft;
pub use edit::{Edit, Invalid, NewDevice};
pub use entry::{Entry, EntryKey};
pub use format::Unreadable;
pub use mark::Mark;
pub use message::{Ack, Feedback, Message, Outcome};
pub use rules::{MergePolicy, Rules};
pub use shared::{Cursor, Policy, Rights};
pub use view::{Device, Section};

#[cfg(test)]
mod tests;
