//! The protocol as a device sees it.

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farshore_core::moment::Moment;
use futures_util::future::BoxFuture;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Connect, ConnectAck, ConnectAckReason, Packet, SubscribeReturnCode};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::answer::operation;
use super::{
    Admission, Assigned, Assignment, Behind, Credential, Front, Group, Known, Provisioning, Request,
    derived_key,
};
use crate::mqtt::listener::{Arrived, Limits, Listener, Serve, Stop, Transport};
use crate::mqtt::wire::Wire;
use crate::names::DeviceId;
use crate::sas::Token;

/// Nothing here takes as long: only a hang does.
const PATIENCE: Duration = Duration::from_secs(20);
const NOW: Moment = Moment(1_900_000_000_000_000);
/// Base64 of a key.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Hubs that know one device and one group, and answer what they are told to.
#[derive(Debug, Default)]
struct Hubs {
    /// What is said first, once each.
    known: Mutex<Vec<Known>>,
    assignments: Mutex<Vec<Assignment>>,
    requests: Mutex<Vec<(String, Request)>>,
}

#[async_trait]
impl Behind for Hubs {
    async fn known(&self, scope: &str, registration: &DeviceId) -> Known {
        let keys = (KEY.to_owned(), KEY.to_owned());
        match (self.known.lock().unwrap().pop(), scope, registration.as_str()) {
            (Some(known), _, _) => known,
            (None, "0ne1", "pump") => Known::Device(Credential::Keys { primary: keys.0, secondary: keys.1 }),
            (None, "0ne1", _) => Known::Stranger(vec![Group::Keys { primary: keys.0, secondary: keys.1 }]),
            _ => Known::Stranger(Vec::new()),
        }
    }

    async fn assign(&self, _scope: &str, registration: &DeviceId, request: Request) -> Assignment {
        self.requests.lock().unwrap().push((registration.to_string(), request));
        let told = self.assignments.lock().unwrap().pop();
        told.unwrap_or_else(|| {
            Assignment::Assigned(Assigned {
                hub: "lyon.example".to_owned(),
                device: registration.clone(),
                created: Moment(0),
                updated: NOW,
                etag: "e".to_owned(),
                payload: Some(json!({"site": 7})),
            })
        })
    }
}

/// The hub on the same port: it says who arrived and nothing more.
#[derive(Debug)]
struct Hub;

impl Serve for Hub {
    fn serve(&self, arrived: Arrived, _stop: Stop) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut wire = Wire::new(arrived.link, 64 * 1024);
            while wire.packet().unwrap().is_none() {
                assert!(wire.fill().await.unwrap() > 0, "the device is gone");
            }
            let return_code = ConnectAckReason::ServiceUnavailable;
            wire.queue(Packet::ConnectAck(ConnectAck { return_code, session_present: false })).unwrap();
            wire.flush().await.unwrap();
        })
    }
}

struct Served {
    hubs: Arc<Hubs>,
    listener: Listener,
}

async fn served() -> Served {
    let hubs = Arc::new(Hubs::default());
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provisioning = Arc::new(Provisioning::new(Arc::clone(&hubs) as _, || NOW));
    let serve = Arc::new(Front::new(provisioning, Arc::new(Hub)));
    let listener = Listener::spawn(socket, Transport::Plain, serve, Limits::default()).unwrap();
    Served { hubs, listener }
}

/// A device that is connected, or as far as it came.
struct Device {
    wire: Wire,
}

impl Served {
    async fn connect(&self, scope: &str, id: &str, key: &str) -> (Device, ConnectAckReason) {
        let name = format!("{scope}/registrations/{id}/api-version=2019-03-31&ClientVersion=test");
        self.connect_as(&name, scope, id, key).await
    }

    async fn connect_as(&self, name: &str, scope: &str, id: &str, key: &str) -> (Device, ConnectAckReason) {
        let resource = format!("{scope}/registrations/{id}");
        let token =
            Token::make(&resource, key, Some("registration"), NOW.after(Duration::from_secs(60))).unwrap();
        let connect = Connect {
            clean_session: true,
            keep_alive: 60,
            client_id: id.into(),
            username: Some(name.into()),
            password: Some(Bytes::from(token)),
            ..Connect::default()
        };
        let stream = TcpStream::connect(self.listener.address()).await.unwrap();
        let mut device = Device { wire: Wire::new(Box::new(stream), 64 * 1024) };
        device.send(connect.into()).await;
        match device.next().await {
            Some(Packet::ConnectAck(ack)) => (device, ack.return_code),
            other => panic!("{other:?}"),
        }
    }

