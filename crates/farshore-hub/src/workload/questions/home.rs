//! The way home: what the other region has from its own time, and what both changed at once.
//!
//! Must always hold: nothing that loses is forgotten: it stays in the entry until somebody decides, and in a file for good.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use farshore_core::moment::Moment;
use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Desk, broken, fatal, retry};
use crate::link::Merged;
use crate::record::{Conflict, MergePolicy, Rules, Side};
use crate::registry::MergeReport;

/// Conflicts of one answer.
const CONFLICTS_MAX: usize = 1000;
/// Every conflict that a merge met, a line of JSON each.
const CONFLICTS: &str = "conflicts.jsonl";
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
        let (link, dir) = (link.clone(), self.dir.clone());
        let (from, settled) = (partner.clone(), rules.clone());
        self.change(async move {
            let merged = link.merge(false).await?;
            let report = view(&merged, from.as_str(), &settled, false);
            if is_empty(&merged) {
                return Ok(report);
            }
            // What was merged stays merged; a report that cannot be kept is said, not hidden.
            let kept = tokio::task::spawn_blocking(move || keep(&dir, &report, merged.report.as_ref()).map(|file| (file, report)));
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
        let path = self.dir.join(CONFLICTS);
        let kept = noted(&path).map_err(|error| retry(format!("{}: {error}", path.display())))?;
        let file = (kept > 0).then(|| path.display().to_string());
        Ok(json!({ "open": open.iter().map(side_by_side).collect::<Vec<_>>(), "kept": kept, "file": file }))
    }
}

fn is_empty(merged: &Merged) -> bool {
    merged.late_events == 0 && merged.report.as_ref().is_none_or(MergeReport::is_empty)
}

fn side_by_side(conflict: &Conflict) -> Value {
    json!({
        "device": conflict.subject,
        "group": conflict.group,
        "path": conflict.path,
        "winner": side(&conflict.winner),
        "losers": conflict.losers.iter().map(side).collect::<Vec<_>>(),
        "why": conflict.why,
    })
}

fn side(side: &Side) -> Value {
    let Side { region, epoch, at, value } = side;
    json!({ "region": region, "epoch": epoch, "at": at.to_string(), "value": value })
}

fn view(merged: &Merged, partner: &str, rules: &Rules, plan: bool) -> Value {
    let report = merged.report.as_ref();
    let count = |of: fn(&MergeReport) -> usize| report.map_or(0, of);
    let conflicts = report.map_or(&[][..], |report| &report.conflicts);
    let conflicts: Vec<Value> = conflicts.iter().map(side_by_side).collect();
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

/// Keeps the report under its time, and adds its conflicts to those that were met before. Durable on return.
fn keep(dir: &Path, report: &Value, merged: Option<&MergeReport>) -> io::Result<PathBuf> {
    let now = super::super::now();
    let conflicts = merged.map_or(&[][..], |report| &report.conflicts);
    append(&dir.join(CONFLICTS), conflicts, now)?;
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

fn append(path: &Path, conflicts: &[Conflict], now: Moment) -> io::Result<()> {
    if conflicts.is_empty() {
        return Ok(());
    }
    let mut lines = Vec::new();
    for conflict in conflicts {
        let mut line = side_by_side(conflict);
        line["noted"] = json!(now.to_string());
        serde_json::to_writer(&mut lines, &line)?;
        lines.push(b'\n');
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&lines)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// How many conflicts merges have noted.
fn noted(path: &Path) -> io::Result<u64> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut count = 0;
    for line in BufReader::new(file).split(b'\n') {
        count += u64::from(!line?.is_empty());
    }
    Ok(count)
}
