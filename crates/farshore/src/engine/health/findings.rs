//! How well a region or an item is, why, and what to do: findings, worst first. Pure but for [`Judged`], which puts the
//! figures together.
//!
//! Must always hold: an item is never Healthy when its recovery point is older than promised, or when nobody has looked
//! for a while.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::{ItemId, Region};
use farshore_core::incident::Finding;
use farshore_core::job::{Job, JobState};
use farshore_core::lifecycle::{Item, Phase};
use farshore_core::moment::Moment;
use farshore_core::verdict::{Health, Judge};
use farshore_core::workload::{Observation, Replication, ReplicationState};

use super::super::book::StoreState;
use super::super::{Control, Inner, RegionHealth, Seen, homeward, now};

/// A target that is further behind than this loses more than people expect of continuous replication.
pub const RPO_SECONDS: f64 = 60.0;
/// Writes that no recovery point holds yet are not older than this.
const POINT_AGE_MAX: Duration = Duration::from_secs(600);
/// Who has not tried a recovery for so long does not know that it works.
pub const DRILL_AGE_MAX: Duration = Duration::from_secs(90 * 86_400);
/// Regions are asked every second: a look older than this says nothing about now.
const SEEN_AGE_MAX: Duration = Duration::from_secs(30);
/// A certificate that was not renewed by then will not renew by itself.
const CERTIFICATE_LEFT_MIN: Duration = Duration::from_secs(3 * 86_400);

/// Everything that is wrong with regions and items, judged from this node.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Judged {
    inner: Arc<Inner>,
    regions: BTreeMap<Region, RegionHealth>,
    verdicts: BTreeMap<Region, Option<Finding>>,
    store: bool,
    now: Moment,
}

impl Judged {
    /// As it is now.
    pub(in crate::engine) fn now(inner: &Arc<Inner>) -> Self {
        let regions = inner.health.regions();
        let store = inner.book.state() == StoreState::Live;
        let mut judged =
            Self { inner: Arc::clone(inner), verdicts: BTreeMap::new(), store, now: now(), regions };
        judged.verdicts =
            judged.regions.keys().map(|name| (name.clone(), judged.judge_region(name))).collect();
        judged
    }

    fn judge(&self) -> Judge<'_> {
        Judge { here: self.inner.agents.here(), store: self.store }
    }

    fn judge_region(&self, name: &Region) -> Option<Finding> {
        let believed = self.inner.health.agreed(name.as_str(), self.judge());
        let reason = believed.reason?;
        let since = self.inner.health.last_seen(name);
        let seen = since.map(|at| format!("; last seen from here {at}")).unwrap_or_default();
        Some(match believed.state {
            Health::Unhealthy => unhealthy(
                "unreachable",
                format!("{reason}{seen}"),
                format!("start its node again; if {name} is lost, fail its items over with --source-is-down"),
            ),
            Health::Warning => {
                warning("link", reason, "look at the network between the two regions; nothing is failed over")
            }
            _ => unknown(reason, "look again in a few seconds, and from another region"),
        })
    }

    /// The others agree that the region is gone.
    pub(in crate::engine) fn is_lost(&self, name: &Region) -> bool {
        let verdict = self.verdicts.get(name).and_then(Option::as_ref);
        verdict.is_some_and(|found| found.state == Health::Unhealthy && found.cause == "unreachable")
    }

    /// This process gets no answer from the region, round after round, and nobody that can be heard does.
    pub(in crate::engine) fn is_silent_from_here(&self, name: &Region) -> bool {
        let verdict = self.verdicts.get(name).and_then(Option::as_ref);
        // A warning names those that do.
        let answered = verdict.is_none_or(|found| found.state == Health::Warning);
        !answered && self.inner.health.is_silent_from(self.inner.agents.here(), name)
    }

    /// The regions that answered the last question from here.
    pub(in crate::engine) fn answering(&self) -> HashSet<Region> {
        let answering = self.regions.iter().filter(|(_, seen)| seen.reachable);
        answering.map(|(name, _)| name.clone()).collect()
    }

    /// What is wrong with a region, worst first.
    pub(in crate::engine) fn region(&self, name: &Region) -> Vec<Finding> {
        let reached = match self.verdicts.get(name) {
            Some(verdict) => verdict.clone(),
            None => Some(unknown("it has not been asked yet", "look again in a few seconds")),
        };
        sorted(reached.into_iter().chain(self.certificate(name)).collect())
    }

    fn certificate(&self, name: &Region) -> Option<Finding> {
        if self.inner.agents.here() != Some(name) {
            return None;
        }
        let ends = (self.inner.options.certificate_ends.as_ref()?.0)()?;
        let left = ends.since(self.now);
        (left < CERTIFICATE_LEFT_MIN).then(|| {
            warning(
                "certificate",
                format!("the certificate of its node ends at {ends}"),
                "it renews by itself while a control node with the authority's key can be reached: see the log of the node",
            )
        })
    }

    /// What is wrong with an item, worst first.
    pub(in crate::engine) fn item(&self, item: &Item, job: Option<&Job>) -> Vec<Finding> {
        let source_region = self.verdicts.get(&item.source).and_then(Option::as_ref);
        let (mut found, endpoints) = self.inner.health.with_seen(&item.id, |seen| {
            let look = Look { item, job, seen, regions: &self.regions, source_region, now: self.now };
            (look.findings(), look.endpoints())
        });
        found.extend(self.dead_endpoint(&item.id, &endpoints));
        sorted(found)
    }

    fn dead_endpoint(&self, item: &ItemId, endpoints: &[String]) -> Option<Finding> {
        let judged = endpoints.iter().map(|uri| (uri, self.inner.health.agreed(uri, self.judge())));
        let bad = judged.filter(|(_, believed)| believed.state >= Health::Warning);
        let (uri, worst) = bad.max_by_key(|(_, believed)| believed.state)?;
        let reason = worst.reason.unwrap_or_else(|| format!("{uri} does not answer"));
        let advice = format!("look at the log of its region's node; farshore status {item}");
        Some(Finding { state: worst.state, cause: "endpoint", reason, advice })
    }
}

