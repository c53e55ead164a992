//! The one trait through which the engine knows the four kinds, and the closed set of orders it can give.
//!
//! A kind lives in its own crate and knows nothing of jobs, HTTP or the store. The engine gives an [`Order`] to the
//! region where something must happen and later [`Workload::observe`]s whether it did: the verdict comes from the
//! observation, never from the order's return value.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fencing::FenceTimings;
use crate::ids::{Epoch, ItemId, JobId, Kind, Region, StepKey, Token};
use crate::moment::Moment;

/// One order to one region about one item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Repeating an order with the same key has one effect and gives the same answer.
    pub key: StepKey,
    /// The item it is about.
    pub item: ItemId,
    /// Refused with [`StepError::Fenced`] when lower than the highest the region has stored for this item.
    pub token: Token,
    /// What to do.
    pub action: Action,
    /// Refused with [`StepError::Retry`] when it does not hold by the time the order gets its turn. For orders whose giver saw
    /// something and acts on it: it may have been overtaken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_if: Option<OnlyIf>,
    /// With [`Action::Create`], [`Action::Serve`] and [`Action::Promote`]: the item fences itself. It is served only while
    /// the right to do so is renewed ([`Workload::renewed`]), by these timings; they are kept durably. `None`: it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<FenceTimings>,
    /// Whose order it is: an executor that was replaced has lost its say, even if its order comes late. `None`: no job's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<ExecutorClaim>,
}

/// What an order's giver saw, and still must be so.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OnlyIf {
    /// What the region is to the item: several control nodes may see the same thing and act on it at different times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Which start of the region's agent was seen: a confirmation that was delayed on its way must not wake up a region that
    /// was restarted, and may have been replaced, meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
}

/// The claim of an executor on a job: see [`crate::job::Job::executor_epoch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorClaim {
    /// Which job.
    pub job: JobId,
    /// Raised at each claim.
    pub epoch: u64,
}

/// A moment on this machine's boot clock (`CLOCK_BOOTTIME`: goes on while the machine is suspended), in nanoseconds. Means
/// nothing on another machine or after a restart of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// This moment moved later by `by`.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// An item that is served here only while the right to do so is renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// Which.
    pub item: ItemId,
    /// Under which token.
    pub token: Token,
    /// How often, and for how long.
    pub timings: FenceTimings,
    /// Until when it was last renewed; `None`: not yet, and it acknowledges nothing.
    pub until: Option<BootTime>,
}

/// How a write is acknowledged while the item is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicationMode {
    /// Acknowledge when written here; the target follows.
    #[default]
    Async,
    /// A flush returns when the target has durably received everything before it: nothing flushed is ever lost.
    Sync,
}

/// Which moment to bring back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "choose", content = "value")]
pub enum PointChoice {
    /// Everything that has arrived, processed first: least loss.
    #[default]
    Latest,
    /// The newest recovery point that is already processed: least time.
    LatestProcessed,
    /// The point with this id.
    Id(String),
    /// The newest point at or before this moment.
    At(Moment),
}

/// Everything that a region can be told to do with an item. The same for all kinds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Action {
    /// Make the workload from its kind's own description and serve it. Region becomes active.
    Create {
        /// Kind-specific; for a machine `{"disks":[{"name","size_bytes","path"?}]}`.
        spec: Value,
    },
    /// Forget the item here and remove what was made for it (disks that the operator brought are left in place).
    Delete,
    /// Serve for writes under the order's token, from what is here (undo of a fence; start after a restart).
    Serve,
    /// Make an empty replica that can receive from `source`. Region becomes target.
    PrepareTarget {
        /// Who will send.
        source: Region,
        /// The source's [`Observation::shape`].
        shape: Value,
    },
    /// Start (or go on) sending everything to the target at `address`; by delta where it can.
    Replicate {
        /// Who receives.
        target: Region,
        /// `HOST:PORT` of the target's replication listener.
        address: String,
        /// When writes are acknowledged.
        mode: ReplicationMode,
    },
    /// Stop sending, keep serving, forget the target.
    StopReplicating,
    /// Stop accepting and acknowledging writes for every token below the order's, durably, before it returns. Goes on
    /// shipping what was accepted before, if a target is reachable.
    Fence {
        /// Given when another region was promoted without us: the last write that it has. What was accepted here after
        /// it is counted, kept, and offered read-only ([`Observation::divergence`]). Given again with another position
        /// (the point was changed), the count follows.
        lost_after: Option<Watermark>,
    },
    /// Return once the target durably has everything up to the fence's watermark (planned failover).
    Drain,
    /// Open the replica here for writes under the order's token, at a recovery point. Never asks the source for anything.
    Promote {
        /// Which moment.
        point: PointChoice,
    },
    /// After a promote, before commit: serve another moment instead. The layer written since stays until commit.
    ChangePoint {
        /// Which moment.
        point: PointChoice,
    },
    /// Accept the promoted state: drop recovery points, fold layers in the background while serving.
    Commit,
    /// Open a throw-away copy at a point beside the running original. Replication is not touched.
    TestFailover {
        /// Which moment.
        point: PointChoice,
    },
    /// End the test failover and remove its copy.
    CleanUp,
    /// On the old source: become the target of `source`. Writes that the new side never had are kept as a read-only,
    /// browsable layer first.
    Follow {
        /// The active region now.
        source: Region,
        /// The moment from which the histories differ, as the promote reported it.
        diverged_after: Watermark,
    },
    /// Drop the kept divergent layer. Asked for by a person only.
    DropDivergence,
    /// On the source: make a recovery point now, named by a person.
    MarkPoint {
        /// Its name.
        name: String,
    },
}

