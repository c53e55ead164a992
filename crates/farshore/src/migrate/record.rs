//! What is stored of a migration, under which keys. Described for people in `docs/formats/store.md`.

use farshore_app::mode::Mode;
use farshore_core::ids::{JobId, Name, Region};
use farshore_core::moment::Moment;
use farshore_core::workload::Loss;
use serde::{Deserialize, Serialize};

use super::Asked;
use super::rules::Admitted;

/// Prefix of [`Migration`]s.
pub(super) const MIGRATIONS: &str = "migrations/";
/// Prefix of [`Open`]: which app is part of an unfinished migration.
pub(super) const OPEN: &str = "migrations-open/";

pub(super) fn key(id: &str) -> String {
    format!("{MIGRATIONS}{id}")
}

pub(super) fn open_key(name: &Name) -> String {
    format!("{OPEN}{name}")
}

/// `migrations-open/NAME`: the one unfinished migration that the app is part of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) id: String,
}

/// Where a migration stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase")]
pub enum Phase {
    /// The secondary is being told that its capacity is the primary's from now on.
    Lending,
    /// The primary is brought to where the secondary's region follows it.
    Protecting {
        /// The job under way.
        job: Option<JobId>,
    },
    /// The primary moves to the secondary's region.
    FailingOver {
        /// From 1; a planned move whose source dies meanwhile is tried again without it.
        attempt: u32,
        /// The job under way.
        job: Option<JobId>,
    },
    /// The recovered app is looked at: whether it runs, with which scripts, and whether its database answers.
    Verifying,
    /// The secondary is being removed.
    DeletingSecondary {
        /// The job under way.
        job: Option<JobId>,
    },
    /// The primary stays where it is: the secondary gets its capacity back.
    TakingBack {
        /// What went wrong.
        why: String,
    },
    /// The primary runs in the secondary's region, and the secondary is gone.
    Completed,
    /// It ended otherwise.
    Failed {
        /// What went wrong, and what to do.
        why: String,
        /// The primary was recovered all the same: only what comes after it failed, and the secondary is kept.
        recovered: bool,
    },
}

impl Phase {
    /// The word shown to people.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Lending => "lending",
            Self::Protecting { .. } => "protecting",
            Self::FailingOver { .. } => "failing-over",
            Self::Verifying => "verifying",
            Self::DeletingSecondary { .. } => "deleting-secondary",
            Self::TakingBack { .. } => "taking-back",
            Self::Completed => "completed",
            Self::Failed { .. } => "failed",
        }
    }

    /// The job under way.
    #[must_use]
    pub fn job(&self) -> Option<&JobId> {
        match self {
            Self::Protecting { job } | Self::FailingOver { job, .. } | Self::DeletingSecondary { job } => {
                job.as_ref()
            }
            _ => None,
        }
    }
}

/// `migrations/ID`: one migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Migration {
    /// 32 hex digits.
    pub id: String,
    /// The app that is recovered.
    pub primary: Name,
    /// The app whose capacity is used.
    pub secondary: Name,
    /// Who asked.
    pub asked_by: String,
    /// The operator's word that the primary's region is down: where that region did not answer at the beginning.
    pub source_is_down: bool,
    /// The primary's region at the beginning.
    pub from: Region,
    /// The secondary's region.
    pub to: Region,
    /// What the primary has afterwards.
    pub mode: Mode,
    /// The same: as many instances as it had, as far as the mode allows.
    pub instances: u32,
    /// The scripts that the primary's region was last known to run.
    #[serde(default)]
    pub pushed_last: Option<String>,
    /// The number of that release.
    #[serde(default)]
    pub release_last: Option<u64>,
    /// Where it stands.
    #[serde(flatten)]
    pub phase: Phase,
    /// Since when.
    pub since: Moment,
    /// What it waits for, for people.
    #[serde(default)]
    pub trouble: Option<String>,
    /// It waits for a person: its job is stuck.
    #[serde(default)]
    pub stuck: bool,
    /// Since when the source does not answer that a planned move stops first; while it does, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Moment>,
    /// Why the recovered app did not get the secondary's mode, if it did not.
    #[serde(default)]
    pub unfit: Option<String>,
    /// When it was asked for.
    pub created_at: Moment,
    /// When it last changed.
    pub updated_at: Moment,
    /// What was found, once the recovered app was looked at.
    #[serde(default)]
    pub report: Option<Report>,
}

