//! How an app stands, how large it is, and whose its capacity is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::{ItemId, Name};
use farshore_core::workload::{Role, StepError};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::super::item::{Item, Matter, fatal};
use super::super::{capacity, look};
use super::{active, rows};
use crate::host;
use crate::mode::Mode;
use crate::spec::{AppSpec, check_hosts, check_instances};

/// Lines of the log that are told when none are asked for, and at most.
const LINES: usize = 100;
const LINES_MAX: usize = 5000;
/// An answer waits so long for the instances to be as many as was asked for; then it goes on.
const SCALE_WAIT: Duration = Duration::from_secs(10);

/// See the table of questions in the module's page.
pub(super) async fn summary(item: &Arc<Item>) -> Value {
    let claims = item.around.claims();
    let seen = look::look(item);
    let (database, backups) = tokio::join!(database(item), newest_backup(item));
    let charter = item.stock.charter().clone();
    let hosts = charter.spec.hosts_of(&item.id, &item.around.options.domain);
    let release = charter.live_release().map(|release| {
        json!({
            "number": release.number, "commit": release.commit, "tree": release.tree,
            "by": release.by, "at": release.at.to_string(),
        })
    });
    let processes = item.host().map(|host| json!(host.view().instances));
    let operation =
        item.operations.running().map(|running| json!({ "id": running.id, "kind": running.kind }));
    json!({
        "name": item.id.name,
        "urls": item.around.urls(&hosts),
        "git_url": item.around.git_url(&item.id),
        "state": state(item),
        "command": charter.spec.command,
        "build": charter.spec.build,
        "mode": charter.spec.mode,
        "instances": charter.spec.instances,
        "hosts": hosts,
        "require_key": charter.spec.require_key,
        "reserve_for": charter.spec.reserve_for,
        "lent_to": charter.lent_to,
        "lent_by": charter.lent_by,
        "release": release,
        "database": database,
        "replication": seen.replication,
        "processes": processes.unwrap_or_else(|| json!([])),
        "capacity": { "mib": item.around.options.capacity_mib, "used_mib": capacity::used_mib(&claims) },
        "backups": backups,
        "settings_count": charter.settings.len(),
        "operation": operation,
        "warnings": seen.warnings,
    })
}

async fn database(item: &Arc<Item>) -> Value {
    let live = item.stock.live();
    let reachable = match &live {
        Some(live) => Some(live.check().await.is_ok()),
        None => external_reachable(item).await,
    };
    let name = item.card().database.clone();
    let dir = name.as_ref().map(|name| item.database_dir(name));
    let bytes = match dir {
        Some(dir) => spawn_blocking(move || rows::bytes_under(&dir)).await.unwrap_or_default(),
        None => 0,
    };
    let charter = item.stock.charter();
    let scheme = charter.external.as_ref().and_then(|url| url.split_once("://")).map(|(scheme, _)| scheme);
    json!({
        "engine": scheme.map_or_else(|| json!(charter.spec.database), |scheme| json!(scheme)),
        "name": name,
        "reachable": reachable,
        "external": charter.external.is_some(),
        "size_bytes": bytes,
        "position": item.stock.position(),
        "confirmed": live.and_then(|live| live.confirmed()),
    })
}

/// Whether somebody listens where the app's own database is to be.
async fn external_reachable(item: &Arc<Item>) -> Option<bool> {
    let url = item.stock.charter().external.clone()?;
    super::super::item::answers(&url).await
}

async fn newest_backup(item: &Arc<Item>) -> Value {
    let all = item.backups.list().await.unwrap_or_default();
    let newest = all.iter().max_by_key(|backup| backup.at);
    json!({
        "count": all.len(),
        "newest_at": newest.map(|backup| backup.at.to_string()),
        "newest_ok": newest.map(|backup| backup.ok),
    })
}

fn state(item: &Item) -> &'static str {
    match item.role() {
        Role::Target => "standby",
        Role::Fenced | Role::Unconfirmed => "recovering",
        Role::Active if item.is_used_up() => "stopped",
        Role::Active if item.stock.charter().live.is_none() => "empty",
        Role::Active if item.is_up() => "running",
        Role::Active if item.noted(Matter::Start).is_some() => "failed",
        Role::Active => "starting",
    }
}

#[derive(Deserialize)]
pub(super) struct Scale {
    mode: Option<Mode>,
    instances: Option<u32>,
}

/// More or fewer instances, with more or less each.
pub(super) async fn scale(item: &Arc<Item>, asked: Scale) -> Result<Value, StepError> {
    active(item)?;
    let room = item.around.room.lock().await;
    let before = item.stock.charter().spec.clone();
    let mode = asked.mode.unwrap_or(before.mode);
    let instances = asked.instances.unwrap_or_else(|| before.instances.min(mode.instances_max()));
    check_instances(mode, instances).map_err(fatal)?;
    let wanted = AppSpec { mode, instances, ..before };
    capacity::fits(&item.around.claims(), &item.id.name, &wanted, item.around.options.capacity_mib)
        .map_err(|no_room| fatal(no_room.to_string()))?;
    item.charter_changes(|charter| (charter.spec.mode, charter.spec.instances) = (mode, instances))?;
    drop(room);
    item.note(Matter::Capacity, None);
    // What is written down is carried out, also when the instances are being replaced for longer than anybody waits for the answer.
    let scaling = Arc::clone(item);
    let scaled = tokio::spawn(async move { scaling.scale().await });
    let _ = timeout(SCALE_WAIT, scaled).await;
    Ok(summary(item).await)
}

