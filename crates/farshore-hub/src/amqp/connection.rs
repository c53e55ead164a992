//! One connection with its socket and its clock: the engine says what is to be done, this does it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use farshore_core::moment::Moment;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::engine::{Answer, Effect, Engine, IDLE, Question, Ticket};
use super::{Behind, Feedback, Refused, Settled, wire};
use crate::names::Key;

/// How long a peer may be connected without a token. The official SDKs put theirs at once.
const TOKEN_WAIT: Duration = Duration::from_secs(60);
/// What is read at once; also the most that is read ahead of what is worked on.
const READ_BYTES: usize = 16 * 1024;
/// How long a peer may take to read what it is written.
const WRITE_WAIT: Duration = Duration::from_secs(30);
/// How long the hub may take for one answer; then the peer is told to try again.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// How long a peer has to go after it was told to, or to close its side after this side did.
const FAREWELL: Duration = Duration::from_secs(2);
/// Whether the key by which a peer came is still one of the hub's is asked this often.
const KEYS_LOOKED_AT_EVERY: Duration = Duration::from_millis(500);
/// A peer that wants signs of life more often than this does not get them more often.
const BEAT_MIN: Duration = Duration::from_millis(250);

type Answered = (Ticket, Option<Key>, Answer);
type Fed = (Arc<str>, Result<Feedback, Refused>);

/// Why waiting ended.
enum Event {
    Read(std::io::Result<usize>),
    Answered(Answered),
    Fed(Fed),
    Settled,
    Beat,
    Look,
    Late,
    Stop,
}

/// Serves one peer until one of the two has enough, or `stop` says so. `now` tells the wall-clock time, for tokens.
pub(super) async fn serve<S>(
    stream: S,
    behind: Arc<dyn Behind>,
    now: fn() -> Moment,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut reader, writer) = tokio::io::split(stream);
    let mut peer = Peer::new(writer, behind, now);
    loop {
        let event = tokio::select! {
            event = peer.wait(&mut reader) => event,
            _ = stop.wait_for(|stop| *stop), if !peer.engine.is_leaving() => Event::Stop,
        };
        match event {
            Event::Read(Ok(0) | Err(_)) => break,
            Event::Read(Ok(_)) => peer.parse(),
            Event::Answered((ticket, key, answer)) => peer.answered(ticket, key.as_ref(), answer),
            Event::Fed((hub, answer)) => peer.fed(&hub, answer),
            Event::Settled => {}
            Event::Beat => peer.out.extend_from_slice(&wire::EMPTY),
            Event::Look => peer.look(),
            Event::Late => peer.late(),
            Event::Stop => peer.engine.send_away(),
        }
        let open = peer.perform();
        if peer.flush().await.is_err() {
            break;
        }
        if !open {
            let _ = peer.writer.shutdown().await;
            let _ = timeout(FAREWELL, tokio::io::copy(&mut reader, &mut tokio::io::sink())).await;
            break;
        }
    }
    peer.leave().await;
}

