//! What the node knows of the directory, on disk: read at the start, so that names are answered before the store is reached.
//!
//! One line `farshore-directory 1 SHA-256`, then JSON, which the hash covers. Replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use crate::engine::{DirectoryRecord, sha256_hex};

/// First word of the file.
const MAGIC: &str = "farshore-directory";
/// Raised when older programs could not read it.
const VERSION: &str = "1";
/// Longest copy that is read: a directory of a million names. What is longer is no copy.
const COPY_LEN_MAX: u64 = 1 << 30;

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Copy {
    pub(super) incarnation: u64,
    pub(super) revision: u64,
    /// The zone's.
    pub(super) serial: u32,
    /// When it was written.
    pub(super) saved: Moment,
    pub(super) records: Vec<Named>,
}

/// A record under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
    /// Of the life of the store in which it was written.
    pub(super) incarnation: u64,
    pub(super) record: DirectoryRecord,
}

/// A copy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The file could not be read or written.
    #[error("the copy of the directory {path} cannot be {done}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// "read" or "written".
        done: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written.
    #[error(
        "the copy of the directory {path} is damaged ({what}): names are unknown here until the store is reached"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
}

/// Reads the copy. `None`: there is none.
pub(super) fn read(path: &Path) -> Result<Option<Copy>, CopyError> {
    let damaged = |what| CopyError::Damaged { path: path.to_owned(), what };
    let failed = |source| CopyError::File { path: path.to_owned(), done: "read", source };
    match fs::metadata(path) {
        Ok(found) if found.len() > COPY_LEN_MAX => return Err(damaged("it is too long")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let text = fs::read(path).map_err(failed)?;
    let end =
        text.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("its first line has no end"))?;
    let (line, body) = text.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| damaged("its first line is no text"))?;
    match line.split(' ').collect::<Vec<_>>().as_slice() {
        [MAGIC, VERSION, hash] if **hash == sha256_hex(body) => {}
        [MAGIC, VERSION, _] => return Err(damaged("its checksum is wrong")),
        [MAGIC, ..] => return Err(damaged("its version is unknown")),
        _ => return Err(damaged("its first line is not ours")),
    }
    serde_json::from_slice(body).map(Some).map_err(|_| damaged("its content is not ours"))
}

/// Puts the copy in the place of the last. After a crash the file is the old or the new one.
pub(super) fn write(path: &Path, copy: &Copy) -> Result<(), CopyError> {
    let failed = |source| CopyError::File { path: path.to_owned(), done: "written", source };
    // Strings and numbers only: this cannot fail.
    let body = serde_json::to_vec(copy).unwrap_or_default();
    let next = path.with_extension("next");
    let mut file = File::create(&next).map_err(failed)?;
    file.write_all(format!("{MAGIC} {VERSION} {}\n", sha256_hex(&body)).as_bytes()).map_err(failed)?;
    file.write_all(&body).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&next, path).map_err(failed)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}
