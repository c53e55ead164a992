//! The life of one item, as a function.
//!
//! [`Item::request`] takes what a person asks for, [`Item::step`] takes what happened; both return what will be, or a
//! [`Refusal`] that says which verbs are possible. The caller stores the result in one transaction with the job's journal,
//! the directory and the audit entry. All four kinds go through here.
//!
//! Must always hold (each has a test below or in `lifecycle/tests.rs`):
//! - the epoch never goes down, and rises whenever the right to write may move;
//! - `source` changes only by [`Event::Promoted`] (or [`Event::TakenBack`], of kinds that two regions may serve at once) in
//!   [`Stage::Promoting`], which only [`Event::SourceStopped`] reaches;
//! - every state has a legal next verb, or a job under way that will reach one.

use serde::{Deserialize, Serialize};

use crate::command::{Command, Verb};
use crate::fencing::{FenceTimings, OnControlLoss};
use crate::ids::{Epoch, ItemId, Region};
use crate::moment::Moment;
use crate::workload::{Action, Divergence, Loss, PointChoice, Promotion, ReplicationMode};

/// Where an item is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase")]
pub enum Phase {
    /// Its workload is being made.
    Creating,
    /// Serves in one region only.
    Unprotected,
    /// The first copy is under way.
    Seeding,
    /// The target follows and offers recovery points.
    Protected {
        /// The point opened by a test failover, if one is open.
        drill: Option<String>,
    },
    /// The right to write is moving to the target.
    FailingOver {
        /// The source is stopped and drained first.
        planned: bool,
        /// How far it is.
        stage: Stage,
    },
    /// The regions are swapped; the point may still be changed.
    FailedOver,
    /// Accepted; the old region is not replicated to yet.
    Committed,
    /// The old region receives what differs.
    Reprotecting,
    /// Its workload is being removed.
    Deleting,
    /// The store and the agents disagree about who is active: a person decides.
    NeedsUser {
        /// What was seen, where.
        why: String,
    },
}

impl Phase {
    /// The word shown to people.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Creating => "Creating",
            Self::Unprotected => "Unprotected",
            Self::Seeding => "Seeding",
            Self::Protected { .. } => "Protected",
            Self::FailingOver { .. } => "FailingOver",
            Self::FailedOver => "FailedOver",
            Self::Committed => "Committed",
            Self::Reprotecting => "Reprotecting",
            Self::Deleting => "Deleting",
            Self::NeedsUser { .. } => "NeedsUser",
        }
    }
}

/// How far a failover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The source's right is revoked; it is not yet known to have stopped. Can be undone.
    Revoking,
    /// The source has stopped, or a person gave their word. The point of no return.
    Promoting,
}

/// Why the source counts as stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "proof")]
pub enum StopProof {
    /// Its agent acknowledged the fence.
    Acknowledged,
    /// It did not answer and was waited out: it stops by itself when it cannot renew its right.
    WaitedOut {
        /// How long, in milliseconds.
        waited_ms: u64,
    },
    /// A person said so. Shown for ever.
    OperatorsWord {
        /// Who.
        who: String,
        /// When.
        at: Moment,
    },
    /// It did not answer, and nobody needs to know: of this kind two regions may serve at once
    /// ([`crate::ids::Kind::is_shared`]).
    Shared,
}

/// What a failover cost, in numbers. Kept with the item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailoverReport {
    /// Planned or not.
    pub planned: bool,
    /// The region that was active.
    pub from: Region,
    /// The region that is.
    pub to: Region,
    /// When it was asked for.
    pub requested_at: Moment,
    /// From the request to the verified answer in the new region.
    pub rto_seconds: f64,
    /// Why the old source counts as stopped.
    pub proof: StopProof,
    /// What was brought back, and the bound of the loss known then.
    pub promotion: Promotion,
    /// The exact loss, once the old source has been seen again.
    pub loss_final: Option<Loss>,
    /// `loss_final` is exact. False after a power cut at the source, then it is a bound; and when the source cannot count it: then it
    /// is the bound that was known at the failover.
    pub exact: bool,
}

