//! What a migration looks at: the records of both apps, and what their regions say.

use std::time::Duration;

use farshore_core::ids::{ItemId, JobId, Name, Region};
use farshore_core::job::JobState;
use farshore_core::lifecycle::Item;
use farshore_core::store::ReadError;
use farshore_core::workload::{Observation, Role, StepError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::record::{Database, Difference, Migration, Phase, Release};
use super::rules::{self, Admitted, Seen, Shape};
use super::step::{Check, Heard, JobSeen, Loan, Sight};
use super::{Asked, app, is_migrating};
use crate::engine::book::At;
use crate::engine::{Control, SubmitError, directory_name};

/// A region answers a question about an app within this, or it does not answer: comparing the files of a large release takes
/// seconds.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Looks at both apps, and decides.
pub(super) async fn admit(control: &Control, asked: &Asked) -> Result<Admitted, SubmitError> {
    let (primary, secondary) = tokio::join!(look(control, &asked.primary), look(control, &asked.secondary));
    rules::admit(asked, &primary?, &secondary?)
}

async fn look(control: &Control, name: &Name) -> Result<Seen, SubmitError> {
    let id = app(name);
    let At { value: item, revision } = control.book().item(&id).await?.ok_or_else(|| no_app(name))?;
    let observed = control.observe(&item.source, &id).await;
    let (serves, silent) = match &observed {
        Ok(seen) => (seen.ready && seen.role == Role::Active, None),
        Err(StepError::Retry { what }) => (false, Some(what.clone())),
        Err(_) => (false, None),
    };
    let job = control.book().item_job(&id).await?;
    let busy = job.map(|job| format!("job {job} is under way (farshore job show {job})"));
    Ok(Seen {
        shape: shape(control, &item, observed.ok()).await,
        item,
        at: revision,
        serves,
        silent,
        migrating: is_migrating(control, name).await?,
        busy,
    })
}

fn no_app(name: &Name) -> SubmitError {
    SubmitError::NotFound { what: format!("there is no app/{name}: farshore app list shows what there is") }
}

/// From its region; else as it was last seen there, or from the region that follows it, whichever knows the later release.
async fn shape(control: &Control, item: &Item, observed: Option<Observation>) -> Option<Shape> {
    let read = |seen: Observation| serde_json::from_value::<Shape>(seen.shape).ok();
    if let Some(shape) = observed.and_then(read) {
        return Some(shape);
    }
    let last = control.seen(&item.id).remove(&item.source).and_then(|seen| seen.observation).and_then(read);
    let follows = match &item.target {
        Some(target) => control.observe(target, &item.id).await.ok().and_then(read),
        None => None,
    };
    match (last, follows) {
        (Some(last), Some(follows)) if follows.release > last.release => {
            Some(Shape { release: follows.release, tree: follows.tree, ..last })
        }
        (last, follows) => last.or(follows),
    }
}

/// What [`super::step::step`] needs in the record's present phase. The job is read before the apps: what it has done shows.
pub(super) async fn gather(control: &Control, record: &Migration) -> Result<Sight, ReadError> {
    let job = match record.phase.job() {
        Some(id) => job_seen(control, record, id).await?,
        None => None,
    };
    let primary = control.book().item(&app(&record.primary)).await?.map(|at| at.value);
    let secondary = control.book().item(&app(&record.secondary)).await?;
    let mut sight = Sight {
        secondary_exists: secondary.is_some(),
        job,
        source: Heard::NotAsked,
        loan: Heard::NotAsked,
        check: Heard::NotAsked,
        primary,
    };
    match &record.phase {
        Phase::Lending | Phase::TakingBack { .. } if sight.secondary_exists => {
            sight.loan = loan(control, record).await;
        }
        Phase::FailingOver { .. } => {
            sight.source = match (&sight.primary, &sight.job) {
                (Some(item), Some(JobSeen::UnderWay)) => last_heard(control, record, item),
                (Some(item), _) => source(control, item).await,
                (None, _) => Heard::NotAsked,
            };
        }
        Phase::Verifying => sight.check = check(control, record).await?,
        _ => {}
    }
    Ok(sight)
}

async fn job_seen(control: &Control, record: &Migration, id: &JobId) -> Result<Option<JobSeen>, ReadError> {
    let Some(At { value: job, .. }) = control.book().job(id).await? else { return Ok(None) };
    let gave_way = job.was_cancelled_by(&record.who());
    Ok(Some(match job.state {
        JobState::Running => JobSeen::UnderWay,
        JobState::Unwinding { .. } => JobSeen::TurningBack,
        JobState::Stuck { why, .. } => JobSeen::Stuck(why),
        JobState::Succeeded => JobSeen::Succeeded,
        JobState::Failed { why, .. } | JobState::Abandoned { why } => {
            JobSeen::Ended(format!("job {id} failed: {why}"))
        }
        JobState::Cancelled { .. } if gave_way => JobSeen::GaveWay,
        JobState::Cancelled { .. } => JobSeen::Cancelled(format!("job {id} was cancelled")),
    }))
}

async fn source(control: &Control, item: &Item) -> Heard<()> {
    match control.observe(&item.source, &item.id).await {
        Err(StepError::Retry { what }) => Heard::Silent(what),
        _ => Heard::Says(()),
    }
}

/// What came of the last look, without another one. Only whoever carries out the job says so: it depends on its own way to the
/// source whether the job can go on.
fn last_heard(control: &Control, record: &Migration, item: &Item) -> Heard<()> {
    if !record.phase.job().is_some_and(|job| control.carries_out(job)) {
        return Heard::NotAsked;
    }
    match control.seen(&item.id).remove(&item.source).and_then(|seen| seen.error) {
        Some(error) => Heard::Silent(error),
        None => Heard::Says(()),
    }
}

async fn loan(control: &Control, record: &Migration) -> Heard<Option<Loan>> {
    #[derive(Deserialize)]
    struct Summary {
        lent_to: Option<Name>,
        #[serde(default)]
        lent_by: Option<String>,
    }
    let id = app(&record.secondary);
    match ask::<Summary>(control, &record.to, &id, json!({"ask": "summary"})).await {
        Ok(Summary { lent_to, lent_by }) => Heard::Says(lent_to.map(|to| Loan { to, by: lent_by })),
        Err(error) => Heard::Silent(error.to_string()),
    }
}

/// The parts of a summary that a recovery is judged by.
#[derive(Debug, Deserialize)]
struct Summary {
    state: String,
    mode: String,
    instances: u32,
    #[serde(default)]
    release: Option<Release>,
    #[serde(default)]
    database: Option<DatabaseSaid>,
}

#[derive(Debug, Deserialize)]
struct DatabaseSaid {
    engine: String,
    #[serde(default)]
    name: Option<String>,
    /// Not said: nobody knows.
    #[serde(default)]
    reachable: Option<bool>,
    #[serde(default)]
    external: bool,
}

#[derive(Debug, Deserialize)]
struct Scripts {
    #[serde(default)]
    commit: Option<String>,
    same: bool,
    #[serde(default)]
    differences: Vec<Difference>,
}

async fn check(control: &Control, record: &Migration) -> Result<Heard<Check>, ReadError> {
    let id = app(&record.primary);
    let directory = control.book().directory(&directory_name(&id)).await?;
    let seen = match control.observe(&record.to, &id).await {
        Ok(seen) => seen,
        Err(error) => return Ok(Heard::Silent(error.to_string())),
    };
    let (summary, scripts) = tokio::join!(
        ask::<Summary>(control, &record.to, &id, json!({"ask": "summary"})),
        ask::<Scripts>(control, &record.to, &id, json!({"ask": "scripts-check"}))
    );
    let (summary, scripts) = match (summary, scripts) {
        (Ok(summary), Ok(scripts)) => (summary, scripts),
        (Err(error), _) | (_, Err(error)) => return Ok(Heard::Silent(error.to_string())),
    };
    Ok(Heard::Says(Check {
        ready: seen.ready && seen.role == Role::Active,
        state: summary.state,
        mode: summary.mode,
        instances: summary.instances,
        release: summary.release,
        commit: scripts.commit,
        same: scripts.same,
        differences: scripts.differences,
        database: summary.database.filter(|said| said.engine != "none").map(|said| Database {
            name: said.name.unwrap_or_else(|| said.engine.clone()),
            engine: said.engine,
            external: said.external,
            reachable: said.reachable.unwrap_or(false),
        }),
        ttl_seconds: directory.map_or(0, |record| record.ttl_seconds),
    }))
}

/// Asks an app's region; what is not understood is not repeated, for it may hold a secret.
pub(super) async fn ask<T: DeserializeOwned>(
    control: &Control,
    region: &Region,
    item: &ItemId,
    question: Value,
) -> Result<T, StepError> {
    let asked = control.ask(region, item, &question);
    let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await.unwrap_or_else(|_| {
        Err(StepError::Retry { what: format!("region {region} did not answer within {ANSWER_WITHIN:?}") })
    })?;
    serde_json::from_value(answer).map_err(|_| StepError::Fatal {
        what: format!("region {region} gave an answer that is not known here: are all nodes of one version?"),
    })
}
