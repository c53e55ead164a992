//! Bodies: what goes to an instance and what goes to a client, counted, and passed on as it comes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::client::Busy;
use super::held::Held;
use super::site::{Site, UnderWay};
use super::upstream::FromUpstream;

/// What breaks a body off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer to a client.
#[derive(Debug)]
pub struct GatewayBody {
    inner: Inner,
    bytes: u64,
    counted: Option<(UnderWay, Busy)>,
}

#[derive(Debug)]
enum Inner {
    Whole(Bytes),
    Upstream(FromUpstream),
    Held(Box<Held>),
    Other(UnsyncBoxBody<Bytes, BodyError>),
}

impl GatewayBody {
    /// Nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// These bytes.
    #[must_use]
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::from(Inner::Whole(bytes.into()))
    }

    /// What comes from there, as it comes.
    #[must_use]
    pub fn stream<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self::from(Inner::Other(body.map_err(Into::into).boxed_unsync()))
    }

    pub(super) fn upstream(body: FromUpstream) -> Self {
        Self::from(Inner::Upstream(body))
    }

    pub(super) fn held(body: Held) -> Self {
        Self::from(Inner::Held(Box::new(body)))
    }

    fn from(inner: Inner) -> Self {
        Self { inner, bytes: 0, counted: None }
    }

    /// The request is under way until this body has been sent or dropped.
    pub(super) fn counted(mut self, under_way: UnderWay, busy: Busy) -> Self {
        self.counted = Some((under_way, busy));
        self
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.inner {
            Inner::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Inner::Whole(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Inner::Upstream(body) => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            Inner::Held(body) => ready!(body.poll_frame(cx)),
            Inner::Other(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        if let Some(Ok(frame)) = &frame {
            self.bytes += len(frame);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Whole(bytes) => bytes.is_empty(),
            Inner::Upstream(body) => body.is_end_stream(),
            Inner::Held(body) => body.is_end_stream(),
            Inner::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.remaining() as u64),
            Inner::Upstream(body) => body.size_hint(),
            Inner::Held(body) => body.size_hint(),
            Inner::Other(body) => body.size_hint(),
        }
    }
}

impl Drop for GatewayBody {
    fn drop(&mut self) {
        if let Some((under_way, _)) = &self.counted {
            under_way.site().count_bytes(self.bytes);
        }
    }
}

pub(super) fn len(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.len() as u64)
}

/// The client sent nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("no more of the body came for {0:?}")]
struct Stalled(Duration);

/// The body of a request on its way to an instance.
#[derive(Debug, Default)]
pub(super) struct ToUpstream(Option<Box<Upload>>);

#[derive(Debug)]
struct Upload {
    body: Incoming,
    site: Arc<Site>,
    bytes: u64,
    stall_max: Duration,
    course: Arc<Course>,
    /// From when nothing came.
    stall: Option<Pin<Box<Sleep>>>,
}

/// How far the body of a request has gone on.
#[derive(Debug, Default)]
struct Course {
    /// Pieces of it, with its end.
    pieces: AtomicU64,
    ended: AtomicBool,
}

/// Whether the body of a request has gone on to its end, or never will.
#[derive(Debug, Clone, Default)]
pub(super) struct UploadEnd(Option<Arc<Course>>);

impl UploadEnd {
    pub(super) fn is_reached(&self) -> bool {
        self.0.as_ref().is_none_or(|course| course.ended.load(Ordering::Acquire))
    }

    /// How much has gone on, in a count that grows as long as something does.
    pub(super) fn pieces(&self) -> u64 {
        self.0.as_ref().map_or(0, |course| course.pieces.load(Ordering::Relaxed))
    }

    /// There was no body at all: the request can be made again.
    pub(super) fn is_nothing(&self) -> bool {
        self.0.is_none()
    }
}

impl ToUpstream {
    /// Passes on what the client sends.
    pub(super) fn new(body: Incoming, site: &Arc<Site>, stall_max: Duration) -> (Self, UploadEnd) {
        if body.is_end_stream() {
            return (Self(None), UploadEnd(None));
        }
        let course = Arc::new(Course::default());
        let end = UploadEnd(Some(Arc::clone(&course)));
        let site = Arc::clone(site);
        (Self(Some(Box::new(Upload { body, site, bytes: 0, stall_max, course, stall: None }))), end)
    }
}

impl Body for ToUpstream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(upload) = &mut self.0 else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(&mut upload.body).poll_frame(cx) {
            upload.stall = None;
            upload.course.pieces.fetch_add(1, Ordering::Relaxed);
            match &frame {
                Some(Ok(frame)) => upload.bytes += len(frame),
                Some(Err(_)) | None => upload.course.ended.store(true, Ordering::Release),
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let stall_max = upload.stall_max;
        let stall = upload.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_max)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Some(Err(Stalled(stall_max).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |upload| upload.body.size_hint())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.course.ended.store(true, Ordering::Release);
        self.site.count_bytes(self.bytes);
    }
}
