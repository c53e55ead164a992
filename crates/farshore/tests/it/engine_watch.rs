//! What the engine mends without being asked.

use farshore::engine::Options;
use farshore_core::command::Command;
use farshore_core::lifecycle::Item;
use farshore_core::workload::{Loss, Role};

use crate::engine_sim::{Bench, change_point, create, failover, planned, protect, source_is_down, token};

fn final_loss(item: &Item) -> Option<Loss> {
    item.failover.as_ref().and_then(|report| report.loss_final)
}

#[tokio::test(start_paused = true)]
async fn a_source_that_comes_back_is_fenced_and_its_lost_writes_are_counted() {
    let bench = Bench::new();
    let control = bench.control(Options::default()).await;
    bench.play(&control, &[create(), protect()]).await;
    bench.sim.set_link_down(true);
    bench.sim.write(&bench.item, 7);
    bench.sim.set_down("paris", true);
    bench.play(&control, &[source_is_down()]).await;
    assert_eq!(final_loss(&bench.item(&control).await), None, "it cannot be known yet");
    bench.sim.change("paris", &bench.item, |copy| copy.role = Role::Unconfirmed);
    bench.sim.set_down("paris", false);
    let item = bench.until(&control, |item| final_loss(item).is_some()).await;
    assert_eq!(final_loss(&item).map(|loss| (loss.writes, loss.bytes)), Some((7, 7 * 4096)));
    assert_eq!(item.divergence.unwrap().region.as_str(), "paris");
    assert_eq!(bench.sim.copy("paris", &bench.item).unwrap().role, Role::Fenced);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_stopped_is_fenced_as_soon_as_it_is_seen() {
    let bench = Bench::new();
    let control = bench.control(Options::default()).await;
    bench.play(&control, &[create(), protect()]).await;
    bench.sim.set_down("paris", true);
    bench.play(&control, &[source_is_down(), Command::Commit]).await;
    assert_eq!(bench.sim.copy("paris", &bench.item).unwrap().role, Role::Active);
    bench.sim.set_down("paris", false);
    let item = bench.until(&control, |item| final_loss(item).is_some()).await;
    assert_eq!(final_loss(&item), Some(Loss::default()));
    assert_eq!(item.divergence, None, "nothing was lost, so nothing is kept");
    assert_eq!(bench.sim.copy("paris", &bench.item).unwrap().role, Role::Fenced);
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_loss_follows_the_point() {
    let bench = Bench::new();
    let control = bench.control(Options::default()).await;
    bench.play(&control, &[create(), protect()]).await;
    bench.sim.write(&bench.item, 5);
    bench.play(&control, &[planned()]).await;
    assert_eq!(final_loss(&bench.item(&control).await), Some(Loss::default()));
    bench.play(&control, &[change_point("p10")]).await;
    let item = bench.until(&control, |item| final_loss(item).is_some()).await;
    assert_eq!(final_loss(&item).map(|loss| loss.writes), Some(5));
    bench.play(&control, &[change_point("p15")]).await;
    let item = bench.until(&control, |item| final_loss(item).is_some()).await;
    assert_eq!(final_loss(&item), Some(Loss::default()));
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_restarts_is_told_to_serve_again_and_again() {
    let bench = Bench::new();
    let control = bench.control(Options::default()).await;
    bench.play(&control, &[create()]).await;
    for _ in 0..3 {
        bench.sim.change("paris", &bench.item, |copy| copy.role = Role::Unconfirmed);
        serves(&bench).await;
    }
    control.shutdown().await;
}

/// Virtual time passes until paris serves; the test runner's limit ends a wait that never does.
async fn serves(bench: &Bench) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    while bench.sim.copy("paris", &bench.item).unwrap().role != Role::Active {
        ticks.tick().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_left_fenced_by_a_failover_that_was_given_up_serves_again() {
    let bench = Bench::new();
    let control = bench.control(Options::default()).await;
    bench.play(&control, &[create(), protect()]).await;
    bench.sim.fail_at("/fence/undo");
    bench.sim.set_link_down(true);
    bench.sim.write(&bench.item, 3);
    let job = control.submit(&bench.item, planned(), "ann", None).await.unwrap();
    crate::engine_sim::job_until(&control, &job.id, |job| job.started && job.cursor == 1).await;
    control.steer(&job.id, farshore::engine::JobVerb::Cancel, "ann").await.unwrap();
    let job = crate::engine_sim::rested(&control, &job.id).await;
    let farshore_core::job::JobState::Cancelled { residue } = &job.state else { panic!("{:?}", job.state) };
    assert_eq!(residue.len(), 1, "it does not claim what was not seen: {residue:?}");
    serves(&bench).await;
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_ahead_of_the_store_means_that_a_person_decides() {
    let bench = Bench::new();
    let control = bench.control(Options::default()).await;
    bench.play(&control, &[create(), protect()]).await;
    control.shutdown().await;
    bench.sim.change("oslo", &bench.item, |copy| copy.token = token(9));
    let control = bench.control(Options::default()).await;
    let item = bench.item(&control).await;
    assert_eq!(item.phase.as_str(), "NeedsUser", "known before anything is done");
    let error = control.submit(&bench.item, failover(), "ann", None).await.unwrap_err();
    assert!(error.to_string().contains("NeedsUser"), "{error}");
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_region_is_shown_with_what_it_last_said() {
    let bench = Bench::new();
    let control = bench.control(Options::default()).await;
    bench.play(&control, &[create()]).await;
    let paris = crate::engine_sim::region("paris");
    let seen_well = || control.seen(&bench.item).get(&paris).is_some_and(|seen| seen.observation.is_some());
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    while !seen_well() {
        ticks.tick().await;
    }
    bench.sim.set_down("paris", true);
    while control.region_health()[&paris].reachable {
        ticks.tick().await;
    }
    let (seen, health) = (control.seen(&bench.item)[&paris].clone(), control.region_health()[&paris].clone());
    assert!(health.last_seen.is_some() && health.error.is_some());
    assert!(seen_well(), "the last observation stays: {seen:?}");
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_restarts_in_the_middle_of_its_promotion_serves_all_the_same() {
    let bench = Bench::new();
    let control = bench.control(Options::default()).await;
    bench.play(&control, &[create(), protect()]).await;
    control.shutdown().await;
    let died = std::sync::Arc::new(tokio::sync::Notify::new());
    let tell = std::sync::Arc::clone(&died);
    let crash_at: farshore::engine::CrashAt = std::sync::Arc::new(move |node: &str| {
        let die = node.contains("/promote/after-act");
        if die {
            tell.notify_one();
        }
        die
    });
    let control = bench.control(Options { crash_at: Some(crash_at), ..Options::default() }).await;
    let job = control.submit(&bench.item, failover(), "ann", None).await.unwrap();
    died.notified().await;
    control.shutdown().await;
    bench.sim.change("oslo", &bench.item, |copy| copy.role = Role::Unconfirmed);
    let control = bench.control(Options::default()).await;
    let job = crate::engine_sim::rested(&control, &job.id).await;
    assert_eq!(job.state, farshore_core::job::JobState::Succeeded, "{:?}", job.notes);
    assert_eq!(bench.sim.copy("oslo", &bench.item).unwrap().role, Role::Active);
    control.shutdown().await;
}
