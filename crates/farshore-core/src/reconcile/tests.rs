use std::time::Duration;

use serde_json::json;

use super::*;
use crate::fencing::OnControlLoss;
use crate::ids::{Epoch, ItemId};
use crate::lifecycle::StopProof;
use crate::moment::Moment;
use crate::workload::{Point, PointKind, Promotion};

const PARIS: &str = "paris";
const OSLO: &str = "oslo";

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn mark(seq: u64) -> Watermark {
    Watermark { epoch: Epoch(1), seq, bytes: seq * 10, at: Moment(seq) }
}

/// At home in paris, replicated to oslo, at epoch 4.
fn at_home(phase: Phase) -> Item {
    let id = ItemId::parse("machine/web-1").unwrap();
    let item = Item::new(id, region(PARIS), OnControlLoss::Hold, Moment(1));
    Item { epoch: Epoch(4), target: Some(region(OSLO)), phase, ..item }
}

/// Failed over from paris to oslo at write 10; the loss is not known yet.
fn moved(phase: Phase) -> Item {
    let point =
        Point { id: "p".into(), watermark: mark(10), at: Moment(1), kind: PointKind::Crash, name: None };
    let promotion = Promotion {
        point,
        source_last_known: mark(10),
        source_last_seen: Moment(1),
        at_failover: Loss::default(),
    };
    let report = FailoverReport {
        planned: false,
        from: region(PARIS),
        to: region(OSLO),
        requested_at: Moment(1),
        rto_seconds: Duration::from_secs(1).as_secs_f64(),
        proof: StopProof::Acknowledged,
        promotion,
        loss_final: None,
        exact: false,
    };
    Item { source: region(OSLO), target: Some(region(PARIS)), failover: Some(report), ..at_home(phase) }
}

fn counted(mut item: Item, writes: u64) -> Item {
    let kept = KeptDivergence { region: region(PARIS), divergence: divergence(10, writes) };
    item.divergence = Some(kept);
    if let Some(report) = &mut item.failover {
        report.loss_final = Some(Loss { writes, bytes: 1, seconds: 0.1 });
    }
    item
}

fn divergence(after: u64, writes: u64) -> Divergence {
    Divergence {
        after: mark(after),
        loss: Loss { writes, bytes: 1, seconds: 0.1 },
        exact: true,
        endpoints: Vec::new(),
    }
}

fn seen(role: Role, epoch: u64) -> Observation {
    Observation {
        token: Token::new(1, Epoch(epoch)),
        role,
        ready: true,
        shape: json!(null),
        watermark: mark(12),
        endpoints: Vec::new(),
        replication: None,
        points: Vec::new(),
        drill: None,
        promotion: None,
        folding_bytes: 0,
        divergence: None,
        warnings: Vec::new(),
        cannot_promote: None,
        start: None,
    }
}

fn with_divergence(role: Role, after: u64, writes: u64) -> Observation {
    Observation { divergence: Some(divergence(after, writes)), ..seen(role, 4) }
}

/// One word for what is done.
fn told(mend: Option<Mend>) -> String {
    match mend {
        None => "-".to_owned(),
        Some(Mend::Order { what, token, action }) => {
            assert_eq!(token, Token::new(1, Epoch(4)), "orders carry the present token");
            match action {
                Action::Fence { lost_after: Some(after) } => format!("{what} after {}", after.seq),
                _ => what.to_owned(),
            }
        }
        Some(Mend::Record(Event::DivergenceSeen(kept))) => format!("lost {}", kept.divergence.loss.writes),
        Some(Mend::Record(Event::AheadOfStore { .. })) => "ahead".to_owned(),
        Some(Mend::Record(other)) => format!("{other:?}"),
    }
}

fn check(item: &Item, job: Option<Verb>, at: &str, seen: &Observation, counted: Option<u64>, expected: &str) {
    let at = region(at);
    let view = View { item, job, region: &at, seen, incarnation: 1, told: counted.map(mark) };
    assert_eq!(told(reconcile(view)), expected, "{item:?} {job:?} {at} {seen:?} told {counted:?}");
}

