//! A hybrid logical clock: 48 bits of milliseconds, a 16-bit counter, and the region to break ties.
//!
//! After Kulkarni and others, “Logical Physical Clocks” (2014). The wall's time is an argument, as everywhere.

use std::cmp::Ordering;

use farshore_core::ids::Region;
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

/// A remote stamp further ahead of the wall than this is refused: one wrong clock must not pull all regions into the
/// future. Well above what synchronized clocks differ by, well below what a person would notice in an order of changes.
pub const DRIFT_MILLIS_MAX: u64 = 60_000;

/// When something was changed: comparable between regions, and never equal for two changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970; at most 48 bits.
    pub millis: u64,
    /// Orders what happened in one millisecond.
    pub counter: u16,
    /// Who made it; breaks ties.
    pub region: Region,
}

impl Stamp {
    /// Time and counter in one number, which orders the stamps of one region and never repeats there.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        (self.millis << 16) | u64::from(self.counter)
    }

    /// The stamp that [`Stamp::ticks`] was taken from.
    #[must_use]
    pub fn from_ticks(ticks: u64, region: Region) -> Self {
        Self { millis: ticks >> 16, counter: (ticks & 0xffff) as u16, region }
    }

    /// When it was, by the clock of its region.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment::from_millis(self.millis)
    }
}

impl Ord for Stamp {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.millis, self.counter, &self.region).cmp(&(other.millis, other.counter, &other.region))
    }
}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A stamp from a clock that is far ahead. It was not taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooFarAhead {
    /// Whose clock.
    pub region: Region,
    /// By how much.
    pub ahead_millis: u64,
}

impl std::fmt::Display for TooFarAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { region, ahead_millis } = self;
        write!(
            f,
            "the clock of region {region} is {ahead_millis} ms ahead: set it right, then its changes are taken"
        )
    }
}

impl std::error::Error for TooFarAhead {}

/// One region's clock.
#[derive(Debug, Clone)]
pub struct Clock {
    last: Stamp,
}

impl Clock {
    /// A clock that goes on after the last stamp that was stored, or begins.
    #[must_use]
    pub fn new(region: Region, stored: Option<&Stamp>) -> Self {
        let (millis, counter) = stored.map_or((0, 0), |stamp| (stamp.millis, stamp.counter));
        Self { last: Stamp { millis, counter, region } }
    }

    /// A stamp for a change made here: later than every stamp given or seen before, however the wall's clock jumps.
    pub fn now(&mut self, wall: Moment) -> Stamp {
        let millis = wall.0 / 1000;
        if millis > self.last.millis {
            self.last.millis = millis;
            self.last.counter = 0;
        } else {
            self.count();
        }
        self.last.clone()
    }

    /// Takes in a stamp from elsewhere: what is stamped here from now on is later.
    ///
    /// # Errors
    /// [`TooFarAhead`]; the clock is as before.
    pub fn see(&mut self, remote: &Stamp, wall: Moment) -> Result<(), TooFarAhead> {
        let ahead_millis = remote.millis.saturating_sub(wall.0 / 1000);
        if ahead_millis > DRIFT_MILLIS_MAX {
            return Err(TooFarAhead { region: remote.region.clone(), ahead_millis });
        }
        if (remote.millis, remote.counter) > (self.last.millis, self.last.counter) {
            self.last.millis = remote.millis;
            self.last.counter = remote.counter;
        }
        Ok(())
    }

    /// The last stamp that was given or seen.
    #[must_use]
    pub fn last(&self) -> &Stamp {
        &self.last
    }

    fn count(&mut self) {
        match self.last.counter.checked_add(1) {
            Some(counter) => self.last.counter = counter,
            // 65,536 changes in one millisecond: the next one borrows from the future.
            None => {
                self.last.millis += 1;
                self.last.counter = 0;
            }
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

    #[test]
    fn a_clock_goes_on_from_what_was_stored() {
        let stored = Stamp { millis: 90, counter: u16::MAX, region: region("oslo") };
        let next = Clock::new(region("oslo"), Some(&stored)).now(Moment(5_000));
        assert!(next > stored);
        assert_eq!((next.millis, next.counter), (91, 0));
    }

    #[test]
    fn a_clock_far_ahead_is_refused_and_changes_nothing() {
        let mut clock = Clock::new(region("oslo"), None);
        let wild = Stamp { millis: DRIFT_MILLIS_MAX + 8, counter: 0, region: region("paris") };
        let error = clock.see(&wild, Moment::from_millis(7)).unwrap_err();
        assert!(error.to_string().starts_with("the clock of region paris is 60001 ms ahead"), "{error}");
        assert_eq!(clock.now(Moment::from_millis(7)).millis, 7);
        assert!(clock.see(&wild, Moment::from_millis(8)).is_ok());
    }

    proptest! {
        /// Two regions that exchange some of their stamps, on walls that jump as they like.
        #[test]
        fn what_was_caused_is_later(steps in prop::collection::vec((any::<bool>(), 0u64..50, any::<bool>()), 1..80)) {
            let mut clocks = [Clock::new(region("oslo"), None), Clock::new(region("paris"), None)];
            let mut all = Vec::new();
            let mut last: [Option<Stamp>; 2] = [None, None];
            for (second, millis, heard) in steps {
                let (me, other) = (usize::from(second), usize::from(!second));
                let wall = Moment::from_millis(millis);
                if let Some(remote) = last[other].clone().filter(|_| heard) {
                    clocks[me].see(&remote, wall).unwrap();
                    let mine = clocks[me].now(wall);
                    prop_assert!(mine > remote);
                    last[me] = Some(mine.clone());
                    all.push(mine);
                }
                let mine = clocks[me].now(wall);
                prop_assert!(last[me].as_ref().is_none_or(|before| *before < mine));
                last[me] = Some(mine.clone());
                all.push(mine);
            }
            let count = all.len();
            all.sort();
            all.dedup();
            prop_assert_eq!(all.len(), count, "no two changes have the same stamp");
        }
    }
}