    /// A device that is connected and hears answers.
    async fn device(&self, id: &str, key: &str) -> Device {
        let (mut device, code) = self.connect("0ne1", id, key).await;
        assert_eq!(code, ConnectAckReason::ConnectionAccepted);
        let packet_id = NonZeroU16::new(1).unwrap();
        let topic_filters = vec![("$dps/registrations/res/#".into(), QoS::AtLeastOnce)];
        device.send(Packet::Subscribe { packet_id, topic_filters }).await;
        let status = vec![SubscribeReturnCode::Success(QoS::AtLeastOnce)];
        assert_eq!(device.next().await, Some(Packet::SubscribeAck { packet_id, status }));
        device
    }
}

impl Device {
    async fn send(&mut self, packet: Packet) {
        self.wire.queue(packet).unwrap();
        self.wire.flush().await.unwrap();
    }

    /// The next packet; `None`: the connection is over.
    async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.wire.packet().unwrap() {
                return Some(packet);
            }
            let read = timeout(PATIENCE, self.wire.fill()).await.expect("no packet and no end");
            if read.is_ok_and(|read| read > 0) {
                continue;
            }
            return None;
        }
    }

    /// Publishes a request; the topic and body of the answer, `None` when the connection ended instead.
    async fn ask(&mut self, topic: &str, body: &str) -> Option<(String, Value)> {
        let packet_id = NonZeroU16::new(7);
        let publish = Publish {
            dup: false,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: topic.into(),
            packet_id,
            payload: Bytes::copy_from_slice(body.as_bytes()),
            properties: None,
        };
        self.send(publish.into()).await;
        assert_eq!(self.next().await?, Packet::PublishAck { packet_id: packet_id.unwrap() });
        match self.next().await? {
            Packet::Publish(answer) => {
                Some((answer.topic.to_string(), serde_json::from_slice(&answer.payload).unwrap()))
            }
            other => panic!("{other:?}"),
        }
    }

    async fn register(&mut self, id: &str) -> (String, Value) {
        let body = json!({ "registrationId": id, "payload": { "model": "x" } }).to_string();
        self.ask("$dps/registrations/PUT/iotdps-register/?$rid=r1", &body).await.unwrap()
    }
}

#[tokio::test]
async fn a_device_with_its_key_is_told_the_active_hub() {
    let served = served().await;
    let mut device = served.device("pump", KEY).await;
    let (topic, body) = device.register("pump").await;
    assert_eq!(topic, "$dps/registrations/res/200/?$rid=r1");
    let expected = json!({
        "operationId": operation("0ne1", &DeviceId::parse("pump").unwrap()),
        "status": "assigned",
        "registrationState": {
            "registrationId": "pump",
            "createdDateTimeUtc": "1970-01-01T00:00:00.000Z",
            "assignedHub": "lyon.example",
            "deviceId": "pump",
            "status": "assigned",
            "substatus": "initialAssignment",
            "lastUpdatedDateTimeUtc": NOW.to_string(),
            "etag": "e",
            "payload": {"site": 7},
        },
    });
    assert_eq!(body, expected);
    let request = Request { admission: Admission::Registered, payload: Some(json!({ "model": "x" })) };
    assert_eq!(*served.hubs.requests.lock().unwrap(), [("pump".to_owned(), request)]);
    device.send(Packet::PingRequest).await;
    assert_eq!(device.next().await, Some(Packet::PingResponse));
    device.send(Packet::Disconnect).await;
    assert_eq!(device.next().await, None);
}

#[tokio::test]
async fn a_device_of_a_group_comes_in_with_its_derived_key() {
    let served = served().await;
    let own = derived_key(KEY, "new-1").unwrap();
    let (topic, _) = served.device("new-1", &own).await.register("new-1").await;
    assert_eq!(topic, "$dps/registrations/res/200/?$rid=r1");
    let admission = served.hubs.requests.lock().unwrap()[0].1.admission.clone();
    assert_eq!(admission, Admission::WithKeys { primary: own.clone(), secondary: own });
}

