//! An item as clients see it.

use farshore_core::lifecycle::{FailoverReport, KeptDivergence, StopProof};
use farshore_core::workload::{
    Divergence, DrillView as OpenDrill, Endpoint, Loss, Observation, Point, PointKind, Replication,
    ReplicationState, Role,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ReplicationWord;
use super::ask::OnControlLossWord;

/// One protected workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ItemView {
    /// `KIND/NAME`.
    #[schema(example = "machine/web-1")]
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// Its name within the kind.
    pub name: String,
    /// Where it is in its life: `Creating`, `Unprotected`, `Seeding`, `Protected`, `FailingOver`, `FailedOver`,
    /// `Committed`, `Reprotecting`, `Deleting`, `NeedsUser`.
    pub phase: String,
    /// More about the phase, for people.
    pub phase_note: Option<String>,
    /// The region it prefers.
    pub home: String,
    /// The region that has the right to write.
    pub source: String,
    /// The other region of the pair.
    pub target: Option<String>,
    /// The fencing number of the present right to write.
    pub epoch: u64,
    /// When writes are acknowledged.
    pub mode: ReplicationWord,
    /// What the source does without the control plane.
    pub on_control_loss: OnControlLossWord,
    /// The control plane fails it over by itself when its region is lost.
    #[serde(default)]
    pub automatic_failover: bool,
    /// The verbs that are possible now; empty while a job is under way.
    pub next_actions: Vec<String>,
    /// The job under way.
    pub job: Option<JobBrief>,
    /// Whether all is well.
    pub health: HealthView,
    /// How replication from the source stands.
    pub replication: Option<ReplicationView>,
    /// Where clients go now.
    pub endpoints: Vec<EndpointView>,
    /// What can be brought back.
    pub points: PointsBrief,
    /// A running test failover.
    pub drill: Option<DrillView>,
    /// Writes that a region keeps and the active one never had.
    pub divergence: Option<DivergenceView>,
    /// The last failover.
    pub failover: Option<FailoverView>,
    /// Every word of an operator that a source was down.
    pub operators_words: Vec<String>,
    /// What each region was last seen to know of it.
    pub regions: Vec<SeenView>,
    /// When the last test failover was cleaned up.
    #[serde(default)]
    pub last_drill: Option<String>,
    /// When it was made.
    pub created_at: String,
}

/// The job under way, in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobBrief {
    /// Its id.
    pub id: String,
    /// What it does.
    pub verb: String,
    /// Where it stands.
    pub state: String,
    /// The present step.
    pub step: Option<String>,
    /// 0 to 1.
    pub progress: f64,
}

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum HealthState {
    /// All is as it should be.
    Healthy,
    /// Not seen yet, or too long ago.
    Unknown,
    /// Works, but a promise is weaker than it should be.
    Warning,
    /// Does not work, or would not survive.
    Unhealthy,
}

impl HealthState {
    /// The word shown to people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unknown => "Unknown",
            Self::Warning => "Warning",
            Self::Unhealthy => "Unhealthy",
        }
    }
}

/// A verdict, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// The verdict.
    pub state: HealthState,
    /// Why it is not Healthy.
    pub reason: Option<String>,
    /// What to do.
    pub advice: Option<String>,
}

/// Data lost or not yet safe, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct LossView {
    /// Write operations.
    pub writes: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Seconds of writing.
    pub seconds: f64,
}

impl From<Loss> for LossView {
    fn from(loss: Loss) -> Self {
        Self { writes: loss.writes, bytes: loss.bytes, seconds: loss.seconds }
    }
}

/// How replication stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReplicationView {
    /// Where to.
    pub target: String,
    /// `disconnected`, `seeding`, `catching-up` or `streaming`.
    pub state: String,
    /// Writes accepted at the source that are not yet durable at the target: what a failover now would lose.
    pub lag: LossView,
    /// Bytes still to send before the target is consistent; 0 while streaming.
    pub behind_bytes: u64,
    /// Bytes that the present seed or catch-up sends in all.
    pub total_bytes: u64,
    /// Bytes put on the wire since this replication was started.
    pub moved_bytes: u64,
    /// Of the blocks sent by the present or last catch-up, the bytes that really differed.
    pub differed_bytes: u64,
    /// Why it is not streaming.
    pub note: Option<String>,
}