fn failing(stage: Stage) -> Phase {
    Phase::FailingOver { planned: false, stage }
}

const PROTECTED: Phase = Phase::Protected { drill: None };

#[test]
fn a_source_that_waits_is_confirmed_unless_its_right_is_moving() {
    for phase in [Phase::Creating, Phase::Unprotected, Phase::Seeding, PROTECTED, Phase::Reprotecting] {
        for job in [None, Some(Verb::Protect)] {
            check(&at_home(phase.clone()), job, PARIS, &seen(Role::Unconfirmed, 3), None, "serve");
            check(&at_home(phase.clone()), job, PARIS, &seen(Role::Unconfirmed, 4), None, "serve");
            check(&at_home(phase.clone()), job, PARIS, &seen(Role::Active, 4), None, "-");
        }
    }
    for phase in [failing(Stage::Revoking), failing(Stage::Promoting), Phase::Deleting] {
        for role in [Role::Unconfirmed, Role::Fenced, Role::Active] {
            check(&at_home(phase.clone()), None, PARIS, &seen(role, 3), None, "-");
        }
    }
}

#[test]
fn a_source_left_fenced_serves_again_when_no_job_is_about_it() {
    check(&at_home(PROTECTED), None, PARIS, &seen(Role::Fenced, 3), None, "serve");
    check(&at_home(PROTECTED), Some(Verb::Failover), PARIS, &seen(Role::Fenced, 3), None, "-");
}

#[test]
fn an_old_source_is_fenced_and_told_from_where_to_count() {
    for phase in [Phase::FailedOver, Phase::Committed] {
        let item = moved(phase);
        for role in [Role::Active, Role::Unconfirmed, Role::Fenced] {
            check(&item, None, PARIS, &seen(role, 3), None, "fence after 10");
            check(&item, Some(Verb::ChangePoint), PARIS, &seen(role, 3), None, "fence after 10");
            check(&item, Some(Verb::Reprotect), PARIS, &seen(role, 3), None, "-");
        }
        check(&item, None, PARIS, &seen(Role::Target, 3), None, "-");
        // The new source itself.
        check(&item, None, OSLO, &seen(Role::Active, 4), None, "-");
        check(&item, None, OSLO, &seen(Role::Unconfirmed, 4), None, "serve");
    }
}

#[test]
fn what_was_lost_is_counted_from_the_point_that_is_served_and_recorded_once() {
    let item = moved(Phase::FailedOver);
    check(&item, None, PARIS, &seen(Role::Fenced, 4), None, "fence after 10");
    check(&item, None, PARIS, &seen(Role::Fenced, 4), Some(7), "fence after 10");
    check(&item, None, PARIS, &seen(Role::Fenced, 4), Some(10), "lost 0");
    check(&item, None, PARIS, &with_divergence(Role::Fenced, 7, 5), None, "fence after 10");
    check(&item, None, PARIS, &with_divergence(Role::Fenced, 10, 2), None, "lost 2");
    check(&counted(item.clone(), 2), None, PARIS, &with_divergence(Role::Fenced, 10, 2), None, "-");
    check(&counted(item.clone(), 3), None, PARIS, &with_divergence(Role::Fenced, 10, 2), None, "lost 2");
    // A job about the same thing speaks for itself.
    check(&item, Some(Verb::DropDivergence), PARIS, &with_divergence(Role::Fenced, 10, 2), None, "-");
}

#[test]
fn a_loss_found_while_reprotecting_is_recorded_all_the_same() {
    let item = moved(Phase::Reprotecting);
    check(&item, Some(Verb::Reprotect), PARIS, &with_divergence(Role::Target, 10, 2), None, "lost 2");
    check(&item, Some(Verb::Reprotect), PARIS, &seen(Role::Target, 4), None, "-");
    check(&moved(PROTECTED), None, PARIS, &seen(Role::Target, 4), None, "lost 0");
}