/// What a migration brought about, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The release that runs, if one was ever deployed.
    pub release: Option<Release>,
    /// The files on disk are those of its commit.
    pub scripts_same: bool,
    /// Where they are not.
    pub differences: Vec<Difference>,
    /// They are what the primary's region was last known to run, or newer; `None`: that is not known.
    pub pushed_last_is_here: Option<bool>,
    /// The database, if the app has one.
    pub database: Option<Database>,
    /// What was lost: exact, or the bound that was known at the failover.
    pub loss: Loss,
    /// It is exact.
    pub loss_exact: bool,
    /// The source was stopped first.
    pub planned: bool,
    /// From the request to the verified answer in the new region.
    pub rto_seconds: f64,
    /// The secondary is gone.
    pub secondary_deleted: bool,
    /// Resolvers may have kept the old address of the name for so long.
    pub ttl_seconds: u32,
    /// What a person should do.
    pub advice: Vec<String>,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its number.
    pub number: u64,
    /// Its commit.
    pub commit: String,
    /// The git tree of its files.
    pub tree: String,
}

/// A file that is not as it was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Which.
    pub path: String,
    /// In what way.
    pub what: String,
}

/// The recovered app's database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its engine.
    pub engine: String,
    /// Its name.
    pub name: String,
    /// It is somebody else's, known by its address only.
    pub external: bool,
    /// It answers.
    pub reachable: bool,
}

impl Migration {
    /// Who is named where the migration itself cancels its job.
    pub(super) fn who(&self) -> String {
        format!("control-plane (migration {})", self.id)
    }

    /// A new one, with everything still to do.
    pub(super) fn new(id: String, asked: &Asked, admitted: &Admitted, who: &str, now: Moment) -> Self {
        Self {
            id,
            primary: asked.primary.clone(),
            secondary: asked.secondary.clone(),
            asked_by: who.to_owned(),
            // Nobody could mean a region that answered when it was said.
            source_is_down: asked.source_is_down && admitted.silent.is_some(),
            from: admitted.from.clone(),
            to: admitted.capacity.region.clone(),
            mode: admitted.capacity.mode,
            instances: admitted.capacity.instances,
            pushed_last: admitted.pushed_last.clone(),
            release_last: admitted.release_last,
            phase: Phase::Lending,
            since: now,
            trouble: None,
            stuck: false,
            silent_since: None,
            unfit: None,
            created_at: now,
            updated_at: now,
            report: None,
        }
    }

    /// The same in another phase.
    #[must_use]
    pub(super) fn in_phase(mut self, phase: Phase, now: Moment) -> Self {
        if self.phase != phase {
            self.since = now;
            self.trouble = None;
        }
        (self.stuck, self.silent_since) = (false, None);
        self.phase = phase;
        self
    }

    /// The same, waiting for something.
    #[must_use]
    pub(super) fn waiting(mut self, trouble: impl Into<String>) -> Self {
        self.trouble = Some(trouble.into());
        (self.stuck, self.silent_since) = (false, None);
        self
    }

    /// The same, waiting for a person.
    #[must_use]
    pub(super) fn waiting_for_a_person(self, trouble: impl Into<String>) -> Self {
        Self { stuck: true, ..self.waiting(trouble) }
    }

    /// The same, with its job going on as it should.
    #[must_use]
    pub(super) fn at_work(mut self) -> Self {
        if self.stuck || self.silent_since.is_some() {
            (self.stuck, self.silent_since, self.trouble) = (false, None, None);
        }
        self
    }
}
