//! The directory of a repository: laid out by us, and put right at each open.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::error::ScriptsError;

/// Bare, with files for refs; everything else is given on each call.
const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n";
/// Stands above a release's own attributes: files are checked out and archived to the byte as they were pushed.
const ATTRIBUTES: &str =
    "* -text -crlf -eol -ident -filter -working-tree-encoding -export-ignore -export-subst\n";
/// Asks before branches move, and tells after they have.
const HOOKS: [(&str, &str); 2] = [
    ("hooks/pre-receive", include_str!("pre-receive.sh")),
    ("hooks/post-receive", include_str!("post-receive.sh")),
];
/// What could change how git reads this repository. Nothing of it is ours.
const FOREIGN: [&str; 5] =
    ["config.worktree", "commondir", "gitdir", "objects/info/alternates", "objects/info/http-alternates"];
/// A lock that is older belongs to nobody: whoever is ended by the node is gone after a third of it.
const LOCK_AGE_MAX: Duration = Duration::from_secs(10);
/// Directories under one another in a repository's refs; deeper ones are left alone.
const DEPTH_MAX: u32 = 64;

/// Makes `dir` a bare repository, or puts right what is there. On return it carries our hook and settings only.
pub(super) fn settle(dir: &Path) -> Result<(), ScriptsError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    for part in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "info"] {
        let path = dir.join(part);
        builder.create(&path).map_err(ScriptsError::disk("make", &path))?;
    }
    for part in ["hooks", "push", "staging"] {
        let path = dir.join(part);
        remove(&path)?;
        builder.create(&path).map_err(ScriptsError::disk("make", &path))?;
    }
    for part in FOREIGN {
        remove(&dir.join(part))?;
    }
    place(dir, "config", CONFIG, 0o600)?;
    place(dir, "info/attributes", ATTRIBUTES, 0o600)?;
    HOOKS.iter().try_for_each(|(name, text)| place(dir, name, text, 0o700))?;
    // Last: a directory with it is a repository for git.
    if !dir.join("HEAD").exists() {
        place(dir, "HEAD", "ref: refs/heads/main\n", 0o600)?;
    }
    sync_dir(dir)?;
    if let Some(parent) = dir.parent() {
        sync_dir(parent)?;
    }
    clear(dir);
    Ok(())
}

/// Removes what a git left that died with an earlier node. There is no git at work here now, or it is being ended.
fn clear(dir: &Path) {
    let mut left = |path: &Path| {
        let name = name_of(path);
        let is_left = name.ends_with(".lock") && is_old(path)
            || ["tmp_objdir-", "tmp_pack_", "tmp_idx_", "fast_import_crash_"]
                .iter()
                .any(|left| name.starts_with(left));
        if is_left {
            // Not removed: the next push says so in git's words, or it only takes room.
            let _ = remove(path);
        }
    };
    each(dir, 0, &mut left);
    each(&dir.join("refs"), DEPTH_MAX, &mut left);
    each(&dir.join("objects"), 0, &mut left);
    each(&dir.join("objects/pack"), 0, &mut left);
}

/// Removes locks of branches that a git left which had to be ended hard; others may be at work. They hold such a lock
/// for a moment only. True when none is left.
pub(super) fn sweep(dir: &Path) -> bool {
    let mut clean = true;
    let mut stale = |path: &Path| {
        if name_of(path).ends_with(".lock") {
            clean &= is_old(path) && fs::remove_file(path).is_ok();
        }
    };
    each(&dir.join("refs"), DEPTH_MAX, &mut stale);
    for lock in ["HEAD.lock", "packed-refs.lock"] {
        let lock = dir.join(lock);
        if lock.exists() {
            stale(&lock);
        }
    }
    clean
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn each(dir: &Path, depth: u32, seen: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each(&path, depth - 1, seen);
        }
        seen(&path);
    }
}

fn is_old(path: &Path) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > LOCK_AGE_MAX))
}

/// Writes a file whole: beside, synced, renamed.
fn place(dir: &Path, name: &str, text: &str, mode: u32) -> Result<(), ScriptsError> {
    let path = dir.join(name);
    let beside = dir.join(format!("{name}.new"));
    let write = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    };
    write().map_err(ScriptsError::disk("write", &path))
}

/// Removes a file or a directory; one that is not there is well.
pub(super) fn remove(path: &Path) -> Result<(), ScriptsError> {
    let gone = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ScriptsError::Disk { what: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// What git wrote is found by its names after a power cut: git syncs files, and not the directories that name them.
/// `names` are the refs that have changed.
pub(super) fn sync_names<'a>(
    dir: &Path,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<(), ScriptsError> {
    let mut dirs: BTreeSet<&Path> = ["objects/pack", "objects", "refs", ""].map(Path::new).into();
    // Of a branch in directories of its own, each of these.
    dirs.extend(names.into_iter().flat_map(|name| Path::new(name).ancestors().skip(1)));
    // A directory that is gone has been emptied, which the one over it tells.
    let there = dirs.into_iter().map(|below| dir.join(below)).filter(|path| path.is_dir());
    there.into_iter().try_for_each(|path| sync_dir(&path))
}

/// What was named in `dir` is named there after a power cut.
pub(super) fn sync_dir(dir: &Path) -> Result<(), ScriptsError> {
    fs::File::open(dir).and_then(|file| file.sync_all()).map_err(ScriptsError::disk("sync", dir))
}
