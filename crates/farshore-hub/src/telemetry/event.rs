//! What is kept: events of devices, where they stand, and how far a consumer has read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::error::NotKept;
use super::frame::FRAME_BYTES_MAX;
use crate::names::{DeviceId, Key, ModuleId};

/// First byte of what is inside a frame: the version of [`Meta`].
const VERSION: u8 = 1;

/// Something that a device said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Who said it.
    pub key: Key,
    /// Which life of the device: an identity that was deleted and made again is another device.
    pub generation: Arc<str>,
    /// When it came in, by this region's clock. What is stored is never earlier than the event before it in the same
    /// log, so that a moment can be looked up although a clock was set back.
    pub enqueued: Moment,
    /// What the protocol knows: `$.mid`, `$.ct`, …, without percent signs.
    pub system: Vec<(String, String)>,
    /// What the application added. `None`: a bare key, without `=`.
    pub properties: Vec<(String, Option<String>)>,
    /// What was said.
    pub body: Bytes,
}

impl Event {
    /// A system property.
    #[must_use]
    pub fn system(&self, name: &str) -> Option<&str> {
        self.system.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A property of the application that has a value.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(key, _)| key == name)?.1.as_deref()
    }

    /// Everything but the moment and the body.
    pub(super) fn meta(&self) -> Meta<'_> {
        Meta {
            device: self.key.device.as_str(),
            module: self.key.module.as_ref().map(ModuleId::as_str),
            generation: &self.generation,
            system: self.system.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            properties: self.properties.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect(),
        }
    }

    /// The bytes that go into a frame.
    pub(super) fn encode(&self) -> Result<Vec<u8>, NotKept> {
        let meta = self.meta();
        let mut bytes = Vec::with_capacity(128 + self.body.len());
        bytes.push(VERSION);
        let mut bytes = postcard::to_extend(&meta, bytes).expect("text and lists can always be written");
        bytes.extend_from_slice(&self.body);
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(NotKept::TooLarge { bytes: bytes.len(), most: FRAME_BYTES_MAX });
        }
        Ok(bytes)
    }

    /// The event in the payload of a frame.
    pub(super) fn decode(payload: &Bytes, enqueued: Moment) -> Result<Self, String> {
        let (meta, body) = Meta::read(payload)?;
        let device = DeviceId::parse(meta.device).map_err(|bad| bad.to_string())?;
        let module = meta.module.map(ModuleId::parse).transpose().map_err(|bad| bad.to_string())?;
        let owned = |text: &str| text.to_owned();
        Ok(Self {
            key: Key { device, module },
            generation: meta.generation.into(),
            enqueued,
            system: meta.system.iter().map(|(key, value)| (owned(key), owned(value))).collect(),
            properties: meta.properties.iter().map(|(key, value)| (owned(key), value.map(owned))).collect(),
            body: payload.slice(payload.len() - body.len()..),
        })
    }
}

/// What is inside a frame, before the body: a version byte, then this in postcard, then the body up to the frame's end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meta<'a> {
    pub(super) device: &'a str,
    pub(super) module: Option<&'a str>,
    pub(super) generation: &'a str,
    #[serde(borrow)]
    pub(super) system: Vec<(&'a str, &'a str)>,
    #[serde(borrow)]
    pub(super) properties: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Meta<'a> {
    /// The head and the body of a payload.
    pub(super) fn read(payload: &'a [u8]) -> Result<(Self, &'a [u8]), String> {
        match payload.split_first() {
            Some((&VERSION, rest)) => postcard::take_from_bytes(rest).map_err(|error| error.to_string()),
            Some((version, _)) => {
                Err(format!("its version {version} is not known here: update this node first"))
            }
            None => Err("it is empty".into()),
        }
    }
}

/// An event in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The region that took it from the device.
    pub region: Region,
    /// Its place in that region's log, the same in every region's copy.
    pub offset: u64,
    /// Under which right to serve it was taken.
    pub epoch: Epoch,
    /// It came into this region's copy after another region's log there had an event of a higher epoch: it was taken
    /// before a failover, and shipped after it. Each copy answers for itself: what is late here was in order where it
    /// was taken.
    pub late: bool,
    /// What was said.
    pub event: Event,
}

/// How far a consumer has read: the next offset of each region. Regions that are not in it: from the first event kept.
/// In JSON `{"oslo":12,"paris":7}`. It means the same in every region.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub BTreeMap<Region, u64>);

impl Cursor {
    /// The next offset of a region's log.
    #[must_use]
    pub fn next(&self, region: &Region) -> u64 {
        self.0.get(region).copied().unwrap_or(0)
    }

