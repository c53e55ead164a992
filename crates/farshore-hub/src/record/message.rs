//! A message from the cloud to a device: on its way, or done.

use std::sync::Arc;

use bytes::Bytes;
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::mark::Mark;
use super::register::Register;
use super::rules::Rules;
use crate::names::Key;
use crate::versions::VersionVector;

/// Which outcomes the sender wants to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// None.
    #[default]
    None,
    /// That it was delivered.
    Positive,
    /// That it was not.
    Negative,
    /// Both.
    Full,
}

/// How the way of a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The device has it.
    Delivered,
    /// The device refused it.
    Rejected,
    /// It was delivered too often without an answer.
    DeliveredTooOften,
    /// Its time was over.
    Expired,
    /// The queue was emptied.
    Purged,
}

impl Outcome {
    /// Whether the sender asked to hear of this.
    #[must_use]
    pub fn concerns(self, ack: Ack) -> bool {
        match ack {
            Ack::None => false,
            Ack::Positive => self == Self::Delivered,
            Ack::Negative => self != Self::Delivered,
            Ack::Full => true,
        }
    }

    /// The word for it in feedback.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "Success",
            Self::Rejected => "Rejected",
            Self::DeliveredTooOften => "DeliveryCountExceeded",
            Self::Expired => "Expired",
            Self::Purged => "Purged",
        }
    }
}

/// A message to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Names it among the messages of its device: its message id, if that is free. Empty in a message that is to be
    /// pushed: it gets one.
    pub id: String,
    /// Names and values of system properties: `$.mid`, `$.cid`, `$.ct` and so on.
    pub system: Vec<(String, String)>,
    /// Names and values of the sender's properties.
    pub properties: Vec<(String, Option<String>)>,
    /// What it says.
    pub body: Bytes,
    /// Which outcomes the sender wants to hear of.
    pub ack: Ack,
    /// When it was taken in.
    pub enqueued: Moment,
    /// When it is over; `None`: never.
    pub expires: Option<Moment>,
    /// How often it was handed out.
    pub deliveries: u32,
    /// For which life of the device.
    pub generation: Arc<str>,
}

impl Message {
    /// A message that is to be pushed.
    #[must_use]
    pub fn new(body: Bytes) -> Self {
        Self {
            id: String::new(),
            system: Vec::new(),
            properties: Vec::new(),
            body,
            ack: Ack::None,
            enqueued: Moment::default(),
            expires: None,
            deliveries: 0,
            generation: "".into(),
        }
    }

    /// The sender's id for it.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.system.iter().find(|(name, _)| name == "$.mid").map(|(_, value)| value.as_str())
    }

    /// Whether it says the same: then it is the same, sent again.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.system == other.system && self.properties == other.properties && self.body == other.body
    }
}

/// What became of a message that its sender wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    /// To whom it was.
    pub device: Key,
    /// Which message.
    pub id: String,
    /// The sender's id of it.
    pub message_id: String,
    /// For which life of the device.
    pub generation: Arc<str>,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub at: Moment,
}

/// Where a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// On its way.
    Pending(Arc<Message>),
    /// At the end.
    Done {
        /// How.
        outcome: Outcome,
        /// When.
        at: Moment,
        /// The sender's id and the device's generation, while the sender has yet to hear of it.
        news: Option<(String, Arc<str>)>,
    },
}

/// The entry of one message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Queued {
    pub(super) seen: VersionVector,
    pub(super) way: Register<Way>,
}

impl Queued {
    /// A place where no message is.
    #[must_use]
    pub fn vacant(known: VersionVector) -> Self {
        Self { seen: known, way: Register::default() }
    }

    /// Union by id, and done is done.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        let way = self.way.join(&self.seen, &other.way, &other.seen);
        Self { seen: self.seen.merge(&other.seen), way }
    }

    pub(crate) fn set(&mut self, mark: &Mark, way: Way) {
        self.seen.raise(mark.region(), mark.stamp.ticks());
        self.way.set(mark, way);
    }

    /// Where it is. What is done anywhere is done; of two ends the one that has no news to tell, as it was told.
    pub(crate) fn now(&self) -> Option<&Way> {
        let done = |way: &Way| matches!(way, Way::Done { news: Some(_), .. });
        let told = |way: &Way| matches!(way, Way::Done { news: None, .. });
        let rules = Rules::default();
        let best = self.way.best(&rules, told).or_else(|| self.way.best(&rules, done));
        best.or_else(|| self.way.best(&rules, |_| true)).map(|sibling| &sibling.value)
    }

    /// The message, if it is on its way.
    #[must_use]
    pub fn pending(&self) -> Option<&Arc<Message>> {
        match self.now()? {
            Way::Pending(message) => Some(message),
            Way::Done { .. } => None,
        }
    }
}
