//! What comes next in a migration, as a function.
//!
//! [`step`] takes the record and what was seen, and returns the record as it will be and what must be done. The caller stores
//! the record first, then does it, and tells [`noted`] what came of it. A crash in between repeats what was to be done: every
//! effect is one that may be done twice.

use std::time::Duration;

use farshore_core::command::Command;
use farshore_core::ids::{JobId, Name};
use farshore_core::lifecycle::{Item, Phase as ItemPhase, Stage};
use farshore_core::moment::Moment;
use farshore_core::workload::{PointChoice, ReplicationMode};

use super::record::{Database, Difference, Migration, Phase, Release, Report};

/// What does not come about for so long before the primary's failover has begun will not: longer than a node takes to start
/// again.
const PATIENCE: Duration = Duration::from_secs(60);
/// The recovered app must run by then: a large database is restored before the failover ends, so this is for its processes.
const VERIFY_WITHIN: Duration = Duration::from_secs(180);
/// Attempts to move the primary: one with its source and one without, and one more for a source that came back meanwhile.
const FAILOVER_ATTEMPTS_MAX: u32 = 3;

/// A source that is being stopped and is silent for so long is gone without, where that is allowed: longer than its agent needs
/// to start again.
const SILENT_MAX: Duration = Duration::from_secs(5);

/// What somebody was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard<T> {
    /// Nobody asked: the phase does not need it.
    NotAsked,
    /// No answer, and why.
    Silent(String),
    /// The answer.
    Says(T),
}

/// How the job of the present phase stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobSeen {
    /// It goes on.
    UnderWay,
    /// It takes back what it has done.
    TurningBack,
    /// Until a person speaks.
    Stuck(String),
    /// It is done.
    Succeeded,
    /// It is over and nothing came of it.
    Ended(String),
    /// A person has cancelled it.
    Cancelled(String),
    /// The migration itself has cancelled it, to go on without the source.
    GaveWay,
}

/// Whose capacity a secondary has lent its own to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Loan {
    /// Which app's it is.
    pub(super) to: Name,
    /// For which migration; `None`: that is not known, or a failover took it.
    pub(super) by: Option<String>,
}

impl Loan {
    fn is_for(&self, record: &Migration) -> bool {
        self.to == record.primary && self.by.as_ref().is_none_or(|by| *by == record.id)
    }
}

/// All that [`step`] looks at, as far as the phase needs it.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    /// The primary's record.
    pub(super) primary: Option<Item>,
    /// The secondary is there.
    pub(super) secondary_exists: bool,
    /// The job that the phase names.
    pub(super) job: Option<JobSeen>,
    /// Whether the primary's region answers.
    pub(super) source: Heard<()>,
    /// For whom the secondary's capacity is.
    pub(super) loan: Heard<Option<Loan>>,
    /// What the recovered app looks like.
    pub(super) check: Heard<Check>,
}

/// The recovered app, as its region tells of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Check {
    /// It is active there and serves.
    pub(super) ready: bool,
    /// What its processes do.
    pub(super) state: String,
    pub(super) mode: String,
    pub(super) instances: u32,
    pub(super) release: Option<Release>,
    /// The commit that the files were held against; `None`: nothing was ever pushed.
    pub(super) commit: Option<String>,
    pub(super) same: bool,
    pub(super) differences: Vec<Difference>,
    pub(super) database: Option<Database>,
    pub(super) ttl_seconds: u32,
}

/// What must be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Effect {
    /// Tell the secondary that its capacity is the primary's.
    Lend,
    /// Give it back.
    TakeBack,
    /// Ask for this of the primary; the same name is the same request.
    Ask(String, Command),
    /// Cancel the job, whose source is silent.
    GiveWay,
    /// Ask for the secondary's removal.
    DeleteSecondary,
    /// Give the recovered app the secondary's mode.
    Fit,
}

/// What came of an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is done.
    Done,
    /// This job does it.
    Job(JobId),
    /// There is nothing to do it to any more.
    Gone,
    /// Not now.
    Again(String),
    /// Not at all.
    Refused(String),
}

/// The record as it will be, and what to do when it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turn {
    pub(super) next: Migration,
    pub(super) effect: Option<Effect>,
}

impl Turn {
    fn wait(next: Migration) -> Self {
        Self { next, effect: None }
    }
    fn to(record: &Migration, phase: Phase, now: Moment) -> Self {
        Self::wait(record.clone().in_phase(phase, now))
    }
    fn act(record: &Migration, effect: Effect) -> Self {
        Self { next: record.clone(), effect: Some(effect) }
    }
}

