//! What was seen last: of items, of regions, and what the other observers say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_core::agents::RegionView;
use farshore_core::ids::{ItemId, Region};
use farshore_core::incident::Incident;
use farshore_core::moment::Moment;
use farshore_core::verdict::{Agreed, Judge, Streak, Testimony, agree};
use farshore_core::workload::{Observation, StepError, Watermark};
use tokio::time::Instant;

use super::super::{RegionHealth, Seen, now};

/// An observer that was not heard for so long is no witness any more: a few of its rounds.
const HEARD_AGE_MAX: Duration = Duration::from_secs(10);
/// The control plane as an observer, where it is in none of the regions.
const NOWHERE: &str = "the control plane";

/// What was seen last.
#[derive(Debug, Default)]
pub(in crate::engine) struct Board {
    seen: Mutex<BTreeMap<ItemId, BTreeMap<Region, Seen>>>,
    regions: Mutex<BTreeMap<Region, RegionHealth>>,
    told: Mutex<BTreeMap<(ItemId, Region), Watermark>>,
    witnesses: Mutex<BTreeMap<String, Witness>>,
    pub(in crate::engine) open: Mutex<Vec<Incident>>,
}

/// What one observer has said so far.
#[derive(Debug, Default)]
struct Witness {
    /// When it last said anything.
    heard: Option<Instant>,
    /// By what it looked at: a region's name or an endpoint's URI.
    says: BTreeMap<String, Streak>,
}

impl Witness {
    fn note(&mut self, subject: String, round: Result<(), String>) {
        let streak = self.says.remove(&subject).unwrap_or_default();
        self.says.insert(subject, streak.after(round));
    }

    /// `None`: it can be heard and does not look at this at all.
    fn testimony(&self, subject: &str) -> Option<Testimony> {
        match self.heard.is_some_and(|heard| heard.elapsed() < HEARD_AGE_MAX) {
            true => self.says.get(subject).map(Streak::says),
            false => Some(Testimony::NotHeard),
        }
    }
}

pub(in crate::engine) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change of a board is one insert or remove.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(in crate::engine) fn seen(&self, item: &ItemId) -> BTreeMap<Region, Seen> {
        lock(&self.seen).get(item).cloned().unwrap_or_default()
    }

    /// The same without a copy: points are many.
    pub(super) fn with_seen<T>(&self, item: &ItemId, look: impl FnOnce(&BTreeMap<Region, Seen>) -> T) -> T {
        let none = BTreeMap::new();
        look(lock(&self.seen).get(item).unwrap_or(&none))
    }

    pub(in crate::engine) fn regions(&self) -> BTreeMap<Region, RegionHealth> {
        lock(&self.regions).clone()
    }

    /// Whether the region answered this process itself; `here` is where this is.
    pub(super) fn note_region(&self, region: &Region, error: Option<String>, here: Option<&Region>) {
        let now = now();
        let reachable = error.is_none();
        if here != Some(region) {
            let mut witnesses = lock(&self.witnesses);
            let own = witnesses.entry(here.map_or(NOWHERE, Region::as_str).to_owned()).or_default();
            own.heard = Some(Instant::now());
            own.note(region.to_string(), error.clone().map_or(Ok(()), Err));
        }
        let mut regions = lock(&self.regions);
        let earlier = regions.get(region);
        let same = earlier.filter(|earlier| earlier.reachable == reachable);
        let since = same.map_or(now, |earlier| earlier.since);
        let before = earlier.and_then(|earlier| earlier.last_seen);
        let last_seen = if reachable { Some(now) } else { before };
        if same.is_none() {
            tracing::info!(%region, reachable, error = error.as_deref().unwrap_or(""), "region");
        }
        regions.insert(region.clone(), RegionHealth { reachable, since, last_seen, error });
    }

    /// What another region says that it sees. `own`: it is where this process is, which looks at the regions by itself.
    pub(super) fn note_view(&self, observer: &Region, own: bool, view: RegionView) {
        let mut witnesses = lock(&self.witnesses);
        let witness = witnesses.entry(observer.to_string()).or_default();
        witness.heard = Some(Instant::now());
        let regions = view.regions.into_iter().filter(|_| !own);
        let regions = regions.map(|(region, error)| (region.to_string(), error));
        for (subject, error) in regions.chain(view.endpoints) {
            witness.note(subject, error.map_or(Ok(()), Err));
        }
    }

    /// An observer that could not be asked. It is one that there is, all the same.
    pub(super) fn note_unheard(&self, observer: &Region) {
        lock(&self.witnesses).entry(observer.to_string()).or_default();
    }

    /// Forgets what is looked at no more.
    pub(super) fn keep_subjects(&self, subjects: &BTreeSet<String>) {
        for witness in lock(&self.witnesses).values_mut() {
            witness.says.retain(|subject, _| subjects.contains(subject));
        }
    }

    /// Whether this process has settled on getting no answer from the region; `here` is where this is.
    pub(super) fn is_silent_from(&self, here: Option<&Region>, region: &Region) -> bool {
        let witnesses = lock(&self.witnesses);
        let own = witnesses.get(here.map_or(NOWHERE, Region::as_str));
        let said = own.and_then(|witness| witness.testimony(region.as_str()));
        matches!(said, Some(Testimony::Silent { .. }))
    }

    /// What is believed of a region or an endpoint.
    pub(super) fn agreed(&self, subject: &str, judge: Judge<'_>) -> Agreed {
        let witnesses = lock(&self.witnesses);
        let others = witnesses.iter().filter(|(observer, _)| *observer != subject);
        let others =
            others.filter_map(|(observer, witness)| Some((observer.clone(), witness.testimony(subject)?)));
        agree(subject, &others.collect(), judge)
    }

    pub(in crate::engine) fn note(
        &self,
        item: &ItemId,
        region: &Region,
        look: &Result<Observation, StepError>,
    ) {
        let mut seen = lock(&self.seen);
        let regions = seen.entry(item.clone()).or_default();
        let (observation, error) = match look {
            Ok(observation) => (Some(observation.clone()), None),
            Err(StepError::Unknown) => (None, None),
            Err(error) => {
                let last = regions.get(region).and_then(|seen| seen.observation.clone());
                (last, Some(error.to_string()))
            }
        };
        regions.insert(region.clone(), Seen { observation, error, at: now() });
    }

    /// Forgets what no item's record names any more.
    pub(super) fn keep(&self, region: &Region, wanted: &BTreeSet<&ItemId>) {
        let mut seen = lock(&self.seen);
        for (id, regions) in seen.iter_mut() {
            if !wanted.contains(id) {
                regions.remove(region);
            }
        }
        seen.retain(|_, regions| !regions.is_empty());
        lock(&self.told).retain(|(id, at), _| at != region || wanted.contains(id));
    }

    pub(super) fn told(&self, item: &ItemId, region: &Region) -> Option<Watermark> {
        lock(&self.told).get(&(item.clone(), region.clone())).copied()
    }

    pub(super) fn note_told(&self, item: &ItemId, region: &Region, after: Watermark) {
        lock(&self.told).insert((item.clone(), region.clone()), after);
    }

    /// The incidents that were open at the last round.
    pub(in crate::engine) fn open_incidents(&self) -> Vec<Incident> {
        lock(&self.open).clone()
    }

    pub(super) fn last_seen(&self, region: &Region) -> Option<Moment> {
        lock(&self.regions).get(region).map(|seen| seen.last_seen.unwrap_or(seen.since))
    }
}
