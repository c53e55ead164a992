//! The plan of every verb, as people would write it down, and what must hold for all of them.

use serde_json::json;

use super::super::tests::{happened, job_of};
use super::super::{Half, Job, JobState, Next};
use super::*;
use crate::command::Verb;
use crate::fencing::{FenceTimings, OnControlLoss};
use crate::ids::ItemId;
use crate::lifecycle::{Failing, FailoverReport, KeptDivergence, StopProof};
use crate::moment::Moment;
use crate::workload::{Divergence, Loss, Point, PointKind, Promotion};

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn facts() -> Facts {
    let address = |name: &str| (region(name), format!("{name}:7000"));
    Facts {
        incarnation: 1,
        shape: json!({}),
        addresses: ["paris", "oslo"].map(address).into(),
        ..Facts::default()
    }
}

/// Active in paris, replicated to oslo, failed over once before, with kept writes in oslo.
fn item(phase: Phase) -> Item {
    let after = Watermark { epoch: Epoch(4), seq: 90, ..Watermark::default() };
    let point = Point { id: "p".into(), watermark: after, at: Moment(1), kind: PointKind::Crash, name: None };
    let promotion = Promotion {
        point,
        source_last_known: after,
        source_last_seen: Moment(1),
        at_failover: Loss::default(),
    };
    let report = FailoverReport {
        planned: false,
        from: region("oslo"),
        to: region("paris"),
        requested_at: Moment(1),
        rto_seconds: 1.0,
        proof: StopProof::Acknowledged,
        promotion,
        loss_final: None,
        exact: false,
    };
    let divergence = Divergence { after, loss: Loss::default(), exact: true, endpoints: Vec::new() };
    let id = ItemId::parse("machine/web-1").unwrap();
    Item {
        epoch: Epoch(5),
        target: Some(region("oslo")),
        phase,
        failover: Some(report),
        divergence: Some(KeptDivergence { region: region("oslo"), divergence }),
        ..Item::new(id, region("paris"), OnControlLoss::Hold, Moment(1))
    }
}

fn revoking(planned: bool) -> Item {
    item(Phase::FailingOver { planned, stage: Stage::Revoking })
}

fn promoting() -> Item {
    item(Phase::FailingOver { planned: false, stage: Stage::Promoting })
}

/// The same, of a kind that two regions may serve at once.
fn shared(item: Item) -> Item {
    Item { id: ItemId::parse("realtime/chat").unwrap(), ..item }
}

/// Its target was the source before.
fn back(item: Item) -> Item {
    let failing = Failing { requested_at: Moment(1), proof: None, drill: None, back: true };
    Item { failing: Some(failing), ..item }
}

fn failover(planned: bool, source_is_down: bool) -> Command {
    Command::Failover { planned, point: PointChoice::Latest, source_is_down }
}

fn adopt(others_are_down: bool) -> Command {
    Command::Adopt { region: region("paris"), above: Epoch(5), others_are_down }
}

/// Every verb with the item that its acceptance leaves behind.
fn all() -> Vec<(&'static str, Item, Command)> {
    let protected = || item(Phase::Protected { drill: None });
    let point = PointChoice::Latest;
    let create = Command::Create {
        region: region("paris"),
        spec: json!({}),
        on_control_loss: OnControlLoss::Hold,
        automatic: false,
    };
    vec![
        ("create", item(Phase::Creating), create),
        ("delete", item(Phase::Deleting), Command::Delete),
        (
            "protect",
            item(Phase::Seeding),
            Command::Protect { target: region("oslo"), mode: ReplicationMode::Async },
        ),
        ("disable", protected(), Command::Disable),
        ("test-failover", protected(), Command::TestFailover { point: point.clone() }),
        ("cleanup", protected(), Command::CleanUp),
        ("planned failover", revoking(true), failover(true, false)),
        ("unplanned failover", revoking(false), failover(false, false)),
        ("unplanned failover, source is down", revoking(false), failover(false, true)),
        (
            "unplanned failover, fences itself",
            Item { lease: Some(FenceTimings::STANDARD), ..revoking(false) },
            failover(false, false),
        ),
        ("unplanned failover, shared", shared(revoking(false)), failover(false, false)),
        (
            "unplanned failover, shared and fences itself",
            Item { lease: Some(FenceTimings::STANDARD), ..shared(revoking(false)) },
            failover(false, false),
        ),
        ("planned failover, shared", shared(revoking(true)), failover(true, false)),
        ("taken back, shared", back(shared(revoking(false))), failover(false, false)),
        ("failover that goes on", promoting(), failover(false, false)),
        ("failback", revoking(true), Command::Failback),
        ("change-point", item(Phase::FailedOver), Command::ChangePoint { point }),
        ("commit", item(Phase::FailedOver), Command::Commit),
        ("reprotect", item(Phase::Reprotecting), Command::Reprotect),
        ("mark-point", protected(), Command::MarkPoint { name: "x".into() }),
        ("drop-divergence", protected(), Command::DropDivergence),
        ("adopt", item(Phase::NeedsUser { why: "x".into() }), adopt(false)),
        ("adopt, others are down", item(Phase::NeedsUser { why: "x".into() }), adopt(true)),
    ]
}