#[test]
fn after_a_planned_failover_there_is_nothing_to_count() {
    let mut item = moved(Phase::FailedOver);
    let report = item.failover.as_mut().unwrap();
    (report.planned, report.loss_final) = (true, Some(Loss::default()));
    check(&item, None, PARIS, &seen(Role::Fenced, 4), None, "-");
    check(&item, None, PARIS, &seen(Role::Fenced, 3), None, "fence after 10");
    // The point was changed since: now there is.
    item.failover.as_mut().unwrap().loss_final = None;
    check(&item, None, PARIS, &seen(Role::Fenced, 4), None, "fence after 10");
}

#[test]
fn a_target_that_writes_is_fenced() {
    check(&at_home(PROTECTED), None, OSLO, &seen(Role::Active, 3), None, "fence");
    check(&at_home(PROTECTED), None, OSLO, &seen(Role::Target, 4), None, "-");
    check(&at_home(Phase::Seeding), Some(Verb::Protect), OSLO, &seen(Role::Target, 4), None, "-");
}

#[test]
fn a_token_that_the_store_never_gave_is_told_once() {
    for at in [PARIS, OSLO] {
        check(&at_home(PROTECTED), None, at, &seen(Role::Active, 5), None, "ahead");
        let user = at_home(Phase::NeedsUser { why: "x".into() });
        check(&user, None, at, &seen(Role::Active, 5), None, "-");
    }
    // A restored store has a higher incarnation and a lower epoch: its tokens win, but it has forgotten.
    let item = at_home(PROTECTED);
    let old = Token::new(1, Epoch(5));
    assert!(ahead_of_store(&item, 2, &region(PARIS), old).is_some());
    assert!(ahead_of_store(&item, 2, &region(PARIS), Token::new(1, Epoch(4))).is_none());
}

#[test]
fn a_target_that_restarted_after_its_promotion_is_confirmed_once_the_source_has_stopped() {
    let promotion = moved(PROTECTED).failover.map(|report| report.promotion);
    let promoted = |epoch| Observation { promotion: promotion.clone(), ..seen(Role::Unconfirmed, epoch) };
    let item = |stage| at_home(failing(stage));
    check(&item(Stage::Promoting), Some(Verb::Failover), OSLO, &promoted(4), None, "serve");
    check(&item(Stage::Promoting), Some(Verb::Failover), OSLO, &promoted(3), None, "-");
    check(&item(Stage::Revoking), Some(Verb::Failover), OSLO, &promoted(4), None, "-");
    check(&item(Stage::Promoting), None, OSLO, &seen(Role::Unconfirmed, 4), None, "-");
}

#[test]
fn that_nothing_was_lost_is_recorded_once() {
    let mut item = moved(Phase::FailedOver);
    check(&item, None, PARIS, &with_divergence(Role::Fenced, 10, 0), None, "lost 0");
    item.failover.as_mut().unwrap().loss_final = Some(Loss::default());
    check(&item, None, PARIS, &with_divergence(Role::Fenced, 10, 0), None, "-");
}

/// Whatever is seen, the right to write is given to the item's source only, and every order carries the present token.
#[test]
fn no_region_but_the_source_is_told_to_serve() {
    let phases = [
        Phase::Creating,
        Phase::Unprotected,
        Phase::Seeding,
        PROTECTED,
        failing(Stage::Revoking),
        failing(Stage::Promoting),
        Phase::FailedOver,
        Phase::Committed,
        Phase::Reprotecting,
        Phase::Deleting,
        Phase::NeedsUser { why: "x".into() },
    ];
    let jobs = Verb::ALL.into_iter().map(Some).chain([None]);
    for (phase, job) in phases.iter().flat_map(|phase| jobs.clone().map(move |job| (phase, job))) {
        for role in [Role::Active, Role::Unconfirmed, Role::Fenced, Role::Target] {
            for (item, other) in [(at_home(phase.clone()), OSLO), (moved(phase.clone()), PARIS)] {
                for epoch in 1..=5 {
                    let (at, seen) = (region(other), seen(role, epoch));
                    let view =
                        View { item: &item, job, region: &at, seen: &seen, incarnation: 1, told: None };
                    assert_ne!(told(reconcile(view)), "serve", "{phase:?} {job:?} {role:?} {epoch}");
                }
            }
        }
    }
}
