//! Members on this machine: they keep their data, and nothing of them is left behind.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use farshore_core::store::{Store, Transaction, Write};
use farshore_store::EtcdStore;
use farshore_store::etcd::EtcdOptions;
use farshore_store::etcd::local::{LocalError, Members};

use crate::cluster::{DEADLINE, NAMES, PATIENT};

/// Set in the child, to a directory.
const DIRECTORY: &str = "FARSHORE_TEST_MEMBERS_DIR";

/// In the child: starts members, tells their processes and waits to be killed. As a test of its own it does nothing.
#[tokio::test]
async fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let members = Members::start(Path::new(&directory), &NAMES, None).await.unwrap();
    for name in NAMES {
        println!("member {}", members.pid(name).unwrap());
    }
    std::future::pending::<()>().await;
}

fn is_running(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn members_do_not_outlive_a_parent_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "etcd_members::child", "--nocapture"]).env(DIRECTORY, directory.path());
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut pids: Vec<u32> = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((_, pid)) = line.split_once("member ") else { continue };
        pids.push(pid.parse().unwrap());
        if pids.len() == NAMES.len() {
            break;
        }
    }
    assert!(pids.len() == NAMES.len() && pids.iter().all(|pid| is_running(*pid)), "{pids:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + DEADLINE;
    while pids.iter().any(|pid| is_running(*pid)) {
        assert!(Instant::now() < deadline, "members live on: {pids:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn store(members: &Members) -> EtcdStore {
    let endpoints = members.endpoints();
    EtcdStore::connect(EtcdOptions { endpoints, call_timeout: PATIENT, ..EtcdOptions::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_keep_their_data_and_ports() {
    let directory = tempfile::tempdir().unwrap();
    let mut members = Members::start(directory.path(), &NAMES, None).await.unwrap();
    let endpoints = members.endpoints();
    let writes = vec![Write::Put("a".into(), b"1".to_vec())];
    let revision = store(&members).commit(Transaction { compares: vec![], writes }).await.unwrap();
    let pid = members.pid("oslo").unwrap();
    members.kill("oslo").await.unwrap();
    assert!(members.pid("oslo").is_none() && !is_running(pid));
    members.kill("oslo").await.unwrap();
    members.restart("oslo").await.unwrap();
    assert_ne!(members.pid("oslo"), Some(pid));
    members.stop().await.unwrap();
    drop(members);

    let members = Members::start(directory.path(), &NAMES, None).await.unwrap();
    assert_eq!(members.endpoints(), endpoints);
    assert_eq!(store(&members).get("a").await.unwrap().unwrap().revision, revision);
    drop(members);
    let refused = Members::start(directory.path(), &["others"], None).await.unwrap_err().to_string();
    assert!(refused.contains("use another directory"), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_started_says_how_to_mend_it() {
    let directory = tempfile::tempdir().unwrap();
    let missing = Path::new("/nonexistent/etcd");
    let refused = Members::start(&directory.path().join("a"), &["one"], Some(missing)).await.unwrap_err();
    assert!(matches!(refused, LocalError::Program { .. }), "{refused}");
    assert!(refused.to_string().contains("apt-get install etcd-server"), "{refused}");
    let wrong = Path::new("/bin/false");
    let refused = Members::start(&directory.path().join("b"), &["one"], Some(wrong)).await.unwrap_err();
    assert!(matches!(refused, LocalError::Ended { .. }), "{refused}");
}
