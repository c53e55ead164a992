//! Verdicts: how well a region or an item is, why, and what to do. Pure; the worst finding wins.

use std::collections::BTreeMap;
use std::time::Duration;

use farshore_core::ids::Region;
use farshore_core::job::{Job, JobState};
use farshore_core::lifecycle::{Item, Phase};
use farshore_core::moment::Moment;
use farshore_core::workload::{Observation, ReplicationState};

use super::views::{HealthState, HealthView};
use crate::engine::{RegionHealth, Seen};

/// A target that is further behind than this would lose more than people expect of continuous replication.
const LAG_SECONDS_MAX: f64 = 60.0;
/// Regions are asked every second: a look older than this says nothing about now.
const SEEN_AGE_MAX: Duration = Duration::from_secs(30);

/// Whether a region answers.
pub(super) fn of_region(name: &Region, seen: Option<&RegionHealth>) -> HealthView {
    match seen {
        None => unknown("it has not been asked yet"),
        Some(seen) if seen.reachable => healthy(),
        Some(seen) => HealthView {
            state: HealthState::Unhealthy,
            reason: Some(format!(
                "{name} has not answered since {}{}",
                seen.last_seen.unwrap_or(seen.since),
                seen.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default()
            )),
            advice: Some(format!(
                "start its node again; if {name} is lost, fail its items over with --source-is-down"
            )),
        },
    }
}

/// How well an item is.
pub(super) fn of_item(
    item: &Item,
    job: Option<&Job>,
    seen: &BTreeMap<Region, Seen>,
    regions: &BTreeMap<Region, RegionHealth>,
    now: Moment,
) -> HealthView {
    let view = Look { item, job, seen, regions, now };
    let findings = [view.phase(), view.stuck(), view.source(), view.target(), view.kept(), view.warned()];
    let worst = findings.into_iter().flatten().reduce(|worst, next| match next.state > worst.state {
        true => next,
        false => worst,
    });
    worst.unwrap_or_else(healthy)
}

fn healthy() -> HealthView {
    HealthView { state: HealthState::Healthy, reason: None, advice: None }
}

fn unknown(reason: impl Into<String>) -> HealthView {
    HealthView {
        state: HealthState::Unknown,
        reason: Some(reason.into()),
        advice: Some("look again in a few seconds".to_owned()),
    }
}

fn found(state: HealthState, reason: impl Into<String>, advice: impl Into<String>) -> Option<HealthView> {
    Some(HealthView { state, reason: Some(reason.into()), advice: Some(advice.into()) })
}

fn warning(reason: impl Into<String>, advice: impl Into<String>) -> Option<HealthView> {
    found(HealthState::Warning, reason, advice)
}

fn unhealthy(reason: impl Into<String>, advice: impl Into<String>) -> Option<HealthView> {
    found(HealthState::Unhealthy, reason, advice)
}

struct Look<'a> {
    item: &'a Item,
    job: Option<&'a Job>,
    seen: &'a BTreeMap<Region, Seen>,
    regions: &'a BTreeMap<Region, RegionHealth>,
    now: Moment,
}