#[derive(Debug, Deserialize)]
pub(super) struct SetHosts {
    /// All of them; left out: those that it has.
    hosts: Option<Vec<String>>,
    /// Of these, so many more.
    #[serde(default)]
    add: Vec<String>,
    /// And these no more.
    #[serde(default)]
    remove: Vec<String>,
}

impl SetHosts {
    fn applied_to(self, item: &ItemId, known: &[String]) -> Result<Vec<String>, String> {
        let mut hosts = self.hosts.unwrap_or_else(|| known.to_vec());
        if let Some(unknown) = self.remove.iter().find(|host| !hosts.contains(host)) {
            return Err(format!("{item} is not known as {unknown}: nothing was changed"));
        }
        hosts.retain(|host| !self.remove.contains(host));
        let more: Vec<String> = self.add.into_iter().filter(|host| !hosts.contains(host)).collect();
        hosts.extend(more);
        check_hosts(&hosts)?;
        Ok(hosts)
    }
}

/// Other names beside its own. The certificate of a name goes with it.
pub(super) async fn set_hosts(item: &Arc<Item>, asked: SetHosts) -> Result<Value, StepError> {
    active(item)?;
    let taking = item.around.room.lock().await;
    let before = item.stock.charter().spec.hosts.clone();
    let hosts = asked.applied_to(&item.id, &before).map_err(fatal)?;
    item.around.gateway.check(item.id.name.as_str(), &hosts).map_err(fatal)?;
    let mut dropped = BTreeMap::new();
    item.charter_changes(|charter| {
        let certificates = std::mem::take(&mut charter.certificates);
        (charter.certificates, dropped) =
            certificates.into_iter().partition(|(host, _)| hosts.contains(host));
        charter.spec.hosts = hosts;
    })?;
    item.apply_charter();
    if let Some(taken) = item.noted(Matter::Names) {
        // An app that follows another region's took the name in this moment.
        item.charter_changes(|charter| {
            charter.certificates.extend(dropped);
            charter.spec.hosts = before;
        })?;
        item.apply_charter();
        return Err(fatal(taken));
    }
    drop(taking);
    Ok(summary(item).await)
}

#[derive(Deserialize)]
pub(super) struct Log {
    lines: Option<usize>,
}

/// The last lines that its instances printed.
pub(super) async fn log(item: &Arc<Item>, asked: &Log) -> Value {
    let lines = asked.lines.unwrap_or(LINES).min(LINES_MAX);
    json!({ "lines": host::tail(&item.dir().join("log"), lines).await })
}

#[derive(Debug, Deserialize)]
pub(super) struct Lend {
    to: Name,
    /// Which migration asks.
    migration: Option<String>,
}

/// Its capacity is for another app from now on.
pub(super) async fn lend(item: &Arc<Item>, asked: Lend) -> Result<Value, StepError> {
    let _room = item.around.room.lock().await;
    active(item)?;
    let lent_to = item.stock.charter().lent_to.clone();
    match lent_to {
        Some(other) if other != asked.to => {
            Err(fatal(format!("the capacity of {} is lent to app/{other} already: end that first", item.id)))
        }
        None if asked.to == item.id.name => Err(fatal("an app has its own capacity: lend it to another one")),
        // Whoever asked last has it.
        lent_to if lent_to.is_none() || item.stock.charter().lent_by != asked.migration => {
            item.charter_changes(|charter| {
                (charter.lent_to, charter.lent_by) = (Some(asked.to), asked.migration);
            })?;
            Ok(json!({}))
        }
        _ => Ok(json!({})),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct TakeBack {
    /// To whom it was lent.
    of: Name,
    /// For which migration.
    migration: Option<String>,
}

/// Its capacity is its own again, if it is lent as it is said to be: whoever was paused meanwhile takes nothing from the next one.
pub(super) async fn take_back(item: &Arc<Item>, asked: &TakeBack) -> Result<Value, StepError> {
    let _room = item.around.room.lock().await;
    let (lent_to, lent_by) = {
        let charter = item.stock.charter();
        (charter.lent_to.clone(), charter.lent_by.clone())
    };
    let meant = lent_to.as_ref() == Some(&asked.of) && (lent_by.is_none() || lent_by == asked.migration);
    if meant {
        active(item)?;
        item.charter_changes(|charter| (charter.lent_to, charter.lent_by) = (None, None))?;
    }
    Ok(json!({}))
}
