//! How much is kept, and for how long.

use std::time::Duration;

use super::error::TelemetryError;

/// Smallest segment: holds the largest batch that is written at once.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;

/// Largest segment: it is checked as a whole, in memory.
pub const SEGMENT_BYTES_MAX: u64 = 256 << 20;

/// How a hub's telemetry is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryOptions {
    /// Size of a file of the log: retention deletes whole files. The same in both regions, their files are the same.
    pub segment_bytes: u64,
    /// Most bytes of one region's log. Above it the oldest files go, at the worst those that a partner still needs.
    pub retention_bytes: u64,
    /// Events older than this are deleted once every partner has them.
    pub retention: Duration,
    /// How long the identifier of an event is remembered, to know it when it is sent again: longer than a failover and
    /// what devices buffer meanwhile.
    pub dedupe_horizon: Duration,
    /// Most identifiers that are remembered (about 64 bytes each); above it the oldest are forgotten early.
    pub dedupe_entries: usize,
    /// Properties that together identify an event of a device when it has no `$.mid`: for example `boot` and `seq`. An
    /// event that lacks one of them has no identity. Empty: only `$.mid` counts.
    pub dedupe_properties: Vec<String>,
}

impl Default for TelemetryOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            retention_bytes: 16 << 30,
            retention: Duration::from_secs(7 * 24 * 3600),
            dedupe_horizon: Duration::from_secs(24 * 3600),
            dedupe_entries: 4 << 20,
            dedupe_properties: Vec::new(),
        }
    }
}

impl TelemetryOptions {
    pub(super) fn check(&self) -> Result<(), TelemetryError> {
        let bad = |option, why| Err(TelemetryError::Options { option, why });
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return bad("segment_bytes", "must be between 64 KiB and 256 MiB");
        }
        if self.retention_bytes < 2 * self.segment_bytes {
            return bad("retention_bytes", "must hold at least two segments");
        }
        if self.dedupe_entries == 0 {
            return bad("dedupe_entries", "must be at least 1: events in flight are compared, too");
        }
        Ok(())
    }
}
