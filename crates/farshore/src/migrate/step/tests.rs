use farshore_core::fencing::{FenceTimings, OnControlLoss};
use farshore_core::ids::{ItemId, Region};
use farshore_core::lifecycle::{Failing, FailoverReport, StopProof};
use farshore_core::workload::{Loss, Point, PointKind, Promotion, Watermark};

use super::*;
use farshore_app::mode::Mode;

const BEGUN: Moment = Moment(1_000_000);

fn region(text: &str) -> Region {
    Region::parse(text).unwrap()
}

fn record(phase: Phase) -> Migration {
    Migration {
        id: "a".repeat(32),
        primary: Name::parse("todo").unwrap(),
        secondary: Name::parse("spare").unwrap(),
        asked_by: "ann".to_owned(),
        source_is_down: false,
        from: region("paris"),
        to: region("oslo"),
        mode: Mode::Standard,
        instances: 2,
        pushed_last: Some("tree".to_owned()),
        release_last: Some(4),
        phase,
        since: BEGUN,
        trouble: None,
        stuck: false,
        silent_since: None,
        unfit: None,
        created_at: BEGUN,
        updated_at: BEGUN,
        report: None,
    }
}

/// In paris, protected to oslo.
fn item(phase: ItemPhase) -> Item {
    let mut item =
        Item::new(ItemId::parse("app/todo").unwrap(), region("paris"), OnControlLoss::Hold, Moment(1));
    if phase != ItemPhase::Unprotected {
        item.target = Some(region("oslo"));
    }
    item.phase = phase;
    item
}

/// In oslo, having lost 3 writes.
fn moved() -> Item {
    let mut item = item(ItemPhase::FailedOver);
    item.source = region("oslo");
    item.target = Some(region("paris"));
    let point = Point {
        id: "p".to_owned(),
        watermark: Watermark::default(),
        at: Moment(1),
        kind: PointKind::Crash,
        name: None,
    };
    item.failover = Some(FailoverReport {
        planned: false,
        from: region("paris"),
        to: region("oslo"),
        requested_at: BEGUN,
        rto_seconds: 0.5,
        proof: StopProof::Acknowledged,
        promotion: Promotion {
            point,
            source_last_known: Watermark::default(),
            source_last_seen: Moment(1),
            at_failover: Loss { writes: 3, bytes: 300, seconds: 0.1 },
        },
        loss_final: None,
        exact: false,
    });
    item
}

fn sight(primary: Item) -> Sight {
    Sight {
        primary: Some(primary),
        secondary_exists: true,
        job: None,
        source: Heard::NotAsked,
        loan: Heard::NotAsked,
        check: Heard::NotAsked,
    }
}

fn well() -> Check {
    Check {
        ready: true,
        state: "running".to_owned(),
        mode: "standard".to_owned(),
        instances: 2,
        release: Some(Release { number: 4, commit: "c".to_owned(), tree: "tree".to_owned() }),
        commit: Some("c".to_owned()),
        same: true,
        differences: Vec::new(),
        database: Some(Database {
            engine: "sqlite".to_owned(),
            name: "main".to_owned(),
            external: false,
            reachable: true,
        }),
        ttl_seconds: 5,
    }
}

/// What happens so long after the phase began, in one line: the new phase if it changed, the effect, the trouble.
fn said(before: &Migration, turn: &Turn) -> String {
    let mut parts = Vec::new();
    if turn.next.phase != before.phase {
        parts.push(match &turn.next.phase {
            Phase::Failed { recovered: true, .. } => "failed-recovered".to_owned(),
            Phase::FailingOver { attempt, .. } => format!("failing-over {attempt}"),
            phase => phase.as_str().to_owned(),
        });
    }
    match &turn.effect {
        None => {}
        Some(Effect::Lend) => parts.push("+lend".to_owned()),
        Some(Effect::TakeBack) => parts.push("+take-back".to_owned()),
        Some(Effect::Fit) => parts.push("+fit".to_owned()),
        Some(Effect::GiveWay) => parts.push("+give-way".to_owned()),
        Some(Effect::DeleteSecondary) => parts.push("+delete".to_owned()),
        Some(Effect::Ask(name, Command::Failover { planned, source_is_down, .. })) => {
            let how = if *planned { "planned" } else { "unplanned" };
            let word = if *source_is_down { " word" } else { "" };
            parts.push(format!("+{name} {how}{word}"));
        }
        Some(Effect::Ask(name, _)) => parts.push(format!("+{name}")),
    }
    if turn.next.stuck {
        parts.push("stuck".to_owned());
    } else if turn.next.trouble.is_some() {
        parts.push("waits".to_owned());
    }
    parts.join(" ")
}

