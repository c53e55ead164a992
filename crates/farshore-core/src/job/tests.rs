//! Transcripts of jobs: what is recorded, and where the job stands then.

use super::plan::Plan;
use super::*;
use crate::command::Command;
use crate::ids::{Epoch, Region, Token};
use crate::workload::{Action, Role};

mod records;
mod walks;

/// `name`, then what it is made of: `u` can be undone, `n` no return, `m` may fail; a digit: attempts (else 1).
pub(super) fn step(text: &str) -> Step {
    let (name, marks) = text.split_once(':').unwrap_or((text, ""));
    let act = |what: &str| Act {
        does: Does::Order {
            region: Region::parse("oslo").unwrap(),
            token: Token::new(1, Epoch(1)),
            action: Action::MarkPoint { name: format!("{what}-{name}") },
            lease: None,
        },
        expect: Expect::Nothing,
    };
    Step {
        name: name.to_owned(),
        act: act("do"),
        undo: marks.contains('u').then(|| act("undo")),
        timeout_seconds: None,
        attempts_max: marks.chars().find_map(|mark| mark.to_digit(10)).unwrap_or(1),
        weight: 2,
        no_return: marks.contains('n'),
        may_fail: marks.contains('m'),
        wait_out_ms: None,
    }
}

pub(super) fn job_of(plan: Plan, command: Command) -> Job {
    Job {
        id: JobId("01J".into()),
        item: ItemId::parse("machine/web-1").unwrap(),
        command,
        asked_by: "ana".into(),
        kind_version: KIND_VERSION,
        steps: plan.steps,
        on_turn: plan.on_turn,
        on_unwound: plan.on_unwound,
        state: JobState::Running,
        cursor: 0,
        attempt: 0,
        started: false,
        notes: Vec::new(),
        residue: Vec::new(),
        skipped: Vec::new(),
        created_at: Moment(1),
        updated_at: Moment(1),
        executor: None,
        executor_epoch: 0,
        log_len: 0,
    }
}

/// A job of these steps that records `failover-undone` when it turns and `protect-undone` when it has unwound.
pub(super) fn job(steps: &str) -> Job {
    let plan = Plan {
        steps: steps.split_whitespace().map(step).collect(),
        on_turn: Some(Milestone::FailoverUndone),
        on_unwound: Some(Milestone::ProtectUndone),
    };
    job_of(plan, Command::Commit)
}

/// The record that a word of a script stands for.
pub(super) fn happened(job: &Job, what: &str) -> Happened {
    let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
    let step = job.step_name();
    let half = match &job.state {
        JobState::Unwinding { .. } => Half::Undo,
        _ => Half::Do,
    };
    let failed = |fatal| Happened::AttemptFailed { step: step.clone(), half, what: "no".into(), fatal };
    let (who, reason) = ("ana".to_owned(), "so".to_owned());
    match word {
        "start" => Happened::Started { step, half, attempt: job.attempt + 1 },
        "ok" => Happened::Verified { step, half },
        "fail" => failed(false),
        "fatal" => failed(true),
        "cancel" => Happened::CancelAsked { who },
        "retry" => Happened::Retry { who },
        "skip" => Happened::Skip { who, reason },
        "abandon" => Happened::Abandon { who, reason },
        "unknown" => Happened::UnknownVersion,
        "claim" => Happened::Claimed { executor: "oslo-1".into() },
        "start-of" => Happened::Started { step: rest.to_owned(), half, attempt: 1 },
        _ => panic!("the script says {what:?}"),
    }
}

/// `STATE STEP ATTEMPT`, `*` when the effect was started; ended jobs with their residue.
fn show(job: &Job) -> String {
    let mut text = job.state.as_str().to_owned();
    match &job.state {
        JobState::Failed { residue, .. } | JobState::Cancelled { residue } => {
            if !residue.is_empty() {
                text += &format!(" left: {}", residue.join("; "));
            }
        }
        JobState::Succeeded | JobState::Abandoned { .. } => {}
        _ => {
            text += &format!(" {} {}", job.step_name(), job.attempt);
            if job.started {
                text += "*";
            }
        }
    }
    text
}

