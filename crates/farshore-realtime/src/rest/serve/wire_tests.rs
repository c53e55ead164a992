//! The same over a real connection, byte by byte: what HTTP adds to a request and takes from an answer.

use std::convert::Infallible;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::tests::{BASE, Known, NOW, Script, hub, script, signed};
use super::*;

/// Serves one connection until it is closed.
async fn listen(script: Arc<Script>) -> (TcpStream, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let task = tokio::spawn(async move {
        let service = service_fn(|request| answer_one(Arc::clone(&script), request));
        let server = hyper::server::conn::http1::Builder::new();
        let _ = server.serve_connection(TokioIo::new(socket), service).await;
    });
    (client, task)
}

async fn answer_one(
    script: Arc<Script>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let own = base_url("http", request.uri(), request.headers());
    let base_urls = own.into_iter().collect();
    let context = RestContext { base_urls, broadcast: Some(script.as_ref()), now: NOW };
    Ok(serve(&Known(vec![hub()]), request, &context).await)
}

/// Writes `requests` at once, and returns all that is answered until the server closes.
async fn exchange(script: Arc<Script>, requests: &str) -> String {
    let (mut client, task) = listen(script).await;
    client.write_all(requests.as_bytes()).await.unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.unwrap();
    task.await.unwrap();
    answers
}

fn head(line: &str, more: &str) -> String {
    let (_, url) = line.split_once(' ').unwrap();
    let token = signed(&format!("{BASE}{url}"), super::tests::PRIMARY);
    format!("{line} HTTP/1.1\r\nHost: paris.example:8080\r\nAuthorization: {token}\r\n{more}\r\n")
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let script = Arc::new(script(Answer::Done));
    let requests = [
        head(
            "POST /api/hubs/chat/users/us%20er%2F1/:send",
            "Content-Type: text/plain\r\nContent-Length: 2\r\n",
        ) + "hi",
        head("HEAD /api/hubs/chat/groups/g%2F1", ""),
        head("DELETE /api/hubs/chat/connections/c", ""),
        head("GET /api/health", "Connection: close\r\n"),
    ];
    let answers = exchange(Arc::clone(&script), &requests.concat()).await;
    let statuses: Vec<_> = answers.lines().filter(|line| line.starts_with("HTTP/1.1 ")).collect();
    let expected = ["HTTP/1.1 202 Accepted", "HTTP/1.1 200 OK", "HTTP/1.1 204 No Content", "HTTP/1.1 200 OK"];
    assert_eq!(statuses, expected, "{answers}");
    let asked = format!("{:?}", script.asked.lock().unwrap());
    assert!(asked.contains(r#"User("us er/1")"#) && asked.contains(r#"Exists(Group("g/1"))"#), "{asked}");
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_even_when_it_is_a_refusal() {
    let line = "HEAD /api/hubs/chat/groups/g";
    let answers = exchange(Arc::new(script(Answer::No)), &head(line, "Connection: close\r\n")).await;
    let (head, body) = answers.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 404 Not Found"), "{head}");
    assert!(head.contains("x-ms-error-code: Warning.Group.NotExisted"), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn a_body_in_pieces_without_a_length_is_refused() {
    let script = Arc::new(script(Answer::Done));
    let more = "Transfer-Encoding: chunked\r\nConnection: close\r\n";
    let request = head("POST /api/hubs/chat/:send", more) + "2\r\nhi\r\n0\r\n\r\n";
    let answers = exchange(Arc::clone(&script), &request).await;
    assert!(answers.starts_with("HTTP/1.1 400 Bad Request"), "{answers}");
    assert!(answers.contains("Invalid Content-Length header"), "{answers}");
    assert!(script.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_it_is_sent() {
    let script = Arc::new(script(Answer::Done));
    let request = head("POST /api/hubs/chat/:send", "Content-Length: 1048577\r\nConnection: close\r\n");
    let answers = exchange(Arc::clone(&script), &request).await;
    assert!(answers.starts_with("HTTP/1.1 400 Bad Request"), "{answers}");
    assert!(script.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_sent_to_nobody() {
    let script = Arc::new(script(Answer::Done));
    let (mut client, task) = listen(Arc::clone(&script)).await;
    let request = head("POST /api/hubs/chat/:send", "Content-Length: 10\r\n") + "half";
    client.write_all(request.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = Vec::new();
    let _ = client.read_to_end(&mut answers).await;
    task.await.unwrap();
    assert!(script.asked.lock().unwrap().is_empty());
}
