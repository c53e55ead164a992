//! Coming up, failing to, ending and coming back.

use std::fs;

use tokio::net::TcpListener;

use super::*;
use crate::host::{Ending, StartFailure};

#[tokio::test]
async fn every_instance_answers_at_a_port_of_its_own_and_has_its_environment() {
    let rig = Rig::new();
    let host = rig.up("python3 server.py", 2).await;
    let addresses = addresses(&host);
    assert_eq!(addresses.len(), 2);
    for (address, number) in addresses.iter().zip(1..) {
        let seen = instance(&host, number);
        assert_eq!((seen.port, seen.restarts), (Some(address.port()), 0));
        // The command is the group's first process: no shell stays between it and the node.
        assert_eq!(get(*address).await, format!("{number} {} geheim", seen.pid.unwrap()));
        until("the first measure", || (instance(&host, number).memory_bytes > 1_000_000).then_some(())).await;
    }
    let pid = instance(&host, 1).pid.unwrap();
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert!(read("environ").contains("SECRET=geheim") && !read("cmdline").contains("geheim"));
    assert!(!read("environ").contains("CARGO"), "the node's own environment is not the app's");
    host.stop(WITHIN).await;
    // What was printed is written when the disk is free.
    let line = rig.logged(" 1 out ").await;
    assert!(line.ends_with(" 1 out listening"), "{line}");
    assert!(!rig.log().await.concat().contains("geheim"));
    assert!(host.view().instances.is_empty() && host.addresses().borrow().is_empty());
}

#[tokio::test]
async fn a_command_that_is_not_there_fails_at_once_with_the_shells_words() {
    let rig = Rig::new();
    let host = rig.host("no-such-program --now", 1);
    let failure = host.up(WITHIN).await.unwrap_err();
    let StartFailure::Ended { ending, lines, .. } = &failure else { panic!("{failure}") };
    assert_eq!(*ending, Ending::Exited { status: 127 });
    assert!(lines.concat().contains("no-such-program"), "{lines:?}");
    host.stop(WITHIN).await;
}

#[tokio::test]
async fn a_command_that_ends_again_and_again_fails_with_its_status_and_last_lines() {
    let rig = Rig::new();
    let host = rig.host("echo first; echo 'no database' >&2; exit 3", 1);
    let failure = host.up(WITHIN).await.unwrap_err();
    assert!(
        failure.to_string().contains("ended with status 3 before it answered, 5 times in a row"),
        "{failure}"
    );
    assert!(failure.to_string().contains("\n  | no database"), "{failure}");
    host.stop(WITHIN).await;
    let still = host.up(WITHIN).await.unwrap_err();
    assert_eq!(still, StartFailure::Stopped { name: "todo".to_owned() });
}

