//! Messages from the cloud to devices: kept until the device says that it has them, their time is over, or they were sent in vain
//! too often.
//!
//! A message is handed to a connection only when the device is known to listen, and is done only when it answers. A connection that
//! ends without an answer changes nothing: the next one is handed the message again, here or in the other region.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::moment::Moment;

use super::live::{Live, Waiting};
use super::{Fleet, see_through};
use crate::mqtt::behind::Sent;
use crate::names::Key;
use crate::registry::{Ack, MESSAGES_PENDING_MAX, Message, Outcome, PushError};

/// What messages may be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageLimits {
    /// Bytes of one message's body.
    pub body_max: usize,
    /// How long one is worth delivering if its sender does not say.
    pub ttl: Duration,
    /// How long its sender may say.
    pub ttl_max: Duration,
    /// How often one is sent in vain.
    pub deliveries_max: u32,
}

impl Default for MessageLimits {
    /// As the official SDKs' documentation says.
    fn default() -> Self {
        Self {
            body_max: 64 * 1024,
            ttl: Duration::from_secs(3600),
            ttl_max: Duration::from_secs(48 * 3600),
            deliveries_max: 10,
        }
    }
}

/// Why a message was not taken. Nothing is kept of it, except where it says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Another region serves this hub, or none does. It may have been kept, if the hub stopped serving meanwhile.
    #[error("this hub does not serve here now: send it to the active region")]
    NotServing,
    /// There is no such device or module.
    #[error("{0} does not exist")]
    Unknown(Key),
    /// Too many wait for this device.
    #[error(
        "{MESSAGES_PENDING_MAX} messages wait for {0} already: wait until it has fetched them, or purge them"
    )]
    QueueFull(Key),
    /// Larger than allowed.
    #[error("a message of {bytes} bytes is larger than the {most} that are allowed")]
    TooLarge {
        /// Its body.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// Its expiry makes no sense.
    #[error("{0}")]
    BadExpiry(String),
    /// The registry could not be written. It may have been kept.
    #[error("{0}")]
    Storage(String),
}

