//! After a crash of the node: ending what an earlier node left.
//!
//! Normally nothing is left, because every run is guarded. A program that left its process group is not reached by the guard;
//! its pid file and its environment are enough to find it. Each run has a file while it runs, `INSTANCE-ID.pid`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cgroup;
use super::group::Group;
use super::procfs;

/// Between two looks at who is left.
const LOOK_EVERY: Duration = Duration::from_millis(10);

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
pub(super) fn note(path: &Path, group: &Group) -> io::Result<()> {
    let node = std::process::id();
    let file = PidFile {
        boot: procfs::boot(),
        pid: group.leader,
        started: group.started,
        mark: group.mark.clone(),
        node: (node, procfs::stat(node).map_or(0, |stat| stat.started)),
        cgroup: group.cgroup.clone(),
    };
    fs::write(path, serde_json::to_vec(&file)?)
}

/// Kills every run that an earlier node has left, by the pid files in `dir` (the host's `log_dir`), and returns how many there
/// were. Runs of this process, or of another node that is alive, are left alone. Blocks until they are gone.
///
/// # Errors
/// The directory cannot be read, or a process cannot be ended. A directory that is not there has nothing in it.
pub fn kill_leftovers(dir: &Path) -> io::Result<u32> {
    let mut killed = 0;
    for path in pid_files(dir)? {
        killed += u32::from(kill_leftover(&path)?);
    }
    Ok(killed)
}

/// Returns when no process of any run in `dir` (a host's `log_dir`) is left, whoever started it. Ends nobody: for those who wait
/// for what a dropped host is ending, such as a fence.
pub async fn gone(dir: &Path) {
    loop {
        let dir = dir.to_owned();
        let is_gone = tokio::task::spawn_blocking(move || is_gone(&dir)).await.unwrap_or(false);
        if is_gone {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_gone(dir: &Path) -> bool {
    let files = pid_files(dir).unwrap_or_default();
    files.iter().filter_map(|path| read(path)).all(|file| file.group().members().is_empty())
}

fn pid_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    Ok(paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "pid"))
        .collect())
}

/// `None`: it is of another start of the machine, or torn by the crash (then it was just being started, and the guard has
/// ended it).
fn read(path: &Path) -> Option<PidFile> {
    let file: PidFile = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (file.boot == procfs::boot()).then_some(file)
}

impl PidFile {
    fn group(&self) -> Group {
        let (mark, cgroup) = (self.mark.clone(), self.cgroup.clone());
        Group { leader: self.pid, started: self.started, mark, cgroup }
    }

    fn has_node(&self) -> bool {
        let (node, started) = self.node;
        procfs::stat(node).is_some_and(|stat| stat.started == started && !stat.is_zombie)
    }
}

fn kill_leftover(path: &Path) -> io::Result<bool> {
    let Some(file) = read(path) else {
        fs::remove_file(path)?;
        return Ok(false);
    };
    if file.has_node() {
        return Ok(false);
    }
    let group = file.group();
    let is_there = !group.members().is_empty();
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
