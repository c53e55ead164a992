//! What an operator asks of an app: `{"ask": NAME, …}`.
//!
//! Read in this order: this file (who is asked, and what a refusal is), `standing` (how it stands), `secrets` (keys and settings).
//!
//! Must always hold: what is changed here is changed under the right to serve, and is durable before it is answered; an app that is
//! not active answers what it knows and changes nothing.

mod secrets;
mod standing;

use std::sync::Arc;

use farshore_core::workload::{Role, StepError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::item::{Item, fatal};

/// Answers a question.
pub(super) async fn ask(item: &Arc<Item>, question: &Value) -> Result<Value, StepError> {
    match question.get("ask").and_then(Value::as_str).unwrap_or_default() {
        "summary" => Ok(standing::summary(item)),
        "keys" => Ok(secrets::keys(item)),
        "regenerate" => secrets::regenerate(item, &parsed(question)?),
        "set-keys" => secrets::set_keys(item, parsed(question)?),
        "settings" => Ok(secrets::settings(item)),
        "set-settings" => secrets::set_settings(item, parsed(question)?).await,
        "lend" => standing::lend(item, parsed(question)?),
        "take-back" => standing::take_back(item),
        other => Err(fatal(format!("an app is not asked {other:?}: are all nodes of one version?"))),
    }
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
    if role == Role::Active {
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
