//! JSON as one register per leaf, so that two regions may change different leaves of one twin and both changes stay.
//!
//! A leaf is a number, a text, a truth value, an array as a whole, or an object without members. A deleted leaf stays as
//! an empty place with a mark, so that a late join cannot bring it back.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use serde_json::{Map, Value};

use super::mark::Mark;
use super::register::{Register, Sibling};
use super::rules::Rules;
use crate::versions::VersionVector;

/// Separates the names in a path. Control characters are refused in names, so no name contains it.
pub(super) const STEP: char = '\u{1}';

/// A value and the life of the device it belongs to: what was written to a device that was then deleted is not shown in
/// the one that was made anew under its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Of<T> {
    /// The generation id of the device that was written to.
    pub generation: Arc<str>,
    /// What was written.
    pub value: T,
}

/// What a leaf holds, as compact JSON; `None`: deleted.
pub type Leaf = Option<Arc<str>>;

/// The leaves of one section of a twin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leaves(pub(super) BTreeMap<Arc<str>, Register<Of<Leaf>>>);

/// A change of a section.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change<'a> {
    /// Members are set, `null` deletes, the rest stays.
    Patch(&'a Value),
    /// This and nothing else.
    Replace(&'a Value),
}

impl Leaves {
    /// Leaf by leaf what neither side has replaced.
    #[must_use]
    pub fn join(&self, seen: &VersionVector, other: &Self, other_seen: &VersionVector) -> Self {
        let none = Register::default();
        let mut joined = BTreeMap::new();
        for path in self.0.keys().chain(other.0.keys().filter(|path| !self.0.contains_key(*path))) {
            let (mine, theirs) = (self.0.get(path).unwrap_or(&none), other.0.get(path).unwrap_or(&none));
            let register = mine.join(seen, theirs, other_seen);
            if !register.is_empty() {
                joined.insert(Arc::clone(path), register);
            }
        }
        Self(joined)
    }

    /// Whether none of the changes that wrote them was seen.
    pub(super) fn is_news_to(&self, known: &VersionVector) -> bool {
        self.0.values().all(|register| register.is_news_to(known))
    }

    /// Writes what differs between `current`, which must be what these leaves show, and the result of `change`; what the
    /// change names is written even where it is the same, because it was said later. Returns the result.
    pub(super) fn write(
        &mut self,
        current: &Value,
        change: Change<'_>,
        mark: &Mark,
        generation: &Arc<str>,
    ) -> Value {
        let mut writes: BTreeMap<Arc<str>, Leaf> = BTreeMap::new();
        let (after, named) = match change {
            Change::Patch(patch) => {
                let mut after = current.clone();
                merge(&mut after, patch);
                // Also what is not there: another region may be adding it.
                nulls(patch, &mut String::new(), &mut |path| {
                    writes.insert(path.into(), None);
                });
                (after, flatten(patch))
            }
            Change::Replace(value) => {
                let after = without_nulls(value);
                let named = flatten(&after);
                (after, named)
            }
        };
        let (old, new) = (flatten(current), flatten(&after));
        for (path, text) in &new {
            if old.get(path) != Some(text) || named.contains_key(path) {
                writes.insert(Arc::clone(path), Some(Arc::clone(text)));
            }
        }
        writes.extend(old.into_keys().filter(|path| !new.contains_key(path)).map(|path| (path, None)));
        self.cover(&new, &mut writes);
        for (path, value) in writes {
            self.0.entry(path).or_default().set(mark, Of { generation: Arc::clone(generation), value });
        }
        after
    }

    /// Adds the deletion of leaves that are hidden above or below what is written: they would come to light again.
    fn cover(&self, new: &BTreeMap<Arc<str>, Arc<str>>, writes: &mut BTreeMap<Arc<str>, Leaf>) {
        let hidden: Vec<_> = self
            .0
            .iter()
            .filter(|(path, register)| {
                !new.contains_key(*path)
                    && register.siblings().iter().any(|sibling| sibling.value.value.is_some())
                    && writes.keys().any(|written| is_above(written, path) || is_above(path, written))
            })
            .map(|(path, _)| Arc::clone(path))
            .collect();
        writes.extend(hidden.into_iter().map(|path| (path, None)));
    }

    /// The section as it reads, and when each leaf was written.
    pub(super) fn render(&self, rules: &Rules, counts: impl Fn(&Arc<str>) -> bool) -> (Value, Value) {
        let mut winners: Vec<(&Mark, &Arc<str>, &Arc<str>)> = Vec::new();
        for (path, register) in &self.0 {
            if let Some(Sibling { mark, value: Of { value: Some(text), .. } }) =
                register.best(rules, |of| counts(&of.generation))
            {
                winners.push((mark, path, text));
            }
        }
        // Later changes cover earlier ones where two regions made of one name an object and a plain value.
        winners.sort();
        let mut root = Map::new();
        let mut times = BTreeMap::new();
        for (mark, path, text) in winners {
            let value = serde_json::from_str(text).unwrap_or(Value::Null);
            place(&mut root, path, value);
            times.insert(path.as_ref(), mark.moment());
        }
        let root = Value::Object(root);
        let metadata = metadata(&root, "", &times).0;
        (root, metadata)
    }

    /// The changes that wrote what is there, leaf by leaf. What is deleted has none: its place is forgotten some day, at another time
    /// in each region.
    pub(super) fn dots(&self, rules: &Rules, counts: impl Fn(&Arc<str>) -> bool) -> Vec<u8> {
        let mut dots = Vec::new();
        for register in self.0.values() {
            if let Some(Sibling { mark, value: Of { value: Some(_), .. } }) =
                register.best(rules, |of| counts(&of.generation))
            {
                mark.write_dot(&mut dots);
            }
        }
        dots
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The version of a section: rises with every change in any region, also when changes of two regions are joined, and is
/// higher than all that an earlier epoch can have used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Count {
    pub(super) base: u64,
    pub(super) epoch: Epoch,
    pub(super) changes: BTreeMap<Region, u64>,
}

/// How far apart the versions of two epochs are at least. Epochs below 2^32 stay below 2^53, which JSON numbers can hold.
const EPOCH_SHIFT: u32 = 20;

impl Count {
    /// The version; 1 for a section that was never changed.
    #[must_use]
    pub fn version(&self) -> u64 {
        let changes: u64 = self.changes.values().sum();
        1 + self.base + (self.epoch.0 << EPOCH_SHIFT) + changes
    }

    pub(super) fn raise(&mut self, mark: &Mark) {
        self.epoch = self.epoch.max(mark.epoch);
        *self.changes.entry(mark.region().clone()).or_default() += 1;
    }

    /// Goes on from a version that another hub used.
    pub(super) fn raise_to(&mut self, version: u64) {
        self.base += version.saturating_sub(self.version());
    }

    /// Not below either, and above both if each has changes that the other lacks.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        let mut changes = self.changes.clone();
        for (region, count) in &other.changes {
            let mine = changes.entry(region.clone()).or_default();
            *mine = (*mine).max(*count);
        }
        Self { base: self.base.max(other.base), epoch: self.epoch.max(other.epoch), changes }
    }
}

/// RFC 7396.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The patch that makes `after` of `before`.
#[must_use]
pub fn difference(before: &Value, after: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (before, after) else { return after.clone() };
    let mut patch = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in new {
        match old.get(name) {
            Some(same) if same == value => {}
            Some(was) if was.is_object() && value.is_object() => {
                patch.insert(name.clone(), difference(was, value));
            }
            _ => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

/// Leaves and their compact JSON. What is `null` is not there.
pub(super) fn flatten(value: &Value) -> BTreeMap<Arc<str>, Arc<str>> {
    let mut leaves = BTreeMap::new();
    let mut path = String::new();
    if let Value::Object(root) = value {
        for (name, member) in root {
            collect(name, member, &mut path, &mut leaves);
        }
    }
    leaves
}

fn collect(name: &str, value: &Value, path: &mut String, leaves: &mut BTreeMap<Arc<str>, Arc<str>>) {
    let length = path.len();
    if !path.is_empty() {
        path.push(STEP);
    }
    path.push_str(name);
    match value {
        Value::Null => {}
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                collect(name, member, path, leaves);
            }
        }
        leaf => {
            leaves.insert(path.as_str().into(), leaf.to_string().into());
        }
    }
    path.truncate(length);
}

/// The paths that a patch deletes.
fn nulls(patch: &Value, path: &mut String, found: &mut impl FnMut(&str)) {
    let length = path.len();
    for (name, member) in patch.as_object().into_iter().flatten() {
        if length > 0 {
            path.push(STEP);
        }
        path.push_str(name);
        if member.is_null() {
            found(path);
        }
        nulls(member, path, found);
        path.truncate(length);
    }
}

/// The section without members that are `null`.
pub(super) fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, member)| !member.is_null());
            Value::Object(kept.map(|(name, member)| (name.clone(), without_nulls(member))).collect())
        }
        other => other.clone(),
    }
}

