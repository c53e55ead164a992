//! What an operator asks of an app: `{"ask": NAME, …}`.
//!
//! Read in this order: this file (who is asked, and what a refusal is), `standing` (how it stands, how large it is, whose its capacity
//! is), `secrets` (keys, settings, certificates), `releases` (what runs, and what did), `rows` (databases and backups), `transfer` (what is
//! brought in and taken out in pieces).
//!
//! Must always hold: what is changed here is changed under the right to serve, and is durable before it is answered; an app that is
//! not active answers what it knows and changes nothing.

mod releases;
mod rows;
mod secrets;
mod standing;
mod transfer;

use std::sync::Arc;

use farshore_core::ids::ItemId;
use farshore_core::workload::{Role, StepError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::item::{Item, fatal};
use super::operations::Operation;
use super::{Around, capacity};
use crate::spec::AppSpec;

/// Answers a question.
pub(super) async fn ask(item: &Arc<Item>, question: &Value) -> Result<Value, StepError> {
    match question.get("ask").and_then(Value::as_str).unwrap_or_default() {
        "summary" => Ok(standing::summary(item).await),
        "scale" => standing::scale(item, parsed(question)?).await,
        "set-hosts" => standing::set_hosts(item, parsed(question)?).await,
        "lend" => standing::lend(item, parsed(question)?).await,
        "take-back" => standing::take_back(item, &parsed(question)?).await,
        "log" => Ok(standing::log(item, &parsed(question)?).await),
        "keys" => Ok(secrets::keys(item)),
        "regenerate" => secrets::regenerate(item, &parsed(question)?).await,
        "set-keys" => secrets::set_keys(item, parsed(question)?).await,
        "settings" => Ok(secrets::settings(item)),
        "set-settings" => secrets::set_settings(item, parsed(question)?).await,
        "set-certificate" => secrets::set_certificate(item, parsed(question)?),
        "delete-certificate" => secrets::delete_certificate(item, &parsed(question)?),
        "releases" => Ok(releases::releases(item)),
        "rollback" => releases::rollback(item, &parsed(question)?),
        "restart" => releases::restart(item),
        "deploy" => releases::deploy(item, parsed(question)?),
        "scripts-check" => releases::check(item).await,
        "backups" => rows::backups(item).await,
        "backup-now" => rows::backup_now(item),
        "backup-verify" => rows::backup_verify(item, parsed(question)?),
        "restore" => rows::restore(item, parsed(question)?),
        "databases" => rows::databases(item).await,
        "change-database" => rows::change(item, parsed(question)?).await,
        "upload" => transfer::upload(item, parsed(question)?).await,
        "export" => transfer::export(item, parsed(question)?).await,
        "operation" => operation(item, &parsed(question)?),
        other => Err(fatal(format!("an app is not asked {other:?}: are all nodes of one version?"))),
    }
}

#[derive(Deserialize)]
struct Wanted {
    spec: AppSpec,
}

/// Whether an app that is to be made here would have room: `{"no_room": null}`, or why it has none. The order asks again.
pub(super) fn room(around: &Around, wanted: &ItemId, question: &Value) -> Result<Value, StepError> {
    let Wanted { spec } = parsed(question)?;
    let fits = capacity::fits(&around.claims(), &wanted.name, &spec, around.options.capacity_mib);
    Ok(json!({ "no_room": fits.err().map(|no_room| no_room.to_string()) }))
}

/// What is asked, or what is wrong with it.
fn parsed<T: DeserializeOwned>(question: &Value) -> Result<T, StepError> {
    let of = question.get("ask").and_then(Value::as_str).unwrap_or_default();
    T::deserialize(question).map_err(|error| fatal(format!("{of}: {error}")))
}

/// Refuses to change an app that is not active here.
fn active(item: &Item) -> Result<(), StepError> {
    let (name, here) = (&item.id, &item.around.options.region);
    let role = item.role();
    if role == Role::Active && item.lease.is_valid() {
        return Ok(());
    }
    let partner = item.card().partner.clone();
    Err(fatal(match (role, partner) {
        (Role::Target, Some(partner)) => {
            format!("{name} is active in {partner}, not in {here}: ask there")
        }
        (Role::Fenced, Some(partner)) => {
            format!("{name} was fenced in {here}: {partner} serves it, or is about to")
        }
        _ => format!("{name} does not serve in {here} now: see farshore status {name}"),
    }))
}

/// Does what takes longer, and tells how it is followed.
fn begin<F>(
    item: &Arc<Item>,
    kind: &'static str,
    work: impl FnOnce(Arc<Operation>) -> F,
) -> Result<Value, StepError>
where
    F: Future<Output = Result<Value, String>> + Send + 'static,
{
    active(item)?;
    let operation = item.operations.begin(kind);
    let answer = json!({ "operation": operation.id });
    let done = work(Arc::clone(&operation));
    tokio::spawn(async move {
        let how = done.await;
        operation.end(how);
    });
    Ok(answer)
}

#[derive(Deserialize)]
struct Followed {
    id: String,
    #[serde(default)]
    after: usize,
}

fn operation(item: &Item, asked: &Followed) -> Result<Value, StepError> {
    let found = item.operations.get(&asked.id);
    let operation = found.ok_or_else(|| {
        fatal(format!(
            "there is no operation {} of {} here: it is over, or the node was started anew meanwhile",
            asked.id, item.id
        ))
    })?;
    Ok(operation.view(asked.after))
}
