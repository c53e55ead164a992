//! Items of a kind that two regions may serve at once: failed over and brought home without being asked.

use std::time::Duration;

use farshore::engine::{Control, Options};
use farshore_core::command::{Command, Verb};
use farshore_core::fencing::OnControlLoss;
use farshore_core::job::{Job, JobState};
use farshore_core::lifecycle::{Item, Phase, StopProof};
use farshore_core::workload::Role;
use tokio::time::Instant;

use crate::engine_sim::{Bench, failover, jobs_only, planned, protect, region, rested};

const FAILOVER: &str = "control-plane (automatic failover)";
const RETURN: &str = "control-plane (automatic return)";

fn create(automatic: bool) -> Command {
    Command::Create {
        region: region("paris"),
        spec: serde_json::json!({}),
        on_control_loss: OnControlLoss::Hold,
        automatic,
    }
}

fn options() -> Options {
    Options { executor: "oslo/1".to_owned(), ..Options::default() }
}

/// At home in paris, protected to oslo, where the only control node is.
async fn protected(options: Options) -> (Bench, Control) {
    let bench = Bench::with_hub_seen_from("oslo");
    let control = bench.control(options).await;
    bench.play(&control, &[create(true), protect()]).await;
    (bench, control)
}

fn is_home(item: &Item) -> bool {
    item.source == region("paris") && item.phase == Phase::Protected { drill: None }
}

async fn story(bench: &Bench, control: &Control) -> Vec<(Verb, String)> {
    let jobs = control.jobs(Some(&bench.item)).await.unwrap();
    jobs.into_iter().skip(2).map(|job| (job.verb(), job.asked_by)).collect()
}

