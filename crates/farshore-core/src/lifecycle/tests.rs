//! The lifecycle's transcripts: every state, every verb, every event, and whole lives.
//!
//! A line of a script is `what -> what the item is then`. A verb is written as on the command line; what happened starts
//! with `+`. `->` is followed by the item in one line (see [`show`]), or by `no:` and the beginning of the refusal.

use super::*;
use crate::command::Verb;
use crate::ids::Kind;
use crate::workload::{Endpoint, Point, PointKind, Watermark};

mod properties;
mod records;

pub(super) fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

pub(super) fn new_item() -> Item {
    let id = ItemId::parse("machine/web-1").unwrap();
    Item::new(id, region("paris"), OnControlLoss::Hold, Moment(1_000_000))
}

pub(super) fn mark(seq: u64) -> Watermark {
    Watermark { epoch: Epoch(1), seq, bytes: seq * 4096, at: Moment(seq * 1_000_000) }
}

/// A promotion to the point after write `seq`, of a source that was last known at write 100.
pub(super) fn promotion(seq: u64) -> Promotion {
    let writes = 100u64.saturating_sub(seq);
    #[expect(clippy::cast_precision_loss, reason = "at most 100")]
    let loss = Loss { writes, bytes: writes * 4096, seconds: writes as f64 };
    Promotion {
        point: Point {
            id: format!("p{seq}"),
            watermark: mark(seq),
            at: mark(seq).at,
            kind: PointKind::Crash,
            name: None,
        },
        source_last_known: mark(100),
        source_last_seen: Moment(1),
        at_failover: loss,
    }
}

pub(super) fn kept(by: &str, after: u64, writes: u64) -> KeptDivergence {
    #[expect(clippy::cast_precision_loss, reason = "small in tests")]
    let loss = Loss { writes, bytes: writes * 4096, seconds: writes as f64 };
    let divergence = Divergence { after: mark(after), loss, exact: true, endpoints: Vec::new() };
    KeptDivergence { region: region(by), divergence }
}

fn command(words: &[&str]) -> Option<Command> {
    let failover = |planned, point| Command::Failover { planned, point, source_is_down: !planned };
    Some(match words {
        ["create"] => Command::Create {
            region: region("paris"),
            spec: "{}".into(),
            on_control_loss: OnControlLoss::Hold,
            automatic: false,
        },
        ["delete"] => Command::Delete,
        ["protect", to] => Command::Protect { target: region(to), mode: ReplicationMode::Async },
        ["disable"] => Command::Disable,
        ["test-failover"] => Command::TestFailover { point: PointChoice::Latest },
        ["cleanup"] => Command::CleanUp,
        ["failover"] => failover(false, PointChoice::Latest),
        ["failover", "--planned"] => failover(true, PointChoice::Latest),
        ["failover", point] => failover(false, PointChoice::Id((*point).to_owned())),
        ["failover", "--planned", point] => failover(true, PointChoice::Id((*point).to_owned())),
        ["change-point"] => Command::ChangePoint { point: PointChoice::Latest },
        ["commit"] => Command::Commit,
        ["reprotect"] => Command::Reprotect,
        ["failback"] => Command::Failback,
        ["mark-point"] => Command::MarkPoint { name: "before-upgrade".into() },
        ["drop-divergence"] => Command::DropDivergence,
        ["adopt"] => Command::Adopt { region: region("paris"), above: Epoch(9), others_are_down: false },
        ["adopt", active, above] => {
            Command::Adopt { region: region(active), above: Epoch(number(above)), others_are_down: false }
        }
        _ => return None,
    })
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}

