//! A step of a job: an effect, what must be seen before it counts as done, and what takes it back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fencing::FenceTimings;
use crate::ids::{Region, Token};
use crate::workload::{Action, Observation, ReplicationState, Role};

/// One thing that a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "does")]
pub enum Does {
    /// Gives an order to a region's agent.
    Order {
        /// Which region.
        region: Region,
        /// Under which token.
        token: Token,
        /// What.
        action: Action,
        /// The item fences itself by these timings from this order on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease: Option<FenceTimings>,
    },
    /// Changes the item's own record, in one transaction with the journal.
    Record {
        /// Which change.
        milestone: Milestone,
    },
    /// Nothing: only the verification matters.
    Wait,
}

/// A change of the item that a job brings about; the executor makes the event from it and what it observes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Milestone {
    /// [`crate::lifecycle::Event::Created`].
    Created,
    /// The item's record is removed.
    Removed,
    /// [`crate::lifecycle::Event::Seeded`].
    Seeded,
    /// [`crate::lifecycle::Event::ProtectUndone`].
    ProtectUndone,
    /// [`crate::lifecycle::Event::Disabled`].
    Disabled,
    /// [`crate::lifecycle::Event::DrillOpened`].
    DrillOpened,
    /// [`crate::lifecycle::Event::DrillCleaned`].
    DrillCleaned,
    /// [`crate::lifecycle::Event::SourceStopped`]: by the agent's acknowledgement if the fence step succeeded, else by
    /// the operator's word.
    SourceStopped,
    /// [`crate::lifecycle::Event::FailoverUndone`].
    FailoverUndone,
    /// [`crate::lifecycle::Event::Promoted`].
    Promoted,
    /// [`crate::lifecycle::Event::TakenBack`].
    TakenBack,
    /// [`crate::lifecycle::Event::PointChanged`].
    PointChanged,
    /// [`crate::lifecycle::Event::Committed`].
    Committed,
    /// [`crate::lifecycle::Event::Reprotected`].
    Reprotected,
    /// [`crate::lifecycle::Event::ReprotectUndone`].
    ReprotectUndone,
    /// [`crate::lifecycle::Event::DivergenceDropped`].
    DivergenceDropped,
    /// [`crate::lifecycle::Event::Adopted`].
    Adopted,
}

/// What must be seen before a step counts as done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "expect")]
pub enum Expect {
    /// Nothing to see (records; their transaction is the proof).
    Nothing,
    /// The region has this role under at least this token; active also means ready.
    Role {
        /// Where.
        region: Region,
        /// Which role.
        role: Role,
        /// At least this token.
        token: Token,
    },
    /// The region no longer knows the item.
    Gone {
        /// Where.
        region: Region,
    },
    /// The region replicates to the target, in whatever state.
    Replicating {
        /// Where.
        region: Region,
    },
    /// The region replicates no longer.
    NotReplicating {
        /// Where.
        region: Region,
    },
    /// The first copy or the delta is over: every write is sent as it happens.
    Streaming {
        /// Where.
        region: Region,
    },
    /// At least one recovery point is offered.
    PointOffered {
        /// Where.
        region: Region,
        /// This name, if given.
        name: Option<String>,
    },
    /// The target durably has everything that the source accepted.
    Drained {
        /// The fenced source.
        source: Region,
        /// The target.
        target: Region,
    },
    /// A test failover is open.
    DrillOpen {
        /// Where.
        region: Region,
    },
    /// No test failover is open.
    DrillGone {
        /// Where.
        region: Region,
    },
    /// The region serves a chosen point, not yet committed.
    Promoted {
        /// Where.
        region: Region,
        /// Under this token.
        token: Token,
    },
    /// The promotion is accepted (folding may go on).
    Committed {
        /// Where.
        region: Region,
    },
    /// No divergent layer is kept.
    DivergenceGone {
        /// Where.
        region: Region,
    },
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Role { region, role, token } => {
                let role = match role {
                    Role::Active => "active",
                    Role::Unconfirmed => "waiting to be confirmed",
                    Role::Fenced => "fenced",
                    Role::Target => "a target",
                };
                write!(f, "{region} {role} under token {token}")
            }
            Self::Gone { region } => write!(f, "{region} without the item"),
            Self::Replicating { region } => write!(f, "{region} replicating"),
            Self::NotReplicating { region } => write!(f, "{region} not replicating"),
            Self::Streaming { region } => write!(f, "{region} streaming every write"),
            Self::PointOffered { region, name: None } => write!(f, "a recovery point in {region}"),
            Self::PointOffered { region, name: Some(name) } => {
                write!(f, "the recovery point {name:?} in {region}")
            }
            Self::Drained { source, target } => write!(f, "all writes of {source} in {target}"),
            Self::DrillOpen { region } => write!(f, "an open test failover in {region}"),
            Self::DrillGone { region } => write!(f, "no test failover in {region}"),
            Self::Promoted { region, token } => {
                write!(f, "{region} serving a recovery point under token {token}")
            }
            Self::Committed { region } => write!(f, "{region} serving what was accepted"),
            Self::DivergenceGone { region } => write!(f, "no divergent writes kept in {region}"),
        }
    }
}

