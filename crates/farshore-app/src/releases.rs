//! The files of an app's releases: a directory each, made once and never edited.
//!
//! `releases/N/` has the files of release N, `releases/N.done` says that they are all there. While another region fetches them there is
//! `releases/N.tar` too; what comes from another region is `releases/N.part` until it is whole.
//!
//! Must always hold: a release without its mark is not used, and is removed when the node starts.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// With more files than this the whole file system is asked to write at once: each call of its own waits for the disk.
const SYNCED_ONE_BY_ONE_MAX: usize = 200;

/// The releases of one app, on this disk. Its functions block: they read and write files.
#[derive(Debug, Clone)]
pub struct Releases {
    dir: PathBuf,
}

/// Files of a release that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}")]
pub struct ReleaseError {
    /// A verb and its object's kind.
    pub what: &'static str,
    /// Where.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

fn cannot(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReleaseError {
    let path = path.to_owned();
    move |source| ReleaseError { what, path, source }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Releases {
    /// Those under this directory, which is made if it is not there. What was not finished is removed.
    ///
    /// # Errors
    /// As the file system says.
    pub fn open(dir: &Path) -> Result<Self, ReleaseError> {
        fs::create_dir_all(dir).map_err(cannot("make the directory", dir))?;
        let releases = Self { dir: dir.to_owned() };
        let whole = releases.list()?;
        for entry in fs::read_dir(dir).map_err(cannot("read", dir))? {
            let path = entry.map_err(cannot("read", dir))?.path();
            let number = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let ending = path.extension().and_then(|ending| ending.to_str());
            let is_kept = matches!(ending, None | Some("done"))
                && number.is_some_and(|number: u64| whole.contains(&number));
            if !is_kept {
                remove(&path).map_err(cannot("remove", &path))?;
            }
        }
        Ok(releases)
    }

    /// Where the files of this release are, or will be.
    #[must_use]
    pub fn dir_of(&self, number: u64) -> PathBuf {
        self.dir.join(number.to_string())
    }

    fn beside(&self, number: u64, ending: &str) -> PathBuf {
        self.dir.join(format!("{number}.{ending}"))
    }

    /// Whether all files of this release are here.
    #[must_use]
    pub fn has(&self, number: u64) -> bool {
        self.beside(number, "done").exists()
    }

    /// Those whose files are all here.
    ///
    /// # Errors
    /// As the file system says.
    pub fn list(&self) -> Result<BTreeSet<u64>, ReleaseError> {
        let mut numbers = BTreeSet::new();
        for entry in fs::read_dir(&self.dir).map_err(cannot("read", &self.dir))? {
            let name = entry.map_err(cannot("read", &self.dir))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".done")).map(str::parse::<u64>);
            if let Some(Ok(number)) = number
                && self.dir_of(number).is_dir()
            {
                numbers.insert(number);
            }
        }
        Ok(numbers)
    }

    /// Removes what there is of this release, so that it can be made.
    ///
    /// # Errors
    /// As the file system says.
    pub fn clear(&self, number: u64) -> Result<(), ReleaseError> {
        // The mark goes first: what is left after a crash is removed at the next start.
        for path in [
            self.beside(number, "done"),
            self.beside(number, "tar"),
            self.beside(number, "part"),
            self.dir_of(number),
        ] {
            remove(&path).map_err(cannot("remove", &path))?;
        }
        Ok(())
    }

    /// All files of this release are there: durable on return.
    ///
    /// # Errors
    /// As the file system says.
    pub fn finish(&self, number: u64) -> Result<(), ReleaseError> {
        let dir = self.dir_of(number);
        sync_all(&dir).map_err(cannot("keep", &dir))?;
        let mark = self.beside(number, "done");
        let write = || -> io::Result<()> {
            File::create(&mark)?.sync_all()?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(cannot("write", &mark))
    }

    /// Removes all but these.
    ///
    /// # Errors
    /// As the file system says.
    pub fn keep_only(&self, keep: &BTreeSet<u64>) -> Result<(), ReleaseError> {
        for number in self.list()?.difference(keep) {
            self.clear(*number)?;
        }
        Ok(())
    }

    /// A piece of the archive of this release, for another region, and where the next one begins; `None`: that was the last.
    ///
    /// # Errors
    /// As the file system says.
    pub fn read(&self, number: u64, offset: u64, len: usize) -> Result<(Vec<u8>, Option<u64>), ReleaseError> {
        let tar = self.beside(number, "tar");
        if offset == 0 || !tar.exists() {
            self.pack(number, &tar)?;
        }
        read_piece(&tar, offset, len).map_err(cannot("read", &tar))
    }

    fn pack(&self, number: u64, tar: &Path) -> Result<(), ReleaseError> {
        let new = self.beside(number, "new");
        let write = || -> io::Result<()> {
            let mut archive = tar::Builder::new(io::BufWriter::new(File::create(&new)?));
            archive.follow_symlinks(false);
            archive.append_dir_all(".", self.dir_of(number))?;
            archive.into_inner()?.flush()?;
            fs::rename(&new, tar)
        };
        write().map_err(cannot("pack", tar))
    }

    /// The other region has this release: its archive is not needed any more.
    pub fn fetched(&self, number: u64) {
        let tar = self.beside(number, "tar");
        if let Err(error) = remove(&tar) {
            tracing::warn!(file = %tar.display(), %error, "an archive that is not needed any more stays");
        }
    }

    /// How much of the archive of this release has come.
    #[must_use]
    pub fn come(&self, number: u64) -> u64 {
        fs::metadata(self.beside(number, "part")).map_or(0, |part| part.len())
    }

    /// A piece of the archive has come.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write(&self, number: u64, offset: u64, bytes: &[u8]) -> Result<(), ReleaseError> {
        let part = self.beside(number, "part");
        write_piece(&part, offset, bytes).map_err(cannot("write", &part))
    }

    /// The whole archive has come: its files are there on return.
    ///
    /// # Errors
    /// It is no archive, or as the file system says; then it is fetched anew.
    pub fn unpack(&self, number: u64) -> Result<(), ReleaseError> {
        let (part, dir) = (self.beside(number, "part"), self.dir_of(number));
        let unpacked = || -> io::Result<()> {
            remove(&dir)?;
            fs::create_dir_all(&dir)?;
            let mut archive = tar::Archive::new(io::BufReader::new(File::open(&part)?));
            archive.set_preserve_permissions(true);
            archive.unpack(&dir)
        };
        let done = unpacked().map_err(cannot("unpack", &part));
        let removed = remove(&part).map_err(cannot("remove", &part));
        done.and(removed)?;
        self.finish(number)
    }
}

/// A piece of a file, and where the next one begins; `None`: that was the last.
///
/// # Errors
/// As the file system says.
pub fn read_piece(path: &Path, offset: u64, len: usize) -> io::Result<(Vec<u8>, Option<u64>)> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(len as u64).read_to_end(&mut bytes)?;
    let next = offset + bytes.len() as u64;
    Ok((bytes, (next < end).then_some(next)))
}

