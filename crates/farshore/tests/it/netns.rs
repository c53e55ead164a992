//! Network namespaces of tests, made with `ip`; what a test that was killed left behind is removed by the next. Needs root.

use std::path::Path;
use std::process::Command;

/// Where `ip netns` keeps its names.
pub(crate) const NETNS: &str = "/var/run/netns";

/// `ip`, which must succeed.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Removes namespaces that are called `PREFIX-PROCESS-…`, where there is no such process any more.
pub(crate) fn remove_orphans(prefix: &str) {
    let Ok(names) = std::fs::read_dir(NETNS) else { return };
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let mut parts = name.split('-');
        let process = (parts.next() == Some(prefix)).then(|| parts.next()).flatten();
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}