impl Expect {
    /// The regions to observe for the verdict, in the order that [`Expect::holds`] takes them.
    #[must_use]
    pub fn regions(&self) -> Vec<&Region> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Role { region, .. }
            | Self::Gone { region }
            | Self::Replicating { region }
            | Self::NotReplicating { region }
            | Self::Streaming { region }
            | Self::PointOffered { region, .. }
            | Self::DrillOpen { region }
            | Self::DrillGone { region }
            | Self::Promoted { region, .. }
            | Self::Committed { region }
            | Self::DivergenceGone { region } => vec![region],
            Self::Drained { source, target } => vec![source, target],
        }
    }

    /// Whether what was seen is what was expected. `seen[i]` belongs to `regions()[i]`; `None`: the region does not know
    /// the item.
    #[must_use]
    pub fn holds(&self, seen: &[Option<Observation>]) -> bool {
        let first = seen.first().and_then(Option::as_ref);
        match self {
            Self::Nothing => true,
            Self::Gone { .. } => first.is_none(),
            Self::Role { role, token, .. } => first.is_some_and(|seen| {
                seen.role == *role && seen.token >= *token && (*role != Role::Active || seen.ready)
            }),
            Self::Replicating { .. } => first.is_some_and(|seen| seen.replication.is_some()),
            Self::NotReplicating { .. } => first.is_none_or(|seen| seen.replication.is_none()),
            Self::Streaming { .. } => first
                .and_then(|seen| seen.replication.as_ref())
                .is_some_and(|replication| replication.state == ReplicationState::Streaming),
            Self::PointOffered { name, .. } => first
                .is_some_and(|seen| seen.points.iter().any(|point| name.is_none() || point.name == *name)),
            Self::Drained { .. } => match seen {
                [Some(source), Some(target)] => {
                    (target.watermark.epoch, target.watermark.seq)
                        >= (source.watermark.epoch, source.watermark.seq)
                }
                _ => false,
            },
            Self::DrillOpen { .. } => first.is_some_and(|seen| seen.drill.is_some()),
            Self::DrillGone { .. } => first.is_none_or(|seen| seen.drill.is_none()),
            Self::Promoted { token, .. } => first.is_some_and(|seen| {
                seen.role == Role::Active && seen.ready && seen.token >= *token && seen.promotion.is_some()
            }),
            Self::Committed { .. } => {
                first.is_some_and(|seen| seen.role == Role::Active && seen.ready && seen.promotion.is_none())
            }
            Self::DivergenceGone { .. } => first.is_none_or(|seen| seen.divergence.is_none()),
        }
    }
}

/// An effect and its proof.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Act {
    /// What is done.
    pub does: Does,
    /// What must be seen then.
    pub expect: Expect,
}

/// One step of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Short name, unique in the plan: part of the effect's key.
    pub name: String,
    /// The effect and its proof.
    pub act: Act,
    /// Takes it back; `None`: nothing to take back.
    pub undo: Option<Act>,
    /// How long one attempt's verification may take; `None`: as long as it takes (cancel ends it).
    pub timeout_seconds: Option<u32>,
    /// How often the step is tried before it has failed.
    pub attempts_max: u32,
    /// Share of the progress bar.
    pub weight: u32,
    /// From the start of this step on there is no way back.
    pub no_return: bool,
    /// A failure is noted and the job goes on (asking a dead source to fence itself, with the operator's word in hand).
    pub may_fail: bool,
    /// A region that does not answer is waited out for so many milliseconds, on the clock of the executor and in full by each
    /// executor: it fences itself within that time. Counts as a failure that is allowed; see `may_fail`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_out_ms: Option<u64>,
}
