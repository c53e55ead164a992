//! What a host is asked to run.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cgroup::CgroupRoot;

/// How much one instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all its processes together, in bytes; 0 is without limit.
    pub memory_bytes: u64,
    /// Processor time, in hundredths of one processor; 0 is without limit.
    pub cpu_percent: u32,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self { memory_bytes: 0, cpu_percent: 0 };
}

/// What to run, where, and within which limits.
#[derive(Clone)]
pub struct HostOptions {
    /// Any command line of `sh`. It listens on `$PORT` of the loopback address.
    pub command: String,
    /// Where it runs: the release's directory.
    pub dir: PathBuf,
    /// Its environment. `PORT` and `FARSHORE_INSTANCE` are the host's; `PATH`, `HOME` and `LANG` have a value if not given.
    pub env: Vec<(String, String)>,
    /// How many instances.
    pub instances: u32,
    /// Of each instance.
    pub limits: Limits,
    /// What is asked for to see whether an instance answers, such as `/status`.
    pub probe_path: String,
    /// Where the log and the instances' pid files are.
    pub log_dir: PathBuf,
    /// The app's name, for messages.
    pub name: String,
    /// Where cgroups can be made, when the kernel offers them.
    pub cgroup: Option<CgroupRoot>,
}

impl fmt::Debug for HostOptions {
    /// Shows the names of the environment only: the values are the app's secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("HostOptions")
            .field("command", &self.command)
            .field("dir", &self.dir)
            .field("env", &env)
            .field("instances", &self.instances)
            .field("limits", &self.limits)
            .field("probe_path", &self.probe_path)
            .field("log_dir", &self.log_dir)
            .field("name", &self.name)
            .field("cgroup", &self.cgroup)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let options = HostOptions {
            command: "true".to_owned(),
            dir: PathBuf::from("/"),
            env: vec![("MS_MASTER_KEY".to_owned(), "geheim".to_owned())],
            instances: 1,
            limits: Limits::NONE,
            probe_path: "/status".to_owned(),
            log_dir: PathBuf::from("/"),
            name: "todo".to_owned(),
            cgroup: None,
        };
        let shown = format!("{options:?}");
        assert!(shown.contains("MS_MASTER_KEY") && !shown.contains("geheim"), "{shown}");
    }
}