fn event(item: &Item, words: &[&str]) -> Option<Event> {
    let at = Moment(item.failing.as_ref().map_or(0, |failing| failing.requested_at.0) + 2_500_000);
    Some(match words {
        ["+created"] => Event::Created,
        ["+seeded"] => Event::Seeded,
        ["+protect-undone"] => Event::ProtectUndone,
        ["+disabled"] => Event::Disabled,
        ["+drill-opened"] => Event::DrillOpened { point: "p7".into() },
        ["+drill-cleaned"] => Event::DrillCleaned { at },
        ["+source-stopped"] => Event::SourceStopped { proof: StopProof::Acknowledged },
        ["+word", who] => {
            Event::SourceStopped { proof: StopProof::OperatorsWord { who: (*who).to_owned(), at: Moment(7) } }
        }
        ["+shared"] => Event::SourceStopped { proof: StopProof::Shared },
        ["+failover-undone"] => Event::FailoverUndone,
        ["+promoted", seq] => Event::Promoted { epoch: item.epoch, promotion: promotion(number(seq)), at },
        ["+promoted", seq, "under", epoch] => {
            Event::Promoted { epoch: Epoch(number(epoch)), promotion: promotion(number(seq)), at }
        }
        ["+taken-back"] => Event::TakenBack { epoch: item.epoch, at },
        ["+point-changed", seq] => Event::PointChanged { promotion: promotion(number(seq)) },
        ["+committed"] => Event::Committed,
        ["+reprotected"] => Event::Reprotected,
        ["+reprotect-undone"] => Event::ReprotectUndone,
        ["+diverged", by, after, writes] => Event::DivergenceSeen(kept(by, number(after), number(writes))),
        ["+dropped"] => Event::DivergenceDropped,
        ["+adopted", how] => Event::Adopted {
            promotion: (*how == "promoted").then(|| promotion(5)),
            follows: *how == "follows",
            who: "ana".into(),
            at,
        },
        ["+ahead"] => Event::AheadOfStore { why: "oslo knows token 1.9".into() },
        _ => return None,
    })
}

/// `PHASE eEPOCH SOURCE>TARGET`, then whatever else there is.
fn show(item: &Item) -> String {
    let mut text = item.phase.as_str().to_owned();
    if let Phase::FailingOver { planned, stage } = item.phase {
        text += if planned { "(planned, " } else { "(unplanned, " };
        text += if stage == Stage::Revoking { "revoking)" } else { "promoting)" };
    }
    text += &format!(" e{} {}", item.epoch, item.source);
    if let Some(target) = &item.target {
        text += &format!(">{target}");
    }
    if let Phase::Protected { drill: Some(point) } = &item.phase {
        text += &format!(" drill={point}");
    }
    if let Some(kept) = &item.divergence {
        text += &format!(" kept={}:{}", kept.region, kept.divergence.loss.writes);
    }
    if let (Some(report), Phase::FailedOver) = (&item.failover, &item.phase) {
        text += &format!(" at={} bound={}", report.promotion.point.id, report.promotion.at_failover.writes);
        match (&report.loss_final, report.exact) {
            (Some(loss), true) => text += &format!(" lost={}", loss.writes),
            (Some(loss), false) => text += &format!(" lost<={}", loss.writes),
            (None, exact) => assert!(!exact, "exact, but not said what"),
        }
    }
    text
}

fn take(item: &Item, what: &str) -> Result<Item, Refusal> {
    let words: Vec<&str> = what.split_whitespace().collect();
    if let Some(command) = command(&words) {
        return item.request(&command, Moment(5_000_000));
    }
    let event = event(item, &words).unwrap_or_else(|| panic!("the script says {what:?}"));
    item.step(&event)
}

/// Runs a script from `item` on, checks each line, and returns what the item is at its end.
fn run(mut item: Item, script: &str) -> Item {
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (what, expected) = line.split_once("->").unwrap_or((line, "*"));
        let expected = expected.trim();
        let before = item.clone();
        let shown = match take(&item, what) {
            Ok(next) => {
                item = next;
                show(&item)
            }
            Err(refusal) => format!("no: {refusal}"),
        };
        let fits = match expected.strip_prefix("no:") {
            Some(_) => shown.starts_with(expected),
            None => (expected == "*" && !shown.starts_with("no:")) || shown == expected,
        };
        assert!(fits, "in the line\n  {line}\nthe item was {}\nand then\n  {shown}", show(&before));
        assert!(item.epoch >= before.epoch);
        assert!(!item.next_actions().is_empty(), "no verb is legal in {}", show(&item));
    }
    item
}

