//! What the store holds beside items and jobs, and under which keys. Described for people in `docs/formats/store.md`.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use farshore_core::ids::{Epoch, ItemId, JobId, Kind, Region};
use farshore_core::job::Happened;
use farshore_core::moment::Moment;
use farshore_core::workload::Endpoint;

/// Key of [`Meta`].
pub(crate) const META: &str = "meta";
/// Prefix of all items' records.
pub(crate) const ITEMS: &str = "items/";
/// Prefix of all jobs and their journals.
pub(crate) const JOBS: &str = "jobs/";
/// Prefix of [`RegionRecord`]s.
pub(crate) const REGIONS: &str = "regions/";
/// Prefix of [`DirectoryRecord`]s.
pub(crate) const DIRECTORY: &str = "directory/";
/// Prefix of [`AuditEntry`]s.
pub(crate) const AUDIT: &str = "audit/";

pub(crate) fn own_key(item: &ItemId) -> String {
    format!("{ITEMS}{item}/own")
}
pub(crate) fn beat_key(item: &ItemId) -> String {
    format!("{ITEMS}{item}/beat")
}
pub(crate) fn item_job_key(item: &ItemId) -> String {
    format!("{ITEMS}{item}/job")
}
pub(crate) fn job_key(job: &JobId) -> String {
    format!("{JOBS}{job}")
}
pub(crate) fn log_prefix(job: &JobId) -> String {
    format!("{JOBS}{job}/log/")
}
pub(crate) fn log_key(job: &JobId, number: u64) -> String {
    format!("{JOBS}{job}/log/{number:06}")
}
pub(crate) fn region_key(region: &Region) -> String {
    format!("{REGIONS}{region}")
}
pub(crate) fn directory_key(name: &str) -> String {
    format!("{DIRECTORY}{name}")
}
pub(crate) fn audit_key(number: u64) -> String {
    format!("{AUDIT}{number:010}")
}
pub(crate) fn idempotency_key(key: &str) -> String {
    format!("idempotency/{key}")
}

/// An item's name in the directory: `web-1.machine`.
#[must_use]
pub fn directory_name(item: &ItemId) -> String {
    format!("{}.{}", item.name, item.kind)
}

/// `meta`: which cluster this is, and which life of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Made once, when the store was made.
    pub cluster: String,
    /// The first half of every token; rises on every restore from a backup.
    pub incarnation: u64,
}

/// `items/KIND/NAME/job`: the one job that may act on the item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ItemJob {
    pub(crate) job: JobId,
}

/// `regions/NAME`: a region that the control plane can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRecord {
    /// Its name.
    pub name: Region,
    /// Where its agent listens, as a URL; empty for the control plane's own region.
    pub agent_url: String,
    /// Where it receives replication, as `host:port`; empty until it has told.
    pub replication: String,
    /// Where it receives the sessions of real-time hubs, as `host:port`; empty: nowhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub realtime: String,
    /// When it was first registered.
    pub since: Moment,
}

impl RegionRecord {
    /// Where the region receives what its partner replicates of this kind; empty: it has not told.
    #[must_use]
    pub fn address_for(&self, kind: Kind) -> &str {
        match kind {
            Kind::Realtime => &self.realtime,
            Kind::Machine | Kind::App | Kind::Hub => &self.replication,
        }
    }
}

/// `directory/NAME.KIND`: where clients find an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryRecord {
    /// The epoch under which these endpoints serve.
    pub epoch: Epoch,
    /// The item.
    pub item: ItemId,
    /// The region that serves it.
    pub region: Region,
    /// Where.
    pub endpoints: Vec<Endpoint>,
    /// How long an answer may be kept.
    pub ttl_seconds: u32,
    /// Since when it is so.
    pub since: Moment,
}

/// `idempotency/KEY`: which job a request with this key made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdempotencyRecord {
    pub(crate) body_hash: String,
    pub(crate) job: JobId,
    pub(crate) at: Moment,
}

/// `jobs/ULID/log/NNNNNN`: one journal record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When it was written.
    pub at: Moment,
    /// Under which claim.
    pub executor_epoch: u64,
    /// What happened.
    pub happened: Happened,
}

/// `audit/NNNNNNNNNN`: who did what. Each entry holds the hash of the one before: a removed or changed entry shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Moment,
    /// Who asked for it.
    pub who: String,
    /// What was done, for people. Holds no secrets.
    pub what: String,
    /// The item it is about.
    pub item: Option<ItemId>,
    /// The job it belongs to.
    pub job: Option<JobId>,
    /// SHA-256 of the entry before, in hex; of nothing for the first.
    pub previous: String,
    /// SHA-256 over all of the above, in hex.
    pub hash: String,
}

impl AuditEntry {
    /// Adds `line` to a chain whose last entry has the hash `previous`.
    pub(crate) fn chained(line: AuditLine, previous: &str, at: Moment) -> Self {
        let AuditLine { who, what, item, job } = line;
        let mut entry = Self { at, who, what, item, job, previous: previous.to_owned(), hash: String::new() };
        entry.hash = entry.expected_hash();
        entry
    }

    /// The hash that the entry must have.
    #[must_use]
    pub fn expected_hash(&self) -> String {
        let covered = (self.at, &self.who, &self.what, &self.item, &self.job, &self.previous);
        // Strings, numbers and options only: this cannot fail.
        sha256_hex(&serde_json::to_vec(&covered).unwrap_or_default())
    }
}

/// An entry before it is chained.
#[derive(Debug, Clone)]
pub(crate) struct AuditLine {
    pub(crate) who: String,
    pub(crate) what: String,
    pub(crate) item: Option<ItemId>,
    pub(crate) job: Option<JobId>,
}

/// Hash of the entry before the first one: of nothing.
pub(crate) fn no_previous() -> String {
    sha256_hex(b"")
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
