//! Asking the other region, and joining what it has to what is here.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::workload::{Role, StepError};
use tokio::time::{Instant, sleep};

use super::wire::{Answer, Question, decode, encode};
use super::{LinkOptions, Shared, WAIT};
use crate::record::{Conflict, Rules};
use crate::registry::{JoinError, MergeReport};
use crate::telemetry::Extended;

/// Between two attempts to reach a region that does not answer.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// A region that gives nothing is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Conflicts that are looked at when a link begins: more were noted as they came, unless the node was stopped that moment.
const CONFLICTS_MAX: usize = 1000;
/// A merge that a person waits for ends within this, or is asked for again: it goes on where it was.
const MERGE_MAX: Duration = Duration::from_secs(10);

/// What was taken over from the other region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Entries that are different now.
    pub changed: u64,
    /// Telemetry.
    pub events: u64,
    /// Of it, what devices had sent again and was here already.
    pub duplicates: u64,
}

/// What a merge did, or would do.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// What happens to devices, messages, groups and policies.
    pub report: Option<MergeReport>,
    /// Telemetry that only the other region has.
    pub late_events: u64,
    /// Of it, what devices sent again, and is here; known once it was done.
    pub duplicates: u64,
    /// There is more: ask again.
    pub is_partial: bool,
}

/// Asks for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut changes = shared.options.duties.changes();
    // What was joined before the node stopped, and may not be noted.
    let open = shared.options.registry.conflicts(CONFLICTS_MAX);
    note(&shared, open.unwrap_or_default()).await;
    loop {
        let began = Instant::now();
        let rest = match step(&shared).await {
            Ok(true) => Duration::ZERO,
            Ok(false) => LOOK_EVERY.saturating_sub(began.elapsed()),
            Err(why) => {
                shared.state().status.note = Some(why);
                AGAIN_AFTER
            }
        };
        tokio::select! {
            () = sleep(rest) => {}
            _ = changes.changed() => {}
        }
    }
}

/// One question, and what follows from its answer. `true`: there may be more at once.
async fn step(shared: &Shared) -> Result<bool, String> {
    let answer = ask(shared, &question(shared)).await.map_err(|error| error.to_string())?;
    shared.hear(answer.role, &answer.has);
    if answer.withheld {
        return Ok(false);
    }
    let (is_last, at) = (answer.is_last(), answer.at);
    take(shared, answer).await?;
    if is_last {
        shared.state().status.complete_at = Some(at);
    }
    Ok(true)
}

/// What is here, and goes on from there.
fn question(shared: &Shared) -> Question {
    let duty = shared.options.duties.now();
    let has = shared.position();
    Question {
        token: shared.options.duties.token(),
        role: duty.role,
        merge: false,
        since: if shared.state().from_start { 0 } else { has.seen },
        cursor: has.telemetry.clone(),
        has,
        wait_millis: u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX),
    }
}

/// Asks, and refuses an answer under a token that is over.
async fn ask(shared: &Shared, question: &Question) -> Result<Answer, StepError> {
    let LinkOptions { far, partner, item, duties, .. } = &shared.options;
    let bytes = match far.pull(partner, item, encode(question)).await {
        Err(StepError::Fenced { current }) => {
            let _ = duties.see(current);
            return Err(StepError::Fenced { current });
        }
        other => other?,
    };
    let answer: Answer = decode(&bytes).map_err(|what| StepError::Fatal { what })?;
    duties.see(answer.token).map_err(|stale| StepError::Retry {
        what: format!(
            "{partner} is still under token {}, {} holds: it is waited for until it was told",
            answer.token, stale.highest
        ),
    })?;
    Ok(answer)
}

/// Joins what came; on return it is durable.
async fn take(shared: &Shared, answer: Answer) -> Result<Taken, String> {
    let LinkOptions { registry, telemetry, partner, .. } = &shared.options;
    let mut taken = Taken::default();
    if let Some(batch) = answer.batch {
        let joined = match registry.join(partner, batch).await {
            // It has a new registry, or one from a backup: everything is looked at once more.
            Err(JoinError::StartOver(_) | JoinError::Gap { .. }) => {
                shared.state().from_start = true;
                return Ok(taken);
            }
            other => other.map_err(|error| error.to_string())?,
        };
        shared.state().from_start = false;
        taken.changed += joined.changed as u64;
        note(shared, joined.conflicts).await;
    }
    for (origin, start) in &answer.starts.0 {
        if telemetry.ends().get(origin).is_none_or(|end| end < start) && *start > 0 {
            telemetry.skip(origin, *start).await.map_err(|error| error.to_string())?;
        }
    }
    for part in answer.telemetry {
        let events = part.next - part.from;
        let Extended { duplicates, .. } = telemetry.extend(part).await.map_err(|error| error.to_string())?;
        taken.events += events;
        taken.duplicates += duplicates;
    }
    Ok(taken)
}

/// Notes what both regions had changed. It was joined already, and nothing of it is lost when it cannot be noted now.
async fn note(shared: &Shared, conflicts: Vec<Conflict>) {
    if conflicts.is_empty() && shared.state().status.unnoted.is_none() {
        return;
    }
    let noted = Arc::clone(&shared.options.noted);
    let done = tokio::task::spawn_blocking(move || noted.note(conflicts, super::now())).await;
    let path = shared.options.noted.path();
    let failed = done.map_err(std::io::Error::other).flatten().err();
    shared.state().status.unnoted = failed.map(|error| {
        tracing::error!(%error, file = %path.display(), "conflicts cannot be noted; it is tried again");
        format!("conflicts cannot be noted in {} ({error}): make room there", path.display())
    });
}

/// See [`super::Link::merge`].
pub(super) async fn merge(shared: &Shared, plan: Option<&Rules>) -> Result<Merged, StepError> {
    let LinkOptions { registry, partner, item, duties, .. } = &shared.options;
    if duties.now().role != Role::Active {
        return Err(StepError::Fatal { what: format!("{item} is not active here: merge where it is") });
    }
    let until = Instant::now() + MERGE_MAX;
    let retry = |what: String| StepError::Retry { what };
    let mut next = Question { merge: true, wait_millis: 0, ..question(shared) };
    let mut merged = Merged::default();
    loop {
        let answer = ask(shared, &next).await?;
        if answer.withheld {
            if answer.role == Role::Target {
                return Ok(merged);
            }
            return Err(StepError::Fatal {
                what: format!(
                    "{partner} was not fenced yet: there is nothing to merge while it may serve {item}"
                ),
            });
        }
        let is_last = answer.is_last();
        for part in &answer.telemetry {
            merged.late_events += part.next - part.from;
            next.cursor.0.insert(part.origin.clone(), part.next);
        }
        if let Some(batch) = &answer.batch {
            next.since = batch.upto;
            let now = registry.rules();
            let report = registry.preview_with(batch, plan.unwrap_or(&now));
            let report = report.map_err(|error| retry(error.to_string()))?;
            match &mut merged.report {
                Some(all) => all.add(report),
                None => merged.report = Some(report),
            }
        }
        if plan.is_none() {
            merged.duplicates += take(shared, answer).await.map_err(retry)?.duplicates;
            next.has = shared.position();
        }
        if is_last || Instant::now() >= until {
            merged.is_partial = !is_last;
            return Ok(merged);
        }
    }
}
