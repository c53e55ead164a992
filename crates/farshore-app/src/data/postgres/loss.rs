//! What an old source has that the other region lacks: counted exactly, in its files, while nothing runs on them.

use std::fs;
use std::path::Path;

use super::cluster::Cluster;
use super::records::{Reach, Records, lsn_text, segment_name};
use super::tail;
use crate::data::{DataError, Loss, Position};

/// Commits in the files of the database in `dir` after `position`. Blocks.
pub(super) fn count_after(dir: &Path, position: Position) -> Result<Loss, DataError> {
    let cluster = Cluster::at(dir);
    let (wal, mark) = (cluster.wal(), cluster.load()?.mark);
    let lsn = mark.lsn_of(position);
    let Some(timeline) = timeline(&wal, lsn)? else { return Ok(Loss::default()) };
    let mut records = Records::from(Reach { boundary: lsn, position, ..mark });
    let counted = tail::count(&wal, timeline, &mut records, u64::MAX);
    match counted {
        // The log ends within a segment, or with one.
        Ok(_) => Ok(records.reach().position.beyond(position)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(records.reach().position.beyond(position))
        }
        Err(error) => Err(DataError::io("read the log in", &wal)(error)),
    }
}

/// The timeline on which the log goes on at `lsn`. None: the log ends before it.
fn timeline(wal: &Path, lsn: u64) -> Result<Option<u32>, DataError> {
    let entries = fs::read_dir(wal).map_err(DataError::io("read", wal))?;
    let names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let wanted = segment_name(0, lsn);
    let (_, wanted) = wanted.split_at(8);
    let segments = names.iter().filter(|name| name.len() == 24).filter_map(|name| name.split_at_checked(8));
    let here = segments.clone().filter(|(_, segment)| *segment == wanted);
    if let Some(timeline) = here.filter_map(|(timeline, _)| u32::from_str_radix(timeline, 16).ok()).max() {
        return Ok(Some(timeline));
    }
    if segments.clone().any(|(_, segment)| segment > wanted) {
        return Err(DataError::Missing {
            what: format!(
                "the write-ahead log from {} on in {}, without which nobody can count what was committed after it,",
                lsn_text(lsn),
                wal.display()
            ),
        });
    }
    Ok(None)
}
