//! Databases and their backups.

use std::path::Path;
use std::sync::Arc;

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::super::engines;
use super::super::item::{Item, answers, fatal, place_of, retry};
use super::super::operations::Operation;
use super::{active, begin};
use crate::data::Position;
use crate::data::backup::Backup;

/// Longest name of a database.
const NAME_MAX: usize = 64;
/// Longest URL of one elsewhere.
const URL_MAX: usize = 2048;

fn view(item: &Item, backup: &Backup) -> Value {
    json!({
        "id": backup.id, "at": backup.at.to_string(), "bytes": backup.bytes,
        "verified_at": backup.verified_at.map(|at| at.to_string()), "ok": backup.ok, "why": backup.why,
        "region": item.around.options.region,
    })
}

/// `{"backups":[…]}`, oldest first.
pub(super) async fn backups(item: &Arc<Item>) -> Result<Value, StepError> {
    let all = item.backups.list().await.map_err(retry)?;
    Ok(json!({ "backups": all.iter().map(|backup| view(item, backup)).collect::<Vec<_>>() }))
}

/// Takes a backup and proves it.
pub(super) fn backup_now(item: &Arc<Item>) -> Result<Value, StepError> {
    let me = Arc::clone(item);
    begin(item, "backup", |operation| async move {
        operation.say("taking a backup, and restoring it to see that it is good");
        let backup = me.back_up("asked for").await?;
        operation.say(format!("backup {} has {} bytes", backup.id, backup.bytes));
        Ok(view(&me, &backup))
    })
}

#[derive(Deserialize)]
pub(super) struct Verify {
    id: String,
}

/// Restores a backup into a scratch place and looks at it.
pub(super) fn backup_verify(item: &Arc<Item>, asked: Verify) -> Result<Value, StepError> {
    let me = Arc::clone(item);
    begin(item, "backup-verify", |operation| async move {
        operation.say(format!("restoring backup {} into a scratch place", asked.id));
        let backup = me.backups.verify(&asked.id).await.map_err(|error| error.to_string())?;
        operation.say("it is good");
        Ok(view(&me, &backup))
    })
}

#[derive(Deserialize)]
pub(super) struct Restore {
    backup: Option<String>,
    to: String,
}

fn check_name(item: &Item, name: &str) -> Result<(), StepError> {
    let is_word = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= NAME_MAX
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !is_word {
        return Err(fatal(format!(
            "{name:?} is no name of a database: use small letters, digits and hyphens, a letter first"
        )));
    }
    if item.database_dir(name).exists() {
        return Err(fatal(format!(
            "there is a database {name} already, and a restore never overwrites one: choose another name"
        )));
    }
    if item.stock.charter().fenced.contains_key(name) {
        return Err(fatal(format!(
            "{name} is the name of a database that the app was given another one for: choose another name"
        )));
    }
    Ok(())
}

/// Brings a backup back as a new database. The one in use is not touched.
pub(super) fn restore(item: &Arc<Item>, asked: Restore) -> Result<Value, StepError> {
    active(item)?;
    check_name(item, &asked.to)?;
    let me = Arc::clone(item);
    begin(item, "restore", |operation| async move {
        let _one = me.choosing.lock().await;
        check_name(&me, &asked.to).map_err(|error| error.to_string())?;
        restored(&me, &asked.to, asked.backup, &operation).await?;
        operation.say(format!("to use it run farshore app change-database {} --to {}", me.id.name, asked.to));
        Ok(json!({ "database": asked.to }))
    })
}

async fn restored(
    item: &Arc<Item>,
    to: &str,
    backup: Option<String>,
    operation: &Operation,
) -> Result<Position, String> {
    let id = match backup {
        Some(id) => id,
        None => {
            let all = item.backups.list().await.map_err(|error| error.to_string())?;
            let newest = all.into_iter().rev().find(|backup| backup.ok);
            newest.ok_or("there is no good backup: take one with farshore app backup now")?.id
        }
    };
    operation.say(format!("restoring backup {id} as {to}"));
    let dir = item.database_dir(to);
    let meta = item.backups.restore(&id, &dir).await.map_err(|error| error.to_string())?;
    operation.say("it is whole");
    Ok(meta.position)
}

