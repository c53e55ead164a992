//! Dense time, exactly: the set of all values that the clocks may have together, as bounds on their differences.
//!
//! A model with ticks would need one tick for one per cent of a lease, thus hundreds of them. A difference bound matrix
//! (Dill 1989) has no ticks: its size does not depend on the constants, so the real ones are used, in milliseconds.
//! `widen` is the extrapolation by lower and upper guards of Behrmann, Bouyer, Larsen and Pelánek (2006): it keeps the
//! number of zones finite and loses no reachable state. It allows no guard on the difference of two clocks; there is none.
//!
//! Always: the matrix is closed (each bound is the tightest that follows from all), and rows of stopped clocks are zero,
//! so that equal sets are equal values.

use std::fmt;

/// Row 0 stands for the constant zero.
const ROWS: usize = Clock::ALL.len() + 1;

/// No bound. Two of them can be added without overflow.
const NO_BOUND: i32 = i32::MAX / 4;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Since a region sent the renewal that its lease rests on.
    Lease(usize),
    /// Since a region sent the renewal that is under way.
    Note(usize),
    /// Since a region's write passed its second check.
    Gap(usize),
    /// An executor's wait.
    Wait(usize),
}

impl Clock {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Lease(0),
        Self::Lease(1),
        Self::Note(0),
        Self::Note(1),
        Self::Gap(0),
        Self::Gap(1),
        Self::Wait(0),
        Self::Wait(1),
    ];

    fn row(self) -> usize {
        match self {
            Self::Lease(region) => 1 + region,
            Self::Note(region) => 3 + region,
            Self::Gap(region) => 5 + region,
            Self::Wait(executor) => 7 + executor,
        }
    }
}

/// The highest constants that clocks are compared with; none: never compared that way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of guards `clock ≥ c`, by row.
    at_least: [Option<i32>; ROWS],
    /// Of guards `clock ≤ c`, by row.
    at_most: [Option<i32>; ROWS],
}

impl Limits {
    /// Leases end at `lease`, acknowledgements leave within `gap`, waits are over at `wait`.
    pub(crate) fn new(lease: i32, gap: i32, wait: i32) -> Self {
        let mut limits = Self { at_least: [None; ROWS], at_most: [None; ROWS] };
        for clock in Clock::ALL {
            match clock {
                Clock::Lease(_) | Clock::Note(_) => limits.at_most[clock.row()] = Some(lease),
                Clock::Gap(_) => limits.at_most[clock.row()] = Some(gap),
                Clock::Wait(_) => limits.at_least[clock.row()] = Some(wait),
            }
        }
        limits
    }
}

/// A set of clock values. See the module.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Zone {
    /// Bit by row. Bit 0 is always set.
    running: u16,
    /// `bounds[i * ROWS + j]`: clock i minus clock j is at most this.
    bounds: [i32; ROWS * ROWS],
}

impl Zone {
    /// No clock runs.
    pub(crate) fn new() -> Self {
        Self { running: 1, bounds: [0; ROWS * ROWS] }
    }

    /// Whether the clock runs.
    pub(crate) fn runs(&self, clock: Clock) -> bool {
        self.running & (1 << clock.row()) != 0
    }

    /// The clock runs from zero.
    pub(crate) fn start(&mut self, clock: Clock) {
        self.set_like(clock.row(), 0);
    }

    /// The clock runs from what another shows.
    pub(crate) fn start_at(&mut self, clock: Clock, other: Clock) {
        assert!(self.runs(other), "{other:?} does not run");
        self.set_like(clock.row(), other.row());
    }

    /// The clock runs from any value at all.
    pub(crate) fn start_anywhere(&mut self, clock: Clock) {
        let row = clock.row();
        self.set_like(row, 0);
        for other in self.rows() {
            if other != row {
                self.bounds[row * ROWS + other] = NO_BOUND;
            }
        }
    }

    /// The clock's value no longer matters.
    pub(crate) fn stop(&mut self, clock: Clock) {
        let row = clock.row();
        self.running &= !(1 << row);
        for other in 0..ROWS {
            self.bounds[row * ROWS + other] = 0;
            self.bounds[other * ROWS + row] = 0;
        }
    }

