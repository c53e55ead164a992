//! What is taken and what is refused, and what people say to jobs under way.

use farshore::engine::{Control, Idempotency, JobVerb, Options, SubmitError, sha256_hex};
use farshore_core::command::{Command, Verb};
use farshore_core::fencing::OnControlLoss;
use farshore_core::ids::{ItemId, JobId};
use farshore_core::job::JobState;
use farshore_core::lifecycle::StopProof;
use farshore_core::moment::Moment;
use farshore_core::store::{Store, Transaction, Write};
use farshore_core::workload::{PointChoice, ReplicationMode, Role};
use serde_json::json;

use crate::engine_sim::{
    Bench, change_point, create, failover, job_until, jobs_only, planned, protect, region, rested,
    source_is_down, test_failover,
};

async fn protected() -> (Bench, Control) {
    let bench = Bench::new();
    let control = bench.control(jobs_only()).await;
    bench.play(&control, &[create(), protect()]).await;
    (bench, control)
}

async fn refused(bench: &Bench, control: &Control, command: Command) -> SubmitError {
    let before = bench.store.list("").await.unwrap();
    let error = control.submit(&bench.item, command, "ann", None).await.unwrap_err();
    assert_eq!(bench.store.list("").await.unwrap(), before, "a refusal changes nothing: {error}");
    error
}

