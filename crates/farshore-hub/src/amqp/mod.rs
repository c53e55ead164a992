//! Messages to devices by AMQP 1.0, as the official service SDKs send them: there is no other way in those SDKs.
//!
//! Three nodes and nothing more: `$cbs` takes tokens, `/messages/devicebound` takes messages, `/messages/serviceBound/feedback`
//! tells what became of them. Who may do it, where messages go and where feedback comes from is asked through [`Behind`].
//!
//! Read in this order: `shape` (what may be decoded at all), `wire` (frames), `message` (what messages say), `link`, `session` and
//! `engine` (one connection as a function of what came, without any I/O), `connection` (the same with sockets and time), `listener`.
//!
//! Must always hold: a message is accepted only after the hub said it is kept; nothing but a token is taken from a peer without
//! one; what a peer can make this side remember has a limit with a name.

mod connection;
mod engine;
mod link;
mod listener;
mod message;
mod session;
mod shape;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use farshore_core::moment::Moment;

use crate::names::Key;
use crate::sas::KeyMark;
pub use listener::{Options, serve};

/// The hub, or all the hubs, behind an AMQP listener.
#[async_trait]
pub trait Behind: Send + Sync + fmt::Debug + 'static {
    /// Who the token belongs to. `audience` is what the peer says it is for; the token's own resource decides.
    ///
    /// # Errors
    /// [`Refused::Unauthorized`] when it does not open the service side of a hub, [`Refused::Unavailable`] when that hub is not
    /// served here now.
    async fn authorize(&self, token: &str, audience: &str) -> Result<Granted, Refused>;

    /// Whether what a token opened may still be used: not when the key that signed it is no longer one of the hub's.
    fn still_grants(&self, granted: &Granted) -> bool;

    /// Keeps a message for its device. On `Ok` it is durable.
    ///
    /// # Errors
    /// [`Refused`] says why it was not kept; an error after which it may have been kept is [`Refused::Unavailable`].
    async fn send(&self, hub: &str, message: CloudMessage) -> Result<(), Refused>;

    /// Waits for feedback that nobody else was given. It is leased: not settled in the hub's own time, it comes again.
    ///
    /// # Errors
    /// [`Refused::Unavailable`]: the hub is not served here any more.
    async fn feedback(&self, hub: &str) -> Result<Feedback, Refused>;

    /// Ends the lease of feedback. An unknown lock is no error: the lease ended before.
    async fn settle(&self, hub: &str, lock: &str, settled: Settled);
}

/// What a token opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The hub's logical host name.
    pub hub: Arc<str>,
    /// When it ends; then the connection is closed unless another token came.
    pub expires: Moment,
    /// The key that signed the token.
    pub by: Option<KeyMark>,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The token is wrong, expired, or has not the right to connect as a service.
    #[error("{0}")]
    Unauthorized(String),
    /// There is no such device, or module.
    #[error("device {0} is not registered in this hub")]
    UnknownDevice(String),
    /// There is no such node.
    #[error("{0}")]
    NoNode(String),
    /// As many messages wait for the device as may wait.
    #[error("the queue of the device is full: let it fetch its messages, or purge them")]
    QueueFull,
    /// The message is larger than a message to a device may be.
    #[error("the message is too large: a body of 64 KiB is possible")]
    TooLarge,
    /// The message cannot be understood.
    #[error("{0}")]
    Bad(String),
    /// The hub is not served here now: a standby, fenced, or going away. Trying again may help.
    #[error("{0}")]
    Unavailable(String),
}

/// Which outcomes of a message the sender wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// Nothing.
    #[default]
    None,
    /// That it was completed.
    Positive,
    /// That it was not.
    Negative,
    /// Either.
    Full,
}

/// A message for a device, as a service sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudMessage {
    /// The device or module it is for.
    pub key: Key,
    /// The address it was sent to, as the device is told it.
    pub to: String,
    /// Its identifier, if the sender gave one.
    pub id: Option<String>,
    /// What it answers.
    pub correlation: Option<String>,
    /// Who sent it, by their own word.
    pub user: Option<String>,
    /// When it is not worth delivering any more.
    pub expires: Option<Moment>,
    /// What the sender wants to be told.
    pub ack: Ack,
    /// Type of the body.
    pub content_type: Option<String>,
    /// Encoding of the body.
    pub content_encoding: Option<String>,
    /// Properties of the application, in their order; everything is text to a device.
    pub properties: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// What became of messages: one delivery of the feedback node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    /// Names the lease.
    pub lock: String,
    /// When it was put together.
    pub enqueued: Moment,
    /// One for each message.
    pub records: Vec<FeedbackRecord>,
}

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedbackRecord {
    /// The message's identifier.
    pub message: String,
    /// When it ended so.
    pub at: Moment,
    /// How it ended.
    pub outcome: Outcome,
    /// The device or module it was for.
    pub key: Key,
    /// Which creation of that device.
    pub generation: Arc<str>,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The device completed it.
    Success,
    /// Its time was over.
    Expired,
    /// It was delivered as often as it may be, and never completed.
    DeliveryCountExceeded,
    /// The device refused it.
    Rejected,
    /// The queue was emptied.
    Purged,
}

impl Outcome {
    /// The word for it on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Expired => "Expired",
            Self::DeliveryCountExceeded => "DeliveryCountExceeded",
            Self::Rejected => "Rejected",
            Self::Purged => "Purged",
        }
    }
}

/// What the reader did with feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is done with.
    Completed,
    /// It is to come again.
    Abandoned,
}
