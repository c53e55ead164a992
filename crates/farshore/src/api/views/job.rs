//! A job as clients see it.

use farshore_core::job::{Half, Happened, Job, JobState, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::JobBrief;
use crate::engine::LogEntry;

/// One operation under way or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Its id; sorts by age.
    #[schema(example = "01KAJ5Z8QJ7M3W2V1T0S9R8Q7P")]
    pub id: String,
    /// The item it is about.
    pub item: String,
    /// What it does.
    pub verb: String,
    /// `running`, `unwinding`, `stuck`, `succeeded`, `failed`, `cancelled` or `abandoned`.
    pub state: String,
    /// It has ended.
    pub ended: bool,
    /// Why it is unwinding, stuck, failed or abandoned.
    pub why: Option<String>,
    /// What could not be taken back; empty: clean.
    pub residue: Vec<String>,
    /// 0 to 1.
    pub progress: f64,
    /// The present step.
    pub step: Option<String>,
    /// What the present step has still to move.
    pub bytes: Option<BytesView>,
    /// All steps, in order.
    pub steps: Vec<StepView>,
    /// What went wrong on the way.
    pub notes: Vec<String>,
    /// What can be said to it now: `cancel`, `retry`, `skip`, `abandon`.
    pub possible: Vec<String>,
    /// Who asked for it.
    pub asked_by: String,
    /// When it was made.
    pub created_at: String,
    /// When it last changed.
    pub updated_at: String,
}

/// Bytes done of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BytesView {
    /// Already there.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// One step of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// `waiting`, `running`, `done`, `skipped`, `stopped` (the job is stuck there, or was given up there), `undoing` or
    /// `undone`.
    pub state: String,
    /// Attempts begun, for the present step.
    pub attempt: u32,
    /// From the start of this step on there is no way back.
    pub no_return: bool,
}

impl From<&Job> for JobView {
    fn from(job: &Job) -> Self {
        let (why, residue) = reason(&job.state);
        Self {
            id: job.id.to_string(),
            item: job.item.to_string(),
            verb: job.verb().to_string(),
            state: job.state.as_str().to_owned(),
            ended: job.state.is_terminal(),
            why,
            residue,
            progress: job.progress(),
            step: present_step(job),
            bytes: None,
            steps: job.steps.iter().enumerate().map(|(index, step)| step_view(job, index, step)).collect(),
            notes: job.notes.clone(),
            possible: possible(job),
            asked_by: job.asked_by.clone(),
            created_at: job.created_at.to_string(),
            updated_at: job.updated_at.to_string(),
        }
    }
}

impl From<&Job> for JobBrief {
    fn from(job: &Job) -> Self {
        Self {
            id: job.id.to_string(),
            verb: job.verb().to_string(),
            state: job.state.as_str().to_owned(),
            step: present_step(job),
            progress: job.progress(),
        }
    }
}

fn reason(state: &JobState) -> (Option<String>, Vec<String>) {
    match state {
        JobState::Running | JobState::Succeeded => (None, Vec::new()),
        JobState::Unwinding { why, .. } | JobState::Stuck { why, .. } | JobState::Abandoned { why } => {
            (Some(why.clone()), Vec::new())
        }
        JobState::Failed { why, residue } => (Some(why.clone()), residue.clone()),
        JobState::Cancelled { residue } => (None, residue.clone()),
    }
}

fn present_step(job: &Job) -> Option<String> {
    if job.state.is_terminal() {
        return None;
    }
    job.steps.get(job.cursor).map(|step| step.name.clone())
}

/// What the core's own rules allow, asked one by one.
fn possible(job: &Job) -> Vec<String> {
    let who = String::new();
    let verbs = [
        ("cancel", Happened::CancelAsked { who: who.clone() }),
        ("retry", Happened::Retry { who: who.clone() }),
        ("skip", Happened::Skip { who: who.clone(), reason: String::new() }),
        ("abandon", Happened::Abandon { who, reason: String::new() }),
    ];
    let allowed = verbs.iter().filter(|(_, asked)| job.apply(asked, job.updated_at).is_ok());
    allowed.map(|(verb, _)| (*verb).to_owned()).collect()
}

fn step_view(job: &Job, index: usize, step: &Step) -> StepView {
    let present = index == job.cursor;
    StepView {
        name: step.name.clone(),
        state: step_state(job, index, step).to_owned(),
        attempt: if present { job.attempt } else { 0 },
        no_return: step.no_return,
    }
}

fn step_state(job: &Job, index: usize, step: &Step) -> &'static str {
    let backward = matches!(
        job.state,
        JobState::Unwinding { .. } | JobState::Failed { .. } | JobState::Cancelled { .. }
    );
    if job.skipped.contains(&step.name) {
        return "skipped";
    }
    match (index.cmp(&job.cursor), backward) {
        (std::cmp::Ordering::Less, _) => "done",
        (std::cmp::Ordering::Equal, false) if job.state == JobState::Running => "running",
        (std::cmp::Ordering::Equal, false) => "stopped",
        (std::cmp::Ordering::Equal, true) if !job.state.is_terminal() => "undoing",
        // Whether a step after the turn was ever begun is in the journal; here it only matters that it is not done.
        (_, true) => "undone",
        (std::cmp::Ordering::Greater, false) => "waiting",
    }
}

/// One journal record of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogView {
    /// When it was written.
    pub at: String,
    /// Under which claim.
    pub executor_epoch: u64,
    /// What happened, for people.
    pub text: String,
    /// What happened, for programs.
    #[schema(value_type = Object)]
    pub record: Value,
}

impl From<&LogEntry> for LogView {
    fn from(entry: &LogEntry) -> Self {
        Self {
            at: entry.at.to_string(),
            executor_epoch: entry.executor_epoch,
            text: told(&entry.happened),
            record: serde_json::to_value(&entry.happened).unwrap_or_default(),
        }
    }
}

fn told(happened: &Happened) -> String {
    let undo = |half: &Half| if *half == Half::Undo { "undo of " } else { "" };
    match happened {
        Happened::Claimed { executor } => format!("claimed by executor {executor}"),
        Happened::Started { step, half, attempt } => {
            format!("{}{step} started, attempt {attempt}", undo(half))
        }
        Happened::Verified { step, half } => format!("{}{step} verified", undo(half)),
        Happened::AttemptFailed { step, half, what, .. } => format!("{}{step} failed: {what}", undo(half)),
        Happened::CancelAsked { who } => format!("{who} asked to cancel"),
        Happened::Retry { who } => format!("{who} asked to retry"),
        Happened::Skip { who, reason } => format!("{who} skipped the stuck step: {reason}"),
        Happened::Abandon { who, reason } => format!("{who} abandoned the job: {reason}"),
        Happened::UnknownVersion => "the plan's version is not known to this program".to_owned(),
    }
}
