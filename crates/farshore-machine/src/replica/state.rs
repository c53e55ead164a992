//! What a replica remembers besides its journal: one small file, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use farshore_core::workload::{Loss, Point, Watermark};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::ReplicaError;
use super::segment::Place;

/// The version of the directory's layout that this code writes and reads.
const VERSION: u32 = 1;

/// What is known of writes that only this side has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DivergenceInfo {
    /// The last write that both sides have.
    pub after: Watermark,
    /// What only this side has.
    pub loss: Loss,
    /// False when `loss` is a bound.
    pub exact: bool,
}

/// What the directory is at the moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Nothing consistent was ever received; a seed goes straight to the disks.
    Virgin {
        /// The disks were emptied and a seed has begun: a part of it may be there.
        seeding: bool,
    },
    /// Receives.
    Following,
    /// Served at a point; the choice can still be changed.
    Promoted(Chosen),
    /// Served at a point for good; being folded.
    Committed(Chosen),
    /// Folded: the disks are all there is.
    Plain(Chosen),
}

/// The point that is served and the place in the journal up to which its content reaches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Chosen {
    pub(super) point: Point,
    pub(super) until: Place,
}

/// The state file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// Sizes of the machine's disks.
    pub(super) disks: Vec<u64>,
    pub(super) phase: Phase,
    /// Entries of the journal before this place are folded into the disks.
    pub(super) base: Place,
    /// The machine's position at `base`.
    pub(super) base_watermark: Watermark,
    /// Whether the disks were a prefix of the writes at `base`.
    pub(super) base_consistent: bool,
    /// A fold towards this place was begun: points before it are gone.
    pub(super) folding_to: Option<Place>,
    /// Writes of an old source that the new one never had.
    pub(super) divergence: Option<DivergenceInfo>,
}

impl State {
    /// The state of a new directory.
    pub(super) fn new(disks: Vec<u64>, phase: Phase, at: Watermark, consistent: bool) -> Self {
        Self {
            version: VERSION,
            disks,
            phase,
            base: Place::default(),
            base_watermark: at,
            base_consistent: consistent,
            folding_to: None,
            divergence: None,
        }
    }

    /// Reads the state of `dir`.
    pub(super) fn load(dir: &Path) -> Result<Self, ReplicaError> {
        let state: Self = load(&path(dir))?;
        if state.version != VERSION {
            return Err(ReplicaError::WrongState(format!(
                "{} was written by layout version {}, this program knows {VERSION}: use the program that wrote it",
                path(dir).display(),
                state.version
            )));
        }
        Ok(state)
    }

    /// Replaces the state of `dir`; durable on return.
    pub(super) fn store(&self, dir: &Path) -> io::Result<()> {
        store(&path(dir), self)
    }

    /// Whether nothing consistent was ever received.
    pub(super) fn is_virgin(&self) -> bool {
        matches!(self.phase, Phase::Virgin { .. })
    }

    /// Whether `dir` holds a replica.
    pub(super) fn exists(dir: &Path) -> bool {
        path(dir).exists()
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("replica.json")
}

/// Reads a file that [`store`] wrote: one line of JSON and one with its checksum.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ReplicaError> {
    let text = fs::read(path).map_err(ReplicaError::io("read", path))?;
    let damaged = |what: String| ReplicaError::Damaged {
        file: path.to_owned(),
        offset: 0,
        what,
        safe: "nothing was changed; restore the file from a backup, or protect the machine again".to_owned(),
    };
    let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
    let (json, rest) = text.split_at(end);
    if rest != format!("\ncrc32c {:08x}\n", crc32c::crc32c(json)).as_bytes() {
        return Err(damaged("the content does not match its checksum".to_owned()));
    }
    serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))
}

/// Replaces a file: after a crash it is the old one or the new one as a whole.
pub(super) fn store<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    let crc = crc32c::crc32c(&text);
    text.extend_from_slice(format!("\ncrc32c {crc:08x}\n").as_bytes());
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes a directory with its parents and makes their names durable, two levels up: deeper the replica never builds.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    dir.ancestors().skip(1).take(2).filter(|parent| parent.is_dir()).try_for_each(sync_dir)
}

/// Makes names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes a file or directory tree, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