#[tokio::test]
async fn a_command_that_does_not_listen_is_late_and_says_so() {
    let rig = Rig::new();
    let listens_elsewhere = "python3 -u -c '
import socket, time
listener = socket.create_server((\"127.0.0.1\", 0))
print(listener.getsockname()[1])
time.sleep(1000)'";
    let host = rig.host(listens_elsewhere, 1);
    let line = rig.logged(" 1 out ").await;
    let port = line.rsplit(' ').next().unwrap();
    let failure = host.up(Duration::from_millis(400)).await.unwrap_err();
    assert!(
        failure.to_string().starts_with("instance 1 of todo was not up within 400ms: nothing listens"),
        "{failure}"
    );
    assert!(failure.to_string().contains(&format!("(it listens on port {port})")), "{failure}");
    assert!(failure.to_string().ends_with(&format!("\n  | {port}")), "{failure}");
    host.stop(WITHIN).await;
}

#[tokio::test]
async fn an_app_that_takes_localhost_for_the_newer_address_is_found_there() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let rig = Rig::new();
    let newer = SERVER
        .replace("\"127.0.0.1\"", "\"::1\"")
        .replace("server = http", "http.server.ThreadingHTTPServer.address_family = 10\nserver = http");
    fs::write(rig.file("server.py"), newer).unwrap();
    let host = rig.up("python3 server.py", 1).await;
    let address = addresses(&host)[0];
    assert_eq!((address.ip().to_string().as_str(), Some(address.port())), ("::1", instance(&host, 1).port));
    assert!(get(address).await.starts_with("1 "));
    host.stop(WITHIN).await;
}

#[tokio::test]
async fn a_release_that_is_not_there_is_named() {
    let rig = Rig::new();
    fs::remove_dir_all(rig.dir.path().join("release")).unwrap();
    let failure = rig.host("python3 server.py", 1).up(WITHIN).await.unwrap_err();
    assert!(failure.to_string().contains("could not be started: cannot run /bin/sh in "), "{failure}");
}

#[tokio::test]
async fn a_killed_instance_comes_back_and_the_other_does_not_notice() {
    let rig = Rig::new();
    let host = rig.up("python3 server.py", 2).await;
    let (first, second) = (instance(&host, 1), instance(&host, 2));
    kill(first.pid.unwrap(), Signal::SEGV);
    let again = until("the restart", || back(&host, 1, 1)).await;
    assert_eq!(again.last_ending, Some(Ending::Killed { signal: 11 }));
    assert_ne!(again.pid, first.pid);
    assert_eq!(addresses(&host).len(), 2);
    assert_eq!(instance(&host, 2).pid, second.pid);
    host.stop(WITHIN).await;
}

#[tokio::test]
async fn an_instance_that_falls_silent_or_sick_is_replaced() {
    // The sick one is to be heard, however long it takes on a busy machine.
    let impatient = Pace { look_timeout: Duration::from_millis(300), ..hurried() };
    for (ail, pace, words) in
        [("mute-1", impatient, "no answer within 300ms"), ("sick-1", hurried(), "answered with status 500")]
    {
        let rig = Rig::new();
        let command = format!("rm -f {ail}; exec python3 server.py");
        let host = Host::spawn_at(rig.options(&command, 1), pace);
        host.up(WITHIN).await.unwrap();
        fs::write(rig.file(ail), "").unwrap();
        let again = until("the restart", || back(&host, 1, 1)).await;
        let ending = again.last_ending.unwrap().to_string();
        assert!(ending.contains(words), "{ending}");
        host.stop(WITHIN).await;
    }
}

#[tokio::test]
async fn one_miss_is_not_the_end_of_an_instance() {
    let rig = Rig::new();
    let pace = Pace { look_timeout: Duration::from_millis(300), misses_max: 1000, ..hurried() };
    let host = Host::spawn_at(rig.options("python3 server.py", 1), pace);
    host.up(WITHIN).await.unwrap();
    let before = instance(&host, 1);
    fs::write(rig.file("mute-1"), "").unwrap();
    until("a miss", || (instance(&host, 1).state == InstanceState::Unresponsive).then_some(())).await;
    // It may be busy: it keeps what it has, and is still asked.
    assert_eq!(addresses(&host).len(), 1);
    fs::remove_file(rig.file("mute-1")).unwrap();
    let after = until("the answer", || back(&host, 1, 0)).await;
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
    host.stop(WITHIN).await;
}

/// A host whose instance does not listen yet, and another program at the instance's port.
async fn taken() -> (Rig, Arc<Host>, TcpListener) {
    let command =
        "if [ -e taken ]; then exec python3 server.py; fi; echo $PORT >new; mv new taken; exec sleep 1000";
    let deadline = tokio::time::Instant::now() + WITHIN;
    loop {
        let rig = Rig::new();
        let host = rig.host(command, 1);
        let port = until("the choice", || number_in(&rig.file("taken"))).await;
        // Somebody else on this machine may be quicker; then there is another choice.
        match TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).await {
            Ok(listener) => return (rig, host, listener),
            Err(why) => assert!(tokio::time::Instant::now() < deadline, "{why}"),
        }
        host.stop(WITHIN).await;
    }
}

#[tokio::test]
async fn a_port_that_another_program_took_in_between_is_not_believed() {
    let (_rig, host, listener) = taken().await;
    let port = listener.local_addr().unwrap().port();
    let other = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let seen = until("the second start", || back(&host, 1, 1)).await;
    assert_eq!(seen.last_ending, Some(Ending::PortTaken { port }));
    assert_ne!(seen.port, Some(port));
    assert!(get(addresses(&host)[0]).await.starts_with("1 "));
    other.abort();
    host.stop(WITHIN).await;
}

#[tokio::test]
async fn scaling_leaves_the_others_alone() {
    let rig = Rig::new();
    let host = rig.up("python3 server.py", 1).await;
    let first = instance(&host, 1);
    host.scale(3, Limits::NONE).await;
    host.up(WITHIN).await.unwrap();
    assert_eq!(addresses(&host).len(), 3);
    let pids: Vec<u32> = host.view().instances.iter().map(|each| each.pid.unwrap()).collect();
    host.scale(1, Limits::NONE).await;
    assert_eq!((addresses(&host).len(), host.view().instances.len()), (1, 1));
    assert!(is_gone(pids[1]) && is_gone(pids[2]));
    assert_eq!((instance(&host, 1).pid, instance(&host, 1).restarts), (first.pid, 0));
    // Given up half way, and then wanted otherwise.
    host.scale(2, Limits::NONE).await;
    host.up(WITHIN).await.unwrap();
    assert!(tokio::time::timeout(Duration::ZERO, host.scale(1, Limits::NONE)).await.is_err());
    host.scale(2, Limits::NONE).await;
    host.up(WITHIN).await.unwrap();
    assert_eq!(addresses(&host).len(), 2);
    assert_eq!(instance(&host, 1).pid, first.pid);
    host.stop(WITHIN).await;
    host.scale(2, Limits::NONE).await;
    assert!(host.view().instances.is_empty(), "a host that was stopped starts nothing");
}
