//! The replication listener: one thread per session, each feeding one machine's [`Sink`].

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use farshore_core::ids::Token;
use farshore_core::moment::Moment;
use farshore_core::workload::Watermark;
use rustls::ServerConfig;

use super::frame::{
    Ack, DIVERGED_BATCH, Decoder, Frame, FrameError, HELLO_LEN_MAX, Hello, Message, PAYLOAD_LEN_MAX,
    PROTOCOL, Reason, Refused, encode,
};
use crate::sink::Sink;
use crate::tls::{TlsStream, loopback_only};

/// A peer must have introduced itself by then: strangers hold no thread for longer.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// A source says something twice a second; silence for this long, a slow disk allowed for, means that it is gone.
const DEAD_AFTER: Duration = Duration::from_secs(8);
/// A busy session is synced this often: bounds what a crash of the target makes the source send again.
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// With data not yet synced, this long a silence means "nothing more for now": sync.
const IDLE_AFTER: Duration = Duration::from_millis(10);
/// How often a silent session looks whether it should say something.
const QUIET_POLL: Duration = Duration::from_millis(250);
/// The source hears from us at least this often.
const ACK_EVERY: Duration = Duration::from_millis(500);
/// Credit is given back in steps of this many bytes: a quarter of what a source may have in flight.
const CREDIT_STEP: u64 = 4 << 20;
/// Sessions at once: bounds threads.
const SESSIONS_MAX: usize = 256;
/// How long a new session waits for the one it replaces to leave the sink.
const EVICT_DEADLINE: Duration = Duration::from_secs(10);

/// Finds the receiving side of an item.
pub trait Sinks: Send + Sync + Debug {
    /// Checks secret, item and shape, and returns the replica. Called once per session.
    fn open(&self, hello: &Hello) -> Result<Arc<dyn Sink>, Refused>;
    /// Refuses a token lower than the highest stored for the item, and stores a higher one. Called for every frame.
    fn check_token(&self, item: &str, token: Token) -> Result<(), Refused>;
}

/// A running listener. Dropped, it stops.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    sinks: Arc<dyn Sinks>,
    tls: Option<Arc<ServerConfig>>,
    stopping: AtomicBool,
    sessions: Mutex<Sessions>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Sessions {
    next: u64,
    open: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    stream: TcpStream,
    item: Option<String>,
}

impl Receiver {
    /// Starts to accept sessions on `listener`: over TLS if a configuration is given, which must require certificates;
    /// in plain text, on loopback only, if not.
    pub fn start(
        listener: TcpListener,
        sinks: Arc<dyn Sinks>,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        if tls.is_none() {
            loopback_only(address, "receive disks")?;
        }
        let shared = Arc::new(Shared {
            sinks,
            tls,
            stopping: AtomicBool::new(false),
            sessions: Mutex::default(),
            ended: Condvar::new(),
        });
        let thread = Arc::clone(&shared);
        let accepting = std::thread::Builder::new()
            .name("replica-accept".into())
            .spawn(move || accept(&listener, &thread))?;
        Ok(Self { shared, address, accepting: Mutex::new(Some(accepting)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all sessions and returns when their threads have left the sinks.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; if that fails it is not waiting.
        let _ = TcpStream::connect_timeout(&reachable(self.address), HANDSHAKE_DEADLINE);
        if let Some(thread) = lock(&self.accepting).take() {
            let _ = thread.join();
        }
        let mut sessions = lock(&self.shared.sessions);
        while !sessions.open.is_empty() {
            sessions.open.values().for_each(|entry| drop(entry.stream.shutdown(Shutdown::Both)));
            sessions = self.shared.ended.wait(sessions).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the sessions of one item (its role changes) and returns when they have left its sink.
    pub fn end_sessions(&self, item: &str) {
        evict(&self.shared, item, None);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listener on "any address" is reached over loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, peer)) => start_session(stream, peer, shared),
            Err(error) => {
                // Out of descriptors, mostly: give those that are open time to end.
                tracing::warn!(%error, "cannot accept a replication session");
                std::thread::sleep(QUIET_POLL);
            }
        }
    }
}

fn start_session(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) {
    let Ok(clone) = stream.try_clone() else { return };
    let id = {
        let mut sessions = lock(&shared.sessions);
        if sessions.open.len() >= SESSIONS_MAX {
            tracing::warn!(%peer, "too many replication sessions: one was closed at once");
            return;
        }
        sessions.next += 1;
        let id = sessions.next;
        sessions.open.insert(id, Entry { stream: clone, item: None });
        id
    };
    let thread = Arc::clone(shared);
    let spawned = std::thread::Builder::new().name("replica-session".into()).spawn(move || {
        let _leave = Leave { shared: &thread, id };
        match serve(stream, &thread, id) {
            Ok(()) => tracing::info!(%peer, "replication session ended"),
            Err(error) => tracing::info!(%peer, %error, "replication session ended"),
        }
    });
    if spawned.is_err() {
        leave(shared, id);
    }
}

/// Removes the session however its thread ends.
struct Leave<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        leave(self.shared, self.id);
    }
}

