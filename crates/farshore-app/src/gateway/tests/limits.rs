//! Clients that hold on to a connection, and instances that do not answer.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::{GatewayLimits, Site, SiteState};
use super::doubles::{Answer, Client, HOST, Instance, Rig, any_port, here, until};
use super::tls;

/// For what is to end.
const SHORT: Duration = Duration::from_millis(300);
/// Where something else must be done within it: long enough for a busy machine.
const AMPLE: Duration = Duration::from_secs(3);

async fn rig(state: SiteState, limits: GatewayLimits) -> Rig {
    Rig::within("paris", state, limits).await
}

#[tokio::test]
async fn a_connection_without_a_whole_request_ends() {
    let instance = Instance::start("one").await;
    let limits = GatewayLimits { idle: AMPLE, leave: AMPLE, ..GatewayLimits::default() };
    let rig = rig(instance.here(), limits).await;
    let (mut silent, mut slow, mut quiet) = (rig.client().await, rig.client().await, rig.client().await);
    slow.send("GET / HTTP/1.1\r\nhost: ").await;
    assert_eq!(quiet.get("/").await.status, 200);
    let mut slow_again = rig.client().await;
    assert_eq!(slow_again.get("/").await.status, 200);
    slow_again.send("GET / HT").await;
    let mut http2 = rig.client().await;
    http2.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0").await;
    let mut settings = [0; 9];
    http2.stream.read_exact(&mut settings).await.unwrap();
    for client in [&mut silent, &mut slow, &mut quiet, &mut slow_again] {
        assert!(client.is_closed().await);
    }
    // What it says until its end is HTTP/2's.
    drop(
        tokio::time::timeout(super::doubles::PATIENCE, http2.stream.read_to_end(&mut Vec::new()))
            .await
            .unwrap(),
    );
}

#[tokio::test]
async fn a_request_under_way_is_no_idle_connection() {
    let instance = Instance::start("one").await;
    let limits = GatewayLimits { idle: AMPLE, leave: AMPLE, ..GatewayLimits::default() };
    let rig = rig(instance.here(), limits).await;
    let (mut busy, mut idle) = (rig.client().await, rig.client().await);
    busy.send(&format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\n\r\nha")).await;
    // Another one, opened later, has ended by then.
    assert!(idle.is_closed().await);
    busy.send("lf").await;
    assert_eq!(busy.answer().await.body, "half");
}

#[tokio::test]
async fn an_upload_that_stalls_is_broken_off() {
    let instance = Instance::start("one").await;
    let rig = rig(instance.here(), GatewayLimits { upload_stall: SHORT, ..GatewayLimits::default() }).await;
    let mut client = rig.client().await;
    client.send(&format!("POST /seen HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\n\r\n")).await;
    client.answer().await;
    let mut client = rig.client().await;
    client.send(&format!("POST /silent HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\n\r\nha")).await;
    client.answer().await.check_problem(502, &["todo"]);
    assert!(client.is_closed().await);
    until("nothing is under way", || rig.site.figures().under_way == 0).await;
}

#[tokio::test]
async fn an_instance_that_does_not_answer_is_given_up() {
    let instance = Instance::start("one").await;
    let rig = rig(instance.here(), GatewayLimits { answer: AMPLE, ..GatewayLimits::default() }).await;
    let mut client = rig.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.body, "one");
        client.get("/silent").await.check_problem(504, &["todo", "in time"]);
    }
}

