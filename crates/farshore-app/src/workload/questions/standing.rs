//! How an app stands, and whose its capacity is.

use std::sync::Arc;

use farshore_core::ids::Name;
use farshore_core::workload::{Role, StepError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::item::{Item, fatal};
use super::super::{capacity, look};
use super::active;

/// See the table of questions in the module's page.
pub(super) fn summary(item: &Item) -> Value {
    let claims = item.around.claims();
    let seen = look::look(item);
    let charter = item.charter();
    let hosts = charter.spec.hosts_of(&item.id, &item.around.options.domain);
    let release = charter.live_release().map(|release| {
        json!({
            "number": release.number, "commit": release.commit, "tree": release.tree,
            "by": release.by, "at": release.at.to_string(),
        })
    });
    json!({
        "name": item.id.name,
        "urls": item.around.urls(&hosts),
        "git_url": item.around.git_url(&item.id),
        "state": state(seen.role, charter.live.is_some()),
        "mode": charter.spec.mode,
        "instances": charter.spec.instances,
        "hosts": hosts,
        "require_key": charter.spec.require_key,
        "reserve_for": charter.spec.reserve_for,
        "lent_to": charter.lent_to,
        "release": release,
        "database": {
            "engine": charter.spec.database, "name": charter.database, "reachable": Value::Null,
            "external": charter.external.is_some(), "size_bytes": 0, "position": Value::Null, "confirmed": Value::Null,
        },
        "replication": seen.replication,
        "processes": [],
        "capacity": { "mib": item.around.options.capacity_mib, "used_mib": capacity::used_mib(&claims) },
        "backups": { "count": 0, "newest_at": Value::Null, "newest_ok": Value::Null },
        "settings_count": charter.settings.len(),
        "operation": Value::Null,
    })
}

fn state(role: Role, has_release: bool) -> &'static str {
    match role {
        Role::Active if has_release => "running",
        Role::Active => "empty",
        Role::Target => "standby",
        Role::Fenced | Role::Unconfirmed => "recovering",
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Lend {
    to: Name,
}

/// Its capacity is for another app from now on.
pub(super) fn lend(item: &Arc<Item>, asked: Lend) -> Result<Value, StepError> {
    active(item)?;
    let lent_to = item.charter().lent_to.clone();
    match lent_to {
        Some(other) if other != asked.to => {
            Err(fatal(format!("the capacity of {} is lent to app/{other} already: end that first", item.id)))
        }
        Some(_) => Ok(json!({})),
        None if asked.to == item.id.name => Err(fatal("an app has its own capacity: lend it to another one")),
        None => {
            item.charter_changes(|charter| charter.lent_to = Some(asked.to))?;
            Ok(json!({}))
        }
    }
}

/// Its capacity is its own again.
pub(super) fn take_back(item: &Arc<Item>) -> Result<Value, StepError> {
    if item.charter().lent_to.is_some() {
        active(item)?;
        item.charter_changes(|charter| charter.lent_to = None)?;
    }
    Ok(json!({}))
}
