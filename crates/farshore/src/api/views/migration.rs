//! Migrations: an app recovered onto the capacity of a secondary.

use farshore_core::lifecycle::Item;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::item::{LossView, RpoView};
use crate::migrate::record::{Database, Difference, Migration, Phase, Release, Report};
use crate::migrate::{Preview, app};

/// Recovers an app onto the capacity of a secondary, which is removed afterwards.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateRequest {
    /// The app whose capacity is used.
    #[schema(example = "todo-dr")]
    pub secondary: String,
    /// Also when the app is healthy.
    #[serde(default)]
    pub force: bool,
    /// The operator's word that the app's region is down, where it does not answer: audited, shown for ever.
    #[serde(default)]
    pub source_is_down: bool,
}

/// What a migration would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationPreview {
    /// The app that would be recovered.
    pub primary: String,
    /// The app whose capacity would be used. Its own scripts and settings would not be kept.
    pub secondary: String,
    /// Where the primary is.
    pub from: String,
    /// Where it would be.
    pub to: String,
    /// The mode it would have there.
    pub mode: String,
    /// The instances it would have there.
    pub instances: u32,
    /// Why the primary's region does not answer; `null`: it does. The operator's word is needed that it is down.
    pub source_silent: Option<String>,
    /// Resolvers may keep the old address of the primary's name for so long.
    pub ttl_seconds: u32,
}

impl MigrationPreview {
    /// Of these two apps.
    #[must_use]
    pub fn new(primary: &str, secondary: &str, preview: &Preview) -> Self {
        Self {
            primary: primary.to_owned(),
            secondary: secondary.to_owned(),
            from: preview.from.to_string(),
            to: preview.to.to_string(),
            mode: preview.capacity.mode.to_string(),
            instances: preview.capacity.instances,
            source_silent: preview.silent.clone(),
            ttl_seconds: preview.ttl_seconds,
        }
    }
}

/// One migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MigrationView {
    /// 32 hex digits.
    pub id: String,
    /// The app that is recovered.
    pub primary: String,
    /// The app whose capacity is used.
    pub secondary: String,
    /// `running`, `completed` or `failed`.
    pub state: String,
    /// What is being done: `lending`, `protecting`, `failing-over`, `verifying`, `deleting-secondary`, `taking-back`,
    /// `completed` or `failed`.
    pub phase: String,
    /// It has ended.
    pub ended: bool,
    /// Why it failed, or is given up, and what to do.
    pub why: Option<String>,
    /// The app was recovered, whatever came afterwards.
    pub recovered: bool,
    /// What it waits for.
    pub trouble: Option<String>,
    /// It waits for a person: its job is stuck, and goes on when somebody retries, skips or abandons it.
    #[serde(default)]
    pub stuck: bool,
    /// The job under way.
    pub job: Option<String>,
    /// Who asked.
    pub asked_by: String,
    /// With the word that the app's region is down.
    pub source_is_down: bool,
    /// The app's region at the beginning.
    pub from: String,
    /// Its region afterwards.
    pub to: String,
    /// Its mode afterwards: the secondary's.
    pub mode: String,
    /// Its instances afterwards.
    pub instances: u32,
    /// When it was asked for.
    pub created_at: String,
    /// When it last changed.
    pub updated_at: String,
    /// What it brought about, once the recovered app was found well.
    pub report: Option<MigrationReport>,
}

/// What a migration brought about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MigrationReport {
    /// The release that runs; `null`: nothing was ever deployed.
    pub release: Option<MigratedRelease>,
    /// The files on disk are those of its commit.
    pub scripts_same: bool,
    /// Where they are not.
    pub differences: Vec<MigratedDifference>,
    /// They are what the lost region was last known to run, or newer; `null`: that is not known.
    pub pushed_last_is_here: Option<bool>,
    /// The database; `null`: the app has none.
    pub database: Option<MigratedDatabase>,
    /// What was lost.
    pub loss: LossView,
    /// `loss` is exact, not a bound.
    pub loss_exact: bool,
    /// What is known of the loss: at the failover, and once the old source has been seen again.
    pub rpo: RpoView,
    /// The source was stopped first.
    pub planned: bool,
    /// From the request to the verified answer in the new region.
    pub rto_seconds: f64,
    /// The secondary is gone.
    pub secondary_deleted: bool,
    /// Resolvers may have kept the old address of the app's name for so long.
    pub ttl_seconds: u32,
    /// What a person should do.
    pub advice: Vec<String>,
}

