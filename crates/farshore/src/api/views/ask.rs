//! Bodies of requests. Unknown fields are refused: a misspelt one must not be ignored.

use farshore_core::fencing::OnControlLoss;
use farshore_core::workload::ReplicationMode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Makes an item.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    /// `machine`, `app`, `hub` or `realtime`.
    #[schema(example = "machine")]
    pub kind: String,
    /// Lower-case letters, digits, inner hyphens; at most 40.
    #[schema(example = "web-1")]
    pub name: String,
    /// Where it runs first; also its home.
    #[schema(example = "paris")]
    pub region: String,
    /// What to make; for a machine `{"disks":[{"name","size_bytes","path"?}]}`.
    #[schema(value_type = Object, example = json!({"disks":[{"name":"root","size_bytes":1_073_741_824}]}))]
    pub spec: Value,
    /// What the active region does when it loses the control plane.
    #[serde(default)]
    pub on_control_loss: OnControlLossWord,
    /// The control plane fails it over by itself when its region is lost; needs `fence` and three regions, or the
    /// kind `realtime`.
    #[serde(default)]
    pub automatic_failover: bool,
}

/// What an active region does when it loses the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnControlLossWord {
    /// Goes on serving.
    #[default]
    Hold,
    /// Stops by itself.
    Fence,
}

impl From<OnControlLossWord> for OnControlLoss {
    fn from(word: OnControlLossWord) -> Self {
        match word {
            OnControlLossWord::Hold => Self::Hold,
            OnControlLossWord::Fence => Self::Fence,
        }
    }
}

impl From<OnControlLoss> for OnControlLossWord {
    fn from(policy: OnControlLoss) -> Self {
        match policy {
            OnControlLoss::Hold => Self::Hold,
            OnControlLoss::Fence => Self::Fence,
        }
    }
}

/// How a write is acknowledged while the item is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplicationWord {
    /// When written here; the target follows.
    #[default]
    Async,
    /// A flush returns when the target has it.
    Sync,
}

impl From<ReplicationWord> for ReplicationMode {
    fn from(word: ReplicationWord) -> Self {
        match word {
            ReplicationWord::Async => Self::Async,
            ReplicationWord::Sync => Self::Sync,
        }
    }
}

impl From<ReplicationMode> for ReplicationWord {
    fn from(mode: ReplicationMode) -> Self {
        match mode {
            ReplicationMode::Async => Self::Async,
            ReplicationMode::Sync => Self::Sync,
        }
    }
}

/// Replicates the item to another region.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectRequest {
    /// Where to.
    #[schema(example = "oslo")]
    pub target: String,
    /// When writes are acknowledged.
    #[serde(default)]
    pub replication: ReplicationWord,
}

/// Makes the target the active region.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailoverRequest {
    /// Stop the source first and lose nothing.
    #[serde(default)]
    pub planned: bool,
    /// `latest`, `latest-processed`, a point's id or name, or a time (RFC 3339). Absent: `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
    /// The operator's word that the source is down: audited, shown for ever.
    #[serde(default)]
    pub source_is_down: bool,
}

/// Opens a point in isolation beside the running original.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestFailoverRequest {
    /// As for a failover. Absent: `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
}

/// Serves another point, before commit.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePointRequest {
    /// As for a failover.
    #[schema(example = "latest")]
    pub point: String,
}

/// Makes a recovery point with a name.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkPointRequest {
    /// Its name.
    #[schema(example = "before-upgrade")]
    pub name: String,
}

/// Says which region is active, after the store and the agents disagreed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    /// The region that is to be active.
    #[schema(example = "oslo")]
    pub region: String,
    /// The operator's word that a region which does not answer is down: audited, shown for ever.
    #[serde(default)]
    pub others_are_down: bool,
}

/// Verbs without parameters take no body, or an empty object.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}

/// Skips a stuck step, or abandons a stuck job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonRequest {
    /// Why; audited.
    #[schema(example = "the disk was removed by hand")]
    pub reason: String,
}
