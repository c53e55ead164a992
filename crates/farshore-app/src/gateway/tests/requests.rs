//! What goes on and what does not; who may come in.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::{KeyRule, SiteState};
use super::doubles::{Client, GIT_HOST, HOST, Instance, PATIENCE, Rig, any_port, here, until};

#[tokio::test]
async fn a_request_goes_to_the_app_that_its_host_names() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    assert_eq!(rig.get("/").await.body, "one");
    let mut client = rig.client().await;
    let answer = client.ask("GET / HTTP/1.1\r\nhost: TODO.Example.:81\r\n\r\n").await;
    assert_eq!(answer.body, "one");
    let answer =
        client.ask(&format!("GET http://{HOST}/seen?a=b HTTP/1.1\r\nhost: other\r\n\r\n")).await.json();
    assert_eq!(answer["uri"], "/seen?a=b");
    assert_eq!(answer["headers"]["host"][0], HOST);
}

#[tokio::test]
async fn an_unknown_host_is_named() {
    let rig = Rig::new(SiteState::Empty).await;
    let mut client = rig.client().await;
    let answer = client.ask("GET / HTTP/1.1\r\nhost: nobody.example:80\r\n\r\n").await;
    answer.check_problem(404, &["nobody.example", "paris", "check the name"]);
    client.ask("GET / HTTP/1.1\r\n\r\n").await.check_problem(400, &["Host"]);
    client.ask("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await.check_problem(400, &["more than one"]);
    let connect = format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    client.ask(&connect).await.check_problem(405, &["no proxy"]);
}

#[tokio::test]
async fn an_app_without_a_release_says_so() {
    let rig = Rig::new(SiteState::Empty).await;
    assert!(rig.get("/").await.body.contains("nothing is deployed"));
    let status = rig.get("/status").await;
    assert_eq!((status.status, status.body.as_str()), (200, ""));
    rig.get("/tables/todo").await.check_problem(404, &["todo", "push"]);
    let git =
        rig.client().await.ask(&format!("GET /todo.git/HEAD HTTP/1.1\r\nhost: {GIT_HOST}\r\n\r\n")).await;
    assert_eq!(git.body, "git /todo.git/HEAD");
}

#[tokio::test]
async fn an_instance_learns_who_asks_and_nothing_of_the_connection() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let request = format!(
        "GET /seen HTTP/1.1\r\nhost: {HOST}\r\nconnection: keep-alive, x-once, host\r\nx-once: 1\r\nkeep-alive: 5\r\n\
         te: trailers, gzip\r\nproxy-authorization: x\r\nfarshore-forwarded-by: liar\r\nx-forwarded-for: 10.0.0.1\r\n\
         x-zumo-application: key\r\ncookie: a=1\r\ncookie: b=2\r\n\r\n"
    );
    let seen = rig.client().await.ask(&request).await.json();
    let expected = serde_json::json!({
        "host": [HOST], "te": ["trailers"], "x-forwarded-for": ["10.0.0.1, 127.0.0.1"], "x-forwarded-proto": ["http"],
        "x-forwarded-host": [HOST], "x-zumo-application": ["key"], "cookie": ["a=1; b=2"],
    });
    assert_eq!(seen["headers"], expected);
}

#[tokio::test]
async fn an_answer_says_nothing_of_the_instances_connection() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let mut client = rig.client().await;
    let answer = client.get("/hop-by-hop").await;
    assert_eq!(answer.header("x-yours"), Some("2"));
    for gone in ["connection", "keep-alive", "x-mine"] {
        assert_eq!(answer.header(gone), None);
    }
    // The client's own connection goes on.
    assert_eq!(client.get("/").await.body, "one");
}