/// Writes that a region keeps and the other never had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptDivergence {
    /// The region that keeps them.
    pub region: Region,
    /// What they are.
    pub divergence: Divergence,
}

/// One protected workload: the record `items/KIND/NAME/own`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its name.
    pub id: ItemId,
    /// The fencing number of the present right to write.
    pub epoch: Epoch,
    /// The region it prefers.
    pub home: Region,
    /// The region that has the right to write (during a failover: had it last).
    pub source: Region,
    /// The other region of the pair.
    pub target: Option<Region>,
    /// Where it is in its life.
    #[serde(flatten)]
    pub phase: Phase,
    /// When writes are acknowledged while protected.
    pub mode: ReplicationMode,
    /// What the source does without the control plane.
    pub on_control_loss: OnControlLoss,
    /// Timings by which it fences itself; only with [`OnControlLoss::Fence`].
    #[serde(default)]
    pub lease: Option<FenceTimings>,
    /// The control plane fails it over by itself when its region is lost.
    #[serde(default)]
    pub automatic: bool,
    /// The store's incarnation under which all its regions were last found to know nothing newer than the store. After a
    /// restore nobody is confirmed before that: a region that is silent may be the active one.
    #[serde(default)]
    pub vouched: u64,
    /// When the failover under way was asked for, and the proof once there is one.
    pub failing: Option<Failing>,
    /// The last failover.
    pub failover: Option<FailoverReport>,
    /// Every word of an operator that a source was down.
    pub words: Vec<StopProof>,
    /// Divergent writes that some region keeps.
    pub divergence: Option<KeptDivergence>,
    /// When the last test failover was cleaned up: it is known since then that the item can be recovered.
    #[serde(default)]
    pub last_drill: Option<Moment>,
    /// When it was made.
    pub created_at: Moment,
}

/// A failover under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// When it was asked for.
    pub requested_at: Moment,
    /// Why the source counts as stopped, once it does.
    pub proof: Option<StopProof>,
    /// The point of a test failover that was open; the promotion ends it.
    pub drill: Option<String>,
    /// The target does not follow: it was the source before, and is taken back to from what it has. Only where two regions may
    /// serve at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back: bool,
}

/// Something that happened to an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// Its workload exists and serves.
    Created,
    /// The first copy is there and a point is offered.
    Seeded,
    /// Protecting was given up; nothing is left of it.
    ProtectUndone,
    /// Replication has ended.
    Disabled,
    /// A test failover is open at this point.
    DrillOpened {
        /// The point's id.
        point: String,
    },
    /// The test failover is gone.
    DrillCleaned {
        /// When it was seen gone.
        at: Moment,
    },
    /// The source no longer writes.
    SourceStopped {
        /// Why we say so.
        proof: StopProof,
    },
    /// The failover was given up before its point of no return: the old region gets a new right, above the revoked one.
    FailoverUndone,
    /// The target serves under this epoch.
    Promoted {
        /// The epoch it was told.
        epoch: Epoch,
        /// What it opened.
        promotion: Promotion,
        /// When it was seen to answer.
        at: Moment,
    },
    /// The region that was the source before serves again under this epoch, from what it has.
    TakenBack {
        /// The epoch it was told.
        epoch: Epoch,
        /// When it was seen to answer.
        at: Moment,
    },
    /// Another point is served.
    PointChanged {
        /// What is served now.
        promotion: Promotion,
    },
    /// The failover is accepted.
    Committed,
    /// The old region follows again.
    Reprotected,
    /// Reprotecting was given up.
    ReprotectUndone,
    /// A region was seen to keep writes that the active one never had.
    DivergenceSeen(KeptDivergence),
    /// A person dropped them.
    DivergenceDropped,
    /// A person decided which region is active, and it serves.
    Adopted {
        /// What the region opened, if it was promoted and not committed.
        promotion: Option<Promotion>,
        /// The other region follows it.
        follows: bool,
        /// Who decided.
        who: String,
        /// When it was seen to answer.
        at: Moment,
    },
    /// All its regions have answered under this incarnation of the store, and none is ahead of it.
    Vouched {
        /// The store's incarnation.
        incarnation: u64,
    },
    /// An agent knows a higher epoch than the store: the store was restored from a backup.
    AheadOfStore {
        /// What was seen, where.
        why: String,
    },
}

