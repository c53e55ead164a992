//! One connection's life, times thousands: open, become ready, receive, and come back after a loss like the official client.
//!
//! Read in this order: [`Crowd`] (what the orders ask of all), `life` (when a client connects), `visit` (one connection).

mod crowd;
mod open;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

pub(crate) use crowd::Crowd;
use open::open;

use crate::frames::{CLOSE, Frame, Frames, PING, PONG, TEXT, frame};
use crate::tally::Finder;
use crate::target::{Protocol, Step};

/// The official client's pause between attempts; it has no jitter.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);
/// For as long it tries to recover before it begins anew.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(30);
/// The first connection is not the storm that is measured: a full accept queue is given time.
const BETWEEN_FIRST_ATTEMPTS: Duration = Duration::from_millis(100);
/// Close code of a session that cannot be recovered.
const GONE: u16 = 1008;

/// One client.
#[derive(Debug, Default)]
struct Member {
    number: u32,
    path: String,
    stream: RefCell<Option<Rc<TcpStream>>>,
    session: RefCell<Option<Session>>,
    ready: Cell<bool>,
    /// Since when it is back, after the loss.
    back: Cell<Option<Instant>>,
    recovered: Cell<bool>,
    sequence: Cell<u64>,
    acknowledged: Cell<u64>,
    /// A bit for each message's number.
    seen: RefCell<Vec<u64>>,
    duplicates: Cell<u64>,
}

/// What a reliable client recovers by.
#[derive(Debug, Clone)]
struct Session {
    connection: String,
    token: String,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed(u16),
    Broken,
}

impl Member {
    /// Frames of a few bytes always fit into an idle connection's buffer: what does not is a connection about to break.
    fn say(&self, bytes: &[u8]) {
        if let Some(stream) = &*self.stream.borrow() {
            let _ = stream.try_write(bytes);
        }
    }

    /// What was sent again under its old number is not shown to an application a second time.
    fn is_new(&self, sequence: u64) -> bool {
        let new = sequence > self.sequence.get();
        self.sequence.set(sequence.max(self.sequence.get()));
        new
    }

    fn forget_session(&self) {
        self.session.replace(None);
        self.sequence.set(0);
        self.acknowledged.set(0);
    }

    fn note(&self, number: u32) {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        let mut seen = self.seen.borrow_mut();
        if seen.len() <= word {
            seen.resize(word + 1, 0);
        }
        if seen[word] & bit != 0 {
            self.duplicates.set(self.duplicates.get() + 1);
        }
        seen[word] |= bit;
    }

