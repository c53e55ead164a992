//! A job: a durable, resumable list of steps, as a pure reducer.
//!
//! [`Job::next`] says what the executor must do; the executor writes what is about to happen and what happened as
//! [`Happened`] records into the journal (in one transaction with the job's new state), and [`Job::apply`] folds them. A
//! crash at any moment leaves a journal from which another executor goes on: an effect whose start is recorded and whose
//! end is not is repeated under the same key, and its verification decides.
//!
//! Read in this order: `step` (what a step does, and what must be seen then), this file (the reducer), [`plan`] (the steps of
//! each verb); nothing but the last knows a verb.

use serde::{Deserialize, Serialize};

use crate::command::{Command, Verb};
use crate::ids::{ItemId, JobId, StepKey};
use crate::moment::Moment;

pub mod plan;
mod step;

pub use step::{Act, Does, Expect, Milestone, Step};

/// Version of the plans in this program. A job of another version is stuck, and the others go on.
pub const KIND_VERSION: u32 = 1;

/// Which half of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Half {
    /// Forward.
    Do,
    /// Backward.
    Undo,
}

/// Why a job goes backward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turned {
    /// What went wrong, or who cancelled.
    pub why: String,
    /// A person asked for it.
    pub cancelled: bool,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum JobState {
    /// Going forward.
    Running,
    /// Going backward after a failure or a cancel.
    Unwinding {
        /// Why.
        why: String,
        /// A person asked for it.
        cancelled: bool,
    },
    /// Cannot go on by itself: retry, skip or abandon.
    Stuck {
        /// Why.
        why: String,
        /// It was going backward: when it goes on, it does so in the same direction.
        #[serde(default)]
        turned: Option<Turned>,
    },
    /// Done and verified.
    Succeeded,
    /// Failed, and what it had done was taken back, except for the residue.
    Failed {
        /// Why.
        why: String,
        /// Undo steps that could not be verified; empty: clean.
        residue: Vec<String>,
    },
    /// Cancelled, and what it had done was taken back, except for the residue.
    Cancelled {
        /// Undo steps that could not be verified; empty: clean.
        residue: Vec<String>,
    },
    /// Given up by a person while stuck; nothing was taken back.
    Abandoned {
        /// The reason given.
        why: String,
    },
}

impl JobState {
    /// No executor will touch it again.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed { .. } | Self::Cancelled { .. } | Self::Abandoned { .. }
        )
    }
    /// The word shown to people.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Unwinding { .. } => "unwinding",
            Self::Stuck { .. } => "stuck",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::Abandoned { .. } => "abandoned",
        }
    }
}

/// One operation under way: the record `jobs/ID`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name; sorts by age.
    pub id: JobId,
    /// The item it is about.
    pub item: ItemId,
    /// What was asked.
    pub command: Command,
    /// Who asked.
    pub asked_by: String,
    /// Version of the plan's making.
    pub kind_version: u32,
    /// All steps, fixed when the job was made: a newer program goes on with the old plan.
    pub steps: Vec<Step>,
    /// Recorded in the transaction that turns the job around (revoking a failover's epoch before the old region is told).
    pub on_turn: Option<Milestone>,
    /// Recorded in the transaction that ends the unwinding.
    pub on_unwound: Option<Milestone>,
    /// Where it stands.
    #[serde(flatten)]
    pub state: JobState,
    /// Index of the present step; when unwinding, of the step being undone.
    pub cursor: usize,
    /// Attempts begun at the present step and half.
    pub attempt: u32,
    /// The effect of the present attempt has been started (recorded before it is done).
    pub started: bool,
    /// What went wrong so far, for people.
    pub notes: Vec<String>,
    /// Undo steps that failed so far. Has its own name in the record: an ended job's state has a `residue` beside it.
    #[serde(rename = "residue_so_far")]
    pub residue: Vec<String>,
    /// Steps whose failure was allowed and noted, or that a person skipped.
    pub skipped: Vec<String>,
    /// When it was made.
    pub created_at: Moment,
    /// When it last changed.
    pub updated_at: Moment,
    /// Which executor may act.
    pub executor: Option<String>,
    /// Raised at each claim; every later write compares it.
    pub executor_epoch: u64,
    /// Journal records so far.
    pub log_len: u64,
}

/// What an executor must do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Record [`Happened::Started`] first.
    Start {
        /// Which step.
        step: usize,
        /// Which half.
        half: Half,
    },
    /// Perform the effect (again, after a crash) under the key, then verify.
    Perform {
        /// Which step.
        step: usize,
        /// Which half.
        half: Half,
        /// The effect and its proof.
        act: Box<Act>,
        /// The effect's idempotency key.
        key: StepKey,
    },
    /// Nothing: terminal, or stuck until a person speaks.
    Rest,
}

