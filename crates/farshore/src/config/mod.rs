//! A node's configuration: one TOML file, every key of which can be set by `FARSHORE_NODE_KEY` in the environment.
//!
//! Read in this order: this file (the keys), `realtime` (those of real-time hubs), `hubs` (those of device hubs),
//! `apps` (those of app services), `check` (what is refused, and why), `lose` (what losing a region would do),
//! `fresh` (a first one for a cluster on several hosts).
//!
//! Must always hold: unknown keys are refused, and so is every address beyond loopback without TLS.

mod apps;
mod check;
mod fresh;
mod hubs;
mod lose;
mod realtime;

pub use apps::AppsConfig;
pub use fresh::Fresh;
pub use hubs::HubsConfig;
pub use lose::{Consequence, Weight, lose};
pub use realtime::{RealtimeConfig, RealtimePlace, TakeOver, public_url};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_core::fencing::FenceTimings;
use farshore_core::ids::Region;
use serde::{Deserialize, Serialize};

/// Environment variables that set keys start like this; `FARSHORE_NODE_REDB__PATH` sets `path` in `[redb]`.
const ENVIRONMENT: &str = "FARSHORE_NODE_";

/// What one `farshore node` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The region that the node is in.
    pub region: Region,
    /// Where it keeps everything.
    pub data: PathBuf,
    /// What it does.
    #[serde(default = "all_roles")]
    pub roles: Vec<NodeRole>,
    /// Where API and agent listen.
    #[serde(default = "any_port")]
    pub listen: SocketAddr,
    /// Where disks are served over NBD.
    #[serde(default = "any_port")]
    pub nbd: SocketAddr,
    /// Also serve disks on this unix socket.
    #[serde(default)]
    pub nbd_socket: Option<PathBuf>,
    /// Where replication is received.
    #[serde(default = "any_port")]
    pub replication: SocketAddr,
    /// Directory with the node's certificate (`farshore init`, `farshore join`): everything is served and called over mutual
    /// TLS then. Without it all listeners stay on loopback and `secret_file` is needed.
    #[serde(default)]
    pub trust: Option<PathBuf>,
    /// File with the secret that all nodes of a cluster without `trust` share; readable by its owner only.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// File with the first Admin's token, for the role `control`; readable by its owner only. A node with `trust` makes it if it is
    /// not there. Every node knows its own only: for tokens that all nodes know there is `farshore token create`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Seconds between recovery points.
    #[serde(default = "five")]
    pub point_seconds: u64,
    /// Hours for which recovery points are kept.
    #[serde(default = "a_day")]
    pub retention_hours: u64,
    /// Where the control plane remembers.
    #[serde(default)]
    pub store: StoreKind,
    /// With `store = "redb"`.
    #[serde(default)]
    pub redb: RedbConfig,
    /// With `store = "etcd"`.
    #[serde(default)]
    pub etcd: Option<EtcdConfig>,
    /// How items with `on_control_loss = "fence"` stop by themselves.
    #[serde(default)]
    pub fencing: FencingConfig,
    /// Authoritative DNS for the names of the items, for the role `control`.
    #[serde(default)]
    pub dns: Option<DnsConfig>,
    /// Real-time hubs, for the role `realtime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realtime: Option<RealtimeConfig>,
    /// Device hubs, for the role `hubs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hubs: Option<HubsConfig>,
    /// App services, for the role `apps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apps: Option<AppsConfig>,
    /// What is served for tools that were made for something else.
    #[serde(default, skip_serializing_if = "CompatConfig::is_nothing")]
    pub compat: CompatConfig,
    /// All regions: for the roles `control`, `realtime`, `hubs` and `apps`, and for every node with `trust`.
    #[serde(default)]
    pub regions: Vec<RegionConfig>,
}

/// The section `[compat]`, for the role `control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompatConfig {
    /// The management wire of mobile services, by which older tools list, show, scale, recover and migrate apps.
    pub mobile_services: bool,
}

impl CompatConfig {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// API, jobs, health, directory.
    Control,
    /// Disks.
    Machines,
    /// Real-time hubs.
    Realtime,
    /// Device hubs.
    Hubs,
    /// App services.
    Apps,
}

/// What the control plane remembers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// One file, one control node.
    #[default]
    Redb,
    /// Members in several regions, a control node in each.
    Etcd,
}

/// The embedded store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedbConfig {
    /// Its file; by default `store.redb` in `data`.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// The store of many nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdConfig {
    /// Client URLs of the members, by the region they are in.
    pub endpoints: BTreeMap<Region, OneOrMany>,
    /// All keys start like this, so that several clusters can share the members.
    #[serde(default = "etcd_prefix")]
    pub prefix: String,
    /// Certificate authority of the members, for https endpoints.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// One text, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Many.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl EtcdConfig {
    /// Every member's URL; those of `first` come first.
    #[must_use]
    pub fn urls(&self, first: &Region) -> Vec<String> {
        let (near, far): (Vec<_>, Vec<_>) = self.endpoints.iter().partition(|(region, _)| *region == first);
        near.into_iter().chain(far).flat_map(|(_, urls)| urls.all()).cloned().collect()
    }
}

