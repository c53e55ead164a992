//! One connection, and one exchange on it.
//!
//! Nobody but the connection itself brings an answer or its body forward, so only the connection is polled with the
//! task's waker; what waits for it is asked again right afterwards, with none. A task is woken by the socket alone.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::super::body::{ToUpstream, UploadEnd};

/// Without TLS, or with it.
pub(super) type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Bytes of one connection that were read and not taken, and the longest head of an answer.
const BUFFER_MAX: usize = 128 * 1024;

/// There is no answer.
pub(super) enum NoReply {
    /// The connection had ended before: nothing was written, and the request is still there.
    Unsent(hyper::Error),
    Broken(hyper::Error),
    Late,
}

/// An open connection, for one exchange at a time.
pub(super) struct Line {
    sender: SendRequest<ToUpstream>,
    /// What reads and writes. Never polled again once it ended.
    driver: Driver,
    ended: bool,
    /// When the exchange under way is given up.
    deadline: Instant,
    /// Goes off at the deadline or before, and is then set to it: not for each exchange anew.
    alarm: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Line {
    pub(super) async fn open(wire: Wire) -> io::Result<Self> {
        Self::over(TokioIo::new(wire)).await.map_err(io::Error::other)
    }

    async fn over<T>(io: T) -> hyper::Result<Self>
    where
        T: Read + Write + Unpin + Send + 'static,
    {
        // Most requests are one head: copied together, what there is goes out by the cheaper call.
        let (sender, connection) =
            Builder::new().max_buf_size(BUFFER_MAX).writev(false).handshake(io).await?;
        let deadline = Instant::now();
        let alarm = Box::pin(tokio::time::sleep_until(deadline));
        Ok(Self { sender, driver: Box::pin(connection.with_upgrades()), ended: false, deadline, alarm })
    }

    /// Reads and writes what is possible now. True: it ended.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.ended {
            self.ended = self.driver.as_mut().poll(cx).is_ready();
        }
        self.ended
    }

    /// It has not ended, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.ended
    }

    /// It takes another request, as far as can be known.
    pub(super) fn is_usable(&mut self) -> bool {
        !self.drive(&mut nobody()) && self.sender.is_ready()
    }

    /// From here on it is driven by a task of its own and is not used again.
    pub(super) fn leave(self) {
        if !self.ended {
            // An error is the other side's, and shows in the body or the tunnel.
            tokio::spawn(async move { drop(self.driver.await) });
        }
    }

    /// Sends what is there and returns the head of the answer; the rest of it comes on this connection. It is waited for
    /// `within` from the last that went on of the request, at most twice that.
    pub(super) async fn exchange(
        &mut self,
        request: &mut Option<Request<ToUpstream>>,
        upload: &UploadEnd,
        within: Duration,
    ) -> Result<Response<Incoming>, NoReply> {
        self.deadline = Instant::now() + within;
        let mut sent = upload.pieces();
        let whole = request.take().expect("whoever sends has a request, and an unsent one is put back");
        let mut reply = pin!(self.sender.try_send_request(whole));
        let answered = poll_fn(|cx| {
            // Once it ended, what it said is there.
            let replied = match self.drive(cx) {
                true => reply.as_mut().poll(cx),
                false => reply.as_mut().poll(&mut nobody()),
            };
            match replied {
                Poll::Ready(answered) => Poll::Ready(Some(answered)),
                Poll::Pending => {
                    let late = self.is_late(cx, || {
                        let before = std::mem::replace(&mut sent, upload.pieces());
                        (sent > before).then(|| Instant::now() + within)
                    });
                    if late { Poll::Ready(None) } else { Poll::Pending }
                }
            }
        });
        match answered.await {
            None => Err(NoReply::Late),
            Some(Ok(response)) => Ok(response),
            Some(Err(mut failed)) => {
                *request = failed.take_message();
                let error = failed.into_error();
                Err(if request.is_some() { NoReply::Unsent(error) } else { NoReply::Broken(error) })
            }
        }
    }

    /// The deadline is over, and there is no `other`; otherwise the task is woken at the deadline.
    fn is_late(&mut self, cx: &mut Context<'_>, mut other: impl FnMut() -> Option<Instant>) -> bool {
        while self.alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= self.deadline {
                let Some(other) = other() else { return true };
                self.deadline = other;
            }
            self.alarm.as_mut().reset(self.deadline);
        }
        false
    }
}

/// Wakes nobody.
pub(super) fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Polls what `line` brings forward: the line with the task's waker, the rest with none.
pub(super) fn poll_behind<T>(
    line: &mut Line,
    cx: &mut Context<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    if let Poll::Ready(done) = poll(&mut nobody()) {
        return Poll::Ready(done);
    }
    if line.drive(cx) { poll(cx) } else { poll(&mut nobody()) }
}
