//! The body of an answer that goes out only as far as [`Pass`] lets it: what comes after the head may tell of what was done
//! after the head.
//!
//! Of an answer whose length nobody knows, each piece is asked about, and its end: a client may act on each. Of one whose
//! length is known only the last piece is, for without it nobody takes the answer for whole. What is there with the head is
//! let go with the head, so that most answers are asked about once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};

use super::body::{BodyError, len};
use super::site::Pass;
use super::upstream::FromUpstream;

/// Pieces that are taken in before the head is let go: a short answer is one and its end.
const AHEAD_MAX: usize = 2;

type Piece = Option<Result<Frame<Bytes>, hyper::Error>>;

/// The rest of an answer may not go out.
#[derive(Debug, thiserror::Error)]
#[error("the rest of the answer is held back: {0}")]
struct HeldBack(String);

/// The body of an answer that is asked about as it comes.
pub(super) struct Held {
    body: FromUpstream,
    pass: Arc<dyn Pass>,
    /// Came with the head.
    ahead: VecDeque<Piece>,
    waiting: Option<Waiting>,
}

/// What came, or the end, and may not go on yet.
struct Waiting {
    piece: Option<Frame<Bytes>>,
    answer: Pin<Box<dyn Future<Output = Result<(), String>> + Send>>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("body", &self.body).field("pass", &self.pass).finish_non_exhaustive()
    }
}

impl Held {
    /// Takes in what is there of the body, without waiting for more. Whoever lets the head go from here on lets that go.
    pub(super) async fn new(mut body: FromUpstream, pass: Arc<dyn Pass>) -> Self {
        let mut ahead = VecDeque::new();
        poll_fn(|cx| {
            while ahead.len() < AHEAD_MAX && !body.is_end_stream() {
                let Poll::Ready(piece) = Pin::new(&mut body).poll_frame(cx) else { break };
                let goes_on = matches!(piece, Some(Ok(_)));
                ahead.push_back(piece);
                if !goes_on {
                    break;
                }
            }
            Poll::Ready(())
        })
        .await;
        Self { body, pass, ahead, waiting: None }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.ahead.pop_front() {
            return Poll::Ready(piece.map(|piece| piece.map_err(Into::into)));
        }
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            none => {
                let piece = match ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose() {
                    Ok(piece) => piece,
                    Err(error) => return Poll::Ready(Some(Err(error.into()))),
                };
                let is_to_go_on = self.body.size_hint().exact().is_some_and(|more| more > 0);
                if is_to_go_on || self.pass.free() {
                    return Poll::Ready(piece.map(Ok));
                }
                let pass = Arc::clone(&self.pass);
                none.insert(Waiting { piece, answer: Box::pin(async move { pass.wait().await }) })
            }
        };
        let answer = ready!(waiting.answer.as_mut().poll(cx));
        let piece = self.waiting.take().and_then(|waiting| waiting.piece);
        Poll::Ready(match answer {
            Ok(()) => piece.map(Ok),
            Err(why) => Some(Err(HeldBack(why).into())),
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.waiting.is_none() && self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let Some(to_come) = self.body.size_hint().exact() else { return SizeHint::default() };
        let ahead = self.ahead.iter().flatten().flatten().map(len).sum::<u64>();
        let waiting = self.waiting.iter().flat_map(|waiting| &waiting.piece).map(len).sum::<u64>();
        SizeHint::with_exact(to_come + ahead + waiting)
    }
}
