//! The way home: what the other region has from its own time, and what both changed at once.
//!
//! Must always hold: nothing that loses is forgotten: it stays in the entry until somebody decides, and in a file for good.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Desk, broken, fatal, retry};
use crate::link::{self, Merged};
use crate::record::{MergePolicy, Rules};
use crate::registry::MergeReport;

/// Conflicts of one answer.
const CONFLICTS_MAX: usize = 1000;
/// The latest conflicts that were noted, of one answer: the file has all.
const NOTED_MAX: usize = 100;
/// Reports of merges, by time.
const REPORTS: &str = "merges";

#[derive(Debug, Deserialize)]
pub(super) struct Merge {
    plan: bool,
    policy: Option<String>,
}

impl Desk {
    /// What a merge would do, or did.
    pub(super) async fn merge(&self, asked: Merge) -> Result<Value, StepError> {
        let Self { link: Some(link), partner: Some(partner), .. } = self else {
            return Err(fatal(format!("{} is in one region only: there is nothing to merge", self.item)));
        };
        if !self.fleet.is_serving() {
            return Err(self.elsewhere());
        }
        let rules = self.rules(asked.policy.as_deref())?;
        if asked.plan {
            let merged = link.plan(&rules).await?;
            return Ok(view(&merged, partner.as_str(), &rules, true));
        }
        if rules != self.registry().rules() {
            let (registry, rules) = (self.registry().clone(), rules.clone());
            self.change(async move { registry.set_rules(rules).await.map_err(retry) }).await?;
        }
        let (link, dir, noted) = (link.clone(), self.dir.clone(), Arc::clone(&self.noted));
        let (from, settled) = (partner.clone(), rules.clone());
        self.change(async move {
            let merged = link.merge(false).await?;
            let report = view(&merged, from.as_str(), &settled, false);
            if is_empty(&merged) {
                return Ok(report);
            }
            // What was merged stays merged; a report that cannot be kept is said, not hidden.
            let kept = tokio::task::spawn_blocking(move || {
                noted.note(merged.report.map(|report| report.conflicts).unwrap_or_default(), super::super::now())?;
                keep(&dir, &report).map(|file| (file, report))
            });
            let (file, mut report) = kept.await.map_err(retry)?.map_err(|error| {
                fatal(format!("the regions are merged, but the report cannot be kept ({error}): run farshore hub conflicts"))
            })?;
            report["file"] = json!(file);
            Ok(report)
        })
        .await
    }

    /// The hub's rules, or the same with another policy.
    fn rules(&self, policy: Option<&str>) -> Result<Rules, StepError> {
        let rules = self.registry().rules();
        let Some(word) = policy else { return Ok(rules) };
        let policy =
            MergePolicy::parse(word).ok_or_else(|| fatal(format!("there is no merge policy {word:?}")))?;
        Ok(Rules { policy, ..rules })
    }

    /// What is not decided, and how much merges have noted.
    pub(super) fn conflicts(&self) -> Result<Value, StepError> {
        let open = self.registry().conflicts(CONFLICTS_MAX).map_err(broken)?;
        let path = self.noted.path();
        let (kept, noted) =
            self.noted.latest(NOTED_MAX).map_err(|error| retry(format!("{}: {error}", path.display())))?;
        let file = (kept > 0).then(|| path.display().to_string());
        let open: Vec<Value> = open.iter().map(link::view).collect();
        Ok(json!({ "open": open, "noted": noted, "kept": kept, "file": file }))
    }
}

fn is_empty(merged: &Merged) -> bool {
    merged.late_events == 0 && merged.report.as_ref().is_none_or(MergeReport::is_empty)
}

fn view(merged: &Merged, partner: &str, rules: &Rules, plan: bool) -> Value {
    let report = merged.report.as_ref();
    let count = |of: fn(&MergeReport) -> usize| report.map_or(0, of);
    let conflicts = report.map_or(&[][..], |report| &report.conflicts);
    let conflicts: Vec<Value> = conflicts.iter().map(link::view).collect();
    json!({
        "plan": plan,
        "partner": partner,
        "policy": rules.policy,
        "created": count(|report| report.created),
        "updated": count(|report| report.updated),
        "deleted": count(|report| report.deleted),
        "unchanged": count(|report| report.unchanged),
        "held": count(|report| report.held),
        "messages": count(|report| report.messages),
        "groups": count(|report| report.groups),
        "policies": count(|report| report.policies),
        "telemetry": { "late": merged.late_events, "duplicates": merged.duplicates },
        "conflicts": conflicts,
        "partial": merged.is_partial,
        "table": report.map(ToString::to_string).unwrap_or_default(),
        "file": null,
    })
}

/// Keeps the report under its time. Durable on return.
fn keep(dir: &Path, report: &Value) -> io::Result<PathBuf> {
    let now = super::super::now();
    let reports = dir.join(REPORTS);
    fs::create_dir_all(&reports)?;
    let path = reports.join(format!("{now}.json"));
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec_pretty(report)?)?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(&reports)?.sync_all()?;
    Ok(path)
}
