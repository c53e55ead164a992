//! One device's connection.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rmqtt_codec::types::Publish;
use rmqtt_codec::v3::{Codec, Connect, ConnectAckReason, Packet, QoS};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::codec::{Decoder as _, Encoder as _};

use crate::Failed;
use crate::target::Place;

/// What the official SDK for Node says, in seconds. No run holds a connection for one and a half times as long.
const KEEP_ALIVE: u16 = 180;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connected, let in.
pub(crate) struct Device {
    pub(crate) place: Arc<Place>,
    pub(crate) number: usize,
    id: String,
    stream: Box<dyn Stream>,
    codec: Codec,
    read: BytesMut,
}

impl Device {
    /// One attempt: TCP to the first address that takes it, TLS, CONNECT with a token, and the answer, for which it may have to wait.
    pub(crate) async fn open(place: &Arc<Place>, number: usize) -> Result<Self, Failed> {
        let id = format!("device-{number}");
        let tcp = call(place, number).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &place.tls {
            Some(tls) => Box::new(tls.connect(place.name.clone(), tcp).await?),
            None => Box::new(tcp),
        };
        let connect = Connect {
            protocol: Default::default(),
            // As the official SDKs do.
            clean_session: false,
            keep_alive: KEEP_ALIVE,
            last_will: None,
            client_id: id.clone().into(),
            username: Some(place.user(&id).into()),
            password: Some(place.password(&id)?.into()),
            cert: None,
        };
        let mut device = Self {
            place: Arc::clone(place),
            number,
            id,
            stream,
            codec: Codec::new(0),
            read: BytesMut::new(),
        };
        device.write(connect.into()).await?;
        match device.next().await? {
            Packet::ConnectAck(ack) if ack.return_code == ConnectAckReason::ConnectionAccepted => Ok(device),
            other => Err(format!("{} was not let in: {other:?}", device.id).into()),
        }
    }

    async fn write(&mut self, packet: Packet) -> Result<(), Failed> {
        let mut bytes = BytesMut::new();
        self.codec.encode(packet, &mut bytes)?;
        self.stream.write_all(&bytes).await?;
        Ok(self.stream.flush().await?)
    }

    fn decoded(&mut self) -> Result<Option<Packet>, Failed> {
        Ok(self.codec.decode(&mut self.read)?.map(|(packet, _)| packet))
    }

    async fn next(&mut self) -> Result<Packet, Failed> {
        loop {
            if let Some(packet) = self.decoded()? {
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(format!("the server closed the connection of {}", self.id).into());
            }
        }
    }

    fn message(&self, count: usize, payload: &Bytes) -> Packet {
        #[expect(clippy::cast_possible_truncation, reason = "below 65,535")]
        let packet_id = NonZeroU16::new((count % 65_535) as u16 + 1);
        Packet::from(Publish {
            dup: false,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: format!("devices/{}/messages/events/", self.id).into(),
            packet_id,
            payload: payload.clone(),
            properties: None,
        })
    }

    /// Keeps the window full until the time is over and everything is acknowledged: how long each took.
    pub(crate) async fn send(
        &mut self,
        window: usize,
        payload: &Bytes,
        until: Instant,
    ) -> Result<Vec<Duration>, Failed> {
        let (mut sent, mut waits) = (Vec::new(), Vec::new());
        let mut out = BytesMut::new();
        loop {
            let now = Instant::now();
            while now < until && sent.len() - waits.len() < window {
                let message = self.message(sent.len(), payload);
                self.codec.encode(message, &mut out)?;
                sent.push(now);
            }
            self.stream.write_all(&out).await?;
            self.stream.flush().await?;
            out.clear();
            if sent.len() == waits.len() {
                return Ok(waits);
            }
            let mut packet = Some(self.next().await?);
            let now = Instant::now();
            while let Some(Packet::PublishAck { packet_id }) = packet {
                if usize::from(packet_id.get()) != waits.len() % 65_535 + 1 {
                    return Err("an acknowledgement out of order".into());
                }
                waits.push(now - sent[waits.len()]);
                packet = self.decoded()?;
            }
        }
    }

    /// One message, acknowledged.
    pub(crate) async fn say(&mut self) -> Result<(), Failed> {
        let message = self.message(0, &Bytes::from_static(b"{}"));
        self.write(message).await?;
        match self.next().await? {
            Packet::PublishAck { .. } => Ok(()),
            other => Err(format!("{} got {other:?} for an acknowledgement", self.id).into()),
        }
    }

    /// Returns when the connection is gone, whoever ended it.
    pub(crate) async fn gone(&mut self) {
        while self.next().await.is_ok() {}
    }

    pub(crate) async fn leave(mut self) -> Result<(), Failed> {
        self.write(Packet::Disconnect).await?;
        // The server closes first, so that no port of this side has to wait.
        self.gone().await;
        Ok(())
    }

    pub(crate) async fn leave_subscription(mut self, filter: &str) -> Result<(), Failed> {
        let packet_id = NonZeroU16::MIN;
        self.write(Packet::Subscribe { packet_id, topic_filters: vec![(filter.into(), QoS::AtLeastOnce)] })
            .await?;
        match self.next().await? {
            Packet::SubscribeAck { .. } => self.leave().await,
            other => Err(format!("{} got {other:?} for a subscription", self.id).into()),
        }
    }
}

async fn call(place: &Place, number: usize) -> Result<TcpStream, Failed> {
    let mut last: Failed = "no address".into();
    for address in &place.addresses {
        match reach(place.source(number), *address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

async fn reach(source: SocketAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(source)?;
    socket.connect(address).await
}
