//! What a connected device can do: the hub's side of a connection.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use farshore_core::moment::Moment;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::gate::Phase;
use super::live::{Live, Next};
use super::{Fleet, NotChanged};
use crate::link::Awaited;
use crate::mqtt::behind::{Closing, NotKept, Outgoing, Session, Telemetered, TwinError};
use crate::names::Subs;
use crate::registry::Edit;
use crate::telemetry::{Event, Kept};

/// One admitted connection.
pub(crate) struct Connection {
    fleet: Fleet,
    live: Arc<Live>,
    /// The device wants nothing remembered.
    clean: bool,
    present: bool,
    expires: Option<Moment>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("key", &self.live.key).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    /// However the connection ended: its place is free, and whoever waits for an answer is told.
    fn drop(&mut self) {
        self.live.close(Closing::Leaving);
        self.fleet.sessions().leave(&self.live);
        self.fleet.activity().note(&self.live);
    }
}

impl Connection {
    pub(crate) fn new(
        fleet: Fleet,
        live: Arc<Live>,
        clean: bool,
        present: bool,
        expires: Option<Moment>,
    ) -> Self {
        Self { fleet, live, clean, present, expires }
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    fn event(&self, telemetered: Telemetered) -> Event {
        let Telemetered { system, properties, body } = telemetered;
        let enqueued = super::now();
        self.live.hear(enqueued);
        Event {
            key: self.live.key.clone(),
            generation: Arc::clone(&self.live.generation),
            enqueued,
            system,
            properties,
            body,
        }
    }
}

impl Fleet {
    /// Returns when the other region has an event, too, or is not waited for any more, or nothing is acknowledged here any more.
    async fn reaches(&self, mut awaited: Awaited, kept: Kept) {
        let next = match kept {
            Kept::Stored { offset } => offset + 1,
            // It was stored before now, in whichever log: where this region's ends now, everything that it could be is.
            Kept::Duplicate => self.telemetry().ends().get(self.telemetry().own()).copied().unwrap_or(0),
        };
        let mut phase = self.gate().watch();
        let has_it = awaited.wait_for(|upto| upto.is_none_or(|upto| upto >= next));
        tokio::select! {
            // The link is gone: its successor was not there when this was stored.
            _ = has_it => {}
            _ = phase.wait_for(|phase| !matches!(phase, Phase::Open { .. })) => {}
        }
    }
}

#[async_trait]
impl Session for Connection {
    fn subscriptions(&self) -> Subs {
        self.live.subs()
    }

    fn is_present(&self) -> bool {
        self.present
    }

    fn expires(&self) -> Option<Moment> {
        self.expires
    }

    fn telemetry(&self, event: Telemetered) -> BoxFuture<'static, Result<(), NotKept>> {
        let (gate, opening) = (Arc::clone(self.fleet.gate()), self.live.opening);
        let Some(entered) = gate.enter(opening) else {
            return std::future::ready(Err(NotKept::Fenced)).boxed();
        };
        let append = self.fleet.telemetry().append(entered.epoch(), self.event(event));
        // It is in the log's queue. Nobody may poll what is returned here for long: who fences waits for the queue instead.
        drop(entered);
        let fleet = self.fleet.clone();
        async move {
            let kept = append.await.map_err(|error| NotKept::Storage(error.to_string()))?;
            if let Some(awaited) = fleet.awaited() {
                fleet.reaches(awaited, kept).await;
            }
            // Durable, and still ours to acknowledge? Else the device sends it again, to whoever serves now.
            if gate.is_open_as(opening) { Ok(()) } else { Err(NotKept::Fenced) }
        }
        .boxed()
    }

    async fn next(&self) -> Outgoing {
        loop {
            match self.live.next().await {
                Next::Send(outgoing) => return outgoing,
                Next::Look => self.fleet.offer_messages(&self.live),
                Next::Message(message) => {
                    if let Some(sent) = self.fleet.hand_out(&self.live, message) {
                        return Outgoing::Message(sent);
                    }
                }
            }
        }
    }

    async fn twin(&self) -> Result<Bytes, TwinError> {
        let unavailable = |why: String| TwinError::Unavailable(why);
        if !self.fleet.gate().is_open_as(self.live.opening) {
            return Err(unavailable(NotKept::Fenced.to_string()));
        }
        let device =
            self.fleet.registry().get(&self.live.key).map_err(|error| unavailable(error.to_string()))?;
        let device = device.ok_or_else(|| unavailable("the device was deleted".to_owned()))?;
        let twin = json!({
            "desired": with_version(&device.desired.value, device.desired.version),
            "reported": with_version(&device.reported.value, device.reported.version),
        });
        Ok(serde_json::to_vec(&twin).expect("JSON can always be written").into())
    }

    async fn report(&self, patch: Value) -> Result<u64, TwinError> {
        self.live.hear(super::now());
        let fenced = || TwinError::Unavailable(NotKept::Fenced.to_string());
        let entered = self.fleet.gate().enter(self.live.opening).ok_or_else(fenced)?;
        let edit = Edit::Reported { patch, replace: false };
        match self.fleet.change(entered, &self.live.key, vec![edit]).await {
            Ok(device) => Ok(device.reported.version),
            Err(NotChanged::Fenced) => Err(fenced()),
            Err(NotChanged::Refused(why)) => Err(TwinError::Refused(why)),
            Err(NotChanged::Storage(why)) => Err(TwinError::Unavailable(why)),
        }
    }

    async fn subscribe(&self, subs: Subs) -> Result<(), NotKept> {
        // It is known before anybody is told so: what comes between is delivered.
        if !self.clean && subs != self.live.subs() {
            let entered = self.fleet.gate().enter(self.live.opening).ok_or(NotKept::Fenced)?;
            let changed = self.fleet.change(entered, &self.live.key, vec![Edit::Subs(subs)]).await;
            changed.map_err(|refused| match refused {
                NotChanged::Fenced => NotKept::Fenced,
                refused => NotKept::Storage(refused.to_string()),
            })?;
        }
        self.live.subscribe(subs);
        self.fleet.sessions().arrived();
        Ok(())
    }

    async fn completed(&self, lock: u64) {
        self.live.hear(super::now());
        self.fleet.complete_message(&self.live, lock).await;
    }

    async fn answered(&self, rid: &str, status: i32, body: Bytes) {
        self.live.hear(super::now());
        if let Ok(rid) = u64::from_str_radix(rid, 16) {
            self.live.answer(rid, (status, body));
        }
    }

    async fn closed(&self, will: Option<Telemetered>) {
        if let Some(mut will) = will {
            will.properties.push(("iothub-MessageType".to_owned(), Some("Will".to_owned())));
            if let Err(error) = self.telemetry(will).await {
                tracing::warn!(device = %self.live.key, %error, "the last words of a device were not kept");
            }
        }
        self.live.close(Closing::Leaving);
        self.fleet.sessions().leave(&self.live);
    }
}

/// A section of a twin as devices see it.
pub(super) fn with_version(section: &Value, version: u64) -> Value {
    let mut members = section.as_object().cloned().unwrap_or_else(Map::new);
    members.insert("$version".to_owned(), version.into());
    Value::Object(members)
}
