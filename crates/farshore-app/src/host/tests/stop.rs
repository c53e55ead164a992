//! Ending: politely, by force, and without anybody left.

use std::fs;
use std::time::Duration;

use super::*;

/// A server, a worker in its group, and one that has left the group for a session of its own.
const FAMILY: &str = "sleep 1000 & echo $! >new; mv new worker
                      setsid sh -c 'echo $$ >new2; mv new2 outsider; exec sleep 1000' &
                      exec python3 server.py";

async fn family(rig: &Rig) -> [u32; 2] {
    let worker = until("the worker", || number_in(&rig.file("worker"))).await;
    let outsider = until("the outsider", || number_in(&rig.file("outsider"))).await;
    assert!(!is_gone(worker) && !is_gone(outsider));
    [worker, outsider]
}

fn pid_files(rig: &Rig) -> usize {
    let entries = fs::read_dir(rig.dir.path().join("log")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "pid")).count()
}

#[tokio::test]
async fn nobody_is_left_after_a_stop() {
    let rig = Rig::new();
    let host = rig.up(FAMILY, 1).await;
    let [worker, outsider] = family(&rig).await;
    let leader = instance(&host, 1).pid.unwrap();
    assert_eq!(pid_files(&rig), 1);
    host.stop(WITHIN).await;
    assert!(crate::host::procfs::stat(leader).is_none(), "it was waited for");
    assert!(is_gone(worker) && is_gone(outsider));
    assert_eq!(pid_files(&rig), 0);
    host.stop(WITHIN).await;
}

#[tokio::test]
async fn nobody_is_left_after_a_crash_either() {
    let rig = Rig::new();
    let host = rig.up(FAMILY, 1).await;
    let [worker, outsider] = family(&rig).await;
    fs::remove_file(rig.file("worker")).unwrap();
    let leader =
        rustix::process::Pid::from_raw(i32::try_from(instance(&host, 1).pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(leader, rustix::process::Signal::KILL).unwrap();
    until("the restart", || back(&host, 1, 1)).await;
    assert!(is_gone(worker) && is_gone(outsider), "what an earlier run left would hold its files");
    host.stop(WITHIN).await;
}

#[tokio::test]
async fn an_app_may_finish_what_it_is_doing() {
    let rig = Rig::new();
    // Ends only when the file `go` is there: after the stop was asked for.
    let command = "trap 'while [ ! -e go ]; do sleep 0.01; done; echo done >finished; exit 0' TERM
                   python3 server.py & echo $! >new; mv new server; while :; do sleep 0.1; done";
    let host = rig.up(command, 1).await;
    let server = until("the server", || number_in(&rig.file("server"))).await;
    let stopping = tokio::spawn({
        let host = Arc::clone(&host);
        async move { host.stop(WITHIN).await }
    });
    until("the polite end of the server", || is_gone(server).then_some(())).await;
    assert!(host.addresses().borrow().is_empty());
    assert!(!stopping.is_finished());
    fs::write(rig.file("go"), "").unwrap();
    stopping.await.unwrap();
    assert!(rig.file("finished").exists());
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_its_server_is_asked_to_end() {
    let rig = Rig::new();
    let host = rig.up("python3 server.py", 2).await;
    let second = addresses(&host)[1];
    let request = tokio::spawn(get_path(second, "/slow"));
    until("the request", || rig.file("asked-slow").exists().then_some(())).await;
    let scaling = tokio::spawn({
        let host = Arc::clone(&host);
        async move { host.scale(1, Limits::NONE).await }
    });
    host.addresses().wait_for(|addresses| addresses.len() == 1).await.unwrap();
    fs::write(rig.file("go"), "").unwrap();
    // The server does not care for requests when it is asked to end.
    assert!(request.await.unwrap().starts_with("2 "));
    scaling.await.unwrap();
    host.stop(WITHIN).await;
}

#[tokio::test]
async fn workers_of_an_ended_leader_may_finish_too() {
    let rig = Rig::new();
    let worker = "trap '' TERM; echo $$ >new; mv new worker
                  until [ -e go ]; do sleep 0.01; done; echo done >finished";
    let host =
        rig.up(&format!("sh -c '{}' & exec python3 server.py", worker.replace('\'', "'\\''")), 1).await;
    until("the worker", || number_in(&rig.file("worker"))).await;
    let leader = instance(&host, 1).pid.unwrap();
    let stopping = tokio::spawn({
        let host = Arc::clone(&host);
        async move { host.stop(WITHIN).await }
    });
    until("the leader's end", || is_gone(leader).then_some(())).await;
    fs::write(rig.file("go"), "").unwrap();
    stopping.await.unwrap();
    assert!(rig.file("finished").exists());
}

#[tokio::test]
async fn who_does_not_want_to_end_is_killed_after_the_grace() {
    let rig = Rig::new();
    let host = rig.up("trap '' TERM; python3 server.py", 1).await;
    let leader = instance(&host, 1).pid.unwrap();
    host.stop(Duration::from_millis(50)).await;
    assert!(crate::host::procfs::stat(leader).is_none());
}

#[tokio::test]
async fn the_shortest_grace_holds() {
    let rig = Rig::new();
    let host = rig
        .up("trap : TERM; python3 server.py & echo $! >new; mv new server; while :; do sleep 0.1; done", 1)
        .await;
    let server = until("the server", || number_in(&rig.file("server"))).await;
    let leader = instance(&host, 1).pid.unwrap();
    let patient = tokio::spawn({
        let host = Arc::clone(&host);
        async move { host.stop(WITHIN * 100).await }
    });
    until("the first stop", || is_gone(server).then_some(())).await;
    assert!(!is_gone(leader));
    host.stop(Duration::ZERO).await;
    assert!(is_gone(leader));
    patient.await.unwrap();
}

#[tokio::test]
async fn a_stop_that_is_given_up_goes_on_and_can_be_waited_for() {
    let rig = Rig::new();
    let host = rig.up(FAMILY, 1).await;
    let [worker, outsider] = family(&rig).await;
    assert!(tokio::time::timeout(Duration::ZERO, host.stop(Duration::ZERO)).await.is_err());
    drop(host);
    tokio::time::timeout(WITHIN, crate::host::gone(&rig.dir.path().join("log"))).await.unwrap();
    assert!(is_gone(worker) && is_gone(outsider));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_pause() {
    let rig = Rig::new();
    let pace = Pace { pause_first: WITHIN * 100, pause_max: WITHIN * 100, ..hurried() };
    let host = Host::spawn_at(rig.options("exit 1", 1), pace);
    until("the pause", || (instance(&host, 1).state == InstanceState::Waiting).then_some(())).await;
    tokio::time::timeout(WITHIN, host.stop(WITHIN)).await.unwrap();
}

#[tokio::test]
async fn a_dropped_host_takes_its_processes_along() {
    let rig = Rig::new();
    let host = rig.up(FAMILY, 1).await;
    let [worker, outsider] = family(&rig).await;
    drop(host);
    until("their end", || (is_gone(worker) && is_gone(outsider)).then_some(())).await;
}
