//! Recovery onto a secondary, over simulated regions: to the end, refused, given up, with the coordinator killed at each node,
//! with two coordinators at once.

use std::sync::{Arc, Mutex};

use farshore::api::views::{AuditView, MigrationPreview, MigrationView};
use farshore::engine::{Control, CrashAt, JobVerb, SubmitError};
use farshore::migrate::record::{Migration, Phase};
use farshore::migrate::{self, Asked};
use farshore_core::command::Command;
use farshore_core::ids::Name;
use farshore_core::lifecycle::Phase as ItemPhase;
use farshore_core::store::Store;
use farshore_core::workload::PointChoice;
use reqwest::Method;
use serde_json::{Value, json};

use crate::api_bench::problem;
use crate::app_sim::{Apps, Served, TOKEN, app, apps, control, quick, run, until};

const MIGRATE: &str = "/api/v1/apps/todo/migrate";

fn asked() -> Asked {
    let [primary, secondary] = ["todo", "todo-dr"].map(|name| Name::parse(name).unwrap());
    Asked { primary, secondary, force: false, source_is_down: true }
}

async fn ended(control: &Control, id: &str) -> Migration {
    let look = || async { migrate::find(control, id).await.unwrap().unwrap() };
    until("the end of the migration", look, |migration| migration.phase.is_terminal()).await
}

