//! The one task of a connection: a future of a few hundred bytes. What it reads into and gathers writes in belongs to the thread, so an
//! idle connection has neither.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;

use super::client::{Client, Violation};
use crate::frames::Framed;
use crate::hub::Attached;
use crate::hub::outbox::{End, Next, Out, Pulse};
use crate::service::Place;
use crate::ws::{self, Decoder, Incoming};

/// Bytes of one client message: the contract's figure.
pub(crate) const MESSAGE_MAX: usize = 1024 * 1024;
/// Bytes read at once.
const READ_LEN: usize = 64 * 1024;
/// Things written at once: three slices each, far below the system's limit of 1,024.
const GATHER: usize = 64;
/// Bytes that are rather copied together than written from where they are.
const GATHERED_LEN_MAX: usize = 32 * 1024;
/// Reads or writes in a row before others get their turn.
const TURNS_MAX: u32 = 16;
/// A client that takes nothing of what goes before its close frame, or not that, is cut off after this.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// And after this in any case: time for all that may wait for it over a slow line.
const CLOSE_MAX: Duration = Duration::from_secs(60);

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_LEN]);
    static GATHERED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static TAKEN: RefCell<Vec<Out>> = const { RefCell::new(Vec::new()) };
}

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Coarse time, for signs of life.
pub(crate) fn pulse() -> Pulse {
    Pulse(u32::try_from(BEGAN.elapsed().as_secs()).unwrap_or(u32::MAX).saturating_add(1))
}

/// A connection that was upgraded.
pub(super) struct Socket<S> {
    pub(super) socket: S,
    /// What came with the request already.
    pub(super) read: Bytes,
    /// Held as long as the connection.
    pub(super) place: Option<Place>,
}

/// Starts the connection's task.
pub(super) fn spawn<S>(socket: Socket<S>, client: Client, attached: Attached)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Socket { socket, read, place } = socket;
    let early = (!read.is_empty()).then(|| Box::<[u8]>::from(&*read));
    tokio::spawn(Connection {
        socket,
        client,
        transport: attached.transport,
        decoder: Decoder::server(MESSAGE_MAX),
        early,
        unwritten: None,
        closing: None,
        _place: place,
    });
}

