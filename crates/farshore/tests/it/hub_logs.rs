//! What programs of a test said, told when it fails: the next failure on a machine that nobody can look at names its cause.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Lines of each program that are told: enough for the minutes that a test takes.
const LINES: usize = 50;

/// Prints the end of every log in the directory and in those of its regions.
pub(crate) fn tell(dir: &Path) {
    for log in logs(dir) {
        let name = log.strip_prefix(dir).unwrap_or(&log).display();
        let bytes = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("== {name}, {} lines", lines.len());
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            eprintln!("{line}");
        }
    }
}

/// Prints what each thread of a process waits for: a process that hangs says nothing by itself.
pub(crate) fn tell_threads(name: &str, pid: u32) {
    eprintln!("== threads of {name}");
    for thread in list(&PathBuf::from(format!("/proc/{pid}/task"))) {
        let read = |file: &str| std::fs::read_to_string(thread.join(file)).unwrap_or_default();
        let state = read("status").lines().find_map(|line| line.strip_prefix("State:").map(str::to_owned));
        let (comm, state) = (read("comm"), state.unwrap_or_default());
        eprintln!("{} {} {}", comm.trim(), state.trim(), read("wchan"));
    }
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let here = list(dir);
    let below = here.iter().filter(|path| path.is_dir()).flat_map(|path| list(path));
    let is_log = |path: &PathBuf| path.extension() == Some(OsStr::new("log"));
    let mut found: Vec<PathBuf> = here.iter().cloned().chain(below).filter(is_log).collect();
    found.sort();
    found
}