async fn stored(apps: &Apps, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let (entries, _) = apps.bench.store.list(prefix).await.unwrap();
    entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

/// What matters of all regions when it is over.
async fn picture(apps: &Apps, control: &Control) -> Vec<String> {
    let mut lines = apps.bench.sim.picture(&app("todo"));
    lines.extend(apps.bench.sim.picture(&app("todo-dr")));
    for name in ["todo", "todo-dr"] {
        let item = control.item(&app(name)).await.unwrap();
        lines.push(format!("{name}: {:?}", item.map(|item| (item.source.to_string(), item.phase.as_str()))));
    }
    lines
}

#[tokio::test]
async fn an_app_whose_region_is_lost_runs_on_its_reserves_capacity_and_the_reserve_is_gone() {
    let served = Served::new(apps().await).await;
    let sim = &served.apps.bench.sim;
    sim.write(&app("todo"), 5);
    sim.set_link_down(true);
    sim.write(&app("todo"), 2);
    sim.set_link_down(false);
    sim.set_down("paris", true);
    let preview: MigrationPreview = served.get(&format!("{MIGRATE}?secondary=todo-dr")).await;
    assert_eq!((preview.from.as_str(), preview.to.as_str(), preview.ttl_seconds), ("paris", "oslo", 5));
    assert_eq!((preview.mode.as_str(), preview.instances), ("standard", 2));
    assert!(preview.source_silent.is_some());

    let body = json!({"secondary": "todo-dr", "source_is_down": true});
    let response = served.post(MIGRATE, body).await;
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let begun: MigrationView = response.json().await.unwrap();
    assert_eq!((location, begun.id.len()), (format!("/api/v1/migrations/{}", begun.id), 32));
    let path = format!("/api/v1/migrations/{}", begun.id);
    let view: MigrationView = until("its end", || served.get(&path), |view: &MigrationView| view.ended).await;
    assert_eq!((view.state.as_str(), view.why.as_deref(), view.recovered), ("completed", None, true));
    let report = view.report.unwrap();
    assert!(report.scripts_same && report.secondary_deleted && !report.planned, "{report:?}");
    assert_eq!((report.pushed_last_is_here, report.ttl_seconds), (Some(true), 5));
    assert_eq!(report.release.unwrap().tree, "t");
    assert!(report.database.unwrap().reachable && report.rto_seconds > 0.0 && report.advice.is_empty());
    let item = served.control.item(&app("todo")).await.unwrap().unwrap();
    assert_eq!((item.source.as_str(), item.phase), ("oslo", ItemPhase::FailedOver));
    assert_eq!(served.control.item(&app("todo-dr")).await.unwrap(), None);
    assert_eq!(served.apps.card("todo").mode, "standard", "the reserve's capacity is its own now");
    assert_eq!(stored(&served.apps, "migrations-open/").await, Vec::new());
    let audit: Vec<AuditView> = served.get("/api/v1/audit?limit=1000").await;
    let says = |what: &str| audit.iter().any(|entry| entry.what.contains(what));
    assert!(says(&format!("asked to migrate app/todo onto app/todo-dr ({})", begun.id)));
    assert!(says("with the word that region paris is down"));
    for phase in ["protecting", "failing-over", "verifying", "deleting-secondary", "complete"] {
        assert!(says(&format!("migration {} of app/todo is {phase}", begun.id)), "{phase}");
    }
    // The old source is back: what was lost is known exactly.
    sim.set_down("paris", false);
    let exact = |view: &MigrationView| view.report.as_ref().is_some_and(|report| report.loss_exact);
    let view: MigrationView = until("the exact loss", || served.get(&path), exact).await;
    assert_eq!(view.report.unwrap().loss.writes, 2);
}

#[tokio::test]
async fn an_app_that_answers_moves_as_planned_and_loses_nothing() {
    let apps = apps().await;
    let control = control(&apps, quick(None)).await;
    let forced = Asked { force: true, source_is_down: false, ..asked() };
    let begun = migrate::begin(&control, &forced, "ann", None).await.unwrap();
    let ended = ended(&control, &begun.id).await;
    assert_eq!(ended.phase, Phase::Completed);
    let report = ended.report.unwrap();
    assert!(report.planned && report.loss_exact);
    assert_eq!(report.loss.writes, 0);
    control.shutdown().await;
}

#[tokio::test]
async fn an_app_that_is_not_protected_is_protected_first_while_its_region_answers() {
    let apps = apps().await;
    let control = control(&apps, quick(None)).await;
    run(&control, "todo", Command::Disable).await;
    apps.change("todo", |card| card.state = "failed");
    let begun = migrate::begin(&control, &asked(), "ann", None).await.unwrap();
    apps.change("todo", |card| card.state = "running");
    assert_eq!(ended(&control, &begun.id).await.phase, Phase::Completed);
    let verbs: Vec<&str> =
        control.jobs(Some(&app("todo"))).await.unwrap().iter().map(|job| job.verb().as_str()).collect();
    assert_eq!(verbs, ["create", "protect", "disable", "protect", "failover"]);
    control.shutdown().await;
}

#[tokio::test]
async fn every_refusal_names_the_rule_and_changes_nothing() {
    let served = Served::new(apps().await).await;
    let secondary = |name: &str| json!({"secondary": name});
    let word = || json!({"secondary": "todo-dr", "source_is_down": true});
    let apps = &served.apps;
    let steady = |(key, _): &(String, Vec<u8>)| !key.starts_with("executors/");
    let before: Vec<_> = stored(apps, "").await.into_iter().filter(steady).collect();
    let check = async |body: Value, status: u16, code: &str| {
        let response = served.post(MIGRATE, body).await;
        assert_eq!(response.status().as_u16(), status, "{code}");
        let problem = problem(response).await;
        assert_eq!(problem.code(), code, "{}", problem.detail);
    };
    check(secondary("todo"), 409, "same-name").await;
    check(secondary("nobody"), 404, "not-found").await;
    check(secondary("Bad Name"), 400, "invalid").await;
    check(json!({}), 400, "invalid").await;
    check(secondary("todo-dr"), 409, "primary-healthy").await;
    apps.change("todo-dr", |card| card.mode = "free");
    check(word(), 409, "too-small").await;
    apps.change("todo-dr", |card| card.mode = "standard");
    apps.change("todo-dr", |card| card.state = "failed");
    check(word(), 409, "secondary-not-healthy").await;
    apps.change("todo-dr", |card| card.state = "running");
    apps.change("todo-dr", |card| card.lent_to = Some("other".to_owned()));
    check(json!({"secondary": "todo-dr", "force": true}), 409, "lent").await;
    apps.change("todo-dr", |card| card.lent_to = None);
    apps.bench.sim.set_down("paris", true);
    check(secondary("todo-dr"), 409, "source-unreachable").await;
    apps.bench.sim.set_down("paris", false);
    let missing = served.post("/api/v1/apps/nobody/migrate", secondary("todo-dr")).await;
    assert_eq!(missing.status(), 404);
    let response = served.send(Method::GET, &format!("{MIGRATE}?secondary=todo-dr"), TOKEN, None).await;
    assert_eq!(problem(response).await.code(), "primary-healthy", "a preview refuses as the migration does");
    let response = served.send(Method::GET, "/api/v1/migrations/nothing", TOKEN, None).await;
    assert_eq!(response.status(), 404);
    // Health looks may have found out what was made wrong meanwhile.
    let steady = |entry: &(String, Vec<u8>)| {
        steady(entry) && !entry.0.starts_with("incidents") && !entry.0.starts_with("audit/")
    };
    let after: Vec<_> = stored(apps, "").await.into_iter().filter(steady).collect();
    let before: Vec<_> = before.into_iter().filter(steady).collect();
    assert_eq!(after, before, "nothing was changed");
}

#[tokio::test]
async fn one_migration_of_a_name_at_a_time_and_one_for_one_key() {
    let apps = apps().await;
    // Nothing goes on: the driver of this one is killed at once.
    let control = control(&apps, quick(Some(Arc::new(|node: &str| node.starts_with("migration/"))))).await;
    apps.bench.sim.set_down("paris", true);
    let first = migrate::begin(&control, &asked(), "ann", Some("key")).await.unwrap();
    let again = migrate::begin(&control, &asked(), "ann", Some("key")).await.unwrap();
    assert_eq!(first.id, again.id);
    let [todo, dr] = ["todo", "todo-dr"].map(|name| Name::parse(name).unwrap());
    let swapped = Asked { primary: dr, secondary: todo, ..asked() };
    let mismatch = migrate::begin(&control, &swapped, "ann", Some("key")).await.unwrap_err();
    assert!(mismatch.to_string().contains("idempotency key"), "{mismatch}");
    let busy = migrate::begin(&control, &asked(), "ann", Some("other")).await.unwrap_err();
    assert!(busy.to_string().starts_with("a migration of todo is under way"), "{busy}");
    control.shutdown().await;
}

#[tokio::test]
async fn what_fails_before_the_point_of_no_return_gives_the_capacity_back_and_changes_nothing() {
    let apps = apps().await;
    let control = control(&apps, quick(None)).await;
    let before = picture(&apps, &control).await;
    apps.bench.sim.fail_at("/drain/do");
    let forced = Asked { force: true, source_is_down: false, ..asked() };
    let begun = migrate::begin(&control, &forced, "ann", None).await.unwrap();
    let ended = ended(&control, &begun.id).await;
    let Phase::Failed { why, recovered: false } = &ended.phase else { panic!("{:?}", ended.phase) };
    assert!(why.contains("made to fail"), "{why}");
    assert_eq!(apps.card("todo-dr").lent_to, None);
    assert_eq!(apps.asked(), ["lend app/todo-dr", "take-back app/todo-dr"]);
    assert_eq!(picture(&apps, &control).await, before);
    apps.bench.sim.mend();
    let again = migrate::begin(&control, &forced, "ann", None).await.unwrap();
    assert_eq!(self::ended(&control, &again.id).await.phase, Phase::Completed);
    control.shutdown().await;
}

#[tokio::test]
async fn the_word_that_a_region_is_down_counts_only_where_it_did_not_answer() {
    let apps = apps().await;
    apps.change("todo", |card| card.state = "failed");
    let sim = apps.bench.sim.clone();
    // Cut off before it is told to stop.
    let cut_off = Arc::new(move |node: &str| {
        if node.starts_with("running/fence/after-started") {
            sim.set_down("paris", true);
        }
        false
    });
    let control = control(&apps, quick(Some(cut_off))).await;
    let begun = migrate::begin(&control, &asked(), "ann", None).await.unwrap();
    assert!(!begun.source_is_down);
    let ended = ended(&control, &begun.id).await;
    let Phase::Failed { why, recovered: false } = &ended.phase else { panic!("{:?}", ended.phase) };
    assert!(why.contains("if you know that it is down, migrate again and say so"), "{why}");
    let jobs = control.jobs(Some(&app("todo"))).await.unwrap();
    let failover = |planned| Command::Failover { planned, point: PointChoice::Latest, source_is_down: false };
    let commands: Vec<Command> = jobs.into_iter().map(|job| job.command).skip(2).collect();
    assert_eq!(commands, [failover(true)], "{ended:?}");
    control.shutdown().await;
}

#[tokio::test]
async fn a_source_that_dies_while_it_drains_is_told_and_whoever_cancels_ends_the_migration() {
    let apps = apps().await;
    let control = control(&apps, quick(Some(dies_at_drain(&apps)))).await;
    let forced = Asked { force: true, source_is_down: false, ..asked() };
    let begun = migrate::begin(&control, &forced, "ann", None).await.unwrap();
    let look = || async { migrate::find(&control, &begun.id).await.unwrap().unwrap() };
    let seen = until("a word of it", look, |seen| seen.trouble.is_some()).await;
    let (job, trouble) = (seen.phase.job().unwrap().clone(), seen.trouble.unwrap());
    assert!(trouble.contains("region paris does not answer"), "{trouble}");
    assert!(trouble.contains(&format!("farshore job cancel {job}")), "{trouble}");
    control.steer(&job, JobVerb::Cancel, "ann").await.unwrap();
    let failed = ended(&control, &begun.id).await;
    assert!(matches!(failed.phase, Phase::Failed { recovered: false, .. }), "{:?}", failed.phase);
    assert_eq!(apps.card("todo-dr").lent_to, None);
    let again = migrate::begin(&control, &asked(), "ann", None).await.unwrap();
    assert_eq!(ended(&control, &again.id).await.phase, Phase::Completed);
    control.shutdown().await;
}

#[tokio::test]
async fn a_source_that_dies_while_it_drains_is_gone_without_if_somebody_said_that_it_is_down() {
    let apps = apps().await;
    let dead = control(&apps, quick(Some(Arc::new(|node: &str| node.starts_with("migration/"))))).await;
    apps.bench.sim.set_down("paris", true);
    let begun = migrate::begin(&dead, &asked(), "ann", None).await.unwrap();
    dead.vanish().await;
    // It is back for a moment, so that it is asked to stop first.
    apps.bench.sim.set_down("paris", false);
    let control = control(&apps, quick(Some(dies_at_drain(&apps)))).await;
    assert_eq!(ended(&control, &begun.id).await.phase, Phase::Completed);
    let jobs = control.jobs(Some(&app("todo"))).await.unwrap();
    let failovers: Vec<(bool, &str)> = jobs
        .iter()
        .filter_map(|job| match job.command {
            Command::Failover { planned, .. } => Some((planned, job.state.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(failovers, [(true, "cancelled"), (false, "succeeded")]);
    control.shutdown().await;
}

/// Paris does not answer any more when it has stopped and is to give what it has.
fn dies_at_drain(apps: &Apps) -> CrashAt {
    let sim = apps.bench.sim.clone();
    Arc::new(move |node: &str| {
        if node.starts_with("running/drain/after-started") {
            sim.set_down("paris", true);
        }
        false
    })
}

#[tokio::test]
async fn an_app_stays_where_it_is_if_the_other_region_has_no_room_for_it() {
    let apps = apps().await;
    let control = control(&apps, quick(None)).await;
    let before = picture(&apps, &control).await;
    apps.change("todo", |card| card.cannot_promote = Some("this region has 512 MiB for apps"));
    let failover =
        |planned, source_is_down| Command::Failover { planned, point: PointChoice::Latest, source_is_down };
    for (command, is_down) in [(failover(true, false), false), (failover(false, true), true)] {
        apps.bench.sim.set_down("paris", is_down);
        let refused = control.submit(&app("todo"), command, "ann", None).await.unwrap_err();
        assert!(matches!(refused, SubmitError::Refused { code: "no-room", .. }), "{refused}");
        assert!(refused.to_string().contains("oslo") && refused.to_string().contains("512 MiB"), "{refused}");
    }
    apps.bench.sim.set_down("paris", false);
    assert_eq!(picture(&apps, &control).await, before);
    apps.change("todo", |card| card.cannot_promote = None);
    run(&control, "todo", failover(true, false)).await;
    run(&control, "todo", Command::Commit).await;
    run(&control, "todo", Command::Reprotect).await;
    apps.change("todo", |card| card.cannot_promote = Some("this region has 512 MiB for apps"));
    let back = control.submit(&app("todo"), Command::Failback, "ann", None).await.unwrap_err();
    assert!(matches!(back, SubmitError::Refused { code: "no-room", .. }), "{back}");
    control.shutdown().await;
}

#[tokio::test]
async fn the_secondary_stays_until_the_recovered_app_is_well() {
    let apps = apps().await;
    let control = control(&apps, quick(None)).await;
    apps.bench.sim.set_down("paris", true);
    apps.change("todo", |card| (card.same, card.database_answers) = (false, false));
    let begun = migrate::begin(&control, &asked(), "ann", None).await.unwrap();
    let look = || async { migrate::find(&control, &begun.id).await.unwrap().unwrap() };
    let waits = |seen: &Migration| seen.phase == Phase::Verifying && seen.trouble.is_some();
    let seen = until("a look at its files", look, waits).await;
    assert!(seen.trouble.unwrap().contains("different: a.js"));
    assert!(control.item(&app("todo-dr")).await.unwrap().is_some());
    apps.change("todo", |card| (card.same, card.no_room) = (true, Some("oslo has no room")));
    let ended = ended(&control, &begun.id).await;
    assert_eq!(ended.phase, Phase::Completed);
    let advice = ended.report.unwrap().advice;
    assert!(advice[0].contains("farshore app change-database todo"), "{advice:?}");
    control.shutdown().await;
}

#[tokio::test]
async fn a_reserve_that_a_plain_failover_used_is_removed_when_the_app_is_well() {
    let apps = apps().await;
    let control = control(&apps, quick(None)).await;
    apps.bench.sim.set_down("paris", true);
    let down = Command::Failover { planned: false, point: PointChoice::Latest, source_is_down: true };
    run(&control, "todo", down).await;
    assert!(control.item(&app("todo-dr")).await.unwrap().is_some(), "it was not lent");
    apps.change("todo", |card| card.instances = 3);
    apps.change("todo-dr", |card| (card.instances, card.lent_to) = (1, Some("todo".to_owned())));
    let look = || async { migrate::list(&control).await.unwrap() };
    let all = until("its removal", look, |all| all.iter().any(|one| one.phase.is_terminal())).await;
    assert_eq!((all.len(), &all[0].phase), (1, &Phase::Completed));
    let card = apps.card("todo");
    assert_eq!((card.mode, card.instances), ("standard", 3), "how many instances it has is its own");
    assert_eq!(control.item(&app("todo-dr")).await.unwrap(), None);
    control.shutdown().await;
}

#[tokio::test]
async fn a_reserve_that_is_lent_to_nobody_who_came_gets_its_capacity_back() {
    let apps = apps().await;
    apps.change("todo-dr", |card| card.lent_to = Some("todo".to_owned()));
    let control = control(&apps, quick(None)).await;
    let look = || async { apps.card("todo-dr").lent_to };
    until("its capacity", look, Option::is_none).await;
    assert!(control.item(&app("todo-dr")).await.unwrap().is_some());
    control.shutdown().await;
}

/// Runs a migration to its end; when the coordinator reaches `killed_at`, it is dead, and another one goes on.
async fn with_a_death_at(killed_at: Option<&str>) -> (Vec<String>, Vec<String>) {
    let apps = apps().await;
    apps.bench.sim.set_down("paris", true);
    let nodes: Arc<Mutex<Vec<String>>> = Arc::default();
    let (seen, fatal) = (Arc::clone(&nodes), killed_at.map(str::to_owned));
    let crash = Arc::new(move |node: &str| {
        let mut seen = seen.lock().unwrap();
        let is_new = !seen.iter().any(|one| one == node);
        if is_new {
            seen.push(node.to_owned());
        }
        is_new && fatal.as_deref() == Some(node)
    });
    let first = control(&apps, quick(Some(crash))).await;
    let begun = migrate::begin(&first, &asked(), "ann", None).await.unwrap();
    let reached = || async {
        let seen = nodes.lock().unwrap().clone();
        let over = migrate::find(&first, &begun.id).await.unwrap().unwrap().phase.is_terminal();
        (over, seen)
    };
    let is_there = |seen: &(bool, Vec<String>)| {
        seen.0 || killed_at.is_some_and(|node| seen.1.iter().any(|one| one == node))
    };
    until("the node where it dies", reached, is_there).await;
    first.vanish().await;
    let second = control(&apps, quick(None)).await;
    let ended = ended(&second, &begun.id).await;
    assert_eq!(ended.phase, Phase::Completed, "killed at {killed_at:?}");
    for (key, count) in apps.bench.sim.effects() {
        assert_eq!(count, 1, "killed at {killed_at:?}: effects of {key}");
    }
    let mut picture = picture(&apps, &second).await;
    let jobs = second.jobs(None).await.unwrap();
    picture.push(format!("{} jobs", jobs.len()));
    picture.push(format!("open {}", stored(&apps, "migrations-open/").await.len()));
    second.shutdown().await;
    let nodes = nodes.lock().unwrap().clone();
    (picture, nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_killed_at_any_node_is_followed_by_another_with_the_same_end() {
    let (expected, nodes) = with_a_death_at(None).await;
    let migration: Vec<&String> = nodes.iter().filter(|node| node.starts_with("migration/")).collect();
    assert!(migration.len() >= 8, "{nodes:?}");
    for node in migration {
        let (picture, _) = with_a_death_at(Some(node)).await;
        assert_eq!(picture, expected, "killed at {node}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_coordinators_at_once_do_everything_once() {
    let apps = apps().await;
    apps.bench.sim.set_down("paris", true);
    let (one, other) = tokio::join!(control(&apps, quick(None)), control(&apps, quick(None)));
    let begun = migrate::begin(&one, &asked(), "ann", None).await.unwrap();
    assert_eq!(ended(&other, &begun.id).await.phase, Phase::Completed);
    for (key, count) in apps.bench.sim.effects() {
        assert_eq!(count, 1, "effects of {key}");
    }
    let verbs: Vec<&str> = one.jobs(None).await.unwrap().iter().map(|job| job.verb().as_str()).collect();
    assert_eq!(verbs, ["create", "create", "protect", "failover", "delete"]);
    one.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn a_stuck_job_waits_for_a_person_and_the_migration_goes_on_after_them() {
    let apps = apps().await;
    let control = control(&apps, quick(None)).await;
    apps.bench.sim.set_down("paris", true);
    apps.bench.sim.fail_at("/promote/do");
    let begun = migrate::begin(&control, &asked(), "ann", None).await.unwrap();
    let look = || async { migrate::find(&control, &begun.id).await.unwrap().unwrap() };
    let seen = until("a person", look, |seen| seen.stuck).await;
    let job = seen.phase.job().unwrap().clone();
    assert!(seen.trouble.unwrap().contains(&format!("farshore job retry {job}")));
    assert_eq!(
        apps.card("todo-dr").lent_to.as_deref(),
        Some("todo"),
        "nothing is taken back past the point of no return"
    );
    apps.bench.sim.mend();
    control.steer(&job, JobVerb::Retry, "ann").await.unwrap();
    assert_eq!(ended(&control, &begun.id).await.phase, Phase::Completed);
    control.shutdown().await;
}