fn check_at(before: &Migration, seen: &Sight, seconds: u64, expected: &str) {
    let turn = step(before, seen, BEGUN.after(Duration::from_secs(seconds)));
    assert_eq!(said(before, &turn), expected, "{:?} at {seconds} s, seeing {seen:?}", before.phase);
    // What is seen again brings the same about: two nodes may look at once.
    assert_eq!(step(before, seen, BEGUN.after(Duration::from_secs(seconds))), turn);
    if turn.effect.is_some() {
        assert_eq!(turn.next.phase, before.phase, "what is done was stored before");
    }
}

fn check(before: &Migration, seen: &Sight, expected: &str) {
    check_at(before, seen, 1, expected);
}

#[test]
fn the_secondary_lends_its_capacity_before_anything_else() {
    let lending = record(Phase::Lending);
    let with = |loan| Sight { loan, ..sight(item(ItemPhase::Protected { drill: None })) };
    let lent =
        |text: &str, by: Option<String>| Heard::Says(Some(Loan { to: Name::parse(text).unwrap(), by }));
    let to = |text: &str| lent(text, None);
    check(&lending, &with(Heard::Says(None)), "+lend");
    check(&lending, &with(to("other")), "+lend");
    check(&lending, &with(to("todo")), "protecting");
    check(&lending, &with(lent("todo", Some(lending.id.clone()))), "protecting");
    // One that is over still has it in its name.
    check(&lending, &with(lent("todo", Some("b".repeat(32)))), "+lend");
    check(&lending, &with(Heard::Silent("x".to_owned())), "waits");
    check_at(&lending, &with(Heard::Silent("x".to_owned())), 61, "taking-back");
    check_at(&lending, &with(Heard::Says(None)), 61, "taking-back");
    check(&lending, &Sight { secondary_exists: false, ..with(Heard::NotAsked) }, "taking-back");
}

#[test]
fn the_primary_is_brought_to_where_the_secondarys_region_follows_it() {
    let begun = record(Phase::Protecting { job: None });
    let at_work = record(Phase::Protecting { job: Some(JobId("1".to_owned())) });
    let with = |phase, job| Sight { job, ..sight(item(phase)) };
    let protected = || ItemPhase::Protected { drill: None };
    check(&begun, &with(protected(), None), "failing-over 1");
    check(&begun, &with(ItemPhase::Unprotected, None), "+protect");
    check(&begun, &with(ItemPhase::FailedOver, None), "+commit");
    check(&begun, &with(ItemPhase::Committed, None), "+reprotect");
    check(&begun, &with(ItemPhase::Seeding, None), "waits");
    check_at(&begun, &with(ItemPhase::Seeding, None), 61, "taking-back");
    check(&begun, &sight(moved()), "verifying");
    check(&begun, &Sight { primary: None, ..sight(moved()) }, "taking-back");
    check(&at_work, &with(ItemPhase::Seeding, Some(JobSeen::UnderWay)), "");
    // A seed takes as long as it takes.
    check_at(&at_work, &with(ItemPhase::Seeding, Some(JobSeen::UnderWay)), 100_000, "");
    check(&at_work, &with(ItemPhase::Seeding, Some(JobSeen::Stuck("x".to_owned()))), "stuck");
    let person = at_work.clone().waiting_for_a_person("x");
    check(&person, &with(ItemPhase::Seeding, Some(JobSeen::UnderWay)), "");
    check(&at_work, &with(ItemPhase::Unprotected, Some(JobSeen::Ended("x".to_owned()))), "taking-back");
    check(&at_work, &with(ItemPhase::Committed, Some(JobSeen::Succeeded)), "+reprotect");
    check(&at_work, &with(protected(), Some(JobSeen::Succeeded)), "failing-over 1");
    check(&at_work, &with(protected(), None), "protecting");
}