/// Timings of self-fencing, in seconds; see `farshore_core::fencing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FencingConfig {
    /// R: the active region renews this often.
    pub renew_seconds: u64,
    /// How long one renewal may take.
    pub call_timeout_seconds: u64,
    /// D: a renewal is good for so long after it was sent.
    pub valid_seconds: u64,
    /// S: after that, everything has stopped within so long.
    pub stop_seconds: u64,
}

impl Default for FencingConfig {
    fn default() -> Self {
        let timings = FenceTimings::STANDARD;
        Self {
            renew_seconds: timings.renew_every.as_secs(),
            call_timeout_seconds: timings.call_timeout.as_secs(),
            valid_seconds: timings.valid_for.as_secs(),
            stop_seconds: timings.stop_within.as_secs(),
        }
    }
}

impl FencingConfig {
    /// As the core takes them.
    #[must_use]
    pub fn timings(&self) -> FenceTimings {
        FenceTimings {
            renew_every: Duration::from_secs(self.renew_seconds),
            call_timeout: Duration::from_secs(self.call_timeout_seconds),
            valid_for: Duration::from_secs(self.valid_seconds),
            stop_within: Duration::from_secs(self.stop_seconds),
        }
    }
}

/// The node's DNS server. It may listen beyond loopback: DNS has neither TLS nor users, and answers with names only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    /// Where it answers, over UDP and TCP.
    pub listen: SocketAddr,
    /// The zone that is delegated to the control nodes.
    #[serde(default = "dns_zone")]
    pub zone: String,
}

/// A region, as the control plane reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// Its name.
    pub name: Region,
    /// Base URL of its node: agent, and API where it has the role `control`.
    pub agent: String,
    /// Where it receives replication.
    pub replication: SocketAddr,
    /// Its node has the role `control`.
    #[serde(default)]
    pub control: bool,
    /// Where it serves real-time hubs, if its node has the role `realtime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realtime: Option<RealtimePlace>,
}

fn all_roles() -> Vec<NodeRole> {
    vec![NodeRole::Control, NodeRole::Machines]
}
fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
fn five() -> u64 {
    5
}
fn a_day() -> u64 {
    24
}
fn etcd_prefix() -> String {
    "/farshore/".to_owned()
}
fn dns_zone() -> String {
    "farshore.internal".to_owned()
}

/// A configuration that cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be; the text names the key.
    #[error("{path}: {why}")]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What is wrong and what would be right.
        why: String,
    },
}

impl NodeConfig {
    /// Reads and checks the file, with keys from the environment on top.
    pub fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, environment).map_err(|why| ConfigError::Wrong { path: path.to_owned(), why })
    }

    fn parse(text: &str, environment: impl Iterator<Item = (String, String)>) -> Result<Self, String> {
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix(ENVIRONMENT) {
                overlay(&mut table, &key.to_ascii_lowercase(), &value)?;
            }
        }
        let config: Self = table.try_into().map_err(|error: toml::de::Error| error.to_string())?;
        check::check(&config)?;
        Ok(config)
    }

    /// Whether the node has the role.
    #[must_use]
    pub fn has(&self, role: NodeRole) -> bool {
        self.roles.contains(&role)
    }

    /// The store's file.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.redb.path.clone().unwrap_or_else(|| self.data.join("store.redb"))
    }

    /// How long recovery points are kept.
    #[must_use]
    pub fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_hours * 3600)
    }
}

/// Sets a key; `__` goes one table down. A value that is no TOML is taken as text.
fn overlay(table: &mut toml::Table, key: &str, value: &str) -> Result<(), String> {
    if let Some((outer, inner)) = key.split_once("__") {
        let entry = table.entry(outer).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        return match entry {
            toml::Value::Table(table) => overlay(table, inner, value),
            _ => {
                Err(format!("{outer} is not a table, so {outer}.{inner} cannot be set from the environment"))
            }
        };
    }
    let parsed =
        format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    table.insert(key.to_owned(), parsed.unwrap_or_else(|| toml::Value::String(value.to_owned())));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const GOOD: &str = r#"
        region = "oslo"
        data = "d"
        secret_file = "s"
        token_file = "t"
        [[regions]]
        name = "oslo"
        agent = "http://127.0.0.1:1"
        replication = "127.0.0.1:2"
        control = true
    "#;

    pub(super) fn parse(text: &str, environment: &[(&str, &str)]) -> Result<NodeConfig, String> {
        NodeConfig::parse(
            text,
            environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn defaults_are_safe_and_the_environment_wins() {
        let config = parse(
            GOOD,
            &[("FARSHORE_NODE_POINT_SECONDS", "2"), ("FARSHORE_NODE_REDB__PATH", "x.redb"), ("HOME", "/")],
        )
        .unwrap();
        assert!(config.listen.ip().is_loopback());
        assert_eq!((config.point_seconds, config.store_path()), (2, PathBuf::from("x.redb")));
        assert!(config.has(NodeRole::Control) && config.has(NodeRole::Machines));
    }
}