fn leave(shared: &Shared, id: u64) {
    lock(&shared.sessions).open.remove(&id);
    shared.ended.notify_all();
}

/// Ends other sessions of `item` and waits until they are gone. False when one does not leave in time.
fn evict(shared: &Shared, item: &str, keep: Option<u64>) -> bool {
    let deadline = Instant::now() + EVICT_DEADLINE;
    let mut sessions = lock(&shared.sessions);
    loop {
        let mut others = 0;
        for (id, entry) in &sessions.open {
            if Some(*id) != keep && entry.item.as_deref() == Some(item) {
                let _ = entry.stream.shutdown(Shutdown::Both);
                others += 1;
            }
        }
        if others == 0 {
            if let Some(entry) = keep.and_then(|id| sessions.open.get_mut(&id)) {
                entry.item = Some(item.to_owned());
            }
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        sessions = shared.ended.wait_timeout(sessions, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    #[error("the source has not been heard for {DEAD_AFTER:?}")]
    Silent,
    #[error("the source sent something out of turn")]
    OutOfTurn,
}

/// What a session needs of its connection beside bytes.
trait Connection: Read + Write {
    /// Longest wait of one read.
    fn set_wait(&self, wait: Duration) -> io::Result<()>;
}

impl Connection for TcpStream {
    fn set_wait(&self, wait: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(wait))
    }
}

impl Connection for &TlsStream {
    fn set_wait(&self, wait: Duration) -> io::Result<()> {
        self.socket().set_read_timeout(Some(wait))
    }
}

fn serve(stream: TcpStream, shared: &Shared, id: u64) -> Result<(), Ended> {
    stream.set_nodelay(true)?;
    let Some(config) = &shared.tls else {
        stream.set_write_timeout(Some(DEAD_AFTER))?;
        return converse(stream, shared, id);
    };
    let stream = TlsStream::accept(stream, Arc::clone(config), Instant::now() + HANDSHAKE_DEADLINE)
        .map_err(Ended::Tls)?;
    stream.socket().set_write_timeout(Some(DEAD_AFTER))?;
    let ended = converse(&stream, shared, id);
    stream.hang_up();
    ended
}

fn converse<C: Connection>(stream: C, shared: &Shared, id: u64) -> Result<(), Ended> {
    let mut session = Session::new(stream, shared, id)?;
    let result = session.handshake().and_then(|()| session.run());
    if let Err(error) = &result {
        session.say_why(error);
    }
    result
}

/// One source's session, from its first byte to its last.
struct Session<'a, C> {
    stream: C,
    shared: &'a Shared,
    id: u64,
    decoder: Decoder,
    wait: Duration,
    token: Token,
    item: String,
    sink: Option<Arc<dyn Sink>>,
    heard: Instant,
    ack: Ack,
    unsynced: bool,
    synced_at: Instant,
    acked_at: Instant,
    acked: u64,
    alive_at: Option<Instant>,
}

impl<'a, C: Connection> Session<'a, C> {
    fn new(stream: C, shared: &'a Shared, id: u64) -> io::Result<Self> {
        let now = Instant::now();
        stream.set_wait(QUIET_POLL)?;
        Ok(Self {
            stream,
            shared,
            id,
            decoder: Decoder::new(HELLO_LEN_MAX),
            wait: QUIET_POLL,
            token: Token::default(),
            item: String::new(),
            sink: None,
            heard: now,
            ack: Ack { consumed: 0, synced: 0, durable: Watermark::default(), differed: 0 },
            unsynced: false,
            synced_at: now,
            acked_at: now,
            acked: 0,
            alive_at: None,
        })
    }

    fn send(&mut self, message: &Message) -> io::Result<()> {
        let mut out = Vec::new();
        encode(self.token, message, false, &mut out);
        self.stream.write_all(&out)
    }

    /// Reads once; false when nothing came within the wait.
    fn fill(&mut self) -> Result<bool, Ended> {
        match self.decoder.fill(&mut self.stream) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) => {
                self.heard = Instant::now();
                Ok(true)
            }
            Err(error) if is_pause(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn handshake(&mut self) -> Result<(), Ended> {
        let deadline = Instant::now() + HANDSHAKE_DEADLINE;
        let frame = loop {
            if let Some((frame, _)) = self.decoder.next_frame()? {
                break frame;
            }
            if Instant::now() >= deadline {
                return Err(Ended::Silent);
            }
            self.fill()?;
        };
        let Message::Hello(hello) = frame.message else { return Err(Ended::OutOfTurn) };
        if hello.protocol != PROTOCOL {
            let text = format!(
                "the source speaks version {} of the replication protocol, this side {PROTOCOL}: run the same release on both",
                hello.protocol
            );
            return Err(Refused { reason: Reason::WrongVersion, text }.into());
        }
        let sink = self.shared.sinks.open(&hello)?;
        self.shared.sinks.check_token(&hello.item, frame.token)?;
        if !evict(self.shared, &hello.item, Some(self.id)) {
            let text = "an older session of the item has not ended yet".to_owned();
            return Err(Refused { reason: Reason::Busy, text }.into());
        }
        self.token = frame.token;
        self.item = hello.item;
        sink.source_alive(hello.head, now());
        self.welcome(&*sink)?;
        self.sink = Some(sink);
        self.decoder.set_limit(PAYLOAD_LEN_MAX);
        Ok(())
    }

    fn welcome(&mut self, sink: &dyn Sink) -> Result<(), Ended> {
        let resume = sink.resume().map_err(|error| failed("cannot say where to go on", &error))?;
        self.ack.durable = resume.durable.unwrap_or_default();
        let batches = resume.diverged.chunks(DIVERGED_BATCH);
        self.send(&Message::Welcome {
            durable: resume.durable,
            catching_up: resume.catching_up,
            diverged_frames: u32::try_from(batches.len()).unwrap_or(u32::MAX),
        })?;
        for batch in batches {
            self.send(&Message::Diverged(batch.to_vec()))?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), Ended> {
        let sink = self.sink.clone().ok_or(Ended::OutOfTurn)?;
        loop {
            while let Some((frame, len)) = self.decoder.next_frame()? {
                self.shared.sinks.check_token(&self.item, frame.token)?;
                let urgent = self.work_in(&*sink, frame)?;
                self.ack.consumed += len as u64;
                if urgent || self.synced_at.elapsed() >= SYNC_EVERY {
                    self.sync(&*sink)?;
                    self.acknowledge()?;
                } else if self.ack.consumed - self.acked >= CREDIT_STEP {
                    self.acknowledge()?;
                }
            }
            self.set_wait(if self.unsynced { IDLE_AFTER } else { QUIET_POLL })?;
            if !self.fill()? {
                if self.heard.elapsed() >= DEAD_AFTER {
                    return Err(Ended::Silent);
                }
                if self.unsynced {
                    self.sync(&*sink)?;
                    self.acknowledge()?;
                }
            }
            if self.acked_at.elapsed() >= ACK_EVERY {
                self.acknowledge()?;
            }
        }
    }

    fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
        if self.wait != wait {
            self.stream.set_wait(wait)?;
            self.wait = wait;
        }
        Ok(())
    }

    /// Hands the frame to the sink; true when the source wants to know at once that it is durable.
    fn work_in(&mut self, sink: &dyn Sink, frame: Frame) -> Result<bool, Ended> {
        let done = |what: &str, result: io::Result<()>| result.map_err(|error| failed(what, &error));
        match frame.message {
            Message::Records { head, urgent, records } => {
                done("cannot append to the journal", sink.append(&records))?;
                self.unsynced = true;
                self.alive(sink, head);
                return Ok(urgent);
            }
            Message::Blocks(blocks) => {
                let differed = sink.blocks(&blocks);
                self.ack.differed +=
                    differed.map_err(|error| failed("cannot take in a block of the catch-up", &error))?;
            }
            Message::BeginCatchUp { from } => done("cannot begin the catch-up", sink.begin_catch_up(from))?,
            Message::EndCatchUp { at } => {
                done("cannot end the catch-up", sink.end_catch_up(at))?;
                self.unsynced = true;
                return Ok(true);
            }
            Message::Point(p) => {
                let result = sink.point(p.at, p.taken, p.kind, p.name.as_deref());
                done("cannot keep a recovery point", result)?;
                self.unsynced = true;
                return Ok(p.name.is_some());
            }
            Message::Alive { head, urgent } => {
                self.alive(sink, head);
                return Ok(urgent);
            }
            _ => return Err(Ended::OutOfTurn),
        }
        self.unsynced = true;
        Ok(false)
    }

    fn alive(&mut self, sink: &dyn Sink, head: Watermark) {
        if self.alive_at.is_none_or(|at| at.elapsed() >= SYNC_EVERY) {
            self.alive_at = Some(Instant::now());
            sink.source_alive(head, now());
        }
    }

    fn sync(&mut self, sink: &dyn Sink) -> Result<(), Ended> {
        if self.unsynced {
            self.ack.durable =
                sink.sync().map_err(|error| failed("cannot make the journal durable", &error))?;
            self.unsynced = false;
        }
        self.ack.synced = self.ack.consumed;
        self.synced_at = Instant::now();
        Ok(())
    }

    fn acknowledge(&mut self) -> io::Result<()> {
        if !self.unsynced {
            self.ack.synced = self.ack.consumed;
        }
        self.send(&Message::Ack(self.ack))?;
        self.acked = self.ack.consumed;
        self.acked_at = Instant::now();
        Ok(())
    }

    /// Tells the source why the session ends, if it still listens.
    fn say_why(&mut self, error: &Ended) {
        let refused = match error {
            Ended::Refused(refused) => refused.clone(),
            Ended::Io(_) | Ended::Tls(_) | Ended::Silent => return,
            Ended::Frame(_) | Ended::OutOfTurn => Refused { reason: Reason::Busy, text: error.to_string() },
        };
        let _ = self.send(&Message::Refused(refused));
    }
}

fn failed(what: &str, error: &io::Error) -> Ended {
    Ended::Refused(Refused { reason: Reason::Failed, text: format!("the target {what}: {error}") })
}

/// A read that ended for want of data, not of a connection.
pub(crate) fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
