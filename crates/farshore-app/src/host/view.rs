//! What there is to see of a host. Fields are only ever added.

use serde::Serialize;

use super::failure::Ending;

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostView {
    /// The app's name.
    pub name: String,
    /// How memory is limited.
    pub memory_limit: Enforcement,
    /// How processor time is limited.
    pub cpu_limit: Enforcement,
    /// Its instances, by number.
    pub instances: Vec<InstanceView>,
}

/// How a limit is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// By the kernel, at once.
    Cgroup,
    /// By the host, which looks every few seconds and ends what is over its limit: the kernel offers no cgroup here.
    Watched,
    /// Not at all: none is set, or the kernel offers no cgroup here.
    None,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceView {
    /// Its number, from 1.
    pub instance: u32,
    /// What it is doing.
    pub state: InstanceState,
    /// Its first process, while it runs.
    pub pid: Option<u32>,
    /// Where it listens, while it runs.
    pub port: Option<u16>,
    /// How often it was started again.
    pub restarts: u32,
    /// Memory of all its processes, seen at the last look.
    pub memory_bytes: u64,
    /// Since when it has been in this state, in milliseconds since 1970.
    pub since_ms: u64,
    /// How its last run ended, if one did.
    pub last_ending: Option<Ending>,
}

/// What an instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// It was started and has not answered yet.
    Starting,
    /// It answers.
    Up,
    /// It answered and does not now; it is given up soon.
    Unresponsive,
    /// It ended, and is started again after a pause.
    Waiting,
    /// It was asked to end.
    Stopping,
}
