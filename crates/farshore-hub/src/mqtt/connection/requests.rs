//! What a device asks of its hub besides keeping telemetry, one thing after the other in the order it came.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rmqtt_codec::v3::SubscribeReturnCode;
use serde_json::{Value, json};

use super::super::behind::{NotKept, Session, TwinError};
use super::super::topic;
use crate::names::Subs;

/// Most that waits while one is done; then the connection is not read.
const WAITING_MAX: usize = 32;

/// Something to ask.
#[derive(Debug)]
pub(super) enum Request {
    Twin { rid: String },
    Report { rid: String, body: Bytes },
    Answer { rid: String, status: i32, body: Bytes },
    Completed { lock: u64 },
    Subscribe { subs: Subs, packet: NonZeroU16, granted: Vec<SubscribeReturnCode> },
    Unsubscribe { subs: Subs, packet: NonZeroU16 },
}

/// What the device is told then.
#[derive(Debug)]
pub(super) enum Reply {
    Nothing,
    /// About its twin.
    Twin {
        topic: String,
        body: Bytes,
    },
    Subscribed {
        packet: NonZeroU16,
        granted: Vec<SubscribeReturnCode>,
    },
    Unsubscribed {
        packet: NonZeroU16,
    },
    NotKept(NotKept),
}

/// Requests and the one that is being done.
#[derive(Default)]
pub(super) struct Requests {
    waiting: VecDeque<Request>,
    doing: Option<BoxFuture<'static, Reply>>,
}

impl Requests {
    pub(super) fn push(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.doing.is_none() && self.waiting.is_empty()
    }

    /// The reply to the oldest request. May be dropped and asked again. Pending for ever without requests.
    pub(super) async fn done(&mut self, session: &Arc<dyn Session>) -> Reply {
        if self.doing.is_none() {
            let Some(request) = self.waiting.pop_front() else { return std::future::pending().await };
            self.doing = Some(Box::pin(ask(Arc::clone(session), request)));
        }
        let Some(doing) = &mut self.doing else { return Reply::Nothing };
        let reply = doing.await;
        self.doing = None;
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        reply
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

async fn ask(session: Arc<dyn Session>, request: Request) -> Reply {
    match request {
        Request::Twin { rid } => match session.twin().await {
            Ok(body) => Reply::Twin { topic: topic::twin_answer(200, &rid), body },
            Err(error) => twin_refused(&rid, &error),
        },
        Request::Report { rid, body } => match report(&*session, &body).await {
            Ok(version) => Reply::Twin { topic: topic::reported_answer(&rid, version), body: Bytes::new() },
            Err(error) => twin_refused(&rid, &error),
        },
        Request::Answer { rid, status, body } => {
            session.answered(&rid, status, body).await;
            Reply::Nothing
        }
        Request::Completed { lock } => {
            session.completed(lock).await;
            Reply::Nothing
        }
        Request::Subscribe { subs, packet, granted } => match session.subscribe(subs).await {
            Ok(()) => Reply::Subscribed { packet, granted },
            Err(why) => Reply::NotKept(why),
        },
        Request::Unsubscribe { subs, packet } => match session.subscribe(subs).await {
            Ok(()) => Reply::Unsubscribed { packet },
            Err(why) => Reply::NotKept(why),
        },
    }
}

async fn report(session: &dyn Session, body: &[u8]) -> Result<u64, TwinError> {
    let patch: Value = serde_json::from_slice(body)
        .map_err(|error| TwinError::Refused(format!("the reported properties are no JSON: {error}")))?;
    session.report(patch).await
}

fn twin_refused(rid: &str, error: &TwinError) -> Reply {
    let body = json!({ "errorCode": error.status(), "message": error.to_string() });
    Reply::Twin { topic: topic::twin_answer(error.status(), rid), body: body.to_string().into() }
}