/// Puts a piece at its place; what came after it is cut off. Not durable: whoever has the last piece sees to that.
///
/// # Errors
/// As the file system says.
pub fn write_piece(path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.set_len(offset)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

/// Removes a file, or a directory with all that is in it; nothing, if it is not there.
///
/// # Errors
/// As the file system says.
pub fn remove(path: &Path) -> io::Result<()> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    ignore_missing(if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) })
}

/// Everything under it is durable on return.
pub(crate) fn sync_all(dir: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
        files.push(next);
        if files.len() > SYNCED_ONE_BY_ONE_MAX {
            rustix::fs::syncfs(File::open(dir)?)?;
            return Ok(());
        }
    }
    files.iter().try_for_each(|file| File::open(file)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn made(dir: &Path, number: u64) -> Releases {
        let releases = Releases::open(dir).unwrap();
        let files = releases.dir_of(number);
        fs::create_dir_all(files.join("lib")).unwrap();
        fs::write(files.join("server.js"), vec![7; 5000]).unwrap();
        fs::write(files.join("run.sh"), "true").unwrap();
        fs::set_permissions(files.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("../server.js", files.join("lib/main.js")).unwrap();
        releases.finish(number).unwrap();
        releases
    }

    #[test]
    fn what_was_not_finished_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path(), 1);
        fs::create_dir_all(dir.path().join("2")).unwrap();
        fs::write(dir.path().join("3.part"), "x").unwrap();
        fs::write(dir.path().join("4.done"), "").unwrap();
        let releases = Releases::open(dir.path()).unwrap();
        assert_eq!(releases.list().unwrap(), BTreeSet::from([1]));
        let left: BTreeSet<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, BTreeSet::from(["1".into(), "1.done".into()]));
    }

    #[test]
    fn a_release_goes_to_another_region_in_pieces_as_it_is() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (made(here.path(), 3), Releases::open(there.path()).unwrap());
        let mut offset = 0;
        loop {
            assert_eq!(to.come(3), offset);
            let (bytes, next) = from.read(3, offset, 1000).unwrap();
            to.write(3, offset, &bytes).unwrap();
            match next {
                Some(next) => offset = next,
                None => break,
            }
        }
        to.unpack(3).unwrap();
        from.fetched(3);
        assert!(to.has(3) && !here.path().join("3.tar").exists());
        let files = to.dir_of(3);
        assert_eq!(fs::read(files.join("lib/main.js")).unwrap(), vec![7; 5000]);
        assert!(fs::symlink_metadata(files.join("lib/main.js")).unwrap().is_symlink());
        assert_eq!(fs::metadata(files.join("run.sh")).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn what_is_no_archive_is_fetched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let releases = Releases::open(dir.path()).unwrap();
        releases.write(1, 0, &[1; 2000]).unwrap();
        releases.unpack(1).unwrap_err();
        assert_eq!(releases.come(1), 0);
        assert!(!releases.has(1));
    }

    #[test]
    fn old_ones_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path(), 1);
        let releases = made(dir.path(), 2);
        releases.keep_only(&BTreeSet::from([2])).unwrap();
        assert_eq!(releases.list().unwrap(), BTreeSet::from([2]));
        assert!(!dir.path().join("1").exists());
    }
}
