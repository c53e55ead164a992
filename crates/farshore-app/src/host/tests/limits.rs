//! Memory, cgroups and the log.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use super::*;
use crate::host::view::Enforcement;
use crate::host::{CgroupRoot, Ending};

#[tokio::test]
async fn without_cgroups_memory_is_watched_and_the_view_says_so() {
    let rig = Rig::new();
    // Takes its memory only while it is told to, and goes on using it: what rests may be put out of memory.
    let command = "[ -e large ] && rm large && export LARGE=1; exec python3 -c '
import os, threading, time
def hold():
    held = bytearray(200 << 20)
    while True:
        held[::4096] = bytes(len(held) // 4096)
        time.sleep(0.05)
if os.environ.get(\"LARGE\"):
    threading.Thread(target=hold, daemon=True).start()
exec(open(\"server.py\").read())'";
    fs::write(rig.file("large"), "").unwrap();
    let limits = Limits { memory_bytes: 150 << 20, cpu_percent: 50 };
    let host = Host::spawn_at(HostOptions { limits, ..rig.options(command, 1) }, hurried());
    let again = until("the restart", || back(&host, 1, 1)).await;
    let Some(Ending::OverMemory { used_bytes, limit_bytes }) = again.last_ending else { panic!("{again:?}") };
    assert!(limit_bytes == 150 << 20 && used_bytes > 150 << 20, "{used_bytes}");
    let view = host.view();
    assert_eq!((view.memory_limit, view.cpu_limit), (Enforcement::Watched, Enforcement::None));
    assert_eq!(back(&host, 1, 1).map(|each| each.restarts), Some(1), "within its limit it is left alone");
    host.stop(WITHIN).await;
}

#[tokio::test]
async fn a_run_is_in_a_cgroup_of_its_own_and_is_ended_with_it() {
    // Made by hand in the kernel's hierarchy; where there is none, there is nothing to see.
    let Some(dir) = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(Path::new)
        .into_iter()
        .find(|dir| dir.join("cgroup.procs").exists() && dir.join("cgroup.subtree_control").exists())
        .map(|dir| dir.join(format!("farshore-test-{}", std::process::id())))
        .filter(|dir| fs::create_dir(dir).is_ok())
    else {
        return;
    };
    let rig = Rig::new();
    let options =
        HostOptions { cgroup: Some(CgroupRoot::at(dir.clone())), ..rig.options("python3 server.py", 1) };
    let host = Host::spawn_at(options, hurried());
    host.up(WITHIN).await.unwrap();
    let leaf = fs::read_dir(&dir).unwrap().flatten().find(|entry| entry.path().is_dir()).unwrap().path();
    let members = fs::read_to_string(leaf.join("cgroup.procs")).unwrap();
    assert!(members.lines().any(|pid| pid == instance(&host, 1).pid.unwrap().to_string()), "{members}");
    host.stop(WITHIN).await;
    assert!(!leaf.exists());
    fs::remove_dir(dir).unwrap();
}

#[tokio::test]
async fn a_kill_for_want_of_memory_is_named_as_the_cause() {
    // A directory that looks like the kernel's: what it writes there is written by hand.
    let (rig, cgroups) = (Rig::new(), tempfile::tempdir().unwrap());
    let limits = Limits { memory_bytes: 512 << 20, cpu_percent: 100 };
    let cgroup = Some(CgroupRoot::at(cgroups.path().to_owned()));
    let options = HostOptions { cgroup, limits, ..rig.options("python3 server.py", 1) };
    let host = Host::spawn_at(options, hurried());
    host.up(WITHIN).await.unwrap();
    let view = host.view();
    assert_eq!((view.memory_limit, view.cpu_limit), (Enforcement::Cgroup, Enforcement::Cgroup));
    let leaf = fs::read_dir(&cgroups).unwrap().next().unwrap().unwrap().path();
    fs::write(leaf.join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
    kill(instance(&host, 1).pid.unwrap(), Signal::KILL);
    let again = until("the restart", || back(&host, 1, 1)).await;
    assert_eq!(again.last_ending, Some(Ending::OutOfMemory { limit_bytes: Some(512 << 20) }));
    let json = serde_json::to_value(host.view()).unwrap();
    assert_eq!(json["instances"][0]["last_ending"], "was killed out of memory: its limit is 512 MiB");
    host.scale(1, Limits { memory_bytes: 1 << 30, ..limits }).await;
    let limits = || fs::read_dir(&cgroups).unwrap().map(|leaf| leaf.unwrap().path().join("memory.max"));
    let is_new = |path| fs::read_to_string(path).unwrap() == (1_u32 << 30).to_string();
    until("the new limit", || limits().any(is_new).then_some(())).await;
    assert_eq!(instance(&host, 1).restarts, 1);
    host.stop(WITHIN).await;
}

#[tokio::test]
async fn a_flood_of_output_fills_neither_the_disk_nor_the_way() {
    let rig = Rig::new();
    let command = "yes 'all work and no play' | head -c 60000000; echo
                   (while :; do echo still; sleep 0.2; done) & exec python3 server.py";
    let host = rig.up(command, 1).await;
    // Any single line may be among those that were left out.
    rig.logged(" 1 out still").await;
    host.stop(WITHIN).await;
    let log = rig.dir.path().join("log");
    let bytes: u64 = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    // Its whole output would be twice as much with the time on each line; what is written depends on the time it took.
    assert!(bytes < 60_000_000, "{bytes}");
}

#[tokio::test]
async fn two_releases_side_by_side_write_one_log() {
    let rig = Rig::new();
    let (old, new) =
        (rig.up("python3 server.py", 1).await, rig.up("echo new; exec python3 server.py", 1).await);
    old.stop(WITHIN).await;
    new.stop(WITHIN).await;
    // What was printed is written when the disk is free.
    let deadline = tokio::time::Instant::now() + WITHIN;
    loop {
        let log = rig.log().await;
        let count = |end: &str| log.iter().filter(|line| line.ends_with(end)).count();
        if (count(" 1 out listening"), count(" 1 out new")) == (2, 1) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{log:#?}");
        tokio::time::sleep(POLL).await;
    }
}