fn check(script: &str) -> Item {
    run(new_item(), script)
}

/// The states of the tables below, by the script that leads there.
fn state(name: &str) -> Item {
    let protected = "+created\nprotect oslo\n+seeded\n";
    let failed_over = "failover\n+source-stopped\n+promoted 90\n";
    let away = format!("{protected}{failed_over}+committed\nreprotect\n+reprotected\n");
    let script = match name {
        "creating" => String::new(),
        "unprotected" => "+created".into(),
        "seeding" => "+created\nprotect oslo".into(),
        "protected" => protected.into(),
        "drilling" => format!("{protected}+drill-opened"),
        "revoking" => format!("{protected}failover"),
        "promoting" => format!("{protected}failover\n+source-stopped"),
        "failed-over" => format!("{protected}{failed_over}"),
        "committed" => format!("{protected}{failed_over}+committed"),
        "reprotecting" => format!("{protected}{failed_over}+committed\nreprotect"),
        "protected-away" => away,
        "diverged" => format!("{away}+diverged paris 90 3"),
        "deleting" => "+created\ndelete".into(),
        "needs-user" => format!("{protected}+ahead"),
        _ => panic!("no state {name}"),
    };
    check(&script)
}

const STATES: [&str; 14] = [
    "creating",
    "unprotected",
    "seeding",
    "protected",
    "drilling",
    "revoking",
    "promoting",
    "failed-over",
    "committed",
    "reprotecting",
    "protected-away",
    "diverged",
    "deleting",
    "needs-user",
];

/// What every state allows. Everything else is refused, and the refusal names exactly these.
const VERBS: [(&str, &str); 14] = [
    ("creating", "delete"),
    ("unprotected", "protect, delete"),
    ("seeding", "disable"),
    ("protected", "test-failover, failover, mark-point, disable"),
    ("drilling", "cleanup, failover, mark-point"),
    ("revoking", "failover"),
    ("promoting", "failover"),
    ("failed-over", "change-point, commit"),
    ("committed", "reprotect, disable"),
    ("reprotecting", "disable"),
    ("protected-away", "failback, test-failover, failover, mark-point, disable"),
    ("diverged", "failback, test-failover, failover, mark-point, disable, drop-divergence"),
    ("deleting", "delete"),
    ("needs-user", "adopt, delete"),
];

#[test]
fn points_are_named_only_where_there_are_points_to_name() {
    for kind in [Kind::App, Kind::Hub, Kind::Realtime] {
        let mut item = state("protected");
        item.id.kind = kind;
        assert!(!item.next_actions().contains(&Verb::MarkPoint), "{kind}");
        let refused = item.request(&any_command(Verb::MarkPoint), Moment(1)).unwrap_err();
        assert!(matches!(refused, Refusal::NoNamedPoints { .. }), "{refused}");
    }
}

pub(super) fn any_command(verb: Verb) -> Command {
    let words: &[&str] = if verb == Verb::Protect { &["protect", "oslo"] } else { &[verb.as_str()] };
    command(words).unwrap_or_else(|| panic!("no command for {verb}"))
}

#[test]
fn every_state_takes_its_verbs_and_names_them_when_it_refuses_another() {
    assert_eq!(VERBS.map(|(name, _)| name), STATES);
    for (name, possible) in VERBS {
        let item = state(name);
        assert_eq!(list(&item.next_actions()), possible, "{name}");
        for verb in Verb::ALL {
            let allowed = possible.split(", ").any(|word| word == verb.as_str());
            match item.request(&any_command(verb), Moment(9)) {
                Ok(_) => assert!(allowed, "{name} took {verb}"),
                Err(Refusal::AtHome { .. }) => assert_eq!(verb, Verb::Failback, "{name}"),
                Err(refusal) => {
                    assert!(!allowed, "{name} refused {verb}: {refusal}");
                    let says = format!("{verb} is not possible now; possible: {possible}");
                    assert!(refusal.to_string().ends_with(&says), "{name}: {refusal}");
                }
            }
        }
    }
}

