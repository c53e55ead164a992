//! The receiving side, as the wire sees it.

use std::fmt::Debug;
use std::io;

use farshore_core::moment::Moment;
use farshore_core::workload::{PointKind, Watermark};

use crate::record::{Block, Range, Record};

/// What a receiver tells a sender when a session starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The last record durable here, in an unbroken row. `None`: nothing was ever received, send everything (seed).
    pub durable: Option<Watermark>,
    /// A catch-up was begun and not ended: what is here is only consistent at its earlier points. The sender must
    /// begin a new catch-up that covers at least what the broken one covered (the sender keeps its dirty map until
    /// `end_catch_up` was acknowledged).
    pub catching_up: bool,
    /// Ranges in which this side's content differs from the sender's history at `durable` (writes that only this side
    /// had, before it became the target). The sender adds them to its dirty map and so must catch up.
    pub diverged: Vec<Range>,
}

/// One machine's receiving side (the target's replica). Calls come from one session at a time, in order. After an `Err`
/// the session ends and nothing that was not acknowledged by [`Sink::sync`] may be counted on.
pub trait Sink: Send + Sync + Debug {
    /// Where to go on from.
    fn resume(&self) -> io::Result<Resume>;
    /// The source is alive and has accepted writes up to `head`; `now` is this side's clock. Kept, for the report of a loss.
    fn source_alive(&self, head: Watermark, now: Moment);
    /// Appends records in sequence order. Records already present (after a resume) are skipped.
    fn append(&self, records: &[Record]) -> io::Result<()>;
    /// From now on blocks may come, mixed with records; no point is offered until [`Sink::end_catch_up`].
    fn begin_catch_up(&self, from: Watermark) -> io::Result<()>;
    /// Applies blocks of a catch-up, in order with the records. Returns how many of their bytes differed from what was here.
    fn blocks(&self, blocks: &[Block]) -> io::Result<u64>;
    /// The state is consistent again, at `at`.
    fn end_catch_up(&self, at: Watermark) -> io::Result<()>;
    /// A recovery point: all records up to `at` have been appended.
    fn point(&self, at: Watermark, taken: Moment, kind: PointKind, name: Option<&str>) -> io::Result<()>;
    /// Makes everything appended so far durable and returns the newest durable position.
    fn sync(&self) -> io::Result<Watermark>;
}
