//! The listener against slow and greedy clients, and its end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use farshore::serve::ServeLimits;
use farshore::trust::{CertRole, Validity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::trust_listen::{Server, cluster, member};

/// Longer than any limit here; reached only when a limit does not work.
const HANG: Duration = Duration::from_secs(60);
/// Short enough for a test.
const SOON: Duration = Duration::from_millis(200);

fn routes() -> Router {
    Router::new()
        .route("/", get(|| async { "here" }))
        .route("/body", post(|body: Bytes| async move { body.len().to_string() }))
        .route("/much", get(|| async { vec![0_u8; 64 << 20] }))
}

async fn plain(limits: ServeLimits) -> Server {
    Server::start(None, routes(), limits).await
}

/// All that the server says before it closes.
async fn to_the_end(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(HANG, stream.read_to_end(&mut said)).await.expect("the server closes");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_a_handshake_is_cut_off() {
    let (_dir, trust) = cluster("prod");
    let limits = ServeLimits { handshake: SOON, ..ServeLimits::default() };
    let server = Server::start(Some(trust.server()), routes(), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[0x16, 0x03]).await.unwrap();
    assert_eq!(to_the_end(&mut stream).await, "");
    // Whoever speaks no TLS at all is told so, and the next one is served.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(!to_the_end(&mut stream).await.contains("HTTP"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_a_head_is_cut_off() {
    let server = plain(ServeLimits { head: SOON, ..ServeLimits::default() }).await;
    for start in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: a\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        assert!(!to_the_end(&mut stream).await.contains("200"), "{start}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_a_body_is_told_and_cut_off() {
    let server = plain(ServeLimits { body: SOON, ..ServeLimits::default() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"POST /body HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    assert!(to_the_end(&mut stream).await.starts_with("HTTP/1.1 4"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_long_is_refused() {
    let server = plain(ServeLimits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(40 * 1024));
    stream.write_all(long.as_bytes()).await.unwrap();
    assert!(to_the_end(&mut stream).await.starts_with("HTTP/1.1 431"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_http2_connection_is_closed() {
    let (dir, trust) = cluster("prod");
    let limits = ServeLimits { idle: SOON, grace: SOON, ..ServeLimits::default() };
    let server = Server::start(Some(trust.server()), routes(), limits).await;
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(trust.client_any());
    let mut stream = connector.connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut said = Vec::new();
    let _ = tokio::time::timeout(HANG, stream.read_to_end(&mut said)).await.expect("the server closes");
    server.stop().await;
    drop(dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_of_an_answer_is_cut_off() {
    let server = plain(ServeLimits { stalled_write: SOON, connections: 1, ..ServeLimits::default() }).await;
    let mut stalled = TcpStream::connect(server.address).await.unwrap();
    stalled.write_all(b"GET /much HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    // There is one place: the next client has it once the first one has lost it.
    let mut next = TcpStream::connect(server.address).await.unwrap();
    next.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(to_the_end(&mut next).await.ends_with("here"));
    drop(stalled);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_wait_for_a_place() {
    let server = plain(ServeLimits { connections: 1, ..ServeLimits::default() }).await;
    let first = TcpStream::connect(server.address).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(SOON, second.peek(&mut byte)).await;
    assert!(early.is_err(), "served beside the first one");
    drop(first);
    assert!(to_the_end(&mut second).await.ends_with("here"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_way_is_finished_at_the_stop_and_nothing_new_is_taken() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (started, waits) = (Arc::clone(&begun), Arc::clone(&go_on));
    let slow = get(move || async move {
        started.notify_one();
        waits.notified().await;
        "finished"
    });
    let limits = ServeLimits { grace: HANG, ..ServeLimits::default() };
    let server = Server::start(None, Router::new().route("/slow", slow), limits).await;
    let address = server.address;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    begun.notified().await;
    let stopping = tokio::spawn(server.stop());
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    go_on.notify_one();
    assert!(to_the_end(&mut stream).await.ends_with("finished"));
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_end_is_cut_off_after_the_grace() {
    let begun = Arc::new(Notify::new());
    let started = Arc::clone(&begun);
    let endless = get(move || async move {
        started.notify_one();
        std::future::pending::<()>().await;
    });
    let limits = ServeLimits { grace: SOON, ..ServeLimits::default() };
    let server = Server::start(None, Router::new().route("/endless", endless), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    begun.notified().await;
    tokio::time::timeout(HANG, server.stop()).await.expect("the listener ends");
    assert_eq!(to_the_end(&mut stream).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_does_not_outlive_the_clients_certificate() {
    let (_dir, trust) = cluster("prod");
    let limits = ServeLimits { grace: SOON, ..ServeLimits::default() };
    let server = Server::start(Some(trust.server()), routes(), limits).await;
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let life = Duration::from_secs(3);
    loop {
        let validity = Validity::starting(SystemTime::now(), life);
        let (_oslo_dir, oslo) = member(&trust, "oslo", CertRole::Agent, validity);
        let mut config = rustls::ClientConfig::clone(&oslo.client_any());
        config.alpn_protocols.clear();
        let stream = TcpStream::connect(server.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let Ok(mut stream) = connector.connect(name.clone(), stream).await else { continue };
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut said = Vec::new();
        let _ = tokio::time::timeout(HANG, stream.read_to_end(&mut said)).await.expect("the server closes");
        // On a machine so slow that the certificate ended before the handshake did, once more.
        if String::from_utf8_lossy(&said).ends_with("here") {
            break;
        }
    }
    server.stop().await;
}
