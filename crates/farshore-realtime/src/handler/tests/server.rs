//! A small HTTP server: records requests, answers by a function of how many came before and of the request.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    /// The header's value; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Answer(u16, Vec<(&'static str, String)>, Bytes),
    /// The same bytes so many times, without saying how many.
    Chunks(Bytes, usize),
    /// Says nothing.
    Hang,
    /// Begins the body and says no more.
    HangInBody,
    /// Closes the connection.
    BreakOff,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Bytes::new())
    }
    pub(crate) fn body(content_type: &str, body: &'static str) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self::Answer(200, headers, Bytes::from_static(body.as_bytes()))
    }
    pub(crate) fn with(self, name: &'static str, value: &str) -> Self {
        match self {
            Self::Answer(status, mut headers, body) => {
                headers.push((name, value.to_owned()));
                Self::Answer(status, headers, body)
            }
            other => other,
        }
    }
}

type Replies = Arc<dyn Fn(usize, &Seen) -> Reply + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Ends with the value.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(replies: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, Arc::clone(&seen), Arc::new(replies)));
        Self { url, seen, task }
    }

    /// Answers everything alike.
    pub(crate) async fn always(reply: Reply) -> Self {
        Self::start(move |_, _| reply.clone()).await
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, seen: Arc<Mutex<Vec<Seen>>>, replies: Replies) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (seen, replies) = (Arc::clone(&seen), Arc::clone(&replies));
        let service = service_fn(move |request| answer(request, Arc::clone(&seen), Arc::clone(&replies)));
        connections.spawn(async move {
            // Broken off on purpose in some tests.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Seen>>>,
    replies: Replies,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let request = Seen {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: parts.headers,
        body: body.collect().await.map_err(io::Error::other)?.to_bytes(),
    };
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    match replies(before, &request) {
        Reply::Answer(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(body).boxed_unsync()).unwrap())
        }
        Reply::Chunks(chunk, count) => {
            let frames = (0..count).map(move |_| Ok(Frame::data(chunk.clone())));
            Ok(Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync()))
        }
        Reply::Hang => std::future::pending().await,
        Reply::HangInBody => {
            let begin = stream::iter([Ok(Frame::data(Bytes::from_static(b"beg")))]);
            let body = futures_util::StreamExt::chain(begin, stream::pending());
            Ok(Response::new(StreamBody::new(body).boxed_unsync()))
        }
        Reply::BreakOff => Err(io::Error::other("as told")),
    }
}

/// A server that sends these bytes to whoever connects, whatever they ask, and closes.
pub(crate) async fn raw(answer: Vec<u8>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0_u8; 4096];
            // The client may have gone already: that is its right.
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&answer).await;
        }
    });
    (url, task)
}
