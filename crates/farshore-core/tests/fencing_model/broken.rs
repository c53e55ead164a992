//! Each rule of the protocol, missing: the checker must find what then goes wrong.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use crate::properties::{DIRECTORY, DISJOINT, EPOCHS_RISE, HIGHEST_WINS, KEPT, PROVEN};
use crate::protocol::Step;
use crate::rules::{Broken, Item, Rules};
use crate::state::State;

/// Searches breadth first and returns what led to the violation, without the steps that it did not need.
fn counterexample(rules: Rules, property: &'static str) -> Vec<Step> {
    let found = rules
        .clone()
        .checker()
        .finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property])))
        .spawn_bfs()
        .join()
        .assert_any_discovery(property)
        .into_actions();
    shrink(&rules, property, found)
}

fn shrink(rules: &Rules, property: &'static str, mut steps: Vec<Step>) -> Vec<Step> {
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        if violates(rules, property, &fewer) {
            steps = fewer;
            at = 0;
        } else {
            at += 1;
        }
    }
    steps
}

/// Whether all these steps are possible one after the other, and the property does not hold after the last.
fn violates(rules: &Rules, property: &'static str, steps: &[Step]) -> bool {
    let mut state = State::first();
    for step in steps {
        let mut possible = Vec::new();
        rules.actions(&state, &mut possible);
        let Some(next) = rules.next_state(&state, *step).filter(|_| possible.contains(step)) else {
            return false;
        };
        state = next;
    }
    !(rules.property(property).condition)(rules, &state)
}

/// `name: item without rule, so many epochs, claims and restarts, violates property`.
macro_rules! found {
    ($($name:ident: $item:ident without $broken:ident in ($($bound:literal),*) violates $property:ident;)*) => {
        $(#[test] fn $name() {
            let rules = Rules::without(Item::$item, Broken::$broken).within($($bound),*);
            let steps = counterexample(rules, $property);
            println!("{:?}: {steps:?}", Broken::$broken);
            assert!(!steps.is_empty());
        })*
    };
}

found! {
    a_wait_counted_from_sending_is_caught: Fence without WaitFromSending in (2, 1, 0) violates DISJOINT;
    a_wait_continued_by_another_is_caught: Fence without WaitContinued in (2, 2, 0) violates DISJOINT;
    a_wait_without_stop_time_is_caught: Fence without WaitWithoutStop in (2, 1, 0) violates DISJOINT;
    a_wait_without_drift_is_caught: Fence without WaitWithoutDrift in (2, 1, 0) violates DISJOINT;
    a_wait_without_margin_is_caught: Fence without WaitWithoutMargin in (2, 1, 0) violates DISJOINT;
    a_lease_counted_from_the_answer_is_caught: Fence without LeaseFromAnswer in (2, 1, 0) violates DISJOINT;
    a_lease_by_a_clock_that_stands_is_caught: Fence without LeaseClockStands in (2, 1, 0) violates DISJOINT;
    a_missing_second_check_is_caught: Fence without NoSecondCheck in (2, 1, 0) violates DISJOINT;
    the_documented_hole_is_found: Fence without PausedAfterCheck in (2, 1, 0) violates DISJOINT;
    an_unconditional_renewal_is_caught: Fence without RenewalUnconditional in (2, 1, 0) violates DISJOINT;
    a_fence_not_kept_is_caught: Fence without FenceNotKept in (2, 1, 1) violates KEPT;
    a_fence_not_kept_is_caught_holding: Hold without FenceNotKept in (2, 1, 1) violates KEPT;
    a_promotion_not_kept_is_caught: Fence without PromotionNotKept in (2, 1, 1) violates KEPT;
    old_tokens_obeyed_are_caught: Fence without OldTokensObeyed in (2, 1, 0) violates HIGHEST_WINS;
    old_tokens_obeyed_make_two_owners: Hold without OldTokensObeyed in (2, 1, 0) violates DISJOINT;
    a_cancel_that_reuses_the_epoch_is_caught: Fence without CancelGrantsOldEpoch in (2, 1, 0) violates EPOCHS_RISE;
    an_unconditional_promotion_is_caught: Fence without PromotionUnconditional in (3, 2, 0) violates DISJOINT;
    a_directory_changed_apart_is_caught: Fence without DirectoryApart in (2, 1, 0) violates DIRECTORY;
    a_vanished_key_as_proof_is_caught: Fence without VanishedKeyIsProof in (2, 1, 0) violates PROVEN;
    a_vanished_key_as_proof_makes_two_owners: Fence without VanishedKeyIsProof in (2, 1, 0) violates DISJOINT;
    a_holding_item_waited_out_is_caught: Hold without HoldWaitedOut in (2, 1, 0) violates DISJOINT;
    a_word_for_a_region_that_is_up_is_caught: Hold without WordWhileUp in (2, 1, 0) violates DISJOINT;
    a_restart_that_serves_is_caught: Fence without RestartServes in (2, 1, 1) violates DISJOINT;
    a_restart_that_serves_is_caught_holding: Hold without RestartServes in (2, 1, 1) violates DISJOINT;
    a_confirmation_that_outlives_the_start_is_caught: Hold without ConfirmationOutlivesStart in (2, 1, 1) violates DISJOINT;
}
