//! Hard limits by cgroup v2, where the kernel offers a hierarchy in which we may make groups.
//!
//! Each run of an instance is a group of its own below one root: its memory and processor time are limited at once, the
//! kernel tells when it killed for want of memory, and ending it ends everybody in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::options::Limits;
use super::procfs;

/// Below the group that the node itself is in.
const APPS: &str = "farshore-apps";
/// Where the node moves to, because a group whose children have limits may hold no process itself.
const NODE: &str = "farshore-node";
/// The kernel's period of processor time, in microseconds.
const PERIOD_US: u64 = 100_000;
/// More processes than any app needs, and few enough that one that multiplies does not take the machine with it.
const PROCESSES_MAX: u32 = 1024;

/// A group in which a group for each run can be made, with limits of memory and processor time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRoot {
    dir: PathBuf,
}

/// Why there are no cgroups for apps: their memory is watched instead, and their processor time is not limited.
#[derive(Debug, thiserror::Error)]
pub enum NoCgroups {
    /// The kernel has none of version 2.
    #[error("no cgroup v2 hierarchy is mounted")]
    NotMounted,
    /// The hierarchy does not control what we need.
    #[error("the cgroup v2 hierarchy at {dir} does not offer {controller}")]
    NoController {
        /// Where it is.
        dir: PathBuf,
        /// `memory` or `cpu`.
        controller: &'static str,
    },
    /// We may not write there.
    #[error("cannot write {path}: {error}; run the node as a service with Delegate=yes")]
    NotWritable {
        /// What could not be written.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl CgroupRoot {
    /// Looks for a hierarchy that offers memory and processor time, and makes the apps' group in it, below the group that this
    /// process is in. This process is moved one group down for that.
    ///
    /// # Errors
    /// There is none, or it may not be written.
    pub fn prepare() -> Result<Self, NoCgroups> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = mount_of_version_2(&mounts).ok_or(NoCgroups::NotMounted)?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        // A node that was started by one that had prepared already.
        let own = own.strip_suffix(NODE).unwrap_or(own);
        Self::below(&mount, own)
    }

    /// An existing group, whatever it controls.
    #[cfg(test)]
    pub(super) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn below(mount: &Path, own: &str) -> Result<Self, NoCgroups> {
        let parent = mount.join(own);
        let offered = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
        for controller in ["memory", "cpu"] {
            if !offered.split_ascii_whitespace().any(|each| each == controller) {
                return Err(NoCgroups::NoController { dir: parent, controller });
            }
        }
        // Only the kernel's own root has no type, and may hold processes beside groups with limits.
        if parent.join("cgroup.type").exists() {
            let node = parent.join(NODE);
            make(&node)?;
            write(&node.join("cgroup.procs"), "0")?;
        }
        let dir = parent.join(APPS);
        for group in [&parent, &dir] {
            make(group)?;
            write(&group.join("cgroup.subtree_control"), "+memory +cpu")?;
            // Not every kernel has it, and nothing depends on it.
            let _ = write(&group.join("cgroup.subtree_control"), "+pids");
        }
        Ok(Self { dir })
    }

    /// A new group for one run.
    ///
    /// # Errors
    /// It cannot be made, or does not take its limits.
    pub(super) fn leaf(&self, id: &str, limits: Limits) -> Result<Leaf, NoCgroups> {
        let leaf = Leaf { dir: self.dir.join(id), oom_kills: AtomicU64::new(0) };
        make(&leaf.dir)?;
        leaf.limit(limits)?;
        // Whatever lacks these works without them.
        for (file, value) in
            [("memory.oom.group", "1"), ("memory.swap.max", "0"), ("pids.max", &PROCESSES_MAX.to_string())]
        {
            if leaf.dir.join(file).exists() {
                let _ = fs::write(leaf.dir.join(file), value);
            }
        }
        Ok(leaf)
    }
}

/// The group of one run.
#[derive(Debug)]
pub(super) struct Leaf {
    dir: PathBuf,
    oom_kills: AtomicU64,
}

impl Leaf {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes effect at once, also while it runs.
    pub(super) fn limit(&self, limits: Limits) -> Result<(), NoCgroups> {
        self.limit_one("memory.max", limits.memory_bytes, &memory_max(limits))?;
        self.limit_one("cpu.max", limits.cpu_percent.into(), &cpu_max(limits))
    }

    /// A hierarchy without the controller keeps no limit, but also has none to take away.
    fn limit_one(&self, file: &str, limit: u64, value: &str) -> Result<(), NoCgroups> {
        let path = self.dir.join(file);
        if limit == 0 && !path.exists() { Ok(()) } else { write(&path, value) }
    }

