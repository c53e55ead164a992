//! What is said to the server: the few words of JetStream that a sender needs, over the core protocol.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};

use super::message::{headers, subject};
use super::{CONNECT_DEADLINE, SinkError, SinkOptions};
use crate::telemetry::Stored;

/// A request that was not answered by then will not be.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// All acknowledgements of a page come within this time, or the page is sent again.
const ACK_DEADLINE: Duration = Duration::from_secs(10);

/// The server's code for a stream that there is not.
const STREAM_NOT_FOUND: u64 = 10_059;

/// A connection that publishes into one stream.
#[derive(Debug)]
pub(super) struct Publisher {
    client: Client,
    options: SinkOptions,
    /// Where acknowledgements come, and how many messages were sent: each has its own place.
    inbox: String,
    acks: Subscriber,
    sent: u64,
}

/// What became of a page.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Published {
    pub(super) new: u64,
    /// The stream had them already.
    pub(super) repeated: u64,
}

#[derive(Debug, Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(default)]
    duplicate: bool,
    config: Option<Config>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    subjects: Vec<String>,
}

impl Publisher {
    pub(super) async fn new(client: Client, options: SinkOptions) -> Result<Self, SinkError> {
        let inbox = client.new_inbox();
        let acks = client.subscribe(format!("{inbox}.*")).await.map_err(|error| away(&error))?;
        Ok(Self { client, options, inbox, acks, sent: 0 })
    }

    /// Waits until the server is there for the first time, but not for ever.
    pub(super) async fn arrive(&self) {
        // Whoever is not there yet is found missing when something is said.
        let _ = timeout(CONNECT_DEADLINE, self.client.flush()).await;
    }

    /// Finds the stream, or makes it.
    pub(super) async fn prepare(&self) -> Result<(), SinkError> {
        let SinkOptions { stream, subject, duplicate_window, .. } = &self.options;
        let found = self.ask(&format!("$JS.API.STREAM.INFO.{stream}"), Bytes::new()).await?;
        let wanted = format!("{subject}.>");
        match (found.error, found.config) {
            (None, Some(config)) if config.subjects == [wanted.as_str()] => Ok(()),
            (None, config) => {
                let subjects = config.map(|config| config.subjects.join(", ")).unwrap_or_default();
                Err(SinkError::Stream { stream: stream.clone(), wanted, subjects })
            }
            (Some(refusal), _) if refusal.err_code == STREAM_NOT_FOUND => {
                let window = u64::try_from(duplicate_window.as_nanos()).unwrap_or(u64::MAX);
                let config = json!({
                    "name": stream, "subjects": [wanted], "retention": "limits", "storage": "file",
                    "num_replicas": 1, "duplicate_window": window,
                });
                let made =
                    self.ask(&format!("$JS.API.STREAM.CREATE.{stream}"), config.to_string().into()).await?;
                made.error.map_or(Ok(()), |refusal| Err(refused(refusal)))
            }
            (Some(refusal), _) => Err(refused(refusal)),
        }
    }

    /// Publishes events in their order. `Ok`: the stream has every one of them.
    pub(super) async fn publish(&mut self, events: &[Stored]) -> Result<Published, SinkError> {
        self.look()?;
        let (first, named_by) = (self.sent, self.options.named_by.as_slice());
        let deadline = Instant::now() + ACK_DEADLINE;
        for stored in events {
            let subject = subject(&self.options.subject, &stored.event.key);
            let reply = format!("{}.{}", self.inbox, self.sent);
            self.sent += 1;
            let body = stored.event.body.clone();
            let sending =
                self.client.publish_with_reply_and_headers(subject, reply, headers(stored, named_by), body);
            let sent = timeout_at(deadline, sending).await.map_err(|_| SinkError::Silent)?;
            sent.map_err(|error| away(&error))?;
        }
        let mut missing: HashSet<u64> = (first..self.sent).collect();
        let mut published = Published::default();
        while !missing.is_empty() {
            let ack = timeout_at(deadline, self.acks.next()).await.map_err(|_| SinkError::Silent)?;
            let ack = ack.ok_or_else(|| SinkError::Away { why: "the connection was closed".into() })?;
            let number = ack.subject.rsplit('.').next().and_then(|number| number.parse().ok());
            // An acknowledgement of an earlier attempt says nothing about this one.
            if !number.is_some_and(|number| missing.remove(&number)) {
                continue;
            }
            let answer = read(&ack)?;
            if let Some(refusal) = answer.error {
                return Err(refused(refusal));
            }
            if answer.duplicate { published.repeated += 1 } else { published.new += 1 }
        }
        Ok(published)
    }

    /// What is said while nobody is there would wait in the client and be said twice.
    fn look(&self) -> Result<(), SinkError> {
        match self.client.connection_state() {
            State::Connected => Ok(()),
            state => Err(SinkError::Away { why: state.to_string() }),
        }
    }

    async fn ask(&self, subject: &str, payload: Bytes) -> Result<Answer, SinkError> {
        self.look()?;
        let asked = self.client.request(subject.to_owned(), payload);
        match timeout(REQUEST_DEADLINE, asked).await {
            Err(_) => Err(SinkError::Silent),
            Ok(Err(error)) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
                Err(no_jetstream())
            }
            Ok(Err(error)) => Err(away(&error)),
            Ok(Ok(message)) => read(&message),
        }
    }
}

fn read(message: &Message) -> Result<Answer, SinkError> {
    if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
        return Err(no_jetstream());
    }
    serde_json::from_slice(&message.payload)
        .map_err(|error| SinkError::Refused { why: format!("its answer was not understood: {error}") })
}

fn no_jetstream() -> SinkError {
    let why = "no stream takes the subject, or JetStream is off: start the server with -js".to_owned();
    SinkError::Refused { why }
}

fn refused(refusal: Refusal) -> SinkError {
    SinkError::Refused { why: format!("{} ({})", refusal.description, refusal.err_code) }
}

fn away(error: &dyn std::error::Error) -> SinkError {
    SinkError::Away { why: error.to_string() }
}