    fn has(&self, number: u32) -> bool {
        self.seen.borrow().get((number / 64) as usize).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// Where a lost session is asked for: the original URL, however old its token is.
    fn recovery_path(&self) -> Option<String> {
        let session = self.session.borrow();
        let Session { connection, token } = session.as_ref()?;
        let joint = if self.path.contains('?') { '&' } else { '?' };
        Some(format!("{}{joint}awps_connection_id={connection}&awps_reconnection_token={token}", self.path))
    }

    /// What a reliable client says each second, and what every client of that family says now and then.
    fn acknowledge(&self) {
        let sequence = self.sequence.get();
        if self.ready.get() && sequence > self.acknowledged.replace(sequence) {
            self.say(&frame(TEXT, format!(r#"{{"type":"sequenceAck","sequenceId":{sequence}}}"#).as_bytes()));
        }
    }

    fn ping(&self) {
        if self.ready.get() {
            self.say(&frame(TEXT, br#"{"type":"ping"}"#));
        }
    }
}

/// From the first attempt to the end of the measurement.
async fn life(crowd: Rc<Crowd>, member: Rc<Member>) {
    let target = crowd.target.clone();
    while !begin(&crowd, &member, &target.address).await {
        tokio::time::sleep(BETWEEN_FIRST_ATTEMPTS).await;
    }
    while crowd.returning() {
        let lost = Instant::now();
        let end = recover(&crowd, &member, lost).await;
        if end == End::Closed(GONE) || (end == End::Broken && lost.elapsed() >= RECOVERY_PATIENCE) {
            member.forget_session();
            let anew = target.fallback.as_deref().unwrap_or(&target.address);
            while !begin(&crowd, &member, anew).await {
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
        }
    }
}

/// A new session, until its connection ends; false: it never got ready.
async fn begin(crowd: &Crowd, member: &Member, address: &str) -> bool {
    let permit = crowd.gate().await;
    let opened = open(address, &member.path, crowd.target.protocol.subprotocol()).await;
    let Ok((stream, read)) = opened else { return false };
    let was_ready = visit(crowd, member, stream, &read, permit).await.is_some();
    crowd.left(member);
    was_ready
}

/// Tries at once, then each second, to continue the session; returns when that connection has ended again, or when there is
/// no more hope.
async fn recover(crowd: &Crowd, member: &Member, lost: Instant) -> End {
    let Some(path) = member.recovery_path() else { return End::Closed(GONE) };
    let mut due = tokio::time::interval(BETWEEN_ATTEMPTS);
    while lost.elapsed() < RECOVERY_PATIENCE {
        due.tick().await;
        let opened = open(&crowd.target.address, &path, crowd.target.protocol.subprotocol()).await;
        let Ok((stream, read)) = opened else { continue };
        member.recovered.set(true);
        let end = visit(crowd, member, stream, &read, None).await;
        crowd.left(member);
        match end {
            Some(end) => return end,
            None => member.recovered.set(false),
        }
        if member.session.borrow().is_none() {
            return End::Closed(GONE);
        }
    }
    End::Broken
}

/// One connection from its upgrade to its end; `None`: it never got ready.
async fn visit(
    crowd: &Crowd,
    member: &Member,
    stream: TcpStream,
    read: &[u8],
    permit: Option<tokio::sync::SemaphorePermit<'_>>,
) -> Option<End> {
    let stream = Rc::new(stream);
    member.stream.replace(Some(Rc::clone(&stream)));
    let mut ear = Ear { crowd, member, finder: Finder::default(), end: None };
    let mut frames = Frames::default();
    if member.recovered.get() {
        // Not every server says something to a client that is back; this has every one say something.
        member.say(&frame(TEXT, br#"{"type":"ping"}"#));
    }
    if !crowd.target.protocol.greets() {
        crowd.arrived(member);
    }
    let mut fed = frames.feed(read, |frame| ear.hear(frame, Instant::now()));
    drop(permit);
    while fed.is_ok() && ear.end.is_none() && stream.readable().await.is_ok() {
        let mut buffer = crowd.buffer.borrow_mut();
        match stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                let now = Instant::now();
                fed = frames.feed(&buffer[..length], |frame| ear.hear(frame, now));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    let end = ear.end.unwrap_or(End::Broken);
    if end == End::Closed(GONE) {
        member.forget_session();
    }
    member.ready.get().then_some(end)
}

/// What a client makes of what it is sent.
struct Ear<'a> {
    crowd: &'a Crowd,
    member: &'a Member,
    finder: Finder,
    end: Option<End>,
}

impl Ear<'_> {
    fn hear(&mut self, frame: Frame<'_>, now: Instant) {
        match frame.opcode {
            CLOSE => {
                let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                self.end = Some(End::Closed(code));
            }
            PING => self.member.say(&crate::frames::frame(PONG, frame.payload)),
            PONG => {}
            _ => self.data(frame.payload, now),
        }
    }

    fn data(&mut self, payload: &[u8], now: Instant) {
        let (crowd, member) = (self.crowd, self.member);
        let protocol = crowd.target.protocol;
        if let Some(answer) = protocol.answer(payload) {
            member.say(&answer);
        }
        if payload.starts_with(br#"{"type":"system""#) {
            remember(member, payload);
        }
        if !member.ready.get() {
            match protocol.step(payload) {
                Step::Ready => crowd.arrived(member),
                Step::Say(text) => member.say(&frame(TEXT, text.as_bytes())),
                Step::Wait => {}
            }
        }
        let reliable = protocol == Protocol::ReliableJson;
        if reliable && sequence(payload).is_some_and(|sequence| !member.is_new(sequence)) {
            return;
        }
        self.finder.find(payload, |mark| {
            crowd.tally.came(mark, now);
            if reliable {
                member.note(mark.number);
            }
        });
    }
}

/// Keeps what a `connected` frame says of the session.
fn remember(member: &Member, payload: &[u8]) {
    let Ok(frame) = serde_json::from_slice::<serde_json::Value>(payload) else { return };
    let text = |name: &str| frame.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    if let (Some(connection), Some(token)) = (text("connectionId"), text("reconnectionToken")) {
        member.session.replace(Some(Session { connection, token }));
    }
}

/// The number at the end of a reliable client's message.
fn sequence(payload: &[u8]) -> Option<u64> {
    let digits = payload.strip_suffix(b"}")?;
    let start = digits.len() - digits.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (before, number) = digits.split_at(start);
    before.ends_with(b"\"sequenceId\":").then(|| std::str::from_utf8(number).ok()?.parse().ok())?
}
