//! Event handlers against a real HTTP server that remembers what it was asked and answers as told.

mod answers;
mod exchange;
mod hostile;
pub(crate) mod server;
mod settings;
mod templates;

use std::time::Duration;

use super::*;
use crate::names::{GroupName, UserId};
use crate::token::{AccessKey, AccessKeys};

/// One connection of one hub.
struct Client {
    hub: HubName,
    connection: ConnectionId,
    user: Option<UserId>,
    keys: AccessKeys,
}

impl Client {
    fn new() -> Self {
        Self {
            hub: HubName::parse("Chat").unwrap(),
            connection: ConnectionId::parse("conn-1").unwrap(),
            user: Some(UserId::parse("ann").unwrap()),
            keys: AccessKeys {
                primary: AccessKey::parse("primary-key").unwrap(),
                secondary: AccessKey::parse("secondary-key").unwrap(),
            },
        }
    }

    fn context(&self) -> EventContext<'_> {
        EventContext {
            hub: &self.hub,
            connection: &self.connection,
            user: self.user.as_ref(),
            subprotocol: Some("json.webpubsub.azure.v1"),
            keys: &self.keys,
            origin: "hubs.example:8443",
            state: None,
            event_id: 7,
        }
    }
}

/// Long enough for a busy machine; only tests of silence wait for it.
const PATIENCE: Duration = Duration::from_secs(30);

fn options() -> HandlerOptions {
    HandlerOptions {
        deadline: PATIENCE,
        retry_after: [Duration::from_millis(1); 3],
        ..HandlerOptions::default()
    }
}

fn handlers() -> Handlers {
    Handlers::with(options())
}

/// Takes everything.
fn takes_all(url_template: &str) -> EventHandler {
    EventHandler {
        url_template: url_template.to_owned(),
        user_events: UserEvents::All,
        system_events: SystemEvent::ALL.to_vec(),
        auth: Auth::None,
    }
}

fn event(name: &str) -> EventName {
    EventName::parse(name).unwrap()
}

fn text(text: &'static str) -> Data {
    Data::Text(Bytes::from_static(text.as_bytes()))
}
