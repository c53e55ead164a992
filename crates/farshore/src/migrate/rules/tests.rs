use farshore_core::fencing::{FenceTimings, OnControlLoss};
use farshore_core::ids::ItemId;
use farshore_core::lifecycle::Stage;
use farshore_core::moment::Moment;

use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn region(text: &str) -> Region {
    Region::parse(text).unwrap()
}

fn app(text: &str, at: &str, phase: Phase, mode: Mode) -> Seen {
    let id = ItemId::parse(&format!("app/{text}")).unwrap();
    let shape = Shape {
        mode,
        instances: 2,
        reserve_for: None,
        lent_to: None,
        lent_by: None,
        healthy: true,
        release: Some(1),
        tree: Some("t".to_owned()),
    };
    Seen {
        item: Item { phase, ..Item::new(id, region(at), OnControlLoss::Hold, Moment(1)) },
        at: Revision(1),
        shape: Some(shape),
        serves: true,
        silent: None,
        migrating: false,
        busy: None,
    }
}

/// Lost, protected toward oslo.
fn lost() -> Seen {
    let mut seen = app("todo", "paris", Phase::Protected { drill: None }, Mode::Basic);
    seen.item.target = Some(region("oslo"));
    Seen { serves: false, silent: Some("connection refused".to_owned()), ..seen }
}

fn spare() -> Seen {
    app("spare", "oslo", Phase::Unprotected, Mode::Standard)
}

/// `force` and `word` are said in the options.
fn asked(options: &str) -> Asked {
    Asked {
        primary: name("todo"),
        secondary: name("spare"),
        force: options.contains("force"),
        source_is_down: options.contains("word"),
    }
}

/// `ok`, or the code of the rule that is broken.
fn check(options: &str, primary: &Seen, secondary: &Seen, expected: &str) {
    let outcome = match admit(&asked(options), primary, secondary) {
        Ok(_) => "ok".to_owned(),
        Err(SubmitError::Refused { code, .. }) => code.to_owned(),
        Err(other) => other.to_string(),
    };
    assert_eq!(outcome, expected, "{options}: {:?} onto {:?}", primary.item.phase, secondary.item.phase);
}

fn shaped(seen: Seen, change: impl FnOnce(&mut Shape)) -> Seen {
    let mut seen = seen;
    if let Some(shape) = &mut seen.shape {
        change(shape);
    }
    seen
}

fn phased(seen: Seen, phase: Phase) -> Seen {
    Seen { item: Item { phase, ..seen.item }, ..seen }
}

#[test]
fn a_lost_app_is_taken_with_the_operators_word_and_gets_the_reserves_mode() {
    check("word", &lost(), &spare(), "ok");
    check("", &lost(), &spare(), "source-unreachable");
    let taken = admit(&asked("word"), &lost(), &spare()).unwrap();
    assert_eq!((taken.capacity.mode, taken.capacity.instances), (Mode::Standard, 2));
    assert_eq!((taken.from, taken.capacity.region), (region("paris"), region("oslo")));
    assert_eq!(taken.pushed_last.as_deref(), Some("t"));
    let mut fences = lost();
    fences.item.lease = Some(FenceTimings::STANDARD);
    check("", &fences, &spare(), "ok");
}

#[test]
fn an_app_that_answers_is_moved_when_it_is_ill_or_by_force() {
    let here = Seen { serves: true, silent: None, ..lost() };
    check("word", &here, &spare(), "primary-healthy");
    check("force", &here, &spare(), "ok");
    check("", &shaped(here.clone(), |shape| shape.healthy = false), &spare(), "ok");
    check("", &Seen { serves: false, ..here }, &spare(), "ok");
}

#[test]
fn every_rule_of_the_secondary_is_named() {
    let lost = lost();
    for (secondary, expected) in [
        (shaped(spare(), |shape| shape.mode = Mode::Free), "too-small"),
        (Seen { serves: false, ..spare() }, "secondary-not-healthy"),
        (Seen { silent: Some("down".to_owned()), ..spare() }, "secondary-not-healthy"),
        (shaped(spare(), |shape| shape.healthy = false), "secondary-not-healthy"),
        (app("spare", "paris", Phase::Unprotected, Mode::Basic), "same-region"),
        (Seen { migrating: true, ..spare() }, "migration-under-way"),
        (Seen { busy: Some("job 1".to_owned()), ..spare() }, "busy"),
        (shaped(spare(), |shape| shape.lent_to = Some(name("other"))), "lent"),
        (shaped(spare(), |shape| shape.reserve_for = Some(name("other"))), "reserved"),
        (phased(spare(), Phase::Protected { drill: None }), "secondary-protected"),
        (Seen { shape: None, ..spare() }, "mode-unknown"),
    ] {
        check("word", &lost, &secondary, expected);
    }
    let own = shaped(spare(), |shape| shape.reserve_for = Some(name("todo")));
    check("word", &lost, &own, "ok");
    // A reserve that nothing was ever deployed to has nothing that could be ill.
    let bare = |shape: &mut Shape| (shape.healthy, shape.release) = (false, None);
    check("word", &lost, &shaped(spare(), bare), "ok");
    let others = shaped(spare(), |shape| shape.reserve_for = Some(name("other")));
    check("word force", &lost, &others, "ok");
    check("word", &lost, &lost.clone(), "same-name");
}

#[test]
fn there_must_be_a_way_to_the_secondarys_region() {
    let here = || shaped(Seen { serves: true, silent: None, ..lost() }, |shape| shape.healthy = false);
    let moving = |stage| Phase::FailingOver { planned: false, stage };
    let alone = |seen: Seen| Seen { item: Item { target: None, ..seen.item }, ..seen };
    let seeding = phased(lost(), Phase::Seeding);
    for (primary, expected) in [
        (alone(phased(here(), Phase::Unprotected)), "ok"),
        (alone(phased(lost(), Phase::Unprotected)), "not-protected"),
        (phased(here(), Phase::FailedOver), "ok"),
        (phased(lost(), Phase::FailedOver), "not-protected"),
        (phased(here(), Phase::Committed), "ok"),
        (phased(lost(), Phase::Committed), "not-protected"),
        (phased(lost(), moving(Stage::Revoking)), "ok"),
        (phased(lost(), moving(Stage::Promoting)), "ok"),
        (phased(lost(), Phase::Protected { drill: Some("p".to_owned()) }), "ok"),
        (seeding, "not-now"),
        (phased(lost(), Phase::NeedsUser { why: "x".to_owned() }), "not-now"),
        (Seen { busy: Some("job 1".to_owned()), ..lost() }, "busy"),
        (Seen { shape: None, ..lost() }, "mode-unknown"),
    ] {
        check("word", &primary, &spare(), expected);
    }
    let mut elsewhere = lost();
    elsewhere.item.target = Some(region("rome"));
    check("word", &elsewhere, &spare(), "replicates-elsewhere");
}
