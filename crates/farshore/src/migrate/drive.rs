//! Goes on with unfinished migrations, on every control node.
//!
//! Must always hold: what is done was stored before; what is stored is compared with what was read.

use std::time::Duration;

use farshore_core::command::Command;
use farshore_core::ids::ItemId;
use farshore_core::store::{CommitError, Compare, ReadError, Revision, Transaction, Write};
use farshore_core::workload::StepError;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::record::{Migration, OPEN, Open, Phase, key, open_key};
use super::step::{Effect, Outcome, noted, step};
use super::{app, sight, used};
use crate::engine::book::{At, put};
use crate::engine::records::{AuditLine, sha256_hex};
use crate::engine::{Control, Idempotency, JobVerb, StoreState, SubmitError, now};

/// Between two looks: what waits for a job sees its end soon.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Turns of one migration in one look: there are fewer phases.
const TURNS_MAX: usize = 12;
/// Looks between two searches for reserves that were used without a migration.
const LOOKS_PER_SEARCH: u64 = 20;

/// Looks for as long as the engine runs.
pub(super) async fn for_ever(control: Control) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memory = used::Memory::default();
    for look in 0_u64.. {
        ticks.tick().await;
        // A minority knows nothing of the others.
        if control.store_state() != StoreState::Live {
            continue;
        }
        match round(&control).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "migrations are looked at later"),
        }
        if look % LOOKS_PER_SEARCH == 0
            && let Err(error) = used::search(&control, &mut memory).await
        {
            tracing::debug!(%error, "reserves are looked at later");
        }
    }
}

