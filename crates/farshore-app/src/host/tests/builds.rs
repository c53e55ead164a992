//! Builds: nothing of them is left, whatever ends first.

use std::process::{Child, Command, Stdio};

use super::*;
use crate::host::{Build, BuildOptions, gone, kill_leftovers};

/// Says to this program, started again, that it is the node that builds, and where.
const BUILDER: &str = "FARSHORE_BUILD_TEST_NODE";
/// A build with somebody in its group, and somebody who has left it. They write down who they are, all at once.
const LONG: &str = "trap '' HUP TERM INT
    setsid sh -c 'echo $$ >new1; mv new1 outsider; exec sleep 1000' &
    sh -c 'echo $$ >new2; mv new2 member; exec sleep 1000' & wait";

fn start(dir: &Path, command: &str) -> Build {
    let env = [("SECRET".to_owned(), "geheim".to_owned())];
    let options = BuildOptions { command, dir: &dir.join("release"), env: &env, log_dir: &dir.join("log") };
    assert!(!format!("{options:?}").contains("geheim"));
    Build::start(&options).unwrap()
}

/// Those of [`LONG`], once they are there.
async fn people(rig: &Rig) -> [u32; 2] {
    let member = until("the member", || number_in(&rig.file("member"))).await;
    let outsider = until("the outsider", || number_in(&rig.file("outsider"))).await;
    assert!(!is_gone(member) && !is_gone(outsider));
    [member, outsider]
}

fn pid_files(rig: &Rig) -> usize {
    let files = fs::read_dir(rig.dir.path().join("log")).unwrap().map(Result::unwrap);
    files.filter(|file| file.path().extension().is_some_and(|extension| extension == "pid")).count()
}

#[tokio::test]
async fn a_build_says_what_it_did_and_leaves_nobody() {
    let rig = Rig::new();
    let command = "echo $SECRET $FARSHORE_INSTANCE ${PORT-none}; cat; echo wrong >&2
                   sleep 1000 >/dev/null 2>&1 & echo $! >new; mv new member; exit 3";
    let mut build = start(rig.dir.path(), command);
    let (out, err) = build.output();
    let (mut said, mut wrong) = (String::new(), String::new());
    out.unwrap().read_to_string(&mut said).await.unwrap();
    err.unwrap().read_to_string(&mut wrong).await.unwrap();
    assert!(said.starts_with("geheim build-") && said.ends_with(" none\n"), "{said}");
    assert_eq!(wrong, "wrong\n");
    assert_eq!(build.ended().await.unwrap().code(), Some(3));
    let member = number_in(&rig.file("member")).unwrap();
    assert_eq!((is_gone(member), pid_files(&rig)), (false, 1));
    build.end().await;
    assert_eq!((is_gone(member), pid_files(&rig)), (true, 0));
}

#[tokio::test]
async fn a_build_that_is_given_up_is_ended_with_all_of_its_processes() {
    for is_dropped in [true, false] {
        let rig = Rig::new();
        let build = start(rig.dir.path(), LONG);
        let people = people(&rig).await;
        match is_dropped {
            true => drop(build),
            false => build.end().await,
        }
        tokio::time::timeout(WITHIN, gone(&rig.dir.path().join("log"))).await.unwrap();
        assert!(people.into_iter().all(is_gone));
        until("the pid file is removed", || (pid_files(&rig) == 0).then_some(())).await;
    }
}

/// The node of the next test, when it is told to be; otherwise nothing.
#[tokio::test]
async fn as_a_builder() {
    let Ok(dir) = std::env::var(BUILDER) else { return };
    let mut build = start(Path::new(&dir), LONG);
    fs::write(Path::new(&dir).join("begun"), "").unwrap();
    build.ended().await.unwrap();
}

fn builder(rig: &Rig) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host::tests::builds::as_a_builder", "--nocapture"])
        .env(BUILDER, rig.dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_killed_node_takes_its_build_along_and_the_next_one_finds_who_left_it() {
    let rig = Rig::new();
    let mut node = builder(&rig);
    let [member, outsider] = people(&rig).await;
    let begun = rig.dir.path().join("begun");
    until("the build is noted", || begun.exists().then_some(())).await;
    let log = rig.dir.path().join("log");
    assert_eq!(kill_leftovers(&log).unwrap(), 0, "the node is alive");
    node.kill().unwrap();
    node.wait().unwrap();
    until("the end of the group", || is_gone(member).then_some(())).await;
    assert!(!is_gone(outsider));
    assert_eq!(kill_leftovers(&log).unwrap(), 1);
    assert!(is_gone(outsider));
    assert_eq!(pid_files(&rig), 0);
}
