//! What the kernel says about processes: files of `/proc`, read and parsed, nothing decided.
//!
//! A process can end at any moment, so that everything about it may be absent.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: u32,
    /// Its process group.
    pub(super) group: u32,
    /// It ended and was not waited for.
    pub(super) is_zombie: bool,
    /// When it was started, in ticks since the machine was: with the pid it names a process for good.
    pub(super) started: u64,
}

/// The process `pid`.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// All processes.
pub(super) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(stat).collect()
}

/// The program's name stands in brackets and may hold anything, brackets too: fields are counted from the last one.
fn parse_stat(pid: u32, text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let group = fields.get(2)?.parse().ok()?;
    let started = fields.get(19)?.parse().ok()?;
    Some(Stat { pid, group, is_zombie: matches!(fields[0], "Z" | "X"), started })
}

/// Whether the environment that `pid` was started with holds `entry` (`NAME=value`).
pub(super) fn has_in_environment(pid: u32, entry: &str) -> bool {
    has_entry(&format!("/proc/{pid}/environ"), entry)
}

/// Whether `argument` is one of the arguments that `pid` was started with.
pub(super) fn has_argument(pid: u32, argument: &str) -> bool {
    has_entry(&format!("/proc/{pid}/cmdline"), argument)
}

fn has_entry(path: &str, entry: &str) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|each| each == entry.as_bytes()))
}

/// `pid` and the processes that it and its children started. Costs as much as it finds.
pub(super) fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

/// Memory of `pids` together in bytes: what each has of its own, and once what the largest of them shares with others.
pub(super) fn memory_bytes(pids: &[u32]) -> u64 {
    let (mut own, mut shared_most) = (0, 0);
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = |key| number_after(&text, key).unwrap_or(0);
        own += kib("RssAnon:");
        shared_most = shared_most.max(kib("RssFile:") + kib("RssShmem:"));
    }
    (own + shared_most) * 1024
}

/// Memory of `pids` together in bytes, exactly: each page is divided by how many use it. Dear; `None` where it is hidden.
pub(super) fn proportional_bytes(pids: &[u32]) -> Option<u64> {
    let sizes: Vec<u64> = pids
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok())
        .filter_map(|text| number_after(&text, "Pss:"))
        .collect();
    (!sizes.is_empty()).then(|| sizes.iter().sum::<u64>() * 1024)
}

/// How many processes the kernel has killed for want of memory since the machine was started.
pub(super) fn oom_kills() -> u64 {
    fs::read_to_string("/proc/vmstat").ok().and_then(|text| number_after(&text, "oom_kill ")).unwrap_or(0)
}

/// The number on the line that begins with `key`.
pub(super) fn number_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// This start of the machine: pids and ticks of another one mean nothing.
pub(super) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The kernel's numbers of the sockets that listen on `port`, at any address.
pub(super) fn listeners(port: u16) -> HashSet<u64> {
    listening().into_iter().filter(|(at, _)| *at == port).map(|(_, socket)| socket).collect()
}

/// All listening sockets: their ports and their numbers.
fn listening() -> Vec<(u16, u64)> {
    /// `TCP_LISTEN` of the kernel.
    const LISTEN: &str = "0A";
    in_state(LISTEN)
}

/// Whether somebody is connected to `port`, or waits to be accepted there.
pub(super) fn has_connections(port: u16) -> bool {
    /// `TCP_ESTABLISHED` of the kernel.
    const ESTABLISHED: &str = "01";
    in_state(ESTABLISHED).iter().any(|(at, _)| *at == port)
}

fn in_state(state: &str) -> Vec<(u16, u64)> {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .flat_map(|path| parse_sockets(&fs::read_to_string(path).unwrap_or_default(), state))
        .collect()
}

/// The ports that `pids` listen on.
pub(super) fn listening_of(pids: &[u32]) -> BTreeSet<u16> {
    let held: HashSet<u64> = pids.iter().filter_map(|pid| sockets(*pid)).flatten().collect();
    listening().into_iter().filter(|(_, socket)| held.contains(socket)).map(|(port, _)| port).collect()
}

/// The sockets in `state`: their own ports and their numbers.
fn parse_sockets(text: &str, state: &str) -> Vec<(u16, u64)> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (_, port) = fields.next()?.rsplit_once(':')?;
            let is_wanted = fields.nth(1)? == state;
            let socket = fields.nth(5)?.parse().ok()?;
            is_wanted.then_some((u16::from_str_radix(port, 16).ok()?, socket))
        })
        .collect()
}

/// The numbers of the sockets that `pid` has open; `None` where that is hidden.
pub(super) fn sockets(pid: u32) -> Option<HashSet<u64>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    Some(entries.flatten().filter_map(|entry| socket_number(&entry.path())).collect())
}

fn socket_number(link: &Path) -> Option<u64> {
    let target = fs::read_link(link).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let rest = "S 1 77 77 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 98765 2300000 200";
        for name in ["sh", "a b", "x) S 1 2 3 (y", "(sd-pam)"] {
            let stat = parse_stat(42, &format!("42 ({name}) {rest}")).unwrap();
            assert_eq!(stat, Stat { pid: 42, group: 77, is_zombie: false, started: 98765 });
        }
        assert_eq!(parse_stat(42, "42 (sh"), None);
        assert_eq!(parse_stat(42, "42 (sh) Z 1"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let me = std::process::id();
        let stat = stat(me).unwrap();
        assert!(!stat.is_zombie && all().contains(&stat));
        assert!(tree(me).contains(&me));
        assert!(memory_bytes(&[me]) > 100_000);
        assert!(proportional_bytes(&[me]).is_none_or(|bytes| bytes > 100_000));
        let program = std::env::args().next().unwrap();
        assert!(has_argument(me, &program) && !has_argument(me, "x"));
    }

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Somebody else may listen at the same port of another address, and at this one afterwards.
        let found = &listeners(port) & &sockets(std::process::id()).unwrap();
        assert_eq!(found.len(), 1);
        assert!(listening_of(&[std::process::id()]).contains(&port));
        assert!(!has_connections(port));
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(has_connections(port));
        drop((client, listener));
        assert!(listeners(port).is_disjoint(&found));
    }
}
