//! The four tests that every kind of job has: it completes; a repeated step has one effect; a failure at each step
//! unwinds to the clean slate or is stuck and can be retried; killed at each node it goes on elsewhere.
//!
//! A new verb cannot lack them: [`cases`] matches on all of them.

use std::sync::{Arc, Mutex};

use farshore::engine::{JobVerb, Options};
use farshore_core::command::{Command, Verb};
use farshore_core::ids::{Epoch, Token};
use farshore_core::job::{Does, Job, JobState};
use farshore_core::lifecycle::Phase;

use crate::engine_sim::{
    Bench, adopt, change_point, create, failover, job_until, jobs_only, planned, protect, rested,
    source_is_down, test_failover,
};

/// How an item gets to where the verb is possible, and the verb.
struct Case {
    name: &'static str,
    before: Vec<Command>,
    command: Command,
    /// The source is down when the command is given.
    source_down: bool,
    /// Writes that never reach the target, before the last of `before` that fails over.
    lost_writes: u64,
    /// The region with this name knows a higher token than the store: the store was restored from a backup.
    ahead: Option<&'static str>,
}

impl Case {
    fn new(name: &'static str, before: &[Command], command: Command) -> Self {
        Self { name, before: before.to_vec(), command, source_down: false, lost_writes: 0, ahead: None }
    }
}

fn cases(verb: Verb) -> Vec<Case> {
    let moved = [create(), protect(), failover()];
    let home = [create(), protect(), planned(), Command::Commit, Command::Reprotect];
    let case = |before: &[Command], command| vec![Case::new(verb.as_str(), before, command)];
    match verb {
        Verb::Create => case(&[], create()),
        Verb::Delete => case(&[create()], Command::Delete),
        Verb::Protect => case(&[create()], protect()),
        Verb::Disable => case(&[create(), protect()], Command::Disable),
        Verb::TestFailover => case(&[create(), protect()], test_failover()),
        Verb::CleanUp => case(&[create(), protect(), test_failover()], Command::CleanUp),
        Verb::Failover => vec![
            Case::new("unplanned", &[create(), protect()], failover()),
            Case::new("planned", &[create(), protect()], planned()),
            Case::new("with-drill", &[create(), protect(), test_failover()], failover()),
            Case {
                source_down: true,
                ..Case::new("source-is-down", &[create(), protect()], source_is_down())
            },
        ],
        Verb::ChangePoint => case(&moved, change_point("p10")),
        Verb::Commit => case(&moved, Command::Commit),
        Verb::Reprotect => case(&[create(), protect(), failover(), Command::Commit], Command::Reprotect),
        Verb::Failback => case(&home, Command::Failback),
        Verb::MarkPoint => case(&[create(), protect()], Command::MarkPoint { name: "before".to_owned() }),
        Verb::Adopt => vec![
            Case {
                ahead: Some("paris"),
                ..Case::new("adopt-followed", &[create(), protect()], adopt("paris"))
            },
            Case { ahead: Some("oslo"), ..Case::new("adopt-promoted", &moved, adopt("oslo")) },
            Case { ahead: Some("paris"), ..Case::new("adopt-alone", &[create()], adopt("paris")) },
        ],
        Verb::DropDivergence => vec![Case {
            lost_writes: 7,
            ..Case::new(
                verb.as_str(),
                &[create(), protect(), failover(), Command::Commit, Command::Reprotect],
                Command::DropDivergence,
            )
        }],
    }
}

/// The world as the case wants it, with nobody at work.
async fn set_up(case: &Case) -> Bench {
    let bench = Bench::new();
    let control = bench.control(Options::default()).await;
    for command in &case.before {
        if command.verb() == Verb::Failover {
            bench.sim.write(&bench.item, 5);
            bench.sim.set_link_down(true);
            bench.sim.write(&bench.item, case.lost_writes);
        }
        bench.play(&control, std::slice::from_ref(command)).await;
        bench.sim.set_link_down(false);
    }
    if !case.before.is_empty() {
        bench
            .until(&control, |item| item.failover.as_ref().is_none_or(|report| report.loss_final.is_some()))
            .await;
    }
    if let Some(region) = case.ahead {
        bench.sim.change(region, &bench.item, |copy| copy.token = Token::new(1, Epoch(9)));
        bench.until(&control, |item| matches!(item.phase, Phase::NeedsUser { .. })).await;
    }
    control.shutdown().await;
    bench.sim.set_down("paris", case.source_down);
    bench
}

