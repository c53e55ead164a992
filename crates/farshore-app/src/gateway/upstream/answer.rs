//! The body of an answer, which drives the connection that it comes on.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::Taken;
use super::line::{Line, poll_behind};

/// The body of an answer. When it has come to its end, its connection is kept for another request; dropped before, the
/// connection is closed.
#[derive(Debug)]
pub(in super::super) struct FromUpstream {
    body: Incoming,
    /// `None`: it has been given back, or is driven by a task of its own.
    line: Option<Line>,
    taken: Taken,
}

impl FromUpstream {
    pub(super) fn respond(response: Response<Incoming>, line: Line, taken: Taken) -> Response<Self> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // The connection is handed over to whoever waits for the upgrade.
            line.leave();
            return response.map(|body| Self { body, line: None, taken });
        }
        // Not given back yet, whatever there is of a body: the request may still be on its way.
        response.map(|body| Self { body, line: Some(line), taken })
    }

    /// The request's body has not gone to its end: both go on independently, so that neither waits for the other. Before
    /// anything else is done with this body, which would keep the connection at its end.
    pub(in super::super) fn part(&mut self) {
        if let Some(line) = self.line.take() {
            line.leave();
        }
    }

    fn give_back_at_end(&mut self) {
        if self.body.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        // Whether it takes another request is seen when there is one.
        if let Some(line) = self.line.take()
            && line.is_open()
        {
            self.taken.0.keep(line);
        }
    }
}

impl Body for FromUpstream {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(line) = &mut this.line else { return Pin::new(&mut this.body).poll_frame(cx) };
        let polled = poll_behind(line, cx, |cx| Pin::new(&mut this.body).poll_frame(cx));
        if matches!(polled, Poll::Ready(None)) {
            this.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for FromUpstream {
    fn drop(&mut self) {
        // Whoever knows the length does not ask for the end.
        self.give_back_at_end();
    }
}