/// What fits each state, and where it leads; `=`: the phase stays. What is not in the line does not fit.
const EVENTS: [(&str, &str); 14] = [
    ("creating", "created:Unprotected"),
    ("unprotected", ""),
    ("seeding", "seeded:Protected protect-undone:Unprotected disabled:Unprotected"),
    ("protected", "drill-opened:= drill-cleaned:= disabled:Unprotected"),
    ("drilling", "drill-opened:= drill-cleaned:= disabled:Unprotected"),
    ("revoking", "source-stopped:= word:= shared:= failover-undone:Protected"),
    ("promoting", "source-stopped:= word:= shared:= promoted:FailedOver"),
    ("failed-over", "point-changed:= committed:Committed"),
    ("committed", "disabled:Unprotected"),
    ("reprotecting", "reprotected:Protected reprotect-undone:Committed disabled:Unprotected"),
    ("protected-away", "drill-opened:= drill-cleaned:= disabled:Unprotected"),
    ("diverged", "drill-opened:= drill-cleaned:= disabled:Unprotected"),
    ("deleting", ""),
    ("needs-user", ""),
];

/// Every sort of event, as a script writes it.
pub(super) const ALL_EVENTS: [&str; 20] = [
    "+created",
    "+seeded",
    "+protect-undone",
    "+disabled",
    "+drill-opened",
    "+drill-cleaned",
    "+source-stopped",
    "+word ana",
    "+shared",
    "+failover-undone",
    "+promoted 90",
    "+taken-back",
    "+point-changed 80",
    "+committed",
    "+reprotected",
    "+reprotect-undone",
    "+diverged paris 90 3",
    "+diverged oslo 90 3",
    "+dropped",
    "+ahead",
];

#[test]
fn every_state_takes_what_fits_and_refuses_every_other_event() {
    assert_eq!(EVENTS.map(|(name, _)| name), STATES);
    for (name, fits) in EVENTS {
        let item = state(name);
        for what in ALL_EVENTS {
            let short = what.split(' ').next().unwrap().trim_start_matches('+');
            let expected = match short {
                "ahead" => Some("NeedsUser"),
                "dropped" => Some("="),
                // Only a region that has no right to write can hold writes that nobody else has.
                "diverged" => (!what.contains(item.source.as_str())).then_some("="),
                _ => fits.split(' ').find_map(|fit| fit.strip_prefix(short)?.strip_prefix(':')),
            };
            let expected = expected.map(|phase| if phase == "=" { item.phase.as_str() } else { phase });
            match take(&item, what) {
                Ok(next) => assert_eq!(Some(next.phase.as_str()), expected, "{name}: {what}"),
                Err(refusal) => {
                    assert_eq!(expected, None, "{name}: {what}: {refusal}");
                    let says = format!("machine/web-1 is {}: ", item.phase.as_str());
                    assert!(refusal.to_string().starts_with(&says), "{refusal}");
                    assert!(refusal.to_string().ends_with(" does not fit"), "{refusal}");
                }
            }
        }
    }
}

