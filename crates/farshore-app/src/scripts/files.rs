//! Files on a disk compared with a commit.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::error::ScriptsError;
use super::object::{self, Id, Leaf, Mode};
use super::repository::{Repository, Tracked, within};

/// Files below a directory whose tree id is asked for: a release with all that its build installed.
const FILES_ON_DISK_MAX: u64 = 1_000_000;
/// How many paths of files that no commit knows are told.
const EXTRA_TOLD_MAX: usize = 1_000;

/// A path that is not on the disk as the commit has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its name in the commit; what is no UTF-8 is shown by a mark.
    pub path: String,
    /// What is with it.
    pub what: What,
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It is not there.
    Missing,
    /// It holds something else.
    Changed,
    /// It can be run and should not, or the other way round.
    Executable,
    /// It is a link and should be a file, or something else that it should not be.
    Kind,
}

/// How a directory compares with a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// The tree id of the commit's paths as they are on the disk: that of the commit when nothing differs.
    pub tree: String,
    /// What differs, by path.
    pub differences: Vec<Difference>,
    /// What the commit does not know, mostly made by a build; a directory is told once, with a slash at its end. At
    /// most 1,000.
    pub extra: Vec<String>,
}

impl Repository {
    /// The tree id of all files in `dir`, as git would name a commit of exactly these. Nothing is ignored; empty
    /// directories, sockets and the like do not count, as in git.
    pub async fn tree_of_dir(&self, dir: &Path) -> Result<String, ScriptsError> {
        let dir = dir.to_owned();
        off_the_loop(move || Ok(object::tree(leaves(&dir)?).to_string())).await
    }

    /// The paths of `commit` that are missing or changed in `dir`. Files that it does not know are no difference.
    pub async fn differences(&self, commit: &str, dir: &Path) -> Result<Vec<Difference>, ScriptsError> {
        Ok(self.survey(commit, dir).await?.differences)
    }

    /// Compares `dir` with `commit`.
    pub async fn survey(&self, commit: &str, dir: &Path) -> Result<Survey, ScriptsError> {
        let tracked = self.weigh(commit).await?;
        let dir = dir.to_owned();
        off_the_loop(move || survey(tracked, &dir)).await
    }
}

/// Runs what reads many files where it may block.
pub(super) async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ScriptsError> + Send + 'static,
) -> Result<T, ScriptsError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => Err(ScriptsError::Disk {
            what: "read the files of",
            path: PathBuf::from("a release"),
            source: io::Error::other(panic),
        }),
    }
}

/// Every file and link below `dir`.
fn leaves(dir: &Path) -> Result<Vec<Leaf>, ScriptsError> {
    let mut all = Vec::new();
    let mut open = vec![Vec::new()];
    while let Some(below) = open.pop() {
        for (path, meta) in entries(dir, &below)? {
            if meta.is_dir() {
                open.push(path);
            } else if let Some(mode) = mode_of(&meta) {
                let id = id_of(&place(dir, &path), &meta)?;
                all.push(Leaf { path, mode, id });
                within("the directory", all.len() as u64, FILES_ON_DISK_MAX, "files")?;
            }
        }
    }
    Ok(all)
}

fn survey(tracked: Vec<Tracked>, dir: &Path) -> Result<Survey, ScriptsError> {
    let mut wanted: BTreeMap<Vec<u8>, Tracked> =
        tracked.into_iter().map(|tracked| (tracked.path.clone(), tracked)).collect();
    let known: BTreeSet<Vec<u8>> = wanted.keys().flat_map(|path| directories(path)).collect();
    let (mut differences, mut extra, mut found) = (Vec::new(), Vec::new(), Vec::new());
    let mut open = vec![Vec::new()];
    while let Some(below) = open.pop() {
        for (path, meta) in entries(dir, &below)? {
            match wanted.remove(&path) {
                Some(tracked) => found.extend(compare(&tracked, dir, &meta, &mut differences)?),
                None if meta.is_dir() && known.contains(&path) => open.push(path),
                None if extra.len() < EXTRA_TOLD_MAX => extra.push(shown(&path, meta.is_dir())),
                None => {}
            }
        }
    }
    let missing = wanted.into_values().filter(|tracked| tracked.mode != Mode::Module);
    differences.extend(missing.map(|tracked| differs(&tracked, What::Missing)));
    differences.sort_by(|one, other| one.path.cmp(&other.path));
    extra.sort();
    Ok(Survey { tree: object::tree(found).to_string(), differences, extra })
}

/// The path as it is on the disk, unless it is nothing that a tree can hold; a difference is added to the others.
fn compare(
    tracked: &Tracked,
    dir: &Path,
    meta: &Metadata,
    differences: &mut Vec<Difference>,
) -> Result<Option<Leaf>, ScriptsError> {
    let leaf = |mode, id| Leaf { path: tracked.path.clone(), mode, id };
    if tracked.mode == Mode::Module && meta.is_dir() {
        return Ok(Some(leaf(Mode::Module, tracked.id)));
    }
    let Some(mode) = mode_of(meta) else {
        differences.push(differs(tracked, What::Kind));
        return Ok(None);
    };
    let id = id_of(&place(dir, &tracked.path), meta)?;
    let is_file = |mode| matches!(mode, Mode::Plain | Mode::Executable);
    let what = match (tracked.mode, mode) {
        (wanted, seen) if wanted != seen && !(is_file(wanted) && is_file(seen)) => Some(What::Kind),
        _ if tracked.id != id => Some(What::Changed),
        (wanted, seen) if wanted != seen => Some(What::Executable),
        _ => None,
    };
    differences.extend(what.map(|what| differs(tracked, what)));
    Ok(Some(leaf(mode, id)))
}

fn differs(tracked: &Tracked, what: What) -> Difference {
    Difference { path: shown(&tracked.path, false), what }
}

fn shown(path: &[u8], is_dir: bool) -> String {
    let mut shown = String::from_utf8_lossy(path).into_owned();
    if is_dir {
        shown.push('/');
    }
    shown
}

/// The directories that `path` lies in, from the top.
fn directories(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| path[..index].to_vec())
}

/// What lies in `dir`/`below`, itself, not where a link leads.
fn entries(dir: &Path, below: &[u8]) -> Result<Vec<(Vec<u8>, Metadata)>, ScriptsError> {
    let at = place(dir, below);
    let read = || -> io::Result<Vec<(Vec<u8>, Metadata)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&at)? {
            let entry = entry?;
            let mut path = below.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            all.push((path, entry.metadata()?));
        }
        Ok(all)
    };
    read().map_err(ScriptsError::disk("list", &at))
}

fn place(dir: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { dir.to_owned() } else { dir.join(OsStr::from_bytes(path)) }
}

fn mode_of(meta: &Metadata) -> Option<Mode> {
    let kind = meta.file_type();
    match (kind.is_file(), kind.is_symlink()) {
        (true, _) if meta.permissions().mode() & 0o100 != 0 => Some(Mode::Executable),
        (true, _) => Some(Mode::Plain),
        (_, true) => Some(Mode::Link),
        _ => None,
    }
}

fn id_of(path: &Path, meta: &Metadata) -> Result<Id, ScriptsError> {
    let hash = || -> io::Result<Id> {
        if meta.is_symlink() {
            let leads = fs::read_link(path)?;
            let leads = leads.as_os_str().as_bytes();
            return object::blob(leads.len() as u64, leads);
        }
        // Put in its place meanwhile: a link is not followed, a pipe not waited for.
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).map_err(io::Error::other)?;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        object::blob(meta.len(), file)
    };
    hash().map_err(ScriptsError::disk("read", path))
}
