//! Entries in bytes: a version, then postcard. Regions, changes and generation ids, which repeat in an entry many times,
//! stand once in a table each and are meant by their place in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::device::{Auth, Kept, Life, Record, Scope, Status};
use super::entry::Entry;
use super::leaves::{Count, Leaf, Leaves, Of};
use super::mark::Mark;
use super::message::{Ack, Message, Outcome, Queued, Way};
use super::register::{Register, Sibling};
use super::rules::Rules;
use super::shared::{Cursor, Policy, Single};
use crate::clock::Stamp;
use crate::names::Subs;
use crate::versions::VersionVector;

/// The version of what [`write()`] makes of most entries.
const VERSION: u8 = 1;
/// The version of settings, which a node that reads only the first version does not know.
const VERSION_OF_SETTINGS: u8 = 2;

/// Bytes that are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry of the registry cannot be read: {0}")]
pub struct Unreadable(pub &'static str);

/// Place in the table of changes.
type At = u32;
/// Place in the table of generation ids.
type Gen = u32;
/// Own and kept.
type PackedEtags = Option<(String, String)>;
/// Siblings.
type Many<T> = Vec<(At, T)>;

#[derive(Serialize, Deserialize)]
struct Packed<'a> {
    #[serde(borrow)]
    regions: Vec<&'a str>,
    marks: Vec<(u32, Epoch, u64)>,
    generations: Vec<&'a str>,
    seen: Vec<(u32, u64)>,
    #[serde(borrow)]
    body: Body<'a>,
}