#[test]
fn a_life_there_and_back_again() {
    let item = check(
        "create          -> no: machine/web-1 is Creating: create is not possible now; possible: delete
         +created        -> Unprotected e1 paris
         protect paris   -> no: machine/web-1 is active in paris: choose another region as its target
         protect oslo    -> Seeding e1 paris>oslo
         protect oslo    -> no: machine/web-1 is Seeding: protect is not possible now
         +seeded         -> Protected e1 paris>oslo
         test-failover   -> Protected e1 paris>oslo
         +drill-opened   -> Protected e1 paris>oslo drill=p7
         test-failover   -> no: machine/web-1 is Protected: test-failover is not possible now; possible: cleanup
         disable         -> no: machine/web-1 is Protected: disable is not possible now; possible: cleanup
         +drill-cleaned  -> Protected e1 paris>oslo
         mark-point      -> Protected e1 paris>oslo
         failback        -> no: machine/web-1 is at home in paris: there is nothing to fail back
         failover        -> FailingOver(unplanned, revoking) e2 paris>oslo
         +promoted 90    -> no: machine/web-1 is FailingOver: promoted does not fit
         +word ana       -> FailingOver(unplanned, promoting) e2 paris>oslo
         +promoted 90 under 1 -> no: machine/web-1 is FailingOver: promoted does not fit
         +promoted 90    -> FailedOver e2 oslo>paris at=p90 bound=10
         failover        -> no: machine/web-1 is FailedOver: failover is not possible now; possible: change-point, commit
         change-point    -> FailedOver e2 oslo>paris at=p90 bound=10
         +point-changed 40 -> FailedOver e2 oslo>paris at=p40 bound=60
         +point-changed 90 -> FailedOver e2 oslo>paris at=p90 bound=10
         commit          -> FailedOver e2 oslo>paris at=p90 bound=10
         +committed      -> Committed e2 oslo>paris
         +diverged paris 90 12 -> Committed e2 oslo>paris kept=paris:12
         reprotect       -> Reprotecting e2 oslo>paris kept=paris:12
         +reprotected    -> Protected e2 oslo>paris kept=paris:12
         failback        -> FailingOver(planned, revoking) e3 oslo>paris kept=paris:12
         +source-stopped -> FailingOver(planned, promoting) e3 oslo>paris kept=paris:12
         +promoted 100   -> FailedOver e3 paris>oslo kept=paris:12 at=p100 bound=0 lost=0
         +committed      -> Committed e3 paris>oslo kept=paris:12
         drop-divergence -> Committed e3 paris>oslo kept=paris:12
         +dropped        -> Committed e3 paris>oslo
         reprotect       -> Reprotecting e3 paris>oslo
         +reprotected    -> Protected e3 paris>oslo
         disable         -> Protected e3 paris>oslo
         +disabled       -> Unprotected e3 paris
         delete          -> Deleting e3 paris",
    );
    assert_eq!(item.words.len(), 1, "the operator's word is kept for ever");
    assert_eq!(item.home, region("paris"));
}

#[test]
fn the_report_has_its_numbers() {
    let report = state("failed-over").failover.unwrap();
    assert_eq!((report.from, report.to), (region("paris"), region("oslo")));
    assert_eq!(report.requested_at, Moment(5_000_000));
    assert!((report.rto_seconds - 2.5).abs() < 1e-9, "{}", report.rto_seconds);
    assert_eq!(report.promotion, promotion(90));
    assert_eq!((report.loss_final, report.exact), (None, false));
    assert_eq!(report.proof, StopProof::Acknowledged);
}

#[test]
fn the_final_loss_is_only_believed_when_it_is_counted_from_the_point_that_is_served() {
    run(
        state("failed-over"),
        "+diverged paris 40 70   -> FailedOver e2 oslo>paris kept=paris:70 at=p90 bound=10
         +diverged paris 90 12   -> FailedOver e2 oslo>paris kept=paris:12 at=p90 bound=10 lost=12
         +diverged oslo 90 12    -> no: machine/web-1 is FailedOver: divergence-seen does not fit
         +point-changed 40       -> FailedOver e2 oslo>paris kept=paris:12 at=p40 bound=60
         +diverged paris 90 12   -> FailedOver e2 oslo>paris kept=paris:12 at=p40 bound=60
         +diverged paris 40 62   -> FailedOver e2 oslo>paris kept=paris:62 at=p40 bound=60 lost=62
         +point-changed 90       -> FailedOver e2 oslo>paris kept=paris:62 at=p90 bound=10
         +diverged paris 90 12   -> FailedOver e2 oslo>paris kept=paris:12 at=p90 bound=10 lost=12",
    );
}

#[test]
fn a_bound_after_a_power_cut_is_called_a_bound() {
    let mut bound = kept("paris", 90, 12);
    bound.divergence.exact = false;
    let item = state("failed-over").step(&Event::DivergenceSeen(bound)).unwrap();
    assert_eq!(show(&item), "FailedOver e2 oslo>paris kept=paris:12 at=p90 bound=10 lost<=12");
}

