//! An answer goes on only when what it says is safe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use super::super::{Pass, SiteState};
use super::doubles::{Client, HOST, Instance, PATIENCE, PassDouble, Rig, any_port, until};

async fn rig(instance: &Instance, free: bool, answer: Result<(), &'static str>) -> (Rig, Arc<PassDouble>) {
    let pass = Arc::new(PassDouble { free, answer, asked: AtomicUsize::new(0) });
    let state = SiteState::Here { instances: [instance.address].into(), pass: Some(pass.clone()) };
    (Rig::new(state).await, pass)
}

#[tokio::test]
async fn an_answer_is_held_until_it_is_safe() {
    let instance = Instance::start("one").await;
    let (rig, pass) = rig(&instance, false, Ok(())).await;
    assert_eq!(rig.get("/").await.body, "one");
    // What was there with its head is not asked about again.
    assert_eq!(pass.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_safe_already_is_not_waited_for() {
    let instance = Instance::start("one").await;
    let (rig, pass) = rig(&instance, true, Err("never asked")).await;
    assert_eq!(rig.get("/").await.body, "one");
    let upgrade =
        format!("GET /upgrade HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    let mut tunnel = rig.client().await;
    assert_eq!(tunnel.ask(&upgrade).await.status, 101);
    tunnel.send("x").await;
    tunnel.stream.read_exact(&mut [0]).await.unwrap();
    assert_eq!(pass.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_that_is_not_safe_is_not_given() {
    let instance = Instance::start("one").await;
    let (rig, _) = rig(&instance, false, Err("region oslo does not confirm")).await;
    let post = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nhi");
    let answer = rig.client().await.ask(&post).await;
    answer.check_problem(503, &["region oslo does not confirm", "may have been done", "not safe yet"]);
    assert_eq!(answer.header("retry-after"), Some("1"));
    let upgrade =
        format!("GET /upgrade HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    assert_eq!(rig.client().await.ask(&upgrade).await.status, 503);
    assert_eq!(rig.site.figures().tunnels, 0);
}

/// Free, until it is not; then whoever asks waits for the word.
#[derive(Debug)]
struct Turning {
    is_free: AtomicBool,
    answer: Result<(), &'static str>,
    asked: AtomicUsize,
    word: Semaphore,
}

#[async_trait]
impl Pass for Turning {
    fn free(&self) -> bool {
        self.is_free.load(Ordering::SeqCst)
    }

    async fn wait(&self) -> Result<(), String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.word.acquire().await.unwrap().forget();
        self.answer.map_err(str::to_owned)
    }
}

/// An instance that sends `head` at once and `rest` when it is told to.
async fn in_pieces(
    head: &'static str,
    rest: &'static str,
    answer: Result<(), &'static str>,
) -> (Rig, Arc<Turning>, oneshot::Sender<()>) {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let (is_free, asked, word) = (AtomicBool::new(true), AtomicUsize::new(0), Semaphore::new(0));
    let pass = Arc::new(Turning { is_free, answer, asked, word });
    let instances = [listener.local_addr().unwrap()].into();
    let rig = Rig::new(SiteState::Here { instances, pass: Some(pass.clone()) }).await;
    let (go, told) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(stream.read(&mut [0; 1024]).await);
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).await.unwrap();
        told.await.unwrap();
        stream.write_all(rest.as_bytes()).await.unwrap();
        // Until the gateway has done with it.
        drop(stream.read(&mut [0; 1]).await);
    });
    (rig, pass, go)
}

/// Reads until these bytes are there.
async fn read_to(client: &mut Client, seen: &mut Vec<u8>, end: &str) {
    let read = async {
        while !String::from_utf8_lossy(seen).ends_with(end) {
            assert!(client.stream.read_buf(seen).await.unwrap() > 0, "{}", String::from_utf8_lossy(seen));
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
}

/// The last of what came in pieces, and what of it came.
const CASES: [(&str, &str, &str, &str); 3] = [
    ("transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n", "first\r\n", "4\r\ndone\r\n", "done\r\n"),
    // The end says something, too.
    ("transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n", "first\r\n", "0\r\n\r\n", "0\r\n\r\n"),
    ("content-length: 9\r\n\r\nfirst", "first", "done", "done"),
];

#[tokio::test]
async fn what_comes_after_the_head_is_held_until_it_is_safe() {
    for (head, first, rest, last) in CASES {
        let (rig, pass, go) = in_pieces(head, rest, Ok(())).await;
        let (mut client, mut seen) = (rig.client().await, Vec::new());
        client.send(&format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
        read_to(&mut client, &mut seen, first).await;
        pass.is_free.store(false, Ordering::SeqCst);
        go.send(()).unwrap();
        until("it is asked", || pass.asked.load(Ordering::SeqCst) == 1).await;
        let early = client.stream.try_read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(early, Err(std::io::ErrorKind::WouldBlock), "{rest:?}");
        pass.word.add_permits(1);
        read_to(&mut client, &mut seen, last).await;
    }
}

#[tokio::test]
async fn what_comes_after_the_head_and_is_not_safe_breaks_the_answer_off() {
    for (head, first, rest, last) in CASES {
        let (rig, pass, go) = in_pieces(head, rest, Err("the right is lost")).await;
        let (mut client, mut seen) = (rig.client().await, Vec::new());
        client.send(&format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
        read_to(&mut client, &mut seen, first).await;
        pass.is_free.store(false, Ordering::SeqCst);
        pass.word.add_permits(1);
        go.send(()).unwrap();
        drop(tokio::time::timeout(PATIENCE, client.stream.read_to_end(&mut seen)).await.unwrap());
        let seen = String::from_utf8(seen).unwrap();
        assert!(seen.ends_with(first) && !seen.ends_with(last), "{seen}");
        until("nothing is under way", || rig.site.figures().under_way == 0).await;
    }
}
