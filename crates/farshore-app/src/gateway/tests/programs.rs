//! What people use: curl, Python's web server, Node's WebSocket client.

use std::net::SocketAddr;
use std::process::Stdio;

use base64::Engine as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::super::SiteState;
use super::doubles::{HOST, Instance, PATIENCE, Rig, any_port, here};
use super::tls;

async fn output(command: &mut Command) -> String {
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What curl gets, and after it the version and the status.
async fn curl(https: SocketAddr, words: &[&str]) -> String {
    let (port, ip) = (https.port(), https.ip());
    let mut command = Command::new("curl");
    command.args([
        "-sSk",
        "-w",
        "|%{http_version} %{http_code}",
        "--resolve",
        &format!("{HOST}:{port}:{ip}"),
    ]);
    output(command.args(words).arg(format!("https://{HOST}:{port}/echo"))).await
}

#[tokio::test]
async fn curl_speaks_both_versions() {
    let instance = Instance::start("one").await;
    let (_gateway, https) = tls::open(Some(&tls::made(HOST)), instance.here()).await;
    assert_eq!(curl(https, &["--http1.1", "-d", "hello"]).await, "hello|1.1 200");
    assert_eq!(curl(https, &["--http2", "-d", "hello"]).await, "hello|2 200");
    assert_eq!(curl(https, &["--http2", "-X", "POST"]).await, "|2 200");
    assert_eq!(curl(https, &["--http1.0", "-d", "hello"]).await, "hello|1 200");
}

#[tokio::test]
async fn http2_needs_no_tls() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let mut command = Command::new("curl");
    let host = format!("host: {HOST}");
    command.args([
        "-sS",
        "--http2-prior-knowledge",
        "-H",
        &host,
        "-H",
        "cookie: a=1",
        "-w",
        "|%{http_version}",
    ]);
    let told = output(command.arg(format!("http://{}/seen?x", rig.http()))).await;
    let (seen, version) = told.split_once('|').unwrap();
    let seen: serde_json::Value = serde_json::from_str(seen).unwrap();
    assert_eq!((&seen["uri"], &seen["headers"]["host"][0], version), (&"/seen?x".into(), &HOST.into(), "2"));
}

#[tokio::test]
async fn clients_of_http2_are_sent_away_after_a_move() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let stream = TcpStream::connect(rig.http()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    let request = || {
        let body = http_body_util::Empty::<bytes::Bytes>::new();
        http::Request::get(format!("http://{HOST}/")).body(body).unwrap()
    };
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
    rig.site.set(SiteState::Recovering { why: "moving".into(), retry_after: PATIENCE });
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 503);
    // GOAWAY: the connection ends although the client would keep it.
    tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
}

/// A directory as Python serves it: HTTP/1.0, a connection for each request.
async fn python(directory: &std::path::Path) -> (Child, SocketAddr) {
    let mut command = Command::new("python3");
    command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]).current_dir(directory);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    tokio::time::timeout(PATIENCE, lines.read_line(&mut line)).await.unwrap().unwrap();
    // Serving HTTP on 127.0.0.1 port 40001 (http://127.0.0.1:40001/) ...
    let port = line.split(' ').nth(5).unwrap().parse().unwrap();
    (child, SocketAddr::from(([127, 0, 0, 1], port)))
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_serves() {
    let directory = tempfile::tempdir().unwrap();
    let content = "0123456789".repeat(100_000);
    std::fs::write(directory.path().join("file.txt"), &content).unwrap();
    let (_child, address) = python(directory.path()).await;
    let rig = Rig::new(here(&[address])).await;
    let mut client = rig.client().await;
    for _ in 0..3 {
        let answer = client.get("/file.txt").await;
        assert_eq!((answer.status, answer.body == content), (200, true));
        assert_eq!(client.get("/none").await.status, 404);
    }
}

const WEBSOCKET: &str = "
const socket = new WebSocket(process.argv[1]);
socket.onopen = () => socket.send('there and back');
socket.onmessage = (event) => { console.log(event.data); socket.close(); };
socket.onerror = (event) => { console.error(event.error ?? event); process.exit(1); };
";

#[tokio::test]
async fn node_speaks_websocket_through_the_gateway() {
    let rig = Rig::new(here(&[websocket_echo().await])).await;
    let mut command = Command::new("node");
    command.args(["--no-warnings", "--experimental-websocket", "-e", WEBSOCKET]);
    let said = output(command.arg(format!("ws://{}/chat", rig.http()))).await;
    assert_eq!(said.trim(), "there and back");
}

/// Shakes hands as RFC 6455 says, and sends each short frame back.
async fn websocket_echo() -> SocketAddr {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.unwrap() > 0);
        }
        let head = String::from_utf8(head).unwrap();
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        let accept = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
        let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, accept.as_bytes());
        let accept = base64::engine::general_purpose::STANDARD.encode(digest);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        while send_frame_back(&mut stream).await.is_some() {}
    });
    address
}

async fn send_frame_back(stream: &mut TcpStream) -> Option<()> {
    let mut start = [0; 6];
    stream.read_exact(&mut start).await.ok()?;
    let mut body = vec![0; usize::from(start[1] & 0x7f)];
    stream.read_exact(&mut body).await.ok()?;
    body.iter_mut().zip(start[2..].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    stream.write_all(&[start[0], start[1] & 0x7f]).await.ok()?;
    stream.write_all(&body).await.ok()?;
    // After the frame that closes, the server hangs up.
    (start[0] & 0x0f != 8).then_some(())
}