#[test]
fn a_loss_that_cannot_be_counted_stays_the_bound_that_was_known() {
    let mut unknown = kept("paris", 90, 0);
    unknown.divergence.exact = false;
    unknown.divergence.endpoints =
        vec![Endpoint { name: "database".to_owned(), uri: "file:///databases/web-1".to_owned() }];
    let item = state("failed-over").step(&Event::DivergenceSeen(unknown)).unwrap();
    let report = item.failover.clone().unwrap();
    assert_eq!((report.loss_final, report.exact), (Some(report.promotion.at_failover), false));
    assert!(item.divergence.is_some_and(|kept| !kept.divergence.is_counted()), "what is there is kept");
}

#[test]
fn an_old_source_that_had_nothing_more_settles_the_loss_and_keeps_nothing() {
    run(state("failed-over"), "+diverged paris 90 0  -> FailedOver e2 oslo>paris at=p90 bound=10 lost=0");
    run(state("diverged"), "+diverged paris 90 0 -> Protected e2 oslo>paris");
}

#[test]
fn a_planned_failover_loses_nothing_and_says_so_only_while_it_is_true() {
    run(
        state("protected"),
        "failover --planned p7 -> no: a planned failover of machine/web-1 goes to the latest point
         failover --planned -> FailingOver(planned, revoking) e2 paris>oslo
         +source-stopped    -> FailingOver(planned, promoting) e2 paris>oslo
         +promoted 100      -> FailedOver e2 oslo>paris at=p100 bound=0 lost=0
         +point-changed 60  -> FailedOver e2 oslo>paris at=p60 bound=40
         +point-changed 100 -> FailedOver e2 oslo>paris at=p100 bound=0 lost=0
         +committed         -> Committed e2 oslo>paris",
    );
}

#[test]
fn a_failover_that_was_given_up_grants_a_new_right_to_the_old_region() {
    run(
        state("protected"),
        "failover             -> FailingOver(unplanned, revoking) e2 paris>oslo
         +failover-undone     -> Protected e3 paris>oslo
         +failover-undone     -> no: machine/web-1 is Protected: failover-undone does not fit
         +source-stopped      -> no: machine/web-1 is Protected: source-stopped does not fit
         failover --planned   -> FailingOver(planned, revoking) e4 paris>oslo
         +source-stopped      -> FailingOver(planned, promoting) e4 paris>oslo
         +failover-undone     -> no: machine/web-1 is FailingOver: failover-undone does not fit
         +promoted 100        -> FailedOver e4 oslo>paris at=p100 bound=0 lost=0",
    );
}

#[test]
fn a_failover_ends_an_open_drill_and_giving_up_brings_it_back() {
    run(
        state("drilling"),
        "failover         -> FailingOver(unplanned, revoking) e2 paris>oslo
         +failover-undone -> Protected e3 paris>oslo drill=p7
         failover         -> FailingOver(unplanned, revoking) e4 paris>oslo
         failover         -> FailingOver(unplanned, revoking) e5 paris>oslo
         +failover-undone -> Protected e6 paris>oslo drill=p7
         failover         -> FailingOver(unplanned, revoking) e7 paris>oslo
         +word ana        -> FailingOver(unplanned, promoting) e7 paris>oslo
         +promoted 90     -> FailedOver e7 oslo>paris at=p90 bound=10
         +committed       -> Committed e7 oslo>paris
         reprotect        -> *
         +reprotected     -> Protected e7 oslo>paris",
    );
}

#[test]
fn a_failover_abandoned_after_its_point_of_no_return_goes_on_from_there() {
    let item = run(
        state("protected"),
        "failover           -> FailingOver(unplanned, revoking) e2 paris>oslo
         +word ana          -> FailingOver(unplanned, promoting) e2 paris>oslo
         failover --planned -> FailingOver(unplanned, promoting) e3 paris>oslo
         +word ana          -> FailingOver(unplanned, promoting) e3 paris>oslo
         +promoted 90 under 2 -> no: machine/web-1 is FailingOver: promoted does not fit
         +promoted 90       -> FailedOver e3 oslo>paris at=p90 bound=10",
    );
    assert_eq!(item.words.len(), 1, "the same word is not two words");
    assert!(!item.failover.unwrap().planned, "nobody drained the source, so nothing may be called planned");
}