#[tokio::test]
async fn bodies_are_passed_on_as_they_come() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let mut client = rig.client().await;
    let head = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n");
    // The instance answers while the client is still sending.
    client.send(&head).await;
    client.send("5\r\nfirst\r\n").await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("first") {
        assert!(client.stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    client.send("6\r\nsecond\r\n0\r\n\r\n").await;
    while !String::from_utf8_lossy(&seen).contains("second\r\n0\r\n\r\n") {
        assert!(client.stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    assert_eq!(client.get("/").await.body, "one");
    // The gateway drops an answer when its last byte has gone out, which the client may see before.
    until("bytes of both directions", || rig.site.figures().bytes >= 22).await;
}

#[tokio::test]
async fn an_upload_that_the_client_does_not_read_the_answer_of_goes_on() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let client = rig.client().await;
    let (mut read, mut write) = client.stream.into_split();
    const PIECES: usize = 64;
    let piece = vec![b'x'; 64 * 1024];
    let length = PIECES * piece.len();
    let upload = tokio::spawn(async move {
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        write.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..PIECES {
            write.write_all(&piece).await.unwrap();
        }
        write
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    drop(upload.await.unwrap());
    assert!(back.iter().filter(|byte| **byte == b'x').count() >= length, "{} of {length}", back.len());
}

#[tokio::test]
async fn an_upload_goes_on_behind_an_answer_that_came_before_its_end() {
    const LENGTH: usize = 1 << 20;
    for answer in ["204 No Content\r\n\r\n", "202 Accepted\r\ncontent-length: 0\r\n\r\n"] {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let rig = Rig::new(here(&[listener.local_addr().unwrap()])).await;
        let instance = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !String::from_utf8_lossy(&seen).contains("\r\n\r\n") {
                assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
            }
            stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
            let mut came = 0;
            while came < LENGTH {
                let mut piece = [0; 64 * 1024];
                let read = stream.read(&mut piece).await.unwrap();
                assert!(read > 0, "it ended after {came}");
                came += read;
            }
            came
        });
        let mut client = rig.client().await;
        client.send(&format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {LENGTH}\r\n\r\n")).await;
        assert_eq!(client.head().await.status.to_string(), answer[..3]);
        let upload = async {
            client.send(&"x".repeat(LENGTH)).await;
            instance.await.unwrap()
        };
        assert_eq!(tokio::time::timeout(PATIENCE, upload).await.unwrap(), LENGTH);
    }
}

#[tokio::test]
async fn connections_to_an_instance_are_used_again() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    for _ in 0..3 {
        let mut client = rig.client().await;
        for path in ["/", "/seen", "/missing"] {
            assert_eq!(client.get(path).await.status, 200);
        }
    }
    let post =
        format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
    let mut client = rig.client().await;
    client.send(&post).await;
    assert_eq!(client.answer().await.status, 100);
    client.send("body").await;
    assert_eq!(client.answer().await.body, "body");
    assert!(instance.connections.load(Ordering::SeqCst) <= 4);
    assert_eq!(rig.site.figures().errors, 0);
}

#[tokio::test]
async fn an_answer_without_a_body_tells_its_length_and_leaves_the_connection_usable() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let mut client = rig.client().await;
    for _ in 0..2 {
        client
            .send(&format!("HEAD / HTTP/1.1\r\nhost: {HOST}\r\n\r\nGET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
            .await;
        assert_eq!(client.head().await.header("content-length"), Some("3"));
        assert_eq!(client.answer().await.body, "one");
    }
    assert_eq!(instance.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn keys_are_asked_for_where_the_app_wants_them() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    rig.site.set_keys(KeyRule { required: true, application: "A".into(), master: "M".into() });
    let with = |line: &str| format!("GET /seen HTTP/1.1\r\nhost: {HOST}\r\n{line}\r\n");
    let mut client: Client = rig.client().await;
    client.ask(&with("")).await.check_problem(401, &["todo", "X-ZUMO-APPLICATION"]);
    client.ask(&with("x-zumo-application: B\r\n")).await.check_problem(401, &[]);
    client.ask(&with("x-zumo-application: M\r\n")).await.check_problem(401, &[]);
    assert_eq!(client.ask(&with("x-zumo-application: A\r\n")).await.status, 200);
    assert_eq!(client.ask(&with("x-zumo-master: M\r\n")).await.status, 200);
    assert_eq!(client.get("/status").await.status, 200);
    let post = format!("POST /status HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.ask(&post).await.status, 401);
    let preflight =
        format!("OPTIONS / HTTP/1.1\r\nhost: {HOST}\r\naccess-control-request-method: POST\r\n\r\n");
    assert_eq!(client.ask(&preflight).await.status, 200);
    // Whoever asks for another protocol is no probe and no browser that asks first.
    for anonymous in ["GET /status", "HEAD /status", "OPTIONS /"] {
        let head = format!("{anonymous} HTTP/1.1\r\nhost: {HOST}\r\naccess-control-request-method: POST\r\n");
        // The same without asking for it on the connection is nothing.
        for (line, status) in [("connection: Upgrade", 401), ("connection: close", 200)] {
            let mut client = rig.client().await;
            client.send(&format!("{head}{line}\r\nupgrade: websocket\r\n\r\n")).await;
            assert_eq!(client.head().await.status, status, "{anonymous}, {line}");
        }
    }
    let keyed = format!(
        "GET /upgrade HTTP/1.1\r\nhost: {HOST}\r\nx-zumo-application: A\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n"
    );
    assert_eq!(rig.client().await.ask(&keyed).await.status, 101);
    rig.site.set_keys(KeyRule::default());
    assert_eq!(client.ask(&with("")).await.status, 200);
    // No key is no key, even where none was made.
    rig.site.set_keys(KeyRule { required: true, ..KeyRule::default() });
    assert_eq!(client.ask(&with("x-zumo-master: \r\n")).await.status, 401);
}

#[tokio::test]
async fn a_host_belongs_to_one_app() {
    let rig = Rig::new(SiteState::Empty).await;
    let git = std::sync::Arc::new(super::doubles::GitDouble);
    let other = super::super::Site::new(
        "other",
        vec!["o.example".into(), "Todo.Example".into()],
        Vec::new(),
        git.clone(),
    );
    let refused = rig.gateway.put(other).unwrap_err();
    assert!(refused.contains(HOST) && refused.contains("todo"), "{refused}");
    let mut client = rig.client().await;
    // Nothing of it was taken over.
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: o.example\r\n\r\n").await.status, 404);
    // The same app with other hosts is no stranger.
    let again =
        super::super::Site::new("todo", vec!["t.example".into(), "t.example".into()], Vec::new(), git);
    rig.gateway.put(again).unwrap();
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: t.example\r\n\r\n").await.status, 200);
    assert_eq!(client.get("/").await.status, 404);
    rig.gateway.remove("todo");
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: t.example\r\n\r\n").await.status, 404);
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let mut client = rig.client().await;
    let long = "x".repeat(70_000);
    client.send(&format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx-long: {long}\r\n\r\n")).await;
    // What it says before it hangs up may be lost with what it did not read.
    let mut said = Vec::new();
    drop(tokio::time::timeout(PATIENCE, client.stream.read_to_end(&mut said)).await.unwrap());
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 431 "));
    assert_eq!(instance.connections.load(Ordering::SeqCst), 0);
}
