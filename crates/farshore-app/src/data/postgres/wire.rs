//! A small client of the server's own protocol (version 3), over its unix socket: questions with text answers, and the
//! stream of the write-ahead log with our word on what is durable elsewhere.
//!
//! The socket's directory belongs to the server alone and the server asks the kernel who connects, so nothing is proved by
//! password here. Waiting for the next event can be given up at any time without losing bytes.

use std::io;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::records::lsn_text;

/// Protocol 3.0.
const PROTOCOL: i32 = 3 << 16;
/// No message that we ask for is longer: a piece of the log is 128 KiB, and our questions have short answers.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Read from the socket at once.
const READ_BYTES: usize = 256 * 1024;

/// Why the server could not be asked, or what it said.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The socket failed.
    #[error("the connection to the server failed: {0}")]
    Io(#[from] io::Error),
    /// The server ended the conversation.
    #[error("the server closed the connection")]
    Closed,
    /// The server's own error.
    #[error("{message} (SQLSTATE {code}){}", .detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default())]
    Server {
        /// Five characters.
        code: String,
        /// Its sentence.
        message: String,
        /// More of it.
        detail: Option<String>,
    },
    /// Not what the protocol says comes now.
    #[error("the server sent {0}")]
    Unexpected(String),
}

/// One row: a text or nothing by column.
pub(super) type Row = Vec<Option<String>>;

/// A conversation with the server.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    read: BytesMut,
}

impl Connection {
    /// Connects as `user` to `database`. `name` is what the server shows, and what it knows a synchronous standby by.
    pub(super) async fn open(
        socket: &Path,
        user: &str,
        database: &str,
        name: &str,
    ) -> Result<Self, WireError> {
        let settings = [("user", user), ("database", database), ("application_name", name)];
        Self::start(socket, &settings).await
    }

    /// Connects to follow the log.
    pub(super) async fn open_replication(socket: &Path, user: &str, name: &str) -> Result<Self, WireError> {
        Self::start(socket, &[("user", user), ("replication", "true"), ("application_name", name)]).await
    }

    async fn start(socket: &Path, settings: &[(&str, &str)]) -> Result<Self, WireError> {
        let stream = UnixStream::connect(socket).await?;
        let mut connection = Self { stream, read: BytesMut::with_capacity(READ_BYTES) };
        connection.stream.write_all(&startup(settings)).await?;
        loop {
            let (tag, body) = connection.message().await?;
            match tag {
                b'Z' => return Ok(connection),
                b'R' if body.first_chunk() != Some(&[0; 4]) => {
                    return Err(WireError::Unexpected(
                        "a demand for a password on its private socket".to_owned(),
                    ));
                }
                b'R' | b'S' | b'K' | b'N' => {}
                b'E' => return Err(server_error(&body)),
                tag => return Err(unexpected(tag)),
            }
        }
    }

    /// Asks, and gathers every row of the answer. Several statements in one text are one transaction.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Row>, WireError> {
        self.stream.write_all(&frame(b'Q', |out| put_text(out, sql))).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'D' => rows.push(row(body)?),
                b'E' => failed = Some(server_error(&body)),
                b'Z' => return failed.map_or(Ok(rows), Err),
                b'T' | b'C' | b'I' | b'S' | b'N' => {}
                tag => return Err(unexpected(tag)),
            }
        }
    }

    /// One text of a one-row answer.
    pub(super) async fn value(&mut self, sql: &str) -> Result<String, WireError> {
        let rows = self.query(sql).await?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
        value.ok_or_else(|| WireError::Unexpected(format!("no value for {sql:?}")))
    }

    /// Turns this into the log's stream from `from` on.
    pub(super) async fn follow(mut self, from: u64, timeline: u32) -> Result<LogStream, WireError> {
        let sql = format!("START_REPLICATION PHYSICAL {} TIMELINE {timeline}", lsn_text(from));
        self.stream.write_all(&frame(b'Q', |out| put_text(out, &sql))).await?;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'W' => return Ok(LogStream { connection: self }),
                b'E' => return Err(server_error(&body)),
                b'S' | b'N' => {}
                tag => return Err(unexpected(tag)),
            }
        }
    }

    /// The next whole message. May be given up while it waits: what was read stays in the buffer.
    async fn message(&mut self) -> Result<(u8, Bytes), WireError> {
        loop {
            if let Some(message) = parse(&mut self.read)? {
                return Ok(message);
            }
            self.read.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(WireError::Closed);
            }
        }
    }
}

/// What the stream of the log brings.
#[derive(Debug)]
pub(super) enum LogEvent {
    /// Bytes that are flushed at the server.
    Wal {
        /// Where they lie.
        start: u64,
        /// They.
        bytes: Bytes,
    },
    /// The server lives; it may want to hear from us.
    Keepalive {
        /// It waits for [`LogStream::confirm`].
        wants_answer: bool,
    },
}

/// The log as it is flushed.
#[derive(Debug)]
pub(super) struct LogStream {
    connection: Connection,
}