    pub(super) fn memory_bytes(&self) -> Option<u64> {
        fs::read_to_string(self.dir.join("memory.current")).ok()?.trim().parse().ok()
    }

    /// Whether the kernel killed in it for want of memory since this was asked last.
    pub(super) fn was_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        let kills = procfs::number_after(&events, "oom_kill ").unwrap_or(0);
        self.oom_kills.swap(kills, Ordering::Relaxed) < kills
    }
}

/// Kills everybody in the group at `dir`, where the kernel can do that (Linux 5.14).
pub(super) fn kill(dir: &Path) {
    let _ = fs::write(dir.join("cgroup.kill"), "1");
}

/// The processes in the group at `dir`.
pub(super) fn members(dir: &Path) -> Vec<u32> {
    let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// Removes the empty group at `dir`. False while somebody is in it.
pub(super) fn remove(dir: &Path) -> bool {
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn make(dir: &Path) -> Result<(), NoCgroups> {
    fs::create_dir_all(dir).map_err(|error| NoCgroups::NotWritable { path: dir.to_owned(), error })
}

fn write(path: &Path, value: &str) -> Result<(), NoCgroups> {
    fs::write(path, value).map_err(|error| NoCgroups::NotWritable { path: path.to_owned(), error })
}

fn memory_max(limits: Limits) -> String {
    match limits.memory_bytes {
        0 => "max".to_owned(),
        bytes => bytes.to_string(),
    }
}

fn cpu_max(limits: Limits) -> String {
    match u64::from(limits.cpu_percent) {
        0 => format!("max {PERIOD_US}"),
        percent => format!("{} {PERIOD_US}", percent * PERIOD_US / 100),
    }
}

/// The first mount of type `cgroup2` in `/proc/self/mountinfo` that is the hierarchy's root.
fn mount_of_version_2(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let place = mount.split(' ').nth(4)?;
        kind.starts_with("cgroup2 ").then(|| PathBuf::from(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory_bytes: 512 << 20, cpu_percent: 25 };

    /// A directory that looks like a hierarchy. What the kernel would do with it is not shown here.
    fn hierarchy(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        dir
    }

    #[test]
    fn the_hierarchy_is_found_beside_those_of_version_1() {
        let mounts = "25 20 0:22 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n\
                      26 20 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_of_version_2(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_of_version_2("25 20 0:22 / /proc rw - proc proc rw"), None);
    }

    #[test]
    fn a_hierarchy_without_memory_is_refused_by_name() {
        let dir = hierarchy("hugetlb cpu");
        let error = CgroupRoot::below(dir.path(), "").unwrap_err();
        assert!(error.to_string().ends_with("does not offer memory"), "{error}");
    }

    #[test]
    fn a_run_gets_its_limits_and_new_ones_while_it_runs() {
        let dir = hierarchy("cpuset cpu io memory pids");
        let root = CgroupRoot::below(dir.path(), "service").unwrap_err();
        assert!(matches!(root, NoCgroups::NoController { .. }), "{root}");

        fs::create_dir(dir.path().join("service")).unwrap();
        fs::copy(dir.path().join("cgroup.controllers"), dir.path().join("service/cgroup.controllers"))
            .unwrap();
        fs::write(dir.path().join("service/cgroup.type"), "domain").unwrap();
        let root = CgroupRoot::below(dir.path(), "service").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("service/farshore-node/cgroup.procs")).unwrap(), "0");
        let leaf = root.leaf("1-abc", LIMITS).unwrap();
        let read = |file: &str| fs::read_to_string(leaf.dir().join(file)).unwrap();
        assert_eq!(
            (read("memory.max"), read("cpu.max")),
            ("536870912".to_owned(), "25000 100000".to_owned())
        );
        leaf.limit(Limits { cpu_percent: 200, ..Limits::NONE }).unwrap();
        assert_eq!((read("memory.max"), read("cpu.max")), ("max".to_owned(), "200000 100000".to_owned()));
    }

    #[test]
    fn a_kill_for_want_of_memory_is_told_once() {
        let dir = hierarchy("cpu memory");
        let leaf = CgroupRoot::below(dir.path(), "").unwrap().leaf("1-abc", LIMITS).unwrap();
        assert!(!leaf.was_out_of_memory());
        fs::write(leaf.dir().join("memory.events"), "low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\n").unwrap();
        assert!(leaf.was_out_of_memory());
        assert!(!leaf.was_out_of_memory());
    }
}