/// Closes a connection that has no session.
pub(super) async fn refuse<S>(mut socket: S, code: u16, reason: &str)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let frame = ws::close_frame(code, reason);
    let goodbye = async {
        socket.write_all(&frame).await?;
        socket.shutdown().await?;
        // Until the client has taken it: a reset would overtake it.
        tokio::io::copy(&mut socket, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(CLOSE_PATIENCE, goodbye).await;
}

struct Connection<S> {
    socket: S,
    client: Client,
    transport: u64,
    decoder: Decoder,
    early: Option<Box<[u8]>>,
    /// What the socket did not take.
    unwritten: Option<Box<Unwritten>>,
    closing: Option<Box<Closing>>,
    _place: Option<Place>,
}

struct Unwritten {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that were written.
    offset: usize,
}

struct Closing {
    deadline: Pin<Box<Sleep>>,
    /// The last of all deadlines.
    until: tokio::time::Instant,
    stage: Stage,
}

#[derive(PartialEq)]
enum Stage {
    Writing,
    Shutting,
    /// Until the client closes, too: a reset would overtake what was written.
    Waiting,
}

enum Piece {
    Message(Framed),
    Frame(Bytes),
}

impl Piece {
    fn of(out: &Out, protocol: crate::frames::Protocol) -> Self {
        match out {
            Out::Message(message, sequence) => {
                Self::Message(Framed::new(message.shared(protocol), *sequence))
            }
            Out::Frame(frame) => Self::Frame(frame.clone()),
        }
    }
    fn slices(&self) -> [&[u8]; 3] {
        match self {
            Self::Message(framed) => framed.slices(),
            Self::Frame(frame) => [frame, &[], &[]],
        }
    }
    fn len(&self) -> usize {
        self.slices().iter().map(|slice| slice.len()).sum()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Connection<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.closing.is_some() {
            return this.poll_close(context);
        }
        if let Some(mut early) = this.early.take()
            && let Err(violation) = this.feed(&mut early)
        {
            return this.close_for(&violation, context);
        }
        for _ in 0..TURNS_MAX {
            let read = this.poll_read(context);
            if let Poll::Ready(Err(violation)) = &read {
                return match violation {
                    Some(violation) => this.close_for(violation, context),
                    None => this.gone(),
                };
            }
            if let Some(code) = this.client.said_close {
                return this.answer_close(code, context);
            }
            let wrote = this.poll_write(context);
            match wrote {
                Poll::Ready(Ok(Wrote::Some)) => {}
                Poll::Ready(Ok(Wrote::End(end))) => return this.close(*end, context),
                Poll::Ready(Ok(Wrote::Replaced)) => return Poll::Ready(()),
                Poll::Ready(Err(_)) => return this.gone(),
                Poll::Pending if read.is_pending() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

enum Wrote {
    Some,
    End(Box<End>),
    Replaced,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// The transport broke.
    fn gone(&mut self) -> Poll<()> {
        self.client.leave(self.transport, None);
        Poll::Ready(())
    }

    fn close_for(&mut self, violation: &Violation, context: &mut Context<'_>) -> Poll<()> {
        self.client.leave(self.transport, Some(violation));
        let end = self.client.violation(violation);
        self.close(end, context)
    }

    fn answer_close(&mut self, code: Option<u16>, context: &mut Context<'_>) -> Poll<()> {
        self.client.leave(self.transport, None);
        let end = End { frame: None, code: code.unwrap_or(1000), reason: String::new() };
        self.close(end, context)
    }

    fn close(&mut self, end: End, context: &mut Context<'_>) -> Poll<()> {
        self.client.leave(self.transport, None);
        let pieces = &mut self.unwritten.get_or_insert_with(|| Box::new(Unwritten::empty())).pieces;
        pieces.extend(end.frame.map(Piece::Frame));
        pieces.push_back(Piece::Frame(ws::close_frame(end.code, &end.reason)));
        let deadline = Box::pin(tokio::time::sleep(CLOSE_PATIENCE));
        let until = tokio::time::Instant::now() + CLOSE_MAX;
        self.closing = Some(Box::new(Closing { deadline, until, stage: Stage::Writing }));
        self.poll_close(context)
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(mut closing) = self.closing.take() else { return Poll::Ready(()) };
        // In this order: progress moves the deadline.
        let done = self.poll_stages(&mut closing, context).is_ready()
            || closing.deadline.as_mut().poll(context).is_ready();
        if done {
            return Poll::Ready(());
        }
        self.closing = Some(closing);
        Poll::Pending
    }

    fn poll_stages(&mut self, closing: &mut Closing, context: &mut Context<'_>) -> Poll<()> {
        if closing.stage == Stage::Writing {
            let before = self.left();
            let written = self.poll_unwritten(context);
            if self.left() != before {
                let next = (tokio::time::Instant::now() + CLOSE_PATIENCE).min(closing.until);
                closing.deadline.as_mut().reset(next);
            }
            if ready!(written).is_err() {
                return Poll::Ready(());
            }
            closing.stage = Stage::Shutting;
        }
        if closing.stage == Stage::Shutting {
            if ready!(Pin::new(&mut self.socket).poll_shutdown(context)).is_err() {
                return Poll::Ready(());
            }
            closing.stage = Stage::Waiting;
        }
        loop {
            let read = READ.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                Pin::new(&mut self.socket).poll_read(context, &mut buffer).map_ok(|()| buffer.filled().len())
            });
            if matches!(ready!(read), Err(_) | Ok(0)) {
                return Poll::Ready(());
            }
        }
    }

    /// Reads once and does what the frames say. `Err(None)`: the connection is gone.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Option<Violation>>> {
        READ.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer)) {
                Err(_) => return Poll::Ready(Err(None)),
                Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Err(None)),
                Ok(()) => {}
            }
            self.client.outbox.hears(pulse());
            Poll::Ready(self.feed(buffer.filled_mut()).map_err(Some))
        })
    }

    fn feed(&mut self, input: &mut [u8]) -> Result<(), Violation> {
        let client = &mut self.client;
        let mut violation = None;
        let mut on = |incoming: Incoming<'_>| {
            if violation.is_none() && client.said_close.is_none() {
                violation = client.take(&incoming).err();
            }
        };
        let fed = self.decoder.feed(input, &mut on);
        match (violation, fed) {
            (Some(violation), _) => Err(violation),
            (None, Err(wrong)) => Err((wrong.code, wrong.reason.to_owned())),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Writes once: what is left over first.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Wrote>> {
        match self.poll_unwritten(context) {
            Poll::Ready(flushed) => flushed?,
            Poll::Pending => return self.poll_over(context).map(Ok),
        }
        TAKEN.with_borrow_mut(|taken| {
            taken.clear();
            let next = self.client.outbox.poll_take(self.transport, GATHER, taken, context);
            match ready!(next) {
                Next::End(end) => return Poll::Ready(Ok(Wrote::End(end))),
                Next::Replaced => return Poll::Ready(Ok(Wrote::Replaced)),
                Next::Write => {}
            }
            let protocol = self.client.protocol;
            // Small enough for the stack: the usual case is one message.
            if let [one] = taken.as_slice() {
                let one = [Piece::of(one, protocol)];
                return self.write_pieces(&one, context).map_ok(|written| self.keep(one, written));
            }
            let pieces: Vec<Piece> = taken.drain(..).map(|out| Piece::of(&out, protocol)).collect();
            self.write_pieces(&pieces, context).map_ok(|written| self.keep(pieces, written))
        })
    }

    /// The client takes nothing now. Should it never do so again, its connection must be told to go all the same: what waits
    /// has as long as the close frame then.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<Wrote> {
        let mut waiting = Vec::new();
        match ready!(self.client.outbox.poll_over(self.transport, &mut waiting, context)) {
            Next::End(end) => {
                let protocol = self.client.protocol;
                let pieces = waiting.iter().map(|out| Piece::of(out, protocol));
                self.unwritten.get_or_insert_with(|| Box::new(Unwritten::empty())).pieces.extend(pieces);
                Poll::Ready(Wrote::End(end))
            }
            Next::Replaced | Next::Write => Poll::Ready(Wrote::Replaced),
        }
    }

    /// One system call for all of them. What is not taken is counted as zero and not as pending, so that it can be kept.
    fn write_pieces(&mut self, pieces: &[Piece], context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); 3 * GATHER];
        let mut count = 0;
        for slice in pieces.iter().flat_map(Piece::slices).filter(|slice| !slice.is_empty()) {
            slices[count] = IoSlice::new(slice);
            count += 1;
        }
        let slices = &slices[..count];
        // `send` costs the kernel less than `writev`, by more than copying a few short messages together.
        let wrote = if let [one] = slices {
            Pin::new(&mut self.socket).poll_write(context, one)
        } else if slices.iter().map(|slice| slice.len()).sum::<usize>() <= GATHERED_LEN_MAX {
            GATHERED.with_borrow_mut(|gathered| {
                gathered.clear();
                slices.iter().for_each(|slice| gathered.extend_from_slice(slice));
                Pin::new(&mut self.socket).poll_write(context, gathered)
            })
        } else {
            Pin::new(&mut self.socket).poll_write_vectored(context, slices)
        };
        match wrote {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Pending => Poll::Ready(Ok(0)),
            ready => ready,
        }
    }

    /// Keeps what was not written.
    fn keep(&mut self, pieces: impl IntoIterator<Item = Piece>, written: usize) -> Wrote {
        let mut left = written;
        let mut unwritten: Option<Box<Unwritten>> = None;
        for piece in pieces {
            let len = piece.len();
            if unwritten.is_none() && left >= len {
                left -= len;
                continue;
            }
            let kept =
                unwritten.get_or_insert_with(|| Box::new(Unwritten { offset: left, ..Unwritten::empty() }));
            kept.pieces.push_back(piece);
        }
        self.unwritten = unwritten;
        Wrote::Some
    }

    /// How much is still to be written: pieces, and bytes written of the first.
    fn left(&self) -> (usize, usize) {
        self.unwritten.as_ref().map_or((0, 0), |unwritten| (unwritten.pieces.len(), unwritten.offset))
    }

    fn poll_unwritten(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(unwritten) = &mut self.unwritten {
            let Some(piece) = unwritten.pieces.front() else {
                self.unwritten = None;
                break;
            };
            let mut skip = unwritten.offset;
            let mut slices = [IoSlice::new(&[]); 3];
            let mut count = 0;
            for slice in piece.slices() {
                let rest = slice.get(skip..).unwrap_or_default();
                skip = skip.saturating_sub(slice.len());
                if !rest.is_empty() {
                    slices[count] = IoSlice::new(rest);
                    count += 1;
                }
            }
            let wrote = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, &slices[..count]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            unwritten.offset += wrote;
            if unwritten.offset >= piece.len() {
                unwritten.pieces.pop_front();
                unwritten.offset = 0;
            }
        }
        // With TLS, what was written may still be in its buffers.
        Pin::new(&mut self.socket).poll_flush(context)
    }
}

impl Unwritten {
    fn empty() -> Self {
        Self { pieces: VecDeque::new(), offset: 0 }
    }
}
