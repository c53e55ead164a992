//! A directory that is being made: it gets its name when everything is in it, and goes when that fails.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::DataError;
use crate::releases::remove;

/// A place beside `into`. Its name begins with a dot, so that nobody takes it for what it is to become; it ends so.
const KIND: &str = "partial";

/// What is removed when it is dropped before it is finished: half a copy is none, and takes the room of a whole one.
#[derive(Debug)]
pub(super) struct Unfinished {
    at: PathBuf,
    into: PathBuf,
}

impl Unfinished {
    /// Nothing is made yet. What an attempt that was killed has left there is removed.
    pub(super) fn beside(into: &Path) -> Result<Self, DataError> {
        let name = into.file_name().unwrap_or_default().to_string_lossy();
        let at = into.with_file_name(format!(".{name}.{KIND}"));
        remove(&at).map_err(DataError::io("remove what an earlier attempt left at", &at))?;
        Ok(Self { at, into: into.to_owned() })
    }

    /// Where it is to be made.
    pub(super) fn path(&self) -> &Path {
        &self.at
    }

    /// Gives it its name, durably. What is in it is durable already.
    pub(super) fn finish(self) -> Result<(), DataError> {
        let name = || {
            fs::rename(&self.at, &self.into)?;
            self.into.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
        };
        name().map_err(DataError::io("name what was made", &self.into))
    }
}

/// Removes what attempts that were killed have left in a directory, which need not exist. Nobody makes anything there now.
///
/// # Errors
/// As the file system says.
pub(crate) fn remove_unfinished(dir: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(&format!(".{KIND}")) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.at) {
            tracing::warn!(%error, at = %self.at.display(), "what was not finished stays until it is tried again");
        }
    }
}
