//! The node dies in the middle of a push.

use std::path::PathBuf;
use std::process::Stdio;

use super::rig::{Rig, git, until, users_of};
use crate::scripts::Repository;

/// Tells the process that is to die where to write its port and the repository's place.
const NODE: &str = "FARSHORE_TEST_NODE_THAT_DIES";

/// Not a test of its own: the node of the test below, in a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by another test"]
async fn a_node_that_dies() {
    let Some(told) = std::env::var_os(NODE).map(PathBuf::from) else { return };
    let rig = Rig::new().await;
    rig.deployer.gate.forget_permits(1_000);
    let words = format!("{}\n{}", rig.port, rig.repository.dir().display());
    std::fs::write(told.join("new"), words).unwrap();
    std::fs::rename(told.join("new"), told.join("node")).unwrap();
    until("somebody pushes", || !rig.deployer.commits.lock().unwrap().is_empty()).await;
    std::fs::write(told.join("deploying"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_takes_its_gits_with_it_and_what_was_pushed_is_there() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    let told = rig.dir.path();
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "scripts::tests::node::a_node_that_dies"]).env(NODE, told);
    let mut node = command.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    until("the node serves", || told.join("node").exists()).await;
    let words = std::fs::read_to_string(told.join("node")).unwrap();
    let (port, dir) = words.split_once('\n').unwrap();
    let url = format!("http://ann:token@127.0.0.1:{port}/");
    let pusher = super::rig::client(&work, &["push", &url, "main"]).spawn().unwrap();
    until("the hook waits for the deploy", || told.join("deploying").exists()).await;
    assert!(users_of(dir).len() >= 4, "git, what it started, the hook and the guard");
    node.kill().await.unwrap();
    until("the last process of the push ends", || users_of(dir).is_empty()).await;
    assert!(!pusher.wait_with_output().await.unwrap().status.success());
    let again = Repository::open_or_init(dir).unwrap();
    assert_eq!(again.head().await.unwrap().unwrap().id, git(&work, &["rev-parse", "HEAD"]).await);
    assert_eq!(std::fs::read_dir(again.dir().join("push")).unwrap().count(), 0);
    std::fs::remove_dir_all(PathBuf::from(dir).parent().unwrap()).unwrap();
}