    /// Keeps the values where the clock shows at most `limit`. `false`: there are none.
    #[must_use]
    pub(crate) fn at_most(&mut self, clock: Clock, limit: i32) -> bool {
        self.runs(clock) && self.tighten(clock.row(), 0, limit)
    }

    /// Keeps the values where the clock shows at least `limit`. `false`: there are none.
    #[must_use]
    pub(crate) fn at_least(&mut self, clock: Clock, limit: i32) -> bool {
        self.runs(clock) && self.tighten(0, clock.row(), -limit)
    }

    /// Any time passes.
    pub(crate) fn pass(&mut self, limits: &Limits) {
        for row in self.rows() {
            if row != 0 {
                self.bounds[row * ROWS] = NO_BOUND;
            }
        }
        self.widen(limits);
    }

    fn widen(&mut self, limits: &Limits) {
        for row in self.rows() {
            for other in self.rows() {
                if row == other {
                    continue;
                }
                let bound = &mut self.bounds[row * ROWS + other];
                if row != 0 && limits.at_least[row].is_none_or(|limit| *bound > limit) {
                    *bound = NO_BOUND;
                } else if other != 0 {
                    // Beyond its last upper guard a clock's exact value matters no more. Time is counted in whole
                    // milliseconds, hence "+ 1" for "beyond".
                    *bound = (*bound).max(-limits.at_most[other].map_or(0, |limit| limit + 1));
                }
            }
        }
        self.close();
    }

    fn close(&mut self) {
        for via in self.rows() {
            for row in self.rows() {
                let first = self.bounds[row * ROWS + via];
                if first >= NO_BOUND || row == via {
                    continue;
                }
                for other in self.rows() {
                    let sum = first.saturating_add(self.bounds[via * ROWS + other]);
                    let bound = &mut self.bounds[row * ROWS + other];
                    *bound = (*bound).min(sum);
                }
            }
        }
    }

    /// Adds "row - other ≤ limit" and closes again.
    fn tighten(&mut self, row: usize, other: usize, limit: i32) -> bool {
        if self.bounds[other * ROWS + row].saturating_add(limit) < 0 {
            return false;
        }
        if limit >= self.bounds[row * ROWS + other] {
            return true;
        }
        for a in self.rows() {
            for b in self.rows() {
                let sum = self.bounds[a * ROWS + row]
                    .saturating_add(limit)
                    .saturating_add(self.bounds[other * ROWS + b]);
                let bound = &mut self.bounds[a * ROWS + b];
                *bound = (*bound).min(sum);
            }
        }
        true
    }

    fn set_like(&mut self, row: usize, model: usize) {
        self.running |= 1 << row;
        for other in self.rows() {
            if other != row {
                self.bounds[row * ROWS + other] = self.bounds[model * ROWS + other];
                self.bounds[other * ROWS + row] = self.bounds[other * ROWS + model];
            }
        }
        self.bounds[row * ROWS + model] = 0;
        self.bounds[model * ROWS + row] = 0;
        self.bounds[row * ROWS + row] = 0;
    }

    fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let running = self.running;
        (0..ROWS).filter(move |row| running & (1 << row) != 0)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(Clock::ALL.into_iter().filter(|clock| self.runs(*clock))).finish()
    }
}

#[test]
fn a_wait_started_after_a_lease_ends_after_it() {
    let limits = Limits::new(100, 10, 150);
    let mut zone = Zone::new();
    zone.start(Clock::Lease(0));
    zone.pass(&limits);
    zone.start(Clock::Wait(0));
    zone.pass(&limits);
    assert!(zone.at_least(Clock::Wait(0), 101));
    assert!(!zone.at_most(Clock::Lease(0), 100));
    assert!(zone.at_most(Clock::Lease(0), 101));
}

#[test]
fn a_clock_taken_from_another_shows_its_time() {
    let limits = Limits::new(100, 10, 150);
    let mut zone = Zone::new();
    zone.start(Clock::Note(0));
    zone.pass(&limits);
    zone.start(Clock::Wait(0));
    zone.pass(&limits);
    zone.start_at(Clock::Lease(0), Clock::Note(0));
    zone.stop(Clock::Note(0));
    zone.pass(&limits);
    assert!(zone.at_least(Clock::Wait(0), 100));
    assert!(!zone.at_most(Clock::Lease(0), 99));
    assert!(zone.at_most(Clock::Lease(0), 100));
}
