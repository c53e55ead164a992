//! Keys and settings: told to who asks for them, and changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::item::{Item, fatal, retry};
use super::active;
use crate::charter::check_settings;
use crate::keys::{self, KeyType};

/// `{"application","master","deployment","git_url"}`.
pub(super) fn keys(item: &Item) -> Value {
    let keys = item.charter().keys.clone();
    json!({
        "application": keys.application,
        "master": keys.master,
        "deployment": keys.deployment,
        "git_url": item.around.git_url(&item.id),
    })
}

#[derive(Debug, Deserialize)]
pub(super) struct Regenerate {
    r#type: KeyType,
}

/// One key anew.
pub(super) fn regenerate(item: &Arc<Item>, asked: &Regenerate) -> Result<Value, StepError> {
    active(item)?;
    let mut keys = item.charter().keys.clone();
    keys.regenerate(asked.r#type).map_err(retry)?;
    item.charter_changes(|charter| charter.keys = keys)?;
    Ok(self::keys(item))
}

#[derive(Deserialize)]
pub(super) struct SetKeys {
    application: Option<String>,
    master: Option<String>,
}

/// Keys that are brought along.
pub(super) fn set_keys(item: &Arc<Item>, asked: SetKeys) -> Result<Value, StepError> {
    active(item)?;
    for key in [&asked.application, &asked.master].into_iter().flatten() {
        keys::check(key).map_err(fatal)?;
    }
    item.charter_changes(|charter| {
        let SetKeys { application, master } = asked;
        charter.keys.application = application.unwrap_or_else(|| charter.keys.application.clone());
        charter.keys.master = master.unwrap_or_else(|| charter.keys.master.clone());
    })?;
    Ok(keys(item))
}

/// `{"settings":{…}}`.
pub(super) fn settings(item: &Item) -> Value {
    json!({ "settings": item.charter().settings })
}

#[derive(Deserialize)]
pub(super) struct SetSettings {
    #[serde(default)]
    set: BTreeMap<String, String>,
    #[serde(default)]
    delete: Vec<String>,
}

/// Changes settings; the instances are started anew with them.
#[expect(clippy::unused_async, reason = "instances are started here")]
pub(super) async fn set_settings(item: &Arc<Item>, asked: SetSettings) -> Result<Value, StepError> {
    active(item)?;
    let mut settings = item.charter().settings.clone();
    for name in &asked.delete {
        if settings.remove(name).is_none() {
            return Err(fatal(format!("there is no setting {name}: nothing was changed")));
        }
    }
    settings.extend(asked.set);
    check_settings(&settings).map_err(fatal)?;
    item.charter_changes(|charter| charter.settings = settings)?;
    Ok(self::settings(item))
}
