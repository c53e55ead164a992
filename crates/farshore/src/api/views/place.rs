//! Regions, the whole picture, names and the audit as clients see them.

use farshore_core::ids::{ItemId, JobId};
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EndpointView, HealthView, IncidentView, ItemView, JobView};
use crate::engine::{AuditEntry, DirectoryRecord};

/// A region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegionView {
    /// Its name.
    pub name: String,
    /// Where its agent listens; absent for the control plane's own region.
    pub agent_url: Option<String>,
    /// Where it receives replication.
    pub replication: Option<String>,
    /// When it was first registered.
    pub since: String,
    /// Whether it answers.
    pub health: HealthView,
    /// When it last answered, if ever.
    pub last_seen: Option<String>,
    /// Since when it answers, or does not.
    pub changed_at: Option<String>,
    /// What it is to each item.
    pub items: Vec<RegionItemView>,
}

/// What a region is to an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegionItemView {
    /// The item.
    pub id: String,
    /// `active`, `unconfirmed`, `fenced` or `target`, as last seen there.
    pub role: String,
}

/// Everything at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// When this was true.
    pub at: String,
    /// What is not Healthy, worst first, with advice. Empty: all is well.
    pub banner: Vec<BannerView>,
    /// All regions.
    pub regions: Vec<RegionView>,
    /// All items.
    pub items: Vec<ItemView>,
    /// The jobs under way.
    pub jobs: Vec<JobView>,
    /// The open incidents, oldest first.
    #[serde(default)]
    pub incidents: Vec<IncidentView>,
    /// The control plane itself, as the node that answers sees it.
    #[serde(default)]
    pub control: ControlView,
}

/// The control plane itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ControlView {
    /// The region of the node that answers.
    pub region: Option<String>,
    /// Since when its store cannot be reached: nothing can be changed through this node. Absent: it can be.
    pub read_only_since: Option<String>,
    /// What is wrong with the store.
    pub store_error: Option<String>,
    /// The control nodes that carry out jobs; empty names stand for a node without one.
    pub nodes: Vec<String>,
}

/// One thing that is not Healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BannerView {
    /// `machine/web-1` or `region/paris`.
    pub subject: String,
    /// How bad, why, and what to do.
    #[serde(flatten)]
    pub health: HealthView,
}

/// Where clients find an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DirectoryView {
    /// The name: `web-1.machine`.
    pub name: String,
    /// The item.
    pub item: String,
    /// The region that serves it.
    pub region: String,
    /// The epoch under which these endpoints serve.
    pub epoch: u64,
    /// Where.
    pub endpoints: Vec<EndpointView>,
    /// How long this answer may be kept.
    pub ttl_seconds: u32,
    /// Since when it is so.
    pub since: String,
}

impl From<&DirectoryRecord> for DirectoryView {
    fn from(record: &DirectoryRecord) -> Self {
        Self {
            name: crate::engine::directory_name(&record.item),
            item: record.item.to_string(),
            region: record.region.to_string(),
            epoch: record.epoch.0,
            endpoints: record.endpoints.iter().map(Into::into).collect(),
            ttl_seconds: record.ttl_seconds,
            since: record.since.to_string(),
        }
    }
}

/// Who did what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Its place in the chain; the first is 1.
    pub number: u64,
    /// When.
    pub at: String,
    /// The same in microseconds since 1970, as the hash covers it.
    pub at_micros: u64,
    /// Who.
    pub who: String,
    /// What.
    pub what: String,
    /// The item it is about.
    pub item: Option<String>,
    /// The job it belongs to.
    pub job: Option<String>,
    /// Hash of the entry before.
    pub previous: String,
    /// Hash of this entry.
    pub hash: String,
}

impl AuditView {
    pub(in crate::api) fn new(number: u64, entry: &AuditEntry) -> Self {
        Self {
            number,
            at: entry.at.to_string(),
            at_micros: entry.at.0,
            who: entry.who.clone(),
            what: entry.what.clone(),
            item: entry.item.as_ref().map(ToString::to_string),
            job: entry.job.as_ref().map(ToString::to_string),
            previous: entry.previous.clone(),
            hash: entry.hash.clone(),
        }
    }

    /// The entry that it tells of, so that its hash can be checked. `None`: no entry could look like this.
    #[must_use]
    pub fn entry(&self) -> Option<AuditEntry> {
        let entry = AuditEntry {
            at: Moment(self.at_micros),
            who: self.who.clone(),
            what: self.what.clone(),
            item: self.item.as_deref().map(ItemId::parse).transpose().ok()?,
            job: self.job.clone().map(JobId),
            previous: self.previous.clone(),
            hash: self.hash.clone(),
        };
        (entry.at.to_string() == self.at).then_some(entry)
    }
}

/// Which program answers, for which cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// Version of the program.
    pub version: String,
    /// The cluster's id.
    pub cluster: String,
}
