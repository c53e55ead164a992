//! What can go wrong with a replica, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a replica did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// Bytes on the disk are not what was written. They are never served.
    #[error("{file} is damaged at byte {offset}: {what}; {safe}")]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: String,
        /// What can still be used, and how to mend it.
        safe: String,
    },
    /// The chosen moment cannot be brought back.
    #[error("there is no recovery point {wanted}: {have}")]
    NoSuchPoint {
        /// What was asked for.
        wanted: String,
        /// How many there are, the oldest and the newest.
        have: String,
    },
    /// The replica is in a state that does not allow this; the text says which and what would.
    #[error("{0}")]
    WrongState(String),
    /// The disks given are not those that the replica was made with.
    #[error("the replica in {dir} has {have}, but {given} were given: open it with its own disks")]
    WrongDisks {
        /// The replica.
        dir: PathBuf,
        /// Sizes it remembers.
        have: String,
        /// Sizes of what was given.
        given: String,
    },
    /// A file could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the file's name.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ReplicaError {
    pub(super) fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let what = format!("cannot {what} {}", path.display());
        move |source| Self::Io { what, source }
    }
}

impl From<io::Error> for ReplicaError {
    fn from(source: io::Error) -> Self {
        Self::Io { what: "the replica's files cannot be used".to_owned(), source }
    }
}

impl From<ReplicaError> for io::Error {
    fn from(error: ReplicaError) -> Self {
        let kind = match &error {
            ReplicaError::Damaged { .. } => io::ErrorKind::InvalidData,
            ReplicaError::NoSuchPoint { .. } => io::ErrorKind::NotFound,
            ReplicaError::WrongState(_) => io::ErrorKind::PermissionDenied,
            ReplicaError::WrongDisks { .. } => io::ErrorKind::InvalidInput,
            ReplicaError::Io { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}
