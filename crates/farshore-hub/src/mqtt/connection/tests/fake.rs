//! The made-up hub and the client.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use farshore_core::moment::Moment;
use futures_util::future::BoxFuture;
use rmqtt_codec::types::Publish;
use rmqtt_codec::v3::{Codec, Connect, ConnectAckReason, LastWill, Packet, QoS};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::codec::{Decoder, Encoder};

use super::super::serve;
use crate::mqtt::behind::*;
use crate::mqtt::listener::{Arrived, Origin, Stops, stops};
use crate::mqtt::wire::Link;
use crate::names::Subs;

/// What the hub was asked or told.
#[derive(Debug)]
pub(super) enum Seen {
    Hello(Hello, oneshot::Sender<Verdict>),
    Abandoned,
    Telemetry(Telemetered, oneshot::Sender<Result<(), NotKept>>),
    Twin(oneshot::Sender<Result<Bytes, TwinError>>),
    Report(Value, oneshot::Sender<Result<u64, TwinError>>),
    Subscribe(Subs, oneshot::Sender<Result<(), NotKept>>),
    Completed(u64),
    Answered(String, i32, Bytes),
    Closed(Option<Telemetered>),
}

#[derive(Debug)]
pub(super) struct Hub {
    seen: mpsc::UnboundedSender<Seen>,
}

struct Abandon(Option<mpsc::UnboundedSender<Seen>>);

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some(seen) = self.0.take() {
            let _ = seen.send(Seen::Abandoned);
        }
    }
}

#[async_trait]
impl Behind for Hub {
    async fn admit(&self, hello: Hello) -> Verdict {
        let (verdict, given) = oneshot::channel();
        let mut abandon = Abandon(Some(self.seen.clone()));
        self.seen.send(Seen::Hello(hello, verdict)).unwrap();
        let verdict = given.await.unwrap();
        abandon.0 = None;
        verdict
    }
}

/// A session of which the test holds the other end.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) subs: Subs,
    pub(super) present: bool,
    pub(super) expires: Option<Moment>,
    seen: mpsc::UnboundedSender<Seen>,
    outgoing: tokio::sync::Mutex<mpsc::UnboundedReceiver<Outgoing>>,
    closed: Mutex<bool>,
}

async fn ask<T>(seen: &mpsc::UnboundedSender<Seen>, question: impl FnOnce(oneshot::Sender<T>) -> Seen) -> T {
    let (answer, answered) = oneshot::channel();
    seen.send(question(answer)).unwrap();
    answered.await.unwrap()
}

#[async_trait]
impl Session for Talk {
    fn subscriptions(&self) -> Subs {
        self.subs
    }
    fn is_present(&self) -> bool {
        self.present
    }
    fn expires(&self) -> Option<Moment> {
        self.expires
    }
    fn telemetry(&self, event: Telemetered) -> BoxFuture<'static, Result<(), NotKept>> {
        let (kept, told) = oneshot::channel();
        self.seen.send(Seen::Telemetry(event, kept)).unwrap();
        Box::pin(async { told.await.unwrap_or(Ok(())) })
    }
    async fn next(&self) -> Outgoing {
        match self.outgoing.lock().await.recv().await {
            Some(outgoing) => outgoing,
            None => std::future::pending().await,
        }
    }
    async fn twin(&self) -> Result<Bytes, TwinError> {
        ask(&self.seen, Seen::Twin).await
    }
    async fn report(&self, patch: Value) -> Result<u64, TwinError> {
        ask(&self.seen, |answer| Seen::Report(patch, answer)).await
    }
    async fn subscribe(&self, subs: Subs) -> Result<(), NotKept> {
        ask(&self.seen, |answer| Seen::Subscribe(subs, answer)).await
    }
    async fn completed(&self, lock: u64) {
        self.seen.send(Seen::Completed(lock)).unwrap();
    }
    async fn answered(&self, rid: &str, status: i32, body: Bytes) {
        self.seen.send(Seen::Answered(rid.to_owned(), status, body)).unwrap();
    }
    async fn closed(&self, will: Option<Telemetered>) {
        assert!(!std::mem::replace(&mut *self.closed.lock().unwrap(), true), "closed is told once");
        self.seen.send(Seen::Closed(will)).unwrap();
    }
}

/// The time on which tests begin.
pub(super) fn clock() -> Moment {
    Moment(1_000_000_000)
}

/// One connection: the client's end, the hub's end, and the task between them.
pub(super) struct Rig {
    pub(super) client: Client,
    pub(super) seen: mpsc::UnboundedReceiver<Seen>,
    sender: mpsc::UnboundedSender<Seen>,
    pub(super) stops: Stops,
    pub(super) task: JoinHandle<()>,
}

/// Between client and connection; a slow reader fills it.
const PIPE: usize = 16 * 1024;

