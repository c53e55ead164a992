//! Who belongs to a run of an instance, and ending them all.
//!
//! A run is a process group, and everybody else whose environment carries its mark: a program that makes a session of its
//! own leaves the group, but keeps its environment. Where there is a cgroup, it is everybody in that, too.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
    waitpgid, waitpid,
};

use super::cgroup;
use super::guard;
use super::procfs::{self, Stat};

/// A killed process that is still there after so long waits for a device: nobody can end it.
pub(super) const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at who is left.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The pid of the first process.
const FIRST: u32 = 1;

/// One run of an instance, as the kernel sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// The pid of its first process, and the number of its process group.
    pub(super) leader: u32,
    /// When the leader was started, in the kernel's ticks.
    pub(super) started: u64,
    /// `FARSHORE_INSTANCE=…` in the environment of all its processes.
    pub(super) mark: String,
    /// The cgroup that all its processes are in, if there is one.
    pub(super) cgroup: Option<PathBuf>,
}

impl Group {
    /// Sends `signal` to the process group. Only while the leader was not waited for, or somebody else is known to be in it.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(leader) = pid(self.leader) {
            // Nobody there is what everybody wants.
            let _ = kill_process_group(leader, signal);
        }
    }

    /// Whether a process of the group still works: zombies and the guard do not.
    pub(super) fn is_busy(&self) -> bool {
        procfs::all()
            .iter()
            .any(|each| each.group == self.leader && !each.is_zombie && !guard::is_guard(each.pid))
    }

    /// Everybody who belongs to it and has not ended.
    pub(super) fn members(&self) -> Vec<u32> {
        let (inside, outside): (Vec<Stat>, Vec<Stat>) =
            procfs::all().into_iter().partition(|each| each.group == self.leader);
        let is_marked = |each: &Stat| procfs::has_in_environment(each.pid, &self.mark);
        let is_leader = |each: &Stat| each.pid == self.leader && each.started == self.started;
        // The number of a group that ended may be another's by now.
        let is_ours = inside.iter().any(|each| is_leader(each) || is_marked(each));
        let inside = inside.into_iter().filter(|_| is_ours);
        let contained: Vec<u32> = self.cgroup.as_deref().map(cgroup::members).unwrap_or_default();
        let outside = outside.into_iter().filter(|each| contained.contains(&each.pid) || is_marked(each));
        inside.chain(outside).filter(|each| !each.is_zombie).map(|each| each.pid).collect()
    }

    /// Kills everybody once. Returns who they were.
    fn kill(&self) -> Vec<u32> {
        if let Some(cgroup) = &self.cgroup {
            cgroup::kill(cgroup);
        }
        let members = self.members();
        for member in &members {
            self.kill_one(*member);
        }
        members
    }

    /// Kills everybody until nobody is left. False when somebody cannot be ended.
    pub(super) async fn end(&self) -> bool {
        let group = self.clone();
        tokio::task::spawn_blocking(move || group.end_now()).await.unwrap_or(false)
    }

    /// The same, for where there is no runtime.
    pub(super) fn end_now(&self) -> bool {
        let deadline = Instant::now() + GONE_WITHIN;
        let mut killed = Vec::new();
        loop {
            let members = self.kill();
            let is_clear = self.reap(&killed);
            if members.is_empty() && is_clear {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            killed.extend(members);
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// A handle first, then the look whether it is the one: its number cannot become another's in between.
    fn kill_one(&self, member: u32) {
        let Some(pid) = pid(member) else { return };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            // Before Linux 5.3, or it is gone.
            if procfs::stat(member).is_some_and(|stat| self.is_inside(&stat)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            return;
        };
        if procfs::stat(member).is_some_and(|stat| self.is_inside(&stat)) {
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }

    fn is_inside(&self, stat: &Stat) -> bool {
        let is_contained = |cgroup: &PathBuf| cgroup::members(cgroup).contains(&stat.pid);
        stat.group == self.leader
            || procfs::has_in_environment(stat.pid, &self.mark)
            || self.cgroup.as_ref().is_some_and(is_contained)
    }

    /// Where the node is the first process of a container, orphans become its children, and it waits for them: for the group's,
    /// and for those that were `killed` outside of it. False while one of them is on its way out: it has no environment any
    /// more to be known by, and is no zombie yet.
    fn reap(&self, killed: &[u32]) -> bool {
        if std::process::id() != FIRST {
            return true;
        }
        // Not while the leader is there: its status belongs to its supervisor.
        if procfs::stat(self.leader).is_some_and(|stat| stat.started == self.started) {
            return true;
        }
        let is_on_its_way = |waited: rustix::io::Result<Option<_>>| matches!(waited, Ok(None));
        let mut is_clear = true;
        if let Some(leader) = pid(self.leader) {
            is_clear = loop {
                match waitpgid(leader, WaitOptions::NOHANG) {
                    Ok(Some(_)) => {}
                    ended => break !is_on_its_way(ended),
                }
            };
        }
        for member in killed.iter().filter_map(|member| pid(*member)) {
            is_clear &= !is_on_its_way(waitpid(Some(member), WaitOptions::NOHANG));
        }
        is_clear
    }
}

fn pid(number: u32) -> Option<Pid> {
    // 0 would be the node's own group, 1 everybody.
    i32::try_from(number).ok().filter(|number| *number > 1).and_then(Pid::from_raw)
}
