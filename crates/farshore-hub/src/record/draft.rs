//! A device before it is made: all that making it costs and that asks for no sight of the registry is done by then, so that
//! many can be prepared beside the one thread that makes them.
//!
//! Must always hold: what a draft becomes is to the byte what its edits make where nothing was.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::device::{Kept, Scope};
use super::edit::{
    self, Edit, GENERATION_CHARS_MAX, NewDevice, REASON_CHARS_MAX, SECTION_BYTES_MAX, TAGS_BYTES_MAX,
};
use super::format::{self, Made, Unmarked};
use super::leaves::{Count, flatten, without_nulls};
use super::mark::Mark;
use super::view::{dot, etag, identity_parts, twin_parts};
use crate::versions::VersionVector;

/// Leaves and their compact JSON.
pub(super) type Texts = BTreeMap<Arc<str>, Arc<str>>;

/// A device that will be made, and is known to be made without objection.
///
/// Few and small pieces of memory: drafts are made by one thread and used up by another.
#[derive(Debug)]
pub struct Draft {
    generation: Option<Arc<str>>,
    enabled: bool,
    packed: Unmarked,
    /// Whether desired and reported properties are written.
    writes: [bool; 2],
    /// Of the desired and the reported properties, in another hub.
    versions: Option<[u64; 2]>,
    etags: Option<Box<Etags>>,
}

/// Etags of another hub, and what the device's own will be of.
#[derive(Debug)]
struct Etags {
    device: Option<String>,
    twin: Option<String>,
    identity: Vec<u8>,
    has_scope: bool,
    properties: Vec<u8>,
    /// How many tags and desired properties there are.
    leaves: [usize; 2],
}

/// What a draft is packed from.
struct Sketch {
    new: NewDevice,
    tags: Texts,
    desired: Option<Texts>,
    reported: Option<Texts>,
}

impl Draft {
    /// Prepares a device that these edits make. `None`: they do not, or something else, or would be refused; then only they
    /// themselves say why.
    #[must_use]
    pub fn of(edits: Vec<Edit>) -> Option<Self> {
        let mut edits = edits.into_iter();
        let Some(Edit::Create(new)) = edits.next() else { return None };
        let mut sketch = Sketch::of(new)?;
        let (mut versions, mut etags) = (None, None);
        for edit in edits {
            match edit {
                Edit::Reported { patch, replace: true }
                    if sketch.reported.is_none() && versions.is_none() && etags.is_none() =>
                {
                    sketch.reported = Some(texts(&patch, "reported properties", SECTION_BYTES_MAX)?);
                }
                Edit::Versions { desired, reported } if versions.is_none() && etags.is_none() => {
                    versions = Some([desired, reported]);
                }
                Edit::Etags { device, twin } if etags.is_none() => {
                    etags = Some(Box::new(sketch.etags(device, twin)));
                }
                _ => return None,
            }
        }
        Some(Self {
            packed: sketch.pack(),
            writes: [sketch.desired.is_some(), sketch.reported.is_some()],
            enabled: sketch.new.enabled,
            generation: sketch.new.generation,
            versions,
            etags,
        })
    }

    /// Whether it may connect once it is made.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The entry as it is made now, where nothing was, by a region that has seen `known`; in bytes, after `out`.
    pub(crate) fn make(&self, mark: &Mark, known: VersionVector, out: &mut Vec<u8>) {
        let generation = match &self.generation {
            Some(given) => Arc::clone(given),
            None => edit::own_generation(mark),
        };
        let mut seen = known;
        seen.raise(mark.region(), mark.stamp.ticks());
        let versions = self.versions.unwrap_or_default();
        let mut counts = [Count::default(), Count::default()];
        for ((count, written), version) in counts.iter_mut().zip(self.writes).zip(versions) {
            if written {
                count.raise(mark);
            }
            count.raise_to(version);
        }
        let kept = self.etags.as_ref().and_then(|etags| {
            let (version, dot) = (counts[0].version().to_le_bytes(), dot(Some(mark)));
            let scope: &[u8] = if etags.has_scope { &dot } else { &[] };
            let identity = etag(&[generation.as_bytes()], &etags.identity, &[&dot, &dot, scope]);
            let [tags, desired] = etags.leaves.map(|leaves| dot.repeat(leaves));
            let twin = etag(&[generation.as_bytes(), &version], &etags.properties, &[&tags, &desired]);
            kept((identity, twin), etags.device.clone(), etags.twin.clone())
        });
        let made = Made { mark, generation: &generation, seen: &seen, counts: &counts, kept: kept.as_ref() };
        format::write_made(&self.packed, &made, out);
    }
}

impl Sketch {
    fn of(new: NewDevice) -> Option<Self> {
        let is_long = |text: &str, chars_max: usize| text.chars().count() > chars_max;
        let is_bad = |text: &Arc<str>| text.is_empty() || is_long(text, GENERATION_CHARS_MAX);
        if is_long(&new.reason, REASON_CHARS_MAX) || new.generation.as_ref().is_some_and(is_bad) {
            return None;
        }
        let is_empty = |section: &Value| section.as_object().is_some_and(serde_json::Map::is_empty);
        let tags = match is_empty(&new.tags) {
            true => Texts::new(),
            false => texts(&new.tags, "tags", TAGS_BYTES_MAX)?,
        };
        let desired = match is_empty(&new.desired) {
            true => None,
            false => Some(texts(&new.desired, "desired properties", SECTION_BYTES_MAX)?),
        };
        Some(Self { new, tags, desired, reported: None })
    }

    fn etags(&self, device: Option<String>, twin: Option<String>) -> Etags {
        let NewDevice { auth, enabled, reason, scope, .. } = &self.new;
        let desired = self.desired.as_ref().map(as_read).unwrap_or_default();
        Etags {
            device,
            twin,
            identity: identity_parts(*enabled, reason, auth, scope),
            has_scope: *scope != Scope::default(),
            leaves: [self.tags.len(), desired.len()],
            properties: twin_parts(&as_read(&self.tags), &desired),
        }
    }

    fn pack(&self) -> Unmarked {
        let NewDevice { auth, enabled, reason, scope, .. } = &self.new;
        let nothing = Texts::new();
        let mut packed = Unmarked::default();
        packed.status(edit::credentials(auth), *enabled, reason);
        packed.place(auth, Some(scope).filter(|scope| **scope != Scope::default()));
        packed.properties(&self.tags, self.desired.as_ref().unwrap_or(&nothing));
        packed.reported(self.reported.as_ref());
        packed
    }
}

/// Etags that are shown instead of one's own, where they are others.
pub(super) fn kept(own: (String, String), device: Option<String>, twin: Option<String>) -> Option<Kept> {
    let other =
        |own: String, given: Option<String>| given.filter(|given| *given != own).map(|given| (own, given));
    let kept = Kept { device: other(own.0, device), twin: other(own.1, twin) };
    (kept.device.is_some() || kept.twin.is_some()).then_some(kept)
}

/// The leaves of a section that may be written like this.
fn texts(section: &Value, what: &'static str, bytes_max: usize) -> Option<Texts> {
    let after = without_nulls(section);
    edit::check_as(section, &after, what, bytes_max).ok()?;
    Some(flatten(&after))
}

/// As they will read, which for fractions may be other digits than were written.
fn as_read(texts: &Texts) -> Texts {
    let read = |text: &Arc<str>| match serde_json::from_str::<Value>(text) {
        Ok(value) => value.to_string().into(),
        Err(_) => Arc::clone(text),
    };
    texts.iter().map(|(path, text)| (Arc::clone(path), read(text))).collect()
}