#[tokio::test]
async fn who_proves_nothing_is_not_let_in() {
    let served = served().await;
    let other = derived_key(KEY, "other").unwrap();
    for (scope, id, key) in [("0ne1", "pump", other.as_str()), ("0ne1", "new-1", KEY), ("0ne2", "pump", KEY)]
    {
        let (mut device, code) = served.connect(scope, id, key).await;
        assert_eq!(code, ConnectAckReason::NotAuthorized, "{scope} {id}");
        assert_eq!(device.next().await, None);
    }
    assert!(served.hubs.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_hub_that_cannot_tell_refuses_nobody_and_believes_nobody() {
    let served = served().await;
    let other = derived_key(KEY, "other").unwrap();
    let not_now = || Known::NotNow { retry_after: Duration::from_secs(3) };
    // Asked at the connection and at the first request.
    served.hubs.known.lock().unwrap().extend([not_now(), not_now()]);
    let mut device = served.device("pump", KEY).await;
    let (topic, _) = device.register("pump").await;
    assert_eq!(topic, "$dps/registrations/res/429/?$rid=r1&retry-after=3");
    assert_eq!(device.register("pump").await.1["status"], "assigned");

    served.hubs.known.lock().unwrap().push(not_now());
    let mut liar = served.device("pump", &other).await;
    let (topic, body) = liar.register("pump").await;
    assert_eq!(
        (topic.as_str(), &body["errorCode"]),
        ("$dps/registrations/res/401/?$rid=r1", &json!(401_002))
    );
    assert_eq!(served.hubs.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_assignment_that_takes_time_is_asked_about() {
    let served = served().await;
    let assigning = Assignment::Assigning { retry_after: Duration::from_secs(2) };
    served.hubs.assignments.lock().unwrap().push(assigning);
    let (topic, body) = served.device("pump", KEY).await.register("pump").await;
    assert_eq!(topic, "$dps/registrations/res/202/?$rid=r1&retry-after=2");
    assert_eq!(body["status"], "assigning");
    // On another connection: the operation is known by the registration.
    let mut device = served.device("pump", KEY).await;
    let ask =
        |id: &str| format!("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=r2&operationId={id}");
    let (topic, _) = device.ask(&ask("5.of-somebody-else"), " ").await.unwrap();
    assert_eq!(topic, "$dps/registrations/res/404/?$rid=r2");
    let (topic, body) = device.ask(&ask(body["operationId"].as_str().unwrap()), " ").await.unwrap();
    assert_eq!(
        (topic.as_str(), &body["status"]),
        ("$dps/registrations/res/200/?$rid=r2", &json!("assigned"))
    );

    let failed = Assignment::Failed { why: "the hub is full".to_owned() };
    served.hubs.assignments.lock().unwrap().push(failed);
    let (_, body) = device.register("pump").await;
    assert_eq!(body["registrationState"]["errorMessage"], "the hub is full");
}

#[tokio::test]
async fn what_has_no_place_here_changes_nothing() {
    let served = served().await;
    let mut device = served.device("pump", KEY).await;
    let topic = "$dps/registrations/PUT/iotdps-register/?$rid=r1";
    for body in ["", "{}", r#"{"registrationId":"valve"}"#, "[1"] {
        let (topic, _) = device.ask(topic, body).await.unwrap();
        assert_eq!(topic, "$dps/registrations/res/400/?$rid=r1", "{body}");
    }
    for topic in ["devices/pump/messages/events/", "$dps/registrations/PUT/iotdps-register/?$rid=%0a#"] {
        let mut device = served.device("pump", KEY).await;
        assert_eq!(device.ask(topic, "{}").await, None, "{topic}");
    }
    assert!(served.hubs.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn devices_of_the_hub_find_it_on_the_same_port() {
    let served = served().await;
    let (_, code) = served.connect_as("lyon.example/pump/?api-version=2021-04-12", "0ne1", "pump", KEY).await;
    assert_eq!(code, ConnectAckReason::ServiceUnavailable);
}
