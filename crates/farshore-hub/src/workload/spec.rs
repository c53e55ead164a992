//! What an operator says of a new hub.

use std::time::Duration;

use farshore_core::ids::ItemId;
use serde::{Deserialize, Serialize};

use crate::record::MergePolicy;
use crate::telemetry::TelemetryOptions;

/// Most names that a hub may have beside its own.
const NAMES_MAX: usize = 16;

/// `{"hosts":[],"retention_hours":168,"retention_gib":64,"merge_policy":"default"}`, all of it optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HubSpec {
    /// Host names under which devices and back ends know the hub, beside `NAME.hub.DOMAIN`. In lower case.
    pub hosts: Vec<String>,
    /// Telemetry is kept for so long,
    pub retention_hours: u32,
    /// and as long as it is less than this, by region.
    pub retention_gib: u32,
    /// The property of a message that names it, where devices set no message id: what is sent again is stored once.
    pub dedupe_property: Option<String>,
    /// How conflicts are settled when two regions come together.
    pub merge_policy: MergePolicy,
}

impl Default for HubSpec {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            retention_hours: 7 * 24,
            retention_gib: 64,
            dedupe_property: None,
            merge_policy: MergePolicy::default(),
        }
    }
}

impl HubSpec {
    /// Says what cannot be.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        if self.hosts.len() > NAMES_MAX {
            return Err(format!("a hub has at most {NAMES_MAX} more names"));
        }
        let is_host = |host: &String| {
            !host.is_empty()
                && host.len() <= 253
                && host.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c))
        };
        if let Some(bad) = self.hosts.iter().find(|host| !is_host(host)) {
            return Err(format!(
                "{bad:?} is no host name: write it in small letters, without scheme and port"
            ));
        }
        if self.retention_hours == 0 || self.retention_gib == 0 {
            return Err("retention_hours and retention_gib must be at least 1".into());
        }
        Ok(())
    }

    /// All names of the hub: first the one that is made of the item's.
    #[must_use]
    pub fn names(&self, item: &ItemId, domain: &str) -> Vec<String> {
        let own = format!("{}.hub.{domain}", item.name);
        std::iter::once(own).chain(self.hosts.iter().cloned()).collect()
    }

    /// How telemetry is kept.
    #[must_use]
    pub fn telemetry(&self) -> TelemetryOptions {
        TelemetryOptions {
            retention_bytes: u64::from(self.retention_gib) << 30,
            retention: Duration::from_secs(u64::from(self.retention_hours) * 3600),
            dedupe_properties: self.dedupe_property.iter().cloned().collect(),
            ..TelemetryOptions::default()
        }
    }
}
