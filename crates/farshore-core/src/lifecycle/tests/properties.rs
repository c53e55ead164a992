//! What holds after any sequence of wishes and news, sensible or not.

use proptest::prelude::*;

use super::*;

/// Anything that may be asked or said, with the item's own epoch or a wrong one.
fn any_input() -> impl Strategy<Value = String> {
    let verbs = prop::sample::select(vec![
        "delete",
        "protect oslo",
        "protect paris",
        "protect rome",
        "disable",
        "test-failover",
        "cleanup",
        "failover",
        "failover p3",
        "failover --planned",
        "failover --planned p3",
        "change-point",
        "commit",
        "reprotect",
        "failback",
        "mark-point",
        "drop-divergence",
    ]);
    let events = prop::sample::select(ALL_EVENTS.to_vec());
    // Rarely: it ends the walk in NeedsUser.
    let events = events.prop_filter("rare", |event| *event != "+ahead");
    prop_oneof![
        6 => verbs.prop_map(str::to_owned),
        8 => events.prop_map(str::to_owned),
        2 => (0u64..120).prop_map(|seq| format!("+promoted {seq}")),
        1 => (0u64..120, 0u64..9).prop_map(|(seq, epoch)| format!("+promoted {seq} under {epoch}")),
        1 => (0u64..120, 0u64..9).prop_map(|(after, n)| format!("+diverged paris {after} {n}")),
    ]
}

/// What must hold between an item and what it became by `what`.
fn check_change(before: &Item, after: &Item, what: &str) {
    assert!(after.epoch >= before.epoch, "{what}: the epoch went down");
    assert_eq!(after.home, before.home, "{what}: home moved");
    assert!(after.words.starts_with(&before.words), "{what}: an operator's word was forgotten");
    assert_ne!(Some(&after.source), after.target.as_ref(), "{what}: it replicates to itself");
    let promoting = matches!(before.phase, Phase::FailingOver { stage: Stage::Promoting, .. });
    if after.source != before.source {
        assert!(promoting && what.starts_with("+promoted"), "{what}: the source moved");
        assert_eq!(before.target.as_ref(), Some(&after.source), "{what}: it moved elsewhere");
        assert_eq!(after.target.as_ref(), Some(&before.source), "{what}: the old source is forgotten");
    }
    let revokes = what.starts_with("failover") || what == "failback" || what == "+failover-undone";
    assert_eq!(
        after.epoch > before.epoch,
        revokes,
        "{what}: the epoch rises with the right to write, and only then"
    );
    let failing = matches!(after.phase, Phase::FailingOver { .. });
    assert_eq!(
        after.failing.is_some(),
        failing,
        "{what}: what is known of a failover lives as long as it does"
    );
    if matches!(after.phase, Phase::FailingOver { stage: Stage::Promoting, .. }) {
        assert!(after.failing.as_ref().is_some_and(|failing| failing.proof.is_some()), "{what}: no proof");
    }
    let pair = matches!(
        after.phase,
        Phase::Creating | Phase::Unprotected | Phase::Deleting | Phase::NeedsUser { .. }
    );
    assert!(pair || after.target.is_some(), "{what}: {} without a target", after.phase.as_str());
    if let Some(report) = &after.failover {
        assert!(!report.exact || report.loss_final.is_some(), "{what}: an exact loss without a number");
    }
}

/// `next_actions` and `request` must tell the same story.
fn check_verbs(item: &Item) {
    let verbs = item.next_actions();
    assert!(!verbs.is_empty(), "no legal verb in {}", show(item));
    for verb in Verb::ALL {
        let mut command = any_command(verb);
        if let Command::Protect { target, .. } = &mut command {
            *target = region("elba");
        }
        let taken = item.request(&command, Moment(1));
        assert_eq!(taken.is_ok(), verbs.contains(&verb), "{verb} in {}: {taken:?}", show(item));
        if let Err(Refusal::NotNow { possible, .. }) = taken {
            assert_eq!(possible, verbs);
        }
    }
}

/// Events that would fit next, so that walks go deep.
fn fitting(item: &Item) -> Vec<&'static str> {
    ALL_EVENTS.into_iter().filter(|what| *what != "+ahead" && take(item, what).is_ok()).collect()
}

proptest! {
    #[test]
    fn any_walk_keeps_the_promises(inputs in prop::collection::vec((any_input(), any::<prop::sample::Index>(), any::<bool>()), 1..120)) {
        let mut item = new_item();
        for (input, index, fit) in inputs {
            let fitting = fitting(&item);
            let what = if fit && !fitting.is_empty() { (*index.get(&fitting)).to_owned() } else { input };
            let before = item.clone();
            if let Ok(next) = take(&item, &what) {
                check_change(&before, &next, &what);
                item = next;
            }
            check_verbs(&item);
            let text = serde_json::to_string(&item).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Item>(&text).unwrap(), &item);
        }
    }

    /// Only legal verbs and the news they wait for: the walk never comes to a stand, and comes home when it wants to.
    #[test]
    fn from_anywhere_there_is_a_way_home(choices in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let mut item = state("protected");
        for choice in choices {
            let verbs = item.next_actions();
            let verb = *choice.get(&verbs);
            if !matches!(verb, Verb::Delete | Verb::Protect) {
                item = item.request(&any_command(verb), Moment(1)).unwrap();
            }
            let fitting = fitting(&item);
            if !fitting.is_empty() {
                item = take(&item, choice.get::<&str>(&fitting)).unwrap();
            }
        }
        for _ in 0..20 {
            let what = match &item.phase {
                Phase::Unprotected if item.source == item.home => break,
                Phase::Unprotected => "protect paris",
                Phase::Seeding => "+seeded",
                Phase::Protected { .. } if item.source == item.home => break,
                Phase::Protected { drill: Some(_) } => "+drill-cleaned",
                Phase::Protected { drill: None } => "failback",
                Phase::FailingOver { stage: Stage::Revoking, .. } => "+source-stopped",
                Phase::FailingOver { stage: Stage::Promoting, .. } => "+promoted 100",
                Phase::FailedOver => "+committed",
                Phase::Committed => "reprotect",
                Phase::Reprotecting => "+reprotected",
                other => panic!("no way home from {}", other.as_str()),
            };
            item = take(&item, what).unwrap();
        }
        prop_assert_eq!(&item.source, &item.home);
    }
}
