//! Opening a replica's directory: what it is, which points it has, and whether its newest state is whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_core::workload::{Point, PointKind, Watermark};

use super::Options;
use super::divergence::Keeping;
use super::error::ReplicaError;
use super::journal::{Found, Journal, Mark};
use super::points::{self, Offered, PointNote};
use super::promoted::remove_folded;
use super::segment::{EntryKind, Place};
use super::state::{Phase, State, remove};
use crate::disk::Disk;

/// Whether the newest state is a prefix of the writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// It is.
    Whole,
    /// It is between two moments.
    Broken {
        /// A catch-up was begun (as opposed to: one is needed).
        begun: bool,
        /// The last moment at which it was whole, and its place in the journal.
        before: Option<(Watermark, Place)>,
    },
}

impl Stream {
    pub(super) fn new(is_whole: bool) -> Self {
        if is_whole { Self::Whole } else { Self::Broken { begun: false, before: None } }
    }

    /// A catch-up begins at `end`, the end of the journal so far.
    pub(super) fn begin(self, last: Watermark, end: Place) -> Self {
        match self {
            Self::Whole => Self::Broken { begun: true, before: Some((last, end)) },
            Self::Broken { before, .. } => Self::Broken { begun: true, before },
        }
    }

    /// What "everything that has arrived and is consistent" means, given the durable end of the journal.
    pub(super) fn latest(self, durable: Watermark, end: Place) -> Option<Offered> {
        let (watermark, until) = match self {
            Self::Whole => (durable, end),
            Self::Broken { before, .. } => before?,
        };
        let id = points::id(watermark.at, watermark, None);
        let point = Point { id, watermark, at: watermark.at, kind: PointKind::Crash, name: None };
        Some(Offered { point, until })
    }
}

/// A directory, read.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) state: State,
    pub(super) journal: Journal,
    pub(super) disks: Vec<Arc<Keeping>>,
    pub(super) points: Vec<Offered>,
    pub(super) stream: Stream,
    pub(super) damaged_at: Option<Place>,
}

/// Where the journal is.
pub(super) fn journal_dir(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// Reads a replica's directory as a crash may have left it.
pub(super) fn recover(
    dir: &Path,
    disks: Vec<Arc<dyn Disk>>,
    options: &Options,
) -> Result<Recovered, ReplicaError> {
    let state = State::load(dir)?;
    check_disks(dir, &state, &disks)?;
    remove(&dir.join("drill")).map_err(ReplicaError::io("remove the left-over drill in", dir))?;
    let disks = keeping(dir, disks, state.divergence.is_some())?;
    let is_plain = matches!(state.phase, Phase::Plain(_));
    if is_plain {
        // The disks hold everything; the stop may have come while the journal was being removed.
        remove_folded(dir).map_err(ReplicaError::io("remove the folded journal in", dir))?;
    }
    let base = if is_plain { Place::default() } else { state.base };
    let Found { journal, marks, damaged_at } =
        Journal::open(&journal_dir(dir), options.segment_bytes, base, state.base_watermark)
            .map_err(ReplicaError::io("open the journal in", dir))?;
    let (points, stream) = replay(&marks, &state);
    Ok(Recovered { state, journal, disks, points, stream, damaged_at })
}

/// Wraps the disks, so that a kept divergence is saved before it is overwritten.
pub(super) fn keeping(
    dir: &Path,
    disks: Vec<Arc<dyn Disk>>,
    is_diverged: bool,
) -> io::Result<Vec<Arc<Keeping>>> {
    let disks: Vec<Arc<Keeping>> = disks.into_iter().map(|disk| Arc::new(Keeping::new(disk))).collect();
    if is_diverged {
        for (number, disk) in disks.iter().enumerate() {
            disk.keep(dir, number)?;
        }
    }
    Ok(disks)
}

/// Goes through the marks in order: the points that can be offered, and whether the newest state is whole.
pub(super) fn replay(marks: &[Mark], state: &State) -> (Vec<Offered>, Stream) {
    let gone = state.folding_to.unwrap_or(state.base);
    let mut stream = Stream::new(state.base_consistent);
    let mut points: Vec<Offered> = Vec::new();
    for Mark { entry, payload } in marks {
        match entry.kind {
            EntryKind::BeginCatchUp => stream = stream.begin(entry.watermark, entry.place),
            EntryKind::EndCatchUp => stream = Stream::Whole,
            EntryKind::Point => {
                let note = serde_json::from_slice::<PointNote>(payload);
                points.extend(
                    note.ok().map(|note| Offered { point: note.point(entry.watermark), until: entry.place }),
                );
            }
            _ => {}
        }
    }
    points.retain(|offered| offered.until >= gone);
    (points, stream)
}

fn check_disks(dir: &Path, state: &State, disks: &[Arc<dyn Disk>]) -> Result<(), ReplicaError> {
    let given: Vec<u64> = disks.iter().map(|disk| disk.size()).collect();
    if given == state.disks {
        return Ok(());
    }
    let sizes = |sizes: &[u64]| format!("{} disks of {sizes:?} bytes", sizes.len());
    Err(ReplicaError::WrongDisks { dir: dir.to_owned(), have: sizes(&state.disks), given: sizes(&given) })
}
