//! A WebSocket as the stream of bytes that it carries. Without a buffer of its own between writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Frames, Kind, head};

/// The most that one frame carries; the next waits until this one is written.
const FRAME_MAX: usize = 64 * 1024;
/// Pongs that wait for a client which does not read; it is owed no more.
const PONGS_MAX: usize = 4 * 1024;

/// The server's side of a WebSocket over `S`.
pub(super) struct WebSocket<S> {
    inner: S,
    frames: Frames,
    out: Vec<u8>,
    written: usize,
    ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// The client sent its last frame.
    Theirs,
    /// So did we.
    Ours,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, frames: Frames::default(), out: Vec::new(), written: 0, ending: Ending::No }
    }

    fn push(&mut self, kind: Kind, payload: &[u8]) {
        head(kind, payload.len(), &mut self.out);
        self.out.extend_from_slice(payload);
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        self.out = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Takes the headers out of what was read; the rest is what it carries.
    fn unwrap(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Self { frames, out, ending, .. } = self;
        frames
            .unwrap(bytes, &mut |(kind, payload)| {
                match kind {
                    Kind::Ping if out.len() < PONGS_MAX => {
                        head(Kind::Pong, payload.len(), out);
                        out.extend_from_slice(&payload);
                    }
                    Kind::Close => *ending = Ending::Theirs,
                    _ => {}
                }
                kind != Kind::Close
            })
            .map_err(io::Error::other)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        read: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.ending != Ending::Theirs {
            let bytes = read.initialize_unfilled();
            let mut raw = ReadBuf::new(bytes);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut raw))?;
            let len = raw.filled().len();
            if len == 0 {
                break;
            }
            let carried = self.unwrap(&mut bytes[..len])?;
            // Pongs go out now if they can, else with whatever is written next.
            if let Poll::Ready(drained) = self.poll_drain(cx) {
                drained?;
            }
            if carried > 0 {
                read.advance(carried);
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let len = bytes.len().min(FRAME_MAX);
        self.push(Kind::Data, &bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending != Ending::Ours {
            self.ending = Ending::Ours;
            self.push(Kind::Close, &[]);
        }
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
