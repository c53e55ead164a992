//! One look at an instance: `GET` its probe path, and no more of HTTP than that needs.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The first line of an answer is short; who sends more without a line's end does not speak HTTP.
const STATUS_LINE_MAX: usize = 1024;
/// How much of a page is read before the connection is closed, so that the app does not see it break.
const REST_MAX: u64 = 64 * 1024;
/// How long the rest of a page may take: nobody waits for what nobody reads.
const REST_WITHIN: Duration = Duration::from_millis(100);

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// An answer with this status.
    Answered(u16),
    /// Nobody listens on the port.
    Refused,
    /// No answer, or something else than HTTP.
    Silent(String),
}

impl Look {
    /// An app that says 404 works; one that says 500 does not.
    pub(super) fn is_healthy(&self) -> bool {
        matches!(self, Self::Answered(status) if *status < 500)
    }

    /// What was seen, for people.
    pub(super) fn say(&self, path: &str) -> String {
        match self {
            Self::Answered(status) => format!("GET {path} is answered with status {status}"),
            Self::Refused => "nothing listens on its port".to_owned(),
            Self::Silent(why) => format!("GET {path}: {why}"),
        }
    }
}

/// Looks at each of `addresses` until one is healthy. Returns what was seen of that, or of the first.
pub(super) async fn look_at_any(
    addresses: &[SocketAddr],
    path: &str,
    within: Duration,
) -> (SocketAddr, Look) {
    let mut first = None;
    for address in addresses {
        let look = look(*address, path, within).await;
        if look.is_healthy() {
            return (*address, look);
        }
        first.get_or_insert((*address, look));
    }
    first.expect("an instance has an address")
}

/// Looks once.
pub(super) async fn look(address: SocketAddr, path: &str, within: Duration) -> Look {
    match tokio::time::timeout(within, ask(address, path)).await {
        Ok(look) => look,
        Err(_) => Look::Silent(format!("no answer within {within:?}")),
    }
}

async fn ask(address: SocketAddr, path: &str) -> Look {
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Look::Refused,
        Err(error) => return Look::Silent(format!("cannot connect: {error}")),
    };
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: farshore-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        on_the_wire(path)
    );
    if let Err(error) = stream.write_all(request.as_bytes()).await {
        return Look::Silent(format!("cannot send: {error}"));
    }
    let look = first_line(&mut stream).await;
    let (mut rest, mut nowhere) = (stream.take(REST_MAX), tokio::io::sink());
    let _ = tokio::time::timeout(REST_WITHIN, tokio::io::copy(&mut rest, &mut nowhere)).await;
    look
}

async fn first_line(stream: &mut TcpStream) -> Look {
    let mut have = Vec::with_capacity(STATUS_LINE_MAX);
    while !have.contains(&b'\n') && have.len() < STATUS_LINE_MAX {
        match stream.read_buf(&mut have).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Look::Silent(format!("the connection broke: {error}")),
        }
    }
    match status(&have) {
        Some(status) => Look::Answered(status),
        None if have.is_empty() => Look::Silent("the connection was closed without an answer".to_owned()),
        None => Look::Silent("the answer is not HTTP/1".to_owned()),
    }
}

/// The status of `HTTP/1.1 200 OK`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.")?;
    let digits = std::str::from_utf8(line.get(2..5)?).ok()?;
    digits.parse().ok().filter(|status| (100..1000).contains(status))
}

/// The path as it may stand in a request line, whatever somebody wrote.
fn on_the_wire(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_and_nothing_else_is_believed() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 503 busy\r\nServer: x", Some(503)),
            ("HTTP/1.1 20", None),
            ("HTTP/1.1 abc", None),
            ("SSH-2.0-OpenSSH", None),
            ("", None),
        ] {
            assert_eq!(status(answer.as_bytes()), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_path_cannot_break_the_request() {
        assert_eq!(on_the_wire("/status?a=b"), "/status?a=b");
        assert_eq!(on_the_wire("x y\r\nHost: é"), "/x%20y%0D%0AHost:%20%C3%A9");
    }

    #[tokio::test]
    async fn nobody_there_someone_mute_and_someone_who_babbles_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mute = look(address, "/status", Duration::from_millis(50)).await;
        assert!(matches!(&mute, Look::Silent(why) if why.contains("no answer within 50ms")), "{mute:?}");

        let babbler = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.write_all(&[b'x'; 4096]).await;
            }
        });
        let babble = look(address, "/status", Duration::from_secs(10)).await;
        assert_eq!(babble, Look::Silent("the answer is not HTTP/1".to_owned()));
        babbler.abort();
        assert!(babbler.await.is_err());
        assert_eq!(look(address, "/status", Duration::from_secs(10)).await, Look::Refused);
    }
}