/// The word for a state of replication.
fn replication_word(state: ReplicationState) -> &'static str {
    match state {
        ReplicationState::Disconnected => "disconnected",
        ReplicationState::Seeding => "seeding",
        ReplicationState::CatchingUp => "catching-up",
        ReplicationState::Streaming => "streaming",
    }
}

impl From<&Replication> for ReplicationView {
    fn from(replication: &Replication) -> Self {
        Self {
            target: replication.target.to_string(),
            state: replication_word(replication.state).to_owned(),
            lag: replication.lag.into(),
            behind_bytes: replication.behind_bytes,
            total_bytes: replication.total_bytes,
            moved_bytes: replication.moved_bytes,
            differed_bytes: replication.differed_bytes,
            note: replication.note.clone(),
        }
    }
}

/// Where clients reach a part of the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointView {
    /// Which part.
    pub name: String,
    /// How to reach it.
    #[schema(example = "nbd://127.0.0.1:10809/web-1/root")]
    pub uri: String,
}

impl From<&Endpoint> for EndpointView {
    fn from(endpoint: &Endpoint) -> Self {
        Self { name: endpoint.name.clone(), uri: endpoint.uri.clone() }
    }
}

/// A moment that the item can be brought back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointView {
    /// What people type; sorts by age.
    pub id: String,
    /// When it was taken, on the source's clock.
    pub at: String,
    /// `crash`, `app` or `named`.
    pub kind: String,
    /// The name a person gave it.
    pub name: Option<String>,
    /// Sequence number of the last write in it.
    pub seq: u64,
    /// The epoch that write was accepted under.
    pub epoch: u64,
}

impl From<&Point> for PointView {
    fn from(point: &Point) -> Self {
        let kind = match point.kind {
            PointKind::Crash => "crash",
            PointKind::App => "app",
            PointKind::Named => "named",
        };
        Self {
            id: point.id.clone(),
            at: point.at.to_string(),
            kind: kind.to_owned(),
            name: point.name.clone(),
            seq: point.watermark.seq,
            epoch: point.watermark.epoch.0,
        }
    }
}

/// What can be brought back, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PointsView {
    /// The region that offers them.
    pub region: Option<String>,
    /// The points.
    pub points: Vec<PointView>,
}

/// How many points are offered, and how old they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PointsBrief {
    /// How many.
    pub count: usize,
    /// When the oldest was taken.
    pub oldest: Option<String>,
    /// When the newest was taken.
    pub newest: Option<String>,
}

impl From<&[Point]> for PointsBrief {
    fn from(points: &[Point]) -> Self {
        Self {
            count: points.len(),
            oldest: points.first().map(|point| point.at.to_string()),
            newest: points.last().map(|point| point.at.to_string()),
        }
    }
}

/// A running test failover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillView {
    /// The region that serves the copy.
    pub region: String,
    /// The point that was opened.
    pub point: PointView,
    /// Where the copy is, apart from production.
    pub endpoints: Vec<EndpointView>,
}

impl DrillView {
    /// The drill open in `region`.
    #[must_use]
    pub fn new(region: String, drill: &OpenDrill) -> Self {
        Self {
            region,
            point: (&drill.point).into(),
            endpoints: drill.endpoints.iter().map(Into::into).collect(),
        }
    }
}

/// Writes that a region keeps and the active one never had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DivergenceView {
    /// The region that keeps them.
    pub region: String,
    /// How much.
    pub loss: LossView,
    /// False when it is a bound.
    pub exact: bool,
    /// Where to look at it, read-only.
    pub endpoints: Vec<EndpointView>,
}

impl From<&KeptDivergence> for DivergenceView {
    fn from(kept: &KeptDivergence) -> Self {
        let Divergence { loss, exact, endpoints, .. } = &kept.divergence;
        Self {
            region: kept.region.to_string(),
            loss: (*loss).into(),
            exact: *exact,
            endpoints: endpoints.iter().map(Into::into).collect(),
        }
    }
}