/// Goes on with each of them; `true`: a test wants this node to be dead.
async fn round(control: &Control) -> Result<bool, ReadError> {
    let open: Vec<Open> = control.book().view().await.values(OPEN).await?;
    let mut ids: Vec<String> = open.into_iter().map(|open| open.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let turns = ids.iter().map(|id| go_on(control, id));
    let mut dead = false;
    for (id, turn) in ids.iter().zip(join_all(turns).await) {
        match turn {
            Ok(killed) => dead |= killed,
            // Another control node was first, or the store is away: looked at again.
            Err(error) => tracing::debug!(id, %error, "a migration is looked at later"),
        }
    }
    Ok(dead)
}

/// Takes turns until the migration waits for something.
async fn go_on(control: &Control, id: &str) -> Result<bool, CommitError> {
    for _ in 0..TURNS_MAX {
        let found: Option<At<Migration>> = control.book().read(&key(id)).await.map_err(unread)?;
        let Some(At { value: record, revision }) = found else { return Ok(false) };
        let seen = sight::gather(control, &record).await.map_err(unread)?;
        let turn = step(&record, &seen, now());
        let killed = |at: &str| control.is_killed_at(&format!("migration/{}/{at}", turn.next.phase.as_str()));
        if turn.next != record {
            store(control, revision, &record, turn.next.clone()).await?;
            if killed("stored") {
                return Ok(true);
            }
            // Only what it waits for is new: there is nothing to do now.
            if turn.next.phase == record.phase {
                return Ok(false);
            }
            continue;
        }
        let Some(effect) = &turn.effect else { return Ok(false) };
        let outcome = perform(control, &record, effect).await;
        if killed("done") {
            return Ok(true);
        }
        let is_done = outcome == Outcome::Done;
        let next = noted(&record, outcome, now());
        if next != record {
            store(control, revision, &record, next).await?;
        } else if !is_done {
            return Ok(false);
        }
    }
    Ok(false)
}

fn unread(error: ReadError) -> CommitError {
    CommitError::Unavailable(error.to_string())
}

/// Writes the next record in place of what was read. A phase is noted in the audit; an ended migration holds no app.
async fn store(
    control: &Control,
    at: Revision,
    before: &Migration,
    next: Migration,
) -> Result<(), CommitError> {
    let next = Migration { updated_at: now(), ..next };
    let mut transaction = Transaction {
        compares: vec![Compare::At(key(&next.id), at)],
        writes: vec![put(key(&next.id), &next)?],
    };
    if next.phase.is_terminal() {
        let open = [&next.primary, &next.secondary].map(|name| Write::Delete(open_key(name)));
        transaction.writes.extend(open);
    }
    let is_new_phase = next.phase.as_str() != before.phase.as_str();
    let line = is_new_phase.then(|| AuditLine {
        who: next.asked_by.clone(),
        what: format!("migration {} of app/{} {}", next.id, next.primary, told(&next.phase)),
        item: Some(app(&next.primary)),
        job: None,
    });
    control.book().commit(transaction, line).await?;
    if is_new_phase {
        tracing::info!(id = next.id, primary = %next.primary, phase = next.phase.as_str(), "migration");
    }
    Ok(())
}

fn told(phase: &Phase) -> String {
    match phase {
        Phase::TakingBack { why } => format!("is given up: {why}"),
        Phase::Failed { why, .. } => format!("failed: {why}"),
        Phase::Completed => "is complete".to_owned(),
        phase => format!("is {}", phase.as_str()),
    }
}

async fn perform(control: &Control, record: &Migration, effect: &Effect) -> Outcome {
    let (primary, secondary) = (app(&record.primary), app(&record.secondary));
    match effect {
        Effect::Lend => {
            let lend = json!({"ask": "lend", "to": record.primary, "migration": record.id});
            tell(control, record, &secondary, lend).await
        }
        Effect::TakeBack => {
            let take_back = json!({"ask": "take-back", "of": record.primary, "migration": record.id});
            tell(control, record, &secondary, take_back).await
        }
        Effect::Fit => {
            let size = json!({"ask": "scale", "mode": record.mode, "instances": record.instances});
            tell(control, record, &primary, size).await
        }
        Effect::GiveWay => give_way(control, record).await,
        Effect::Ask(name, command) => submit(control, record, &primary, name, command.clone()).await,
        Effect::DeleteSecondary => submit(control, record, &secondary, "delete", Command::Delete).await,
    }
}

/// What has become of the job is seen at the next look: it may be too late to cancel it.
async fn give_way(control: &Control, record: &Migration) -> Outcome {
    if let Some(job) = record.phase.job()
        && let Err(error) = control.steer(job, JobVerb::Cancel, &record.who()).await
    {
        tracing::debug!(%job, %error, "a job with a silent source is not cancelled");
    }
    Outcome::Done
}

async fn tell(control: &Control, record: &Migration, item: &ItemId, question: Value) -> Outcome {
    match sight::ask::<Value>(control, &record.to, item, question).await {
        Ok(_) => Outcome::Done,
        Err(StepError::Fatal { what }) => Outcome::Refused(what),
        Err(error) => Outcome::Again(error.to_string()),
    }
}

/// One request of a migration makes one job, however often and from wherever it is sent.
async fn submit(
    control: &Control,
    record: &Migration,
    item: &ItemId,
    name: &str,
    command: Command,
) -> Outcome {
    let key = format!("migration-{}-{name}", record.id);
    // Whether the source answers may have been seen otherwise by another node: it is the same request.
    let idempotency = Idempotency { body_hash: sha256_hex(key.as_bytes()), key };
    match control.submit(item, command, &record.asked_by, Some(idempotency)).await {
        Ok(job) => Outcome::Job(job.id),
        Err(SubmitError::NotFound { .. }) if name == "delete" => Outcome::Gone,
        Err(error) => refusal(&error),
    }
}

/// What a region that comes back, or a job that ends, will mend by itself is asked for again.
fn refusal(error: &SubmitError) -> Outcome {
    const PASSING: [&str; 3] = ["region-unreachable", "source-unreachable", "not-there"];
    match error {
        SubmitError::Busy { .. } | SubmitError::Unavailable { .. } => Outcome::Again(error.to_string()),
        SubmitError::Refused { code, .. } if PASSING.contains(code) => Outcome::Again(error.to_string()),
        error => Outcome::Refused(error.to_string()),
    }
}
