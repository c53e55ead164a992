//! Where keys and certificates lie, and how they get there.
//!
//! A node's key and certificate are one file, so that a rename replaces both or neither.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::TrustError;

/// The authority's certificate, for everyone.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// The authority's key: on control nodes.
pub const CA_KEY: &str = "ca.key";
/// The node's certificate, the authority's, and the node's key.
pub const NODE: &str = "node.pem";

/// Longest file that is read: a chain and a key are a few KiB.
const FILE_LEN_MAX: u64 = 256 * 1024;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    Owner,
    Everyone,
}

impl Readers {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everyone => 0o644,
        }
    }
}

/// Makes the directory, for its owner only.
pub(super) fn make_dir(dir: &Path) -> Result<(), TrustError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| problem("make", dir, source))
}

/// What is in the file; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, TrustError> {
    let length = match fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(problem("read", path, source)),
    };
    if length > FILE_LEN_MAX {
        let why = format!("has {length} bytes, which no certificate has");
        return Err(TrustError::Damaged { path: path.to_owned(), why });
    }
    fs::read_to_string(path).map(Some).map_err(|source| problem("read", path, source))
}

/// The same, but refuses a file that others could read.
pub(super) fn read_key(path: &Path) -> Result<Option<String>, TrustError> {
    match fs::metadata(path) {
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            Err(TrustError::Open { path: path.to_owned(), mode: found.permissions().mode() & 0o777 })
        }
        _ => read(path),
    }
}

/// Replaces the file as a whole, durably: after a crash at any point it is the old one or the new one.
pub(super) fn write(path: &Path, text: &str, readers: Readers) -> Result<(), TrustError> {
    let problem = |source| problem("write", path, source);
    let new = new_path(path);
    // A leftover of a crash may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(problem(error)),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(readers.mode()).open(&new).map_err(problem)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(problem)?;
    fs::rename(&new, path).map_err(problem)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(problem)
}

fn new_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn problem(what: &'static str, path: &Path, source: io::Error) -> TrustError {
    TrustError::File { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write(&path, "secret", Readers::Owner).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_key(&path).unwrap().as_deref(), Some("secret"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read_key(&path).unwrap_err().to_string();
        assert!(refused.contains("mode 640") && refused.contains("chmod 600"), "{refused}");
        assert_eq!(read_key(&dir.path().join("none")).unwrap(), None);
    }

    #[test]
    fn what_a_crash_left_is_replaced_with_the_right_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        fs::write(new_path(&path), "half").unwrap();
        write(&path, "whole", Readers::Owner).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("whole", 0o600));
        assert!(!new_path(&path).exists());
    }
}
