//! One connection of a device: MQTT 3.1.1 over TLS, as the official SDKs speak it.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use rmqtt_codec::types::Publish;
use rmqtt_codec::v3::{Codec, Connect, ConnectAckReason, Packet, QoS};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::Framed;

/// What the official SDKs send.
const API_VERSION: &str = "2021-04-12";
/// Seconds; the hub may hold a device before its door for three quarters of it.
const KEEP_ALIVE: u16 = 60;
/// A place that does not even answer is given up after this.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// Largest packet that a device takes.
const PACKET_MAX: u32 = 64 * 1024;

/// Who a device is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) id: String,
    /// The hub's name, the same in both regions.
    pub(super) host: String,
    /// A token of the device, good for the whole act, in both regions.
    pub(super) token: String,
}

/// Why a device is not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotLetIn {
    #[error("no answer: {0}")]
    NoAnswer(Box<dyn std::error::Error + Send + Sync>),
    #[error("refused: {0:?}")]
    Refused(ConnectAckReason),
}

/// The connection is over. What was not acknowledged is sent again on the next.
#[derive(Debug)]
pub(super) struct Gone;

/// An open connection.
pub(super) struct Link {
    framed: Framed<TlsStream<TcpStream>, Codec>,
    topic: String,
    packet: NonZeroU16,
}

impl Link {
    pub(super) async fn open(
        who: &Identity,
        place: SocketAddr,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, NotLetIn> {
        let begun = timeout(CONNECT_PATIENCE, begin(&who.host, place, tls)).await;
        let stream = begun.map_err(no_answer)?.map_err(no_answer)?;
        let mut framed = Framed::new(stream, Codec::new(PACKET_MAX));
        let connect = Connect {
            protocol: rmqtt_codec::types::Protocol::default(),
            clean_session: false,
            keep_alive: KEEP_ALIVE,
            last_will: None,
            client_id: who.id.clone().into(),
            username: Some(format!("{}/{}/?api-version={API_VERSION}", who.host, who.id).into()),
            password: Some(Bytes::from(who.token.clone())),
            cert: None,
        };
        framed.send(connect.into()).await.map_err(no_answer)?;
        match framed.next().await {
            Some(Ok((Packet::ConnectAck(ack), _))) => match ack.return_code {
                ConnectAckReason::ConnectionAccepted => {
                    let topic = format!("devices/{}/messages/events/", who.id);
                    Ok(Self { framed, topic, packet: NonZeroU16::MIN })
                }
                refused => Err(NotLetIn::Refused(refused)),
            },
            Some(Err(error)) => Err(no_answer(error)),
            _ => Err(no_answer("closed without an answer")),
        }
    }

    /// Sends a message under its id; returns the packet that will be acknowledged.
    pub(super) async fn publish(&mut self, message_id: &str, body: String) -> Result<NonZeroU16, Gone> {
        self.packet = self.packet.checked_add(1).unwrap_or(NonZeroU16::MIN);
        let publish = Publish {
            dup: false,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: format!("{}%24.mid={message_id}&%24.ct=application%2Fjson&%24.ce=utf-8", self.topic)
                .into(),
            packet_id: Some(self.packet),
            payload: Bytes::from(body),
            properties: None,
        };
        self.framed.send(publish.into()).await.map_err(|_| Gone)?;
        Ok(self.packet)
    }

    /// The next acknowledgement. Cancelled, it has taken nothing.
    pub(super) async fn acknowledged(&mut self) -> Result<NonZeroU16, Gone> {
        loop {
            match self.framed.next().await {
                Some(Ok((Packet::PublishAck { packet_id }, _))) => return Ok(packet_id),
                // Nothing else was asked for.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Gone),
            }
        }
    }
}

async fn begin(
    host: &str,
    place: SocketAddr,
    tls: &Arc<rustls::ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    let tcp = TcpStream::connect(place).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await
}

fn no_answer(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> NotLetIn {
    NotLetIn::NoAnswer(error.into())
}