/// What comes next.
pub(super) fn step(record: &Migration, seen: &Sight, now: Moment) -> Turn {
    match &record.phase {
        Phase::Lending => lending(record, seen, now),
        Phase::Protecting { job } => protecting(record, job.is_some(), seen, now),
        Phase::FailingOver { attempt, job } => failing_over(record, *attempt, job.is_some(), seen, now),
        Phase::Verifying => verifying(record, seen, now),
        Phase::DeletingSecondary { job } => deleting(record, job.is_some(), seen, now),
        Phase::TakingBack { why } => taking_back(record, why, seen, now),
        Phase::Completed | Phase::Failed { .. } => Turn::wait(record.clone()),
    }
}

/// What the record becomes by what came of an effect.
pub(super) fn noted(record: &Migration, outcome: Outcome, now: Moment) -> Migration {
    let mut next = record.clone();
    match (outcome, &mut next.phase) {
        (Outcome::Job(id), Phase::Protecting { job } | Phase::FailingOver { job, .. })
        | (Outcome::Job(id), Phase::DeletingSecondary { job }) => {
            *job = Some(id);
            next.trouble = None;
            next
        }
        (Outcome::Refused(why), Phase::Verifying) => Migration { unfit: Some(why), ..next },
        (Outcome::Refused(why), _) => give_up(record, &why, now).next,
        (Outcome::Again(why), Phase::Verifying) => verify_later(record, why, now).next,
        (Outcome::Again(why), _) => tolerate(record, why, now).next,
        (Outcome::Done | Outcome::Gone | Outcome::Job(_), _) => next,
    }
}

fn lending(record: &Migration, seen: &Sight, now: Moment) -> Turn {
    match &seen.loan {
        _ if !seen.secondary_exists => give_up(record, &gone(record), now),
        Heard::Says(Some(loan)) if loan.is_for(record) => {
            Turn::to(record, Phase::Protecting { job: None }, now)
        }
        Heard::Silent(why) => tolerate(record, why.clone(), now),
        Heard::Says(_) if now.since(record.since) >= PATIENCE => {
            give_up(record, &format!("app/{} does not lend its capacity", record.secondary), now)
        }
        Heard::Says(_) | Heard::NotAsked => Turn::act(record, Effect::Lend),
    }
}

fn protecting(record: &Migration, has_job: bool, seen: &Sight, now: Moment) -> Turn {
    let Some(item) = &seen.primary else { return give_up(record, &primary_gone(record), now) };
    match &seen.job {
        Some(JobSeen::UnderWay | JobSeen::TurningBack | JobSeen::GaveWay) => {
            return Turn::wait(record.clone().at_work());
        }
        Some(JobSeen::Stuck(why)) => {
            return Turn::wait(record.clone().waiting_for_a_person(stuck(record, why)));
        }
        Some(JobSeen::Ended(why) | JobSeen::Cancelled(why)) => return give_up(record, why, now),
        // Its record was not there: it is asked for again, under the same name.
        None if has_job => return Turn::to(record, Phase::Protecting { job: None }, now),
        Some(JobSeen::Succeeded) | None => {}
    }
    let toward = item.target.as_ref() == Some(&record.to);
    let command = match &item.phase {
        _ if item.source == record.to => return Turn::to(record, Phase::Verifying, now),
        ItemPhase::Protected { .. } | ItemPhase::FailingOver { .. } if toward => {
            return Turn::to(record, Phase::FailingOver { attempt: 1, job: None }, now);
        }
        ItemPhase::Unprotected => {
            Command::Protect { target: record.to.clone(), mode: ReplicationMode::Async }
        }
        ItemPhase::FailedOver if toward => Command::Commit,
        ItemPhase::Committed if toward => Command::Reprotect,
        phase => {
            let why = format!(
                "app/{} is {} by now: see farshore status app/{}",
                record.primary,
                phase.as_str(),
                record.primary
            );
            return tolerate(record, why, now);
        }
    };
    Turn::act(record, Effect::Ask(command.verb().as_str().to_owned(), command))
}

