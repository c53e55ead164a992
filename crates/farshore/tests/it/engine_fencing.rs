//! Items that fence themselves, and several executors on one store.

use std::sync::Arc;

use farshore::engine::{Control, JobVerb, Options, RenewError};
use farshore_core::command::Command;
use farshore_core::fencing::{FenceTimings, OnControlLoss};
use farshore_core::ids::JobId;
use farshore_core::job::{Job, JobState};
use farshore_core::lifecycle::{Phase, StopProof};
use farshore_core::store::{Store, Transaction, Write};
use farshore_core::workload::Role;
use tokio::time::Instant;

use crate::engine_sim::{
    Bench, create, create_fencing, failover, job_until, jobs_only, protect, region, rested, token,
};

fn named(executor: &str) -> Options {
    Options { executor: executor.to_owned(), ..jobs_only() }
}

async fn protected() -> (Bench, Control) {
    let bench = Bench::with_three_regions();
    let control = bench.control(named("oslo/1")).await;
    bench.play(&control, &[create_fencing(), protect()]).await;
    (bench, control)
}

async fn waits_for_the_source(control: &Control, id: &JobId) -> Job {
    let fencing =
        |job: &Job| job.started && job.steps.get(job.cursor).is_some_and(|step| step.name == "fence");
    job_until(control, id, fencing).await
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fences_itself_and_does_not_answer_is_waited_out() {
    let (bench, control) = protected().await;
    bench.sim.set_down("paris", true);
    let began = Instant::now();
    let job = bench.run(&control, failover()).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.notes);
    assert!(began.elapsed() >= FenceTimings::STANDARD.wait(), "{:?}", began.elapsed());
    let report = bench.item(&control).await.failover.unwrap();
    assert_eq!(report.proof, StopProof::WaitedOut { waited_ms: 21_150 });
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_answers_is_not_waited_for() {
    let (bench, control) = protected().await;
    let began = Instant::now();
    let job = bench.run(&control, failover()).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.notes);
    assert!(began.elapsed() < FenceTimings::STANDARD.wait());
    assert_eq!(bench.item(&control).await.failover.unwrap().proof, StopProof::Acknowledged);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_comes_back_during_the_wait_ends_it() {
    let (bench, control) = protected().await;
    bench.sim.set_down("paris", true);
    let job = control.submit(&bench.item, failover(), "ann", None).await.unwrap();
    waits_for_the_source(&control, &job.id).await;
    let began = Instant::now();
    bench.sim.set_down("paris", false);
    let job = rested(&control, &job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.notes);
    assert!(began.elapsed() < FenceTimings::STANDARD.wait());
    assert_eq!(bench.item(&control).await.failover.unwrap().proof, StopProof::Acknowledged);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_executor_waits_in_full() {
    let (bench, control) = protected().await;
    bench.sim.set_down("paris", true);
    let crash = Arc::new(|node: &str| node.contains("/fence/after-act"));
    control.shutdown().await;
    let first = bench.control(Options { crash_at: Some(crash), ..named("oslo/2") }).await;
    let job = first.submit(&bench.item, failover(), "ann", None).await.unwrap();
    waits_for_the_source(&first, &job.id).await;
    tokio::time::sleep(FenceTimings::STANDARD.wait() / 2).await;
    first.shutdown().await;
    let began = Instant::now();
    let second = bench.control(named("oslo/3")).await;
    let job = rested(&second, &job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.notes);
    assert!(began.elapsed() >= FenceTimings::STANDARD.wait(), "it went on with the wait of another");
    second.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn cancelled_while_revoking_the_old_region_gets_the_next_epoch() {
    let (bench, control) = protected().await;
    bench.sim.set_down("paris", true);
    let job = control.submit(&bench.item, failover(), "ann", None).await.unwrap();
    waits_for_the_source(&control, &job.id).await;
    bench.sim.set_down("paris", false);
    control.steer(&job.id, JobVerb::Cancel, "ben").await.unwrap();
    let job = rested(&control, &job.id).await;
    let item = bench.item(&control).await;
    if job.state == (JobState::Cancelled { residue: Vec::new() }) {
        assert_eq!((item.epoch, &item.source), (token(3).epoch, &region("paris")));
        assert_eq!(bench.sim.copy("paris", &bench.item).unwrap().role, Role::Active);
    } else {
        // Paris answered before the word was read.
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.notes);
    }
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn only_a_stored_right_is_renewed() {
    let (bench, control) = protected().await;
    let renew = |name: &str, epoch| {
        let (control, item, name) = (control.clone(), bench.item.clone(), region(name));
        async move { control.renew(&name, &item, token(epoch)).await }
    };
    assert_eq!(renew("paris", 1).await, Ok(()));
    assert_eq!(renew("oslo", 1).await, Err(RenewError::Revoked { current: token(1) }));
    bench.sim.set_down("paris", true);
    let job = control.submit(&bench.item, failover(), "ann", None).await.unwrap();
    assert_eq!(renew("paris", 1).await, Err(RenewError::Revoked { current: token(2) }));
    assert_eq!(
        renew("oslo", 2).await,
        Err(RenewError::Revoked { current: token(2) }),
        "not before the wait is over"
    );
    rested(&control, &job.id).await;
    assert_eq!(renew("oslo", 2).await, Ok(()));
    assert_eq!(renew("paris", 1).await, Err(RenewError::Revoked { current: token(2) }));
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_item_that_holds_is_never_waited_out() {
    let bench = Bench::with_three_regions();
    let control = bench.control(jobs_only()).await;
    bench.play(&control, &[create(), protect()]).await;
    bench.sim.set_down("paris", true);
    let error = control.submit(&bench.item, failover(), "ann", None).await.unwrap_err();
    assert!(error.to_string().contains("--source-is-down"), "{error}");
    assert_eq!(bench.item(&control).await.phase, Phase::Protected { drill: None });
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn another_node_goes_on_with_the_jobs_of_a_dead_one() {
    let bench = Bench::new();
    let survivor = bench.control(named("oslo/1")).await;
    let crash = Arc::new(|node: &str| node.contains("/replicate/after-act"));
    let dying = bench.control(Options { crash_at: Some(crash), ..named("paris/1") }).await;
    bench.play(&dying, &[create()]).await;
    let job = dying.submit(&bench.item, protect(), "ann", None).await.unwrap();
    job_until(&survivor, &job.id, |job| {
        job.steps.get(job.cursor).is_some_and(|step| step.name == "replicate")
    })
    .await;
    // It counts no longer, and has not said good-bye.
    dying.vanish().await;
    let job = rested(&survivor, &job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.notes);
    assert_eq!(job.executor.as_deref(), Some("oslo/1"));
    survivor.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_of_a_node_that_lives_are_left_to_it() {
    let bench = Bench::new();
    let first = bench.control(named("paris/1")).await;
    bench.play(&first, &[create()]).await;
    bench.sim.set_link_down(true);
    let job = first.submit(&bench.item, protect(), "ann", None).await.unwrap();
    job_until(&first, &job.id, |job| job.steps.get(job.cursor).is_some_and(|step| step.name == "seed")).await;
    let second = bench.control(named("oslo/1")).await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(second.job(&job.id).await.unwrap().unwrap().executor.as_deref(), Some("paris/1"));
    assert_eq!(second.executors_alive(), ["oslo", "paris"]);
    // A word that is given to one node reaches the other.
    second.steer(&job.id, JobVerb::Cancel, "ben").await.unwrap();
    let job = rested(&second, &job.id).await;
    assert_eq!(job.state, JobState::Cancelled { residue: Vec::new() });
    assert_eq!(job.executor.as_deref(), Some("paris/1"));
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_region_is_failed_over_without_being_asked_where_that_is_allowed() {
    let bench = Bench::with_three_regions();
    let control = bench.control(Options { executor: "oslo/1".to_owned(), ..Options::default() }).await;
    let automatic = match create_fencing() {
        Command::Create { region, spec, on_control_loss, .. } => {
            Command::Create { region, spec, on_control_loss, automatic: true }
        }
        other => other,
    };
    bench.play(&control, &[automatic, protect()]).await;
    bench.sim.set_down("paris", true);
    let item = bench.until(&control, |item| item.source == region("oslo")).await;
    let report = item.failover.unwrap();
    assert!(matches!(report.proof, StopProof::WaitedOut { .. }), "{report:?}");
    let asked = control.jobs(Some(&bench.item)).await.unwrap().pop().unwrap().asked_by;
    assert_eq!(asked, "control-plane (automatic failover)");
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn automatic_failover_needs_an_item_that_fences_itself() {
    let bench = Bench::with_three_regions();
    let control = bench.control(jobs_only()).await;
    let holds = Command::Create {
        region: region("paris"),
        spec: serde_json::json!({}),
        on_control_loss: OnControlLoss::Hold,
        automatic: true,
    };
    let error = control.submit(&bench.item, holds, "ann", None).await.unwrap_err();
    assert!(error.to_string().contains("automatic failover needs on_control_loss"), "{error}");
    control.shutdown().await;
}

/// The store as a restored backup leaves it: everything as it was, and the next incarnation.
async fn restored(bench: &Bench) {
    let store: &dyn Store = &bench.store;
    let meta = store.get("meta").await.unwrap().unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&meta.value).unwrap();
    value["incarnation"] = 2.into();
    let write = Write::Put("meta".to_owned(), serde_json::to_vec(&value).unwrap());
    store.commit(Transaction { compares: Vec::new(), writes: vec![write] }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_restore_nobody_is_confirmed_while_a_region_is_silent() {
    let bench = Bench::new();
    let control = bench.control(jobs_only()).await;
    bench.play(&control, &[create(), protect()]).await;
    control.shutdown().await;
    restored(&bench).await;
    bench.sim.change("paris", &bench.item, |copy| copy.role = Role::Unconfirmed);
    bench.sim.set_down("oslo", true);
    let control = bench.control(Options::default()).await;
    let item = bench.until(&control, |item| matches!(item.phase, Phase::NeedsUser { .. })).await;
    assert!(
        matches!(&item.phase, Phase::NeedsUser { why } if why.contains("oslo does not answer")),
        "{item:?}"
    );
    assert_eq!(bench.sim.copy("paris", &bench.item).unwrap().role, Role::Unconfirmed);
    let word = Command::Adopt { region: region("paris"), above: token(0).epoch, others_are_down: true };
    bench.play(&control, &[word]).await;
    assert_eq!(bench.sim.copy("paris", &bench.item).unwrap().role, Role::Active);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restore_the_source_is_confirmed_when_all_regions_have_answered() {
    let bench = Bench::new();
    let control = bench.control(jobs_only()).await;
    bench.play(&control, &[create(), protect()]).await;
    control.shutdown().await;
    restored(&bench).await;
    bench.sim.change("paris", &bench.item, |copy| copy.role = Role::Unconfirmed);
    let control = bench.control(Options::default()).await;
    bench.until(&control, |item| item.vouched == 2).await;
    while bench.sim.copy("paris", &bench.item).unwrap().role != Role::Active {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_has_fenced_itself_serves_again_when_nobody_else_was_given_the_right() {
    let (bench, control) = protected().await;
    control.shutdown().await;
    bench.sim.change("paris", &bench.item, |copy| copy.role = Role::Fenced);
    let control = bench.control(Options { executor: "oslo/1".to_owned(), ..Options::default() }).await;
    while bench.sim.copy("paris", &bench.item).unwrap().role != Role::Active {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    control.shutdown().await;
}