/// `REGION:action` of an effect, with the epoch it is given under where that is not the item's own.
fn word(item: &Item, act: &Act) -> String {
    match &act.does {
        Does::Wait => "wait".into(),
        Does::Record { .. } => "record".into(),
        Does::Order { region, token, action, .. } => {
            let name = serde_json::to_value(action).unwrap()["do"].as_str().unwrap().to_owned();
            let raised = token.epoch.0 - item.epoch.0;
            format!("{region}:{name}{}", "+".repeat(usize::try_from(raised).unwrap()))
        }
    }
}

/// One step in a line: `name effect (undo) marks`.
fn show(item: &Item, step: &Step) -> String {
    let mut text = match &step.act.does {
        Does::Record { .. } => step.name.clone(),
        _ => format!("{} {}", step.name, word(item, &step.act)),
    };
    if let Some(undo) = &step.undo {
        text += &format!(" (undo {})", word(item, undo));
    }
    if step.no_return {
        text += " !";
    }
    if step.may_fail {
        text += " ?";
    }
    if let Some(ms) = step.wait_out_ms {
        text += &format!(" ({ms} ms)");
    }
    text
}

/// The plans. `!`: no return from here on; `?`: may fail; `+`: under the next epoch.
const PLANS: &str = "
create: create paris:create (undo paris:delete); record-created
delete: delete paris:delete !; record-removed
protect: prepare-target oslo:prepare-target (undo oslo:delete); replicate paris:replicate (undo paris:stop-replicating); seed wait; first-point wait; record-seeded
disable: stop-replicating paris:stop-replicating !; remove-replica oslo:delete; record-disabled
test-failover: open-copy oslo:test-failover (undo oslo:clean-up); record-drill-opened
cleanup: remove-copy oslo:clean-up !; record-drill-cleaned
planned failover: fence paris:fence (undo paris:serve+); drain paris:drain; record-source-stopped !; promote oslo:promote; record-promoted
unplanned failover: fence paris:fence (undo paris:serve+); record-source-stopped !; promote oslo:promote; record-promoted
unplanned failover, source is down: fence paris:fence (undo paris:serve+) ?; record-source-stopped !; promote oslo:promote; record-promoted
unplanned failover, fences itself: fence paris:fence (undo paris:serve+) ? (21150 ms); record-source-stopped !; promote oslo:promote; record-promoted
unplanned failover, shared: fence paris:fence (undo paris:serve+) ?; record-source-stopped !; promote oslo:promote; record-promoted
unplanned failover, shared and fences itself: fence paris:fence (undo paris:serve+) ?; record-source-stopped !; promote oslo:promote; record-promoted
planned failover, shared: fence paris:fence (undo paris:serve+); drain paris:drain; record-source-stopped; promote oslo:promote; record-promoted
taken back, shared: fence paris:fence (undo paris:serve+) ?; record-source-stopped !; serve oslo:serve; record-taken-back
failover that goes on: record-source-stopped !; promote oslo:promote; record-promoted
failback: fence paris:fence (undo paris:serve+); drain paris:drain; record-source-stopped !; promote oslo:promote; record-promoted
change-point: change-point paris:change-point; record-point-changed
commit: commit paris:commit !; record-committed
reprotect: fence-old-source oslo:fence ?; follow oslo:follow; replicate paris:replicate (undo paris:stop-replicating); delta wait; first-point wait; record-reprotected
mark-point: mark paris:mark-point
drop-divergence: drop oslo:drop-divergence !; record-divergence-dropped
adopt: fence oslo:fence !; serve paris:serve !; record-adopted
adopt, others are down: fence oslo:fence ! ?; serve paris:serve !; record-adopted
";