fn failing_over(record: &Migration, attempt: u32, has_job: bool, seen: &Sight, now: Moment) -> Turn {
    let Some(item) = &seen.primary else { return give_up(record, &primary_gone(record), now) };
    if item.source == record.to && item.failing.is_none() {
        return Turn::to(record, Phase::Verifying, now);
    }
    let again = |attempt| Turn::to(record, Phase::FailingOver { attempt, job: None }, now);
    match &seen.job {
        Some(JobSeen::UnderWay) => return moving(record, item, attempt, seen, now),
        Some(JobSeen::TurningBack) => return Turn::wait(record.clone()),
        Some(JobSeen::GaveWay) => return again(attempt + 1),
        // The job was read before the item: somebody moved it on since.
        Some(JobSeen::Succeeded) => return Turn::to(record, Phase::Verifying, now),
        Some(JobSeen::Stuck(why)) => {
            return Turn::wait(record.clone().waiting_for_a_person(stuck(record, why)));
        }
        Some(JobSeen::Ended(_)) if is_past_no_return(item) && attempt < FAILOVER_ATTEMPTS_MAX => {
            return again(attempt + 1);
        }
        Some(JobSeen::Ended(_)) if may_go_without(record, item, seen) && attempt < FAILOVER_ATTEMPTS_MAX => {
            return again(attempt + 1);
        }
        Some(JobSeen::Ended(why) | JobSeen::Cancelled(why)) => {
            return give_up_moving(record, item, &with_way_out(why, item, seen), now);
        }
        None if has_job => return again(attempt),
        None => {}
    }
    let planned = match &seen.source {
        _ if is_past_no_return(item) => false,
        Heard::Says(()) => true,
        Heard::Silent(_) if may_go_without(record, item, seen) => false,
        Heard::Silent(why) => {
            let why = format!("region {} does not answer any more ({why}): {}", item.source, SAY_SO);
            return tolerate(record, why, now);
        }
        Heard::NotAsked => return Turn::wait(record.clone()),
    };
    let source_is_down = !planned && record.source_is_down;
    let command = Command::Failover { planned, point: PointChoice::Latest, source_is_down };
    Turn::act(record, Effect::Ask(format!("failover-{attempt}"), command))
}

/// A planned move waits for its source as long as it takes: whoever waits for the move must hear when that may be for ever.
fn moving(record: &Migration, item: &Item, attempt: u32, seen: &Sight, now: Moment) -> Turn {
    let stops_source = matches!(item.phase, ItemPhase::FailingOver { planned: true, stage: Stage::Revoking });
    let why = match &seen.source {
        Heard::Silent(why) if stops_source => why,
        Heard::NotAsked if !record.stuck => return Turn::wait(record.clone()),
        _ => return Turn::wait(record.clone().at_work()),
    };
    let goes_without = may_go_without(record, item, seen) && attempt < FAILOVER_ATTEMPTS_MAX;
    if let Some(since) = record.silent_since {
        let is_over = goes_without && now.since(since) >= SILENT_MAX;
        return if is_over { Turn::act(record, Effect::GiveWay) } else { Turn::wait(record.clone()) };
    }
    let way_out = if goes_without {
        format!("if it stays silent for {SILENT_MAX:?}, it is gone without")
    } else {
        let job = record.phase.job().map(|job| job.0.as_str()).unwrap_or_default();
        format!("farshore job cancel {job} ends this; {SAY_SO}")
    };
    let waiting = record.clone().waiting(format!("region {} does not answer: {why}; {way_out}", item.source));
    Turn::wait(Migration { silent_since: Some(now), ..waiting })
}

/// What an operator does when a region falls silent that answered a moment ago.
const SAY_SO: &str = "if you know that it is down, migrate again and say so";

/// Why a job failed, and if its source is silent, what to do about that.
fn with_way_out(why: &str, item: &Item, seen: &Sight) -> String {
    match &seen.source {
        Heard::Silent(_) => format!("{why}; region {} does not answer any more: {SAY_SO}", item.source),
        Heard::NotAsked | Heard::Says(()) => why.to_owned(),
    }
}

/// The target is being opened: only forward from here.
fn is_past_no_return(item: &Item) -> bool {
    matches!(item.phase, ItemPhase::FailingOver { stage: Stage::Promoting, .. })
}

/// The source is silent, and need not be asked: somebody gave their word, or it fences itself.
fn may_go_without(record: &Migration, item: &Item, seen: &Sight) -> bool {
    matches!(seen.source, Heard::Silent(_)) && (record.source_is_down || item.lease.is_some())
}

