//! What a source must know after a restart of its node: which log it was reading, and with which number and position that
//! began.
//!
//! It is believed only where the files prove that it speaks of them: by the log's salts, or, when the log was empty, by the
//! database's file, which nobody can have changed since. Whatever else is found, a new chain begins, a replica needs a new
//! snapshot, and what was committed before cannot be counted: [`Record::counts_from`].

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::part::{replace_file, sync_dir};
use super::wal::{Header, Salts};
use super::{chance, database_file, ship_dir};
use crate::data::{DataError, Position, now};

const VERSION: u32 = 1;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) chain: u64,
    pub(super) page_size: u32,
    /// The log that it speaks of; nothing when that was empty.
    pub(super) salts: Option<(u32, u32)>,
    /// The number of that log's first frame.
    pub(super) first: u64,
    /// The position before it.
    pub(super) base: Position,
    /// The checksum of the frame before it.
    pub(super) sum: (u32, u32),
    /// A replica follows.
    pub(super) followed: bool,
    /// The position when this was written.
    pub(super) last: Position,
    /// The database's file, when the log was empty: then all is in it, and who changes anything changes it.
    #[serde(default)]
    at_rest: Option<Stamp>,
    /// Where numbers began that do not follow from those before: something was committed, or lost, that nobody counted.
    #[serde(default)]
    unsure: Option<Position>,
}

/// What tells a file from another, and from itself before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Record {
    /// The one that is there, if it can be read.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let bytes = std::fs::read(file(dir)).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|record: &Self| record.version == VERSION)
    }

    /// For a database that was never open here, and stands at `from`.
    pub(super) fn first(from: Position, page_size: u32, header: Option<Header>) -> Self {
        Self {
            version: VERSION,
            chain: chance(),
            page_size,
            salts: header.map(|header| pair(header.salts)),
            first: 0,
            base: from,
            sum: (0, 0),
            followed: false,
            last: from,
            at_rest: None,
            unsure: None,
        }
    }

    /// For a chain that begins now because what was there cannot be followed from `known`, the last that is known of it.
    /// Commits that nobody saw count as one, which is seen now: so the time tells what had been confirmed of earlier numbers.
    pub(super) fn begin(known: Position, page_size: u32, header: Option<Header>) -> Self {
        let base = Position { commits: known.commits + 1, bytes: known.bytes, at: now().max(known.at) };
        Self { unsure: Some(base), ..Self::first(base, page_size, header) }
    }

    /// This record, if the files in `dir` prove that it speaks of the log with this header.
    pub(super) fn goes_on(self, dir: &Path, header: Option<Header>) -> Option<Self> {
        let now = header.map(|header| pair(header.salts));
        let is_proved = match self.salts {
            Some(salts) => now == Some(salts),
            // A log that has begun since is the first one if nothing of it has been copied into the file yet.
            None => self.at_rest.is_some() && self.at_rest == Stamp::of(&database_file(dir)),
        };
        is_proved.then_some(Self { salts: now, ..self })
    }

    /// Whether commits after `kept`, which a replica had, can be counted from its numbers.
    pub(super) fn counts_from(&self, kept: Position) -> bool {
        self.unsure.is_none_or(|unsure| kept.covers(unsure) && kept.at >= unsure.at)
    }

    /// Numbers go on at `position`, and not from those before.
    pub(super) fn skip_to(&mut self, position: Position) {
        self.unsure = Some(position);
    }

    /// Puts it in place of the old one, to be found by the next process. Durable after [`Self::sync`].
    pub(super) fn write(&mut self, dir: &Path, last: Position) -> Result<(), DataError> {
        let bytes = self.encoded(dir, last);
        let (path, new) = (file(dir), file(dir).with_extension("new"));
        std::fs::write(&new, bytes)
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(DataError::io("write the shipping record", &path))
    }

    /// The same, and durable. Until then an old one may be found after a power cut, or none: that is found out.
    pub(super) fn write_durably(&mut self, dir: &Path, last: Position) -> Result<(), DataError> {
        let bytes = self.encoded(dir, last);
        replace_file(&file(dir), &bytes)?;
        sync_dir(dir)
    }

    fn encoded(&mut self, dir: &Path, last: Position) -> Vec<u8> {
        self.last = last;
        self.at_rest = if self.salts.is_none() { Stamp::of(&database_file(dir)) } else { None };
        serde_json::to_vec(self).expect("plain fields have no fallible encoding")
    }

    /// Makes durable what was written.
    pub(super) fn sync(dir: &Path) -> Result<(), DataError> {
        let path = file(dir);
        std::fs::File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(DataError::io("sync the shipping record", &path))?;
        sync_dir(&ship_dir(dir))
    }
}

impl Stamp {
    /// The file is asked for by name and never opened: see [`super::pins`].
    fn of(file: &Path) -> Option<Self> {
        let meta = std::fs::metadata(file).ok()?;
        Some(Self { inode: meta.ino(), bytes: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}

fn file(dir: &Path) -> PathBuf {
    ship_dir(dir).join("record.json")
}

/// As they are written down.
fn pair(salts: Salts) -> (u32, u32) {
    (salts.0, salts.1)
}
