//! The steps of each verb.
//!
//! A plan is made once, when the command is accepted, from the item as it will be stored in the same transaction and from
//! [`Facts`] that the shell looked up. It is stored with the job and never made again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Act, Does, Expect, Milestone, Step};
use crate::command::Command;
use crate::ids::{Epoch, Region, Token};
use crate::lifecycle::{Item, Phase, Stage};
use crate::workload::{Action, PointChoice, ReplicationMode, Role, Watermark};

/// An agent answers within this or the attempt has failed: three times its call deadline.
const ANSWER_SECONDS: u32 = 30;
/// How long a source that may be dead is asked to fence itself; every second counts towards the RTO.
const DEAD_SOURCE_SECONDS: u32 = 3;
/// The same where two regions may serve at once: being answered is good to have, and clients are waiting.
const SHARED_SOURCE_SECONDS: u32 = 1;
/// Attempts of an ordinary step: rides out an agent's restart.
const ATTEMPTS_MAX: u32 = 5;

/// What the shell looked up before it made a plan.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The store's incarnation: the first half of every token.
    pub incarnation: u64,
    /// The source's shape, for a target that must be made.
    pub shape: Value,
    /// Where each region receives replication.
    pub addresses: BTreeMap<Region, String>,
    /// Regions that are seen to be targets of the item.
    pub following: BTreeSet<Region>,
    /// Regions that answered and do not know the item: there is nothing to stop there.
    pub strangers: BTreeSet<Region>,
}

/// A plan, ready to be put into a job.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// See [`super::Job::on_turn`].
    pub on_turn: Option<Milestone>,
    /// See [`super::Job::on_unwound`].
    pub on_unwound: Option<Milestone>,
}

/// A fact that a plan needs is missing. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The item has no second region.
    #[error("{item} has no target region: protect it first")]
    NoTarget {
        /// The item.
        item: String,
    },
    /// A region is not registered, or has never told its replication address.
    #[error(
        "region {region} has not told where it receives replication: is its node running? see farshore region list"
    )]
    NoAddress {
        /// The region.
        region: Region,
    },
    /// No failover has happened, so there is no moment from which the histories differ.
    #[error("{item} has never been failed over: there is nothing to reprotect from")]
    NoFailover {
        /// The item.
        item: String,
    },
}

/// Makes the steps that carry out `command` on `item`, which is the item *after* [`Item::request`].
pub fn plan(item: &Item, command: &Command, facts: &Facts) -> Result<Plan, PlanError> {
    let maker = Maker { item, facts };
    match command {
        Command::Create { spec, .. } => Ok(maker.create(spec)),
        Command::Delete => Ok(maker.delete()),
        Command::Protect { mode, .. } => maker.protect(*mode),
        Command::Disable => Ok(maker.disable()),
        Command::TestFailover { point } => maker.test_failover(point),
        Command::CleanUp => maker.clean_up(),
        Command::Failover { planned, point, source_is_down } => {
            maker.failover(*planned, point, *source_is_down)
        }
        Command::Failback => maker.failover(true, &PointChoice::Latest, false),
        Command::ChangePoint { point } => Ok(maker.change_point(point)),
        Command::Commit => Ok(maker.commit()),
        Command::Reprotect => maker.reprotect(),
        Command::MarkPoint { name } => maker.mark_point(name),
        Command::DropDivergence => Ok(maker.drop_divergence()),
        Command::Adopt { others_are_down, .. } => Ok(maker.adopt(*others_are_down)),
    }
}

impl Step {
    fn new(name: &str, does: Does, expect: Expect) -> Self {
        Self {
            name: name.to_owned(),
            act: Act { does, expect },
            undo: None,
            timeout_seconds: Some(ANSWER_SECONDS),
            attempts_max: ATTEMPTS_MAX,
            weight: 1,
            no_return: false,
            may_fail: false,
            wait_out_ms: None,
        }
    }
    fn record(milestone: Milestone) -> Self {
        let name = serde_json::to_value(milestone).ok().and_then(|name| name.as_str().map(str::to_owned));
        Self::new(
            &format!("record-{}", name.unwrap_or_default()),
            Does::Record { milestone },
            Expect::Nothing,
        )
    }
    fn undo(mut self, does: Does, expect: Expect) -> Self {
        self.undo = Some(Act { does, expect });
        self
    }
    fn patient(mut self, weight: u32) -> Self {
        self.timeout_seconds = None;
        self.weight = weight;
        self
    }
    fn no_return(mut self) -> Self {
        self.no_return = true;
        self
    }
}

