//! What people (and policies) ask for, after parsing and before any decision.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fencing::OnControlLoss;
use crate::ids::{Epoch, Region};
use crate::workload::{PointChoice, ReplicationMode};

/// One operation on one item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verb")]
pub enum Command {
    /// Make the item in a region.
    Create {
        /// Where; also its home.
        region: Region,
        /// Kind-specific description.
        spec: Value,
        /// What its active region does without the control plane.
        #[serde(default)]
        on_control_loss: OnControlLoss,
        /// The control plane fails it over by itself when its region is lost; needs `fence`, or a kind that two regions may
        /// serve at once.
        #[serde(default)]
        automatic: bool,
    },
    /// Forget the item and remove what was made for it.
    Delete,
    /// Replicate to another region.
    Protect {
        /// Where to.
        target: Region,
        /// How writes are acknowledged.
        #[serde(default)]
        mode: ReplicationMode,
    },
    /// Stop replicating and remove the replica.
    Disable,
    /// Open a point in isolation beside the running original.
    TestFailover {
        /// Which moment.
        point: PointChoice,
    },
    /// End the test failover.
    #[serde(rename = "cleanup")]
    CleanUp,
    /// Make the target the active region.
    Failover {
        /// Stop the source first and lose nothing.
        planned: bool,
        /// Which moment; a planned failover takes the latest.
        point: PointChoice,
        /// The operator's word that the source is down: audited, shown for ever.
        source_is_down: bool,
    },
    /// Serve another point, before commit.
    ChangePoint {
        /// Which moment.
        point: PointChoice,
    },
    /// Accept the failover.
    Commit,
    /// Replicate in the reverse direction.
    Reprotect,
    /// Planned failover toward home.
    Failback,
    /// Make a recovery point with a name.
    MarkPoint {
        /// Its name.
        name: String,
    },
    /// Throw away the kept divergent writes.
    DropDivergence,
    /// A person says which region is active, after the store and the agents disagreed.
    Adopt {
        /// The region that is to be active.
        region: Region,
        /// The highest epoch that any region knows; looked up when the command is taken.
        #[serde(default)]
        above: Epoch,
        /// The person's word that regions which do not answer are down: audited, shown for ever.
        #[serde(default)]
        others_are_down: bool,
    },
}

/// The name of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// [`Command::Create`].
    Create,
    /// [`Command::Delete`].
    Delete,
    /// [`Command::Protect`].
    Protect,
    /// [`Command::Disable`].
    Disable,
    /// [`Command::TestFailover`].
    TestFailover,
    /// [`Command::CleanUp`].
    #[serde(rename = "cleanup")]
    CleanUp,
    /// [`Command::Failover`].
    Failover,
    /// [`Command::ChangePoint`].
    ChangePoint,
    /// [`Command::Commit`].
    Commit,
    /// [`Command::Reprotect`].
    Reprotect,
    /// [`Command::Failback`].
    Failback,
    /// [`Command::MarkPoint`].
    MarkPoint,
    /// [`Command::DropDivergence`].
    DropDivergence,
    /// [`Command::Adopt`].
    Adopt,
}

impl Verb {
    /// All of them, in the order of an item's life.
    pub const ALL: [Self; 14] = [
        Self::Create,
        Self::Delete,
        Self::Protect,
        Self::Disable,
        Self::TestFailover,
        Self::CleanUp,
        Self::Failover,
        Self::ChangePoint,
        Self::Commit,
        Self::Reprotect,
        Self::Failback,
        Self::MarkPoint,
        Self::DropDivergence,
        Self::Adopt,
    ];

    /// The word that the CLI and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Protect => "protect",
            Self::Disable => "disable",
            Self::TestFailover => "test-failover",
            Self::CleanUp => "cleanup",
            Self::Failover => "failover",
            Self::ChangePoint => "change-point",
            Self::Commit => "commit",
            Self::Reprotect => "reprotect",
            Self::Failback => "failback",
            Self::MarkPoint => "mark-point",
            Self::DropDivergence => "drop-divergence",
            Self::Adopt => "adopt",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Command {
    /// Which operation this is.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Create { .. } => Verb::Create,
            Self::Delete => Verb::Delete,
            Self::Protect { .. } => Verb::Protect,
            Self::Disable => Verb::Disable,
            Self::TestFailover { .. } => Verb::TestFailover,
            Self::CleanUp => Verb::CleanUp,
            Self::Failover { .. } => Verb::Failover,
            Self::ChangePoint { .. } => Verb::ChangePoint,
            Self::Commit => Verb::Commit,
            Self::Reprotect => Verb::Reprotect,
            Self::Failback => Verb::Failback,
            Self::MarkPoint { .. } => Verb::MarkPoint,
            Self::DropDivergence => Verb::DropDivergence,
            Self::Adopt { .. } => Verb::Adopt,
        }
    }
}