fn give_up_moving(record: &Migration, item: &Item, why: &str, now: Moment) -> Turn {
    if !is_past_no_return(item) {
        return give_up(record, why, now);
    }
    // The secondary's capacity is being used: it stays lent.
    let why = format!(
        "{why}; app/{name} is between its regions: see farshore status app/{name}, and fail it over again",
        name = record.primary
    );
    Turn::to(record, Phase::Failed { why, recovered: false }, now)
}

fn verifying(record: &Migration, seen: &Sight, now: Moment) -> Turn {
    let Some(item) = &seen.primary else { return unverified(record, &primary_gone(record), now) };
    if item.source != record.to {
        let why = format!("app/{} was moved to {} meanwhile", record.primary, item.source);
        return unverified(record, &why, now);
    }
    let check = match &seen.check {
        Heard::Says(check) => check,
        Heard::Silent(why) => return verify_later(record, why.clone(), now),
        Heard::NotAsked => return Turn::wait(record.clone()),
    };
    let fits = check.mode == record.mode.as_str() && check.instances == record.instances;
    if !fits && record.unfit.is_none() && check.ready {
        return Turn::act(record, Effect::Fit);
    }
    match holds(check) {
        Err(why) => verify_later(record, why, now),
        Ok(()) => {
            let mut turn = Turn::to(record, Phase::DeletingSecondary { job: None }, now);
            turn.next.report = Some(report(record, item, check, now));
            turn
        }
    }
}

/// Whether the recovered app is what it should be.
fn holds(check: &Check) -> Result<(), String> {
    if !check.ready {
        return Err("it does not serve yet".to_owned());
    }
    let nothing_deployed = check.state == "empty" && check.commit.is_none();
    // The connection to its database is kept as it was; another one is the operator's to give.
    let waits_for_database =
        check.database.as_ref().is_some_and(|database| database.external && !database.reachable);
    if check.state != "running" && !nothing_deployed && !waits_for_database {
        return Err(format!("it is {}: see farshore app log", check.state));
    }
    if !check.same {
        let paths: Vec<&str> = check
            .differences
            .iter()
            .map(|difference| difference.path.as_str())
            .take(PATHS_NAMED_MAX)
            .collect();
        return Err(format!("its files are not those that were pushed; different: {}", paths.join(", ")));
    }
    Ok(())
}

/// As many paths as fit into a line; all of them are asked for with `farshore app`.
const PATHS_NAMED_MAX: usize = 10;

/// What the lost region was last seen to run may be older than what had reached this one.
fn pushed_last_is_here(record: &Migration, check: &Check) -> Option<bool> {
    let pushed = record.pushed_last.as_ref()?;
    let here = check.release.as_ref();
    let is_newer = here.zip(record.release_last).is_some_and(|(here, seen)| here.number > seen);
    Some(is_newer || here.is_some_and(|here| here.tree == *pushed))
}

fn report(record: &Migration, item: &Item, check: &Check, now: Moment) -> Report {
    let failover = item.failover.as_ref();
    let loss = failover.map(|failover| failover.loss_final.unwrap_or(failover.promotion.at_failover));
    let pushed_last_is_here = pushed_last_is_here(record, check);
    let mut advice = Vec::new();
    if let Some(database) = check.database.as_ref().filter(|database| !database.reachable) {
        advice.push(format!(
            "the database {} does not answer: it may be gone with its region. Give the app another one with farshore app \
             change-database {}",
            database.name, record.primary
        ));
    }
    if pushed_last_is_here == Some(false) {
        advice.push(format!(
            "{} was last known to run another release than this region does: its last push had not reached here. Push again",
            record.from
        ));
    }
    if let Some(why) = &record.unfit {
        advice.push(format!(
            "it runs as {} with {} instances, because {why}: farshore app scale",
            check.mode, check.instances
        ));
    }
    Report {
        release: check.release.clone(),
        scripts_same: check.same,
        differences: check.differences.clone(),
        pushed_last_is_here,
        database: check.database.clone(),
        loss: loss.unwrap_or_default(),
        loss_exact: failover.is_some_and(|failover| failover.exact),
        planned: failover.is_some_and(|failover| failover.planned),
        rto_seconds: now.since(record.created_at).as_secs_f64(),
        secondary_deleted: false,
        ttl_seconds: check.ttl_seconds,
        advice,
    }
}

