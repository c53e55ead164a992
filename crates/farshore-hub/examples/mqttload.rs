//! Load for an MQTT broker or hub: many connections, each with a window of unacknowledged messages with quality of service 1.
//!
//! `mqttload HOST:PORT [--connections N] [--window W] [--bytes B] [--seconds S] [--tls] [--topic T]` prints acknowledged messages per
//! second and how long an acknowledgement took. In `--topic` and `--user`, `{}` is the connection's client id. `--seconds 0` only
//! opens the connections, says how long that took, and holds them until standard input ends.
//!
//! `mqttload serve [--tls] [--threads N]` is a hub that keeps nothing: the ceiling of what the connection code does by itself.

use std::error::Error;
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use farshore_core::moment::Moment;
use farshore_hub::mqtt::behind::{
    Behind, Hello, NotKept, Outgoing, Session, Telemetered, TwinError, Verdict,
};
use farshore_hub::mqtt::connection::Mqtt;
use farshore_hub::mqtt::listener::{Limits, Listener, Transport};
use farshore_hub::mqtt::tls::server_config;
use farshore_hub::names::Subs;
use futures_util::future::{BoxFuture, ready};
use rmqtt_codec::types::Publish;
use rmqtt_codec::v3::{Codec, Connect, ConnectAckReason, Packet, QoS};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::codec::{Decoder, Encoder};

type Failed = Box<dyn Error + Send + Sync>;

/// At once; more would only wait in the other side's queue and time out there.
const CONNECTING_MAX: usize = 200;

/// What was asked for on the command line.
#[derive(Debug, Clone)]
struct Asked {
    target: String,
    connections: usize,
    window: usize,
    bytes: usize,
    seconds: u64,
    threads: usize,
    tls: bool,
    topic: String,
    user: String,
}

fn main() -> Result<(), Failed> {
    let asked = asked()?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(asked.threads).enable_all().build()?;
    runtime.block_on(async {
        // In a task: the thread that waits for it is none of the workers.
        let run = async { if asked.target == "serve" { serve(asked).await } else { load(asked).await } };
        tokio::spawn(run).await?
    })
}

fn asked() -> Result<Asked, Failed> {
    let mut asked = Asked {
        target: String::new(),
        connections: 1,
        window: 100,
        bytes: 256,
        seconds: 5,
        threads: 1,
        tls: false,
        topic: "devices/{}/messages/events/".to_owned(),
        user: "hub/{}/?api-version=2021-04-12".to_owned(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--connections" => asked.connections = value()?.parse()?,
            "--window" => asked.window = value()?.parse()?,
            "--bytes" => asked.bytes = value()?.parse()?,
            "--seconds" => asked.seconds = value()?.parse()?,
            "--threads" => asked.threads = value()?.parse()?,
            "--topic" => asked.topic = value()?,
            "--user" => asked.user = value()?,
            "--tls" => asked.tls = true,
            _ => asked.target = word,
        }
    }
    if asked.target.is_empty() { Err("say HOST:PORT, or serve".into()) } else { Ok(asked) }
}

/// A hub that keeps nothing and says it did.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Behind for Nothing {
    async fn admit(&self, _: Hello) -> Verdict {
        Verdict::Open(Arc::new(Nothing))
    }
}

#[async_trait]
impl Session for Nothing {
    fn subscriptions(&self) -> Subs {
        Subs::default()
    }
    fn is_present(&self) -> bool {
        false
    }
    fn expires(&self) -> Option<Moment> {
        None
    }
    fn telemetry(&self, _: Telemetered) -> BoxFuture<'static, Result<(), NotKept>> {
        Box::pin(ready(Ok(())))
    }
    async fn next(&self) -> Outgoing {
        std::future::pending().await
    }
    async fn twin(&self) -> Result<Bytes, TwinError> {
        Ok(Bytes::from_static(b"{}"))
    }
    async fn report(&self, _: Value) -> Result<u64, TwinError> {
        Ok(1)
    }
    async fn subscribe(&self, _: Subs) -> Result<(), NotKept> {
        Ok(())
    }
    async fn completed(&self, _: u64) {}
    async fn answered(&self, _: &str, _: i32, _: Bytes) {}
    async fn closed(&self, _: Option<Telemetered>) {}
}

async fn serve(asked: Asked) -> Result<(), Failed> {
    let transport = if asked.tls {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
        Transport::Tls(server_config(vec![own.cert.der().clone()], key)?)
    } else {
        Transport::Plain
    };
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let mqtt = Arc::new(Mqtt::new(Arc::new(Nothing), Moment::default));
    let listener = Listener::spawn(tcp, transport, mqtt, Limits::default())?;
    println!("{}", listener.address());
    hold().await?;
    listener.stop(Duration::from_secs(1)).await;
    Ok(())
}

