//! Version vectors: what a region has seen of every region's changes, and which of two versions knew of the other.

use std::collections::BTreeMap;

use farshore_core::ids::{Epoch, Region};
use serde::{Deserialize, Serialize};

/// The name of one change: the region's own dense count, under the epoch in which the region was active.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who made the change.
    pub region: Region,
    /// Under which right to write.
    pub epoch: Epoch,
    /// The how-manieth of that region, from 1, without gaps.
    pub counter: u64,
}

/// How two versions stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same changes.
    Equal,
    /// The first has seen less.
    Before,
    /// The first has seen more.
    After,
    /// Each has seen what the other has not: a merge must decide.
    Concurrent,
}

/// The highest change of each region that was seen. Regions that are not in it: none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionVector(BTreeMap<Region, u64>);

impl VersionVector {
    /// The highest change of `region` that was seen; 0: none.
    #[must_use]
    pub fn seen(&self, region: &Region) -> u64 {
        self.0.get(region).copied().unwrap_or(0)
    }

    /// Whether this change was seen: then it must not be applied again.
    #[must_use]
    pub fn includes(&self, dot: &Dot) -> bool {
        dot.counter <= self.seen(&dot.region)
    }

    /// Whether the change of `region` that has this count was seen.
    #[must_use]
    pub fn covers(&self, region: &Region, counter: u64) -> bool {
        counter <= self.seen(region)
    }

    /// From now on everything of `region` up to `counter` counts as seen; never goes back.
    pub fn raise(&mut self, region: &Region, counter: u64) {
        if counter > self.seen(region) {
            self.0.insert(region.clone(), counter);
        }
    }

    /// Every region with the highest change that was seen of it.
    pub fn iter(&self) -> impl Iterator<Item = (&Region, u64)> {
        self.0.iter().map(|(region, counter)| (region, *counter))
    }

    /// Counts a change made in `region` and names it.
    pub fn change(&mut self, region: &Region, epoch: Epoch) -> Dot {
        let counter = self.seen(region).checked_add(1).expect("u64 counters do not run out");
        self.0.insert(region.clone(), counter);
        Dot { region: region.clone(), epoch, counter }
    }

    /// Takes in a change from elsewhere. `Ok(false)`: it was seen already, so there is nothing to apply.
    ///
    /// # Errors
    /// The count that is missing before it: changes of a region are applied in order, or the gap would be forgotten.
    pub fn apply(&mut self, dot: &Dot) -> Result<bool, u64> {
        if self.includes(dot) {
            return Ok(false);
        }
        let next = self.seen(&dot.region) + 1;
        if dot.counter != next {
            return Err(next);
        }
        self.0.insert(dot.region.clone(), dot.counter);
        Ok(true)
    }

    /// What has been seen by either.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        for (region, counter) in &other.0 {
            let seen = merged.0.entry(region.clone()).or_default();
            *seen = (*seen).max(*counter);
        }
        merged.0.retain(|_, counter| *counter > 0);
        merged
    }

    /// How this version stands to another.
    #[must_use]
    pub fn relation(&self, other: &Self) -> Relation {
        let ahead = |one: &Self, two: &Self| one.0.iter().any(|(region, seen)| *seen > two.seen(region));
        match (ahead(self, other), ahead(other, self)) {
            (false, false) => Relation::Equal,
            (false, true) => Relation::Before,
            (true, false) => Relation::After,
            (true, true) => Relation::Concurrent,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn region(name: &str) -> Region {
        Region::parse(name).unwrap()
    }

    fn any_vector() -> impl Strategy<Value = VersionVector> {
        let regions = prop::sample::select(vec!["oslo", "paris", "rome"]).prop_map(region);
        prop::collection::btree_map(regions, 1u64..5, 0..4).prop_map(VersionVector)
    }

    #[test]
    fn changes_are_applied_once_and_in_order() {
        let (oslo, mut here, mut there) =
            (region("oslo"), VersionVector::default(), VersionVector::default());
        let dots: Vec<_> = (0..3).map(|_| here.change(&oslo, Epoch(1))).collect();
        assert_eq!(there.apply(&dots[1]), Err(1), "the first is missing");
        for dot in &dots {
            assert_eq!(there.apply(dot), Ok(true));
            assert_eq!(there.apply(dot), Ok(false));
        }
        assert_eq!(here.relation(&there), Relation::Equal);
        assert_eq!(serde_json::to_string(&here).unwrap(), r#"{"oslo":3}"#);
    }

    #[test]
    fn regions_that_could_not_see_each_other_are_concurrent() {
        let (mut here, mut there) = (VersionVector::default(), VersionVector::default());
        let dot = here.change(&region("oslo"), Epoch(1));
        there.apply(&dot).unwrap();
        here.change(&region("oslo"), Epoch(1));
        assert_eq!(there.relation(&here), Relation::Before);
        there.change(&region("paris"), Epoch(2));
        assert_eq!(there.relation(&here), Relation::Concurrent);
        assert_eq!(here.merge(&there).relation(&there), Relation::After);
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(a in any_vector(), b in any_vector(), c in any_vector()) {
            prop_assert_eq!(a.merge(&b), b.merge(&a));
            prop_assert_eq!(a.merge(&b).merge(&c), a.merge(&b.merge(&c)));
            prop_assert_eq!(a.merge(&a), a.clone());
            prop_assert_eq!(a.merge(&b).merge(&b), a.merge(&b));
        }

        #[test]
        fn a_merge_is_the_least_that_has_seen_both(a in any_vector(), b in any_vector(), c in any_vector()) {
            let merged = a.merge(&b);
            let not_before = |one: &VersionVector, two: &VersionVector| {
                matches!(one.relation(two), Relation::Equal | Relation::After)
            };
            prop_assert!(not_before(&merged, &a) && not_before(&merged, &b));
            if not_before(&c, &a) && not_before(&c, &b) {
                prop_assert!(not_before(&c, &merged));
            }
        }

        #[test]
        fn the_relation_turns_around_with_its_sides(a in any_vector(), b in any_vector()) {
            let turned = match b.relation(&a) {
                Relation::Before => Relation::After,
                Relation::After => Relation::Before,
                same => same,
            };
            prop_assert_eq!(a.relation(&b), turned);
            prop_assert_eq!(a.relation(&b) == Relation::Equal, a == b);
        }
    }
}