async fn newest(bench: &Bench, control: &Control) -> Job {
    control.jobs(Some(&bench.item)).await.unwrap().pop().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_hub_needs_nobodys_word_to_be_failed_over() {
    let (bench, control) = protected(jobs_only()).await;
    bench.sim.set_down("paris", true);
    let began = Instant::now();
    let job = bench.run(&control, failover()).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.notes);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let item = bench.item(&control).await;
    assert_eq!(item.failover.unwrap().proof, StopProof::Shared);
    assert!(item.words.is_empty());
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_answers_is_fenced_all_the_same() {
    let (bench, control) = protected(jobs_only()).await;
    bench.play(&control, &[failover()]).await;
    assert_eq!(bench.item(&control).await.failover.unwrap().proof, StopProof::Acknowledged);
    assert_eq!(bench.sim.copy("paris", &bench.item).unwrap().role, Role::Fenced);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_planned_failover_of_a_hub_still_needs_its_source() {
    let (bench, control) = protected(jobs_only()).await;
    bench.sim.set_down("paris", true);
    let error = control.submit(&bench.item, planned(), "ann", None).await.unwrap_err();
    assert!(error.to_string().contains("so it cannot be stopped first"), "{error}");
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_is_not_automatic_is_left_alone() {
    let bench = Bench::with_hub_seen_from("oslo");
    let control = bench.control(options()).await;
    bench.play(&control, &[create(false), protect()]).await;
    bench.sim.set_down("paris", true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.play(&control, &[failover()]).await;
    bench.sim.set_down("paris", false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.item(&control).await.phase, Phase::FailedOver);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_region_is_failed_over_and_gone_home_to_when_it_is_back() {
    let (bench, control) = protected(options()).await;
    let began = Instant::now();
    bench.sim.set_down("paris", true);
    bench.until(&control, |item| item.phase == Phase::FailedOver).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.item(&control).await.phase, Phase::FailedOver, "nothing is done while it is away");
    let back = Instant::now();
    bench.sim.set_down("paris", false);
    bench.until(&control, is_home).await;
    assert!(back.elapsed() >= Duration::from_secs(5), "{:?}", back.elapsed());
    let by = |verb, who: &str| (verb, who.to_owned());
    assert_eq!(
        story(&bench, &control).await,
        [
            by(Verb::Failover, FAILOVER),
            by(Verb::Commit, RETURN),
            by(Verb::Reprotect, RETURN),
            by(Verb::Failback, RETURN),
            by(Verb::Commit, RETURN),
            by(Verb::Reprotect, RETURN),
        ]
    );
    assert_eq!(bench.sim.copy("oslo", &bench.item).unwrap().role, Role::Target);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_person_moved_on_purpose_stays_there() {
    let (bench, control) = protected(options()).await;
    bench.play(&control, &[planned()]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.item(&control).await.phase, Phase::FailedOver);
    bench.play(&control, &[Command::Commit, Command::Reprotect]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let item = bench.item(&control).await;
    assert_eq!((item.source, item.phase), (region("oslo"), Phase::Protected { drill: None }));
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn home_is_lost_again_while_it_is_being_brought_up_to_date() {
    let (bench, control) = protected(options()).await;
    bench.sim.set_down("paris", true);
    bench.until(&control, |item| item.phase == Phase::FailedOver).await;
    // What reprotect waits for does not come until the region dies again.
    bench.sim.set_link_down(true);
    bench.sim.set_down("paris", false);
    bench.until(&control, |item| item.phase == Phase::Reprotecting).await;
    bench.sim.set_down("paris", true);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let item = bench.item(&control).await;
    assert_eq!((item.source, item.phase), (region("oslo"), Phase::Reprotecting), "oslo goes on serving");
    bench.sim.set_link_down(false);
    bench.sim.set_down("paris", false);
    bench.until(&control, is_home).await;
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn home_is_lost_again_before_anything_was_given_back_to_it() {
    let (bench, control) = protected(options()).await;
    bench.sim.set_down("paris", true);
    bench.until(&control, |item| item.phase == Phase::FailedOver).await;
    bench.sim.set_down("paris", false);
    bench.until(&control, |item| is_away(item) && item.phase == Phase::Protected { drill: None }).await;
    // The link is cut, so that the failback waits for what was written, with oslo fenced.
    bench.sim.set_link_down(true);
    bench.sim.write(&bench.item, 3);
    bench.until(&control, |item| matches!(item.phase, Phase::FailingOver { .. })).await;
    bench.sim.set_down("paris", true);
    let given_up = newest(&bench, &control).await;
    let given_up = rested(&control, &given_up.id).await;
    assert_eq!(given_up.state, JobState::Cancelled { residue: Vec::new() }, "{:?}", given_up.notes);
    assert_eq!(bench.sim.copy("oslo", &bench.item).unwrap().role, Role::Active, "it serves again");
    bench.sim.set_link_down(false);
    bench.sim.set_down("paris", false);
    bench.until(&control, is_home).await;
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_home_that_will_not_open_is_left_again_and_tried_once_a_minute() {
    let (bench, control) = protected(options()).await;
    bench.sim.set_down("paris", true);
    bench.until(&control, |item| item.phase == Phase::FailedOver).await;
    bench.sim.fail_at("/promote/do");
    bench.sim.set_down("paris", false);
    let failed = |job: &Job| job.verb() == Verb::Failback && matches!(job.state, JobState::Failed { .. });
    while !control.jobs(Some(&bench.item)).await.unwrap().iter().any(failed) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(bench.sim.copy("oslo", &bench.item).unwrap().role, Role::Active, "oslo serves again");
    tokio::time::sleep(Duration::from_secs(180)).await;
    let tries = story(&bench, &control).await;
    let tries = tries.iter().filter(|(verb, _)| *verb == Verb::Failback).count();
    assert!((2..=4).contains(&tries), "{tries} in three minutes");
    bench.sim.mend();
    bench.until(&control, is_home).await;
    control.shutdown().await;
}

/// Home is back and has just been given the hub again; nothing is replicated yet.
async fn just_home(bench: &Bench, control: &Control) {
    bench.sim.set_down("paris", true);
    bench.until(control, |item| item.phase == Phase::FailedOver).await;
    bench.sim.set_down("paris", false);
    bench.until(control, |item| item.source == region("paris")).await;
}

/// Paris is lost, and oslo serves what it has until paris is back.
async fn is_taken_back(bench: &Bench, control: &Control) {
    bench.sim.set_down("paris", true);
    let item = bench.until(control, is_away).await;
    assert_eq!(item.failover.unwrap().from, region("paris"));
    assert_eq!(bench.sim.copy("oslo", &bench.item).unwrap().role, Role::Active);
    let name = control.directory("chat.realtime").await.unwrap().unwrap();
    assert_eq!(name.region, region("oslo"));
    bench.sim.mend();
    bench.sim.set_down("paris", false);
    bench.until(control, is_home).await;
    assert_eq!(bench.sim.copy("oslo", &bench.item).unwrap().role, Role::Target);
}

#[tokio::test(start_paused = true)]
async fn home_is_lost_again_as_soon_as_it_was_gone_back_to() {
    let (bench, control) = protected(options()).await;
    just_home(&bench, &control).await;
    is_taken_back(&bench, &control).await;
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn home_is_lost_again_while_its_commit_is_stuck() {
    let (bench, control) = protected(options()).await;
    bench.sim.set_down("paris", true);
    bench.until(&control, |item| item.phase == Phase::FailedOver).await;
    bench.sim.set_down("paris", false);
    bench.until(&control, |item| is_away(item) && item.phase == Phase::Protected { drill: None }).await;
    bench.sim.fail_at("/commit/do");
    bench.until(&control, |item| item.source == region("paris")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    is_taken_back(&bench, &control).await;
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn home_is_lost_again_while_the_far_side_is_being_brought_up_to_date() {
    let (bench, control) = protected(options()).await;
    just_home(&bench, &control).await;
    bench.sim.set_link_down(true);
    bench.until(&control, |item| item.phase == Phase::Reprotecting).await;
    is_taken_back(&bench, &control).await;
    control.shutdown().await;
}

fn is_away(item: &Item) -> bool {
    item.source == region("oslo")
}