pub(super) fn rig() -> Rig {
    let (near, far) = duplex(PIPE);
    let (sender, seen) = mpsc::unbounded_channel();
    let (stops, stop) = stops();
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let origin = Origin { peer, server_name: Some("by-tls".to_owned()), certificates: Vec::new() };
    let arrived = Arrived { link: Box::new(far), origin, place: None };
    let hub = Arc::new(Hub { seen: sender.clone() });
    let task = tokio::spawn(serve(hub, clock, arrived, stop));
    Rig { client: Client::new(near), seen, sender, stops, task }
}

impl Rig {
    /// A session and what it sends.
    pub(super) fn talk(&self) -> (Talk, mpsc::UnboundedSender<Outgoing>) {
        let (send, outgoing) = mpsc::unbounded_channel();
        let talk = Talk {
            subs: Subs::default(),
            present: false,
            expires: None,
            seen: self.sender.clone(),
            outgoing: tokio::sync::Mutex::new(outgoing),
            closed: Mutex::new(false),
        };
        (talk, send)
    }

    pub(super) async fn see(&mut self) -> Seen {
        self.seen.recv().await.unwrap()
    }

    pub(super) async fn hello(&mut self) -> (Hello, oneshot::Sender<Verdict>) {
        match self.see().await {
            Seen::Hello(hello, verdict) => (hello, verdict),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn telemetry(&mut self) -> (Telemetered, oneshot::Sender<Result<(), NotKept>>) {
        match self.see().await {
            Seen::Telemetry(event, kept) => (event, kept),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn closed(&mut self) -> Option<Telemetered> {
        loop {
            match self.see().await {
                Seen::Closed(will) => return will,
                Seen::Telemetry(..) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Connects, and lets the device in with `talk` as changed.
    pub(super) async fn open_with(
        &mut self,
        connect: Connect,
        change: impl FnOnce(&mut Talk),
    ) -> mpsc::UnboundedSender<Outgoing> {
        self.client.send(connect.into()).await;
        let (_, verdict) = self.hello().await;
        let (mut talk, send) = self.talk();
        change(&mut talk);
        verdict.send(Verdict::Open(Arc::new(talk))).unwrap();
        assert_eq!(self.client.code().await, ConnectAckReason::ConnectionAccepted);
        send
    }

    pub(super) async fn open(&mut self) -> mpsc::UnboundedSender<Outgoing> {
        self.open_with(connect(), |_| {}).await
    }
}

/// Everything that can be subscribed to, with 1.
pub(super) fn all() -> Subs {
    Subs { messages: Some(1), twin: Some(1), desired: Some(1), methods: Some(1), inputs: None }
}

pub(super) fn connect() -> Connect {
    Connect {
        protocol: Default::default(),
        clean_session: false,
        keep_alive: 60,
        last_will: None,
        client_id: "pump".into(),
        username: Some("hub.test/pump/?api-version=2021-04-12&DeviceClientType=x%2F1".into()),
        password: Some(Bytes::from_static(b"SharedAccessSignature sr=x")),
        cert: None,
    }
}

pub(super) fn will() -> LastWill {
    LastWill {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "devices/pump/messages/events/a=b".into(),
        message: Bytes::from_static(b"gone"),
    }
}

pub(super) const EVENTS: &str = "devices/pump/messages/events/";

pub(super) fn publish(topic: &str, packet: u16, payload: &[u8]) -> Publish {
    let packet_id = NonZeroU16::new(packet);
    Publish {
        dup: false,
        retain: false,
        qos: if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
        topic: topic.to_owned().into(),
        packet_id,
        payload: Bytes::copy_from_slice(payload),
        properties: None,
    }
}

/// Sends whatever it is told to.
pub(super) struct Client<S = DuplexStream> {
    stream: S,
    codec: Codec,
    read: BytesMut,
}

impl<S: Link> Client<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, codec: Codec::new(0), read: BytesMut::new() }
    }

    pub(super) async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Whether the other side has taken it.
    pub(super) async fn try_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    pub(super) async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        self.codec.encode(packet, &mut bytes).unwrap();
        self.raw(&bytes).await;
    }

    /// `None`: the other side has closed.
    pub(super) async fn recv(&mut self) -> Option<Packet> {
        loop {
            if let Some((packet, _)) = self.codec.decode(&mut self.read).unwrap() {
                return Some(packet);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(len) => self.read.extend_from_slice(&piece[..len]),
            }
        }
    }

    pub(super) async fn code(&mut self) -> ConnectAckReason {
        match self.recv().await {
            Some(Packet::ConnectAck(ack)) => ack.return_code,
            other => panic!("{other:?}"),
        }
    }

    /// The number of the next packet, which acknowledges.
    pub(super) async fn acked(&mut self) -> u16 {
        match self.recv().await {
            Some(Packet::PublishAck { packet_id }) => packet_id.get(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn published(&mut self) -> Publish {
        match self.recv().await {
            Some(Packet::Publish(publish)) => *publish,
            other => panic!("{other:?}"),
        }
    }

    /// A round trip: whatever was sent before has been taken.
    pub(super) async fn ping(&mut self) {
        self.send(Packet::PingRequest).await;
        assert_eq!(self.recv().await, Some(Packet::PingResponse));
    }
}
