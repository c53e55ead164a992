//! Every interleaving of the fencing protocol, and proof that the checker would notice: the same with one rule broken.
//!
//! Read in this order: `zone` (time), `rules` (what is explored), `state` (what there is), `protocol` (who does what),
//! `properties` (what must hold), `broken` (each rule, missing), `restored` (a store from a backup). `docs/decisions/0005-fencing.md` says why, and what is
//! not covered.

mod zone;

mod rules;

mod state;

mod protocol;

mod properties;

mod broken;

mod restored;

use farshore_core::fencing::FenceTimings;
use stateright::{Checker, Model};

use rules::{Item, Rules};

/// Cores of the smallest machine that the tests are meant for.
const THREADS: usize = 2;

#[test]
fn a_self_fencing_item_is_safe_when_coordinators_are_replaced() {
    explore(Rules::of(Item::Fence).within(3, 3, 0), 100_000);
}

#[test]
fn a_self_fencing_item_is_safe_when_it_moves_again_and_again() {
    explore(Rules::of(Item::Fence).within(4, 2, 1), 190_000);
}

#[test]
fn a_self_fencing_item_is_safe_by_the_standard_timings() {
    explore(Rules::timed(&FenceTimings::STANDARD).within(3, 2, 1), 130_000);
}

#[test]
fn a_holding_item_is_safe_in_every_interleaving() {
    explore(Rules::of(Item::Hold).within(4, 3, 2), 410_000);
}

/// Explores all there is: no counterexample, every possibility seen, and not fewer states than when this was written.
fn explore(rules: Rules, states_min: usize) {
    let checker = rules.checker().threads(THREADS).spawn_bfs().join();
    println!("{} states, depth {}", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
    assert!(checker.is_done(), "the exploration ended early");
    assert!(checker.unique_state_count() >= states_min, "only {} states", checker.unique_state_count());
}