/// A verb or event that does not fit the state. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The state does not allow it.
    #[error("{item} is {phase}: {verb} is not possible now; possible: {}", list(.possible))]
    NotNow {
        /// The item.
        item: ItemId,
        /// Its phase.
        phase: &'static str,
        /// What was asked.
        verb: Verb,
        /// What may be asked instead.
        possible: Vec<Verb>,
    },
    /// The target is the source.
    #[error("{item} is active in {region}: choose another region as its target")]
    TargetIsSource {
        /// The item.
        item: ItemId,
        /// The region.
        region: Region,
    },
    /// Failback makes no sense at home.
    #[error(
        "{item} is at home in {region}: there is nothing to fail back; to move it use failover --planned"
    )]
    AtHome {
        /// The item.
        item: ItemId,
        /// Its home.
        region: Region,
    },
    /// The target is not the item's home.
    #[error(
        "{item} replicates to {target}, but its home is {home}: failback goes home only; use failover --planned"
    )]
    NotTowardHome {
        /// The item.
        item: ItemId,
        /// Where it replicates to.
        target: Region,
        /// Its home.
        home: Region,
    },
    /// A planned failover loses nothing, so it cannot go to an old point.
    #[error(
        "a planned failover of {item} goes to the latest point: leave the point out, or fail over without --planned"
    )]
    PlannedWithPoint {
        /// The item.
        item: ItemId,
    },
    /// Neither source nor target.
    #[error("{item} has never been in {region}: its regions are {}", known.iter().map(Region::as_str).collect::<Vec<_>>().join(" and "))]
    NotOfThePair {
        /// The item.
        item: ItemId,
        /// The region that was named.
        region: Region,
        /// Those that it has.
        known: Vec<Region>,
    },
    /// Items of this kind have no points that could be named.
    #[error("no recovery point of {item} can be named: {instead}")]
    NoNamedPoints {
        /// The item.
        item: ItemId,
        /// What there is instead.
        instead: &'static str,
    },
    /// News that does not fit: late, repeated, or a defect.
    #[error("{item} is {phase}: {event} does not fit")]
    Unexpected {
        /// The item.
        item: ItemId,
        /// Its phase.
        phase: &'static str,
        /// What was said to have happened.
        event: String,
    },
}

fn list(verbs: &[Verb]) -> String {
    if verbs.is_empty() {
        return "nothing until the job under way has ended".to_owned();
    }
    verbs.iter().map(|verb| verb.as_str()).collect::<Vec<_>>().join(", ")
}

impl Item {
    /// A new item, in [`Phase::Creating`], at epoch 1, at home in `region`.
    #[must_use]
    pub fn new(id: ItemId, region: Region, on_control_loss: OnControlLoss, now: Moment) -> Self {
        Self {
            id,
            epoch: Epoch(1),
            home: region.clone(),
            source: region,
            target: None,
            phase: Phase::Creating,
            mode: ReplicationMode::Async,
            on_control_loss,
            lease: None,
            automatic: false,
            vouched: 0,
            failing: None,
            failover: None,
            words: Vec::new(),
            divergence: None,
            last_drill: None,
            created_at: now,
        }
    }