/// Until standard input ends.
async fn hold() -> Result<(), Failed> {
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

async fn load(asked: Asked) -> Result<(), Failed> {
    let begun = Instant::now();
    let asked = Arc::new(asked);
    let connector = connector()?;
    let mut links = Vec::with_capacity(asked.connections);
    for first in (0..asked.connections).step_by(CONNECTING_MAX) {
        let mut opening = JoinSet::new();
        for number in first..asked.connections.min(first + CONNECTING_MAX) {
            opening.spawn(open(Arc::clone(&asked), connector.clone(), format!("load-{number}")));
        }
        while let Some(opened) = opening.join_next().await {
            links.push(opened??);
        }
    }
    let took = begun.elapsed();
    println!("{} connections in {took:.2?}: {:.0}/s", links.len(), links.len() as f64 / took.as_secs_f64());
    if asked.seconds == 0 {
        return hold().await;
    }
    let begun = Instant::now();
    let until = begun + Duration::from_secs(asked.seconds);
    let mut sending = JoinSet::new();
    for link in links {
        let asked = Arc::clone(&asked);
        sending.spawn(async move { link.send(&asked, until).await });
    }
    let mut waits = Vec::new();
    while let Some(sent) = sending.join_next().await {
        waits.extend(sent??);
    }
    report(&mut waits, begun.elapsed());
    Ok(())
}

fn report(waits: &mut [Duration], took: Duration) {
    waits.sort_unstable();
    let at = |share: f64| waits.get((waits.len() as f64 * share) as usize).copied().unwrap_or_default();
    let rate = waits.len() as f64 / took.as_secs_f64();
    println!("{} acknowledged, {rate:.0}/s, p50 {:.2?}, p99 {:.2?}", waits.len(), at(0.5), at(0.99));
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

struct Link {
    stream: Box<dyn Stream>,
    codec: Codec,
    read: BytesMut,
    id: String,
}

async fn open(asked: Arc<Asked>, connector: tokio_rustls::TlsConnector, id: String) -> Result<Link, Failed> {
    let tcp = TcpStream::connect(&asked.target).await?;
    tcp.set_nodelay(true)?;
    let stream: Box<dyn Stream> = if asked.tls {
        Box::new(connector.connect(ServerName::try_from("localhost")?, tcp).await?)
    } else {
        Box::new(tcp)
    };
    let mut link = Link { stream, codec: Codec::new(0), read: BytesMut::new(), id };
    let connect = Connect {
        protocol: Default::default(),
        clean_session: true,
        keep_alive: 0,
        last_will: None,
        client_id: link.id.clone().into(),
        username: Some(asked.user.replace("{}", &link.id).into()),
        password: Some(Bytes::from_static(b"none")),
        cert: None,
    };
    let mut bytes = BytesMut::new();
    link.codec.encode(connect.into(), &mut bytes)?;
    link.stream.write_all(&bytes).await?;
    link.stream.flush().await?;
    match link.next().await? {
        Packet::ConnectAck(ack) if ack.return_code == ConnectAckReason::ConnectionAccepted => Ok(link),
        other => Err(format!("not let in: {other:?}").into()),
    }
}

impl Link {
    fn decoded(&mut self) -> Result<Option<Packet>, Failed> {
        Ok(self.codec.decode(&mut self.read)?.map(|(packet, _)| packet))
    }

    async fn next(&mut self) -> Result<Packet, Failed> {
        loop {
            if let Some(packet) = self.decoded()? {
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err("the connection was closed".into());
            }
        }
    }

    /// Keeps the window full until the time is over and everything is acknowledged: how long each took.
    async fn send(mut self, asked: &Asked, until: Instant) -> Result<Vec<Duration>, Failed> {
        let topic = asked.topic.replace("{}", &self.id);
        let payload = Bytes::from(vec![b'x'; asked.bytes]);
        let (mut sent, mut waits) = (Vec::new(), Vec::new());
        let mut out = BytesMut::new();
        loop {
            let now = Instant::now();
            while now < until && sent.len() - waits.len() < asked.window {
                let packet_id = std::num::NonZeroU16::new((sent.len() % 65_535) as u16 + 1);
                let publish = Publish {
                    dup: false,
                    retain: false,
                    qos: QoS::AtLeastOnce,
                    topic: topic.clone().into(),
                    packet_id,
                    payload: payload.clone(),
                    properties: None,
                };
                self.codec.encode(publish.into(), &mut out)?;
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
                // Acknowledgements come in order.
                if usize::from(packet_id.get()) != waits.len() % 65_535 + 1 {
                    return Err("an acknowledgement out of order".into());
                }
                waits.push(now - sent[waits.len()]);
                packet = self.decoded()?;
            }
        }
    }
}

fn connector() -> Result<tokio_rustls::TlsConnector, Failed> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

/// For measuring only: trusts whoever answers.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}