#[test]
fn the_steps_of_every_verb() {
    let plans: Vec<String> = all()
        .iter()
        .map(|(name, item, command)| {
            let plan = plan(item, command, &facts()).unwrap();
            let steps: Vec<_> = plan.steps.iter().map(|step| show(item, step)).collect();
            format!("{name}: {}", steps.join("; "))
        })
        .collect();
    for (made, expected) in plans.iter().zip(PLANS.trim().lines()) {
        assert_eq!(made, expected);
    }
    assert_eq!(plans.len(), PLANS.trim().lines().count());
}

#[test]
fn every_verb_has_a_plan_above() {
    for verb in Verb::ALL {
        assert!(all().iter().any(|(_, _, command)| command.verb() == verb), "{verb}");
    }
}

#[test]
fn every_plan_keeps_the_rules_of_plans() {
    for (name, item, command) in all() {
        let plan = plan(&item, &command, &facts()).unwrap();
        assert!(!plan.steps.is_empty(), "{name}");
        let mut names: Vec<_> = plan.steps.iter().map(|step| step.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), plan.steps.len(), "{name}: names are part of the effects' keys");
        assert!(plan.on_turn.is_none() || plan.on_unwound.is_none(), "{name}: one of them would be lost");
        for step in &plan.steps {
            assert!(step.attempts_max > 0 && step.weight > 0, "{name}: {}", step.name);
            let record = matches!(step.act.does, Does::Record { .. });
            assert_eq!(record, step.act.expect == Expect::Nothing, "{name}: {} is verified", step.name);
            if let Some(undo) = &step.undo {
                assert!(matches!(undo.does, Does::Order { .. }), "{name}: {}", step.name);
                assert_ne!(undo.expect, Expect::Nothing, "{name}: the undo of {} is verified", step.name);
            }
            if let Does::Order { token, .. } = &step.act.does {
                assert_eq!(*token, Token::new(1, item.epoch), "{name}: {}", step.name);
            }
        }
    }
}

/// Steps before the point of no return that change something and have no undo, with the reason why that is right.
const NEEDS_NO_UNDO: [(&str, &str); 6] = [
    ("drain", "only waits for what was fenced"),
    ("follow", "the old source keeps its writes; a repeated reprotect goes on from there"),
    ("fence-old-source", "it has no right to write, cancelled or not"),
    ("change-point", "one step: it is done or it is not, and the point can be changed again"),
    ("mark", "a point more does no harm"),
    ("promote", "of a kind that two regions may serve at once: reprotect makes it follow again"),
];

#[test]
fn what_is_done_before_the_point_of_no_return_can_be_undone() {
    for (name, item, command) in all() {
        let plan = plan(&item, &command, &facts()).unwrap();
        for step in plan.steps.iter().take_while(|step| !step.no_return) {
            let excused = NEEDS_NO_UNDO.iter().any(|(excused, _)| *excused == step.name);
            let effect = matches!(step.act.does, Does::Order { .. });
            assert!(!effect || excused || step.undo.is_some(), "{name}: {} cannot be undone", step.name);
        }
    }
}

#[test]
fn the_way_out_of_a_dead_region_asks_it_for_nothing() {
    let named = (revoking(false), failover(false, true), 3);
    let shared = (shared(revoking(false)), failover(false, false), 1);
    for (item, command, seconds_max) in [named, shared] {
        check_dead_region(&item, command, seconds_max);
    }
}