    /// The verbs that the present state allows, provided that no job is under way.
    #[must_use]
    pub fn next_actions(&self) -> Vec<Verb> {
        let mut verbs = match &self.phase {
            Phase::Creating | Phase::Deleting => vec![Verb::Delete],
            Phase::Unprotected => vec![Verb::Protect, Verb::Delete],
            Phase::Seeding | Phase::Reprotecting => vec![Verb::Disable],
            Phase::Protected { drill: None } => {
                vec![Verb::TestFailover, Verb::Failover, Verb::MarkPoint, Verb::Disable]
            }
            Phase::Protected { drill: Some(_) } => vec![Verb::CleanUp, Verb::Failover, Verb::MarkPoint],
            // Only a job that ended abnormally leaves this behind: failing over again completes it.
            Phase::FailingOver { .. } => vec![Verb::Failover],
            Phase::FailedOver => vec![Verb::ChangePoint, Verb::Commit],
            Phase::Committed => vec![Verb::Reprotect, Verb::Disable],
            Phase::NeedsUser { .. } => vec![Verb::Adopt, Verb::Delete],
        };
        if self.id.kind.instead_of_named_points().is_some() {
            verbs.retain(|verb| *verb != Verb::MarkPoint);
        }
        if self.can_be_taken_back() {
            verbs.push(Verb::Failover);
        }
        if matches!(self.phase, Phase::Protected { .. })
            && self.source != self.home
            && self.target.as_ref() == Some(&self.home)
        {
            verbs.insert(0, Verb::Failback);
        }
        if self.divergence.is_some()
            && matches!(self.phase, Phase::Protected { .. } | Phase::Committed | Phase::Reprotecting)
        {
            verbs.push(Verb::DropDivergence);
        }
        verbs
    }

    /// The other region does not follow yet, but served before, and two may serve at once: if the source is lost now, the other
    /// one serves from what it has.
    #[must_use]
    pub fn can_be_taken_back(&self) -> bool {
        let before = self.failover.as_ref().map(|report| &report.from);
        self.id.kind.is_shared()
            && matches!(self.phase, Phase::FailedOver | Phase::Committed)
            && self.target.is_some()
            && before == self.target.as_ref()
    }

    /// The timings that an order for `action` carries: the item fences itself by them from then on.
    #[must_use]
    pub fn lease_for(&self, action: &Action) -> Option<FenceTimings> {
        let serves = matches!(action, Action::Create { .. } | Action::Serve | Action::Promote { .. });
        self.lease.filter(|_| serves)
    }

    /// Whether `region` may renew its right to serve under `epoch`: it has that right, or it is being given it after the
    /// source had stopped.
    #[must_use]
    pub fn may_renew(&self, region: &Region, epoch: Epoch) -> bool {
        if epoch != self.epoch {
            return false;
        }
        match self.phase {
            Phase::FailingOver { stage: Stage::Revoking, .. } => false,
            Phase::FailingOver { stage: Stage::Promoting, .. } => self.target.as_ref() == Some(region),
            _ => self.source == *region,
        }
    }

    fn refuse(&self, verb: Verb) -> Refusal {
        Refusal::NotNow {
            item: self.id.clone(),
            phase: self.phase.as_str(),
            verb,
            possible: self.next_actions(),
        }
    }

