//! Who wins where regions changed the same thing at once. Applied on reading only; what is kept is the same under all rules.

use farshore_core::ids::{Epoch, Region};
use serde::{Deserialize, Serialize};

use super::mark::Mark;
use crate::clock::Stamp;

/// How concurrent changes are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MergePolicy {
    /// Each group by what is safe for it: disabled wins over enabled, deleted over changed, later keys over earlier ones, and
    /// so on by epoch and time.
    #[default]
    ByGroup,
    /// The region that had the right to write last wins everything.
    ActiveEpochWins,
    /// The primary region wins everything.
    PrimaryWins,
    /// The other region wins everything.
    SecondaryWins,
    /// The later change wins, whoever had the right to write.
    Newest,
    /// The record is held: it serves the primary region's side and is listed until a person decides.
    Manual,
}

impl MergePolicy {
    /// The word for it in files, commands and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ByGroup => "by-group",
            Self::ActiveEpochWins => "active-epoch-wins",
            Self::PrimaryWins => "primary-wins",
            Self::SecondaryWins => "secondary-wins",
            Self::Newest => "newest",
            Self::Manual => "manual",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let all = [
            Self::ByGroup,
            Self::ActiveEpochWins,
            Self::PrimaryWins,
            Self::SecondaryWins,
            Self::Newest,
            Self::Manual,
        ];
        all.into_iter().find(|policy| policy.as_str() == text)
    }
}

/// A policy, and who is meant by “primary”.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rules {
    /// How to settle.
    pub policy: MergePolicy,
    /// The primary region; `None`: nobody is preferred.
    pub primary: Option<Region>,
}

impl Rules {
    /// Of two marks the one with the higher rank wins, unless the group has a rule of its own.
    #[must_use]
    pub fn rank(&self, mark: &Mark) -> (bool, Epoch, Stamp) {
        let from_primary = self.primary.as_ref() == Some(mark.region());
        match self.policy {
            MergePolicy::ByGroup | MergePolicy::ActiveEpochWins => (false, mark.epoch, mark.stamp.clone()),
            MergePolicy::Newest => (false, Epoch(0), mark.stamp.clone()),
            MergePolicy::PrimaryWins | MergePolicy::Manual => (from_primary, mark.epoch, mark.stamp.clone()),
            MergePolicy::SecondaryWins => (!from_primary, mark.epoch, mark.stamp.clone()),
        }
    }

    /// Whether groups follow their own rule of what is safe.
    #[must_use]
    pub fn is_by_group(&self) -> bool {
        self.policy == MergePolicy::ByGroup
    }

    /// Whether a person has to decide.
    #[must_use]
    pub fn is_manual(&self) -> bool {
        self.policy == MergePolicy::Manual
    }
}
