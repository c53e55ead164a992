//! A client's events, handled one after the other by its handler; a worker that exists only for clients that send some.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::client::acknowledge;
use crate::frames::{Data, ErrorDetail, Message, Metadata, Protocol, Sender};
use crate::handler::{EventAnswer, EventContext};
use crate::hub::call::{Call, Scope};
use crate::hub::outbox::{End, Outbox};
use crate::live::{LiveHub, now};
use crate::names::{ConnectionId, EventName, UserId};

/// Events of one client that wait for its handler. More than a person or a machine has under way; then it is told so.
const WAITING_MAX: usize = 100;
/// Bytes of them: a few of the largest.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of events that wait on one node, of all clients of a hub: a handler that hangs costs no more.
const HUB_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of events that wait: of one client, or of a hub.
#[derive(Debug, Default)]
pub(crate) struct Waiting(AtomicUsize);

/// A part of [`Waiting`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken(Arc<Waiting>, usize);

impl Waiting {
    fn take(self: &Arc<Self>, len: usize, most: usize) -> Option<Taken> {
        let before = self.0.fetch_add(len, Ordering::Relaxed);
        let taken = Taken(Arc::clone(self), len);
        (before + len <= most).then_some(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Event {
    pub(super) ack_id: Option<u64>,
    pub(super) name: EventName,
    pub(super) data: Data,
    pub(super) metadata: Metadata,
}

/// The way to a client's worker.
#[derive(Debug)]
pub(super) struct Events {
    waiting: mpsc::Sender<(Event, [Taken; 2])>,
    bytes: Arc<Waiting>,
    of_hub: Arc<Waiting>,
}

#[derive(Debug)]
struct Worker {
    hub: Arc<LiveHub>,
    connection: ConnectionId,
    user: Option<UserId>,
    protocol: Protocol,
    outbox: Arc<Outbox>,
}

impl Events {
    pub(super) fn spawn(
        hub: Arc<LiveHub>,
        connection: ConnectionId,
        user: Option<UserId>,
        protocol: Protocol,
        outbox: Arc<Outbox>,
    ) -> Self {
        let (waiting, mut events) = mpsc::channel(WAITING_MAX);
        let of_hub = Arc::clone(&hub.events_waiting);
        tokio::spawn(async move {
            // Ends when its connection's task drops the sender: what waits is still handled.
            let mut worker = Worker { hub, connection, user, protocol, outbox };
            while let Some((event, taken)) = events.recv().await {
                worker.handle(event).await;
                drop(taken);
            }
        });
        Self { waiting, bytes: Arc::default(), of_hub }
    }

    /// False: too many wait.
    pub(super) fn put(&self, event: Event) -> bool {
        let len = event.data.bytes().len();
        let Some(of_client) = self.bytes.take(len, WAITING_BYTES_MAX) else { return false };
        let Some(of_hub) = self.of_hub.take(len, HUB_BYTES_MAX) else { return false };
        self.waiting.try_send((event, [of_client, of_hub])).is_ok()
    }
}

impl Worker {
    async fn handle(&mut self, event: Event) {
        let settings = self.hub.settings();
        let (event_id, state) = self.hub.with(|hub| hub.next_event(&self.connection));
        let context = EventContext {
            hub: self.hub.name(),
            connection: &self.connection,
            user: self.user.as_ref(),
            subprotocol: self.protocol.subprotocol(),
            keys: &settings.keys,
            origin: self.hub.origin(),
            state: state.as_deref(),
            event_id,
        };
        let Event { name, data, metadata, .. } = &event;
        let handlers = &self.hub.handlers;
        match handlers.user_event_with(&settings.handlers, &context, name, data, metadata).await {
            Ok(answer) => self.done(&event, answer),
            Err(error) => {
                tracing::debug!(hub = %self.hub.name(), event = %event.name, %error, "an event was not handled");
                self.failed(&event);
            }
        }
    }

    fn done(&self, event: &Event, answer: EventAnswer) {
        let EventAnswer { data, metadata, state } = answer;
        let position = self.hub.with(|hub| hub.handled(&self.connection, event.ack_id, state));
        if let Some(ack_id) = event.ack_id {
            self.hub.promise(position, &self.outbox, acknowledge(self.protocol, ack_id, None));
        }
        if let Some(data) = data {
            let mut message = Message::new(Sender::Server, data);
            message.metadata = metadata;
            let to = Scope::Connection(self.connection.clone());
            let call = Call::Send { to, message: Arc::new(message), exclude: Vec::new(), filter: None };
            self.hub.change(|hub| hub.call(call, now()));
        }
    }

    fn failed(&self, event: &Event) {
        match event.ack_id {
            Some(ack_id) => {
                let message = "The event handler failed".to_owned();
                let error = ErrorDetail { name: "InternalServerError".to_owned(), message };
                self.outbox.frame(acknowledge(self.protocol, ack_id, Some(&error)));
            }
            // A client that cannot be told otherwise.
            None if self.protocol == Protocol::Simple => {
                self.outbox.end(End {
                    frame: None,
                    code: 1011,
                    reason: "The event handler failed".to_owned(),
                });
            }
            None => {}
        }
    }
}

/// Tells the handler that a client has come, without waiting for it.
pub(super) fn tell_connected(
    hub: &Arc<LiveHub>,
    connection: &ConnectionId,
    user: Option<&UserId>,
    protocol: Protocol,
) {
    let (hub, connection, user) = (Arc::clone(hub), connection.clone(), user.cloned());
    tokio::spawn(async move {
        let settings = hub.settings();
        let (event_id, state) = hub.with(|hub| {
            let event = hub.next_event(&connection);
            hub.note_first_groups(&connection);
            event
        });
        let context = EventContext {
            hub: hub.name(),
            connection: &connection,
            user: user.as_ref(),
            subprotocol: protocol.subprotocol(),
            keys: &settings.keys,
            origin: hub.origin(),
            state: state.as_deref(),
            event_id,
        };
        hub.handlers.connected(&settings.handlers, &context).await;
    });
}
