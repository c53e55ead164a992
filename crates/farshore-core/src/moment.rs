//! A point in wall-clock time, always given from outside.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Microseconds since 1970-01-01T00:00:00Z, as some region's clock told them. Used to label and to report, never to
/// decide who may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// From whole milliseconds since 1970.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1000))
    }
    /// How much later this is than `earlier`; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
    /// This moment moved later by `by`.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Moment {
    /// RFC 3339 in UTC with milliseconds: `2026-11-21T05:00:00.250Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_microsecond(micros) {
            Ok(timestamp) => f.pad(&format!("{timestamp:.3}")),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl FromStr for Moment {
    type Err = String;
    /// Reads RFC 3339, with any offset.
    fn from_str(text: &str) -> Result<Self, String> {
        let timestamp: jiff::Timestamp = text
            .parse()
            .map_err(|_| format!("{text:?} is not a time: write it like 2026-11-21T05:00:00Z"))?;
        u64::try_from(timestamp.as_microsecond()).map(Self).map_err(|_| format!("{text:?} is before 1970"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_and_read_as_rfc_3339() {
        let moment: Moment = "2026-11-21T05:00:00.250Z".parse().unwrap();
        assert_eq!(moment.to_string(), "2026-11-21T05:00:00.250Z");
        assert_eq!(moment, "2026-11-21T06:00:00.25+01:00".parse().unwrap());
        assert!("yesterday".parse::<Moment>().is_err());
    }

    #[test]
    fn differences_never_go_below_zero() {
        assert_eq!(Moment(5).since(Moment(9)), Duration::ZERO);
        assert_eq!(Moment(9).since(Moment(5)), Duration::from_micros(4));
    }
}