impl LogStream {
    /// The next event. May be given up while it waits.
    pub(super) async fn next(&mut self) -> Result<LogEvent, WireError> {
        loop {
            let (tag, body) = self.connection.message().await?;
            match tag {
                b'd' => return log_event(body),
                b'E' => return Err(server_error(&body)),
                b'c' => return Err(WireError::Closed),
                b'S' | b'N' => {}
                tag => return Err(unexpected(tag)),
            }
        }
    }

    /// Says that everything before `durable` is durable in the other region: commits that wait for it return. Zero: nothing.
    pub(super) async fn confirm(&mut self, durable: u64) -> Result<(), WireError> {
        let message = frame(b'd', |out| {
            out.put_u8(b'r');
            (0..3).for_each(|_| out.put_u64(durable)); // Written, flushed, applied: one thing to us.
            out.put_i64(0);
            out.put_u8(0);
        });
        Ok(self.connection.stream.write_all(&message).await?)
    }
}

fn log_event(mut body: Bytes) -> Result<LogEvent, WireError> {
    match body.first() {
        Some(b'w') if body.len() >= 25 => {
            let start = body.slice(1..9).get_u64();
            body.advance(25);
            Ok(LogEvent::Wal { start, bytes: body })
        }
        Some(b'k') if body.len() >= 18 => Ok(LogEvent::Keepalive { wants_answer: body[17] != 0 }),
        _ => Err(WireError::Unexpected("an unknown message in the stream of the log".to_owned())),
    }
}

fn startup(settings: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_i32(PROTOCOL);
    for (key, value) in settings {
        put_text(&mut body, key);
        put_text(&mut body, value);
    }
    body.put_u8(0);
    let mut out = Vec::with_capacity(body.len() + 4);
    put_len(&mut out, body.len());
    out.extend_from_slice(&body);
    out
}

fn frame(tag: u8, put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    put(&mut body);
    let mut out = Vec::with_capacity(body.len() + 5);
    out.put_u8(tag);
    put_len(&mut out, body.len());
    out.extend_from_slice(&body);
    out
}

fn put_len(out: &mut Vec<u8>, body: usize) {
    out.put_u32(u32::try_from(body + 4).expect("our own messages are short"));
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.put_u8(0);
}

fn parse(read: &mut BytesMut) -> Result<Option<(u8, Bytes)>, WireError> {
    let Some(head) = read.first_chunk::<5>() else { return Ok(None) };
    let tag = head[0];
    let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if !(4..=MESSAGE_BYTES_MAX).contains(&len) {
        return Err(WireError::Unexpected(format!("a message of {len} bytes")));
    }
    if read.len() < len + 1 {
        return Ok(None);
    }
    let mut message = read.split_to(len + 1).freeze();
    message.advance(5);
    Ok(Some((tag, message)))
}

fn row(mut body: Bytes) -> Result<Row, WireError> {
    let short = || WireError::Unexpected("a row that ends early".to_owned());
    let columns = body.try_get_u16().map_err(|_| short())?;
    let mut row = Row::new();
    for _ in 0..columns {
        let len = body.try_get_i32().map_err(|_| short())?;
        let Ok(len) = usize::try_from(len) else {
            row.push(None);
            continue;
        };
        if body.len() < len {
            return Err(short());
        }
        row.push(Some(String::from_utf8_lossy(&body.split_to(len)).into_owned()));
    }
    Ok(row)
}

fn server_error(body: &[u8]) -> WireError {
    let field = |kind: u8| {
        let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&kind));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    };
    WireError::Server {
        code: field(b'C').unwrap_or_default(),
        message: field(b'M').unwrap_or_else(|| "an error without words".to_owned()),
        detail: field(b'D'),
    }
}

fn unexpected(tag: u8) -> WireError {
    WireError::Unexpected(format!("a message of the kind {:?} that does not belong here", char::from(tag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole_and_nothing_absurd_is_waited_for() {
        let mut read = BytesMut::from(&b"Z\0\0\0\x05I"[..5]);
        assert!(parse(&mut read).unwrap().is_none());
        read.put_u8(b'I');
        assert_eq!(parse(&mut read).unwrap(), Some((b'Z', Bytes::from_static(b"I"))));
        assert!(parse(&mut BytesMut::from(&b"Z\xff\0\0\0"[..])).is_err());
        assert!(parse(&mut BytesMut::from(&b"Z\0\0\0\x03"[..])).is_err());
    }

    #[test]
    fn a_row_that_lies_about_its_length_is_refused() {
        let good = [0, 2, 0, 0, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff];
        assert_eq!(row(Bytes::copy_from_slice(&good)).unwrap(), [Some("a".to_owned()), None]);
        for cut in 1..good.len() {
            assert!(row(Bytes::copy_from_slice(&good[..cut])).is_err(), "{cut}");
        }
    }

    #[test]
    fn the_servers_error_is_told_with_its_code() {
        let error = server_error(b"SFATAL\0C57P03\0Mthe database system is starting up\0\0");
        assert_eq!(error.to_string(), "the database system is starting up (SQLSTATE 57P03)");
    }
}