#[tokio::test(start_paused = true)]
async fn refusals_say_how_to_mend_it_and_change_nothing() {
    let (bench, control) = protected().await;
    let at = |moment| Command::ChangePoint { point: PointChoice::At(Moment(moment)) };
    let test_at = |point| Command::TestFailover { point };
    let rows = [
        (create(), "the name machine/web-1 is taken"),
        (Command::Commit, "possible: test-failover, failover, mark-point, disable"),
        (Command::Failback, "is at home in paris"),
        (test_at(PointChoice::Id("p99".into())), "there is no recovery point p99; the newest: p10 of "),
        (test_at(PointChoice::At(Moment(3))), "the oldest is p10 of"),
        (Command::MarkPoint { name: " ".into() }, "a recovery point's name has 1 to 64 bytes"),
        (
            Command::Failover { planned: true, point: PointChoice::Latest, source_is_down: true },
            "leave out --planned",
        ),
        (
            Command::Failover { planned: true, point: PointChoice::Id("p10".into()), source_is_down: false },
            "goes to the latest point",
        ),
    ];
    for (command, expected) in rows {
        let error = refused(&bench, &control, command.clone()).await.to_string();
        assert!(error.contains(expected), "{command:?}: {error}");
    }
    bench.play(&control, &[failover()]).await;
    let error = refused(&bench, &control, at(3)).await.to_string();
    assert!(error.contains("the oldest is p10 of"), "{error}");
    let error = refused(&bench, &control, change_point("p99")).await;
    assert!(matches!(error, SubmitError::Refused { code: "no-such-point", .. }), "{error}");
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn unknown_and_silent_regions_are_refused() {
    let bench = Bench::new();
    let control = bench.control(jobs_only()).await;
    let elsewhere = Command::Create {
        region: region("atlantis"),
        spec: json!({}),
        on_control_loss: OnControlLoss::Hold,
        automatic: false,
    };
    let error = refused(&bench, &control, elsewhere).await;
    assert_eq!(error.to_string(), "there is no region atlantis; known regions: oslo, paris");
    let fence = Command::Create {
        region: region("paris"),
        spec: json!({}),
        on_control_loss: OnControlLoss::Fence,
        automatic: false,
    };
    let error = refused(&bench, &control, fence).await.to_string();
    assert!(error.contains("needs 3 failure domains; this control plane knows 2"), "{error}");
    let error = refused(&bench, &control, protect()).await;
    assert!(matches!(error, SubmitError::NotFound { .. }), "{error}");
    bench.sim.set_down("paris", true);
    let error = refused(&bench, &control, create()).await;
    assert!(matches!(error, SubmitError::Refused { code: "region-unreachable", .. }), "{error}");
    bench.sim.set_down("paris", false);
    bench.play(&control, &[create()]).await;
    let own = Command::Protect { target: region("paris"), mode: ReplicationMode::Async };
    let error = refused(&bench, &control, own).await;
    assert!(matches!(error, SubmitError::Refused { code: "target-is-source", .. }), "{error}");
    bench.sim.set_down("oslo", true);
    let error = refused(&bench, &control, protect()).await;
    assert!(matches!(error, SubmitError::Refused { code: "region-unreachable", .. }), "{error}");
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_source_a_failover_needs_the_operators_word_which_is_kept() {
    let (bench, control) = protected().await;
    bench.sim.set_down("paris", true);
    let error = refused(&bench, &control, failover()).await.to_string();
    assert!(error.contains("repeat with --source-is-down (this is recorded)"), "{error}");
    let error = refused(&bench, &control, planned()).await.to_string();
    assert!(error.contains("run failover --source-is-down"), "{error}");
    bench.play(&control, &[source_is_down()]).await;
    let item = bench.item(&control).await;
    assert!(matches!(&item.words[..], [StopProof::OperatorsWord { who, .. }] if who == "ann"));
    let audit = control.audit(100).await.unwrap();
    assert!(audit.iter().any(|entry| entry.what.contains("with the word that its source is down")));
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_answers_is_fenced_whatever_the_operator_says() {
    let (bench, control) = protected().await;
    bench.play(&control, &[source_is_down()]).await;
    assert_eq!(bench.sim.copy("paris", &bench.item).unwrap().role, Role::Fenced);
    let item = bench.item(&control).await;
    assert_eq!(item.words, Vec::new(), "its own word is better");
    assert_eq!(item.failover.unwrap().proof, StopProof::Acknowledged);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn lost_writes_are_dropped_only_after_their_region_follows() {
    let bench = Bench::new();
    let control = bench.control(Options::default()).await;
    bench.play(&control, &[create(), protect()]).await;
    bench.sim.set_link_down(true);
    bench.sim.write(&bench.item, 3);
    bench.play(&control, &[failover(), Command::Commit]).await;
    bench.sim.set_link_down(false);
    bench.until(&control, |item| item.divergence.is_some()).await;
    let error = control.submit(&bench.item, Command::DropDivergence, "ann", None).await.unwrap_err();
    assert!(matches!(error, SubmitError::Refused { code: "not-reprotected", .. }), "{error}");
    bench.play(&control, &[Command::Reprotect, Command::DropDivergence]).await;
    assert_eq!(bench.item(&control).await.divergence, None);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_target_nothing_is_stopped() {
    let (bench, control) = protected().await;
    bench.sim.set_down("oslo", true);
    for command in [failover(), planned(), test_failover()] {
        let error = refused(&bench, &control, command).await;
        assert!(matches!(error, SubmitError::Refused { code: "region-unreachable", .. }), "{error}");
    }
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn one_key_makes_one_job() {
    let bench = Bench::new();
    let control = bench.control(jobs_only()).await;
    let key =
        |body: &str| Some(Idempotency { key: "k-1".to_owned(), body_hash: sha256_hex(body.as_bytes()) });
    let first = control.submit(&bench.item, create(), "ann", key("a")).await.unwrap();
    let again = control.submit(&bench.item, create(), "ann", key("a")).await.unwrap();
    assert_eq!(first.id, again.id);
    let job = rested(&control, &first.id).await;
    assert_eq!(job.state, JobState::Succeeded);
    let later = control.submit(&bench.item, create(), "ann", key("a")).await.unwrap();
    assert_eq!((later.id, later.state), (first.id, JobState::Succeeded));
    let error = control.submit(&bench.item, create(), "ann", key("b")).await.unwrap_err();
    assert!(matches!(error, SubmitError::IdempotencyMismatch { .. }), "{error}");
    let bad = Some(Idempotency { key: "a b".to_owned(), body_hash: String::new() });
    let error = control.submit(&bench.item, create(), "ann", bad).await.unwrap_err();
    assert!(matches!(error, SubmitError::Invalid { .. }), "{error}");
    assert_eq!(control.jobs(None).await.unwrap().len(), 1);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn of_many_submitters_one_gets_the_item() {
    let bench = Bench::new();
    let control = bench.control(jobs_only()).await;
    bench.play(&control, &[create()]).await;
    bench.sim.set_link_down(true);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (control, item) = (control.clone(), bench.item.clone());
        tasks.spawn(async move { control.submit(&item, protect(), "ann", None).await });
    }
    let answers = tasks.join_all().await;
    let taken: Vec<JobId> =
        answers.iter().filter_map(|answer| Some(answer.as_ref().ok()?.id.clone())).collect();
    let [taken] = &taken[..] else { panic!("one job, not {taken:?}") };
    for error in answers.into_iter().filter_map(Result::err) {
        assert_eq!(error, SubmitError::Busy { job: taken.clone(), verb: Verb::Protect });
    }
    bench.sim.set_link_down(false);
    assert_eq!(rested(&control, taken).await.state, JobState::Succeeded);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_of_different_items_do_not_wait_for_each_other() {
    let bench = Bench::new();
    let control = bench.control(jobs_only()).await;
    bench.play(&control, &[create()]).await;
    bench.sim.set_link_down(true);
    let waits = control.submit(&bench.item, protect(), "ann", None).await.unwrap();
    let other = Bench { item: ItemId::parse("machine/db-1").unwrap(), ..bench.clone() };
    other.play(&control, &[create(), Command::Delete]).await;
    assert_eq!(control.item(&other.item).await.unwrap(), None);
    assert_eq!(control.job(&waits.id).await.unwrap().unwrap().state, JobState::Running);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn cancel_before_the_point_of_no_return_restores_what_was() {
    let (bench, control) = protected().await;
    bench.sim.set_link_down(true);
    bench.sim.write(&bench.item, 3);
    let job = control.submit(&bench.item, planned(), "ann", None).await.unwrap();
    let drains = |job: &farshore_core::job::Job| job.started && job.steps[job.cursor].name == "drain";
    job_until(&control, &job.id, drains).await;
    assert_eq!(bench.sim.copy("paris", &bench.item).unwrap().role, Role::Fenced);
    control.steer(&job.id, JobVerb::Cancel, "ben").await.unwrap();
    let job = rested(&control, &job.id).await;
    assert_eq!(job.state, JobState::Cancelled { residue: Vec::new() });
    let (item, paris) = (bench.item(&control).await, bench.sim.copy("paris", &bench.item).unwrap());
    assert_eq!((paris.role, paris.token.epoch), (Role::Active, item.epoch));
    assert_eq!(item.phase.as_str(), "Protected");
    let error = control.steer(&job.id, JobVerb::Cancel, "ben").await.unwrap_err();
    assert!(matches!(error, SubmitError::Refused { code: "job-ended", .. }), "{error}");
    control.shutdown().await;
}

/// A failover that is stuck past its point of no return.
async fn stuck_failover() -> (Bench, Control, JobId) {
    let (bench, control) = protected().await;
    bench.sim.fail_at("/promote/do");
    let job = bench.run(&control, failover()).await;
    assert!(matches!(job.state, JobState::Stuck { .. }), "{:?}", job.state);
    (bench, control, job.id)
}

#[tokio::test(start_paused = true)]
async fn cancel_after_the_point_of_no_return_is_refused() {
    let (_bench, control, job) = stuck_failover().await;
    let error = control.steer(&job, JobVerb::Cancel, "ben").await.unwrap_err();
    assert!(
        matches!(&error, SubmitError::Refused { code: "past-no-return", why, .. } if why.contains("failback"))
    );
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_failover_can_be_asked_for_again() {
    let (bench, control, job) = stuck_failover().await;
    let error = control.steer(&job, JobVerb::Abandon { reason: " ".into() }, "ben").await.unwrap_err();
    assert!(matches!(error, SubmitError::Invalid { .. }), "{error}");
    control.steer(&job, JobVerb::Abandon { reason: "disk full".into() }, "ben").await.unwrap();
    assert!(matches!(rested(&control, &job).await.state, JobState::Abandoned { .. }));
    bench.sim.mend();
    bench.play(&control, &[failover()]).await;
    let item = bench.item(&control).await;
    assert_eq!((item.phase.as_str(), item.source.as_str()), ("FailedOver", "oslo"));
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_failover_asked_for_again_and_cancelled_at_once_leaves_the_item_as_it_was() {
    let (bench, control, job) = stuck_failover().await;
    control.steer(&job, JobVerb::Abandon { reason: "wait".into() }, "ben").await.unwrap();
    let job = control.submit(&bench.item, failover(), "ann", None).await.unwrap();
    // The job has not been begun: its task has not run yet.
    let job = control.steer(&job.id, JobVerb::Cancel, "ann").await.unwrap();
    assert_eq!(job.state, JobState::Cancelled { residue: Vec::new() });
    assert_eq!(bench.item(&control).await.next_actions(), vec![Verb::Failover]);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stuck_step_is_skipped_with_a_reason_but_a_record_is_not() {
    let (bench, control) = protected().await;
    bench.sim.fail_at("/remove-replica/do");
    let job = bench.run(&control, Command::Disable).await;
    assert!(matches!(job.state, JobState::Stuck { .. }));
    control.steer(&job.id, JobVerb::Skip { reason: "oslo burnt down".into() }, "ben").await.unwrap();
    let job = rested(&control, &job.id).await;
    assert_eq!((job.state, job.skipped), (JobState::Succeeded, vec!["remove-replica".to_owned()]));
    assert_eq!(bench.item(&control).await.phase.as_str(), "Unprotected");
    let audit = control.audit(100).await.unwrap();
    assert!(audit.iter().any(|entry| entry.who == "ben" && entry.what.contains("oslo burnt down")));
    control.shutdown().await;

    let (bench, control, job) = stuck_failover().await;
    bench.sim.mend();
    control.steer(&job, JobVerb::Skip { reason: "try".into() }, "ben").await.unwrap();
    let job = rested(&control, &job).await;
    assert!(
        matches!(&job.state, JobState::Stuck { why, .. } if why.contains("not seen to serve")),
        "{:?}",
        job.state
    );
    let error = control.steer(&job.id, JobVerb::Skip { reason: "try".into() }, "ben").await.unwrap_err();
    assert!(matches!(error, SubmitError::Refused { code: "record-step", .. }), "{error}");
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_lost_its_claim_stops() {
    let bench = Bench::new();
    let first = bench.control(jobs_only()).await;
    bench.play(&first, &[create()]).await;
    bench.sim.set_link_down(true);
    let job = first.submit(&bench.item, protect(), "ann", None).await.unwrap();
    job_until(&first, &job.id, |job| job.started && job.steps[job.cursor].name == "seed").await;
    let second = bench.control(jobs_only()).await;
    let claimed = job_until(&second, &job.id, |job| job.executor_epoch == 2).await;
    bench.sim.set_link_down(false);
    let ended = rested(&first, &job.id).await;
    assert_eq!((ended.state, ended.executor), (JobState::Succeeded, claimed.executor));
    let log = first.job_log(&job.id).await.unwrap();
    let epochs: Vec<u64> = log.iter().map(|entry| entry.executor_epoch).collect();
    assert!(epochs.is_sorted() && epochs.last() == Some(&2), "the first writes nothing more: {epochs:?}");
    assert_eq!(log.len() as u64, ended.log_len, "the journal has no gaps");
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_record_stops_no_other_job() {
    let bench = Bench::new();
    let control = bench.control(jobs_only()).await;
    bench.play(&control, &[create()]).await;
    bench.sim.set_link_down(true);
    let waits = control.submit(&bench.item, protect(), "ann", None).await.unwrap();
    job_until(&control, &waits.id, |job| job.started).await;
    let other = Bench { item: ItemId::parse("machine/db-1").unwrap(), ..bench.clone() };
    other.play(&control, &[create()]).await;
    let future = control.submit(&other.item, protect(), "ann", None).await.unwrap();
    job_until(&control, &future.id, |job| job.started && job.steps[job.cursor].name == "seed").await;
    control.shutdown().await;
    let key = format!("jobs/{}", future.id);
    let record = bench.store.get(&key).await.unwrap().unwrap().value;
    let mut record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    record["kind_version"] = json!(99);
    let writes = vec![
        Write::Put("jobs/00000000000000000000000000".into(), b"{\"garbage".to_vec()),
        Write::Put(key, serde_json::to_vec(&record).unwrap()),
    ];
    bench.store.commit(Transaction { compares: Vec::new(), writes }).await.unwrap();
    bench.sim.set_link_down(false);
    let control = bench.control(jobs_only()).await;
    assert_eq!(rested(&control, &waits.id).await.state, JobState::Succeeded);
    let future = rested(&control, &future.id).await;
    assert!(matches!(&future.state, JobState::Stuck { why, .. } if why.contains("plan version 99")));
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_audit_is_one_chain_though_two_write_it() {
    let bench = Bench::new();
    let (first, second) = (bench.control(jobs_only()).await, bench.control(jobs_only()).await);
    let mut tasks = tokio::task::JoinSet::new();
    for (number, control) in [&first, &second].into_iter().cycle().take(10).enumerate() {
        let item = ItemId::parse(&format!("machine/m-{number}")).unwrap();
        let (control, bench) = (control.clone(), Bench { item, ..bench.clone() });
        tasks.spawn(async move { bench.play(&control, &[create(), Command::Delete]).await });
    }
    tasks.join_all().await;
    let audit = first.audit(usize::MAX).await.unwrap();
    assert!(audit.len() >= 40);
    let mut previous = sha256_hex(b"");
    for entry in &audit {
        assert_eq!((&entry.previous, &entry.hash), (&previous, &entry.expected_hash()));
        previous = entry.hash.clone();
    }
    first.shutdown().await;
    second.shutdown().await;
}