/// Runs a script of `what -> job, +milestone`; `no:` begins a refusal.
fn check(mut job: Job, script: &str) -> Job {
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (what, expected) = line.split_once("->").unwrap();
        let (what, expected) = (what.trim(), expected.trim());
        let before = job.clone();
        let shown = match job.apply(&happened(&job, what), Moment(2)) {
            Ok((next, milestone)) => {
                job = next;
                let milestone = milestone.map(|milestone| format!(", +{milestone:?}")).unwrap_or_default();
                format!("{}{milestone}", show(&job))
            }
            Err(refusal) => format!("no: {refusal}"),
        };
        let fits = if expected.starts_with("no:") { shown.starts_with(expected) } else { shown == expected };
        assert!(fits, "in the line\n  {line}\nthe job was {}\nand then\n  {shown}", show(&before));
        assert_eq!(job.log_len, before.log_len + u64::from(job != before), "each record counts once");
    }
    job
}

#[test]
fn a_job_goes_forward_step_by_step() {
    let done = check(
        job("a:u b c:n"),
        "claim -> running a 0
         ok    -> no: job 01J: Do of step a does not fit
         start -> running a 1*
         start -> no: job 01J: Do of step a does not fit
         start-of b -> no: job 01J: Do of step b does not fit
         ok    -> running b 0
         start -> running b 1*
         ok    -> running c 0
         start -> running c 1*
         ok    -> succeeded
         start -> no: job 01J
         claim -> no: job 01J has ended (succeeded): there is nothing to claim
         cancel -> no: job 01J has ended (succeeded): there is nothing to cancel
         retry -> no: job 01J has ended (succeeded): there is nothing to retry
         unknown -> no: job 01J has ended",
    );
    assert_eq!((done.executor.as_deref(), done.executor_epoch), (Some("oslo-1"), 1));
    assert!((done.progress() - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_crash_between_start_and_end_repeats_the_effect_under_the_same_key() {
    let started = check(job("a:u b"), "start -> running a 1*\nclaim -> running a 1*");
    let Next::Perform { key, half, .. } = started.next() else { panic!("{:?}", started.next()) };
    assert_eq!((key.0.as_str(), half), ("01J/a/do", Half::Do));
    assert_eq!(started.next(), job_with_claim(&started).next(), "another executor does the same");
}

fn job_with_claim(job: &Job) -> Job {
    job.apply(&Happened::Claimed { executor: "rome-1".into() }, Moment(3)).unwrap().0
}

#[test]
fn a_step_is_tried_as_often_as_it_may_be_then_the_job_unwinds() {
    check(
        job("a:u b c:u2 d"),
        "start -> running a 1*
         ok    -> running b 0
         start -> running b 1*
         ok    -> running c 0
         start -> running c 1*
         fail  -> running c 1
         start -> running c 2*
         fail  -> unwinding c 0, +FailoverUndone
         cancel -> no: job 01J: cancel of a job that is already unwinding
         start -> unwinding c 1*
         fail  -> unwinding c 1
         start -> unwinding c 2*
         ok    -> unwinding a 0
         start -> unwinding a 1*
         ok    -> failed, +ProtectUndone",
    );
}

#[test]
fn a_fatal_failure_is_not_tried_again() {
    check(
        job("a:u9 b"),
        "start -> running a 1*
         fatal -> unwinding a 0, +FailoverUndone
         start -> unwinding a 1*
         fatal -> failed left: a: no, +ProtectUndone",
    );
}

#[test]
fn a_cancel_undoes_what_was_begun_and_claims_no_more_than_it_has_verified() {
    check(job("a:u b"), "cancel -> cancelled, +FailoverUndone");
    check(
        job("a:u b:u c"),
        "start  -> running a 1*
         ok     -> running b 0
         cancel -> unwinding a 0, +FailoverUndone
         start  -> unwinding a 1*
         ok     -> cancelled, +ProtectUndone",
    );
    check(
        job("a:u b:u c"),
        "start  -> running a 1*
         ok     -> running b 0
         start  -> running b 1*
         cancel -> unwinding b 0, +FailoverUndone
         start  -> unwinding b 1*
         fail   -> unwinding a 0
         start  -> unwinding a 1*
         ok     -> cancelled left: b: no, +ProtectUndone",
    );
}

#[test]
fn after_the_point_of_no_return_there_is_no_cancel_and_no_unwinding() {
    let stuck = "start  -> running a 1*
         ok     -> running b 0
         start  -> running b 1*
         cancel -> no: job 01J is past its point of no return (step b): let it end, then run failback
         fail   -> stuck b 1
         cancel -> no: job 01J is past its point of no return
         start  -> no: job 01J";
    check(
        job("a:u b:n c"),
        &format!(
            "{stuck}\nretry -> running b 1\ncancel -> no: job 01J is past\nstart -> running b 2*\nok -> running c 0\ncancel -> no: job 01J is past\nstart -> running c 1*\nfatal -> stuck c 1\nskip -> succeeded"
        ),
    );
    check(job("a:u b:n c"), &format!("{stuck}\nskip -> running c 0\ncancel -> no: job 01J is past"));
    check(
        job("a:u b:n c"),
        &format!("{stuck}\nabandon -> abandoned\nretry -> no: job 01J has ended (abandoned)"),
    );
}

#[test]
fn before_the_point_of_no_return_begins_the_way_back_is_open() {
    check(
        job("a:u b:n"),
        "start  -> running a 1*
         ok     -> running b 0
         cancel -> unwinding a 0, +FailoverUndone
         start  -> unwinding a 1*
         ok     -> cancelled, +ProtectUndone",
    );
}

#[test]
fn the_verbs_for_stuck_jobs_are_for_stuck_jobs() {
    check(
        job("a:u"),
        "retry   -> no: job 01J is running, not stuck: retry is for stuck jobs
         skip    -> no: job 01J is running, not stuck
         abandon -> no: job 01J is running, not stuck",
    );
}

#[test]
fn a_step_that_may_fail_is_noted_and_passed_over() {
    let done = check(
        job("a:um b"),
        "start -> running a 1*
         fatal -> running b 0
         start -> running b 1*
         ok    -> succeeded",
    );
    assert_eq!(done.skipped, ["a"]);
    check(
        job("a:um b:u c"),
        "start  -> running a 1*
         fail   -> running b 0
         start  -> running b 1*
         fail   -> unwinding b 0, +FailoverUndone
         start  -> unwinding b 1*
         ok     -> unwinding a 0
         start  -> unwinding a 1*
         ok     -> failed, +ProtectUndone",
    );
}

#[test]
fn a_job_of_an_unknown_version_waits_and_keeps_its_direction() {
    check(
        job("a:u b"),
        "unknown -> stuck a 0
         unknown -> stuck a 0
         retry   -> running a 0
         start   -> running a 1*
         unknown -> stuck a 1*
         retry   -> running a 1
         cancel  -> unwinding a 0, +FailoverUndone
         unknown -> stuck a 0
         unknown -> stuck a 0
         cancel  -> no: job 01J: cancel of a job that is already unwinding
         retry   -> unwinding a 0
         start   -> unwinding a 1*
         unknown -> stuck a 1*
         skip    -> cancelled left: a: skipped by ana: so, +ProtectUndone",
    );
    check(job("a:u b"), "unknown -> stuck a 0\ncancel -> cancelled, +FailoverUndone");
    check(job("a:u b"), "unknown -> stuck a 0\nabandon -> abandoned");
}

#[test]
fn progress_is_the_weight_of_what_is_verified() {
    let mut job = job("a b c d");
    job.steps[2].weight = 4;
    let share = |job: &Job| format!("{:.1}", job.progress());
    let mut seen = vec![share(&job)];
    for _ in 0..4 {
        job = check(job.clone(), &format!("start -> running {} 1*", job.step_name()));
        job = job.apply(&happened(&job, "ok"), Moment(2)).unwrap().0;
        seen.push(share(&job));
    }
    assert_eq!(seen, ["0.0", "0.2", "0.4", "0.8", "1.0"]);
}