    /// What the item becomes when the command is accepted, before anything is done. `now` is when it was asked.
    ///
    /// Every accepted failover raises the epoch here: the old right is revoked before anybody is asked to do anything.
    pub fn request(&self, command: &Command, now: Moment) -> Result<Self, Refusal> {
        let verb = command.verb();
        if verb == Verb::Failback && matches!(self.phase, Phase::Protected { .. }) {
            self.check_failback()?;
        }
        if verb == Verb::MarkPoint
            && let Some(instead) = self.id.kind.instead_of_named_points()
        {
            return Err(Refusal::NoNamedPoints { item: self.id.clone(), instead });
        }
        if !self.next_actions().contains(&verb) {
            return Err(self.refuse(verb));
        }
        let mut next = self.clone();
        match command {
            Command::Protect { target, mode } => {
                if *target == self.source {
                    return Err(Refusal::TargetIsSource { item: self.id.clone(), region: target.clone() });
                }
                next.target = Some(target.clone());
                next.mode = *mode;
                next.phase = Phase::Seeding;
            }
            Command::Failover { planned, point, .. } => {
                if *planned && *point != PointChoice::Latest {
                    return Err(Refusal::PlannedWithPoint { item: self.id.clone() });
                }
                // Nothing can be drained into a region that does not follow.
                if *planned && self.can_be_taken_back() {
                    return Err(self.refuse(verb));
                }
                next.revoke(*planned, point, now);
            }
            Command::Failback => next.revoke(true, &PointChoice::Latest, now),
            Command::Delete => next.phase = Phase::Deleting,
            Command::Reprotect => next.phase = Phase::Reprotecting,
            Command::Adopt { region, above, .. } => next.adopt(region, *above)?,
            // The others change the state only when they have been done.
            Command::Create { .. }
            | Command::Disable
            | Command::TestFailover { .. }
            | Command::CleanUp
            | Command::ChangePoint { .. }
            | Command::Commit
            | Command::MarkPoint { .. }
            | Command::DropDivergence => {}
        }
        debug_assert!(next.epoch >= self.epoch, "the epoch never goes down");
        Ok(next)
    }

    /// The decision is stored before anybody is told: under an epoch that nobody has seen.
    fn adopt(&mut self, region: &Region, above: Epoch) -> Result<(), Refusal> {
        let pair = [Some(self.source.clone()), self.target.clone()];
        if !pair.iter().flatten().any(|one| one == region) {
            let known = pair.into_iter().flatten().collect();
            return Err(Refusal::NotOfThePair { item: self.id.clone(), region: region.clone(), known });
        }
        if *region != self.source {
            self.target = Some(std::mem::replace(&mut self.source, region.clone()));
        }
        self.epoch = self.epoch.max(above).next();
        self.failing = None;
        Ok(())
    }

