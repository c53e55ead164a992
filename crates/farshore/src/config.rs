//! A node's configuration: one TOML file, every key of which can be set by `FARSHORE_NODE_KEY` in the environment.
//!
//! Unknown keys are refused, and so is every address beyond loopback: there is no TLS between regions yet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_core::ids::Region;
use serde::{Deserialize, Serialize};

/// Environment variables that set keys start like this; `FARSHORE_NODE_STORE__PATH` sets `path` in `[store]`.
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
    /// File with the secret that all nodes of the cluster share; readable by its owner only.
    pub secret_file: PathBuf,
    /// File with the token that API clients must know; needed for the role `control`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Seconds between recovery points.
    #[serde(default = "five")]
    pub point_seconds: u64,
    /// Hours for which recovery points are kept.
    #[serde(default = "a_day")]
    pub retention_hours: u64,
    /// Where the control plane remembers; by default a file in `data`.
    #[serde(default)]
    pub store: StoreConfig,
    /// All regions, for the role `control`.
    #[serde(default)]
    pub regions: Vec<RegionConfig>,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// API, jobs, health, directory.
    Control,
    /// Disks.
    Machines,
}

/// Where the control plane remembers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The redb file; by default `store.redb` in `data`.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// A region, as the control plane reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// Its name.
    pub name: Region,
    /// Base URL of its agent.
    pub agent: String,
    /// Where it receives replication.
    pub replication: SocketAddr,
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
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        for (key, address) in [("listen", self.listen), ("nbd", self.nbd), ("replication", self.replication)]
        {
            if !address.ip().is_loopback() {
                return Err(format!(
                    "{key} = \"{address}\" is reachable from elsewhere, which needs TLS and authentication: use a loopback address such as 127.0.0.1:{}",
                    address.port()
                ));
            }
        }
        if self.roles.is_empty() {
            return Err("roles is empty: name at least one of \"control\" and \"machines\"".into());
        }
        if self.point_seconds == 0 {
            return Err("point_seconds must be at least 1".into());
        }
        if self.retention_hours == 0 || self.retention_hours > 24 * 15 {
            return Err("retention_hours must be between 1 and 360 (15 days)".into());
        }
        if self.has(NodeRole::Control) {
            self.check_control()?;
        }
        Ok(())
    }

    fn check_control(&self) -> Result<(), String> {
        if self.token_file.is_none() {
            return Err(
                "the role control needs token_file: the file with the token that API clients must know"
                    .into(),
            );
        }
        let mut names = BTreeMap::new();
        for region in &self.regions {
            if names.insert(&region.name, ()).is_some() {
                return Err(format!("region {} is listed twice in [[regions]]", region.name));
            }
            if !region.replication.ip().is_loopback() {
                return Err(format!(
                    "region {}: replication = \"{}\" needs TLS: use a loopback address",
                    region.name, region.replication
                ));
            }
        }
        if !names.contains_key(&self.region) {
            return Err(format!("[[regions]] does not list this node's own region {}", self.region));
        }
        Ok(())
    }

    /// Whether the node has the role.
    #[must_use]
    pub fn has(&self, role: NodeRole) -> bool {
        self.roles.contains(&role)
    }

    /// The store's file.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.store.path.clone().unwrap_or_else(|| self.data.join("store.redb"))
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

    const GOOD: &str = r#"
        region = "oslo"
        data = "d"
        secret_file = "s"
        token_file = "t"
        [[regions]]
        name = "oslo"
        agent = "http://127.0.0.1:1"
        replication = "127.0.0.1:2"
    "#;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<NodeConfig, String> {
        NodeConfig::parse(
            text,
            environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn defaults_are_safe_and_the_environment_wins() {
        let config = parse(
            GOOD,
            &[("FARSHORE_NODE_POINT_SECONDS", "2"), ("FARSHORE_NODE_STORE__PATH", "x.redb"), ("HOME", "/")],
        )
        .unwrap();
        assert!(config.listen.ip().is_loopback());
        assert_eq!((config.point_seconds, config.store_path()), (2, PathBuf::from("x.redb")));
        assert!(config.has(NodeRole::Control) && config.has(NodeRole::Machines));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, environment, why) in [
            ("", vec![], "missing field `region`"),
            (GOOD, vec![("FARSHORE_NODE_COLOUR", "red")], "unknown field `colour`"),
            (GOOD, vec![("FARSHORE_NODE_LISTEN", "0.0.0.0:80")], "needs TLS and authentication"),
            (GOOD, vec![("FARSHORE_NODE_LISTEN", "here")], "listen"),
            (GOOD, vec![("FARSHORE_NODE_REGION", "Oslo")], "lower-case"),
            (GOOD, vec![("FARSHORE_NODE_REGION", "rome")], "does not list this node's own region rome"),
            (GOOD, vec![("FARSHORE_NODE_POINT_SECONDS", "0")], "at least 1"),
            (GOOD, vec![("FARSHORE_NODE_RETENTION_HOURS", "1000")], "between 1 and 360"),
            (GOOD, vec![("FARSHORE_NODE_ROLES", "[]")], "roles is empty"),
            (GOOD, vec![("FARSHORE_NODE_ROLES", "[\"cook\"]")], "unknown variant `cook`"),
        ] {
            let error = parse(text, &environment).unwrap_err();
            assert!(error.contains(why), "{environment:?}: {error}");
        }
    }
}
