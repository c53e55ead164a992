//! The listener on loopback, asked by an AMQP client that others wrote, and by peers that mean no good.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use farshore_core::moment::Moment;
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::SendError;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::definitions::{ErrorCondition, SenderSettleMode};
use fe2o3_amqp::types::messaging::{
    AmqpValue, ApplicationProperties, Body, Data, Message, Outcome as Settlement, Properties,
};
use fe2o3_amqp::types::primitives::{SimpleValue, Symbol, Timestamp, Value};
use fe2o3_amqp::{Connection, Receiver, Sender, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{
    Ack, Behind, CloudMessage, Feedback, FeedbackRecord, Granted, Options, Outcome, Refused, Settled, serve,
};

/// Nothing here takes as long: only a hang does.
const PATIENCE: Duration = Duration::from_secs(20);
const NOW: Moment = Moment(1_900_000_000_000_000);

/// A hub that remembers what it was asked.
#[derive(Debug, Default)]
struct Remembers {
    sent: Mutex<Vec<CloudMessage>>,
    feedback: Mutex<Vec<Feedback>>,
    settled: Mutex<Vec<(String, Settled)>>,
    grown: Notify,
    /// The keys by which tokens were good were changed.
    has_other_keys: AtomicBool,
}

impl Remembers {
    fn bodies(&self) -> Vec<String> {
        self.sent.lock().unwrap().iter().map(|it| String::from_utf8_lossy(&it.body).into_owned()).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let grown = self.grown.notified();
                if holds(self) {
                    return;
                }
                grown.await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

#[async_trait]
impl Behind for Remembers {
    async fn authorize(&self, token: &str, _audience: &str) -> Result<Granted, Refused> {
        match token.split_once(' ') {
            Some(("good", hub)) => {
                Ok(Granted { hub: hub.into(), expires: NOW.after(Duration::from_secs(3600)), by: None })
            }
            Some(("old", hub)) => Ok(Granted { hub: hub.into(), expires: NOW, by: None }),
            _ => Err(Refused::Unauthorized("the token is wrong".to_owned())),
        }
    }

    fn still_grants(&self, _granted: &Granted) -> bool {
        !self.has_other_keys.load(Ordering::Relaxed)
    }

    async fn send(&self, _hub: &str, message: CloudMessage) -> Result<(), Refused> {
        match message.key.device.as_str() {
            "nobody" => return Err(Refused::UnknownDevice("nobody".to_owned())),
            "full" => return Err(Refused::QueueFull),
            "away" => return Err(Refused::Unavailable("this region stands by".to_owned())),
            _ => self.sent.lock().unwrap().push(message),
        }
        self.grown.notify_waiters();
        Ok(())
    }

    async fn feedback(&self, _hub: &str) -> Result<Feedback, Refused> {
        loop {
            let grown = self.grown.notified();
            if let Some(feedback) = self.feedback.lock().unwrap().pop() {
                return Ok(feedback);
            }
            grown.await;
        }
    }

    async fn settle(&self, _hub: &str, lock: &str, settled: Settled) {
        self.settled.lock().unwrap().push((lock.to_owned(), settled));
        self.grown.notify_waiters();
    }
}

/// A listener, and what is behind it.
struct Served {
    hub: Arc<Remembers>,
    at: std::net::SocketAddr,
    stop: watch::Sender<bool>,
    ended: JoinHandle<()>,
}

async fn served() -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let hub = Arc::new(Remembers::default());
    let (stop, stopped) = watch::channel(false);
    let options = Options { tls: None, connections_max: 8, now: || NOW };
    let ended = tokio::spawn(serve(listener, Arc::clone(&hub) as _, options, stopped));
    Served { hub, at, stop, ended }
}

impl Served {
    async fn connect(&self, sasl: Option<SaslProfile>) -> (ConnectionHandle<()>, SessionHandle<()>) {
        let builder = Connection::builder().container_id("test").max_frame_size(512);
        let stream = TcpStream::connect(self.at).await.unwrap();
        let mut connection = match sasl {
            Some(sasl) => builder
                .sasl_profile(sasl)
                .hostname("hub")
                .scheme("amqp")
                .open_with_stream(stream)
                .await
                .unwrap(),
            None => builder.hostname("hub").scheme("amqp").open_with_stream(stream).await.unwrap(),
        };
        let session = Session::begin(&mut connection).await.unwrap();
        (connection, session)
    }

    /// What the peer is left with after it said this and nothing more.
    async fn after(&self, said: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        // A reset is an end as good as another.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("the connection is ended");
        heard
    }
}

/// A token as the official SDKs put it.
fn request(token: &str) -> Message<AmqpValue<String>> {
    let application = ApplicationProperties::builder()
        .insert("operation", "put-token")
        .insert("type", "servicebus.windows.net:sastoken")
        .insert("name", "hub")
        .build();
    let properties = Properties::builder().message_id(7_u64).to("$cbs").reply_to("cbs").build();
    Message::builder()
        .properties(properties)
        .application_properties(application)
        .value(token.to_owned())
        .build()
}

/// Shows a token; what the answer says.
async fn put_token(session: &mut SessionHandle<()>, token: &str) -> i32 {
    let mut to = Sender::attach(session, "cbs-to", "$cbs").await.unwrap();
    let mut from = Receiver::attach(session, "cbs-from", "$cbs").await.unwrap();
    to.send(request(token)).await.unwrap().accepted_or_else(|outcome| outcome).unwrap();
    let answer = timeout(PATIENCE, from.recv::<Body<Value>>()).await.unwrap().unwrap();
    from.accept(&answer).await.unwrap();
    assert_eq!(answer.message().properties.as_ref().unwrap().correlation_id, Some(7_u64.into()));
    let status = answer.message().application_properties.as_ref().unwrap().get("status-code").cloned();
    to.close().await.unwrap();
    from.close().await.unwrap();
    match status {
        Some(SimpleValue::Int(status)) => status,
        other => panic!("{other:?}"),
    }
}

fn message(to: &str, body: &[u8]) -> Message<Data> {
    Message::builder().properties(Properties::builder().to(to).build()).data(body.to_vec()).build()
}

/// The condition a message is rejected with.
fn condition(outcome: Result<Settlement, SendError>) -> String {
    match outcome.unwrap() {
        Settlement::Rejected(rejected) => match rejected.error.unwrap().condition {
            ErrorCondition::AmqpError(it) => Symbol::from(&it).as_str().to_owned(),
            ErrorCondition::LinkError(it) => Symbol::from(&it).as_str().to_owned(),
            ErrorCondition::Custom(it) => it.as_str().to_owned(),
            other => panic!("{other:?}"),
        },
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_is_taken_as_it_was_meant() {
    for sasl in [None, Some(SaslProfile::Anonymous)] {
        let served = served().await;
        let (_connection, mut session) = served.connect(sasl).await;
        assert_eq!(put_token(&mut session, "good hub").await, 200);
        let mut sender =
            Sender::attach(&mut session, "c2d", "amqps://hub/messages/devicebound").await.unwrap();
        let properties = Properties::builder()
            .to("/devices/pump/modules/valve/messages/devicebound")
            .message_id("m-1".to_owned())
            .correlation_id("c-1".to_owned())
            .content_type("application/json")
            .content_encoding("utf-8")
            .absolute_expiry_time(Timestamp::from_milliseconds(5))
            .build();
        let application =
            ApplicationProperties::builder().insert("iothub-ack", "full").insert("n", 5_i32).build();
        // Larger than the frames that this client takes and sends.
        let body = vec![b'x'; 60_000];
        let sent = Message::builder()
            .properties(properties)
            .application_properties(application)
            .data(body.clone())
            .build();
        sender.send(sent).await.unwrap().accepted_or_else(|outcome| outcome).unwrap();
        let got = served.hub.sent.lock().unwrap().pop().unwrap();
        let expected = CloudMessage {
            key: crate::names::Key::parse("pump/valve").unwrap(),
            to: "/devices/pump/modules/valve/messages/devicebound".to_owned(),
            id: Some("m-1".to_owned()),
            correlation: Some("c-1".to_owned()),
            user: None,
            expires: Some(Moment::from_millis(5)),
            ack: Ack::Full,
            content_type: Some("application/json".to_owned()),
            content_encoding: Some("utf-8".to_owned()),
            properties: vec![("n".to_owned(), "5".to_owned())],
            body: body.into(),
        };
        assert_eq!(got, expected);
    }
}

#[tokio::test]
async fn what_is_not_kept_is_rejected_and_says_why() {
    let served = served().await;
    let (_connection, mut session) = served.connect(None).await;
    assert_eq!(put_token(&mut session, "good hub").await, 200);
    let mut sender = Sender::attach(&mut session, "c2d", "/messages/devicebound").await.unwrap();
    let rows: [(&str, usize, &str); 6] = [
        ("/devices/nobody/messages/devicebound", 1, "amqp:not-found"),
        ("/devices/full/messages/devicebound", 1, "amqp:resource-limit-exceeded"),
        ("/devices/a b/messages/devicebound", 1, "com.microsoft:argument-error"),
        ("/devices/pump/messages/events", 1, "com.microsoft:argument-error"),
        ("/devices/pump/messages/devicebound", 64 * 1024 + 1, "amqp:link:message-size-exceeded"),
        ("/devices/pump/messages/devicebound", 64 * 1024, "Accepted(Accepted)"),
    ];
    for (to, size, expected) in rows {
        assert_eq!(condition(sender.send(message(to, &vec![0; size])).await), expected, "{to} {size}");
    }
}

#[tokio::test]
async fn messages_to_a_device_keep_their_order() {
    let served = served().await;
    let (_connection, mut session) = served.connect(None).await;
    put_token(&mut session, "good hub").await;
    let mut sender = Sender::attach(&mut session, "c2d", "/messages/devicebound").await.unwrap();
    let mut outcomes = Vec::new();
    for n in 0..200 {
        let to = "/devices/pump/messages/devicebound";
        outcomes.push(sender.send_batchable(message(to, n.to_string().as_bytes())).await.unwrap());
    }
    for outcome in outcomes {
        outcome.await.unwrap();
    }
    let expected: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(served.hub.bodies(), expected);
}

#[tokio::test]
async fn nothing_is_done_without_a_good_token() {
    let served = served().await;
    let (_connection, mut session) = served.connect(None).await;
    assert_eq!(put_token(&mut session, "bad").await, 401);
    assert!(Sender::attach(&mut session, "c2d", "/messages/devicebound").await.is_err());
    // This client detaches a refused link twice, and may have given its handle to another one between: a session each.
    let (_connection, mut session) = served.connect(None).await;
    assert!(Receiver::attach(&mut session, "feedback", "/messages/serviceBound/feedback").await.is_err());
    let (_connection, mut session) = served.connect(None).await;
    assert_eq!(put_token(&mut session, "good hub").await, 200);
    assert_eq!(put_token(&mut session, "good other").await, 401, "a connection is for one hub");
    Sender::attach(&mut session, "again", "/messages/devicebound").await.unwrap();
    assert!(Sender::attach(&mut session, "other", "/messages/events").await.is_err());
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let served = served().await;
    let (mut connection, mut session) = served.connect(None).await;
    let mut to = Sender::attach(&mut session, "cbs-to", "$cbs").await.unwrap();
    // The connection may be closed before it hears that the token was taken.
    let _ = to.send(request("old hub")).await;
    let end = timeout(PATIENCE, connection.on_close()).await.unwrap();
    assert!(format!("{end:?}").contains("UnauthorizedAccess"), "{end:?}");
}

#[tokio::test]
async fn a_peer_of_a_hub_that_is_elsewhere_now_is_sent_away_to_find_it() {
    let served = served().await;
    let (mut connection, mut session) = served.connect(None).await;
    put_token(&mut session, "good hub").await;
    let mut sender = Sender::attach(&mut session, "c2d", "/messages/devicebound").await.unwrap();
    let refused = sender.send(message("/devices/away/messages/devicebound", b"x")).await;
    assert_eq!(condition(refused), "com.microsoft:timeout");
    let end = timeout(PATIENCE, sender.on_detach()).await.unwrap();
    assert!(format!("{end:?}").contains("DetachForced"), "{end:?}");
    // It stays nevertheless: the connection is cut.
    let _ = timeout(PATIENCE, connection.on_close()).await.unwrap();
}

#[tokio::test]
async fn a_listener_that_ends_sends_everybody_away() {
    let served = served().await;
    let (mut connection, mut session) = served.connect(None).await;
    put_token(&mut session, "good hub").await;
    let mut sender = Sender::attach(&mut session, "c2d", "/messages/devicebound").await.unwrap();
    served.stop.send_replace(true);
    let end = timeout(PATIENCE, sender.on_detach()).await.unwrap();
    assert!(format!("{end:?}").contains("DetachForced"), "{end:?}");
    let _ = timeout(PATIENCE, connection.on_close()).await.unwrap();
    served.ended.await.unwrap();
}

#[tokio::test]
async fn who_came_by_a_key_that_the_hub_has_no_more_goes() {
    let served = served().await;
    let (mut connection, mut session) = served.connect(None).await;
    assert_eq!(put_token(&mut session, "good hub").await, 200);
    served.hub.has_other_keys.store(true, Ordering::Relaxed);
    let end = timeout(PATIENCE, connection.on_close()).await.unwrap();
    assert!(format!("{end:?}").contains("no longer one of this hub's"), "{end:?}");
}

#[tokio::test]
async fn feedback_is_leased_until_it_is_settled() {
    let served = served().await;
    let (mut connection, mut session) = served.connect(None).await;
    put_token(&mut session, "good hub").await;
    let record = FeedbackRecord {
        message: "m".repeat(2000),
        at: Moment(0),
        outcome: Outcome::Expired,
        key: crate::names::Key::parse("pump").unwrap(),
        generation: "g".into(),
    };
    for lock in ["third", "second", "first"] {
        let feedback = Feedback { lock: lock.to_owned(), enqueued: NOW, records: vec![record.clone()] };
        served.hub.feedback.lock().unwrap().push(feedback);
    }
    let address = "/messages/serviceBound/feedback";
    let builder =
        Receiver::builder().name("feedback").source(address).sender_settle_mode(SenderSettleMode::Unsettled);
    let mut receiver = builder.attach(&mut session).await.unwrap();
    for completed in [true, false] {
        let delivery = timeout(PATIENCE, receiver.recv::<Data>()).await.unwrap().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&delivery.body().0).unwrap();
        assert_eq!(body[0]["statusCode"], "Expired");
        assert_eq!(body[0]["originalMessageId"], record.message);
        if completed {
            receiver.accept(&delivery).await.unwrap()
        } else {
            receiver.release(&delivery).await.unwrap()
        }
    }
    let settled = [("first".to_owned(), Settled::Completed), ("second".to_owned(), Settled::Abandoned)];
    served.hub.until("both are settled", |hub| *hub.settled.lock().unwrap() == settled).await;
    // The third is out and unsettled: with the connection its lease is given back.
    timeout(PATIENCE, receiver.recv::<Data>()).await.unwrap().unwrap();
    let _ = connection.close().await;
    let third = ("third".to_owned(), Settled::Abandoned);
    served
        .hub
        .until("the third is given back", |hub| hub.settled.lock().unwrap().last() == Some(&third))
        .await;
}

#[tokio::test]
async fn peers_that_speak_something_else_are_sent_away() {
    let served = served().await;
    let amqp = b"AMQP\x00\x01\x00\x00";
    let with = |frame: &[u8]| [amqp.as_slice(), frame].concat();
    let nested = |size: u32| [&size.to_be_bytes()[..], &[2, 0, 0, 0], &vec![0; size as usize - 8]].concat();
    assert_eq!(served.after(b"GET / HTTP/1.1\r\n\r\n").await, amqp);
    let rows: [(&str, Vec<u8>, &str); 7] = [
        ("a frame shorter than its header", with(&[0, 0, 0, 4]), ""),
        ("a tiny frame", with(&[0, 0, 0, 7, 2, 0, 0, 0]), "amqp:connection:framing-error"),
        ("a giant frame", with(&[0xFF, 0xFF, 0xFF, 0xFF, 2, 0, 0, 0]), "amqp:connection:framing-error"),
        ("nothing but nesting", with(&nested(64 * 1024)), "amqp:decode-error"),
        (
            "a session before the connection",
            with(&[0, 0, 0, 20, 2, 0, 0, 0, 0, 0x53, 0x11, 0xC0, 7, 4, 0x40, 0x43, 0x52, 1, 0x52, 1]),
            "amqp:illegal-state",
        ),
        ("SASL in AMQP", with(&[0, 0, 0, 8, 2, 1, 0, 0]), "amqp:connection:framing-error"),
        (
            "a mechanism nobody offered",
            [
                b"AMQP\x03\x01\x00\x00".as_slice(),
                &[0, 0, 0, 18, 2, 1, 0, 0, 0, 0x53, 0x41, 0xC0, 5, 1, 0xA3, 2, b'X', b'Y'],
            ]
            .concat(),
            "MSSBCBS",
        ),
    ];
    for (what, said, heard) in rows {
        let mut said = said;
        if heard.is_empty() {
            // Too little to be told wrong until there is a whole header.
            said.extend([2, 0, 0, 0]);
        }
        let answer = served.after(&said).await;
        assert!(
            String::from_utf8_lossy(&answer).contains(heard),
            "{what}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert!(served.hub.sent.lock().unwrap().is_empty());
}