    fn check_failback(&self) -> Result<(), Refusal> {
        if self.source == self.home {
            return Err(Refusal::AtHome { item: self.id.clone(), region: self.home.clone() });
        }
        match &self.target {
            Some(target) if *target != self.home => Err(Refusal::NotTowardHome {
                item: self.id.clone(),
                target: target.clone(),
                home: self.home.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn revoke(&mut self, planned: bool, point: &PointChoice, now: Moment) {
        // A failover that was abandoned after its point of no return goes on from there. Whether the source was drained
        // was decided then; an old point loses writes all the same.
        let (stage, planned) = match self.phase {
            Phase::FailingOver { stage: Stage::Promoting, planned } => {
                (Stage::Promoting, planned && *point == PointChoice::Latest)
            }
            _ => (Stage::Revoking, planned),
        };
        let earlier = self.failing.take();
        let drill = match &self.phase {
            Phase::Protected { drill } => drill.clone(),
            _ => earlier.as_ref().and_then(|failing| failing.drill.clone()),
        };
        let back = self.can_be_taken_back() || earlier.as_ref().is_some_and(|failing| failing.back);
        let proof = earlier.and_then(|failing| failing.proof);
        self.epoch = self.epoch.next();
        self.phase = Phase::FailingOver { planned, stage };
        self.failing = Some(Failing { requested_at: now, proof, drill, back });
    }

    /// What the item becomes when something happened.
    ///
    /// # Errors
    /// [`Refusal::Unexpected`] when it does not fit; the caller's journal is then wrong or late, and nothing is changed.
    pub fn step(&self, event: &Event) -> Result<Self, Refusal> {
        let mut next = self.clone();
        match (&self.phase, event) {
            (Phase::Creating, Event::Created)
            | (Phase::Seeding, Event::ProtectUndone)
            | (
                Phase::Seeding | Phase::Protected { .. } | Phase::Committed | Phase::Reprotecting,
                Event::Disabled,
            ) => {
                next.phase = Phase::Unprotected;
                if *event != Event::Created {
                    next.target = None;
                    // The region that kept them moves them aside; nothing offers them any longer.
                    next.divergence = None;
                }
            }
            (Phase::Seeding, Event::Seeded) | (Phase::Reprotecting, Event::Reprotected) => {
                next.phase = Phase::Protected { drill: None };
            }
            (Phase::Protected { .. }, Event::DrillOpened { point }) => {
                next.phase = Phase::Protected { drill: Some(point.clone()) };
            }
            (Phase::Protected { drill }, Event::DrillCleaned { at }) => {
                // Cleaning up what is not open proves nothing.
                next.last_drill = if drill.is_some() { Some(*at) } else { self.last_drill };
                next.phase = Phase::Protected { drill: None };
            }
            (Phase::FailingOver { planned, .. }, Event::SourceStopped { proof }) => {
                next.stopped(*planned, proof)
            }
            (Phase::FailingOver { stage: Stage::Revoking, .. }, Event::FailoverUndone) => next.undone(),
            // The target may have been opened: where two may serve at once, that does no harm.
            (Phase::FailingOver { stage: Stage::Promoting, planned: true }, Event::FailoverUndone)
                if self.id.kind.is_shared() =>
            {
                next.undone();
                // Whoever has been a source before must be made to follow anew.
                let before = next.failover.as_ref().map(|report| &report.from);
                if before.is_some() && before == next.target.as_ref() {
                    next.phase = Phase::Committed;
                }
            }
            (Phase::FailingOver { stage: Stage::Promoting, .. }, Event::TakenBack { epoch, at })
                if *epoch == self.epoch =>
            {
                next.taken_back(*at).ok_or_else(|| self.unexpected(event))?;
            }
            (
                Phase::FailingOver { stage: Stage::Promoting, planned },
                Event::Promoted { epoch, promotion, at },
            ) if *epoch == self.epoch => {
                next.promoted(*planned, promotion, *at).ok_or_else(|| self.unexpected(event))?;
            }
            (Phase::FailedOver, Event::PointChanged { promotion }) => {
                let report = next.failover.as_mut().ok_or_else(|| self.unexpected(event))?;
                report.promotion = promotion.clone();
                // Another point has another loss, which only the old source can tell; after a drain its end is known.
                let nothing_lost = report.planned && promotion.at_failover.writes == 0;
                report.loss_final = nothing_lost.then(Loss::default);
                report.exact = nothing_lost;
            }
            (Phase::FailedOver, Event::Committed) => next.phase = Phase::Committed,
            (Phase::Reprotecting, Event::ReprotectUndone) => next.phase = Phase::Committed,
            (Phase::NeedsUser { .. }, Event::Adopted { promotion, follows, who, at }) => {
                next.adopted(promotion.as_ref(), *follows, who, *at);
            }
            (_, Event::Vouched { incarnation }) if *incarnation > self.vouched => next.vouched = *incarnation,
            (_, Event::DivergenceSeen(kept)) if kept.region != self.source => next.diverged(kept),
            (_, Event::DivergenceDropped) => next.divergence = None,
            (_, Event::AheadOfStore { why }) => next.phase = Phase::NeedsUser { why: why.clone() },
            _ => return Err(self.unexpected(event)),
        }
        debug_assert!(next.epoch >= self.epoch, "the epoch never goes down");
        Ok(next)
    }

    fn unexpected(&self, event: &Event) -> Refusal {
        let event = serde_json::to_value(event)
            .ok()
            .and_then(|value| value.get("event").and_then(|name| name.as_str().map(str::to_owned)))
            .unwrap_or_else(|| "the event".to_owned());
        Refusal::Unexpected { item: self.id.clone(), phase: self.phase.as_str(), event }
    }

    fn stopped(&mut self, planned: bool, proof: &StopProof) {
        self.phase = Phase::FailingOver { planned, stage: Stage::Promoting };
        if let Some(failing) = &mut self.failing {
            failing.proof = Some(proof.clone());
        }
        if matches!(proof, StopProof::OperatorsWord { .. }) {
            // A failover that goes on brings its earlier word along.
            if !self.words.contains(proof) {
                self.words.push(proof.clone());
            }
        }
    }

    /// The old source gets a new right, above the revoked one.
    fn undone(&mut self) {
        self.epoch = self.epoch.next();
        let failing = self.failing.take();
        self.phase = match failing {
            Some(Failing { back: true, .. }) => Phase::Committed,
            failing => Phase::Protected { drill: failing.and_then(|failing| failing.drill) },
        };
    }

    /// What both regions have is what they had when the other one was promoted last.
    fn taken_back(&mut self, at: Moment) -> Option<()> {
        let failing = self.failing.take().filter(|failing| failing.back)?;
        let promotion = self.failover.as_ref()?.promotion.clone();
        let to = self.target.take()?;
        let from = std::mem::replace(&mut self.source, to.clone());
        self.target = Some(from.clone());
        self.phase = Phase::Committed;
        self.failover = Some(FailoverReport {
            planned: false,
            from,
            to,
            requested_at: failing.requested_at,
            rto_seconds: at.since(failing.requested_at).as_secs_f64(),
            proof: failing.proof?,
            promotion,
            loss_final: None,
            exact: false,
        });
        Some(())
    }

    fn promoted(&mut self, planned: bool, promotion: &Promotion, at: Moment) -> Option<()> {
        let failing = self.failing.take().filter(|failing| !failing.back)?;
        let to = self.target.take()?;
        let from = std::mem::replace(&mut self.source, to.clone());
        self.target = Some(from.clone());
        self.phase = Phase::FailedOver;
        self.failover = Some(FailoverReport {
            planned,
            from,
            to,
            requested_at: failing.requested_at,
            rto_seconds: at.since(failing.requested_at).as_secs_f64(),
            proof: failing.proof?,
            promotion: if planned {
                Promotion { at_failover: Loss::default(), ..promotion.clone() }
            } else {
                promotion.clone()
            },
            // A planned failover was drained before it was promoted: nothing is left to be found out.
            loss_final: planned.then(Loss::default),
            exact: planned,
        });
        Some(())
    }

    /// What the regions were found to be, under the decision's epoch.
    fn adopted(&mut self, promotion: Option<&Promotion>, follows: bool, who: &str, at: Moment) {
        let word = StopProof::OperatorsWord { who: who.to_owned(), at };
        self.words.push(word.clone());
        self.divergence = None;
        match (follows, promotion, self.target.clone()) {
            (true, _, _) => self.phase = Phase::Protected { drill: None },
            (false, Some(promotion), Some(from)) => {
                self.phase = Phase::FailedOver;
                self.failover = Some(FailoverReport {
                    planned: false,
                    from,
                    to: self.source.clone(),
                    requested_at: promotion.source_last_seen,
                    rto_seconds: at.since(promotion.source_last_seen).as_secs_f64(),
                    proof: word,
                    promotion: promotion.clone(),
                    loss_final: None,
                    exact: false,
                });
            }
            _ => {
                self.phase = Phase::Unprotected;
                self.target = None;
            }
        }
    }

    fn diverged(&mut self, kept: &KeptDivergence) {
        let nothing = kept.divergence.loss.writes == 0 && kept.divergence.endpoints.is_empty();
        if !nothing {
            self.divergence = Some(kept.clone());
        } else if self.divergence.as_ref().is_some_and(|earlier| earlier.region == kept.region) {
            self.divergence = None;
        }
        if let Some(report) = &mut self.failover
            && report.from == kept.region
            && report.promotion.point.watermark == kept.divergence.after
        {
            // What the old source cannot count is no smaller than what was known when it was lost.
            let known = if kept.divergence.is_counted() {
                kept.divergence.loss
            } else {
                report.promotion.at_failover
            };
            report.loss_final = Some(known);
            report.exact = kept.divergence.exact;
        }
    }
}

#[cfg(test)]
mod tests;
