//! The hub as service SDKs see it by AMQP: messages to devices, and what became of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};

use super::{Fleet, SendError, see_through};
use crate::amqp::{self, Behind, CloudMessage, FeedbackRecord, Granted, Refused, Settled};
use crate::names::Key;
use crate::registry::{Ack, Feedback, Message, Outcome};
use crate::sas::token::CLOCK_SKEW_GRACE;
use crate::sas::{KeyMark, Rights, Token, policy};

/// Feedback that was handed out and not settled for so long is handed out again.
const LEASE: Duration = Duration::from_secs(60);

/// Records in one delivery.
const RECORDS_MAX: usize = 64;

/// Deliveries that are out at once. Above it the next one waits.
const LEASES_MAX: usize = 64;

/// How often is looked for feedback although nothing was heard of: leases end in silence.
const LOOK_AFTER: Duration = Duration::from_secs(5);

/// Where a message to a device stands in tokens.
const PATH: [&str; 2] = ["messages", "devicebound"];

/// A message of one device.
type Heard = (Key, String);

/// Feedback that was handed out.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<String, Lease>>);

#[derive(Debug)]
struct Lease {
    records: Vec<Heard>,
    until: Instant,
}

impl Leases {
    /// Takes those that nobody has, under a name.
    fn take(&self, news: Vec<Feedback>, name: u64) -> Option<(String, Vec<Feedback>)> {
        let now = Instant::now();
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leases.retain(|_, lease| lease.until > now);
        if leases.len() >= LEASES_MAX {
            return None;
        }
        let is_out = |one: &Feedback| {
            leases
                .values()
                .any(|lease| lease.records.iter().any(|(device, id)| *device == one.device && *id == one.id))
        };
        let free: Vec<Feedback> = news.into_iter().filter(|one| !is_out(one)).take(RECORDS_MAX).collect();
        if free.is_empty() {
            return None;
        }
        let records = free.iter().map(|one| (one.device.clone(), one.id.clone())).collect();
        let name = format!("{name:x}");
        leases.insert(name.clone(), Lease { records, until: now + LEASE });
        Some((name, free))
    }

    fn end(&self, name: &str) -> Option<Vec<Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name).map(|lease| lease.records)
    }
}

#[async_trait]
impl Behind for Fleet {
    async fn authorize(&self, token: &str, audience: &str) -> Result<Granted, Refused> {
        if !self.is_serving() {
            return Err(not_serving());
        }
        let unauthorized = |why: &dyn ToString| Refused::Unauthorized(why.to_string());
        let token = Token::parse(token).map_err(|bad| unauthorized(&bad))?;
        let policies = self.registry().policies().map_err(|error| Refused::Unavailable(error.to_string()))?;
        let named = host_of(audience);
        let ours = &self.options().hosts;
        let hosts = if ours.is_empty() { std::slice::from_ref(&named) } else { &ours[..] };
        let host = hosts.iter().find(|host| token.covers(host, &PATH));
        let host = host.ok_or_else(|| unauthorized(&crate::sas::Refused::Resource))?;
        let rights = policy::authorize(&token, &policies, host, &PATH, super::now());
        if !rights.map_err(|refused| unauthorized(&refused))?.include(Rights::SERVICE_CONNECT) {
            return Err(unauthorized(&crate::sas::Refused::Rights));
        }
        let by = KeyMark::of_token(&token, &policies, super::now());
        Ok(Granted { hub: host.as_str().into(), expires: token.expires().after(CLOCK_SKEW_GRACE), by })
    }

    fn still_grants(&self, granted: &Granted) -> bool {
        let stands = |by: KeyMark| {
            // What cannot be read now is read again soon.
            self.registry().policies().map_or(true, |now| by.stands(&now, Rights::SERVICE_CONNECT))
        };
        granted.by.is_none_or(stands)
    }

    async fn send(&self, _hub: &str, message: CloudMessage) -> Result<(), Refused> {
        let key = message.key.clone();
        match Self::send(self, &key, kept(message)).await {
            Ok(_) => Ok(()),
            Err(SendError::NotServing) => Err(not_serving()),
            Err(SendError::Unknown(key)) => Err(Refused::UnknownDevice(key.to_string())),
            Err(SendError::QueueFull(_)) => Err(Refused::QueueFull),
            Err(SendError::TooLarge { .. }) => Err(Refused::TooLarge),
            Err(SendError::BadExpiry(why)) => Err(Refused::Bad(why)),
            Err(SendError::Storage(why)) => Err(Refused::Unavailable(why)),
        }
    }

    async fn feedback(&self, _hub: &str) -> Result<amqp::Feedback, Refused> {
        let mut changes = self.news();
        loop {
            if !self.is_serving() {
                return Err(not_serving());
            }
            changes.borrow_and_update();
            let news = self.registry().feedback(RECORDS_MAX * (LEASES_MAX + 1));
            let news = news.map_err(|error| Refused::Unavailable(error.to_string()))?;
            if let Some((lock, records)) = self.leases().take(news, self.sessions().number()) {
                let records = records.into_iter().map(record).collect();
                return Ok(amqp::Feedback { lock, enqueued: super::now(), records });
            }
            // Silence is no error: then it is looked again.
            let _ = timeout(LOOK_AFTER, changes.changed()).await;
        }
    }

