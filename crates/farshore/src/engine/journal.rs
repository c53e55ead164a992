//! Writes what happened to a job: the record, its journal, the item, the directory and the audit entry in one
//! transaction.

use farshore_core::job::{Does, Happened, Job, JobRefusal, JobState, Milestone, Next};
use farshore_core::lifecycle::Item;
use farshore_core::moment::Moment;
use farshore_core::store::{CommitError, Compare, ReadError, Transaction, Write};
use farshore_core::workload::Observation;

use super::book::{At, put};
use super::milestone::{ItemChange, change};
use super::records::{
    AuditLine, LogEntry, directory_key, directory_name, item_job_key, job_key, log_key, own_key,
};
use super::{Inner, now};

/// The item is changed by others (its health is noted, say) this often at most while one record is written.
const ITEM_ATTEMPTS_MAX: u32 = 10;

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// The record does not fit the job.
    #[error(transparent)]
    Refused(#[from] JobRefusal),
    /// The step's milestone does not fit what is seen, or the item.
    #[error("{0}")]
    Milestone(String),
    /// The job was changed by someone else: read it again.
    #[error("the job was changed by someone else")]
    Changed,
    /// The store does not read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store does not write.
    #[error(transparent)]
    Commit(CommitError),
}

/// Records `happened` by `who` on `job`. `sight` is what was seen for the step's milestone.
pub(super) async fn record(
    inner: &Inner,
    job: &At<Job>,
    happened: &Happened,
    sight: Option<&Observation>,
    who: &str,
) -> Result<At<Job>, RecordError> {
    for _ in 0..ITEM_ATTEMPTS_MAX {
        let now = now();
        let (mut next, milestone) = job.value.apply(happened, now)?;
        let own = match milestone {
            Some(_) => inner.book.item(&job.value.item).await?,
            None => None,
        };
        let change = match milestone {
            Some(milestone) => {
                let records = matches!(happened, Happened::Verified { .. }) && records(&job.value);
                let decided = decide(inner, milestone, own.as_ref(), &job.value, sight, now);
                match decided {
                    Ok(change) => Some(change),
                    Err(why) if records => return Err(RecordError::Milestone(why)),
                    Err(why) => {
                        next.notes.push(format!("the item was left as it is: {why}"));
                        None
                    }
                }
            }
            None => None,
        };
        let line = audit_line(&job.value, &next, happened, milestone, change.as_ref(), who);
        let transaction = transaction(job, &next, own, change, happened, now).map_err(RecordError::Commit)?;
        match inner.book.commit(transaction, line).await {
            Ok(revision) => return Ok(At { value: next, revision }),
            Err(CommitError::Conflict { key }) if key == own_key(&job.value.item) => {}
            Err(CommitError::Conflict { .. }) => return Err(RecordError::Changed),
            Err(error) => return Err(RecordError::Commit(error)),
        }
    }
    Err(RecordError::Changed)
}

/// What becomes of the item. A milestone on the way back that does not fit is noted and left out by the caller: it must
/// not keep a job from ending.
fn decide(
    inner: &Inner,
    milestone: Milestone,
    own: Option<&At<Item>>,
    job: &Job,
    sight: Option<&Observation>,
    now: Moment,
) -> Result<ItemChange, String> {
    let own = own.ok_or_else(|| format!("{} has no record any more", job.item))?;
    change(milestone, &own.value, job, sight, now, inner.options.directory_ttl_seconds)
}

/// Whether the present step is one that only records.
fn records(job: &Job) -> bool {
    matches!(&job.next(), Next::Perform { act, .. } if matches!(act.does, Does::Record { .. }))
}

fn transaction(
    job: &At<Job>,
    next: &Job,
    own: Option<At<Item>>,
    change: Option<ItemChange>,
    happened: &Happened,
    now: Moment,
) -> Result<Transaction, CommitError> {
    let (id, item) = (&next.id, &next.item);
    let entry = LogEntry { at: now, executor_epoch: next.executor_epoch, happened: happened.clone() };
    let mut transaction = Transaction {
        compares: vec![Compare::At(job_key(id), job.revision)],
        writes: vec![put(job_key(id), next)?, put(log_key(id, next.log_len), &entry)?],
    };
    let Transaction { compares, writes } = &mut transaction;
    if let (Some(own), Some(_)) = (own, &change) {
        compares.push(Compare::At(own_key(item), own.revision));
    }
    let name = directory_key(&directory_name(item));
    match change {
        None => {}
        Some(ItemChange::Remove) => {
            writes.push(Write::Delete(own_key(item)));
            writes.push(Write::Delete(name));
        }
        Some(ItemChange::Put { item: changed, directory }) => {
            writes.push(put(own_key(item), &*changed)?);
            if let Some(directory) = directory {
                writes.push(put(name, &directory)?);
            }
        }
    }
    if next.state.is_terminal() {
        writes.push(Write::Delete(item_job_key(item)));
    }
    Ok(transaction)
}

/// Changes of the item, ends of jobs and words of people are audited; the rest is in the journal.
fn audit_line(
    job: &Job,
    next: &Job,
    happened: &Happened,
    milestone: Option<Milestone>,
    change: Option<&ItemChange>,
    who: &str,
) -> Option<AuditLine> {
    let mut told = Vec::new();
    match happened {
        Happened::CancelAsked { .. } => told.push(format!("asked to cancel {}", job.verb())),
        Happened::Retry { .. } => told.push(format!("asked to retry {}", job.verb())),
        Happened::Skip { reason, .. } => told.push(format!("skipped a step of {}: {reason}", job.verb())),
        Happened::Abandon { reason, .. } => told.push(format!("abandoned {}: {reason}", job.verb())),
        _ => {}
    }
    match (milestone, change) {
        (Some(_), Some(ItemChange::Remove)) => told.push(format!("{} was removed", job.item)),
        (Some(milestone), Some(ItemChange::Put { item, .. })) => told.push(format!(
            "{milestone:?}: {} is {} at epoch {}, active in {}",
            item.id,
            item.phase.as_str(),
            item.epoch,
            item.source
        )),
        _ => {}
    }
    if next.state.as_str() != job.state.as_str() && next.state != JobState::Running {
        told.push(format!("{} is {}", job.verb(), next.state.as_str()));
    }
    (!told.is_empty()).then(|| AuditLine {
        who: who.to_owned(),
        what: told.join("; "),
        item: Some(job.item.clone()),
        job: Some(job.id.clone()),
    })
}
