//! What a copy knows of events beyond their bytes: which came late, and which are in two logs.

use std::collections::BTreeMap;

use super::event::Cursor;
use farshore_core::ids::Region;

/// Offsets of one log, as ranges in order: `from` included, `to` not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub(super) fn contains(&self, offset: u64) -> bool {
        let after = self.0.partition_point(|(from, _)| *from <= offset);
        after.checked_sub(1).is_some_and(|at| offset < self.0[at].1)
    }

    /// Adds a range that begins at or after the start of the last one.
    pub(super) fn push(&mut self, from: u64, to: u64) {
        match self.0.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => self.0.push((from, to)),
        }
    }

    pub(super) fn forget_before(&mut self, start: u64) {
        self.0.retain(|(_, to)| *to > start);
    }

    pub(super) fn each(&self, visit: &mut dyn FnMut(u64, u64)) {
        self.0.iter().for_each(|(from, to)| visit(*from, *to));
    }

    /// The lines of the side file.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.iter().map(|(from, to)| format!("{from} {to}")).collect()
    }

    pub(super) fn read(lines: &[String]) -> Self {
        let mut pairs: Vec<_> = lines
            .iter()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)))
            .collect();
        pairs.sort_unstable();
        let mut ranges = Self::default();
        for (from, to) in pairs {
            ranges.push(from, to);
        }
        ranges
    }
}

/// Which log, by its number in this process, and which event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) log: u16,
    pub(super) offset: u64,
}

/// Events that are one and the same, said once and stored in more than one log. All but the first are linked to the first.
///
/// A consumer is given the one that it comes to first, and passes the others, whichever region it reads in: what decides
/// is its own cursor, which goes with it, and not what this copy happened to have first.
#[derive(Debug, Default)]
pub(super) struct Twins {
    first_of: BTreeMap<Place, Place>,
    others_of: BTreeMap<Place, Vec<Place>>,
}

impl Twins {
    /// Links an event to the first one. Linking again changes nothing. Returns whether it is new.
    pub(super) fn link(&mut self, other: Place, first: Place) -> bool {
        let first = self.first(first);
        if other == first || self.first_of.contains_key(&other) {
            return false;
        }
        for moved in self.others_of.remove(&other).unwrap_or_default() {
            self.first_of.insert(moved, first);
            self.others_of.entry(first).or_default().push(moved);
        }
        self.first_of.insert(other, first);
        self.others_of.entry(first).or_default().push(other);
        true
    }

    /// The event that this one is linked to; itself, if it is not.
    pub(super) fn first(&self, place: Place) -> Place {
        self.first_of.get(&place).copied().unwrap_or(place)
    }

    /// Whether a consumer that stands at `next` (by number of the log) was given the same event in another place.
    pub(super) fn was_given(&self, place: Place, next: &dyn Fn(u16) -> u64) -> bool {
        if self.first_of.is_empty() {
            return false;
        }
        let first = self.first(place);
        let others = self.others_of.get(&first).map_or(&[][..], Vec::as_slice);
        std::iter::once(&first)
            .chain(others)
            .any(|twin| *twin != place && twin.log != place.log && twin.offset < next(twin.log))
    }

    /// Forgets links to and from events that are deleted: what is left of a pair is read by everyone.
    pub(super) fn forget_before(&mut self, log: u16, start: u64) {
        let is_gone = |place: &Place| place.log == log && place.offset < start;
        self.first_of.retain(|other, first| !is_gone(other) && !is_gone(first));
        self.others_of.retain(|first, others| {
            others.retain(|other| !is_gone(other));
            !is_gone(first) && !others.is_empty()
        });
    }
}

/// A line of `ORIGIN.duplicates`: the offset in that log, and where the same event is first.
pub(super) fn twin_line(offset: u64, region: &Region, first: u64) -> String {
    format!("{offset} {region} {first}")
}

/// What [`twin_line`] wrote.
pub(super) fn read_twin(line: &str) -> Option<(u64, Region, u64)> {
    let mut words = line.split(' ');
    let offset = words.next()?.parse().ok()?;
    let region = Region::parse(words.next()?).ok()?;
    Some((offset, region, words.next()?.parse().ok()?))
}

/// A cursor as numbers of logs, for one read.
#[derive(Debug, Clone)]
pub(super) struct Stands(pub(super) Vec<u64>);

impl Stands {
    pub(super) fn of(cursor: &Cursor, regions: &[Region]) -> Self {
        Self(regions.iter().map(|region| cursor.next(region)).collect())
    }

    pub(super) fn next(&self, log: u16) -> u64 {
        self.0.get(usize::from(log)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(log: u16, offset: u64) -> Place {
        Place { log, offset }
    }

    #[test]
    fn ranges_are_joined_read_and_forgotten() {
        let lines: Vec<String> = ["7 9", "1 3", "3 5", "broken"].map(str::to_owned).into();
        let mut ranges = Ranges::read(&lines);
        assert_eq!(ranges, Ranges(vec![(1, 5), (7, 9)]));
        let inside: Vec<_> = (0..11).filter(|offset| ranges.contains(*offset)).collect();
        assert_eq!(inside, [1, 2, 3, 4, 7, 8]);
        ranges.forget_before(5);
        assert_eq!(ranges, Ranges(vec![(7, 9)]));
    }

    #[test]
    fn of_a_pair_a_consumer_is_given_the_one_it_comes_to_first() {
        let mut twins = Twins::default();
        assert!(twins.link(place(0, 5), place(1, 9)));
        assert!(!twins.link(place(0, 5), place(1, 9)) && !twins.link(place(1, 9), place(0, 5)));
        for (stands, oslo, paris) in
            [([0, 0], false, false), ([6, 0], false, true), ([0, 10], true, false), ([5, 9], false, false)]
        {
            let next = |log: u16| stands[usize::from(log)];
            assert_eq!(twins.was_given(place(0, 5), &next), oslo, "{stands:?}");
            assert_eq!(twins.was_given(place(1, 9), &next), paris, "{stands:?}");
        }
        twins.forget_before(1, 10);
        assert!(!twins.was_given(place(0, 5), &|_| 100), "the other one is deleted");
    }

    #[test]
    fn three_of_a_kind_know_each_other_however_they_were_linked() {
        let mut twins = Twins::default();
        twins.link(place(1, 1), place(0, 0));
        twins.link(place(2, 2), place(1, 1));
        assert!(twins.was_given(place(2, 2), &|log| u64::from(log == 0)));
        let mut twins = Twins::default();
        twins.link(place(2, 2), place(1, 1));
        twins.link(place(1, 1), place(0, 0));
        assert!(twins.was_given(place(2, 2), &|log| u64::from(log == 0)));
        assert!(twins.was_given(place(0, 0), &|log| 3 * u64::from(log == 2)));
    }
}
