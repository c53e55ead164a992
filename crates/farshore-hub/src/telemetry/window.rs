//! Which events were seen lately: what an event that is sent again is compared with.
//!
//! An event's identity is its device, the device's generation, and what the application calls the event. Identities are
//! kept as 128 bits made with keys of this process, so that no device can choose two that look the same; a window is
//! made anew from the logs at each start.
//!
//! Order does not matter: devices send again in any order and without a mark (the official Node SDK does), so that a
//! highest number per device would drop what was never seen.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::time::Duration;

use farshore_core::moment::Moment;

use super::event::Meta;
use super::marks::Place;

/// Into how many pieces the horizon and the number of entries are cut; forgetting goes by pieces.
const PIECES: u32 = 64;

/// The system property that names an event.
const MESSAGE_ID: &str = "$.mid";

/// The identity of an event, as this process writes it.
pub(super) type Id = u128;

/// Makes identities.
#[derive(Debug)]
pub(super) struct Identifier {
    keys: [RandomState; 2],
    properties: Vec<String>,
}

impl Identifier {
    pub(super) fn new(properties: Vec<String>) -> Self {
        Self { keys: [RandomState::new(), RandomState::new()], properties }
    }

    /// The event's identity; `None`: it has none, and is kept as often as it comes.
    pub(super) fn of(&self, meta: &Meta<'_>) -> Option<Id> {
        if let Some((_, mid)) = meta.system.iter().find(|(key, _)| *key == MESSAGE_ID) {
            return Some(self.hash(meta, 0, &[mid]));
        }
        if self.properties.is_empty() {
            return None;
        }
        let find = |name: &String| meta.properties.iter().find(|(key, _)| key == name)?.1;
        let values: Option<Vec<&str>> = self.properties.iter().map(find).collect();
        Some(self.hash(meta, 1, &values?))
    }

    fn hash(&self, meta: &Meta<'_>, kind: u8, values: &[&str]) -> Id {
        let one = |key: &RandomState| key.hash_one((kind, meta.device, meta.module, meta.generation, values));
        (u128::from(one(&self.keys[0])) << 64) | u128::from(one(&self.keys[1]))
    }
}

/// Identities are random already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, id: u128) {
        // The low half: any 64 of its bits are as good as any others.
        self.0 = u64::try_from(id & u128::from(u64::MAX)).expect("the rest is masked");
    }
}

#[derive(Debug)]
struct Bucket {
    since: Moment,
    until: Moment,
    ids: Vec<Id>,
}

/// Identities of events, and where each event is.
#[derive(Debug)]
pub(super) struct Window {
    places: HashMap<Id, Place, BuildHasherDefault<AsIs>>,
    buckets: VecDeque<Bucket>,
    horizon: Duration,
    entries: usize,
    forgotten_early: u64,
}

impl Window {
    pub(super) fn new(horizon: Duration, entries: usize) -> Self {
        Self { places: HashMap::default(), buckets: VecDeque::new(), horizon, entries, forgotten_early: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    /// Where this event is, if it was seen.
    pub(super) fn find(&self, id: Id) -> Option<Place> {
        self.places.get(&id).copied()
    }

    /// Remembers an event that was not seen, or another place of it. The moment is when it is seen, not when it was said.
    pub(super) fn insert(&mut self, id: Id, place: Place, now: Moment) {
        match self.places.entry(id) {
            Entry::Occupied(mut entry) => {
                entry.insert(place);
            }
            Entry::Vacant(entry) => {
                entry.insert(place);
                self.list(id, now);
                self.forget();
            }
        }
    }

    /// Takes back events that were not stored after all.
    pub(super) fn remove(&mut self, id: Id) {
        self.places.remove(&id);
    }

    fn list(&mut self, id: Id, now: Moment) {
        let (wide, full) = (self.horizon / PIECES, (self.entries / PIECES as usize).max(1));
        match self.buckets.back_mut() {
            Some(last) if last.ids.len() < full && now.since(last.since) <= wide => {
                last.until = last.until.max(now);
                last.ids.push(id);
            }
            before => {
                let since = before.map_or(now, |last| last.until.max(now));
                self.buckets.push_back(Bucket { since, until: since, ids: vec![id] });
            }
        }
    }

    fn forget(&mut self) {
        let newest = self.buckets.back().map_or(Moment(0), |last| last.until);
        while let Some(oldest) = self.buckets.front() {
            let is_old = newest.since(oldest.until) > self.horizon;
            if !is_old && self.places.len() <= self.entries {
                return;
            }
            let bucket = self.buckets.pop_front().expect("it was just looked at");
            for id in bucket.ids {
                let was_there = self.places.remove(&id).is_some();
                self.forgotten_early += u64::from(was_there && !is_old);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn place(offset: u64) -> Place {
        Place { log: 0, offset }
    }

    #[test]
    fn what_is_older_than_the_horizon_is_forgotten_and_nothing_sooner() {
        let mut window = Window::new(Duration::from_micros(640), 1000);
        for at in 0..2000u64 {
            window.insert(u128::from(at), place(at), Moment(at));
            for seen in at.saturating_sub(640)..=at {
                assert_eq!(window.find(u128::from(seen)), Some(place(seen)), "{seen} at {at}");
            }
            assert!(window.len() <= 640 + 20, "{}", window.len());
        }
        assert_eq!(window.forgotten_early(), 0);
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_what_is_lost_is_counted(
            entries in 1..200usize, moments in prop::collection::vec(0..50u64, 1..600)
        ) {
            let mut window = Window::new(Duration::from_secs(1), entries);
            let mut now = 0;
            for (id, step) in (0u128..).zip(&moments) {
                now += step;
                window.insert(id, place(0), Moment(now));
                prop_assert_eq!(window.find(id), Some(place(0)));
                prop_assert!(window.len() <= entries);
            }
            prop_assert_eq!(window.len() as u64 + window.forgotten_early(), moments.len() as u64);
        }

        #[test]
        fn identities_differ_when_any_part_does(
            parts in prop::collection::hash_set(("[ab]{0,2}", prop::option::of("[ab]{0,2}"), "[ab]{0,2}", "[ab]{0,2}"), 1..60)
        ) {
            let identifier = Identifier::new(Vec::new());
            let ids: HashSet<_> = parts
                .iter()
                .map(|(device, module, generation, mid)| {
                    let system = vec![("$.ct", "x"), ("$.mid", mid.as_str())];
                    let module = module.as_deref();
                    identifier.of(&Meta { device, module, generation, system, properties: Vec::new() })
                })
                .collect();
            prop_assert_eq!(ids.len(), parts.len());
            prop_assert!(!ids.contains(&None));
        }
    }
}
