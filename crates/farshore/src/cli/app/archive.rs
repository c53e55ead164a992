//! A directory as one archive (tar): sorted, without what only this machine has, and not without a limit.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::super::exit::Failure;

/// Longest archive: scripts, not disks. The region takes no more.
const ARCHIVE_LEN_MAX: u64 = 256 << 20;
/// More are not somebody's scripts.
const FILES_MAX: usize = 200_000;
/// The history is not what runs; a push brings it.
const LEFT_OUT: &str = ".git";

/// An archive, ready to be read from its beginning.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) file: File,
    pub(super) files: usize,
    pub(super) len: u64,
}

/// Packs what is in the directory.
pub(super) fn pack(dir: &Path) -> Result<Archive, Failure> {
    if !dir.is_dir() {
        return Err(Failure::usage(format!(
            "{} is no directory: name the one with the app's scripts",
            dir.display()
        )));
    }
    let mut paths = Vec::new();
    collect(dir, Path::new(""), &mut paths)?;
    if paths.is_empty() {
        return Err(Failure::usage(format!("there are no files in {}", dir.display())));
    }
    let unusable =
        |error: io::Error| Failure::failed(format!("cannot make an archive of {}: {error}", dir.display()));
    let mut builder = tar::Builder::new(tempfile::tempfile().map_err(unusable)?);
    // Who owns a file here, and when it was written, says nothing there.
    builder.mode(tar::HeaderMode::Deterministic);
    builder.follow_symlinks(false);
    let mut len = 0;
    for path in &paths {
        let from = dir.join(path);
        len += fs::symlink_metadata(&from).map_err(|error| unreadable(&from, &error))?.len();
        if len > ARCHIVE_LEN_MAX {
            return Err(too_long(dir));
        }
        builder.append_path_with_name(&from, path).map_err(|error| unreadable(&from, &error))?;
    }
    let mut file = builder.into_inner().map_err(unusable)?;
    let len = file.stream_position().map_err(unusable)?;
    if len > ARCHIVE_LEN_MAX {
        return Err(too_long(dir));
    }
    file.seek(SeekFrom::Start(0)).map_err(unusable)?;
    Ok(Archive { file, files: paths.len(), len })
}

fn too_long(dir: &Path) -> Failure {
    Failure::usage(format!(
        "{} holds more than {} MiB: leave out what is built or downloaded, and let --build make it",
        dir.display(),
        ARCHIVE_LEN_MAX >> 20
    ))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}

/// Files and links below `dir`, in the order of their names.
fn collect(dir: &Path, below: &Path, into: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let here = dir.join(below);
    let wrong = |error: io::Error| unreadable(&here, &error);
    let mut entries = fs::read_dir(&here).map_err(wrong)?.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        let kind = entry.file_type().map_err(wrong)?;
        if entry.file_name() == LEFT_OUT {
            continue;
        }
        if kind.is_dir() {
            collect(dir, &path, into)?;
        } else if kind.is_file() || kind.is_symlink() {
            into.push(path);
        } else {
            return Err(Failure::usage(format!(
                "{} is neither file nor directory: take it out of what is deployed",
                dir.join(path).display()
            )));
        }
        if into.len() > FILES_MAX {
            return Err(Failure::usage(format!(
                "there are more than {FILES_MAX} files in {}",
                dir.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_what_runs_and_not_the_history() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [("b.js", "b"), ("api/a.js", "a"), (".git/config", "x"), (".env", "e")] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink("b.js", dir.path().join("link")).unwrap();
        let archive = pack(dir.path()).unwrap();
        let mut read = tar::Archive::new(archive.file);
        let names: Vec<String> = read
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, [".env", "api/a.js", "b.js", "link"]);
        assert_eq!(archive.files, 4);
    }

    #[test]
    fn what_cannot_be_deployed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let why = |path: &Path| pack(path).unwrap_err().text;
        assert!(why(dir.path()).contains("there are no files in"));
        assert!(why(&dir.path().join("none")).contains("is no directory"));
        let big = File::create(dir.path().join("big")).unwrap();
        big.set_len(ARCHIVE_LEN_MAX + 1).unwrap();
        assert!(why(dir.path()).contains("holds more than 256 MiB"));
        fs::remove_file(dir.path().join("big")).unwrap();
        std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        assert!(why(dir.path()).contains("socket is neither file nor directory"));
    }
}
