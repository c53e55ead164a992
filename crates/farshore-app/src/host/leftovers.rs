//! After a crash of the node: ending what an earlier node left.
//!
//! Normally nothing is left, because every run is guarded. A program that left its process group is not reached by the guard;
//! its pid file and its environment are enough to find it. Each run has a file while it runs, `INSTANCE-ID.pid`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cgroup;
use super::group::Group;
use super::procfs;

/// On disk: one run of an instance.
#[derive(Debug, Serialize, Deserialize)]
struct PidFile {
    /// The machine's start: after another one, nothing of this is there any more.
    boot: String,
    /// The first process of its group.
    pid: u32,
    /// In the kernel's ticks, so that a pid that was used again is not taken for it.
    started: u64,
    /// In the environment of all its processes.
    mark: String,
    /// The node that supervises it, and when that was started.
    node: (u32, u64),
    /// Its cgroup.
    #[serde(default)]
    cgroup: Option<PathBuf>,
}

/// Where the pid file of the run `id` is.
pub(super) fn pid_file(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.pid"))
}

/// Writes down that `group` runs.
pub(super) fn note(path: &Path, group: &Group, cgroup: Option<&Path>) -> io::Result<()> {
    let node = std::process::id();
    let file = PidFile {
        boot: procfs::boot(),
        pid: group.leader,
        started: group.started,
        mark: group.mark.clone(),
        node: (node, procfs::stat(node).map_or(0, |stat| stat.started)),
        cgroup: cgroup.map(Path::to_owned),
    };
    fs::write(path, serde_json::to_vec(&file)?)
}

/// Kills every run that an earlier node has left, by the pid files in `dir` (the host's `log_dir`), and returns how many there
/// were. Runs of this process, or of another node that is alive, are left alone. Blocks until they are gone.
///
/// # Errors
/// The directory cannot be read, or a process cannot be ended. A directory that is not there has nothing in it.
pub fn kill_leftovers(dir: &Path) -> io::Result<u32> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut killed = 0;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pid") {
            killed += u32::from(kill_leftover(&path)?);
        }
    }
    Ok(killed)
}

fn kill_leftover(path: &Path) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    // Torn by the crash: then it was just being started, and the guard has ended it.
    let Ok(file) = serde_json::from_slice::<PidFile>(&bytes) else {
        fs::remove_file(path)?;
        return Ok(false);
    };
    if file.boot != procfs::boot() {
        fs::remove_file(path)?;
        return Ok(false);
    }
    if procfs::stat(file.node.0).is_some_and(|node| node.started == file.node.1 && !node.is_zombie) {
        return Ok(false);
    }
    let group = Group { leader: file.pid, started: file.started, mark: file.mark };
    let is_there = !group.members().is_empty();
    if let Some(cgroup) = &file.cgroup {
        cgroup::kill(cgroup);
    }
    if !group.end_now() {
        let message = format!("processes of {} cannot be ended: restart the machine", path.display());
        return Err(io::Error::other(message));
    }
    if let Some(cgroup) = &file.cgroup {
        cgroup::remove(cgroup);
    }
    fs::remove_file(path)?;
    Ok(is_there)
}