/// The item and all regions, without times and epochs.
async fn picture(bench: &Bench) -> Vec<String> {
    use farshore_core::store::Store;
    let own = bench.store.get("items/machine/web-1/own").await.unwrap();
    let own =
        own.map(|entry| serde_json::from_slice::<farshore_core::lifecycle::Item>(&entry.value).unwrap());
    let held = bench.store.get("items/machine/web-1/job").await.unwrap();
    assert_eq!(held, None, "an ended job holds its item");
    let name = bench.store.get("directory/web-1.machine").await.unwrap();
    assert_eq!(own.is_some(), name.is_some(), "the directory names what there is");
    let mut lines = bench.sim.picture(&bench.item);
    lines.extend(own.map(|item| {
        format!(
            "{:?} source {} target {:?} kept {}",
            item.phase,
            item.source,
            item.target,
            item.divergence.is_some()
        )
    }));
    lines
}

fn assert_one_effect_per_key(bench: &Bench, name: &str) {
    for (key, count) in bench.sim.effects() {
        assert_eq!(count, 1, "{name}: effects of {key}");
    }
}

/// Runs the case to its end without any fault; the picture, the job and the nodes it went through.
async fn undisturbed(case: &Case) -> (Vec<String>, Job, Vec<String>) {
    let bench = set_up(case).await;
    let (job, nodes) = noted(&bench, &case.command).await;
    assert_eq!(job.state, JobState::Succeeded, "{}: {:?}", case.name, job.notes);
    (picture(&bench).await, job, nodes)
}

