//! Where import and export jobs may read and write: `file://` addresses within the directory that the operator named.

use std::path::{Component, Path, PathBuf};

use super::error::RestError;
use crate::percent;

/// What a file is called when the caller says nothing; from the contract of the official SDKs.
pub(super) const DEVICES: &str = "devices.txt";

/// Where a job writes what it could not import.
pub(super) const ERRORS: &str = "importErrors.log";

/// Longest name of a file.
const NAME_LEN_MAX: usize = 128;

/// The directory that `uri` names. It is inside `root`, links followed; with `make` it is made if it is not there.
pub(super) fn directory(root: Option<&Path>, uri: &str, make: bool) -> Result<PathBuf, RestError> {
    let root = root.ok_or_else(|| {
        refused(
            "this hub has no directory for import and export: the operator names one in the hub's settings",
        )
    })?;
    let root = root
        .canonicalize()
        .map_err(|error| refused(&format!("the hub's directory for jobs is not there: {error}")))?;
    let path = uri.strip_prefix("file://").ok_or_else(|| {
        refused("only file:// addresses are possible, of a directory that the operator named")
    })?;
    let path = percent::decode(path).map_err(|error| refused(&format!("in the address {error}")))?;
    let path = PathBuf::from(path.trim_end_matches('/'));
    // What can be said without looking is said first, so that nothing outside is ever touched.
    let is_plain = path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !is_plain || !path.starts_with(&root) {
        return Err(outside(&root));
    }
    let existing = path.ancestors().find_map(|part| part.canonicalize().ok());
    if !existing.is_some_and(|part| part.starts_with(&root)) {
        return Err(outside(&root));
    }
    if make {
        std::fs::create_dir_all(&path)
            .map_err(|error| refused(&format!("{} cannot be made: {error}", path.display())))?;
    }
    let path =
        path.canonicalize().map_err(|error| refused(&format!("{} is not there: {error}", path.display())))?;
    if !path.starts_with(&root) || !path.is_dir() {
        return Err(outside(&root));
    }
    Ok(path)
}

/// A file's name, without a way to leave its directory.
pub(super) fn name(given: Option<&str>) -> Result<String, RestError> {
    let name = given.filter(|name| !name.is_empty()).unwrap_or(DEVICES);
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > NAME_LEN_MAX || name.starts_with('.') || !name.chars().all(is_known) {
        return Err(refused(
            "a file is named by 1 to 128 letters, digits and -_., and does not begin with a dot",
        ));
    }
    Ok(name.to_owned())
}

fn outside(root: &Path) -> RestError {
    refused(&format!("the address must be a directory inside file://{}", root.display()))
}

fn refused(why: &str) -> RestError {
    RestError { code: "BlobContainerValidationError", ..RestError::argument(why) }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn nothing_outside_the_operators_directory_is_reached() {
        let all = TempDir::new().unwrap();
        let root = all.path().join("root");
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::fs::create_dir_all(all.path().join("root2")).unwrap();
        std::os::unix::fs::symlink(all.path(), root.join("link")).unwrap();
        let at = |path: &Path| format!("file://{}", path.display());
        assert!(directory(Some(&root), &at(&root), false).is_ok());
        assert!(directory(Some(&root), &format!("{}/", at(&root.join("in"))), false).is_ok());
        assert!(directory(Some(&root), &at(&root.join("new/deeper")), true).unwrap().is_dir());
        for (uri, why) in [
            (at(&root.join("none")), "is not there"),
            (at(&root.join("..")), "must be a directory inside"),
            (at(&root.join("in/../../root2")), "must be a directory inside"),
            (at(&all.path().join("root2")), "must be a directory inside"),
            (at(&root.join("link")), "must be a directory inside"),
            (at(&root.join("in/%2e%2e/%2e%2e")), "must be a directory inside"),
            ("file://relative".to_owned(), "must be a directory inside"),
            ("https://store/devices?sas".to_owned(), "only file://"),
            ("file:///%zz".to_owned(), "hexadecimal"),
        ] {
            let error = directory(Some(&root), &uri, false).unwrap_err();
            assert!(error.message.contains(why), "{uri}: {error}");
        }
        let outside = directory(Some(&root), &at(&root.join("link/made")), true).unwrap_err();
        assert!(outside.message.contains("must be a directory inside"), "{outside}");
        assert!(!all.path().join("made").exists());
        assert!(
            directory(None, "file:///tmp", false).unwrap_err().message.contains("the operator names one")
        );
    }

    #[test]
    fn a_file_has_a_plain_name() {
        assert_eq!(name(None).unwrap(), "devices.txt");
        assert_eq!(name(Some("fleet-2.txt")).unwrap(), "fleet-2.txt");
        for bad in ["../x", "a/b", ".hidden", "a b", &"x".repeat(200)] {
            assert!(name(Some(bad)).is_err(), "{bad}");
        }
    }
}