struct Peer<W> {
    engine: Engine,
    writer: W,
    behind: Arc<dyn Behind>,
    now: fn() -> Moment,
    since: Instant,
    heard: Instant,
    spoke: Instant,
    looked: Instant,
    buffer: BytesMut,
    out: Vec<u8>,
    asked: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Messages for a device wait here while an earlier one for it is with the hub: their order is kept.
    lanes: HashMap<Key, VecDeque<(Ticket, Question)>>,
    feeding: Option<BoxFuture<'static, Fed>>,
    settling: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl<W: AsyncWrite + Unpin> Peer<W> {
    fn new(writer: W, behind: Arc<dyn Behind>, now: fn() -> Moment) -> Self {
        let since = Instant::now();
        Self {
            engine: Engine::new(),
            writer,
            behind,
            now,
            since,
            heard: since,
            spoke: since,
            looked: since,
            buffer: BytesMut::with_capacity(READ_BYTES),
            out: Vec::new(),
            asked: FuturesUnordered::new(),
            lanes: HashMap::new(),
            feeding: None,
            settling: FuturesUnordered::new(),
        }
    }

    async fn wait(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> Event {
        let (late, beat, look) = (self.late_at(), self.beat_at(), self.looked + KEYS_LOOKED_AT_EVERY);
        self.buffer.reserve(READ_BYTES);
        tokio::select! {
            read = reader.read_buf(&mut self.buffer) => Event::Read(read),
            Some(answered) = self.asked.next() => Event::Answered(answered),
            Some(fed) = next_of(&mut self.feeding) => Event::Fed(fed),
            Some(()) = self.settling.next() => Event::Settled,
            () = sleep_until(beat.unwrap_or(late)), if beat.is_some() => Event::Beat,
            () = sleep_until(look), if self.engine.granted().is_some() => Event::Look,
            () = sleep_until(late) => Event::Late,
        }
    }

    /// Gives the engine all that came whole.
    fn parse(&mut self) {
        self.heard = Instant::now();
        while !self.engine.is_closed() {
            if self.engine.wants_header() {
                let Some(header) = self.buffer.first_chunk::<8>().copied() else { return };
                let _ = self.buffer.split_to(header.len());
                self.engine.header(header);
                continue;
            }
            match wire::next_frame(&mut self.buffer) {
                Ok(Some(frame)) => self.engine.frame(frame),
                Ok(None) => return,
                Err(why) => return self.engine.broken(&why),
            }
        }
    }

    /// Does what the engine wants done; `false`: the connection is over.
    fn perform(&mut self) -> bool {
        let mut open = true;
        for effect in self.engine.effects() {
            match effect {
                Effect::Write(bytes) => self.out.extend_from_slice(&bytes),
                Effect::Ask(ticket, question) => self.ask(ticket, question),
                Effect::Settle { hub, lock, settled } => self.settle(hub, lock, settled),
                Effect::Close => open = false,
            }
        }
        if self.feeding.is_none()
            && let Some(hub) = self.engine.hungry()
        {
            let behind = Arc::clone(&self.behind);
            self.feeding = Some(async move { (Arc::clone(&hub), behind.feedback(&hub).await) }.boxed());
        }
        open
    }

    fn ask(&mut self, ticket: Ticket, question: Question) {
        if let Question::Send { message, .. } = &question {
            if let Some(lane) = self.lanes.get_mut(&message.key) {
                return lane.push_back((ticket, question));
            }
            self.lanes.insert(message.key.clone(), VecDeque::new());
        }
        self.put(ticket, question);
    }

    fn put(&mut self, ticket: Ticket, question: Question) {
        let behind = Arc::clone(&self.behind);
        self.asked.push(
            async move {
                let late = || Refused::Unavailable(format!("the hub did not answer within {ANSWER_WAIT:?}"));
                match question {
                    Question::Authorize { token, audience } => {
                        let answer = timeout(ANSWER_WAIT, behind.authorize(&token, &audience)).await;
                        (ticket, None, Answer::Authorized(answer.unwrap_or_else(|_| Err(late()))))
                    }
                    Question::Send { hub, message } => {
                        let key = message.key.clone();
                        let answer = timeout(ANSWER_WAIT, behind.send(&hub, *message)).await;
                        (ticket, Some(key), Answer::Sent(answer.unwrap_or_else(|_| Err(late()))))
                    }
                }
            }
            .boxed(),
        );
    }

    fn answered(&mut self, ticket: Ticket, key: Option<&Key>, answer: Answer) {
        if let Some(key) = key {
            match self.lanes.get_mut(key).and_then(VecDeque::pop_front) {
                Some((next, question)) => self.put(next, question),
                None => {
                    self.lanes.remove(key);
                }
            }
        }
        self.engine.answer(ticket, answer);
    }

    fn fed(&mut self, hub: &Arc<str>, answer: Result<Feedback, Refused>) {
        self.feeding = None;
        self.engine.feedback(hub, answer);
    }

    fn settle(&mut self, hub: Arc<str>, lock: String, settled: Settled) {
        let behind = Arc::clone(&self.behind);
        self.settling.push(async move { behind.settle(&hub, &lock, settled).await }.boxed());
    }

    /// When waiting ends because the peer is silent, has no token any more, or was sent away and does not go.
    fn late_at(&self) -> Instant {
        if self.engine.is_leaving() {
            return self.spoke + FAREWELL;
        }
        let silent = self.heard + 2 * IDLE;
        let token = match self.engine.granted() {
            Some(granted) => Instant::now() + granted.expires.since((self.now)()),
            None => self.since + TOKEN_WAIT,
        };
        silent.min(token)
    }

    fn late(&mut self) {
        if self.engine.is_leaving() {
            return self.engine.cut();
        }
        let expired = self.engine.granted().is_none_or(|granted| granted.expires <= (self.now)());
        if expired {
            self.engine.expel("no token was put in time, or it expired: put a new one before");
        } else if self.heard + 2 * IDLE <= Instant::now() {
            self.engine.silent();
        }
    }

    /// Whoever came by a key that the hub has no more, goes.
    fn look(&mut self) {
        self.looked = Instant::now();
        let stands = self.engine.granted().is_none_or(|granted| self.behind.still_grants(granted));
        if !stands {
            self.engine.expel(
                "the key that signed the token is no longer one of this hub's: make a token with the new one",
            );
        }
    }

    /// When the peer needs a sign of life.
    fn beat_at(&self) -> Option<Instant> {
        self.engine.peer_idle().map(|idle| self.spoke + (idle / 2).max(BEAT_MIN))
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let written = async {
            self.writer.write_all(&self.out).await?;
            self.writer.flush().await
        };
        timeout(WRITE_WAIT, written)
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        self.out.clear();
        self.spoke = Instant::now();
        Ok(())
    }

    /// Messages that the hub has already are let finish; leases are given back.
    async fn leave(&mut self) {
        self.engine.end();
        self.perform();
        self.feeding = None;
        self.lanes.clear();
        let rest = async {
            while self.settling.next().await.is_some() {}
            while self.asked.next().await.is_some() {}
        };
        let _ = timeout(ANSWER_WAIT, rest).await;
    }
}

/// The one future that may be there.
async fn next_of(future: &mut Option<BoxFuture<'static, Fed>>) -> Option<Fed> {
    match future {
        Some(future) => Some(future.await),
        None => None,
    }
}