/// Sends a byte every so often, for so long: the answer, how many bytes, and the longest time between two of them.
async fn upload(client: &mut Client, length: Duration, every: Duration) -> (Answer, usize, Duration) {
    let head = format!("POST /length HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(&head).await;
    let begun = tokio::time::Instant::now();
    let (mut last, mut sent, mut longest) = (begun, 0, Duration::ZERO);
    while begun.elapsed() < length {
        client.send("1\r\nx\r\n").await;
        sent += 1;
        tokio::time::sleep(every).await;
        longest = longest.max(last.elapsed());
        last = tokio::time::Instant::now();
    }
    client.send("0\r\n\r\n").await;
    let answer = client.answer().await;
    (answer, sent, longest.max(last.elapsed()))
}

#[tokio::test]
async fn an_upload_may_take_longer_than_an_answer() {
    const ANSWER: Duration = Duration::from_secs(2);
    let instance = Instance::start("one").await;
    let rig = rig(instance.here(), GatewayLimits { answer: ANSWER, ..GatewayLimits::default() }).await;
    let mut client = loop {
        let mut client = rig.client().await;
        let (answer, sent, longest_pause) = upload(&mut client, 3 * ANSWER, ANSWER / 20).await;
        // Of a machine that stood still meanwhile it is no wonder that nothing came for so long.
        if longest_pause < ANSWER / 2 {
            assert_eq!((answer.status, answer.body), (200, sent.to_string()));
            break client;
        }
    };
    // What does not go on is late as before.
    client.send(&format!("POST /silent HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\n\r\nhalf")).await;
    client.answer().await.check_problem(504, &["todo", "in time"]);
}

#[tokio::test]
async fn an_instance_takes_so_many_requests_and_no_more() {
    let instance = Instance::start("one").await;
    let rig = rig(instance.here(), GatewayLimits { under_way: 2, ..GatewayLimits::default() }).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = rig.client().await;
        client.send(&format!("GET /silent HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
        waiting.push(client);
    }
    until("both are under way", || rig.site.figures().under_way == 2).await;
    rig.get("/").await.check_problem(503, &["too many requests", "nothing was done"]);
    drop(waiting);
    until("nothing is under way", || rig.site.figures().under_way == 0).await;
    assert_eq!(rig.get("/").await.body, "one");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let instance = Instance::start("one").await;
    let rig = rig(instance.here(), GatewayLimits { connections: 1, ..GatewayLimits::default() }).await;
    let mut first = rig.client().await;
    assert_eq!(first.get("/").await.status, 200);
    let mut second = rig.client().await;
    second.send(&format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
    // A tunnel keeps the place of its connection.
    let upgrade =
        format!("GET /upgrade HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    assert_eq!(first.ask(&upgrade).await.status, 101);
    first.send("x").await;
    first.stream.read_exact(&mut [0]).await.unwrap();
    assert_eq!(rig.site.figures().requests, 2);
    drop(first);
    assert_eq!(second.answer().await.body, "one");
}

#[tokio::test]
async fn whoever_is_not_done_with_its_handshake_does_not_hold_up_the_end() {
    let (gateway, https) = tls::open(Some(&tls::made(HOST)), SiteState::Empty).await;
    let stream = TcpStream::connect(https).await.unwrap();
    let mut client = Client::of(stream);
    client.send("\u{16}\u{3}\u{1}").await;
    gateway.stop().await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let rig = Rig::new(here(&[listener.local_addr().unwrap()])).await;
    let instance = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(stream.read(&mut [0; 1024]).await);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    });
    let mut client = rig.client().await;
    client.send(&format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
    let mut seen = Vec::new();
    drop(client.stream.read_to_end(&mut seen).await);
    let seen = String::from_utf8(seen).unwrap();
    // What had not gone out when it broke off does not.
    assert!(seen.is_empty() || seen.contains("content-length: 10") && seen.ends_with("half"), "{seen}");
    instance.await.unwrap();
}

#[tokio::test]
async fn tunnels_of_an_app_that_is_replaced_or_removed_end() {
    let instance = Instance::start("one").await;
    let rig = rig(instance.here(), GatewayLimits { tunnel_grace: SHORT, ..GatewayLimits::default() }).await;
    let upgrade =
        format!("GET /upgrade HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    let mut replaced = rig.client().await;
    assert_eq!(replaced.ask(&upgrade).await.status, 101);
    let again =
        Site::new("todo", vec![HOST.to_owned()], Vec::new(), std::sync::Arc::new(super::doubles::GitDouble));
    again.set(instance.here());
    rig.gateway.put(std::sync::Arc::clone(&again)).unwrap();
    assert!(replaced.is_closed().await);
    // The same site once more is no change.
    let mut removed = rig.client().await;
    assert_eq!(removed.ask(&upgrade).await.status, 101);
    rig.gateway.put(std::sync::Arc::clone(&again)).unwrap();
    removed.send("x").await;
    removed.stream.read_exact(&mut [0]).await.unwrap();
    rig.gateway.remove("todo");
    assert!(removed.is_closed().await);
}