#[test]
fn a_drained_source_stays_drained_when_the_failover_goes_on() {
    run(
        state("protected"),
        "failover --planned -> *
         +source-stopped    -> *
         failover           -> FailingOver(planned, promoting) e3 paris>oslo
         +promoted 100      -> FailedOver e3 oslo>paris at=p100 bound=0 lost=0",
    );
    run(
        state("protected"),
        "failover --planned -> *
         +source-stopped    -> *
         failover p60       -> FailingOver(unplanned, promoting) e3 paris>oslo
         +promoted 60       -> FailedOver e3 oslo>paris at=p60 bound=40",
    );
}

#[test]
fn failback_goes_home_and_nowhere_else() {
    run(
        state("protected-away"),
        "disable       -> *
         +disabled     -> Unprotected e2 oslo
         protect rome  -> Seeding e2 oslo>rome
         +seeded       -> Protected e2 oslo>rome
         failback      -> no: machine/web-1 replicates to rome, but its home is paris
         failover --planned -> FailingOver(planned, revoking) e3 oslo>rome",
    );
    run(state("unprotected"), "failback -> no: machine/web-1 is Unprotected: failback is not possible now");
}

#[test]
fn every_word_of_an_operator_is_kept_for_ever() {
    let item = run(
        state("protected"),
        "failover -> *
         +word ana -> *
         +promoted 90 -> *
         +committed -> *
         reprotect -> *
         +reprotected -> *
         failover -> *
         +word bo -> *
         +promoted 95 -> *
         +committed -> *
         disable -> *
         +disabled -> Unprotected e3 paris
         protect oslo -> *
         +ahead -> NeedsUser e3 paris>oslo
         delete -> Deleting e3 paris>oslo",
    );
    let who: Vec<_> = item
        .words
        .iter()
        .map(|word| match word {
            StopProof::OperatorsWord { who, .. } => who.as_str(),
            other => panic!("{other:?} is nobody's word"),
        })
        .collect();
    assert_eq!(who, ["ana", "bo"]);
}

#[test]
fn where_two_may_serve_at_once_nobody_gives_a_word_and_the_way_home_is_the_same() {
    let item = run(
        state("protected"),
        "failover           -> FailingOver(unplanned, revoking) e2 paris>oslo
         +shared            -> FailingOver(unplanned, promoting) e2 paris>oslo
         +promoted 90       -> FailedOver e2 oslo>paris at=p90 bound=10
         +committed         -> Committed e2 oslo>paris
         reprotect          -> *
         +reprotected       -> Protected e2 oslo>paris
         failback           -> FailingOver(planned, revoking) e3 oslo>paris
         +source-stopped    -> FailingOver(planned, promoting) e3 oslo>paris
         +promoted 100      -> FailedOver e3 paris>oslo at=p100 bound=0 lost=0",
    );
    assert!(item.words.is_empty(), "nobody gave their word");
    let lost = run(state("protected"), "failover -> *\n+shared -> *\n+promoted 90 -> *");
    assert_eq!(lost.failover.unwrap().proof, StopProof::Shared);
}

/// The same item, of a kind that two regions may serve at once.
fn shared(item: Item) -> Item {
    Item { id: ItemId::parse("realtime/chat").unwrap(), ..item }
}

#[test]
fn where_two_may_serve_at_once_a_home_that_does_not_open_is_left_again() {
    run(
        shared(state("protected-away")),
        "failback           -> FailingOver(planned, revoking) e3 oslo>paris
         +source-stopped    -> FailingOver(planned, promoting) e3 oslo>paris
         +failover-undone   -> Committed e4 oslo>paris
         reprotect          -> *
         +reprotected       -> Protected e4 oslo>paris",
    );
    // A target that has never been a source goes on following.
    run(
        shared(state("protected")),
        "failover --planned -> *
         +source-stopped    -> *
         +failover-undone   -> Protected e3 paris>oslo",
    );
    run(
        shared(state("protected")),
        "failover           -> *
         +shared            -> *
         +failover-undone   -> no: realtime/chat is FailingOver: failover-undone does not fit",
    );
}