/// A position in an item's history of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Watermark {
    /// Under which epoch the write was accepted.
    pub epoch: Epoch,
    /// Sequence number of the last write included; 0 is before the first. Goes on rising across epochs.
    pub seq: u64,
    /// Payload bytes of all writes since the item was created, up to `seq`.
    pub bytes: u64,
    /// When that write was accepted, on the source's clock.
    pub at: Moment,
}

/// What a region is to an item, as it remembers durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Serves writes.
    Active,
    /// Was told to be active but waits until the control plane has confirmed that its token is still the highest
    /// (after a restart).
    Unconfirmed,
    /// Stopped by a higher token; serves nothing, keeps everything.
    Fenced,
    /// Receives from the active region.
    Target,
}

/// A moment that the item can be brought back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Stable id, sorts by age: what people type.
    pub id: String,
    /// The last write it includes.
    pub watermark: Watermark,
    /// When it was taken, on the source's clock.
    pub at: Moment,
    /// How good it is.
    pub kind: PointKind,
    /// Name given by a person, for [`PointKind::Named`].
    pub name: Option<String>,
}

/// What a recovery point promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointKind {
    /// As after a power cut: a prefix of the writes, all disks together.
    Crash,
    /// The application was asked to be quiet first.
    App,
    /// Asked for and named by a person.
    Named,
}

/// Data lost, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Loss {
    /// Write operations.
    pub writes: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Seconds between the last kept and the last lost write.
    pub seconds: f64,
}

/// How replication from this (active) region stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replication {
    /// Where to.
    pub target: Region,
    /// What it is doing.
    pub state: ReplicationState,
    /// Bytes still to send before the target is consistent; 0 while streaming.
    pub behind_bytes: u64,
    /// Bytes that the present seed or catch-up had to send in all, for progress.
    pub total_bytes: u64,
    /// Payload and framing bytes put on the wire since this replication was started.
    pub moved_bytes: u64,
    /// Of the blocks sent by the present or last catch-up, the bytes that really differed at the target.
    pub differed_bytes: u64,
    /// What is durable at the target.
    pub acknowledged: Watermark,
    /// Writes accepted here that are not yet durable there.
    pub lag: Loss,
    /// Why it is not streaming, for people.
    pub note: Option<String>,
}

/// Phase of a replication link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicationState {
    /// No connection; retried with back-off. Writes are tracked and not blocked.
    Disconnected,
    /// First full copy.
    Seeding,
    /// Sending what differs; points inside are not offered.
    CatchingUp,
    /// Every write is sent as it happens.
    Streaming,
}

/// Writes that only this region has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// The last write both sides have.
    pub after: Watermark,
    /// What the other side never had.
    pub loss: Loss,
    /// False when it is a bound (after a power cut the write log's tail may be gone), or, with no write counted, when nobody can say
    /// how much it is.
    pub exact: bool,
    /// Where to look at it, read-only.
    pub endpoints: Vec<Endpoint>,
}

impl Divergence {
    /// Whether it could be counted, at least as a bound.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.exact || self.loss.writes > 0
    }
}

/// Where clients reach (a part of) the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Which part: a disk's name, `http`, `mqtts`.
    pub name: String,
    /// How to reach it, as a URI: `nbd://127.0.0.1:10809/web-1/root`.
    pub uri: String,
}

/// A running test failover.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillView {
    /// The point that was opened.
    pub point: Point,
    /// Where the copy is served, apart from production.
    pub endpoints: Vec<Endpoint>,
}

/// What a promote or change-point did, kept for the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// The point that is served now.
    pub point: Point,
    /// The highest position that the source is known to have reached, from its last sign of life.
    pub source_last_known: Watermark,
    /// When that sign of life arrived here.
    pub source_last_seen: Moment,
    /// What can be known of the loss without the source: at least these writes and bytes; at most these seconds, counted to
    /// the promotion because the source may have written unseen since its last sign of life.
    pub at_failover: Loss,
}