/// A journal record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "happened")]
pub enum Happened {
    /// An executor took the job.
    Claimed {
        /// Who.
        executor: String,
    },
    /// The effect of a step is about to be performed.
    Started {
        /// Which step.
        step: String,
        /// Which half.
        half: Half,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// The effect was performed and seen.
    Verified {
        /// Which step.
        step: String,
        /// Which half.
        half: Half,
    },
    /// An attempt failed.
    AttemptFailed {
        /// Which step.
        step: String,
        /// Which half.
        half: Half,
        /// What went wrong.
        what: String,
        /// Another attempt cannot help.
        fatal: bool,
    },
    /// A person asked to cancel.
    CancelAsked {
        /// Who.
        who: String,
    },
    /// A person wants a stuck step tried again.
    Retry {
        /// Who.
        who: String,
    },
    /// A person says that the stuck step need not be done.
    Skip {
        /// Who.
        who: String,
        /// Why.
        reason: String,
    },
    /// A person gives the stuck job up.
    Abandon {
        /// Who.
        who: String,
        /// Why.
        reason: String,
    },
    /// The plan is of a version that this program does not know.
    UnknownVersion,
}

/// A job verb that does not fit. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobRefusal {
    /// It has ended.
    #[error("job {job} has ended ({state}): there is nothing to {verb}")]
    Ended {
        /// Which.
        job: JobId,
        /// How.
        state: &'static str,
        /// What was asked.
        verb: &'static str,
    },
    /// Cancel after the point of no return.
    #[error("job {job} is past its point of no return (step {step}): let it end, then run failback")]
    PastNoReturn {
        /// Which.
        job: JobId,
        /// The step.
        step: String,
    },
    /// Retry, skip or abandon of a job that is not stuck.
    #[error("job {job} is {state}, not stuck: {verb} is for stuck jobs")]
    NotStuck {
        /// Which.
        job: JobId,
        /// How it stands.
        state: &'static str,
        /// What was asked.
        verb: &'static str,
    },
    /// Skip of a step that was never tried.
    #[error("step {step} of job {job} was never tried: retry the job, or abandon it")]
    NotTried {
        /// Which.
        job: JobId,
        /// The step.
        step: String,
    },
    /// A record that does not fit the state: a defect, or an executor that lost its claim.
    #[error("job {job}: {what} does not fit its state")]
    Unexpected {
        /// Which.
        job: JobId,
        /// The record.
        what: String,
    },
}

fn cancel_note(who: &str) -> String {
    format!("cancel asked by {who}")
}

impl Job {
    /// The verb it carries out.
    #[must_use]
    pub fn verb(&self) -> Verb {
        self.command.verb()
    }

    /// The step whose start passed the point of no return, if it was passed.
    #[must_use]
    pub fn past_no_return(&self) -> Option<&Step> {
        let begun = if self.started || self.attempt > 0 { self.cursor + 1 } else { self.cursor };
        self.steps.iter().take(begun).find(|step| step.no_return)
    }

    /// What must be done now.
    #[must_use]
    pub fn next(&self) -> Next {
        let half = match self.state {
            JobState::Running => Half::Do,
            JobState::Unwinding { .. } => Half::Undo,
            _ => return Next::Rest,
        };
        let Some(step) = self.steps.get(self.cursor) else { return Next::Rest };
        let act = match half {
            Half::Do => Some(&step.act),
            Half::Undo => step.undo.as_ref(),
        };
        let Some(act) = act else { return Next::Rest };
        if !self.started {
            return Next::Start { step: self.cursor, half };
        }
        Next::Perform { step: self.cursor, half, act: Box::new(act.clone()), key: self.key(step, half) }
    }

    fn key(&self, step: &Step, half: Half) -> StepKey {
        let half = match half {
            Half::Do => "do",
            Half::Undo => "undo",
        };
        StepKey(format!("{}/{}/{half}", self.id, step.name))
    }

    /// Done share, 0 to 1, by the weights of verified steps.
    #[must_use]
    pub fn progress(&self) -> f64 {
        // An empty sum of floats is minus zero, which people would see.
        let weight = |steps: &[Step]| steps.iter().fold(0.0, |sum, step| sum + f64::from(step.weight));
        if self.state == JobState::Succeeded {
            return 1.0;
        }
        let all = weight(&self.steps);
        if all == 0.0 { 0.0 } else { weight(self.steps.get(..self.cursor).unwrap_or(&self.steps)) / all }
    }

