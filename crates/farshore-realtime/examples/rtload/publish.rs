//! The messages: over HTTP to those that have a REST interface, over NATS's own protocol to NATS.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::tally::Tally;

/// A server that needs longer does not serve.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// After a refusal, so that a server that is gone is not asked a thousand times.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// Where messages go.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Publisher {
    Http { address: String, path: String, authorization: Option<String> },
    Nats { address: String },
}

/// A number of messages, in time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) messages: u32,
    /// Zero: as fast as they are taken.
    every: Duration,
}

/// What became of the messages of a run.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) messages: u32,
    /// The last refusal, in the server's words.
    pub(crate) refusal: Option<String>,
}

impl Taken {
    fn note(&mut self, sent: io::Result<()>) {
        match sent {
            Ok(()) => self.messages += 1,
            Err(error) => self.refusal = Some(error.to_string()),
        }
    }
}

impl Run {
    /// `per_second` of zero: as fast as they are taken.
    pub(crate) fn new(messages: u32, per_second: f64) -> Self {
        Self { messages, every: every(per_second) }
    }

    /// Returns when the server has taken or refused every message.
    pub(crate) async fn publish(self, to: &Publisher, tally: &Rc<Tally>, at_a_time: usize) -> Taken {
        let (began, next, taken) =
            (Instant::now(), Rc::new(Cell::new(0)), Rc::new(RefCell::new(Taken::default())));
        let workers: Vec<_> = (0..at_a_time)
            .map(|_| {
                let (next, taken, to, tally) =
                    (Rc::clone(&next), Rc::clone(&taken), to.clone(), Rc::clone(tally));
                tokio::task::spawn_local(async move {
                    let mut line = Line::default();
                    while next.get() < self.messages {
                        let number = next.replace(next.get() + 1);
                        let at = self.moment(number, began);
                        tokio::time::sleep_until(at.into()).await;
                        let sent = line.send(&to, &tally.message(number, at)).await;
                        taken.borrow_mut().note(sent);
                    }
                })
            })
            .collect();
        for worker in workers {
            let _ = worker.await;
        }
        taken.take()
    }

    /// When a message is due; one that had to wait for a slow server is counted from here all the same.
    fn moment(self, number: u32, began: Instant) -> Instant {
        if self.every.is_zero() { Instant::now() } else { began + self.every * number }
    }
}

/// Publishes until `going` is false; returns the numbers of the messages that the server took.
pub(crate) async fn flow(
    to: Publisher,
    tally: Rc<Tally>,
    per_second: f64,
    going: Rc<Cell<bool>>,
) -> Vec<u32> {
    let mut line = Line::default();
    let mut taken = Vec::new();
    let mut due = tokio::time::interval(every(per_second));
    for number in 0.. {
        due.tick().await;
        if !going.get() {
            break;
        }
        match line.send(&to, &tally.message(number, Instant::now())).await {
            Ok(()) => taken.push(number),
            Err(_) => tokio::time::sleep(AFTER_REFUSAL).await,
        }
    }
    taken
}

fn every(per_second: f64) -> Duration {
    if per_second > 0.0 { Duration::from_secs_f64(1.0 / per_second) } else { Duration::ZERO }
}

/// A connection that is kept as long as it works.
#[derive(Debug, Default)]
struct Line {
    stream: Option<BufReader<TcpStream>>,
}

impl Line {
    /// Returns when the server has taken the message.
    async fn send(&mut self, to: &Publisher, data: &str) -> io::Result<()> {
        let done = tokio::time::timeout(ANSWER_DEADLINE, self.exchange(to, data)).await;
        match done.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.stream = None;
                Err(error)
            }
        }
    }

    async fn exchange(&mut self, to: &Publisher, data: &str) -> io::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            empty => empty.insert(open(to).await?),
        };
        stream.write_all(to.request(data).as_bytes()).await?;
        match to {
            Publisher::Http { .. } => http_taken(stream).await,
            Publisher::Nats { .. } => nats_pong(stream).await,
        }
    }
}

async fn open(to: &Publisher) -> io::Result<BufReader<TcpStream>> {
    let (Publisher::Http { address, .. } | Publisher::Nats { address }) = to;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    if let Publisher::Nats { .. } = to {
        stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n").await?;
        nats_pong(&mut stream).await?;
    }
    Ok(stream)
}

impl Publisher {
    fn request(&self, data: &str) -> String {
        let length = data.len();
        match self {
            Self::Http { address, path, authorization } => {
                let authorization = authorization
                    .as_ref()
                    .map(|value| format!("authorization: {value}\r\n"))
                    .unwrap_or_default();
                format!(
                    "POST {path} HTTP/1.1\r\nhost: {address}\r\n{authorization}content-type: text/plain\r\ncontent-length: {length}\r\n\r\n{data}"
                )
            }
            Self::Nats { .. } => format!("PUB room {length}\r\n{data}\r\nPING\r\n"),
        }
    }
}

/// Reads one answer; only 2xx is a yes.
async fn http_taken(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    let status = line(stream).await?;
    let mut length = 0;
    loop {
        let header = line(stream).await?;
        let Some((name, value)) = header.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    if status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) {
        return Ok(());
    }
    Err(io::Error::other(format!("{status}: {}", String::from_utf8_lossy(&body))))
}

async fn nats_pong(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    loop {
        match line(stream).await?.as_str() {
            "PONG" => return Ok(()),
            "PING" => stream.write_all(b"PONG\r\n").await?,
            error if error.starts_with("-ERR") => return Err(io::Error::other(error.to_owned())),
            _ => {}
        }
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}
