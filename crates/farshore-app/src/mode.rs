//! The mode of a service: how much capacity it has, from little to much.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How much capacity a service has. Ordered: a service can be recovered onto its own mode or a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One instance, shared with others.
    Free,
    /// A few instances.
    #[serde(alias = "shared")]
    Basic,
    /// Many instances of its own.
    #[serde(alias = "reserved")]
    Standard,
}

/// A word that names no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mode: use free, basic or standard")]
pub struct UnknownMode(pub String);

impl Mode {
    /// All of them, from the least.
    pub const ALL: [Self; 3] = [Self::Free, Self::Basic, Self::Standard];

    /// The word that people use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Basic => "basic",
            Self::Standard => "standard",
        }
    }

    /// The word that the management wire uses.
    #[must_use]
    pub fn tier(self) -> &'static str {
        match self {
            Self::Free => "tier1",
            Self::Basic => "tier2",
            Self::Standard => "tier3",
        }
    }

    /// How many instances a service of this mode may run.
    #[must_use]
    pub fn instances_max(self) -> u32 {
        match self {
            Self::Free => 1,
            Self::Basic => 6,
            Self::Standard => 25,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;
    /// Reads today's names, the wire's tiers, and the old names `shared` and `reserved`.
    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "free" | "tier1" => Ok(Self::Free),
            "basic" | "shared" | "tier2" => Ok(Self::Basic),
            "standard" | "reserved" | "tier3" => Ok(Self::Standard),
            _ => Err(UnknownMode(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_ordered_from_little_to_much() {
        assert!(Mode::ALL.is_sorted());
        assert!(Mode::ALL.map(Mode::instances_max).is_sorted());
    }

    #[test]
    fn old_names_new_names_and_tiers_mean_the_same() {
        for mode in Mode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
            assert_eq!(mode.tier().parse(), Ok(mode));
        }
        assert_eq!("shared".parse(), Ok(Mode::Basic));
        assert_eq!("reserved".parse(), Ok(Mode::Standard));
        let error = "premium".parse::<Mode>().unwrap_err();
        assert_eq!(error.to_string(), "\"premium\" is no mode: use free, basic or standard");
    }
}
