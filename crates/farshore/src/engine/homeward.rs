//! Brings items home without being asked: those that may be failed over without being asked and that two regions may serve at
//! once, so that being home a little too early costs nothing.
//!
//! Read in this order: [`next`] (what the way home needs now, one job after the other), [`attend`] (a job of ours whose region
//! is lost again on the way).
//!
//! Must always hold: what a person moved on purpose (a planned failover away from home) stays where it is; nothing is begun
//! while the other region has not answered for [`HOME_FOR`].

use std::sync::Arc;
use std::time::Duration;

use farshore_core::command::{Command, Verb};
use farshore_core::job::{Job, JobState};
use farshore_core::lifecycle::{Item, Phase};

use super::automatic::Memory;
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
    if !item.id.kind.is_shared() || !may_return(item) || !memory.answers_for(other, HOME_FOR) {
        return None;
    }
    match item.phase {
        Phase::FailedOver => Some(Command::Commit),
        Phase::Committed => Some(Command::Reprotect),
        Phase::Protected { drill: None } if item.source != item.home && *other == item.home => {
            Some(Command::Failback)
        }
        _ => None,
    }
}

/// It is at home, or was not sent away on purpose.
fn may_return(item: &Item) -> bool {
    item.source == item.home || item.failover.as_ref().is_some_and(|report| !report.planned)
}

/// Looks after a job of ours: the return is given up when home is lost again before anything was given back to it, and goes
/// on when what it got stuck on is there again.
pub(super) async fn attend(inner: &Arc<Inner>, item: &Item, judged: &Judged, memory: &mut Memory) {
    let Some(other) = item.target.as_ref().filter(|_| item.id.kind.is_shared()) else { return };
    let Some(job) = ours(inner, item).await else { return };
    let verb = match job.state {
        JobState::Running if judged.is_silent_from_here(other) && can_turn(&job) => JobVerb::Cancel,
        JobState::Stuck { .. } if back(item, memory) => JobVerb::Retry,
        _ => return,
    };
    match steer::steer(inner, &job.id, &verb, WHO).await {
        Ok(job) => {
            tracing::warn!(item = %item.id, job = %job.id, ?verb, "the way home");
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
    (job.asked_by == WHO).then_some(job)
}

/// A failback that was begun has stopped the region that serves: it must serve again. The others hurt nobody by waiting.
fn can_turn(job: &Job) -> bool {
    job.verb() == Verb::Failback && job.past_no_return().is_none()
}

fn back(item: &Item, memory: &Memory) -> bool {
    let pair = std::iter::once(&item.source).chain(&item.target);
    pair.into_iter().all(|region| memory.answers_for(region, HOME_FOR))
}

#[cfg(test)]
mod tests;