#[derive(Serialize, Deserialize)]
enum Body<'a> {
    #[serde(borrow)]
    Device(Box<PackedRecord<'a>>),
    #[serde(borrow)]
    Message(Many<PackedWay<'a>>),
    Group(Many<Option<Cursor>>),
    Policy(Many<Option<Policy>>),
    Settings(Many<Option<Rules>>),
    /// Since version 2.
    #[serde(borrow)]
    Setting(Many<Option<&'a str>>),
}

type PackedLeaves<'a> = Vec<(&'a str, Many<(Gen, Option<&'a str>)>)>;

#[derive(Serialize, Deserialize)]
struct PackedRecord<'a> {
    /// Generation, when it was made and with what; `None`: deleted.
    life: Many<(Gen, Option<(Moment, u64)>)>,
    #[serde(borrow)]
    status: Many<(Gen, bool, &'a str, Moment)>,
    auth: Many<(Gen, Auth)>,
    scope: Many<(Gen, Scope)>,
    subs: Many<(Gen, Subs)>,
    kept: Many<(Gen, PackedEtags, PackedEtags)>,
    #[serde(borrow)]
    tags: PackedLeaves<'a>,
    #[serde(borrow)]
    desired: PackedLeaves<'a>,
    desired_count: PackedCount,
    #[serde(borrow)]
    reported: Many<(Gen, PackedLeaves<'a>)>,
    reported_count: PackedCount,
    last_seen: Moment,
}

#[derive(Serialize, Deserialize)]
struct PackedCount {
    base: u64,
    epoch: Epoch,
    changes: Vec<(u32, u64)>,
}

#[derive(Serialize, Deserialize)]
enum PackedWay<'a> {
    #[serde(borrow)]
    Pending(Box<PackedMessage<'a>>),
    Done(Outcome, Moment, Option<(&'a str, Gen)>),
}

#[derive(Serialize, Deserialize)]
struct PackedMessage<'a> {
    id: &'a str,
    #[serde(borrow)]
    system: Vec<(&'a str, &'a str)>,
    properties: Vec<(&'a str, Option<&'a str>)>,
    body: &'a [u8],
    ack: Ack,
    enqueued: Moment,
    expires: Option<Moment>,
    deliveries: u32,
    generation: Gen,
}

/// The tables while an entry is written.
#[derive(Default)]
struct Tables<'a> {
    regions: Vec<&'a str>,
    marks: Vec<&'a Mark>,
    generations: Vec<&'a str>,
}

/// The place of `item`, which is added when it is new. From the end, because neighbours are mostly alike.
fn place<T: PartialEq>(table: &mut Vec<T>, item: T) -> u32 {
    let found = table.iter().rposition(|other| *other == item);
    let place = found.unwrap_or_else(|| {
        table.push(item);
        table.len() - 1
    });
    u32::try_from(place).expect("an entry of less than 4 GiB has fewer changes than that")
}

impl<'a> Tables<'a> {
    fn generation(&mut self, text: &'a str) -> Gen {
        place(&mut self.generations, text)
    }

    fn many<T: Clone, P>(
        &mut self,
        register: &'a Register<T>,
        mut pack: impl FnMut(&mut Self, &'a T) -> P,
    ) -> Many<P> {
        let siblings = register.siblings().iter();
        siblings.map(|sibling| (place(&mut self.marks, &sibling.mark), pack(self, &sibling.value))).collect()
    }

    fn leaves(&mut self, leaves: &'a Leaves) -> PackedLeaves<'a> {
        let packed = leaves.0.iter().map(|(path, register)| {
            let pack = |tables: &mut Self, of: &'a Of<Leaf>| {
                (tables.generation(&of.generation), of.value.as_deref())
            };
            (path.as_ref(), self.many(register, pack))
        });
        packed.collect()
    }

    fn count(&mut self, count: &'a Count) -> PackedCount {
        let changes = count.changes.iter();
        let changes = changes.map(|(region, changes)| (place(&mut self.regions, region.as_str()), *changes));
        PackedCount { base: count.base, epoch: count.epoch, changes: changes.collect() }
    }

    fn record(&mut self, record: &'a Record) -> PackedRecord<'a> {
        PackedRecord {
            life: self.many(&record.life, |tables, life| match life {
                Life::Alive { generation, created, credentials } => {
                    (tables.generation(generation), Some((*created, *credentials)))
                }
                Life::Deleted { generation } => (tables.generation(generation), None),
            }),
            status: self.many(&record.status, |tables, of| {
                let status = &of.value;
                (tables.generation(&of.generation), status.enabled, status.reason.as_str(), status.at)
            }),
            auth: self.many(&record.auth, |tables, of| (tables.generation(&of.generation), of.value.clone())),
            scope: self
                .many(&record.scope, |tables, of| (tables.generation(&of.generation), of.value.clone())),
            subs: self.many(&record.subs, |tables, of| (tables.generation(&of.generation), of.value)),
            kept: self.many(&record.kept, |tables, of| {
                (tables.generation(&of.generation), of.value.device.clone(), of.value.twin.clone())
            }),
            tags: self.leaves(&record.tags),
            desired: self.leaves(&record.desired),
            desired_count: self.count(&record.desired_count),
            reported: self.many(&record.reported, |tables, of| {
                (tables.generation(&of.generation), tables.leaves(&of.value))
            }),
            reported_count: self.count(&record.reported_count),
            last_seen: record.last_seen,
        }
    }

    fn way(&mut self, way: &'a Way) -> PackedWay<'a> {
        match way {
            Way::Done { outcome, at, news } => {
                let news = news.as_ref().map(|(id, generation)| (id.as_str(), self.generation(generation)));
                PackedWay::Done(*outcome, *at, news)
            }
            Way::Pending(message) => PackedWay::Pending(Box::new(PackedMessage {
                id: &message.id,
                system: message.system.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
                properties: message
                    .properties
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_deref()))
                    .collect(),
                body: &message.body,
                ack: message.ack,
                enqueued: message.enqueued,
                expires: message.expires,
                deliveries: message.deliveries,
                generation: self.generation(&message.generation),
            })),
        }
    }
}

/// The entry in bytes.
pub(super) fn write(entry: &Entry) -> Vec<u8> {
    let mut tables = Tables::default();
    let body = match entry {
        Entry::Device(record) => Body::Device(Box::new(tables.record(record))),
        Entry::Message(queued) => Body::Message(tables.many(&queued.way, Tables::way)),
        Entry::Group(single) => Body::Group(tables.many(&single.value, |_, value| value.clone())),
        Entry::Policy(single) => Body::Policy(tables.many(&single.value, |_, value| value.clone())),
        Entry::Settings(single) => Body::Settings(tables.many(&single.value, |_, value| value.clone())),
        Entry::Setting(single) => Body::Setting(tables.many(&single.value, |_, value| value.as_deref())),
    };
    let version = if matches!(body, Body::Setting(_)) { VERSION_OF_SETTINGS } else { VERSION };
    let Tables { mut regions, marks, generations } = tables;
    let seen =
        entry.seen().iter().map(|(region, ticks)| (place(&mut regions, region.as_str()), ticks)).collect();
    let marks = marks
        .into_iter()
        .map(|mark| (place(&mut regions, mark.region().as_str()), mark.epoch, mark.stamp.ticks()))
        .collect();
    let packed = Packed { regions, marks, generations, seen, body };
    postcard::to_extend(&packed, vec![version]).expect("these types have no map or text of unknown length")
}

/// What of a new device's entry is the same whenever it is made: pieces of a [`PackedRecord`] whose one change and one generation
/// stand first in their tables. Between them belongs what depends on the moment.
#[derive(Debug, Default)]
pub(super) struct Unmarked {
    bytes: Vec<u8>,
    /// Where the pieces end, but the last.
    ends: [usize; 3],
}

/// What depends on the moment.
pub(super) struct Made<'a> {
    pub(super) mark: &'a Mark,
    pub(super) generation: &'a str,
    pub(super) seen: &'a VersionVector,
    /// Of desired and reported properties.
    pub(super) counts: &'a [Count; 2],
    pub(super) kept: Option<&'a Kept>,
}

/// A register with one sibling: how many there are, which change, which generation.
const ONE: (u32, At, Gen) = (1, 0, 0);
/// An empty list.
const NONE: u32 = 0;
/// The number of [`Body::Device`].
const DEVICE: u32 = 0;

fn push(bytes: &mut Vec<u8>, value: &impl Serialize) {
    *bytes = postcard::to_extend(value, std::mem::take(bytes))
        .expect("these types have no map or text of unknown length");
}

fn push_leaves(bytes: &mut Vec<u8>, leaves: &BTreeMap<Arc<str>, Arc<str>>) {
    push(bytes, &u32::try_from(leaves.len()).expect("a section of 32 KiB has fewer leaves than that"));
    for (path, text) in leaves {
        push(bytes, &(path.as_ref(), ONE, Some(text.as_ref())));
    }
}

impl Unmarked {
    /// From the credentials that it is made with to its status.
    pub(super) fn status(&mut self, credentials: u64, enabled: bool, reason: &str) {
        push(&mut self.bytes, &(credentials, ONE, enabled, reason));
        self.ends[0] = self.bytes.len();
    }

    /// From its credentials to its subscriptions, of which there are none.
    pub(super) fn place(&mut self, auth: &Auth, scope: Option<&Scope>) {
        push(&mut self.bytes, &(ONE, auth));
        match scope {
            Some(scope) => push(&mut self.bytes, &(ONE, scope)),
            None => push(&mut self.bytes, &NONE),
        }
        push(&mut self.bytes, &NONE);
        self.ends[1] = self.bytes.len();
    }

    /// Tags and desired properties.
    pub(super) fn properties(
        &mut self,
        tags: &BTreeMap<Arc<str>, Arc<str>>,
        desired: &BTreeMap<Arc<str>, Arc<str>>,
    ) {
        push_leaves(&mut self.bytes, tags);
        push_leaves(&mut self.bytes, desired);
        self.ends[2] = self.bytes.len();
    }

    /// Reported properties.
    pub(super) fn reported(&mut self, reported: Option<&BTreeMap<Arc<str>, Arc<str>>>) {
        match reported {
            Some(leaves) => {
                push(&mut self.bytes, &ONE);
                push_leaves(&mut self.bytes, leaves);
            }
            None => push(&mut self.bytes, &NONE),
        }
        self.bytes.shrink_to_fit();
    }
}

/// A new device's entry in bytes, after `out`: what [`write()`] makes of it.
pub(super) fn write_made(unmarked: &Unmarked, made: &Made<'_>, out: &mut Vec<u8>) {
    let Made { mark, generation, seen, counts, kept } = made;
    let own = mark.region().as_str();
    // Counts name their region first, and they only know this one.
    let mut regions: Vec<&str> = Vec::with_capacity(2);
    if counts.iter().any(|count| !count.changes.is_empty()) {
        regions.push(own);
    }
    let seen: Vec<(u32, u64)> =
        seen.iter().map(|(region, ticks)| (place(&mut regions, region.as_str()), ticks)).collect();
    let marks = [(place(&mut regions, own), mark.epoch, mark.stamp.ticks())];
    let [first, second, third] = unmarked.ends;
    let (bytes, at) = (&unmarked.bytes, mark.moment());
    out.push(VERSION);
    push(out, &(&regions, 1u32, marks, 1u32, generation, &seen, DEVICE, ONE, true, at));
    out.extend_from_slice(&bytes[..first]);
    push(out, &at);
    out.extend_from_slice(&bytes[first..second]);
    match kept {
        Some(Kept { device, twin }) => push(out, &(ONE, device, twin)),
        None => push(out, &NONE),
    }
    out.extend_from_slice(&bytes[second..third]);
    push_count(out, &counts[0]);
    out.extend_from_slice(&bytes[third..]);
    push_count(out, &counts[1]);
    push(out, &Moment::default());
}

fn push_count(out: &mut Vec<u8>, count: &Count) {
    let changes: Vec<(u32, u64)> = count.changes.values().map(|changes| (0, *changes)).collect();
    push(out, &PackedCount { base: count.base, epoch: count.epoch, changes });
}

/// The tables while an entry is read.
struct Looked {
    regions: Vec<Region>,
    marks: Vec<Mark>,
    generations: Vec<Arc<str>>,
}

impl Looked {
    fn generation(&self, at: Gen) -> Result<Arc<str>, Unreadable> {
        self.generations.get(at as usize).cloned().ok_or(Unreadable("a generation is missing"))
    }

    fn region(&self, at: u32) -> Result<&Region, Unreadable> {
        self.regions.get(at as usize).ok_or(Unreadable("a region is missing"))
    }

    fn register<P, T: Clone>(
        &self,
        many: Many<P>,
        mut read: impl FnMut(P) -> Result<T, Unreadable>,
    ) -> Result<Register<T>, Unreadable> {
        let mut siblings = Vec::with_capacity(many.len());
        for (at, packed) in many {
            let mark = self.marks.get(at as usize).cloned().ok_or(Unreadable("a change is missing"))?;
            siblings.push(Sibling { mark, value: read(packed)? });
        }
        if !siblings.is_sorted_by(|one, two| one.mark < two.mark) {
            return Err(Unreadable("changes are out of order"));
        }
        Ok(Register::from_siblings(siblings))
    }

    fn owned<P, T: Clone>(
        &self,
        many: Many<P>,
        read: impl Fn(P) -> (Gen, T),
    ) -> Result<Register<Of<T>>, Unreadable> {
        self.register(many, |packed| {
            let (generation, value) = read(packed);
            Ok(Of { generation: self.generation(generation)?, value })
        })
    }

    fn leaves(&self, packed: PackedLeaves<'_>) -> Result<Leaves, Unreadable> {
        let leaves = packed.into_iter().map(|(path, many)| {
            Ok((Arc::from(path), self.owned(many, |(generation, text)| (generation, text.map(Arc::from)))?))
        });
        Ok(Leaves(leaves.collect::<Result<_, _>>()?))
    }

    fn count(&self, packed: PackedCount) -> Result<Count, Unreadable> {
        let changes =
            packed.changes.into_iter().map(|(region, count)| Ok((self.region(region)?.clone(), count)));
        Ok(Count { base: packed.base, epoch: packed.epoch, changes: changes.collect::<Result<_, _>>()? })
    }

    fn record(&self, packed: PackedRecord<'_>, seen: VersionVector) -> Result<Record, Unreadable> {
        Ok(Record {
            seen,
            life: self.register(packed.life, |(generation, created)| {
                let generation = self.generation(generation)?;
                Ok(match created {
                    Some((created, credentials)) => Life::Alive { generation, created, credentials },
                    None => Life::Deleted { generation },
                })
            })?,
            status: self.owned(packed.status, |(generation, enabled, reason, at)| {
                (generation, Status { enabled, reason: reason.to_owned(), at })
            })?,
            auth: self.owned(packed.auth, |both| both)?,
            scope: self.owned(packed.scope, |both| both)?,
            subs: self.owned(packed.subs, |both| both)?,
            kept: self
                .owned(packed.kept, |(generation, device, twin)| (generation, Kept { device, twin }))?,
            tags: self.leaves(packed.tags)?,
            desired: self.leaves(packed.desired)?,
            desired_count: self.count(packed.desired_count)?,
            reported: self.register(packed.reported, |(generation, leaves)| {
                Ok(Of { generation: self.generation(generation)?, value: self.leaves(leaves)? })
            })?,
            reported_count: self.count(packed.reported_count)?,
            last_seen: packed.last_seen,
        })
    }

    fn way(&self, packed: PackedWay<'_>) -> Result<Way, Unreadable> {
        Ok(match packed {
            PackedWay::Done(outcome, at, news) => {
                let news = news.map(|(id, generation)| Ok((id.to_owned(), self.generation(generation)?)));
                Way::Done { outcome, at, news: news.transpose()? }
            }
            PackedWay::Pending(message) => Way::Pending(Arc::new(Message {
                id: message.id.to_owned(),
                system: message
                    .system
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                properties: message
                    .properties
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.map(str::to_owned)))
                    .collect(),
                body: Bytes::copy_from_slice(message.body),
                ack: message.ack,
                enqueued: message.enqueued,
                expires: message.expires,
                deliveries: message.deliveries,
                generation: self.generation(message.generation)?,
            })),
        })
    }
}

/// Reads an entry.
pub(super) fn read(bytes: &[u8]) -> Result<Entry, Unreadable> {
    let (version, rest) = bytes.split_first().ok_or(Unreadable("it is empty"))?;
    if !(VERSION..=VERSION_OF_SETTINGS).contains(version) {
        return Err(Unreadable("it was written by a newer version: update this region first"));
    }
    let packed: Packed<'_> = postcard::from_bytes(rest).map_err(|_| Unreadable("it is damaged"))?;
    let regions: Result<Vec<_>, _> = packed.regions.iter().map(|name| Region::parse(name)).collect();
    let mut looked = Looked {
        regions: regions.map_err(|_| Unreadable("a region has a bad name"))?,
        marks: Vec::with_capacity(packed.marks.len()),
        generations: packed.generations.into_iter().map(Arc::from).collect(),
    };
    for (region, epoch, ticks) in packed.marks {
        let stamp = Stamp::from_ticks(ticks, looked.region(region)?.clone());
        looked.marks.push(Mark { epoch, stamp });
    }
    let mut seen = VersionVector::default();
    for (region, ticks) in packed.seen {
        seen.raise(looked.region(region)?, ticks);
    }
    if !looked.marks.iter().all(|mark| mark.is_in(&seen)) {
        return Err(Unreadable("it holds changes that it does not count as seen"));
    }
    Ok(match packed.body {
        Body::Device(record) => Entry::Device(Box::new(looked.record(*record, seen)?)),
        Body::Message(many) => {
            Entry::Message(Queued { seen, way: looked.register(many, |way| looked.way(way))? })
        }
        Body::Group(many) => Entry::Group(Single { seen, value: looked.register(many, Ok)? }),
        Body::Policy(many) => Entry::Policy(Single { seen, value: looked.register(many, Ok)? }),
        Body::Settings(many) => Entry::Settings(Single { seen, value: looked.register(many, Ok)? }),
        Body::Setting(many) => {
            let value = looked.register(many, |text| Ok(text.map(Arc::from)))?;
            Entry::Setting(Single { seen, value })
        }
    })
}
