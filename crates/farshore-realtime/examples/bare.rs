//! A server of WebSockets without any protocol, as the floor to compare with: `bare`.
//!
//! Every body that is posted to any path becomes one frame, encoded once, shared by all connections and written vectored.
//! There are no names, tokens, groups, limits or acknowledgements, so nothing that does more can cost less. Prints where it
//! listens as one line of JSON; ends when standard input closes.

use std::error::Error;
use std::io::{IoSlice, Read as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

/// Appended to a client's key before it is hashed (RFC 6455, 1.3).
const HANDSHAKE_SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Frames in one system call: Linux takes 1,024; more than this gains nothing that can be measured.
const SLICES_MAX: usize = 64;
/// A request's head; the generator's have 300 bytes.
const HEAD_MAX: usize = 8 * 1024;

/// All connections.
#[derive(Debug, Default)]
struct Room {
    members: Mutex<Vec<Arc<Member>>>,
}

/// What waits for one connection.
#[derive(Debug, Default)]
struct Member {
    waiting: Mutex<Vec<Bytes>>,
    news: Notify,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", json!({"port": listener.local_addr()?.port()}));
    let (closed, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = closed.send(());
    });
    tokio::select! {
        done = accept(listener) => done?,
        done = end => done?,
    }
    Ok(())
}

async fn accept(listener: TcpListener) -> std::io::Result<()> {
    let room = Arc::new(Room::default());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let room = Arc::clone(&room);
        // A connection that broke is a client that left.
        tokio::spawn(async move { serve(stream, &room).await.is_ok() });
    }
}

/// Requests until the connection ends or becomes a WebSocket.
async fn serve(mut stream: TcpStream, room: &Room) -> std::io::Result<()> {
    let mut read = BytesMut::new();
    loop {
        let Some((head, body)) = request(&mut stream, &mut read).await? else { return Ok(()) };
        match header(&head, "sec-websocket-key") {
            Some(key) => {
                let accept = accept_key(key);
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await?;
                drop((read, head, body));
                return receive(stream, room).await;
            }
            None => {
                room.send(&frame(&body));
                stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await?;
            }
        }
    }
}

/// One request's head and body; `None` at the end of the connection.
async fn request(stream: &mut TcpStream, read: &mut BytesMut) -> std::io::Result<Option<(String, Bytes)>> {
    let head = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break String::from_utf8_lossy(&read.split_to(at + 4)).into_owned();
        }
        if read.len() > HEAD_MAX || stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    };
    let length = header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while read.len() < length {
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((head, read.split_to(length).freeze())))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(key, value)| if key.eq_ignore_ascii_case(name) { Some(value.trim()) } else { None })
}

fn accept_key(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{HANDSHAKE_SALT}").as_bytes()))
}

/// A text frame, unmasked as a server's are.
fn frame(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(body.len() + 10);
    frame.extend_from_slice(&[0x81]);
    match (u8::try_from(body.len()), u16::try_from(body.len())) {
        (Ok(short @ 0..126), _) => frame.extend_from_slice(&[short]),
        (_, Ok(medium)) => {
            frame.extend_from_slice(&[126]);
            frame.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            frame.extend_from_slice(&[127]);
            frame.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(body);
    frame.freeze()
}

impl Room {
    fn members(&self) -> MutexGuard<'_, Vec<Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, frame: &Bytes) {
        for member in self.members().iter() {
            member.waiting().push(frame.clone());
            member.news.notify_one();
        }
    }
}

impl Member {
    fn waiting(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection does for most of its life: waits for frames, and for its own end.
async fn receive(mut stream: TcpStream, room: &Room) -> std::io::Result<()> {
    let member = Arc::new(Member::default());
    room.members().push(Arc::clone(&member));
    let done = loop {
        tokio::select! {
            () = member.news.notified() => {
                let frames = std::mem::take(&mut *member.waiting());
                if let Err(error) = write(&mut stream, &frames).await { break Err(error) }
            }
            ready = stream.readable() => match ready.and_then(|()| stream.try_read(&mut [0; 256])) {
                Ok(0) => break Ok(()),
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break Err(error),
                Ok(_) | Err(_) => {}
            },
        }
    };
    room.members().retain(|one| !Arc::ptr_eq(one, &member));
    done
}

/// Everything that waits, in as few system calls as it takes.
async fn write(stream: &mut TcpStream, frames: &[Bytes]) -> std::io::Result<()> {
    let (mut at, mut offset) = (0, 0);
    while at < frames.len() {
        let mut written = try_write(stream, frames, at, offset).await?;
        while at < frames.len() && written >= frames[at].len() - offset {
            written -= frames[at].len() - offset;
            (at, offset) = (at + 1, 0);
        }
        offset += written;
    }
    Ok(())
}

async fn try_write(stream: &TcpStream, frames: &[Bytes], at: usize, offset: usize) -> std::io::Result<usize> {
    loop {
        {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = slices.len().min(frames.len() - at);
            for (slice, frame) in slices.iter_mut().zip(&frames[at..]) {
                *slice = IoSlice::new(frame);
            }
            slices[0] = IoSlice::new(&frames[at][offset..]);
            match stream.try_write_vectored(&slices[..count]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        stream.writable().await?;
    }
}