impl Fleet {
    /// Takes a message for a device. On return it is durable, and on its way if the device is connected. Returns its id.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&self, key: &Key, mut message: Message) -> Result<String, SendError> {
        let entered = self.gate().enter_now().ok_or(SendError::NotServing)?;
        let limits = &self.options().messages;
        if message.body.len() > limits.body_max {
            return Err(SendError::TooLarge { bytes: message.body.len(), most: limits.body_max });
        }
        let now = super::now();
        message.enqueued = now;
        message.expires = Some(expiry(message.expires, now, limits)?);
        let (registry, to) = (self.registry().clone(), key.clone());
        let push = async move { registry.push_message(&to, message).await };
        let pushed = see_through(entered, push).await.ok_or(SendError::NotServing)?;
        let kept = pushed.map_err(|error| match error {
            PushError::UnknownDevice(_) => SendError::Unknown(key.clone()),
            PushError::QueueFull(_) => SendError::QueueFull(key.clone()),
            PushError::Registry(error) => SendError::Storage(error.to_string()),
        })?;
        // The registry tells of it, and so the device's connection looks.
        Ok(kept.id.clone())
    }

    /// Empties a device's queue. Returns how many messages were in it.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn purge(&self, key: &Key) -> Result<usize, SendError> {
        let entered = self.gate().enter_now().ok_or(SendError::NotServing)?;
        if let Some(live) = self.sessions().get(key) {
            live.forget_messages();
        }
        let (registry, of) = (self.registry().clone(), key.clone());
        let purge = async move { registry.purge_messages(&of).await };
        let purged = see_through(entered, purge).await.ok_or(SendError::NotServing)?;
        purged.map_err(|error| SendError::Storage(error.to_string()))
    }

    /// Gives a connection what the registry holds for its device. What is over by now is ended instead.
    pub(crate) fn offer_messages(&self, live: &Arc<Live>) {
        let now = super::now();
        let mut waiting = Vec::new();
        let messages = match self.registry().messages(&live.key) {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(device = %live.key, %error, "its messages could not be read");
                return;
            }
        };
        for message in messages {
            let id: Arc<str> = message.id.as_str().into();
            if message.expires.is_some_and(|expires| expires < now) {
                tokio::spawn(self.end_message(live, id, Outcome::Expired));
            } else if message.deliveries >= self.options().messages.deliveries_max
                && !live.has_on_its_way(&id)
            {
                tokio::spawn(self.end_message(live, id, Outcome::DeliveredTooOften));
            } else if message.generation == live.generation {
                let lock = self.sessions().number();
                waiting.push(Waiting { id, expires: message.expires, sent: sent(&message, &live.key, lock) });
            }
        }
        live.offer(waiting);
    }

    /// A delivery is about to be made, and is counted; who hands out may be dropped at any time, so nothing is waited for here.
    /// `None`: its time is over, or this hub may no longer count.
    pub(crate) fn hand_out(&self, live: &Live, message: Waiting) -> Option<Sent> {
        let Waiting { id, expires, sent } = message;
        if expires.is_some_and(|expires| expires < super::now()) {
            live.unsent(sent.lock);
            return None;
        }
        let entered = self.gate().enter(live.opening)?;
        let (registry, to) = (self.registry().clone(), live.key.clone());
        tokio::spawn(async move {
            if let Err(error) = registry.count_delivery(&to, &id).await {
                tracing::warn!(device = %to, id = &*id, %error, "a delivery could not be counted");
            }
            drop(entered);
        });
        Some(sent)
    }

    /// The device has the message.
    pub(crate) async fn complete_message(&self, live: &Arc<Live>, lock: u64) {
        if let Some(id) = live.answered(lock) {
            self.end_message(live, id, Outcome::Delivered).await;
        }
    }

    /// A message is done. Where that cannot be kept any more, it is sent again: at least once is what is promised.
    fn end_message(
        &self,
        live: &Arc<Live>,
        id: Arc<str>,
        outcome: Outcome,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (registry, live) = (self.registry().clone(), Arc::clone(live));
        let entered = self.gate().enter(live.opening);
        async move {
            let Some(entered) = entered else { return };
            let end = async move {
                match registry.finish_message(&live.key, &id, outcome).await {
                    Ok(_) => live.ended(&id),
                    Err(error) => {
                        tracing::warn!(device = %live.key, id = &*id, %error, "the end of a message could not be kept");
                    }
                }
            };
            see_through(entered, end).await;
        }
    }
}

fn expiry(wanted: Option<Moment>, now: Moment, limits: &MessageLimits) -> Result<Moment, SendError> {
    let Some(wanted) = wanted else { return Ok(now.after(limits.ttl)) };
    if wanted <= now {
        return Err(SendError::BadExpiry(format!("the message expired already, at {wanted}")));
    }
    if wanted > now.after(limits.ttl_max) {
        let hours = limits.ttl_max.as_secs() / 3600;
        return Err(SendError::BadExpiry(format!(
            "a message may wait for at most {hours} h: {wanted} is later"
        )));
    }
    Ok(wanted)
}

/// A message as its device is sent it.
fn sent(message: &Message, key: &Key, lock: u64) -> Sent {
    let mut system = message.system.clone();
    let has = |name: &str| message.system.iter().any(|(known, _)| known == name);
    if !has("$.mid") {
        system.push(("$.mid".to_owned(), message.id.clone()));
    }
    if !has("$.to") {
        let module = key.module.as_ref().map(|module| format!("/modules/{module}")).unwrap_or_default();
        system.push(("$.to".to_owned(), format!("/devices/{}{module}/messages/devicebound", key.device)));
    }
    let mut properties = message.properties.clone();
    if message.ack != Ack::None {
        properties.push(("iothub-ack".to_owned(), Some(ack(message.ack).to_owned())));
    }
    Sent { lock, again: message.deliveries > 0, system, properties, body: message.body.clone() }
}

fn ack(ack: Ack) -> &'static str {
    match ack {
        Ack::None => "none",
        Ack::Positive => "positive",
        Ack::Negative => "negative",
        Ack::Full => "full",
    }
}