/// `{"databases":[…]}`.
pub(super) async fn databases(item: &Arc<Item>) -> Result<Value, StepError> {
    let names = item.databases();
    let dirs: Vec<_> = names.iter().map(|name| item.database_dir(name)).collect();
    let sizes = spawn_blocking(move || dirs.iter().map(|dir| bytes_under(dir)).collect::<Vec<_>>());
    let sizes = sizes.await.map_err(retry)?;
    let used = item.card().database.clone().filter(|_| item.stock.engine().is_some());
    let charter = item.stock.charter();
    let one = |(name, bytes): (&String, u64)| {
        json!({
            "name": name, "engine": charter.spec.database, "active": used.as_ref() == Some(name),
            "fenced": charter.fenced.contains_key(name), "why": charter.fenced.get(name), "bytes": bytes,
        })
    };
    Ok(json!({ "databases": names.iter().zip(sizes).map(one).collect::<Vec<_>>() }))
}

/// What is under a directory, in bytes.
pub(super) fn bytes_under(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => dirs.push(entry.path()),
                Ok(found) => bytes += found.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

#[derive(Deserialize)]
pub(super) struct Change {
    to: Option<String>,
    backup: Option<String>,
    url: Option<String>,
    /// Also one that was given up.
    #[serde(default)]
    force: bool,
}

/// The app uses another database from now on: one that is here, a backup brought back, or one elsewhere.
pub(super) async fn change(item: &Arc<Item>, asked: Change) -> Result<Value, StepError> {
    active(item)?;
    let me = Arc::clone(item);
    match (asked.url, asked.to, asked.backup) {
        (Some(url), None, None) => {
            let is_url = url.contains("://")
                && url.len() <= URL_MAX
                && url.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_url {
                return Err(fatal("the connection is a URL, like postgres://USER:PASSWORD@HOST/DATABASE"));
            }
            if answers(&url).await == Some(false) {
                let (host, port) = place_of(&url).unwrap_or_default();
                return Err(fatal(format!(
                    "nobody answers at {host}:{port} when {} asks, so nothing was changed: see that the server runs and can be \
                     reached from there",
                    item.around.options.region
                )));
            }
            begin(item, "change-database", |operation| async move {
                operation.say(
                    "changing to a database elsewhere: it is neither replicated nor backed up by Farshore",
                );
                me.use_database(None, Some(url)).await.map_err(|error| error.to_string())?;
                operation.say("the app runs with it");
                Ok(json!({ "external": true }))
            })
        }
        (None, Some(to), None) => {
            if !item.databases().contains(&to) {
                return Err(fatal(format!(
                    "there is no database {to}: see farshore app show, or restore a backup"
                )));
            }
            check_idle(item, &to)?;
            let given_up = item.stock.charter().fenced.get(&to).filter(|_| !asked.force).cloned();
            if let Some(why) = given_up {
                return Err(fatal(format!(
                    "{to} was {why}: what was written since is not in it. To use it all the same run farshore app change-database {} \
                     --to {to} --force",
                    item.id.name
                )));
            }
            begin(item, "change-database", |operation| async move {
                let _one = me.choosing.lock().await;
                changed(&me, to, None, &operation).await
            })
        }
        (None, to, backup) if to.is_some() || backup.is_some() => {
            let to = to.unwrap_or_else(|| {
                item.free_database(&format!("from-{}", backup.as_deref().unwrap_or_default()))
            });
            check_name(item, &to)?;
            begin(item, "change-database", |operation| async move {
                let _one = me.choosing.lock().await;
                check_name(&me, &to).map_err(|error| error.to_string())?;
                let position = restored(&me, &to, backup, &operation).await?;
                changed(&me, to, Some(position), &operation).await
            })
        }
        _ => Err(fatal("say which database: to (a name), backup (an id), or url")),
    }
}

/// Refuses the database that the app uses.
fn check_idle(item: &Item, name: &str) -> Result<(), StepError> {
    let is_used = item.card().database.as_deref() == Some(name) && item.stock.charter().external.is_none();
    if is_used { Err(fatal(format!("{} uses {name} already", item.id))) } else { Ok(()) }
}

/// Looks whether the database is good, and changes to it. The caller holds `choosing`.
async fn changed(
    item: &Arc<Item>,
    to: String,
    position: Option<Position>,
    operation: &Operation,
) -> Result<Value, String> {
    // It was another one's turn before.
    check_idle(item, &to).map_err(|error| error.to_string())?;
    operation.say(format!("looking whether {to} is good"));
    let engine = item.stock.charter().engine_kept().ok_or("this app keeps no database of its own")?;
    let proved = engines::prove(engine, &item.database_dir(&to), position.unwrap_or_default()).await;
    let position = proved.map_err(|error| format!("{to} is not good, and nothing was changed: {error}"))?;
    operation.say("it is: changing to it");
    item.use_database(Some((to.clone(), position)), None).await.map_err(|error| error.to_string())?;
    operation.say(format!("the app runs with {to}"));
    Ok(json!({ "database": to }))
}
