//! What nodes say to each other on the bus, and its seal: whoever does not know the cluster's secret is not understood.
//!
//! A payload is 32 bytes of HMAC-SHA256 over subject and content, then the content in postcard.

use std::fmt;

use bytes::Bytes;
use farshore_core::ids::Region;
use ring::hmac;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::hub::call::{Answer, Call};
use crate::names::HubName;
use crate::negotiate::Course;

/// Bytes of a seal.
const TAG_LEN: usize = 32;
/// Bytes of one part of a word: half of what a bus takes at once when nothing is set there, so that the largest message
/// (1 MiB and its envelope) goes through.
pub(super) const PART_MAX: usize = 512 * 1024;

/// One start of one node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct NodeId(pub(super) u128);

impl NodeId {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A piece of a word to all nodes. Numbers rise by one from part to part of a node: a repeat is known by them, and a loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) from: NodeId,
    pub(super) number: u64,
    /// A word begins with it.
    pub(super) first: bool,
    /// The word goes on in the next one.
    pub(super) more: bool,
    pub(super) piece: Bytes,
}

/// Something about one hub, said to all nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Word {
    /// To be done; nobody waits for it.
    Order {
        call: Call,
        /// A client's own message: the other region's members get it, too.
        relay: bool,
    },
    /// To be answered.
    Ask { id: u64, call: Call },
}

/// What a node says of itself, each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Presence {
    pub(super) from: NodeId,
    /// It goes.
    pub(super) leaves: bool,
    /// Changes with what its own hubs are set to; 0: it has none of its own.
    pub(super) revision: u64,
}

/// What one node says to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Direct {
    /// An answer to [`Word::Ask`].
    Said { from: NodeId, id: u64, said: Said },
    /// What are your hubs, and what is set?
    WantsCards { from: NodeId },
    /// These.
    Cards { from: NodeId, revision: u64, cards: Vec<HubCard> },
    /// That is not told on this bus.
    Refused { from: NodeId, why: String },
}

/// What a node has to say to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Said {
    /// This.
    Here(Answer),
    /// The hub or the connection is not here.
    NotHere,
}

/// A hub as another node needs it to serve it, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HubCard {
    /// [`crate::live::Settings`] in JSON: they come with words that only a format with names can leave out.
    pub(super) settings: String,
    /// Whether its clients are served in this region now.
    pub(super) serving: bool,
    /// The regions that it is in.
    pub(super) course: Option<Course>,
}

/// The places on the bus of one region.
#[derive(Debug, Clone)]
pub(super) struct Subjects {
    region: Region,
}

impl Subjects {
    pub(super) fn new(region: Region) -> Self {
        Self { region }
    }

    /// Words about one hub. A dot in its name would divide the subject.
    pub(super) fn call(&self, hub: &HubName) -> String {
        format!("farshore.{}.{}.call", self.region, hub.as_str().replace('.', "%"))
    }

    /// Words about all hubs: one subscription, so that they arrive in the order in which they were said.
    pub(super) fn calls(&self) -> String {
        format!("farshore.{}.*.call", self.region)
    }

    /// The hub that a subject is about.
    pub(super) fn hub(subject: &str) -> Option<HubName> {
        let (name, what) = subject.split('.').nth(2).zip(subject.split('.').nth(3))?;
        HubName::parse(&name.replace('%', ".")).ok().filter(|_| what == "call")
    }

    pub(super) fn presence(&self) -> String {
        format!("farshore.{}.presence", self.region)
    }

    /// Words to one node: answers, and questions about settings.
    pub(super) fn node(&self, node: NodeId) -> String {
        format!("farshore.{}.node.{node}", self.region)
    }
}

/// Proves that a payload comes from a node of the same cluster.
pub(super) struct Seal {
    key: hmac::Key,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    pub(super) fn new(secret: &str) -> Self {
        // The name and number of this format: another one is not understood, rather than wrongly.
        let own = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let derived = hmac::sign(&own, b"farshore real-time bus 1");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) }
    }

    pub(super) fn close(&self, subject: &str, content: &impl Serialize) -> Option<Bytes> {
        let content = postcard::to_allocvec(content).ok()?;
        let mut payload = Vec::with_capacity(TAG_LEN + content.len());
        payload.extend_from_slice(self.tag(subject, &content).as_ref());
        payload.extend_from_slice(&content);
        Some(payload.into())
    }

    pub(super) fn open<T: DeserializeOwned>(&self, subject: &str, payload: &[u8]) -> Option<T> {
        let (tag, content) = payload.split_at_checked(TAG_LEN)?;
        let signed = [subject.as_bytes(), &[0], content].concat();
        hmac::verify(&self.key, &signed, tag).ok()?;
        postcard::from_bytes(content).ok()
    }

    fn tag(&self, subject: &str, content: &[u8]) -> hmac::Tag {
        let mut signing = hmac::Context::with_key(&self.key);
        signing.update(subject.as_bytes());
        signing.update(&[0]);
        signing.update(content);
        signing.sign()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_found_by_its_subject_whatever_is_in_its_name() {
        let subjects = Subjects::new(Region::parse("paris").unwrap());
        for name in ["chat", "a.b.c", "a_`,.[x]", "call", "node"] {
            let hub = HubName::parse(name).unwrap();
            let subject = subjects.call(&hub);
            assert_eq!(subject.split('.').count(), 4, "{subject}");
            assert_eq!(Subjects::hub(&subject), Some(hub));
        }
        for subject in
            ["farshore.paris.presence", "farshore.paris.1.call", "farshore.paris.chat.ask", "x", ""]
        {
            assert_eq!(Subjects::hub(subject), None, "{subject}");
        }
    }

    #[test]
    fn only_the_same_secret_opens_and_only_where_it_was_said() {
        let said = Presence { from: NodeId(7), leaves: false, revision: 3 };
        let seal = Seal::new("one secret");
        let payload = seal.close("here", &said).unwrap();
        assert_eq!(seal.open("here", &payload), Some(said));
        assert_eq!(seal.open::<Presence>("elsewhere", &payload), None);
        assert_eq!(Seal::new("another").open::<Presence>("here", &payload), None);
        for at in 0..payload.len() {
            let mut bent = payload.to_vec();
            bent[at] ^= 1;
            assert_eq!(seal.open::<Presence>("here", &bent), None, "byte {at}");
            assert_eq!(seal.open::<Presence>("here", &payload[..at]), None, "cut at {at}");
        }
    }
}
