//! Events whose answers their client waits for: each is asked by itself, so that a slow one holds up no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

use crate::frames::{self, Data, Downstream, ErrorDetail, Protocol};
use crate::handler::{EventContext, Handlers};
use crate::hub::outbox::Outbox;
use crate::live::LiveHub;
use crate::names::{ConnectionId, EventName, UserId};

/// Invocations of one client that are under way. As many as its events that may wait; then it is told so.
pub(super) const UNDERWAY_MAX: usize = 100;

/// What a client asks for.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) id: String,
    pub(super) event: EventName,
    pub(super) data: Data,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Invoker {
    pub(super) hub: Arc<LiveHub>,
    pub(super) connection: ConnectionId,
    pub(super) user: Option<UserId>,
    pub(super) protocol: Protocol,
    pub(super) outbox: Arc<Outbox>,
}

/// The invocations of one transport. With it they end: its client gives them up, too.
#[derive(Debug, Default)]
pub(super) struct Invocations {
    underway: Arc<Mutex<HashMap<String, AbortHandle>>>,
}

/// What a frame asks for, or why it cannot be.
pub(super) fn wanted(
    id: String,
    target: Option<&str>,
    event: Option<EventName>,
    data: Option<Data>,
) -> Result<Invocation, (String, ErrorDetail)> {
    let bad = |id, message: String| Err((id, ErrorDetail::new("BadRequest", message)));
    match (target, event) {
        (None | Some("event"), Some(event)) => {
            Ok(Invocation { id, event, data: data.unwrap_or_else(|| Data::text("")) })
        }
        (None | Some("event"), None) => bad(id, "event is missing: which one shall be invoked?".to_owned()),
        (Some(other), _) => bad(id, format!("the target {other:?} cannot be invoked: only event can")),
    }
}

impl Invocations {
    /// Asks the handler. The client is answered in any case, unless it gives up or goes.
    pub(super) fn start(&self, invoker: Invoker, invocation: Invocation) {
        // Held until the task is in: it takes itself out when it is done.
        let mut underway = lock(&self.underway);
        if underway.contains_key(&invocation.id) {
            let error = ErrorDetail::new("BadRequest", "an invocation with this id is under way");
            return invoker.answer(&invocation.id, Err(&error));
        }
        if underway.len() >= UNDERWAY_MAX {
            let message = format!("{UNDERWAY_MAX} invocations of this client are under way");
            return invoker.answer(&invocation.id, Err(&ErrorDetail::new("InternalServerError", message)));
        }
        let (id, all) = (invocation.id.clone(), Arc::clone(&self.underway));
        let task = tokio::spawn(async move {
            let outcome = invoker.ask(&invocation).await;
            // Whoever takes it out answers: a cancellation may have come first.
            if lock(&all).remove(&invocation.id).is_some() {
                invoker.tell(&invocation.id, outcome);
            }
        });
        underway.insert(id, task.abort_handle());
    }

    /// The client waits no longer, and is not answered.
    pub(super) fn cancel(&self, id: &str) {
        if let Some(task) = lock(&self.underway).remove(id) {
            task.abort();
        }
    }
}

impl Drop for Invocations {
    fn drop(&mut self) {
        lock(&self.underway).drain().for_each(|(_, task)| task.abort());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Outcome = Result<(Option<Data>, Option<String>), ErrorDetail>;

impl Invoker {
    async fn ask(&self, invocation: &Invocation) -> Outcome {
        let settings = self.hub.settings();
        if !Handlers::takes(&settings.handlers, &invocation.event) {
            let message = format!("no event handler takes the event {}", invocation.event);
            return Err(ErrorDetail::new("NotFound", message));
        }
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
        let handlers = &self.hub.handlers;
        let handled =
            handlers.user_event(&settings.handlers, &context, &invocation.event, &invocation.data).await;
        handled.map(|answer| (answer.data, answer.state)).map_err(|error| {
            tracing::debug!(hub = %self.hub.name(), event = %invocation.event, %error, "an event was not handled");
            ErrorDetail::new("InternalServerError", "The event handler failed")
        })
    }

    fn tell(&self, id: &str, outcome: Outcome) {
        match outcome {
            Ok((data, state)) => {
                let position = self.hub.with(|hub| hub.handled(&self.connection, None, state));
                self.hub.promise(position, &self.outbox, self.frame(id, Ok(data.as_ref())));
            }
            Err(error) => self.answer(id, Err(&error)),
        }
    }

    pub(super) fn answer(&self, id: &str, outcome: Result<Option<&Data>, &ErrorDetail>) {
        self.outbox.frame(self.frame(id, outcome));
    }

    fn frame(&self, id: &str, outcome: Result<Option<&Data>, &ErrorDetail>) -> bytes::Bytes {
        frames::control(self.protocol, &Downstream::InvokeResponse { invocation_id: id, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_can_be_invoked() {
        let event = || Some(EventName::parse("order").unwrap());
        let ok = |target| wanted("1".to_owned(), target, event(), None).map(|wanted| wanted.event).ok();
        assert_eq!(ok(Some("event")), event());
        assert_eq!(ok(None), event(), "the target may be left out");
        for (target, event, says) in [
            (Some("group"), event(), "the target \"group\" cannot be invoked: only event can"),
            (Some("event"), None, "event is missing: which one shall be invoked?"),
        ] {
            let (id, error) = wanted("7".to_owned(), target, event, None).unwrap_err();
            assert_eq!((id.as_str(), error), ("7", ErrorDetail::new("BadRequest", says)));
        }
    }
}