fn check_dead_region(item: &Item, command: Command, seconds_max: u32) {
    let plan = plan(item, &command, &facts()).unwrap();
    for step in &plan.steps {
        let asks = matches!(&step.act.does, Does::Order { region, .. } if *region == item.source)
            || step.act.expect.regions().contains(&&item.source);
        if asks {
            assert!(step.may_fail && step.attempts_max == 1, "{} waits for the dead region", step.name);
            assert!(
                step.timeout_seconds.is_some_and(|seconds| seconds <= seconds_max),
                "{} waits too long",
                step.name
            );
        }
    }
    // And with every such step failing, the job comes to its end.
    let mut job = job_of(plan, command);
    let mut ended = false;
    for _ in 0..20 {
        let word = match job.next() {
            Next::Start { .. } => "start",
            Next::Perform { act, .. } if act.expect.regions().contains(&&item.source) => "fail",
            Next::Perform { .. } => "ok",
            Next::Rest => {
                ended = true;
                break;
            }
        };
        job = job.apply(&happened(&job, word), Moment(2)).unwrap().0;
    }
    assert!(ended && job.state == JobState::Succeeded, "{:?}", job.state);
    assert_eq!(job.skipped, ["fence"]);
}

/// Fails the step at `at` for good and returns the job at its end, with what it ordered on the way back.
fn fail_at(name: &str, item: &Item, command: &Command, at: usize) -> (Job, Vec<String>) {
    let mut job = job_of(plan(item, command, &facts()).unwrap(), command.clone());
    let mut back = Vec::new();
    for _ in 0..100 {
        let word = match job.next() {
            Next::Start { .. } => "start",
            Next::Perform { step, half: Half::Do, .. } if step == at => "fatal",
            Next::Perform { half, act, .. } => {
                if half == Half::Undo {
                    back.push(word(item, &act));
                }
                "ok"
            }
            Next::Rest => return (job, back),
        };
        job = job.apply(&happened(&job, word), Moment(2)).unwrap().0;
    }
    panic!("{name} does not end when step {at} fails");
}

#[test]
fn a_failure_at_any_step_ends_clean_or_asks() {
    for (name, item, command) in all() {
        let steps = plan(&item, &command, &facts()).unwrap().steps;
        let no_return = steps.iter().position(|step| step.no_return).unwrap_or(steps.len());
        for (at, step) in steps.iter().enumerate() {
            let (job, back) = fail_at(name, &item, &command, at);
            let expected: Vec<_> = steps[..=at]
                .iter()
                .rev()
                .filter_map(|step| step.undo.as_ref())
                .map(|undo| word(&item, undo))
                .collect();
            // A region that refuses has not been waited out.
            if step.may_fail && step.wait_out_ms.is_none() {
                assert_eq!(job.state, JobState::Succeeded, "{name}: {}", step.name);
            } else if at >= no_return {
                assert!(
                    matches!(job.state, JobState::Stuck { .. }),
                    "{name}: {}: {:?}",
                    step.name,
                    job.state
                );
                assert!(back.is_empty(), "{name}: {}", step.name);
            } else {
                assert!(
                    matches!(&job.state, JobState::Failed { residue, .. } if residue.is_empty()),
                    "{name}: {}",
                    step.name
                );
                assert_eq!(back, expected, "{name}: {}", step.name);
            }
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let mut lone = item(Phase::Committed);
    lone.target = None;
    let error = plan(&lone, &Command::Reprotect, &facts()).unwrap_err();
    assert_eq!(error.to_string(), "machine/web-1 has no target region: protect it first");
    let mut fresh = item(Phase::Reprotecting);
    fresh.failover = None;
    let error = plan(&fresh, &Command::Reprotect, &facts()).unwrap_err();
    assert!(error.to_string().contains("never been failed over"), "{error}");
    let protect = Command::Protect { target: region("oslo"), mode: ReplicationMode::Async };
    let error = plan(&item(Phase::Seeding), &protect, &Facts::default()).unwrap_err();
    assert_eq!(error, PlanError::NoAddress { region: region("oslo") });
}