impl Look<'_> {
    fn phase(&self) -> Option<HealthView> {
        let Item { id, source, target, .. } = self.item;
        let target = target.as_ref().map_or("the target", Region::as_str);
        match &self.item.phase {
            Phase::NeedsUser { why } => unhealthy(
                why.clone(),
                "compare what the regions say in `farshore status` and decide which one is right",
            ),
            Phase::Unprotected => warning(
                format!("it is not protected: if {source} is lost, it is lost"),
                format!("farshore protect {id} --to REGION"),
            ),
            Phase::Seeding => warning("the first copy is under way: it is not protected yet", "wait for it"),
            Phase::FailingOver { .. } if self.job.is_none() => unhealthy(
                "a failover was given up on the way",
                format!("farshore failover {id} goes on with it"),
            ),
            Phase::FailingOver { .. } => warning("a failover is under way", "wait for it"),
            Phase::FailedOver => warning(
                format!("it was failed over to {source} and is not replicated"),
                format!("check it, then: farshore commit {id} (or farshore change-point {id} --point POINT)"),
            ),
            Phase::Committed => warning(
                format!("it is not replicated: if {source} is lost, it is lost"),
                format!("when {target} is back: farshore reprotect {id}"),
            ),
            Phase::Reprotecting => warning(
                format!("{target} is being brought up to date: it is not protected yet"),
                "wait for it",
            ),
            Phase::Creating | Phase::Deleting | Phase::Protected { .. } => None,
        }
    }

    fn stuck(&self) -> Option<HealthView> {
        let job = self.job?;
        let JobState::Stuck { why, .. } = &job.state else { return None };
        unhealthy(
            format!("its {} is stuck: {why}", job.verb()),
            format!("mend it, then farshore job retry {} (or skip, or abandon)", job.id),
        )
    }

    fn unreachable(&self, region: &Region) -> Option<&RegionHealth> {
        self.regions.get(region).filter(|seen| !seen.reachable)
    }

    fn source(&self) -> Option<HealthView> {
        let Item { id, source, phase, .. } = self.item;
        if matches!(phase, Phase::Creating | Phase::Deleting) {
            return None;
        }
        if let Some(gone) = self.unreachable(source) {
            let advice = match phase {
                Phase::Protected { .. } => {
                    format!("start its node; if it is lost: farshore failover {id} --source-is-down")
                }
                _ => "start its node".to_owned(),
            };
            let since = gone.last_seen.unwrap_or(gone.since);
            return unhealthy(format!("its active region {source} has not answered since {since}"), advice);
        }
        let Some(seen) = self.seen.get(source) else {
            return Some(unknown(format!("{source} has not been asked yet")));
        };
        if self.now.since(seen.at) > SEEN_AGE_MAX {
            return Some(unknown(format!("{source} was last looked at {}", seen.at)));
        }
        match &seen.observation {
            None if self.job.is_some() => None,
            None => unhealthy(
                format!("its active region {source} does not know it"),
                "was the data directory of that region changed? put it back and start its node",
            ),
            Some(observation) if !observation.ready && self.job.is_none() => unhealthy(
                format!("{source} does not serve it"),
                format!("look at the log of the node in {source}"),
            ),
            Some(_) => None,
        }
    }

    fn target(&self) -> Option<HealthView> {
        let Phase::Protected { .. } = self.item.phase else { return None };
        let target = self.item.target.as_ref()?;
        if let Some(gone) = self.unreachable(target) {
            let since = gone.last_seen.unwrap_or(gone.since);
            return warning(
                format!("its target {target} has not answered since {since}: writes are kept for it"),
                "start its node",
            );
        }
        let source = self.observation(&self.item.source)?;
        let Some(replication) = &source.replication else {
            return warning("it is protected but does not replicate", "look at the log of its source's node");
        };
        let note = replication.note.clone().map(|note| format!(": {note}")).unwrap_or_default();
        match replication.state {
            ReplicationState::Streaming if replication.lag.seconds > LAG_SECONDS_MAX => warning(
                format!("{target} is {:.0} s behind", replication.lag.seconds),
                "is the link between the regions fast enough for what is written?",
            ),
            ReplicationState::Streaming => None,
            ReplicationState::Disconnected => warning(
                format!("replication to {target} is disconnected{note}"),
                "it goes on by itself once the cause is gone; see what the target says, and whether the network between the regions is up",
            ),
            ReplicationState::Seeding | ReplicationState::CatchingUp => warning(
                format!("{target} is catching up, {} bytes behind{note}", replication.behind_bytes),
                "wait for it",
            ),
        }
    }

    fn kept(&self) -> Option<HealthView> {
        let kept = self.item.divergence.as_ref()?;
        warning(
            format!(
                "{} keeps {} writes that the active region never had",
                kept.region, kept.divergence.loss.writes
            ),
            format!("copy what you need, then farshore drop-divergence {}", self.item.id),
        )
    }

    fn warned(&self) -> Option<HealthView> {
        let pair = [Some(&self.item.source), self.item.target.as_ref()];
        let observed =
            pair.into_iter().flatten().filter_map(|region| Some((region, self.observation(region)?)));
        let mut warnings = observed
            .flat_map(|(region, seen)| seen.warnings.iter().map(move |text| format!("{region}: {text}")));
        warning(warnings.next()?, "see the region's warning")
    }

    fn observation(&self, region: &Region) -> Option<&Observation> {
        self.seen.get(region)?.observation.as_ref()
    }
}
