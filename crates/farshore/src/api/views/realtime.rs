//! Real-time hubs: keys, connection strings, handlers, figures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The two access keys of a hub. Either opens it: change one, move everybody to it, change the other.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeysView {
    /// The first key. A secret.
    pub primary: String,
    /// The second key. A secret.
    pub secondary: String,
}

impl std::fmt::Debug for KeysView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeysView(..)")
    }
}

/// Which of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyWord {
    /// The first.
    #[default]
    Primary,
    /// The second.
    Secondary,
}

impl KeyWord {
    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}

/// Makes a key anew: the old one opens nothing any more.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegenerateRequest {
    /// Which.
    pub key: KeyWord,
}

/// What a connection string leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointWord {
    /// Both regions: sends go to all that are healthy.
    #[default]
    Pair,
    /// One region.
    Region,
}

/// All that an application needs to know.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionStringView {
    /// `Endpoint=URL;AccessKey=KEY;Version=1.0;`. A secret.
    pub connection_string: String,
}

impl std::fmt::Debug for ConnectionStringView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionStringView(..)")
    }
}

/// Who is told of a hub's events, in order: the first that wants an event gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HandlersView {
    /// The handlers.
    pub handlers: Vec<HandlerView>,
    /// Those that do not answer now as they should; they are set all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Who shall be told of a hub's events, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HandlersRequest {
    /// The handlers.
    pub handlers: Vec<HandlerView>,
}

/// One handler: a service that events are posted to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HandlerView {
    /// Where; `{hub}` and `{event}` are replaced.
    #[schema(example = "https://app.example.com/events/{event}")]
    pub url_template: String,
    /// Which events of clients.
    #[serde(default)]
    pub user_events: UserEventsView,
    /// Of `connect`, `connected` and `disconnected`, those that it is told of.
    #[serde(default)]
    pub system_events: Vec<String>,
    /// A token that it wants to see (`Authorization: Bearer`), besides the signature of each event. A secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<String>,
}

impl std::fmt::Debug for HandlerView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerView").field("url_template", &self.url_template).finish_non_exhaustive()
    }
}

/// `"*"`, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum UserEventsView {
    /// `"*"`: all.
    Word(String),
    /// These.
    List(Vec<String>),
}

impl Default for UserEventsView {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// Other servers of the same protocol that belong to the pair.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MembersRequest {
    /// Their connection strings. Secrets: kept with the hub, never in jobs or the audit.
    pub members: Vec<String>,
}

impl std::fmt::Debug for MembersRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MembersRequest({})", self.members.len())
    }
}

/// The members were set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MembersView {
    /// How many.
    pub members: usize,
}

/// Figures of a hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatsView {
    /// Those of each region.
    pub regions: Vec<RegionStatsView>,
}

/// Figures of a hub in one region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegionStatsView {
    /// Which.
    pub region: String,
    /// The figures, by name; new ones may be added.
    #[schema(value_type = Object)]
    pub stats: BTreeMap<String, Value>,
    /// Why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Closes the connections of a region in paced batches, so that clients go where they are sent now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Which region; by default the one that is not active.
    #[serde(default)]
    pub region: Option<String>,
    /// How many connections a second; 100 by default.
    #[serde(default)]
    pub per_second: Option<u32>,
}

/// A drain has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainView {
    /// Where.
    pub region: String,
    /// How many connections are being closed.
    pub closing: u64,
}

/// Where a client that asks now is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NegotiateView {
    /// Base URL of the endpoint.
    pub url: String,
    /// Its region, or the endpoint's name where it is none of ours.
    pub region: String,
    /// It is the one that is preferred while all are healthy.
    pub primary: bool,
}
