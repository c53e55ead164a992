//! The node is killed; its apps are not to go on without it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::host::{gone, kill_leftovers};

/// Says to this program, started again, that it is the node, and where.
const NODE: &str = "FARSHORE_HOST_TEST_NODE";

/// The node of the other tests, when it is told to be; otherwise nothing.
#[tokio::test]
async fn as_a_node() {
    let Ok(dir) = std::env::var(NODE) else { return };
    let dir = Path::new(&dir);
    let command = fs::read_to_string(dir.join("command")).unwrap();
    let host = Host::spawn_at(options_in(dir, &command, 1), hurried());
    host.up(WITHIN).await.unwrap();
    fs::write(dir.join("up.new"), format!("{}\n", instance(&host, 1).pid.unwrap())).unwrap();
    fs::rename(dir.join("up.new"), dir.join("up")).unwrap();
    std::future::pending::<()>().await;
}

/// Another process that hosts `command`.
async fn node(rig: &Rig, command: &str) -> (Child, u32) {
    fs::write(rig.dir.path().join("command"), command).unwrap();
    let node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host::tests::node::as_a_node", "--nocapture"])
        .env(NODE, rig.dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let up = rig.dir.path().join("up");
    let leader = until("the app", || number_in(&up)).await;
    fs::remove_file(up).unwrap();
    (node, leader)
}

#[tokio::test]
async fn a_killed_node_takes_the_whole_group_along() {
    let rig = Rig::new();
    let command = "trap '' HUP TERM INT
                   sh -c 'sleep 1000 & echo $! >new; mv new grandchild; wait' & python3 server.py";
    let (mut node, leader) = node(&rig, command).await;
    let grandchild = until("the grandchild", || number_in(&rig.file("grandchild"))).await;
    assert!(!is_gone(leader) && !is_gone(grandchild));
    // A signal that the app sends to its whole group must not take the guard away.
    let group = rustix::process::Pid::from_raw(i32::try_from(leader).unwrap()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::TERM).unwrap();
    node.kill().unwrap();
    node.wait().unwrap();
    let log = rig.dir.path().join("log");
    // All of them die at once, and which of them is gone first is the kernel's choice.
    tokio::time::timeout(WITHIN, gone(&log)).await.expect("the whole group ends with its node");
    assert!(is_gone(leader) && is_gone(grandchild));
    assert_eq!(kill_leftovers(&log).unwrap(), 0);
}

#[tokio::test]
async fn what_left_its_group_is_found_at_the_next_start() {
    let rig = Rig::new();
    let command = "setsid sh -c 'echo $$ >new; mv new outsider; exec sleep 1000' & exec python3 server.py";
    let (mut node, leader) = node(&rig, command).await;
    let outsider = until("the outsider", || number_in(&rig.file("outsider"))).await;
    let log = rig.dir.path().join("log");
    assert_eq!(kill_leftovers(&log).unwrap(), 0, "the node is alive");
    assert!(!is_gone(leader) && !is_gone(outsider));
    node.kill().unwrap();
    node.wait().unwrap();
    until("the end of the leader", || is_gone(leader).then_some(())).await;
    assert!(!is_gone(outsider));
    assert_eq!(kill_leftovers(&log).unwrap(), 1);
    assert!(is_gone(outsider));
    assert_eq!(kill_leftovers(&log).unwrap(), 0);
    assert_eq!(kill_leftovers(&log.join("absent")).unwrap(), 0);
}

/// The first process of a container, when it is told to be one; otherwise nothing.
#[tokio::test]
async fn as_the_first_process() {
    if std::env::var(NODE).is_err() {
        return;
    }
    assert_eq!(std::process::id(), 1);
    let rig = Rig::new();
    let outsider = "setsid sh -c 'echo $$ >new; mv new outsider; exec sleep 1000' & exec python3 server.py";
    let host = rig.up(outsider, 2).await;
    until("the outsider", || number_in(&rig.file("outsider"))).await;
    kill(instance(&host, 1).pid.unwrap(), Signal::KILL);
    until("the restart", || back(&host, 1, 1)).await;
    host.stop(WITHIN).await;
    let others = crate::host::procfs::all().into_iter().filter(|each| each.pid != 1);
    assert_eq!(others.collect::<Vec<_>>(), [], "neither processes nor zombies are left");
}

#[tokio::test]
async fn as_the_first_process_of_a_container_it_clears_away_what_ended() {
    let contained = |program: &std::ffi::OsStr, arguments: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--mount-proc"]).arg(program).args(arguments).env(NODE, "");
        unshare.output()
    };
    // Not everybody may make a container.
    if !contained("true".as_ref(), &[]).is_ok_and(|made| made.status.success()) {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let test = ["--exact", "host::tests::node::as_the_first_process", "--nocapture"];
    let output = contained(program.as_os_str(), &test).unwrap();
    let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.contains("1 passed"), "{words}");
}

#[tokio::test]
async fn a_pid_that_is_another_process_by_now_is_left_alone() {
    let rig = Rig::new();
    let log = rig.dir.path().join("log");
    fs::create_dir(&log).unwrap();
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    let started = crate::host::procfs::stat(other.id()).unwrap().started;
    let boot = crate::host::procfs::boot();
    for (name, boot, started) in
        [("reused", boot.as_str(), started + 1), ("rebooted", "another", started), ("dead", &boot, 1)]
    {
        let file = serde_json::json!({
            "boot": boot, "pid": other.id(), "started": started, "mark": "FARSHORE_INSTANCE=none", "node": [u32::MAX, 1],
        });
        fs::write(log.join(format!("{name}.pid")), file.to_string()).unwrap();
    }
    fs::write(log.join("torn.pid"), "{\"boot\":").unwrap();
    assert_eq!(kill_leftovers(&log).unwrap(), 0);
    assert!(!is_gone(other.id()));
    assert_eq!(fs::read_dir(&log).unwrap().count(), 0);
    other.kill().unwrap();
    other.wait().unwrap();
}
