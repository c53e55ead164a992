//! What an old source has that the other region lacks: counted exactly, in its files, while nothing runs on them.
//!
//! The log may go on over promotions: each begins a new timeline, in a segment that has what the old one had in it, and what is
//! before stays under the old name. So of each segment the newest timeline's is read.
//!
//! Must always hold: a count that does not come as far as this database is known to be is no count.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::cluster::Cluster;
use super::records::{Reach, Records, SEGMENT, lsn_text, parse_lsn, segment_name, segment_start};
use super::tail;
use crate::data::{DataError, Loss, Position};

/// Letters of a timeline in a segment's name.
const TIMELINE_LEN: usize = 8;
/// Letters of a segment's name.
const SEGMENT_LEN: usize = 24;

/// Commits in the files of the database in `dir` after `position`. Blocks.
pub(super) fn count_after(dir: &Path, position: Position) -> Result<Loss, DataError> {
    let cluster = Cluster::at(dir);
    let (wal, mark) = (cluster.wal(), cluster.load()?.mark);
    let lsn = mark.lsn_of(position);
    let log = Log::list(&wal)?;
    let counted = log.count(Reach { boundary: lsn, position, ..mark })?;
    // Where the mark is this database was. A count that ends before has missed something: part of the log is gone, or no
    // record begins at `lsn`.
    if log.is_empty() || counted.boundary < mark.boundary || counted.position.commits < mark.position.commits
    {
        return Err(uncounted(lsn, &wal));
    }
    // What the server itself committed when it was made ready after a promotion is nobody's row, and is not in our numbers.
    let was_promoted = log.promoted()?.is_some_and(|at| (lsn..=mark.boundary).contains(&at));
    let last = if was_promoted { log.count(mark)? } else { counted };
    Ok(last.position.beyond(position))
}

fn uncounted(lsn: u64, wal: &Path) -> DataError {
    DataError::Missing {
        what: format!(
            "the write-ahead log from {} on in {}, without which nobody can count what was committed after it,",
            lsn_text(lsn),
            wal.display()
        ),
    }
}

/// The files of a log.
struct Log<'a> {
    wal: &'a Path,
    /// By its name without the timeline, the newest timeline that has it.
    segments: BTreeMap<String, u32>,
}

impl<'a> Log<'a> {
    fn list(wal: &'a Path) -> Result<Self, DataError> {
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(wal).map_err(DataError::io("read", wal))?.flatten() {
            let name = entry.file_name();
            let name = name.to_str().filter(|name| name.len() == SEGMENT_LEN);
            let Some((timeline, segment)) = name.and_then(|name| name.split_at_checked(TIMELINE_LEN)) else {
                continue;
            };
            let Ok(timeline) = u32::from_str_radix(timeline, 16) else { continue };
            let newest = segments.entry(segment.to_owned()).or_insert(timeline);
            *newest = timeline.max(*newest);
        }
        Ok(Self { wal, segments })
    }

    fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Counts on from `reach` to where the log ends: within a segment, or with one.
    fn count(&self, reach: Reach) -> Result<Reach, DataError> {
        let mut records = Records::from(reach);
        let timeline = |lsn| self.segments.get(segment_name(0, lsn).split_at(TIMELINE_LEN).1);
        while let Some(timeline) = timeline(records.at()) {
            let end = segment_start(records.at()) + SEGMENT;
            let counted = tail::count(self.wal, *timeline, &mut records, end);
            if counted.map_err(DataError::io("read the log in", self.wal))?.is_err() {
                break;
            }
        }
        Ok(records.reach())
    }

    /// Where the newest timeline left the one before. None: it is the first.
    fn promoted(&self) -> Result<Option<u64>, DataError> {
        let newest = self.segments.values().max().copied().unwrap_or_default();
        let path = self.wal.join(format!("{newest:08X}.history"));
        match fs::read_to_string(&path) {
            Ok(history) => {
                Ok(history.lines().rev().find_map(|line| parse_lsn(line.split_whitespace().nth(1)?)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DataError::io("read the history", &path)(error)),
        }
    }
}