    /// Folds one journal record. Returns the job and the milestone, if any, that must be recorded in the same transaction.
    ///
    /// # Errors
    /// A [`JobRefusal`]; nothing is to be stored then.
    pub fn apply(&self, happened: &Happened, now: Moment) -> Result<(Self, Option<Milestone>), JobRefusal> {
        let mut next = self.clone();
        next.updated_at = now;
        next.log_len += 1;
        let milestone = match happened {
            Happened::Claimed { executor } => {
                self.check_open("claim")?;
                next.executor = Some(executor.clone());
                next.executor_epoch += 1;
                None
            }
            Happened::Started { step, half, .. } => {
                self.check_present(step, *half, happened)?;
                next.started = true;
                next.attempt += 1;
                None
            }
            Happened::Verified { step, half } => {
                self.check_present(step, *half, happened)?;
                next.verified(*half)
            }
            Happened::AttemptFailed { step, half, what, fatal } => {
                self.check_present(step, *half, happened)?;
                next.attempt_failed(*half, what, *fatal)
            }
            Happened::CancelAsked { who } => {
                self.check_cancel()?;
                next.notes.push(cancel_note(who));
                next.turn(format!("cancelled by {who}"), true)
            }
            Happened::Retry { who } => {
                self.check_stuck("retry")?;
                next.notes.push(format!("retry asked by {who}"));
                next.started = false;
                // A step that was begun stays begun: a retry must not bring back the way home.
                next.attempt = next.attempt.min(1);
                next.unstick();
                None
            }
            Happened::Skip { who, reason } => {
                self.check_skip()?;
                let name = next.step_name();
                next.notes.push(format!("step {name} skipped by {who}: {reason}"));
                next.unstick();
                if matches!(next.state, JobState::Unwinding { .. }) {
                    next.residue.push(format!("{name}: skipped by {who}: {reason}"));
                    next.back()
                } else {
                    next.skipped.push(name);
                    next.advance()
                }
            }
            Happened::Abandon { who, reason } => {
                self.check_stuck("abandon")?;
                next.notes.push(format!("abandoned by {who}: {reason}"));
                next.state = JobState::Abandoned { why: reason.clone() };
                None
            }
            Happened::UnknownVersion => {
                self.check_open("go on with")?;
                let version = self.kind_version;
                next.stick(format!(
                    "this program does not know plan version {version}: upgrade it, or abandon the job"
                ));
                None
            }
        };
        Ok((next, milestone))
    }

    /// Whether it was this one who cancelled it: only one can.
    #[must_use]
    pub fn was_cancelled_by(&self, who: &str) -> bool {
        self.notes.contains(&cancel_note(who))
    }

    fn step_name(&self) -> String {
        self.steps.get(self.cursor).map_or_else(String::new, |step| step.name.clone())
    }

    fn check_open(&self, verb: &'static str) -> Result<(), JobRefusal> {
        if self.state.is_terminal() {
            return Err(JobRefusal::Ended { job: self.id.clone(), state: self.state.as_str(), verb });
        }
        Ok(())
    }

    fn check_stuck(&self, verb: &'static str) -> Result<(), JobRefusal> {
        self.check_open(verb)?;
        match self.state {
            JobState::Stuck { .. } => Ok(()),
            _ => Err(JobRefusal::NotStuck { job: self.id.clone(), state: self.state.as_str(), verb }),
        }
    }

    /// A step that was never tried has nothing to take back, and nobody knows yet that it cannot be done.
    fn check_skip(&self) -> Result<(), JobRefusal> {
        self.check_stuck("skip")?;
        if self.started || self.attempt > 0 {
            return Ok(());
        }
        Err(JobRefusal::NotTried { job: self.id.clone(), step: self.step_name() })
    }

    fn check_cancel(&self) -> Result<(), JobRefusal> {
        self.check_open("cancel")?;
        if let Some(step) = self.past_no_return() {
            return Err(JobRefusal::PastNoReturn { job: self.id.clone(), step: step.name.clone() });
        }
        if matches!(self.state, JobState::Unwinding { .. } | JobState::Stuck { turned: Some(_), .. }) {
            return Err(JobRefusal::Unexpected {
                job: self.id.clone(),
                what: "cancel of a job that is already unwinding".into(),
            });
        }
        Ok(())
    }