impl Control {
    /// What is wrong with each region, worst first, as this node believes after hearing the others.
    #[must_use]
    pub fn region_findings(&self, name: &Region) -> Vec<Finding> {
        Judged::now(&self.inner).region(name)
    }

    /// Judges items; what all of them have in common is put together once.
    pub fn judge_items(&self) -> impl Fn(&Item, Option<&Job>) -> Vec<Finding> + Send + use<> {
        let judged = Judged::now(&self.inner);
        move |item, job| judged.item(item, job)
    }
}

/// What is well and still worth saying.
#[must_use]
pub(crate) fn advice(item: &Item) -> Option<String> {
    let never = item.last_drill.is_none() && matches!(item.phase, Phase::Protected { drill: None });
    never.then(|| format!("its recovery was never tried: run farshore test-failover {}", item.id))
}

fn sorted(mut found: Vec<Finding>) -> Vec<Finding> {
    // Stable: of equals, the first is told.
    found.sort_by_key(|finding| std::cmp::Reverse(finding.state));
    found
}

fn unknown(reason: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { state: Health::Unknown, cause: "unknown", reason: reason.into(), advice: advice.into() }
}

fn warning(cause: &'static str, reason: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { state: Health::Warning, cause, reason: reason.into(), advice: advice.into() }
}

fn unhealthy(cause: &'static str, reason: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { state: Health::Unhealthy, cause, reason: reason.into(), advice: advice.into() }
}

struct Look<'a> {
    item: &'a Item,
    job: Option<&'a Job>,
    seen: &'a BTreeMap<Region, Seen>,
    regions: &'a BTreeMap<Region, RegionHealth>,
    /// What is wrong with the region of its source.
    source_region: Option<&'a Finding>,
    now: Moment,
}

