//! What the REST face asks of the living hub behind it, and nothing else.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use farshore_core::moment::Moment;
use serde_json::Value;

use crate::names::Key;

/// Whether this hub answers for itself, as its clients are to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// It is the active one.
    Active,
    /// The other region is: what is read here may be a little old, and nothing may be written.
    Standby,
    /// Nobody is, for a moment.
    FailingOver,
}

/// A direct method to call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// What it is given.
    pub payload: Value,
    /// How long the device may take to answer.
    pub response_timeout: Duration,
    /// How long to wait for the device to connect; zero: it must be there.
    pub connect_timeout: Duration,
}

/// Why a method has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotInvoked {
    /// There is no such device or module.
    #[error("there is no such device")]
    Unknown,
    /// The device is not connected, or does not take methods.
    #[error("the device is not online, or has not subscribed to methods")]
    NotOnline,
    /// It was called and did not answer in time. It may have acted.
    #[error("the device did not answer in time: it may have carried the method out or not")]
    TimedOut,
    /// It is not called: something is wrong with the call.
    #[error("{0}")]
    Refused(String),
    /// Its answer cannot be understood.
    #[error("{0}")]
    BadAnswer(String),
    /// This hub does not serve now.
    #[error("this hub does not serve now: devices are connected to the active one")]
    NotServing,
    /// This hub could not look.
    #[error("{0}")]
    Failed(String),
}

/// The right to change something, as long as it is held: a hub that stops serving waits until nobody holds it.
pub trait Held: Send + Sync {
    /// Whether what was changed may be answered as done. Asked when it is durable, immediately before the answer.
    fn may_answer(&self) -> bool;
}

/// Of a hub that nobody fences.
struct Unfenced;

impl Held for Unfenced {
    fn may_answer(&self) -> bool {
        true
    }
}

/// The hub behind the REST face.
#[async_trait]
pub trait Behind: Send + Sync + fmt::Debug {
    /// Whether it serves.
    fn serving(&self) -> Serving;
    /// Returns when it does not serve any more: whoever waits for news is to look for them elsewhere.
    async fn stopped(&self);
    /// Held by whoever changes something, while they do; `None`: this hub may not change anything now. A hub that somebody can
    /// fence has a say of its own in this.
    fn hold(&self) -> Option<Box<dyn Held>> {
        let held: Box<dyn Held> = Box::new(Unfenced);
        (self.serving() == Serving::Active).then_some(held)
    }
    /// How many devices are connected.
    fn connected(&self) -> u64;
    /// Since when this one is; `None`: it is not.
    fn connected_since(&self, key: &Key) -> Option<Moment>;
    /// When this one, which is connected, was last heard of; what is kept of that may be older.
    fn last_heard(&self, _key: &Key) -> Option<Moment> {
        None
    }
    /// The messages that wait for this one were purged: what its connection has not sent yet is not to be sent.
    fn forget_messages(&self, _key: &Key) {}
    /// Calls a method, once: it is never repeated. Returns the device's status and payload.
    async fn invoke(&self, key: &Key, call: Call) -> Result<(i32, Value), NotInvoked>;
}