/// What a failover cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailoverView {
    /// The source was stopped first.
    pub planned: bool,
    /// The region that was active.
    pub from: String,
    /// The region that is.
    pub to: String,
    /// When it was asked for.
    pub requested_at: String,
    /// Seconds from the request to the verified answer in the new region.
    pub rto_seconds: f64,
    /// The point that was brought back.
    pub point: PointView,
    /// Data lost.
    pub rpo: RpoView,
    /// Why the old source counts as stopped.
    pub proof: String,
}

/// Data lost by a failover: what could be known then, and what is known now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RpoView {
    /// The bound known at the failover, from the source's last sign of life.
    pub at_failover: LossView,
    /// The loss as seen once the old source was back.
    #[serde(rename = "final")]
    pub final_: Option<LossView>,
    /// The final figure is exact, not a bound.
    pub exact: bool,
}

impl From<&FailoverReport> for FailoverView {
    fn from(report: &FailoverReport) -> Self {
        Self {
            planned: report.planned,
            from: report.from.to_string(),
            to: report.to.to_string(),
            requested_at: report.requested_at.to_string(),
            rto_seconds: report.rto_seconds,
            point: (&report.promotion.point).into(),
            rpo: report.into(),
            proof: proof_text(&report.proof),
        }
    }
}

impl From<&FailoverReport> for RpoView {
    fn from(report: &FailoverReport) -> Self {
        Self {
            at_failover: report.promotion.at_failover.into(),
            final_: report.loss_final.map(Into::into),
            exact: report.exact,
        }
    }
}

/// Why a source counts as stopped, for people.
pub(in crate::api) fn proof_text(proof: &StopProof) -> String {
    match proof {
        StopProof::Acknowledged => "the source acknowledged its fence".to_owned(),
        StopProof::WaitedOut { waited_ms } => {
            let seconds = *waited_ms as f64 / 1000.0;
            format!("the source did not answer and was waited out for {seconds:.1} s: it fences itself")
        }
        StopProof::OperatorsWord { who, at } => format!("the word of {who}, {at}"),
        StopProof::Shared => "not needed: two regions may serve it at once".to_owned(),
    }
}

/// What a region was last seen to know of an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeenView {
    /// The region.
    pub region: String,
    /// Absent when it does not know the item, or has never answered.
    pub observation: Option<ObservationView>,
    /// Why the last look failed, if it did; the observation is then older than `at`.
    pub error: Option<String>,
    /// When it was last looked.
    pub at: String,
}

/// What a region knows of an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ObservationView {
    /// `active`, `unconfirmed`, `fenced` or `target`.
    pub role: String,
    /// The role's work is really being done.
    pub ready: bool,
    /// Highest epoch stored there.
    pub epoch: u64,
    /// The last write there.
    pub watermark: WatermarkView,
    /// Bytes still to fold in the background after a commit.
    pub folding_bytes: u64,
    /// What is wrong there and what to do.
    pub warnings: Vec<String>,
}

impl From<&Observation> for ObservationView {
    fn from(seen: &Observation) -> Self {
        Self {
            role: role_word(seen.role).to_owned(),
            ready: seen.ready,
            epoch: seen.token.epoch.0,
            watermark: WatermarkView {
                epoch: seen.watermark.epoch.0,
                seq: seen.watermark.seq,
                bytes: seen.watermark.bytes,
                at: seen.watermark.at.to_string(),
            },
            folding_bytes: seen.folding_bytes,
            warnings: seen.warnings.clone(),
        }
    }
}

/// A position in an item's history of writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WatermarkView {
    /// Under which epoch the write was accepted.
    pub epoch: u64,
    /// Sequence number of the last write included.
    pub seq: u64,
    /// Payload bytes of all writes up to it.
    pub bytes: u64,
    /// When it was accepted, on the source's clock.
    pub at: String,
}

/// The word for a role.
pub(in crate::api) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Active => "active",
        Role::Unconfirmed => "unconfirmed",
        Role::Fenced => "fenced",
        Role::Target => "target",
    }
}