    fn check_present(&self, step: &str, half: Half, happened: &Happened) -> Result<(), JobRefusal> {
        let expected = match self.next() {
            Next::Start { half, .. } => matches!(happened, Happened::Started { .. }).then_some(half),
            Next::Perform { half, .. } => (!matches!(happened, Happened::Started { .. })).then_some(half),
            Next::Rest => None,
        };
        if expected == Some(half) && self.step_name() == step {
            return Ok(());
        }
        Err(JobRefusal::Unexpected { job: self.id.clone(), what: format!("{half:?} of step {step}") })
    }

    /// Stops, and remembers the direction.
    fn stick(&mut self, why: String) {
        let turned = match std::mem::replace(&mut self.state, JobState::Running) {
            JobState::Unwinding { why, cancelled } => Some(Turned { why, cancelled }),
            JobState::Stuck { turned, .. } => turned,
            _ => None,
        };
        self.state = JobState::Stuck { why, turned };
    }

    /// Goes on in the direction it had.
    fn unstick(&mut self) {
        self.state = match std::mem::replace(&mut self.state, JobState::Running) {
            JobState::Stuck { turned: Some(Turned { why, cancelled }), .. } => {
                JobState::Unwinding { why, cancelled }
            }
            _ => JobState::Running,
        };
    }

    fn begin_step(&mut self) {
        self.attempt = 0;
        self.started = false;
    }

    fn verified(&mut self, half: Half) -> Option<Milestone> {
        let step = &self.steps[self.cursor];
        let does = match half {
            Half::Do => Some(&step.act.does),
            Half::Undo => step.undo.as_ref().map(|undo| &undo.does),
        };
        let milestone = match does {
            Some(Does::Record { milestone }) => Some(*milestone),
            _ => None,
        };
        match half {
            Half::Do => {
                let ended = self.advance();
                debug_assert!(ended.is_none(), "going forward ends without a milestone of its own");
                milestone
            }
            Half::Undo => milestone.or(self.back()),
        }
    }

    fn advance(&mut self) -> Option<Milestone> {
        self.cursor += 1;
        self.begin_step();
        if self.cursor >= self.steps.len() {
            self.state = JobState::Succeeded;
        }
        None
    }

    fn attempt_failed(&mut self, half: Half, what: &str, fatal: bool) -> Option<Milestone> {
        self.started = false;
        let step = &self.steps[self.cursor];
        let name = step.name.clone();
        self.notes.push(format!("{name}, attempt {}: {what}", self.attempt));
        if !fatal && self.attempt < step.attempts_max {
            return None;
        }
        if half == Half::Undo {
            self.residue.push(format!("{name}: {what}"));
            return self.back();
        }
        // A region that refuses has not been waited out.
        let refused = fatal && step.wait_out_ms.is_some();
        if step.may_fail && !refused {
            self.skipped.push(name);
            return self.advance();
        }
        let why = format!("step {name} failed: {what}");
        // `attempt` is above 0 here, so the present step counts as begun.
        if self.past_no_return().is_some() {
            self.stick(why);
            return None;
        }
        self.turn(why, false)
    }

    /// Turns around: the present step is undone too if it was begun.
    fn turn(&mut self, why: String, cancelled: bool) -> Option<Milestone> {
        let begun = self.started || self.attempt > 0;
        self.state = JobState::Unwinding { why, cancelled };
        if !begun {
            self.begin_step();
            let ended = self.back();
            return self.on_turn.or(ended);
        }
        self.begin_step();
        let ended = self.skip_to_undo();
        self.on_turn.or(ended)
    }

    /// Goes one step back, over steps that have nothing to undo.
    fn back(&mut self) -> Option<Milestone> {
        if self.cursor == 0 {
            return self.unwound();
        }
        self.cursor -= 1;
        self.begin_step();
        self.skip_to_undo()
    }

    fn skip_to_undo(&mut self) -> Option<Milestone> {
        while self.steps.get(self.cursor).is_none_or(|step| step.undo.is_none()) {
            if self.cursor == 0 {
                return self.unwound();
            }
            self.cursor -= 1;
        }
        None
    }

    fn unwound(&mut self) -> Option<Milestone> {
        let residue = std::mem::take(&mut self.residue);
        self.begin_step();
        self.state = match std::mem::replace(&mut self.state, JobState::Running) {
            JobState::Unwinding { cancelled: true, .. } => JobState::Cancelled { residue },
            JobState::Unwinding { why, .. } => JobState::Failed { why, residue },
            other => other,
        };
        self.on_unwound
    }
}

#[cfg(test)]
mod tests;