#[test]
fn it_moves_as_planned_if_its_region_answers_and_by_somebodys_word_if_not() {
    let begun = record(Phase::FailingOver { attempt: 1, job: None });
    let word = Migration { source_is_down: true, ..begun.clone() };
    let with = |source| Sight { source, ..sight(item(ItemPhase::Protected { drill: None })) };
    let silent = || Heard::Silent("x".to_owned());
    check(&begun, &with(Heard::Says(())), "+failover-1 planned");
    check(&word, &with(Heard::Says(())), "+failover-1 planned");
    check(&word, &with(silent()), "+failover-1 unplanned word");
    check(&begun, &with(silent()), "waits");
    check_at(&begun, &with(silent()), 61, "taking-back");
    let mut fences = item(ItemPhase::Protected { drill: None });
    fences.lease = Some(FenceTimings::STANDARD);
    check(&begun, &Sight { source: silent(), ..sight(fences) }, "+failover-1 unplanned");
}

#[test]
fn a_move_that_fails_is_tried_again_where_that_can_help_and_given_up_where_it_cannot() {
    let at_work = |attempt| record(Phase::FailingOver { attempt, job: Some(JobId("1".to_owned())) });
    let word = |attempt| Migration { source_is_down: true, ..at_work(attempt) };
    let ended = || Some(JobSeen::Ended("x".to_owned()));
    let protected = || item(ItemPhase::Protected { drill: None });
    let silent = || Heard::Silent("x".to_owned());
    let with = |item, job, source| Sight { job, source, ..sight(item) };
    check(&at_work(1), &with(protected(), Some(JobSeen::UnderWay), Heard::NotAsked), "");
    check(&at_work(1), &with(protected(), Some(JobSeen::Stuck("x".to_owned())), silent()), "stuck");
    check(&at_work(1), &with(moved(), Some(JobSeen::Succeeded), Heard::NotAsked), "verifying");
    check(&at_work(1), &with(moved(), ended(), silent()), "verifying");
    check(&at_work(1), &with(protected(), ended(), Heard::Says(())), "taking-back");
    check(&word(1), &with(protected(), ended(), silent()), "failing-over 2");
    check(&word(3), &with(protected(), ended(), silent()), "taking-back");
    let mut opening = item(ItemPhase::FailingOver { planned: false, stage: Stage::Promoting });
    opening.failing = Some(Failing { requested_at: BEGUN, proof: None, drill: None, back: false });
    check(&at_work(1), &with(opening.clone(), ended(), Heard::Says(())), "failing-over 2");
    let begun = record(Phase::FailingOver { attempt: 2, job: None });
    check(&begun, &with(opening.clone(), None, Heard::Says(())), "+failover-2 unplanned");
    check(&at_work(3), &with(opening, ended(), Heard::Says(())), "failed");
}

#[test]
fn a_source_that_falls_silent_while_it_is_stopped_is_told_and_gone_without_where_that_is_allowed() {
    let at_work = |attempt| record(Phase::FailingOver { attempt, job: Some(JobId("1".to_owned())) });
    let word = |attempt| Migration { source_is_down: true, ..at_work(attempt) };
    let seeing = |planned, job, source| {
        let phase = ItemPhase::FailingOver { planned, stage: Stage::Revoking };
        Sight { job: Some(job), source, ..sight(item(phase)) }
    };
    let silent = || Heard::Silent("x".to_owned());
    let under_way = |source| seeing(true, JobSeen::UnderWay, source);
    let told = |before: &Migration| {
        check(before, &under_way(silent()), "waits");
        step(before, &under_way(silent()), BEGUN.after(Duration::from_secs(1))).next
    };
    check(&at_work(1), &under_way(Heard::Says(())), "");
    // A person must say that it is down.
    let without_word = told(&at_work(1));
    let trouble = without_word.trouble.clone().unwrap();
    assert!(trouble.contains("does not answer: x; farshore job cancel 1 ends this"), "{trouble}");
    check_at(&without_word, &under_way(silent()), 100_000, "waits");
    check_at(&without_word, &under_way(Heard::Says(())), 100_000, "");
    // Another control node carries out the job.
    check_at(&without_word, &under_way(Heard::NotAsked), 100_000, "waits");
    let with_word = told(&word(1));
    check_at(&with_word, &under_way(silent()), 5, "waits");
    check_at(&with_word, &under_way(silent()), 6, "+give-way waits");
    check_at(&with_word, &under_way(Heard::Says(())), 6, "");
    check_at(&with_word, &seeing(true, JobSeen::TurningBack, silent()), 100_000, "waits");
    check_at(&told(&word(3)), &under_way(silent()), 100_000, "waits");
    check(&with_word, &seeing(true, JobSeen::GaveWay, silent()), "failing-over 2");
    // Who cancels does not want it tried once more.
    let cancelled = JobSeen::Cancelled("x".to_owned());
    check(&with_word, &Sight { job: Some(cancelled), ..under_way(silent()) }, "taking-back");
    // It asks nothing of its source.
    check(&word(2), &seeing(false, JobSeen::UnderWay, silent()), "");
}

