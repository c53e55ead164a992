//! Keys, settings and certificates: told to who asks for them, and changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::item::{Item, fatal, retry};
use super::active;
use crate::charter::{Certificate, check_settings};
use crate::keys::{self, KeyType};

/// An answer waits so long for the app to come up with what was changed; then it goes on coming up.
const RESTART_WAIT: Duration = Duration::from_secs(10);
/// Longest certificate chain or key.
const PEM_MAX: usize = 128 << 10;

/// `{"application","master","deployment","git_url"}`.
pub(super) fn keys(item: &Item) -> Value {
    let keys = item.stock.charter().keys.clone();
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
pub(super) async fn regenerate(item: &Arc<Item>, asked: &Regenerate) -> Result<Value, StepError> {
    active(item)?;
    item.charter_decides(|charter| charter.keys.regenerate(asked.r#type).map_err(retry))?;
    item.apply_charter();
    if asked.r#type != KeyType::Deployment {
        restarted(item).await?;
    }
    Ok(self::keys(item))
}

#[derive(Deserialize)]
pub(super) struct SetKeys {
    application: Option<String>,
    master: Option<String>,
}

/// Keys that are brought along.
pub(super) async fn set_keys(item: &Arc<Item>, asked: SetKeys) -> Result<Value, StepError> {
    active(item)?;
    for key in [&asked.application, &asked.master].into_iter().flatten() {
        keys::check(key).map_err(fatal)?;
    }
    item.charter_changes(|charter| {
        let SetKeys { application, master } = asked;
        charter.keys.application = application.unwrap_or_else(|| charter.keys.application.clone());
        charter.keys.master = master.unwrap_or_else(|| charter.keys.master.clone());
    })?;
    item.apply_charter();
    restarted(item).await?;
    Ok(keys(item))
}

/// The instances find what was changed in their environment.
async fn restarted(item: &Arc<Item>) -> Result<(), StepError> {
    let restarting = Arc::clone(item);
    let restart = tokio::spawn(async move { restarting.restart().await });
    match timeout(RESTART_WAIT, restart).await {
        Ok(Ok(Err(why))) => Err(fatal(format!(
            "the change is kept, but the app did not come up with it and runs on as it was: {why}"
        ))),
        _ => Ok(()),
    }
}

/// `{"settings":{…}}`.
pub(super) fn settings(item: &Item) -> Value {
    json!({ "settings": item.stock.charter().settings })
}

#[derive(Deserialize)]
pub(super) struct SetSettings {
    #[serde(default)]
    set: BTreeMap<String, String>,
    #[serde(default)]
    delete: Vec<String>,
}

/// Changes settings; the instances are started anew with them.
pub(super) async fn set_settings(item: &Arc<Item>, asked: SetSettings) -> Result<Value, StepError> {
    active(item)?;
    let is_news = item.charter_decides(|charter| {
        for name in &asked.delete {
            if charter.settings.remove(name).is_none() {
                return Err(fatal(format!("there is no setting {name}: nothing was changed")));
            }
        }
        charter.settings.extend(asked.set);
        check_settings(&charter.settings).map_err(fatal)
    })?;
    if is_news {
        restarted(item).await?;
    }
    Ok(self::settings(item))
}

#[derive(Deserialize)]
pub(super) struct SetCertificate {
    host: String,
    chain: String,
    key: String,
}

/// A certificate for one of its own names.
pub(super) fn set_certificate(item: &Arc<Item>, asked: SetCertificate) -> Result<Value, StepError> {
    active(item)?;
    let SetCertificate { host, chain, key } = asked;
    if !item.stock.charter().spec.hosts.contains(&host) {
        return Err(fatal(format!(
            "{host} is no name of {}: add it first with farshore app host add",
            item.id
        )));
    }
    if chain.len() > PEM_MAX || key.len() > PEM_MAX {
        return Err(fatal(format!("a certificate chain and its key have at most {PEM_MAX} bytes each")));
    }
    // The gateway says whether it can be used, before it is kept.
    item.around.gateway.set_certificate(&host, &chain, &key).map_err(|error| fatal(error.to_string()))?;
    item.charter_changes(|charter| {
        charter.certificates.insert(host, Certificate { chain, key });
    })?;
    Ok(json!({}))
}

#[derive(Debug, Deserialize)]
pub(super) struct Host {
    host: String,
}

/// It has none any more.
pub(super) fn delete_certificate(item: &Arc<Item>, asked: &Host) -> Result<Value, StepError> {
    active(item)?;
    if !item.stock.charter().certificates.contains_key(&asked.host) {
        return Err(fatal(format!("{} has no certificate for {}", item.id, asked.host)));
    }
    item.charter_changes(|charter| {
        charter.certificates.remove(&asked.host);
    })?;
    item.apply_charter();
    Ok(json!({}))
}
