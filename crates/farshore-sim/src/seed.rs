//! Chance that can be repeated.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The variable that runs one seed again.
pub const SEED_VARIABLE: &str = "FARSHORE_SEED";

/// A stream of numbers that follows from its seed (splitmix64: small, and good enough to choose faults with).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "nothing is below 0");
        self.any() % end
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Runs a test body for each of `count` seeds, or only for the one in `FARSHORE_SEED`. When it fails, prints the seed first.
///
/// # Panics
/// As the body does, or when `FARSHORE_SEED` is no number.
#[expect(clippy::print_stderr, reason = "the seed of a failed test is for the person who runs it")]
pub fn for_seeds(count: u64, body: impl Fn(u64)) {
    let again = std::env::var(SEED_VARIABLE).ok();
    let seeds = match again.as_deref().map(str::parse) {
        Some(Ok(seed)) => seed..seed + 1,
        Some(Err(_)) => panic!("{SEED_VARIABLE} must be a number, but is {again:?}"),
        None => 0..count,
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(seed))) {
            eprintln!("failed with seed {seed}; run it again with {SEED_VARIABLE}={seed}");
            resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers_and_another_gives_others() {
        let draw = |seed| {
            let mut chance = Chance::new(seed);
            (0..32).map(|_| chance.any()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_number_below_the_end_comes_up() {
        let mut chance = Chance::new(1);
        let mut seen = [false; 10];
        for _ in 0..500 {
            seen[usize::try_from(chance.below(10)).unwrap()] = true;
        }
        assert_eq!(seen, [true; 10]);
    }

    #[test]
    fn a_failing_seed_ends_the_run_with_its_own_panic() {
        let failed = catch_unwind(|| for_seeds(5, |seed| assert_ne!(seed, 3, "three")));
        assert!(failed.is_err() || std::env::var(SEED_VARIABLE).is_ok());
    }
}