fn verify_later(record: &Migration, why: String, now: Moment) -> Turn {
    if now.since(record.since) < VERIFY_WITHIN {
        return Turn::wait(record.clone().waiting(why));
    }
    unverified(record, &why, now)
}

/// Recovered, but not proven to be well: the secondary is kept.
fn unverified(record: &Migration, why: &str, now: Moment) -> Turn {
    let why = format!(
        "app/{primary} is active in {to}, but was not found well there: {why}. The secondary app/{secondary} is kept: when \
         app/{primary} runs, delete it with farshore app delete {secondary}",
        primary = record.primary,
        to = record.to,
        secondary = record.secondary,
    );
    Turn::to(record, Phase::Failed { why, recovered: true }, now)
}

fn deleting(record: &Migration, has_job: bool, seen: &Sight, now: Moment) -> Turn {
    // Where the job has removed it, whatever has its name now is another one.
    if !seen.secondary_exists || seen.job == Some(JobSeen::Succeeded) {
        let mut turn = Turn::to(record, Phase::Completed, now);
        if let Some(report) = &mut turn.next.report {
            report.secondary_deleted = true;
        }
        return turn;
    }
    match &seen.job {
        Some(JobSeen::UnderWay | JobSeen::TurningBack | JobSeen::GaveWay | JobSeen::Succeeded) => {
            Turn::wait(record.clone().at_work())
        }
        Some(JobSeen::Stuck(why)) => Turn::wait(record.clone().waiting_for_a_person(stuck(record, why))),
        Some(JobSeen::Ended(why) | JobSeen::Cancelled(why)) => not_deleted(record, why, now),
        None if has_job => Turn::to(record, Phase::DeletingSecondary { job: None }, now),
        None => Turn::act(record, Effect::DeleteSecondary),
    }
}

fn not_deleted(record: &Migration, why: &str, now: Moment) -> Turn {
    let why = format!(
        "app/{} was recovered and is well in {}, but the secondary could not be removed: {why}; farshore app delete {}",
        record.primary, record.to, record.secondary
    );
    Turn::to(record, Phase::Failed { why, recovered: true }, now)
}

fn taking_back(record: &Migration, why: &str, seen: &Sight, now: Moment) -> Turn {
    let failed = |why: String| Turn::to(record, Phase::Failed { why, recovered: false }, now);
    match &seen.loan {
        _ if !seen.secondary_exists => failed(why.to_owned()),
        Heard::Says(loan) if !loan.as_ref().is_some_and(|loan| loan.is_for(record)) => failed(why.to_owned()),
        Heard::Silent(_) if now.since(record.since) >= PATIENCE => failed(format!(
            "{why}; and app/{} does not answer, so that its capacity is given back when it does",
            record.secondary
        )),
        Heard::Silent(silent) => Turn::wait(record.clone().waiting(silent.clone())),
        Heard::Says(_) | Heard::NotAsked => Turn::act(record, Effect::TakeBack),
    }
}

/// What did not work may work a little later.
fn tolerate(record: &Migration, why: String, now: Moment) -> Turn {
    if now.since(record.since) < PATIENCE {
        return Turn::wait(record.clone().waiting(why));
    }
    give_up(record, &why, now)
}

/// Nothing came of it: as far as possible all is as it was.
fn give_up(record: &Migration, why: &str, now: Moment) -> Turn {
    match record.phase {
        Phase::Lending | Phase::Protecting { .. } | Phase::FailingOver { .. } => {
            Turn::to(record, Phase::TakingBack { why: why.to_owned() }, now)
        }
        Phase::Verifying => unverified(record, why, now),
        Phase::DeletingSecondary { .. } => not_deleted(record, why, now),
        Phase::TakingBack { why: ref earlier } => {
            let why = format!("{earlier}; and the capacity was not given back: {why}");
            Turn::to(record, Phase::Failed { why, recovered: false }, now)
        }
        Phase::Completed | Phase::Failed { .. } => Turn::wait(record.clone()),
    }
}

fn stuck(record: &Migration, why: &str) -> String {
    let job = record.phase.job().map(|job| job.0.as_str()).unwrap_or_default();
    format!("job {job} is stuck: {why}; farshore job retry {job} (or job skip, or job abandon)")
}

fn gone(record: &Migration) -> String {
    format!("app/{} was removed meanwhile", record.secondary)
}

fn primary_gone(record: &Migration) -> String {
    format!("app/{} was removed meanwhile", record.primary)
}

#[cfg(test)]
mod tests;
