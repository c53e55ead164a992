//! A build: a command that ends by itself, such as one that fetches packages. It is tied to the node and noted as a run of an instance
//! is, because what it finds in its environment leads to the app's database: nothing of it may go on without the node.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::process::Signal;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::runtime::Handle;

use super::group::{self, Group};
use super::guard;
use super::leftovers;
use super::procfs;
use super::run::random_id;

/// What is built, and where.
#[derive(Clone, Copy)]
pub struct BuildOptions<'a> {
    /// Any command line of `sh`.
    pub command: &'a str,
    /// Where it runs: the release's directory.
    pub dir: &'a Path,
    /// Its environment. `FARSHORE_INSTANCE` is the host's; `PATH`, `HOME` and `LANG` have a value if not given.
    pub env: &'a [(String, String)],
    /// Where the pid files of the app's instances are.
    pub log_dir: &'a Path,
}

impl fmt::Debug for BuildOptions<'_> {
    /// Shows nothing of the environment: its values are the app's secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildOptions")
            .field("command", &self.command)
            .field("dir", &self.dir)
            .field("log_dir", &self.log_dir)
            .finish_non_exhaustive()
    }
}

/// A build that was started. Dropped, it is ended, with all its processes.
#[derive(Debug)]
pub struct Build {
    child: Child,
    group: Group,
    pid_file: PathBuf,
    /// Nobody of it is left.
    is_over: bool,
    /// Held, never written: when it closes, the guard ends the group.
    _lifeline: Option<ChildStdin>,
}

impl Build {
    /// Starts it in a process group of its own.
    ///
    /// # Errors
    /// In words, what could not be had. Nothing runs then.
    pub fn start(options: &BuildOptions<'_>) -> Result<Self, String> {
        let log_dir = options.log_dir;
        fs::create_dir_all(log_dir).map_err(|error| format!("cannot make {}: {error}", log_dir.display()))?;
        let id = format!("build-{}", random_id().map_err(|error| format!("no random number: {error}"))?);
        let spawned = guard::spawn(&guard::Start {
            command: options.command,
            dir: options.dir,
            env: options.env,
            port: None,
            id: &id,
            cgroup: None,
        });
        let mut child =
            spawned.map_err(|error| format!("cannot run /bin/sh in {}: {error}", options.dir.display()))?;
        let leader = child.id().unwrap_or_default();
        let started = procfs::stat(leader).map_or(0, |stat| stat.started);
        let group = Group { leader, started, mark: format!("FARSHORE_INSTANCE={id}"), cgroup: None };
        let pid_file = leftovers::pid_file(log_dir, &id);
        let build = Self { _lifeline: child.stdin.take(), child, group, pid_file, is_over: false };
        leftovers::note(&build.pid_file, &build.group)
            .map_err(|error| format!("cannot write {}: {error}", build.pid_file.display()))?;
        Ok(build)
    }

    /// What it prints; once.
    pub fn output(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// How its first process ended, as soon as it has.
    ///
    /// # Errors
    /// As the system says.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends whatever is left of it. On return no process of it is there, unless the kernel cannot end one.
    pub async fn end(mut self) {
        self.kill();
        // Its number is its own until it was waited for.
        let ended = tokio::time::timeout(group::GONE_WITHIN, self.child.wait()).await;
        if ended.is_err() || !self.group.end().await {
            tracing::error!(pid = self.group.leader, "processes of a build cannot be ended");
            return;
        }
        forget(&self.pid_file);
        self.is_over = true;
    }

    fn kill(&self) {
        // Once its first process was waited for, its number may be another's.
        if self.child.id().is_some() {
            self.group.signal(Signal::KILL);
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        self.kill();
        let (group, pid_file) = (self.group.clone(), self.pid_file.clone());
        // Those who left the group are looked for, which takes a while. Until then the pid file says that they may be there.
        let end = move || {
            if group.end_now() {
                forget(&pid_file);
            }
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(end)),
            Err(_) => end(),
        }
    }
}

fn forget(pid_file: &Path) {
    if let Err(error) = fs::remove_file(pid_file)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %pid_file.display(), "a pid file stays");
    }
}