#[test]
fn the_secondary_is_removed_only_after_the_recovered_app_was_found_well() {
    let verifying = record(Phase::Verifying);
    let with = |change: fn(&mut Check)| {
        let mut seen = well();
        change(&mut seen);
        Sight { check: Heard::Says(seen), ..sight(moved()) }
    };
    check(&verifying, &with(|_| {}), "deleting-secondary");
    let unwell: [fn(&mut Check); 4] = [
        |check| check.ready = false,
        |check| check.state = "starting".to_owned(),
        |check| check.same = false,
        |check| (check.state, check.release) = ("empty".to_owned(), None),
    ];
    for change in unwell {
        check(&verifying, &with(change), "waits");
        check_at(&verifying, &with(change), 181, "failed-recovered");
    }
    let nothing_deployed: fn(&mut Check) =
        |check| (check.state, check.release, check.commit) = ("empty".to_owned(), None, None);
    check(&verifying, &with(nothing_deployed), "deleting-secondary");
    check(&verifying, &with(|check| check.mode = "basic".to_owned()), "+fit");
    check(&verifying, &with(|check| check.instances = 1), "+fit");
    let unfit = Migration { unfit: Some("no room".to_owned()), ..verifying.clone() };
    check(&unfit, &with(|check| check.mode = "basic".to_owned()), "deleting-secondary");
    let silent = Sight { check: Heard::Silent("x".to_owned()), ..sight(moved()) };
    check(&verifying, &silent, "waits");
    check_at(&verifying, &silent, 181, "failed-recovered");
    let away = Sight { check: Heard::Says(well()), ..sight(item(ItemPhase::FailedOver)) };
    check(&verifying, &away, "failed-recovered");
}

#[test]
fn the_report_says_what_was_found_in_numbers_and_what_to_do() {
    let verifying = record(Phase::Verifying);
    let at = |check: Check, record: &Migration| {
        let seen = Sight { check: Heard::Says(check), ..sight(moved()) };
        step(record, &seen, BEGUN.after(Duration::from_millis(1500))).next.report.unwrap()
    };
    let report = at(well(), &verifying);
    assert_eq!((report.loss.writes, report.loss_exact, report.rto_seconds), (3, false, 1.5));
    assert_eq!((report.pushed_last_is_here, report.secondary_deleted), (Some(true), false));
    assert_eq!(report.advice, Vec::<String>::new());
    let mut gone = well();
    gone.database.as_mut().unwrap().reachable = false;
    gone.release.as_mut().unwrap().tree = "older".to_owned();
    gone.mode = "basic".to_owned();
    let unfit = Migration { unfit: Some("oslo has no room".to_owned()), ..verifying };
    let outrun = Migration { release_last: Some(3), ..unfit.clone() };
    let report = at(gone.clone(), &outrun);
    assert_eq!(
        report.pushed_last_is_here,
        Some(true),
        "paris was looked at before the last push, which had reached oslo"
    );
    let report = at(gone, &unfit);
    assert_eq!(report.pushed_last_is_here, Some(false));
    assert!(report.advice[0].contains("farshore app change-database todo"), "{:?}", report.advice);
    assert!(report.advice[1].contains("Push again") && report.advice[2].contains("oslo has no room"));
}