impl Look<'_> {
    fn findings(&self) -> Vec<Finding> {
        let single = [self.phase(), self.stuck(), self.source(), self.kept(), self.drill(), self.warned()];
        single.into_iter().flatten().chain(self.target()).collect()
    }

    fn phase(&self) -> Option<Finding> {
        let Item { id, source, target, .. } = self.item;
        let target = target.as_ref().map_or("the target", Region::as_str);
        Some(match &self.item.phase {
            Phase::NeedsUser { why } => unhealthy(
                "needs-user",
                why.clone(),
                format!(
                    "compare what the regions say in farshore status {id}, then farshore adopt {id} --region REGION says which one is right"
                ),
            ),
            // What it keeps is capacity, and that is lost with its region.
            Phase::Unprotected if self.is_reserve() => return None,
            Phase::Unprotected => warning(
                "unprotected",
                format!("it is not protected: if {source} is lost, it is lost"),
                format!("farshore protect {id} --to REGION"),
            ),
            Phase::Seeding => {
                warning("seeding", "the first copy is under way: it is not protected yet", "wait for it")
            }
            Phase::FailingOver { .. } if self.job.is_none() => unhealthy(
                "given-up",
                "a failover was given up on the way",
                format!("farshore failover {id} goes on with it"),
            ),
            Phase::FailingOver { .. } => warning("failing-over", "a failover is under way", "wait for it"),
            Phase::FailedOver => warning(
                "failed-over",
                format!("it was failed over to {source} and is not replicated"),
                match self.by_itself() {
                    true => format!("when {target} is back it is brought home by itself"),
                    false => {
                        format!(
                            "check it, then: farshore commit {id} (or farshore change-point {id} --point POINT)"
                        )
                    }
                },
            ),
            Phase::Committed => warning(
                "committed",
                format!("it is not replicated: if {source} is lost, it is lost"),
                match self.by_itself() {
                    true => format!("when {target} is back it is replicated again by itself"),
                    false => format!("when {target} is back: farshore reprotect {id}"),
                },
            ),
            Phase::Reprotecting => warning(
                "reprotecting",
                format!("{target} is being brought up to date: it is not protected yet"),
                "wait for it",
            ),
            Phase::Creating | Phase::Deleting | Phase::Protected { .. } => return None,
        })
    }

    /// It keeps capacity for another item, and nothing else.
    fn is_reserve(&self) -> bool {
        let seen = self.seen.get(&self.item.source).and_then(|seen| seen.observation.as_ref());
        seen.and_then(|observation| observation.shape.get("reserve_for")).is_some_and(|of| of.is_string())
    }

    /// The control plane does what is next without being asked.
    fn by_itself(&self) -> bool {
        homeward::may_return(self.item)
    }

    fn stuck(&self) -> Option<Finding> {
        let job = self.job?;
        let JobState::Stuck { why, .. } = &job.state else { return None };
        Some(unhealthy(
            "stuck",
            format!("its {} is stuck: {why}", job.verb()),
            format!("mend it, then farshore job retry {} (or skip, or abandon)", job.id),
        ))
    }

    fn unreachable(&self, region: &Region) -> Option<&RegionHealth> {
        self.regions.get(region).filter(|seen| !seen.reachable)
    }

    fn source(&self) -> Option<Finding> {
        let Item { id, source, phase, .. } = self.item;
        if matches!(phase, Phase::Creating | Phase::Deleting) {
            return None;
        }
        if let Some(gone) = self.source_region.filter(|found| found.state == Health::Unhealthy) {
            let advice = match phase {
                Phase::Protected { .. } if self.item.automatic && id.kind.is_shared() => {
                    "it is failed over by itself; start its node".to_owned()
                }
                Phase::Protected { .. } if id.kind.is_shared() => {
                    format!("start its node, or: farshore failover {id}")
                }
                Phase::Protected { .. } => {
                    format!("start its node; if it is lost: farshore failover {id} --source-is-down")
                }
                _ => "start its node".to_owned(),
            };
            let reason = format!("its active region {source} does not answer: {}", gone.reason);
            // The region's own incident says it: a region with ten thousand items is one thing that went wrong.
            return Some(unhealthy("region-lost", reason, advice));
        }
        let again = "look again in a few seconds";
        let Some(seen) = self.seen.get(source) else {
            return Some(unknown(format!("{source} has not been asked yet"), again));
        };
        if let Some(error) = &seen.error {
            return Some(unknown(format!("the last look at {source} failed: {error}"), again));
        }
        if self.now.since(seen.at) > SEEN_AGE_MAX {
            return Some(unknown(format!("{source} was last looked at {}", seen.at), again));
        }
        match &seen.observation {
            None if self.job.is_some() => None,
            None => Some(unhealthy(
                "missing",
                format!("its active region {source} does not know it"),
                "was the data directory of that region changed? put it back and start its node",
            )),
            Some(observation) if !observation.ready && self.job.is_none() => Some(unhealthy(
                "not-serving",
                format!("{source} does not serve it"),
                format!("look at the log of the node in {source}"),
            )),
            Some(_) => None,
        }
    }

    fn target(&self) -> Vec<Finding> {
        let Phase::Protected { .. } = self.item.phase else { return Vec::new() };
        let Some(target) = self.item.target.as_ref() else { return Vec::new() };
        let mut found = Vec::new();
        if let Some(gone) = self.unreachable(target) {
            let since = gone.last_seen.unwrap_or(gone.since);
            found.push(warning(
                "target-unreachable",
                format!("its target {target} has not answered since {since}: writes are kept for it"),
                "start its node",
            ));
        }
        let Some(source) = self.observation(&self.item.source) else { return found };
        let Some(replication) = &source.replication else {
            let reason = "it is protected but does not replicate";
            found.push(warning("not-replicating", reason, "look at the log of its source's node"));
            return found;
        };
        found.extend(not_streaming(target, replication));
        found.extend(self.rpo(target, source, replication));
        found
    }

    /// What would be lost now, against what is promised.
    fn rpo(&self, target: &Region, source: &Observation, replication: &Replication) -> Option<Finding> {
        let advice = "is the link between the regions fast enough for what is written?";
        if replication.lag.seconds > RPO_SECONDS {
            let reason =
                format!("{target} is {:.0} s behind, over {RPO_SECONDS:.0} s", replication.lag.seconds);
            return Some(warning("rpo", reason, advice));
        }
        let newest = self.observation(target)?.points.last()?;
        let age = self.now.since(newest.at);
        if newest.watermark.seq >= source.watermark.seq || age <= POINT_AGE_MAX {
            return None;
        }
        let reason = format!(
            "its newest recovery point is {} min old, and it has been written since",
            age.as_secs() / 60
        );
        Some(warning(
            "rpo",
            reason,
            format!("look at the log of the node in {target}, and whether its disk is full"),
        ))
    }

    fn kept(&self) -> Option<Finding> {
        let kept = self.item.divergence.as_ref()?;
        let writes = kept.divergence.loss.writes;
        Some(warning(
            "divergence",
            format!("{} keeps {writes} writes that the active region never had", kept.region),
            format!("copy what you need, then farshore drop-divergence {}", self.item.id),
        ))
    }

    fn drill(&self) -> Option<Finding> {
        let Phase::Protected { drill: None } = self.item.phase else { return None };
        let last = self.item.last_drill.unwrap_or(self.item.created_at);
        let days = self.now.since(last).as_secs() / 86_400;
        let what = match self.item.last_drill {
            Some(_) => format!("its recovery was last tried {days} days ago"),
            None => format!("its recovery was never tried in {days} days"),
        };
        (self.now.since(last) > DRILL_AGE_MAX)
            .then(|| warning("drill", what, format!("run farshore test-failover {}", self.item.id)))
    }

    fn warned(&self) -> Option<Finding> {
        let pair = [Some(&self.item.source), self.item.target.as_ref()];
        let observed =
            pair.into_iter().flatten().filter_map(|region| Some((region, self.observation(region)?)));
        let mut warnings = observed
            .flat_map(|(region, seen)| seen.warnings.iter().map(move |text| format!("{region}: {text}")));
        Some(warning("reported-by-region", warnings.next()?, "see the region's warning"))
    }

    /// Where clients go; nobody goes there while a job moves it.
    fn endpoints(&self) -> Vec<String> {
        if self.job.is_some() {
            return Vec::new();
        }
        let active = self.observation(&self.item.source);
        active.into_iter().flat_map(|seen| seen.endpoints.iter().map(|at| at.uri.clone())).collect()
    }

    fn observation(&self, region: &Region) -> Option<&Observation> {
        self.seen.get(region)?.observation.as_ref()
    }
}

