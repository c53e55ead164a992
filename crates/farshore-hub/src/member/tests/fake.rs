//! A server over TLS that answers as it is told: whole, in part, or not at all.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A request, as far as these tests look at it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// `GET /devices/a`, without the query.
    pub(super) line: String,
    /// Where the caller goes on in a list.
    pub(super) continuation: Option<String>,
    pub(super) size: usize,
    pub(super) body: String,
}

/// What it answers.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Whole(u16, String),
    /// With further headers, each on a line of its own.
    With(u16, &'static str, String),
    /// Says that it will be whole, and is not.
    Broken(String),
    /// Nothing, for ever.
    Hang,
}

impl Answer {
    /// A page of a list.
    pub(super) fn page(entries: &Value) -> Self {
        Self::Whole(200, entries.to_string())
    }

    pub(super) fn missing() -> Self {
        Self::Whole(404, json!({"Message": "ErrorCode:DeviceNotFound;pump is not registered"}).to_string())
    }
}

type Answers = dyn Fn(usize, &Asked) -> Answer + Send + Sync;

/// The server; it ends with its test.
pub(super) struct Fake {
    at: SocketAddr,
    ca: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// `answers` is given the number of the request, from 0 on.
    pub(super) async fn start(answers: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let identity = Identity::new();
        let (acceptor, ca) = (TlsAcceptor::from(identity.server()), identity.pem());
        let (answers, asked): (Arc<Answers>, _) = (Arc::new(answers), Arc::<Mutex<Vec<Asked>>>::default());
        let kept = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, answers, kept) = (acceptor.clone(), Arc::clone(&answers), Arc::clone(&kept));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(socket).await else { return };
                    let Some(asked) = read(&mut stream).await else { return };
                    let number = {
                        let mut kept = kept.lock().unwrap();
                        kept.push(asked.clone());
                        kept.len() - 1
                    };
                    let text = match answers(number, &asked) {
                        Answer::Whole(status, body) => head(status, "", body.len()) + &body,
                        Answer::With(status, more, body) => head(status, more, body.len()) + &body,
                        Answer::Broken(body) => head(200, "", body.len() + 100) + &body,
                        Answer::Hang => return std::future::pending().await,
                    };
                    // Whoever does not read to the end has gone.
                    let _ = stream.write_all(text.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { at, ca, asked, task }
    }

    pub(super) fn member(&self, of: &Hub, change: impl FnOnce(&mut MemberSetting)) -> Member {
        // Long enough for a busy machine, short enough for a test that waits for it.
        let limits = Limits {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(5),
            patience: Duration::from_secs(6),
        };
        let mut setting = setting(self.at, KEY, &self.ca);
        change(&mut setting);
        Member::new(&setting, of.fleet.clone(), limits).unwrap()
    }

    pub(super) fn at(&self) -> SocketAddr {
        self.at
    }

    pub(super) fn ca(&self) -> String {
        self.ca.clone()
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn head(status: u16, more: &str, len: usize) -> String {
    format!(
        "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nConnection: close\r\n{more}Content-Length: {len}\r\n\r\n"
    )
}

async fn read(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let header = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let len: usize = header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    while bytes.len() < end + len {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    assert_eq!(header("host").as_deref(), Some(HOST));
    assert!(header("authorization").unwrap().starts_with("SharedAccessSignature sr=far.test&sig="));
    let line = text.lines().next().unwrap();
    Some(Asked {
        line: line.split('?').next().unwrap().to_owned(),
        continuation: header("x-ms-continuation"),
        size: header("x-ms-max-item-count").and_then(|size| size.parse().ok()).unwrap_or(0),
        body: String::from_utf8_lossy(&bytes[end..]).into_owned(),
    })
}