#[test]
fn the_secondary_is_removed_once_and_only_the_one_that_was_meant() {
    let begun = record(Phase::DeletingSecondary { job: None });
    let at_work = record(Phase::DeletingSecondary { job: Some(JobId("1".to_owned())) });
    let with = |job, secondary_exists| Sight { job, secondary_exists, ..sight(moved()) };
    check(&begun, &with(None, true), "+delete");
    check(&begun, &with(None, false), "completed");
    check(&at_work, &with(Some(JobSeen::UnderWay), true), "");
    check(&at_work, &with(Some(JobSeen::Succeeded), false), "completed");
    // Somebody made another one of the same name.
    check(&at_work, &with(Some(JobSeen::Succeeded), true), "completed");
    check(&at_work, &with(Some(JobSeen::Stuck("x".to_owned())), true), "stuck");
    check(&at_work, &with(Some(JobSeen::Ended("x".to_owned())), true), "failed-recovered");
    check(&at_work, &with(None, true), "deleting-secondary");
}

#[test]
fn what_is_given_up_gives_the_capacity_back() {
    let taking = record(Phase::TakingBack { why: "the failover failed".to_owned() });
    let with = |loan| Sight { loan, ..sight(item(ItemPhase::Protected { drill: None })) };
    let lent =
        |text: &str, by: Option<String>| Heard::Says(Some(Loan { to: Name::parse(text).unwrap(), by }));
    let to = |text: &str| lent(text, None);
    check(&taking, &with(to("todo")), "+take-back");
    check(&taking, &with(lent("todo", Some(taking.id.clone()))), "+take-back");
    check(&taking, &with(lent("todo", Some("b".repeat(32)))), "failed");
    check(&taking, &with(Heard::Says(None)), "failed");
    check(&taking, &with(to("other")), "failed");
    check(&taking, &Sight { secondary_exists: false, ..with(Heard::NotAsked) }, "failed");
    check(&taking, &with(Heard::Silent("x".to_owned())), "waits");
    let turn = step(&taking, &with(Heard::Silent("x".to_owned())), BEGUN.after(Duration::from_secs(61)));
    let Phase::Failed { why, recovered: false } = turn.next.phase else { panic!("{:?}", turn.next.phase) };
    assert!(why.starts_with("the failover failed; and app/spare does not answer"), "{why}");
}

#[test]
fn what_came_of_an_effect_is_noted() {
    let job = || Outcome::Job(JobId("7".to_owned()));
    for phase in [
        Phase::Protecting { job: None },
        Phase::FailingOver { attempt: 1, job: None },
        Phase::DeletingSecondary { job: None },
    ] {
        let next = noted(&record(phase.clone()), job(), BEGUN);
        assert_eq!(next.phase.job(), Some(&JobId("7".to_owned())));
        let next = noted(&record(phase.clone()), Outcome::Again("x".to_owned()), BEGUN);
        assert_eq!((next.phase, next.trouble.as_deref()), (phase, Some("x")));
    }
    let refused = |phase| noted(&record(phase), Outcome::Refused("no".to_owned()), BEGUN).phase;
    assert_eq!(refused(Phase::Lending), Phase::TakingBack { why: "no".to_owned() });
    assert!(matches!(refused(Phase::DeletingSecondary { job: None }), Phase::Failed { recovered: true, .. }));
    let unfit = noted(&record(Phase::Verifying), Outcome::Refused("no".to_owned()), BEGUN);
    assert_eq!((unfit.phase, unfit.unfit.as_deref()), (Phase::Verifying, Some("no")));
    // A question that found nobody has as long as what it asks about.
    let again = |seconds| {
        let later = BEGUN.after(Duration::from_secs(seconds));
        noted(&record(Phase::Verifying), Outcome::Again("x".to_owned()), later).phase
    };
    assert_eq!(again(179), Phase::Verifying);
    assert!(matches!(again(181), Phase::Failed { recovered: true, .. }));
}

#[test]
fn an_ended_migration_stays_as_it_is() {
    for phase in [Phase::Completed, Phase::Failed { why: "x".to_owned(), recovered: true }] {
        let ended = record(phase);
        check_at(&ended, &sight(moved()), 100_000, "");
        for outcome in [Outcome::Done, Outcome::Refused("x".to_owned()), Outcome::Again("x".to_owned())] {
            assert_eq!(noted(&ended, outcome, BEGUN.after(Duration::from_secs(100_000))).phase, ended.phase);
        }
    }
}