/// Whether `path` is a place inside of `above`.
fn is_above(above: &str, path: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with(STEP))
}

fn place(root: &mut Map<String, Value>, path: &str, value: Value) {
    let (mut steps, mut here) = (path.split(STEP).peekable(), root);
    while let Some(name) = steps.next() {
        let slot = here.entry(name).or_insert(Value::Null);
        if steps.peek().is_none() {
            let keeps_members = slot.is_object() && value.as_object().is_some_and(Map::is_empty);
            if !keeps_members {
                *slot = value;
            }
            return;
        }
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        let Value::Object(inner) = slot else { return };
        here = inner;
    }
}

/// `$lastUpdated` for every leaf and, as the latest of their leaves, for every object.
fn metadata(value: &Value, path: &str, times: &BTreeMap<&str, Moment>) -> (Value, Moment) {
    let mut latest = times.get(path).copied().unwrap_or_default();
    let mut members = Map::new();
    for (name, member) in value.as_object().into_iter().flatten() {
        let inner = if path.is_empty() { name.clone() } else { format!("{path}{STEP}{name}") };
        let (below, at) = metadata(member, &inner, times);
        latest = latest.max(at);
        members.insert(name.clone(), below);
    }
    if latest > Moment::default() {
        members.insert("$lastUpdated".into(), Value::String(latest.to_string()));
    }
    (Value::Object(members), latest)
}