/// A release that was recovered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigratedRelease {
    /// Its number.
    pub number: u64,
    /// Its commit.
    pub commit: String,
    /// The git tree of its files.
    pub tree: String,
}

/// A file that is not as it was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigratedDifference {
    /// Which.
    pub path: String,
    /// In what way.
    pub what: String,
}

/// The recovered app's database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigratedDatabase {
    /// Its engine.
    pub engine: String,
    /// Its name.
    pub name: String,
    /// It is known by its address only.
    pub external: bool,
    /// It answers.
    pub reachable: bool,
}

impl MigrationView {
    /// With the exact loss, where the primary's record has learnt of it since.
    #[must_use]
    pub fn new(migration: &Migration, primary: Option<&Item>) -> Self {
        let (why, recovered) = match &migration.phase {
            Phase::TakingBack { why } => (Some(why.clone()), false),
            Phase::Failed { why, recovered } => (Some(why.clone()), *recovered),
            Phase::DeletingSecondary { .. } | Phase::Completed => (None, true),
            _ => (None, false),
        };
        let state = match migration.phase {
            Phase::Completed => "completed",
            Phase::Failed { .. } => "failed",
            _ => "running",
        };
        let mut report = migration.report.as_ref().map(MigrationReport::from);
        if let Some(report) = &mut report {
            report.learn(migration, primary);
        }
        Self {
            id: migration.id.clone(),
            primary: app(&migration.primary).name.to_string(),
            secondary: migration.secondary.to_string(),
            state: state.to_owned(),
            phase: migration.phase.as_str().to_owned(),
            ended: migration.phase.is_terminal(),
            why,
            recovered,
            trouble: migration.trouble.clone(),
            stuck: migration.stuck,
            job: migration.phase.job().map(ToString::to_string),
            asked_by: migration.asked_by.clone(),
            source_is_down: migration.source_is_down,
            from: migration.from.to_string(),
            to: migration.to.to_string(),
            mode: migration.mode.to_string(),
            instances: migration.instances,
            created_at: migration.created_at.to_string(),
            updated_at: migration.updated_at.to_string(),
            report,
        }
    }
}

impl MigrationReport {
    /// The old source came back after the migration: its writes were counted then.
    fn learn(&mut self, migration: &Migration, primary: Option<&Item>) {
        let failover = primary.and_then(|item| item.failover.as_ref());
        let same = failover.filter(|failover| {
            failover.from == migration.from
                && failover.to == migration.to
                && failover.requested_at >= migration.created_at
                && failover.requested_at <= migration.updated_at
        });
        if let Some(failover) = same
            && let Some(loss) = failover.loss_final
        {
            self.loss = loss.into();
            self.loss_exact = failover.exact;
        }
        if let Some(failover) = same {
            self.rpo = failover.into();
        }
    }
}

impl From<&Report> for MigrationReport {
    fn from(report: &Report) -> Self {
        Self {
            release: report.release.as_ref().map(Into::into),
            scripts_same: report.scripts_same,
            differences: report.differences.iter().map(Into::into).collect(),
            pushed_last_is_here: report.pushed_last_is_here,
            database: report.database.as_ref().map(Into::into),
            loss: report.loss.into(),
            loss_exact: report.loss_exact,
            rpo: RpoView {
                at_failover: report.loss.into(),
                final_: report.loss_exact.then(|| report.loss.into()),
                exact: report.loss_exact,
            },
            planned: report.planned,
            rto_seconds: report.rto_seconds,
            secondary_deleted: report.secondary_deleted,
            ttl_seconds: report.ttl_seconds,
            advice: report.advice.clone(),
        }
    }
}

impl From<&Release> for MigratedRelease {
    fn from(release: &Release) -> Self {
        let Release { number, commit, tree } = release.clone();
        Self { number, commit, tree }
    }
}

impl From<&Difference> for MigratedDifference {
    fn from(difference: &Difference) -> Self {
        let Difference { path, what } = difference.clone();
        Self { path, what }
    }
}

impl From<&Database> for MigratedDatabase {
    fn from(database: &Database) -> Self {
        let Database { engine, name, external, reachable } = database.clone();
        Self { engine, name, external, reachable }
    }
}
