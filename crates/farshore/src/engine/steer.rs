//! What people say to a job: cancel, retry, skip, abandon.

use farshore_core::ids::JobId;
use farshore_core::job::{Does, Happened, Job, JobRefusal};

use super::book::At;
use super::journal::{RecordError, record};
use super::submit::unavailable;
use super::{Inner, JobVerb, SubmitError};

/// A job that its executor changes at the same time is read again this often.
const STEER_ATTEMPTS_MAX: u32 = 20;
/// Longest reason.
const REASON_LEN_MAX: usize = 500;

/// Records the word; the executor then acts on it.
pub(super) async fn steer(inner: &Inner, id: &JobId, verb: &JobVerb, who: &str) -> Result<Job, SubmitError> {
    let happened = happened(verb, who)?;
    for _ in 0..STEER_ATTEMPTS_MAX {
        let Some(job) = inner.book.job(id).await? else {
            return Err(SubmitError::NotFound {
                what: format!("there is no job {id}: see farshore job list"),
            });
        };
        if matches!(verb, JobVerb::Skip { .. }) {
            check_skip(&job)?;
        }
        match record(inner, &job, &happened, None, who).await {
            Ok(job) => return Ok(job.value),
            Err(RecordError::Changed) => {}
            Err(RecordError::Refused(refusal)) => return Err(refused(&refusal)),
            Err(RecordError::Milestone(why)) => {
                return Err(SubmitError::Refused { code: "unexpected", why, possible: Vec::new() });
            }
            Err(RecordError::Read(error)) => return Err(error.into()),
            Err(RecordError::Commit(error)) => return Err(unavailable(&error)),
        }
    }
    Err(SubmitError::Unavailable { why: format!("job {id} changes faster than it can be told: try again") })
}

fn happened(verb: &JobVerb, who: &str) -> Result<Happened, SubmitError> {
    let who = who.to_owned();
    Ok(match verb {
        JobVerb::Cancel => Happened::CancelAsked { who },
        JobVerb::Retry => Happened::Retry { who },
        JobVerb::Skip { reason } => Happened::Skip { who, reason: checked(reason)? },
        JobVerb::Abandon { reason } => Happened::Abandon { who, reason: checked(reason)? },
    })
}

fn checked(reason: &str) -> Result<String, SubmitError> {
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > REASON_LEN_MAX {
        let why =
            format!("a reason is needed (1 to {REASON_LEN_MAX} bytes): it is written into the audit log");
        return Err(SubmitError::Invalid { why });
    }
    Ok(reason.to_owned())
}

/// A step that only writes down what was seen cannot be skipped: the item would be something else than its record says.
fn check_skip(job: &At<Job>) -> Result<(), SubmitError> {
    let step = job.value.steps.get(job.value.cursor);
    match step {
        Some(step) if matches!(step.act.does, Does::Record { .. }) => Err(SubmitError::Refused {
            code: "record-step",
            why: format!(
                "step {} writes down what was seen and cannot be skipped: retry it or abandon the job",
                step.name
            ),
            possible: Vec::new(),
        }),
        _ => Ok(()),
    }
}

fn refused(refusal: &JobRefusal) -> SubmitError {
    let code = match refusal {
        JobRefusal::Ended { .. } => "job-ended",
        JobRefusal::PastNoReturn { .. } => "past-no-return",
        JobRefusal::NotStuck { .. } => "not-stuck",
        JobRefusal::NotTried { .. } => "not-tried",
        JobRefusal::Unexpected { .. } => "unexpected",
    };
    SubmitError::Refused { code, why: refusal.to_string(), possible: Vec::new() }
}
