//! What can go wrong, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_core::ids::Region;

/// A place in a log that does not read as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Whose log.
    pub region: Region,
    /// The event that should be there.
    pub offset: u64,
    /// The next event that can be read.
    pub next: u64,
    /// In which file.
    pub file: PathBuf,
    /// At which byte of it.
    pub at: u64,
    /// What is wrong there.
    pub why: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, offset, next, file, at, why } = self;
        write!(
            f,
            "the log of {region} is damaged in {} at byte {at} ({why}): events {offset} to {next} (not included) \
             cannot be read; mend it from the partner's copy, or go on reading at {next}",
            file.display()
        )
    }
}

/// Why a log could not be opened, read or extended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TelemetryError {
    /// The disk said no.
    #[error("could not {what} {}: {source}", path.display())]
    Disk {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Somebody else has it open.
    #[error("{} is in use by another process: stop that one first", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// Something in the directory was not written by this.
    #[error("{} is no telemetry log of this version: {why}; move it away or give another directory", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Options that cannot be meant.
    #[error("the telemetry option {option} {why}")]
    Options {
        /// Which one.
        option: &'static str,
        /// What to set it to.
        why: &'static str,
    },
    /// A damaged place was reached. It is not passed by itself: whoever reads decides.
    #[error("{0}")]
    Damaged(Damage),
    /// What was asked for is no longer kept.
    #[error("events of {origin} from {from} are no longer kept here: the first one is {start}")]
    Gone {
        /// Whose log.
        origin: Region,
        /// What was asked for.
        from: u64,
        /// What is still there.
        start: u64,
    },
    /// Somebody has a longer copy than this one: this log lost its end, or was made anew.
    #[error(
        "{origin}'s log ends here at {end}, and {from} was asked for: extend this copy from the other one first"
    )]
    Beyond {
        /// Whose log.
        origin: Region,
        /// What was asked for.
        from: u64,
        /// Where it ends here.
        end: u64,
    },
    /// A batch does not begin where the copy ends.
    #[error(
        "the copy of {origin}'s log wants {wanted} next, and was given {from}: ask for events from {wanted}"
    )]
    Gap {
        /// Whose log.
        origin: Region,
        /// The next offset that is wanted.
        wanted: u64,
        /// What came.
        from: u64,
    },
    /// A batch does not read as it was written. Nothing of it was taken.
    #[error("the batch of {origin}'s log from {from} is damaged at byte {at}: {why}; ask for it again")]
    BadBatch {
        /// Whose log.
        origin: Region,
        /// Its first offset.
        from: u64,
        /// At which byte of the batch.
        at: usize,
        /// What is wrong there.
        why: &'static str,
    },
    /// Two copies of one log hold different events at one offset. Nothing was taken.
    #[error(
        "event {offset} of {origin} is another one here than in the batch: one of the copies was made anew; compare them before going on"
    )]
    Differs {
        /// Whose log.
        origin: Region,
        /// The first such event.
        offset: u64,
    },
    /// It was closed.
    #[error("the telemetry log is closed")]
    Closed,
}

impl TelemetryError {
    pub(super) fn disk(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk { what, path: path.to_owned(), source: Arc::new(source) }
    }
}

/// Why an event was not kept: it must not be acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotKept {
    /// The disk is full or failing. Appends go on by themselves once it can be written again.
    #[error("{0}")]
    Disk(Arc<TelemetryError>),
    /// More is waiting for the disk than may wait.
    #[error("{bytes} bytes wait for the disk already: the disk is too slow for what devices send")]
    Overloaded {
        /// How much waits.
        bytes: usize,
    },
    /// Larger than an event can be.
    #[error("an event of {bytes} bytes is larger than the {most} that are kept")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The log was closed.
    #[error("the telemetry log is closed")]
    Closed,
}

impl NotKept {
    /// The disk has no room left (as opposed to: it fails).
    #[must_use]
    pub fn is_full(&self) -> bool {
        let Self::Disk(error) = self else { return false };
        matches!(&**error, TelemetryError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}
