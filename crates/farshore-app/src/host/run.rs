//! One start of an instance: its processes, its port, its cgroup, what it prints; and ending all of that.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use rustix::process::Signal;
use tokio::process::{Child, ChildStdin};
use tokio::time::Instant;

use super::cgroup::{self, Leaf};
use super::failure::Ending;
use super::group::{self, Group};
use super::guard;
use super::leftovers;
use super::log::Printed;
use super::options::Limits;
use super::port::Port;
use super::procfs;
use super::shared::Shared;

/// Between two looks whether a stopped group still works.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Between two looks at its connections: a table of all connections of the machine is read.
const DRAIN_LOOK_EVERY_MAX: Duration = Duration::from_millis(100);

/// Whose socket listens on a run's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// One of its processes, or it cannot be seen.
    Ours,
    /// Another program's.
    Others,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) child: Child,
    pub(super) port: Port,
    /// Where it was seen to answer.
    pub(super) address: Option<SocketAddr>,
    pub(super) started: Instant,
    group: Group,
    leaf: Option<Leaf>,
    printed: Printed,
    pid_file: PathBuf,
    oom_kills: u64,
    /// Held, never written: when it closes, the guard ends the group.
    _lifeline: Option<ChildStdin>,
}

impl Run {
    /// Starts instance `number` with a port of its own.
    ///
    /// # Errors
    /// In words, what could not be had. Nothing runs then.
    pub(super) async fn start(shared: &Shared, number: u32, limits: Limits) -> Result<Self, String> {
        let options = &shared.options;
        let log_dir = options.log_dir.display();
        fs::create_dir_all(&options.log_dir).map_err(|error| format!("cannot make {log_dir}: {error}"))?;
        let port = Port::choose().map_err(|error| format!("no free port: {error}"))?;
        let id = format!("{number}-{}", random_id().map_err(|error| format!("no random number: {error}"))?);
        let leaf = match &options.cgroup {
            Some(root) => Some(root.leaf(&id, limits).map_err(|error| error.to_string())?),
            None => None,
        };
        let oom_kills = procfs::oom_kills();
        let spawned = guard::spawn(&guard::Start {
            command: &options.command,
            dir: &options.dir,
            env: &options.env,
            port: Some(port.number()),
            id: &id,
            cgroup: leaf.as_ref().map(|leaf| leaf.dir().to_owned()),
        });
        let mut child = spawned.map_err(|error| {
            leaf.as_ref().map(|leaf| cgroup::remove(leaf.dir()));
            format!("cannot run /bin/sh in {}: {error}", options.dir.display())
        })?;
        let leader = child.id().unwrap_or_default();
        let started = procfs::stat(leader).map_or(0, |stat| stat.started);
        let cgroup = leaf.as_ref().map(|leaf| leaf.dir().to_owned());
        let group = Group { leader, started, mark: format!("FARSHORE_INSTANCE={id}"), cgroup };
        let pid_file = leftovers::pid_file(&options.log_dir, &id);
        let run = Self {
            _lifeline: child.stdin.take(),
            printed: Printed::follow(&mut child, number, &shared.log),
            child,
            port,
            address: None,
            started: Instant::now(),
            group,
            leaf,
            pid_file,
            oom_kills,
        };
        match leftovers::note(&run.pid_file, &run.group) {
            Ok(()) => Ok(run),
            Err(error) => {
                let why = format!("cannot write {}: {error}", run.pid_file.display());
                run.clean().await;
                Err(why)
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.group.leader
    }

    /// Where to look for an answer.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.address.map_or_else(|| self.port.addresses().to_vec(), |address| vec![address])
    }

    /// What it printed last.
    pub(super) fn lines(&self) -> Vec<String> {
        self.printed.lines()
    }

    pub(super) fn has_cgroup(&self) -> bool {
        self.leaf.is_some()
    }

    pub(super) fn limit(&self, limits: Limits) {
        if let Some(Err(error)) = self.leaf.as_ref().map(|leaf| leaf.limit(limits)) {
            tracing::warn!(%error, "an instance keeps its old limits");
        }
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let counted = self.leaf.as_ref().and_then(Leaf::memory_bytes);
        counted.unwrap_or_else(|| procfs::memory_bytes(&procfs::tree(self.group.leader)))
    }

    /// Pages that its processes share counted once.
    pub(super) fn memory_bytes_exactly(&self) -> u64 {
        let tree = procfs::tree(self.group.leader);
        procfs::proportional_bytes(&tree).unwrap_or_else(|| procfs::memory_bytes(&tree))
    }

    /// Whether it is this run that answers on its port.
    pub(super) fn ownership(&self) -> Ownership {
        let listeners = procfs::listeners(self.port.number());
        if listeners.is_empty() {
            // In a network of its own, or gone again.
            return Ownership::Ours;
        }
        let holds = |pid: u32| procfs::sockets(pid).is_none_or(|sockets| !sockets.is_disjoint(&listeners));
        if procfs::tree(self.group.leader).into_iter().any(holds)
            || self.group.members().into_iter().any(holds)
        {
            Ownership::Ours
        } else {
            Ownership::Others
        }
    }

    /// Why its first process ended.
    pub(super) fn ending(&self, status: io::Result<ExitStatus>, limits: Limits) -> Ending {
        if self.leaf.as_ref().is_some_and(Leaf::was_out_of_memory) {
            return Ending::OutOfMemory { limit_bytes: Some(limits.memory_bytes) };
        }
        match status.map(|status| (status.code(), signal_of(status))) {
            Ok((_, Some(signal)))
                if signal == Signal::KILL.as_raw() && procfs::oom_kills() > self.oom_kills =>
            {
                Ending::OutOfMemory { limit_bytes: None }
            }
            Ok((_, Some(signal))) => Ending::Killed { signal },
            Ok((status, None)) => Ending::Exited { status: status.unwrap_or(-1) },
            Err(error) => Ending::NotStarted { why: format!("its status cannot be had: {error}") },
        }
    }

    /// Ends it without hurry: first it may finish its requests for as long as `drain`, then its whole group is asked to end
    /// (SIGTERM). Returns when nobody in the group works any more.
    pub(super) async fn end_politely(&mut self, drain: Duration) {
        tokio::select! {
            () = self.drained() => {}
            () = tokio::time::sleep(drain) => {}
        }
        // Once its first process was waited for, its number may be another's.
        if self.child.id().is_some() {
            self.group.signal(Signal::TERM);
        }
        let _ = self.child.wait().await;
        // The first process may leave others behind that finish their work.
        while self.is_busy().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns when nobody is connected to its port. Whoever sends requests closes the connections that it keeps when the
    /// instance is not among the addresses any more: what is left has a request under way.
    async fn drained(&self) {
        let port = self.port.number();
        let mut pause = LOOK_EVERY;
        loop {
            tokio::time::sleep(pause).await;
            let looked = tokio::task::spawn_blocking(move || procfs::has_connections(port)).await;
            if !looked.unwrap_or(false) {
                return;
            }
            pause = (pause * 2).min(DRAIN_LOOK_EVERY_MAX);
        }
    }

    async fn is_busy(&self) -> bool {
        let group = self.group.clone();
        tokio::task::spawn_blocking(move || group.is_busy()).await.unwrap_or(false)
    }

    /// Ends whatever is left of it, and returns what it printed last. On return no process of it is left, unless the kernel
    /// cannot end one.
    pub(super) async fn clean(mut self) -> Vec<String> {
        if self.child.id().is_some() {
            self.group.signal(Signal::KILL);
        }
        // Its number is its own until it was waited for.
        let ended = tokio::time::timeout(group::GONE_WITHIN, self.child.wait()).await;
        if ended.is_err() || !self.group.end().await {
            tracing::error!(pid = self.group.leader, "processes of an instance cannot be ended");
            return self.printed.end().await;
        }
        let lines = self.printed.end().await;
        if let Some(leaf) = &self.leaf {
            cgroup::remove(leaf.dir());
        }
        if let Err(error) = fs::remove_file(&self.pid_file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.pid_file.display(), "a pid file stays");
        }
        lines
    }
}

/// The signal that ended it, or that ended the last program of its shell, which says so by a status above 128.
fn signal_of(status: ExitStatus) -> Option<i32> {
    let by_shell = status.code().map(|code| code - 128).filter(|signal| (1..32).contains(signal));
    status.signal().or(by_shell)
}

/// No two runs of a machine have the same.
pub(super) fn random_id() -> Result<String, ring::error::Unspecified> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes)?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}
