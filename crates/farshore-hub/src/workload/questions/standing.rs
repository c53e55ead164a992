//! How a hub stands, and how far consumer groups have read.

use farshore_core::workload::{Role, StepError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Desk, broken, fatal, retry};
use crate::telemetry::Cursor;

/// Conflicts that are counted: so many are too many.
const CONFLICTS_MAX: usize = 1000;
/// Longest name of a consumer group; as the REST interface has it.
const GROUP_LEN_MAX: usize = 64;

#[derive(Debug, Deserialize)]
pub(super) struct Checkpoint {
    group: String,
    cursor: Cursor,
}

#[derive(Debug, Deserialize)]
pub(super) struct OneGroup {
    group: String,
}

impl Desk {
    /// Everything at a glance.
    pub(super) async fn summary(&self) -> Result<Value, StepError> {
        self.look(|desk| desk.at_a_glance()).await
    }

    fn at_a_glance(&self) -> Result<Value, StepError> {
        let stats = self.fleet.stats();
        let endpoint = |name: &str| self.endpoints.iter().find(|one| one.name == name).map(|one| &one.uri);
        let conflicts = self.registry().conflicts(CONFLICTS_MAX).map_err(broken)?.len();
        Ok(json!({
            "hub": self.fleet.name(),
            "hosts": self.hosts,
            "endpoints": { "mqtt": endpoint("mqtt"), "https": endpoint("https"), "amqp": endpoint("amqp") },
            "serving": stats.serving,
            "region": self.here,
            "devices": {
                "total": stats.counts.devices,
                "enabled": stats.counts.enabled,
                "disabled": stats.counts.disabled,
                "modules": stats.counts.modules,
                "connected": stats.connected,
                "held": stats.held,
            },
            "messages_pending": self.registry().messages_pending().map_err(broken)?,
            "telemetry": {
                "stored": stats.telemetry.stored,
                "duplicates": stats.telemetry.duplicates + stats.telemetry.copied_duplicates,
                "bytes": stats.telemetry.bytes,
                "ends": self.fleet.telemetry().ends(),
            },
            "replication": self.replication(),
            "groups": self.groups()?,
            "conflicts": conflicts,
        }))
    }

    /// How far the other region is behind this one; nothing where this one follows.
    fn replication(&self) -> Option<Value> {
        let (partner, link) = (self.partner.as_ref()?, self.link.as_ref()?);
        if self.role == Role::Target {
            return None;
        }
        let behind = link.behind();
        let seconds = behind.oldest.map_or(0.0, |oldest| super::super::now().since(oldest).as_secs_f64());
        Some(json!({
            "partner": partner,
            "state": link.phase(),
            "records_behind": behind.records(),
            "bytes_behind": behind.bytes,
            "seconds_behind": seconds,
        }))
    }

    /// The consumer groups, and what each has yet to read.
    pub(super) fn groups(&self) -> Result<Value, StepError> {
        let telemetry = self.fleet.telemetry();
        let groups = self.registry().groups().map_err(broken)?;
        let views = groups.into_iter().map(|(name, cursor)| {
            let lags =
                telemetry.ends().into_keys().map(|origin| telemetry.lag(&origin, cursor.next(&origin)));
            // Where a log is damaged, what comes after the damage is still to be read.
            let behind: u64 = lags.map(|lag| lag.map_or(0, |lag| lag.events)).sum();
            json!({ "name": name, "cursor": cursor, "behind": behind })
        });
        Ok(views.collect())
    }

    /// From now on the group has read so far.
    pub(super) async fn checkpoint(&self, asked: Checkpoint) -> Result<Value, StepError> {
        let Checkpoint { group, cursor } = asked;
        check_group(&group)?;
        let ends = self.fleet.telemetry().ends();
        if let Some(region) = cursor.0.keys().find(|region| !ends.contains_key(*region)) {
            let known: Vec<String> = ends.keys().map(ToString::to_string).collect();
            let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
            return Err(fatal(format!("cursor: there is no log of {region} here; there are: {known}")));
        }
        let registry = self.registry().clone();
        self.change(async move { registry.set_group(&group, cursor).await.map_err(retry) }).await?;
        Ok(json!({}))
    }

    /// Forgets a group.
    pub(super) async fn delete_group(&self, asked: OneGroup) -> Result<Value, StepError> {
        let group = asked.group;
        if !self.registry().groups().map_err(broken)?.contains_key(&group) {
            return Err(fatal(format!("there is no consumer group {group:?}: see farshore hub group list")));
        }
        let registry = self.registry().clone();
        self.change(async move { registry.delete_group(&group).await.map_err(retry) }).await?;
        Ok(json!({}))
    }
}

/// Refuses what is no name of a group.
pub(super) fn check_group(name: &str) -> Result<(), StepError> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '$');
    match name.is_empty() || name.len() > GROUP_LEN_MAX || !name.chars().all(is_known) {
        true => Err(fatal("a group is named by 1 to 64 letters, digits and -_.$")),
        false => Ok(()),
    }
}
