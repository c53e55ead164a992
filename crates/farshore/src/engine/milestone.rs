//! What an item and its name become when a job reaches a milestone.

use farshore_core::command::Command;
use farshore_core::ids::Region;
use farshore_core::job::{Job, Milestone};
use farshore_core::lifecycle::{Event, Item, StopProof};
use farshore_core::moment::Moment;
use farshore_core::workload::Observation;

use super::records::DirectoryRecord;

/// Name of the plan's step whose failure leaves the operator's word as the only proof.
const FENCE_STEP: &str = "fence";

/// What the transaction writes beside the journal.
#[derive(Debug)]
pub(super) enum ItemChange {
    /// The item's new record, and its new entry in the directory if that changes.
    Put { item: Box<Item>, directory: Option<DirectoryRecord> },
    /// The item's record and its name go.
    Remove,
}

/// The region that must be looked at to know what the milestone brought about.
pub(super) fn region_to_see(milestone: Milestone, item: &Item) -> Option<Region> {
    match milestone {
        Milestone::Created | Milestone::PointChanged | Milestone::Adopted => Some(item.source.clone()),
        Milestone::DrillOpened | Milestone::Promoted | Milestone::TakenBack => item.target.clone(),
        _ => None,
    }
}

/// The change of the item that `milestone` of `job` brings about, given what was seen.
///
/// # Errors
/// Says what was not seen, or what does not fit.
pub(super) fn change(
    milestone: Milestone,
    item: &Item,
    job: &Job,
    sight: Option<&Observation>,
    now: Moment,
    ttl_seconds: u32,
) -> Result<ItemChange, String> {
    if milestone == Milestone::Removed {
        return Ok(ItemChange::Remove);
    }
    let event = event(milestone, item, job, sight, now)?;
    let next = item.step(&event).map_err(|refusal| refusal.to_string())?;
    let serves = matches!(
        milestone,
        Milestone::Created
            | Milestone::Promoted
            | Milestone::TakenBack
            | Milestone::PointChanged
            | Milestone::Adopted
    );
    let directory = sight.filter(|_| serves).map(|seen| DirectoryRecord {
        epoch: next.epoch,
        item: next.id.clone(),
        region: next.source.clone(),
        endpoints: seen.endpoints.clone(),
        ttl_seconds,
        since: now,
    });
    Ok(ItemChange::Put { item: Box::new(next), directory })
}

fn event(
    milestone: Milestone,
    item: &Item,
    job: &Job,
    sight: Option<&Observation>,
    now: Moment,
) -> Result<Event, String> {
    let promotion = || {
        sight
            .and_then(|seen| seen.promotion.clone())
            .ok_or_else(|| format!("{} is not seen to serve a recovery point", item.id))
    };
    Ok(match milestone {
        Milestone::Removed => return Err("a removed item has no event".to_owned()),
        Milestone::Created => Event::Created,
        Milestone::Seeded => Event::Seeded,
        Milestone::ProtectUndone => Event::ProtectUndone,
        Milestone::Disabled => Event::Disabled,
        Milestone::DrillOpened => {
            let drill = sight.and_then(|seen| seen.drill.as_ref());
            let drill = drill.ok_or_else(|| format!("the test failover of {} is not seen open", item.id))?;
            Event::DrillOpened { point: drill.point.id.clone() }
        }
        Milestone::DrillCleaned => Event::DrillCleaned { at: now },
        Milestone::SourceStopped => Event::SourceStopped { proof: proof(item, job, now) },
        Milestone::FailoverUndone => Event::FailoverUndone,
        Milestone::Promoted => Event::Promoted { epoch: item.epoch, promotion: promotion()?, at: now },
        Milestone::TakenBack => Event::TakenBack { epoch: item.epoch, at: now },
        Milestone::PointChanged => Event::PointChanged { promotion: promotion()? },
        Milestone::Committed => Event::Committed,
        Milestone::Reprotected => Event::Reprotected,
        Milestone::ReprotectUndone => Event::ReprotectUndone,
        Milestone::DivergenceDropped => Event::DivergenceDropped,
        Milestone::Adopted => Event::Adopted {
            promotion: sight.and_then(|seen| seen.promotion.clone()),
            follows: sight.and_then(|seen| seen.replication.as_ref()).is_some_and(|link| {
                item.target.as_ref() == Some(&link.target)
                    && !job.steps.iter().any(|step| step.name == FENCE_STEP)
            }),
            who: job.asked_by.clone(),
            at: now,
        },
    })
}

/// Why the source counts as stopped. A failover that goes on after its point of no return keeps its earlier proof.
fn proof(item: &Item, job: &Job, now: Moment) -> StopProof {
    if let Some(earlier) = item.failing.as_ref().and_then(|failing| failing.proof.clone()) {
        return earlier;
    }
    if job.skipped.iter().any(|step| step == FENCE_STEP) {
        let fence = job.steps.iter().find(|step| step.name == FENCE_STEP);
        if let Some(waited_ms) = fence.and_then(|step| step.wait_out_ms) {
            return StopProof::WaitedOut { waited_ms };
        }
        let word = matches!(job.command, Command::Failover { source_is_down: true, .. });
        if item.id.kind.is_shared() && !word {
            return StopProof::Shared;
        }
        return StopProof::OperatorsWord { who: job.asked_by.clone(), at: now };
    }
    StopProof::Acknowledged
}
