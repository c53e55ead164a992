//! Brings items home without being asked: those that may be failed over without being asked and that two regions may serve at
//! once, so that being home a little too early costs nothing.
//!
//! Read in this order: [`next`] (what the way home needs now, one job after the other), [`attend`] (a job of ours whose region
//! is lost again on the way, or that is stuck).
//!
//! A region that is lost again before it is protected is left again for the one before ([`Item::can_be_taken_back`]); that is a
//! failover like any other, and `automatic` asks for it.
//!
//! Must always hold: what a person moved on purpose (a planned failover away from home) stays where it is; nothing is begun
//! while the other region has not answered for [`HOME_FOR`].

use std::sync::Arc;
use std::time::Duration;

use farshore_core::command::{Command, Verb};
use farshore_core::job::{Job, JobState};
use farshore_core::lifecycle::{Item, Phase};

use super::automatic::{self, Memory};
use super::health::Judged;
use super::{Inner, JobVerb, executor, steer};

/// Who is named in the audit and in the job.
pub(super) const WHO: &str = "control-plane (automatic return)";
/// The other region has answered every look for so long before anything is given back to it: a node that dies again while it
/// starts is not believed.
const HOME_FOR: Duration = Duration::from_secs(5);

/// What brings the item one step nearer to being protected at home.
pub(super) fn next(item: &Item, memory: &Memory) -> Option<Command> {
    let other = item.target.as_ref()?;
    if !may_return(item) || !memory.answers_for(other, HOME_FOR) {
        return None;
    }
    match item.phase {
        Phase::FailedOver => Some(Command::Commit),
        Phase::Committed => Some(Command::Reprotect),
        Phase::Protected { drill: None } if item.source != item.home && *other == item.home => {
            (!memory.was_returned(&item.id)).then_some(Command::Failback)
        }
        _ => None,
    }
}

/// It is brought home and protected without being asked: it is at home, or was not sent away on purpose.
pub(super) fn may_return(item: &Item) -> bool {
    let on_purpose = item.failover.as_ref().is_none_or(|report| report.planned);
    item.automatic && item.id.kind.is_shared() && (item.source == item.home || !on_purpose)
}

/// Looks after a job that nobody asked for: nobody else will.
pub(super) async fn attend(inner: &Arc<Inner>, item: &Item, judged: &Judged, memory: &mut Memory) {
    if !item.id.kind.is_shared() {
        return;
    }
    let Some(job) = ours(inner, item).await else { return };
    let Some(word) = word(inner, item, &job, judged, memory) else { return };
    match steer::steer(inner, &job.id, &word, WHO).await {
        Ok(job) => {
            tracing::warn!(item = %item.id, job = %job.id, ?word, "the way home");
            executor::drive(inner, &job.id);
        }
        // Past its point of no return by now, or ended.
        Err(error) => tracing::info!(item = %item.id, job = %job.id, %error, "the way home"),
    }
    memory.note_refusal(&item.id);
}

async fn ours(inner: &Inner, item: &Item) -> Option<Job> {
    let id = inner.book.item_job(&item.id).await.ok()??;
    let job = inner.book.job(&id).await.ok()??.value;
    [WHO, automatic::WHO].contains(&job.asked_by.as_str()).then_some(job)
}

/// What the job must be told, if anything.
fn word(inner: &Inner, item: &Item, job: &Job, judged: &Judged, memory: &Memory) -> Option<JobVerb> {
    let other = item.target.as_ref()?;
    let stuck = matches!(job.state, JobState::Stuck { .. });
    let running = job.state == JobState::Running && job.past_no_return().is_none();
    let lost = automatic::is_lost(inner, judged, item);
    let back = |region| memory.answers_for(region, HOME_FOR);
    match job.verb() {
        // It has stopped the region that serves, which must serve again.
        Verb::Failback if running && judged.is_silent_from_here(other) => Some(JobVerb::Cancel),
        // The other region takes back over what this would have protected.
        Verb::Reprotect if running && lost => Some(JobVerb::Cancel),
        Verb::Commit | Verb::Reprotect if stuck && lost => {
            Some(JobVerb::Abandon { reason: format!("{} is lost", item.source) })
        }
        Verb::Failover if stuck && back(other) => Some(JobVerb::Retry),
        _ if stuck && back(other) && back(&item.source) => Some(JobVerb::Retry),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