struct Maker<'a> {
    item: &'a Item,
    facts: &'a Facts,
}

impl Maker<'_> {
    fn token(&self, epoch: Epoch) -> Token {
        Token::new(self.facts.incarnation, epoch)
    }
    fn order(&self, region: &Region, action: Action) -> Does {
        self.order_under(region, self.item.epoch, action)
    }
    fn order_under(&self, region: &Region, epoch: Epoch, action: Action) -> Does {
        let lease = self.item.lease_for(&action);
        Does::Order { region: region.clone(), token: self.token(epoch), action, lease }
    }
    fn source(&self) -> &Region {
        &self.item.source
    }
    fn target(&self) -> Result<&Region, PlanError> {
        self.item.target.as_ref().ok_or_else(|| PlanError::NoTarget { item: self.item.id.to_string() })
    }
    fn role(&self, region: &Region, role: Role) -> Expect {
        Expect::Role { region: region.clone(), role, token: self.token(self.item.epoch) }
    }

    fn create(&self, spec: &Value) -> Plan {
        let source = self.source();
        let create = Step::new(
            "create",
            self.order(source, Action::Create { spec: spec.clone() }),
            self.role(source, Role::Active),
        )
        .undo(self.order(source, Action::Delete), Expect::Gone { region: source.clone() });
        Plan {
            steps: vec![create, Step::record(Milestone::Created)],
            on_unwound: Some(Milestone::Removed),
            ..Plan::default()
        }
    }

    fn delete(&self) -> Plan {
        let source = self.source();
        let delete =
            Step::new("delete", self.order(source, Action::Delete), Expect::Gone { region: source.clone() })
                .no_return();
        Plan { steps: vec![delete, Step::record(Milestone::Removed)], ..Plan::default() }
    }

    fn replicate(&self, from: &Region, to: &Region, mode: ReplicationMode) -> Result<Step, PlanError> {
        let address =
            self.facts.addresses.get(to).ok_or_else(|| PlanError::NoAddress { region: to.clone() })?;
        let action = Action::Replicate { target: to.clone(), address: address.clone(), mode };
        Ok(Step::new("replicate", self.order(from, action), Expect::Replicating { region: from.clone() })
            .undo(self.order(from, Action::StopReplicating), Expect::NotReplicating { region: from.clone() }))
    }

    fn protect(&self, mode: ReplicationMode) -> Result<Plan, PlanError> {
        let (source, target) = (self.source(), self.target()?);
        let action = Action::PrepareTarget { source: source.clone(), shape: self.facts.shape.clone() };
        let prepare =
            Step::new("prepare-target", self.order(target, action), self.role(target, Role::Target))
                .undo(self.order(target, Action::Delete), Expect::Gone { region: target.clone() });
        Ok(Plan {
            steps: vec![
                prepare,
                self.replicate(source, target, mode)?,
                Step::new("seed", Does::Wait, Expect::Streaming { region: source.clone() }).patient(20),
                Step::new(
                    "first-point",
                    Does::Wait,
                    Expect::PointOffered { region: target.clone(), name: None },
                )
                .patient(2),
                Step::record(Milestone::Seeded),
            ],
            on_unwound: Some(Milestone::ProtectUndone),
            ..Plan::default()
        })
    }

    fn disable(&self) -> Plan {
        let source = self.source();
        let mut steps = vec![
            Step::new(
                "stop-replicating",
                self.order(source, Action::StopReplicating),
                Expect::NotReplicating { region: source.clone() },
            )
            .no_return(),
        ];
        if let Some(target) = &self.item.target {
            let gone = Expect::Gone { region: target.clone() };
            steps.push(Step::new("remove-replica", self.order(target, Action::Delete), gone));
        }
        steps.push(Step::record(Milestone::Disabled));
        Plan { steps, ..Plan::default() }
    }

    fn test_failover(&self, point: &PointChoice) -> Result<Plan, PlanError> {
        let target = self.target()?;
        let action = Action::TestFailover { point: point.clone() };
        let open =
            Step::new("open-copy", self.order(target, action), Expect::DrillOpen { region: target.clone() })
                .undo(self.order(target, Action::CleanUp), Expect::DrillGone { region: target.clone() });
        Ok(Plan { steps: vec![open, Step::record(Milestone::DrillOpened)], ..Plan::default() })
    }

    fn clean_up(&self) -> Result<Plan, PlanError> {
        let target = self.target()?;
        let remove = Step::new(
            "remove-copy",
            self.order(target, Action::CleanUp),
            Expect::DrillGone { region: target.clone() },
        );
        Ok(Plan { steps: vec![remove.no_return(), Step::record(Milestone::DrillCleaned)], ..Plan::default() })
    }

    fn failover(&self, planned: bool, point: &PointChoice, source_is_down: bool) -> Result<Plan, PlanError> {
        let (source, target) = (self.source(), self.target()?);
        let mut steps = Vec::new();
        if matches!(self.item.phase, Phase::FailingOver { stage: Stage::Revoking, .. }) {
            steps.push(self.fence(source, planned, source_is_down));
            if planned {
                let drained = Expect::Drained { source: source.clone(), target: target.clone() };
                steps.push(Step::new("drain", self.order(source, Action::Drain), drained).patient(5));
            }
        }
        // Where two may serve at once, a target that does not open is no reason to leave nobody serving: the source is given its
        // right again.
        let turns = planned && self.item.id.kind.is_shared();
        let stopped = Step::record(Milestone::SourceStopped);
        steps.push(if turns { stopped } else { stopped.no_return() });
        if self.item.failing.as_ref().is_some_and(|failing| failing.back) {
            let serve = self.order(target, Action::Serve);
            steps.push(Step::new("serve", serve, self.role(target, Role::Active)));
            steps.push(Step::record(Milestone::TakenBack));
            return Ok(self.turning(steps));
        }
        let promoted = Expect::Promoted { region: target.clone(), token: self.token(self.item.epoch) };
        let action = Action::Promote { point: point.clone() };
        let mut promote = Step::new("promote", self.order(target, action), promoted);
        promote.weight = 3;
        steps.push(promote);
        steps.push(Step::record(Milestone::Promoted));
        Ok(self.turning(steps))
    }

    /// After the point of no return there is nothing to undo: cancelled before it has done anything, a failover that goes on
    /// leaves the item as it found it.
    fn turning(&self, steps: Vec<Step>) -> Plan {
        let revoking = matches!(self.item.phase, Phase::FailingOver { stage: Stage::Revoking, .. });
        Plan { steps, on_turn: revoking.then_some(Milestone::FailoverUndone), ..Plan::default() }
    }

    /// Asks the source to stop. Its undo grants it the epoch after the revoked one, which [`Milestone::FailoverUndone`] has
    /// stored by then.
    fn fence(&self, source: &Region, planned: bool, source_is_down: bool) -> Step {
        let fenced = self.role(source, Role::Fenced);
        let granted = self.token(self.item.epoch.next());
        let mut fence = Step::new("fence", self.order(source, Action::Fence { lost_after: None }), fenced)
            .undo(
                self.order_under(source, self.item.epoch.next(), Action::Serve),
                Expect::Role { region: source.clone(), role: Role::Active, token: granted },
            );
        if !planned {
            fence.timeout_seconds = Some(DEAD_SOURCE_SECONDS);
            fence.attempts_max = 1;
            fence.may_fail = source_is_down;
            if self.item.id.kind.is_shared() {
                fence.timeout_seconds = Some(SHARED_SOURCE_SECONDS);
                fence.may_fail = true;
                return fence;
            }
            if let Some(timings) = self.item.lease.filter(|_| !source_is_down) {
                let wait = u64::try_from(timings.wait().as_millis()).unwrap_or(u64::MAX);
                fence.wait_out_ms = Some(wait);
                fence.may_fail = true;
                fence.timeout_seconds = None;
            }
        }
        fence
    }

    /// The other region is stopped, unless it is known to follow; then the chosen one serves under the decision's epoch.
    fn adopt(&self, others_are_down: bool) -> Plan {
        let source = self.source();
        let mut steps = Vec::new();
        if let Some(other) = self.item.target.as_ref().filter(|other| !self.facts.following.contains(other)) {
            let fence = self.order(other, Action::Fence { lost_after: None });
            let mut fence = Step::new("fence", fence, self.role(other, Role::Fenced)).no_return();
            fence.may_fail = others_are_down || self.facts.strangers.contains(other);
            steps.push(fence);
        }
        steps.push(
            Step::new("serve", self.order(source, Action::Serve), self.role(source, Role::Active))
                .no_return(),
        );
        steps.push(Step::record(Milestone::Adopted));
        Plan { steps, ..Plan::default() }
    }

    fn change_point(&self, point: &PointChoice) -> Plan {
        let source = self.source();
        let promoted = Expect::Promoted { region: source.clone(), token: self.token(self.item.epoch) };
        let change = Step::new(
            "change-point",
            self.order(source, Action::ChangePoint { point: point.clone() }),
            promoted,
        );
        Plan { steps: vec![change, Step::record(Milestone::PointChanged)], ..Plan::default() }
    }

    fn commit(&self) -> Plan {
        let source = self.source();
        let commit = Step::new(
            "commit",
            self.order(source, Action::Commit),
            Expect::Committed { region: source.clone() },
        );
        Plan { steps: vec![commit.no_return(), Step::record(Milestone::Committed)], ..Plan::default() }
    }

    fn reprotect(&self) -> Result<Plan, PlanError> {
        let (source, old) = (self.source(), self.target()?);
        let after = self.diverged_after()?;
        let follow = Action::Follow { source: source.clone(), diverged_after: after };
        let fence = Action::Fence { lost_after: Some(after) };
        Ok(Plan {
            steps: vec![
                // An old source that follows already (a repeated reprotect) is past being fenced.
                Step {
                    may_fail: true,
                    attempts_max: 1,
                    ..Step::new("fence-old-source", self.order(old, fence), self.role(old, Role::Fenced))
                },
                // The old region may still be folding an earlier commit: however long that takes.
                Step::new("follow", self.order(old, follow), self.role(old, Role::Target)).patient(2),
                self.replicate(source, old, self.item.mode)?,
                Step::new("delta", Does::Wait, Expect::Streaming { region: source.clone() }).patient(20),
                Step::new(
                    "first-point",
                    Does::Wait,
                    Expect::PointOffered { region: old.clone(), name: None },
                )
                .patient(2),
                Step::record(Milestone::Reprotected),
            ],
            on_unwound: Some(Milestone::ReprotectUndone),
            ..Plan::default()
        })
    }

    fn diverged_after(&self) -> Result<Watermark, PlanError> {
        self.item
            .failover
            .as_ref()
            .map(|report| report.promotion.point.watermark)
            .ok_or_else(|| PlanError::NoFailover { item: self.item.id.to_string() })
    }

    fn mark_point(&self, name: &str) -> Result<Plan, PlanError> {
        let target = self.target()?;
        let offered = Expect::PointOffered { region: target.clone(), name: Some(name.to_owned()) };
        let mark = Step::new(
            "mark",
            self.order(self.source(), Action::MarkPoint { name: name.to_owned() }),
            offered,
        );
        Ok(Plan { steps: vec![mark], ..Plan::default() })
    }

    fn drop_divergence(&self) -> Plan {
        let mut steps = Vec::new();
        if let Some(kept) = &self.item.divergence {
            let gone = Expect::DivergenceGone { region: kept.region.clone() };
            steps.push(Step::new("drop", self.order(&kept.region, Action::DropDivergence), gone).no_return());
        }
        steps.push(Step::record(Milestone::DivergenceDropped));
        Plan { steps, ..Plan::default() }
    }
}
#[cfg(test)]
mod tests;