/// All that a region knows of an item; what `verify` looks at. Costs no I/O worth naming: asked once a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Highest token stored here.
    pub token: Token,
    /// What this region is to the item.
    pub role: Role,
    /// The role's work is really being done (disks open and served, journal open).
    pub ready: bool,
    /// Kind-specific shape a target needs (`{"disks":[{"name","size_bytes"}]}`).
    pub shape: Value,
    /// Active or fenced: last accepted write. Target: last write durable here.
    pub watermark: Watermark,
    /// Where clients go, when active.
    pub endpoints: Vec<Endpoint>,
    /// Active: the link to the target.
    pub replication: Option<Replication>,
    /// Target, or promoted and not committed: what can be chosen, oldest first. Thinned to what a person can read.
    pub points: Vec<Point>,
    /// A running test failover.
    pub drill: Option<DrillView>,
    /// After a promote, until commit.
    pub promotion: Option<Promotion>,
    /// Background folding after a commit: bytes still to fold; 0 when done.
    pub folding_bytes: u64,
    /// Kept writes that the other side never had.
    pub divergence: Option<Divergence>,
    /// What is wrong and what to do, for people.
    pub warnings: Vec<String>,
    /// Target: why it could not become active now, as far as that is known without trying: a failover that would fail for it
    /// is refused before the source is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot_promote: Option<String>,
    /// Which start of the region's agent answers; filled in by the agent. See [`OnlyIf::start`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
}

/// Whether to try again is part of the type: the engine must not guess.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "error")]
pub enum StepError {
    /// Nothing was changed, or the change will be found done on repeat.
    #[error("{what}")]
    Retry {
        /// What was tried and how it failed.
        what: String,
    },
    /// Repeating cannot help: undo, or ask the operator. Says how to mend it.
    #[error("{what}")]
    Fatal {
        /// What was wrong, where, and what to do.
        what: String,
    },
    /// Someone owns a higher token. Stop at once.
    #[error("a higher token is known here: {current}")]
    Fenced {
        /// The highest token stored here.
        current: Token,
    },
    /// The item is not known in this region.
    #[error("the item is not known in this region")]
    Unknown,
}

/// One kind of workload in one region. Implementations: one crate per kind.
///
/// Every method is idempotent; an implementation must not block the caller's executor.
#[async_trait]
pub trait Workload: Send + Sync + std::fmt::Debug {
    /// Which kind this is.
    fn kind(&self) -> Kind;
    /// The items known here with their highest token and role: what an agent reports on start.
    async fn known(&self) -> Result<Vec<(ItemId, Token, Role)>, StepError>;
    /// Looks, changes nothing.
    async fn observe(&self, item: &ItemId) -> Result<Observation, StepError>;
    /// Does what is ordered. On `Err(Retry)` the effect may have happened: observe before deciding.
    async fn act(&self, order: &Order) -> Result<(), StepError>;
    /// The items that are active here and fence themselves. Costs no I/O: asked several times a second.
    async fn leased(&self) -> Result<Vec<Leased>, StepError> {
        Ok(Vec::new())
    }
    /// The right to serve `item` under `token` is good until `until`. From then on nothing is accepted or acknowledged until
    /// it is renewed again. Refused with [`StepError::Fenced`] when a higher token is known here.
    async fn renewed(&self, item: &ItemId, token: Token, until: BootTime) -> Result<(), StepError> {
        let _ = (token, until);
        Err(StepError::Fatal { what: format!("workloads of kind {} do not fence themselves", item.kind) })
    }
    /// Answers a question that only this kind understands: about what is no order (an order can be repeated by any executor,
    /// and its key is kept) or must not be stored (keys). Has a deadline outside. Never logged: the answer may be a secret.
    async fn ask(&self, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        let _ = question;
        Err(StepError::Fatal { what: format!("there is nothing to ask a workload of kind {}", item.kind) })
    }
    /// Answers the same item in the region `by`, for kinds whose replica asks for what it lacks ([`Pull`]). What request and
    /// answer mean is the kind's own matter; both carry the token. May wait until there is something to answer.
    async fn pulled(&self, item: &ItemId, by: &Region, request: &[u8]) -> Result<Vec<u8>, StepError> {
        let _ = (by, request);
        Err(StepError::Fatal {
            what: format!("there is nothing to pull from a workload of kind {}", item.kind),
        })
    }
    /// The right to serve `item` under `token` was not renewed in time: closes its clients and keeps durably that it is
    /// [`Role::Fenced`] under `token`, before it returns. Does nothing when it was renewed meanwhile.
    async fn expired(&self, item: &ItemId, token: Token) -> Result<(), StepError> {
        let _ = token;
        Err(StepError::Fatal { what: format!("workloads of kind {} do not fence themselves", item.kind) })
    }
}

/// The way to the same item in another region, for kinds whose replica asks for what it lacks: see [`Workload::pulled`]. The
/// caller is proven to be a node of its region; every call has a deadline, longer than the longest wait for an answer.
#[async_trait]
pub trait Pull: Send + Sync + std::fmt::Debug {
    /// Asks `region`. On [`StepError::Retry`] it did not answer.
    async fn pull(&self, region: &Region, item: &ItemId, request: Vec<u8>) -> Result<Vec<u8>, StepError>;
}