    /// The farther of the two in every region: what either consumer has read.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        for (region, &next) in &other.0 {
            let mine = merged.0.entry(region.clone()).or_default();
            *mine = (*mine).max(next);
        }
        merged
    }
}

/// What one read gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Ordered by the moment they came in, then by region; each region's in the order of its log.
    pub events: Vec<Stored>,
    /// Where to go on. It may be ahead although there are no events: duplicates were passed.
    pub next: Cursor,
    /// How many events the cursor asked for and are no longer kept, by region. Empty unless retention was faster than a
    /// consumer that had begun.
    pub missed: BTreeMap<Region, u64>,
}

/// What became of an event that was given to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is durable, here.
    Stored {
        /// Its place in this region's log.
        offset: u64,
    },
    /// The same event is durable already: it was sent again.
    Duplicate,
}

/// A piece of one region's log, as its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawBatch {
    /// Whose log.
    pub origin: Region,
    /// Offset of the first frame.
    pub from: u64,
    /// Offset after the last frame.
    pub next: u64,
    /// Whole frames, one after the other.
    pub frames: Vec<u8>,
}

/// How a copy stands after it was extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    /// The next offset that is wanted.
    pub next: u64,
    /// How many of the new events are also in another region's log here: `read` gives one of the two.
    pub duplicates: u64,
}

/// How much of a log lies at and after an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lag {
    /// Events.
    pub events: u64,
    /// Bytes in the log.
    pub bytes: u64,
    /// When the oldest of them came in.
    pub oldest: Option<Moment>,
}

/// What the log holds and has seen. Counts are from this start on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TelemetryStats {
    /// Events stored by `append`.
    pub stored: u64,
    /// Events given to `append` that were there already.
    pub duplicates: u64,
    /// Events taken over from other regions' logs.
    pub copied: u64,
    /// Events of other regions' logs that were found in two logs.
    pub copied_duplicates: u64,
    /// Bytes on disk of all logs.
    pub bytes: u64,
    /// Bytes on disk, by region of origin.
    pub bytes_of: BTreeMap<Region, u64>,
    /// Events deleted by retention.
    pub expired: u64,
    /// Of these, events that a partner had not pulled: the limit in bytes left no choice.
    pub expired_unpulled: u64,
    /// Events that were refused because the disk failed or was full.
    pub refused: u64,
    /// Identifiers that re-sent events are compared with.
    pub remembered: u64,
    /// Identifiers forgotten before the horizon because there were too many.
    pub forgotten_early: u64,
    /// Damaged places that were met, in words.
    pub damaged: Vec<String>,
    /// Why the log cannot be written just now, in words, if so.
    pub failing: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_they_were_written() {
        let event = Event {
            key: Key::parse("pump/valve").unwrap(),
            generation: "7".into(),
            enqueued: Moment(5),
            system: vec![("$.mid".into(), "a é".into())],
            properties: vec![("bare".into(), None), ("empty".into(), Some(String::new()))],
            body: Bytes::from_static(b"\x00\xff"),
        };
        let payload = Bytes::from(event.encode().unwrap());
        assert_eq!(Event::decode(&payload, Moment(5)).unwrap(), event);
        assert_eq!((event.system("$.mid"), event.property("bare")), (Some("a é"), None));
        assert!(Event::decode(&Bytes::from_static(b"\x09"), Moment(5)).unwrap_err().contains("version 9"));
        assert!(Event::decode(&payload.slice(..4), Moment(5)).is_err());
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_queued() {
        let event = Event {
            key: Key::parse("pump").unwrap(),
            generation: "7".into(),
            enqueued: Moment(5),
            system: Vec::new(),
            properties: Vec::new(),
            body: vec![0; FRAME_BYTES_MAX].into(),
        };
        assert!(matches!(event.encode(), Err(NotKept::TooLarge { .. })));
    }

    #[test]
    fn a_cursor_is_a_plain_object() {
        let cursor: Cursor = serde_json::from_str(r#"{"oslo":12,"paris":7}"#).unwrap();
        assert_eq!(cursor.next(&Region::parse("paris").unwrap()), 7);
        assert_eq!(cursor.next(&Region::parse("rome").unwrap()), 0);
        let other: Cursor = serde_json::from_str(r#"{"paris":9,"rome":1}"#).unwrap();
        let merged = serde_json::to_string(&cursor.merge(&other)).unwrap();
        assert_eq!(merged, r#"{"oslo":12,"paris":9,"rome":1}"#);
        assert!(serde_json::from_str::<Cursor>(r#"{"oslo":-1}"#).is_err());
    }
}