fn not_streaming(target: &Region, replication: &Replication) -> Option<Finding> {
    let note = replication.note.clone().map(|note| format!(": {note}")).unwrap_or_default();
    match replication.state {
        ReplicationState::Streaming => None,
        ReplicationState::Disconnected => Some(warning(
            "not-replicating",
            format!("replication to {target} is disconnected{note}"),
            "it goes on by itself once the cause is gone; see what the target says, and whether the network between the regions is up",
        )),
        ReplicationState::Seeding | ReplicationState::CatchingUp => Some(warning(
            "catching-up",
            format!("{target} is catching up, {} bytes behind{note}", replication.behind_bytes),
            "wait for it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_core::fencing::OnControlLoss;

    #[test]
    fn an_old_drill_is_a_warning_and_a_new_one_is_none() {
        let id = ItemId::parse("machine/web-1").unwrap();
        let item = Item {
            phase: Phase::Protected { drill: None },
            ..Item::new(id, Region::parse("paris").unwrap(), OnControlLoss::Hold, Moment(0))
        };
        let check = |last_drill, now, expected: Option<&str>| {
            let item = Item { last_drill, ..item.clone() };
            let look = Look {
                item: &item,
                job: None,
                seen: &BTreeMap::new(),
                regions: &BTreeMap::new(),
                source_region: None,
                now,
            };
            let found = look.drill();
            assert_eq!(found.as_ref().map(|found| found.reason.as_str()), expected);
            assert!(found.is_none_or(|found| found.state == Health::Warning
                && found.advice == "run farshore test-failover machine/web-1"));
        };
        let day = |days: u64| Moment::from_millis(days * 86_400_000);
        check(None, day(90), None);
        check(None, day(91), Some("its recovery was never tried in 91 days"));
        check(Some(day(5)), day(91), None);
        check(Some(day(5)), day(96), Some("its recovery was last tried 91 days ago"));
    }
}
