//! One write, as it travels over the wire and rests in the journal.

use std::sync::Arc;

use farshore_core::ids::Epoch;
use farshore_core::moment::Moment;
use farshore_core::workload::Watermark;

/// Granularity at which changes are tracked: what a guest's file system writes. A delta moves whole blocks.
pub const BLOCK: u64 = 4096;

/// One accepted write of a machine, numbered by its one sequencer over all its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Position in the machine's history: rises by one with each record, over all disks, also across epochs.
    pub seq: u64,
    /// The epoch under which it was accepted.
    pub epoch: Epoch,
    /// When, on the source's clock.
    pub at: Moment,
    /// Payload bytes of all writes of the machine up to and including this one.
    pub bytes: u64,
    /// Index of the disk within the machine.
    pub disk: u16,
    /// First byte.
    pub offset: u64,
    /// How many bytes; never 0.
    pub len: u64,
    /// What happened to them.
    pub op: Op,
}

impl Record {
    /// The position that this record makes the newest.
    #[must_use]
    pub fn watermark(&self) -> Watermark {
        Watermark { epoch: self.epoch, seq: self.seq, bytes: self.bytes, at: self.at }
    }
}

/// What a write does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets the bytes; the length equals the record's.
    Write(Arc<[u8]>),
    /// The range reads as zeroes and need not be allocated.
    Trim,
    /// The range reads as zeroes and stays allocated.
    Zero,
}

/// A part of a disk that must be sent in a seed or catch-up, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Index of the disk within the machine.
    pub disk: u16,
    /// First byte.
    pub offset: u64,
    /// How many bytes; never 0. The last block of a disk may be short.
    pub len: u64,
    /// The content.
    pub op: Op,
}

/// A range of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// Index of the disk within the machine.
    pub disk: u16,
    /// First byte.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}