#[test]
fn where_two_may_serve_at_once_a_region_that_dies_unprotected_is_left_for_the_one_before() {
    let home_again = run(
        shared(state("protected-away")),
        "failback           -> *
         +source-stopped    -> *
         +promoted 100      -> FailedOver e3 paris>oslo at=p100 bound=0 lost=0",
    );
    let item = run(
        home_again.clone(),
        "failover --planned -> no: realtime/chat is FailedOver
         failover           -> FailingOver(unplanned, revoking) e4 paris>oslo
         +shared            -> FailingOver(unplanned, promoting) e4 paris>oslo
         +promoted 100      -> no: realtime/chat is FailingOver: promoted does not fit
         +taken-back        -> Committed e4 oslo>paris
         reprotect          -> *
         +reprotected       -> Protected e4 oslo>paris",
    );
    let report = item.failover.unwrap();
    assert_eq!((report.from, report.to, report.planned), (region("paris"), region("oslo"), false));
    assert_eq!(report.promotion.point.id, "p100", "from there on the histories differ");
    run(
        home_again,
        "+committed         -> *
         failover           -> *
         +failover-undone   -> Committed e5 paris>oslo",
    );
    // A machine serves in one region at a time.
    run(state("failed-over"), "failover -> no: machine/web-1 is FailedOver: failover is not possible now");
    run(state("promoting"), "+taken-back -> no: machine/web-1 is FailingOver: taken-back does not fit");
}

#[test]
fn a_person_decides_where_store_and_agents_disagree() {
    let ahead = || run(state("protected"), "+ahead -> NeedsUser e1 paris>oslo");
    run(ahead(), "adopt oslo 7 -> NeedsUser e8 oslo>paris\n+adopted follows -> Protected e8 oslo>paris");
    run(ahead(), "adopt paris 2 -> NeedsUser e3 paris>oslo\n+adopted alone -> Unprotected e3 paris");
    let item = run(ahead(), "adopt oslo 7 -> NeedsUser e8 oslo>paris\n+adopted promoted -> *\ncommit -> *");
    assert_eq!(item.phase, Phase::FailedOver);
    assert!(matches!(item.words.as_slice(), [StopProof::OperatorsWord { who, .. }] if who == "ana"));
    run(
        ahead(),
        "adopt bergen 7 -> no: machine/web-1 has never been in bergen: its regions are paris and oslo",
    );
    run(state("protected"), "adopt oslo 7 -> no: machine/web-1 is Protected: adopt is not possible now");
}

#[test]
fn only_the_region_with_the_right_renews_it() {
    let renews = |item: &Item, name: &str, epoch| item.may_renew(&region(name), Epoch(epoch));
    let item = state("protected");
    assert!(renews(&item, "paris", 1) && !renews(&item, "oslo", 1) && !renews(&item, "paris", 2));
    let revoking = run(item, "failover -> *");
    assert!(
        !renews(&revoking, "paris", 1) && !renews(&revoking, "paris", 2) && !renews(&revoking, "oslo", 2)
    );
    let promoting = run(revoking.clone(), "+source-stopped -> *");
    assert!(renews(&promoting, "oslo", 2) && !renews(&promoting, "paris", 2));
    let undone = run(revoking, "+failover-undone -> *");
    assert!(renews(&undone, "paris", 3) && !renews(&undone, "paris", 1));
}

#[test]
fn what_is_undone_leaves_the_item_where_it_was() {
    run(state("seeding"), "+protect-undone -> Unprotected e1 paris\nprotect oslo -> Seeding e1 paris>oslo");
    run(
        state("reprotecting"),
        "+reprotect-undone -> Committed e2 oslo>paris
         reprotect -> Reprotecting e2 oslo>paris",
    );
}

#[test]
fn a_refusal_that_has_nothing_to_offer_says_so() {
    assert_eq!(list(&[]), "nothing until the job under way has ended");
}
