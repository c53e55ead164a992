//! What runs, and what did.

use std::sync::Arc;

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::item::{Deployed, Item, fatal, retry};
use super::super::operations::Operation;
use super::{active, begin, transfer};
use crate::scripts::Says;

/// `{"releases":[…]}`, newest last.
pub(super) fn releases(item: &Item) -> Value {
    let here = item.stock.here();
    let charter = item.stock.charter();
    let one = |release: &crate::charter::Release| {
        json!({
            "number": release.number, "commit": release.commit, "tree": release.tree, "by": release.by,
            "at": release.at.to_string(), "message": release.message, "state": release.state,
            "why": release.why, "kept": here.contains(&release.number),
        })
    };
    json!({ "releases": charter.releases.iter().map(one).collect::<Vec<_>>() })
}

/// What is said goes to those who follow the operation.
fn heard(operation: &Arc<Operation>) -> (Says, tokio::task::JoinHandle<()>) {
    let (says, mut lines) = Says::heard();
    let operation = Arc::clone(operation);
    let told = tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            operation.say(line);
        }
    });
    (says, told)
}

fn deployed(item: &Item, done: &Deployed) -> Value {
    let charter = item.stock.charter();
    let release = charter.release(done.release);
    json!({
        "release": done.release,
        "commit": release.map(|release| release.commit.clone()),
        "tree": release.map(|release| release.tree.clone()),
        "replicated": done.replicated,
    })
}

#[derive(Debug, Deserialize)]
pub(super) struct Rollback {
    to: Option<u64>,
}

/// An earlier release runs again.
pub(super) fn rollback(item: &Arc<Item>, asked: &Rollback) -> Result<Value, StepError> {
    let (me, to) = (Arc::clone(item), asked.to);
    begin(item, "rollback", |operation| async move {
        let (says, told) = heard(&operation);
        let done = me.roll_back(to, &says).await;
        drop(says);
        let _ = told.await;
        done.map(|done| deployed(&me, &done))
    })
}

/// The same release is started anew.
pub(super) fn restart(item: &Arc<Item>) -> Result<Value, StepError> {
    active(item)?;
    if let Some(why) = nothing_runs(item) {
        return Err(fatal(format!("there is nothing to start anew: {why}")));
    }
    let me = Arc::clone(item);
    begin(item, "restart", |operation| async move {
        operation.say("starting new instances beside those that run");
        me.restart().await?;
        operation.say("they have taken over");
        Ok(json!({}))
    })
}

/// Why nothing of it should run, if nothing should.
fn nothing_runs(item: &Item) -> Option<String> {
    let (name, charter) = (&item.id.name, item.stock.charter().clone());
    match (charter.live, charter.spec.command) {
        (None, _) => Some(format!("nothing is deployed yet, see farshore app deploy {name}")),
        (Some(_), None) => Some(format!("{} has no command", item.id)),
        _ => None,
    }
    .or_else(|| {
        let to = charter.lent_to.filter(|_| item.is_used_up())?;
        Some(format!("the capacity of {} is used by app/{to}", item.id))
    })
}

#[derive(Deserialize)]
pub(super) struct Deploy {
    upload: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    by: String,
}

/// What was uploaded becomes a commit, and that the running release.
pub(super) fn deploy(item: &Arc<Item>, asked: Deploy) -> Result<Value, StepError> {
    let tar = transfer::path_of(item, &asked.upload)?;
    if !tar.exists() {
        return Err(fatal(format!("nothing was uploaded as {}", asked.upload)));
    }
    let me = Arc::clone(item);
    begin(item, "deploy", |operation| async move {
        let (says, told) = heard(&operation);
        let message =
            if asked.message.trim().is_empty() { "deployed from a directory" } else { &asked.message };
        let by = if asked.by.is_empty() { "operator" } else { &asked.by };
        let commit = me.stock.repository.commit_archive(&tar, message, by).await;
        let _ = tokio::fs::remove_file(&tar).await;
        let done = match commit {
            Ok(commit) => me.deploy(commit, by, &says).await,
            Err(error) => Err(error.to_string()),
        };
        drop(says);
        let _ = told.await;
        done.map(|done| deployed(&me, &done))
    })
}

/// Whether the files that run are those that were pushed.
pub(super) async fn check(item: &Arc<Item>) -> Result<Value, StepError> {
    let Some(release) = item.stock.charter().live_release().cloned() else {
        // Nothing runs, and nothing should.
        return Ok(json!({ "release": null, "commit": null, "tree": null, "same": true, "differences": [] }));
    };
    let dir = item.stock.releases.dir_of(release.number);
    let survey = item.stock.repository.survey(&release.commit, &dir).await.map_err(retry)?;
    Ok(json!({
        "release": release.number,
        "commit": release.commit,
        "tree": survey.tree,
        "expected_tree": release.tree,
        "same": survey.differences.is_empty() && survey.tree == release.tree,
        "differences": survey.differences,
    }))
}