#[tokio::test(start_paused = true)]
async fn every_job_completes_with_one_effect_for_each_order() {
    for case in Verb::ALL.into_iter().flat_map(cases) {
        let (_, job, nodes) = undisturbed(&case).await;
        assert!(nodes.len() > job.steps.len(), "{}", case.name);
        assert!((job.progress() - 1.0).abs() < f64::EPSILON, "{}", case.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_order_has_one_effect() {
    for case in Verb::ALL.into_iter().flat_map(cases) {
        let (expected, ..) = undisturbed(&case).await;
        let bench = set_up(&case).await;
        bench.sim.lose_answers();
        let control = bench.control(jobs_only()).await;
        let job = bench.run(&control, case.command.clone()).await;
        control.shutdown().await;
        assert_eq!(job.state, JobState::Succeeded, "{}: {:?}", case.name, job.notes);
        assert_eq!(picture(&bench).await, expected, "{}", case.name);
        assert_one_effect_per_key(&bench, case.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_each_order_unwinds_or_is_stuck_and_retried() {
    for case in Verb::ALL.into_iter().flat_map(cases) {
        let (expected, job, _) = undisturbed(&case).await;
        for step in job.steps.iter().filter(|step| matches!(step.act.does, Does::Order { .. })) {
            let name = format!("{} failing at {}", case.name, step.name);
            let bench = set_up(&case).await;
            let before = picture(&bench).await;
            bench.sim.fail_at(&format!("/{}/do", step.name));
            let control = bench.control(jobs_only()).await;
            let job = bench.run(&control, case.command.clone()).await;
            // A source that is down is asked, but does not get as far as failing.
            let asked = bench.sim.reached() > 0 || (case.source_down && step.name == "fence");
            assert!(asked, "{name}: not reached");
            match &job.state {
                JobState::Failed { residue, .. } => {
                    assert_eq!(residue, &Vec::<String>::new(), "{name}");
                    assert_clean(&case, &bench, &before, &name).await;
                }
                JobState::Stuck { .. } => {
                    assert!(job.past_no_return().is_some(), "{name}");
                    bench.sim.mend();
                    let job = control.steer(&job.id, JobVerb::Retry, "ann").await.unwrap();
                    let job = rested(&control, &job.id).await;
                    assert_eq!(job.state, JobState::Succeeded, "{name}: {:?}", job.notes);
                    assert_eq!(picture(&bench).await, expected, "{name}");
                }
                JobState::Succeeded => {
                    assert!(step.may_fail, "{name}");
                    assert_eq!(picture(&bench).await, expected, "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
            control.shutdown().await;
            assert_one_effect_per_key(&bench, &name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_while_it_waits_a_job_unwinds_to_the_clean_slate() {
    for case in Verb::ALL.into_iter().flat_map(cases) {
        let (_, job, _) = undisturbed(&case).await;
        if !job.steps.iter().any(|step| matches!(step.act.does, Does::Wait)) {
            continue;
        }
        let bench = set_up(&case).await;
        let before = picture(&bench).await;
        bench.sim.set_link_down(true);
        let control = bench.control(jobs_only()).await;
        let job = control.submit(&bench.item, case.command.clone(), "ann", None).await.unwrap();
        let waits = |job: &Job| {
            job.started && matches!(job.steps.get(job.cursor), Some(step) if step.act.does == Does::Wait)
        };
        job_until(&control, &job.id, waits).await;
        control.steer(&job.id, JobVerb::Cancel, "ben").await.unwrap();
        let job = rested(&control, &job.id).await;
        control.shutdown().await;
        assert_eq!(job.state, JobState::Cancelled { residue: Vec::new() }, "{}", case.name);
        assert_clean(&case, &bench, &before, case.name).await;
    }
}

/// The slate is clean: everything is as it was before the job.
async fn assert_clean(case: &Case, bench: &Bench, before: &[String], name: &str) {
    bench.sim.mend();
    if case.command.verb() != Verb::Reprotect {
        assert_eq!(picture(bench).await, before, "{name}");
        return;
    }
    // An old source that follows already is not turned back; reprotecting again goes on from there.
    let control = bench.control(jobs_only()).await;
    assert_eq!(bench.item(&control).await.phase.as_str(), "Committed", "{name}");
    bench.play(&control, &[Command::Reprotect]).await;
    control.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn killed_at_each_node_a_job_goes_on_with_another_executor() {
    for case in Verb::ALL.into_iter().flat_map(cases) {
        let (expected, _, nodes) = undisturbed(&case).await;
        for node in &nodes {
            let name = format!("{} killed at {node}", case.name);
            let bench = set_up(&case).await;
            let job = killed_at(&case, &bench, node).await;
            assert_eq!(job.state, JobState::Succeeded, "{name}: {:?}", job.notes);
            assert_eq!(picture(&bench).await, expected, "{name}");
            assert_one_effect_per_key(&bench, &name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_each_node_of_its_way_back_a_job_unwinds_with_another_executor() {
    let mut killed = 0;
    for case in Verb::ALL.into_iter().flat_map(cases) {
        let (_, job, _) = undisturbed(&case).await;
        let orders = job.steps.iter().filter(|step| matches!(step.act.does, Does::Order { .. }));
        // The last step that can fail before the point of no return: most is to be taken back.
        let Some(last) = orders.take_while(|step| !step.no_return).filter(|step| !step.may_fail).last()
        else {
            continue;
        };
        let failing = format!("/{}/do", last.name);
        let bench = set_up(&case).await;
        bench.sim.fail_at(&failing);
        let (job, nodes) = noted(&bench, &case.command).await;
        if !matches!(job.state, JobState::Failed { .. }) {
            continue;
        }
        for node in nodes.iter().filter(|node| node.starts_with("unwinding")) {
            let name = format!("{} unwinding, killed at {node}", case.name);
            let bench = set_up(&case).await;
            let before = picture(&bench).await;
            bench.sim.fail_at(&failing);
            let job = killed_at(&case, &bench, node).await;
            killed += 1;
            assert!(
                matches!(&job.state, JobState::Failed { residue, .. } if residue.is_empty()),
                "{name}: {:?}",
                job.state
            );
            assert_one_effect_per_key(&bench, &name);
            assert_clean(&case, &bench, &before, &name).await;
        }
    }
    assert!(killed >= 30, "only {killed} nodes of a way back were met: is it still tested?");
}

/// Starts the case's job, kills its executor at the node, and lets another one go on.
async fn killed_at(case: &Case, bench: &Bench, node: &str) -> Job {
    let died = Arc::new(tokio::sync::Notify::new());
    let (tell, here) = (Arc::clone(&died), node.to_owned());
    let crash_at = Arc::new(move |node: &str| {
        let die = node == here;
        if die {
            tell.notify_one();
        }
        die
    });
    let control = bench.control(Options { crash_at: Some(crash_at), ..jobs_only() }).await;
    let job = control.submit(&bench.item, case.command.clone(), "ann", None).await.unwrap();
    died.notified().await;
    control.shutdown().await;
    let control = bench.control(jobs_only()).await;
    let job = rested(&control, &job.id).await;
    control.shutdown().await;
    job
}

/// Runs the command and notes the nodes of its way.
async fn noted(bench: &Bench, command: &Command) -> (Job, Vec<String>) {
    let nodes = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&nodes);
    let crash_at = Arc::new(move |node: &str| {
        note.lock().unwrap().push(node.to_owned());
        false
    });
    let control = bench.control(Options { crash_at: Some(crash_at), ..jobs_only() }).await;
    let job = bench.run(&control, command.clone()).await;
    control.shutdown().await;
    let nodes = nodes.lock().unwrap().clone();
    (job, nodes)
}