    async fn settle(&self, _hub: &str, lock: &str, settled: Settled) {
        let Some(records) = self.leases().end(lock) else { return };
        let Some(entered) = self.gate().enter_now().filter(|_| settled == Settled::Completed) else { return };
        let registry = self.registry().clone();
        if let Some(Err(error)) =
            see_through(entered, async move { registry.take_feedback(records).await }).await
        {
            tracing::warn!(hub = self.name(), %error, "that feedback was heard could not be kept");
        }
    }
}

fn not_serving() -> Refused {
    Refused::Unavailable(SendError::NotServing.to_string())
}

/// `amqps://contoso.hub:5671/messages/devicebound`, `contoso.hub/devices` or the like.
fn host_of(audience: &str) -> String {
    let rest = audience.split_once("://").map_or(audience, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default().to_owned()
}

fn kept(message: CloudMessage) -> Message {
    let mut kept = Message::new(message.body);
    let system = [
        ("$.mid", message.id),
        ("$.to", Some(message.to)),
        ("$.cid", message.correlation),
        ("$.uid", message.user),
        ("$.ct", message.content_type),
        ("$.ce", message.content_encoding),
    ];
    kept.system =
        system.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value))).collect();
    kept.properties = message.properties.into_iter().map(|(name, value)| (name, Some(value))).collect();
    kept.expires = message.expires;
    kept.ack = match message.ack {
        amqp::Ack::None => Ack::None,
        amqp::Ack::Positive => Ack::Positive,
        amqp::Ack::Negative => Ack::Negative,
        amqp::Ack::Full => Ack::Full,
    };
    kept
}

fn record(feedback: Feedback) -> FeedbackRecord {
    FeedbackRecord {
        message: feedback.message_id,
        at: feedback.at,
        outcome: match feedback.outcome {
            Outcome::Delivered => amqp::Outcome::Success,
            Outcome::Expired => amqp::Outcome::Expired,
            Outcome::DeliveredTooOften => amqp::Outcome::DeliveryCountExceeded,
            Outcome::Rejected => amqp::Outcome::Rejected,
            Outcome::Purged => amqp::Outcome::Purged,
        },
        key: feedback.device,
        generation: feedback.generation,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{HOST, PATIENCE, key, open, within};
    use super::*;

    fn message(to: &str) -> CloudMessage {
        CloudMessage {
            key: key(to),
            to: format!("/devices/{to}/messages/devicebound"),
            id: Some("one".to_owned()),
            correlation: None,
            user: None,
            expires: None,
            ack: amqp::Ack::Full,
            content_type: Some("text/plain".to_owned()),
            content_encoding: None,
            properties: Vec::new(),
            body: bytes::Bytes::from_static(b"1"),
        }
    }

    #[tokio::test]
    async fn a_service_shows_its_token_sends_and_hears_what_became_of_it() {
        let hub = open("oslo");
        hub.register("pump").await;
        hub.fleet.make_policies().await.unwrap();
        let behind: Arc<dyn Behind> = Arc::new(hub.fleet.clone());
        let until = super::super::now().after(PATIENCE);
        for policy in hub.fleet.registry().policies().unwrap() {
            let token = Token::make(HOST, &policy.primary, Some(&policy.name), until).unwrap();
            let granted = behind.authorize(&token, &format!("amqps://{HOST}:5671/messages")).await;
            assert_eq!(granted.is_ok(), policy.rights.include(Rights::SERVICE_CONNECT), "{}", policy.name);
        }
        let policies = hub.fleet.registry().policies().unwrap();
        let mut service = policies.into_iter().find(|policy| policy.name == "service").unwrap();
        let token = Token::make(HOST, &service.primary, Some("service"), until).unwrap();
        let granted = behind.authorize(&token, HOST).await.unwrap();
        assert!(behind.still_grants(&granted));
        service.primary = crate::sas::new_key();
        hub.fleet.registry().set_policy(service).await.unwrap();
        assert!(!behind.still_grants(&granted), "the key was changed");
        let waits = {
            let behind = Arc::clone(&behind);
            tokio::spawn(async move { behind.feedback(HOST).await })
        };
        behind.send(HOST, message("pump")).await.unwrap();
        assert!(matches!(behind.send(HOST, message("nobody")).await, Err(Refused::UnknownDevice(_))));
        hub.fleet.purge(&key("pump")).await.unwrap();
        let feedback = within(waits).await.unwrap().unwrap();
        assert_eq!(feedback.records[0].message, "one");
        assert_eq!(feedback.records[0].outcome, amqp::Outcome::Purged);
        behind.settle(HOST, &feedback.lock, Settled::Abandoned).await;
        let again = within(behind.feedback(HOST)).await.unwrap();
        behind.settle(HOST, &again.lock, Settled::Completed).await;
        assert!(hub.fleet.registry().feedback(1).unwrap().is_empty());
        hub.fleet.stand_by();
        assert!(matches!(within(behind.feedback(HOST)).await, Err(Refused::Unavailable(_))));
        assert!(matches!(behind.send(HOST, message("pump")).await, Err(Refused::Unavailable(_))));
    }
}
