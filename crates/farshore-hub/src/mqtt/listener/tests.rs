//! Real sockets: every transport, what it finds out, and how a port is closed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use farshore_core::moment::Moment;
use futures_util::future::{BoxFuture, ready};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::mqtt::behind::*;
use crate::mqtt::connection::Mqtt;
use crate::mqtt::tls::server_config;
use crate::names::Subs;

/// A CONNECT of the device `pump` that names no host, and the answer to it.
const CONNECT: &[u8] =
    b"\x10\x2d\x00\x04MQTT\x04\xC2\x00\x3C\x00\x04pump\x00\x14/pump/?api-version=1\x00\x05token";
const CONNACK: &[u8] = b"\x20\x02\x00\x00";
/// A message with quality of service 1, and its acknowledgement.
const MESSAGE: &[u8] = b"\x32\x23\x00\x1ddevices/pump/messages/events/\x00\x07hi";
const PUBACK: &[u8] = b"\x40\x02\x00\x07";

#[derive(Debug)]
struct OpenHub(mpsc::UnboundedSender<Hello>);

#[async_trait]
impl Behind for OpenHub {
    async fn admit(&self, hello: Hello) -> Verdict {
        self.0.send(hello).unwrap();
        Verdict::Open(Arc::new(Keeper))
    }
}

#[derive(Debug)]
struct Keeper;

#[async_trait]
impl Session for Keeper {
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
        Err(TwinError::Throttled)
    }
    async fn report(&self, _: Value) -> Result<u64, TwinError> {
        Err(TwinError::Throttled)
    }
    async fn subscribe(&self, _: Subs) -> Result<(), NotKept> {
        Ok(())
    }
    async fn completed(&self, _: u64) {}
    async fn answered(&self, _: &str, _: i32, _: Bytes) {}
    async fn closed(&self, _: Option<Telemetered>) {}
}

struct Port {
    listener: Listener,
    hellos: mpsc::UnboundedReceiver<Hello>,
}

async fn port(transport: Transport, limits: Limits) -> Port {
    let (sender, hellos) = mpsc::unbounded_channel();
    let serve = Arc::new(Mqtt::new(Arc::new(OpenHub(sender)), Moment::default));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Port { listener: Listener::spawn(tcp, transport, serve, limits).unwrap(), hellos }
}

impl Port {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.listener.address()).await.unwrap()
    }

    async fn hello(&mut self) -> Hello {
        self.hellos.recv().await.unwrap()
    }
}

async fn expect<S: Link>(stream: &mut S, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read, expected);
}

/// Connects, and sends a message.
async fn talk<S: Link>(stream: &mut S) {
    stream.write_all(CONNECT).await.unwrap();
    expect(stream, CONNACK).await;
    stream.write_all(MESSAGE).await.unwrap();
    expect(stream, PUBACK).await;
}

async fn is_over<S: Link>(stream: &mut S) -> bool {
    matches!(stream.read(&mut [0]).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn plain_connections_are_served_and_end_with_the_port() {
    let mut port = port(Transport::Plain, Limits::default()).await;
    let (mut first, mut second) = (port.connect().await, port.connect().await);
    talk(&mut first).await;
    talk(&mut second).await;
    let hello = port.hello().await;
    assert_eq!((hello.host.as_str(), hello.certificates.len()), ("", 0));
    assert_eq!(hello.peer, first.local_addr().unwrap());
    let address = port.listener.address();
    // One says nothing, one has something half sent: neither is waited for.
    let _silent = port.connect().await;
    first.write_all(&MESSAGE[..9]).await.unwrap();
    let ended = tokio::spawn(port.listener.stop(Duration::from_secs(600)));
    assert!(is_over(&mut first).await && is_over(&mut second).await);
    drop((first, second));
    ended.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_port_that_is_dropped_ends_its_connections() {
    let mut port = port(Transport::Plain, Limits::default()).await;
    let mut stream = port.connect().await;
    talk(&mut stream).await;
    port.hello().await;
    drop(port);
    assert!(is_over(&mut stream).await);
}

#[tokio::test]
async fn those_who_do_not_say_who_they_are_keep_their_place() {
    let mut port = port(Transport::Plain, Limits { half_open: 1 }).await;
    let mut first = port.connect().await;
    first.write_all(&CONNECT[..5]).await.unwrap();
    let mut second = port.connect().await;
    second.write_all(CONNECT).await.unwrap();
    first.write_all(&CONNECT[5..]).await.unwrap();
    assert_eq!(port.hello().await.peer, first.local_addr().unwrap());
    assert_eq!(port.hello().await.peer, second.local_addr().unwrap());
}

/// A certificate for `name` and its key.
struct Identity(CertifiedKey<rcgen::KeyPair>);

impl Identity {
    fn of(name: &str) -> Self {
        Self(generate_simple_self_signed([name.to_owned()]).unwrap())
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.0.cert.der().clone()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.0.signing_key.serialize_der()).unwrap()
    }
}

fn connector(
    server: &Identity,
    version: &'static SupportedProtocolVersion,
    own: Option<&Identity>,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(server.chain().remove(0)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let config = config.with_root_certificates(roots);
    let config = match own {
        Some(own) => config.with_client_auth_cert(own.chain(), own.key()).unwrap(),
        None => config.with_no_client_auth(),
    };
    Arc::new(config).into()
}

async fn secured(port: &Port, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("hub.test").unwrap();
    connector.connect(name, port.connect().await).await.unwrap()
}

#[tokio::test]
async fn both_versions_of_tls_with_and_without_a_certificate_and_again() {
    let server = Identity::of("hub.test");
    let device = Identity::of("pump");
    let config = server_config(server.chain(), server.key()).unwrap();
    let mut port = port(Transport::Tls(config), Limits::default()).await;
    for version in [&TLS12, &TLS13] {
        for own in [None, Some(&device)] {
            let connector = connector(&server, version, own);
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let mut stream = secured(&port, &connector).await;
                talk(&mut stream).await;
                assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{version:?}");
                let hello = port.hello().await;
                assert_eq!(hello.host, "hub.test");
                assert_eq!(hello.certificates, own.map(Identity::chain).unwrap_or_default());
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_tls_is_closed() {
    let server = Identity::of("hub.test");
    let config = server_config(server.chain(), server.key()).unwrap();
    let port = port(Transport::Tls(config), Limits::default()).await;
    let mut stream = port.connect().await;
    stream.write_all(CONNECT).await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(CONNACK));
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_is_refused() {
    let error = server_config(Identity::of("a").chain(), Identity::of("b").key()).unwrap_err();
    assert!(
        error.to_string().starts_with("devices cannot be served with this certificate and key"),
        "{error}"
    );
}

const UPGRADE: &str = "GET /$iothub/websocket HTTP/1.1\r\nHost: hub.test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: mqtt\r\n\r\n";

/// A binary frame of a client, with a mask that changes nothing.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame =
        BytesMut::from(&[0x80 | kind, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0][..]);
    frame.extend_from_slice(payload);
    frame.to_vec()
}

async fn answered<S: Link>(stream: &mut S) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

async fn talk_in_frames<S: Link>(stream: &mut S) {
    // The first packet comes with the request already, in two frames, with a ping between them.
    let connect = [frame(2, &CONNECT[..9]), frame(9, b"there?"), frame(2, &CONNECT[9..])].concat();
    stream.write_all(&[UPGRADE.as_bytes(), &connect].concat()).await.unwrap();
    let answer = answered(stream).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    expect(stream, b"\x8A\x06there?").await;
    expect(stream, &[&b"\x82\x04"[..], CONNACK].concat()).await;
    stream.write_all(&frame(2, &[MESSAGE, b"\xC0\x00"].concat())).await.unwrap();
    // In one frame or in two, as the answers come about.
    let mut carried = Vec::new();
    while carried.len() < PUBACK.len() + 2 {
        let [kind, len] = stream.read_u16().await.unwrap().to_be_bytes();
        assert_eq!(kind, 0x82);
        let mut payload = vec![0; usize::from(len)];
        stream.read_exact(&mut payload).await.unwrap();
        carried.extend(payload);
    }
    assert!(carried == [PUBACK, b"\xD0\x00"].concat() || carried == [b"\xD0\x00", PUBACK].concat());
}

#[tokio::test]
async fn mqtt_in_websocket_plain_and_secured() {
    let server = Identity::of("hub.test");
    let config = server_config(server.chain(), server.key()).unwrap();
    let mut plain = port(Transport::WebSocket(None), Limits::default()).await;
    let mut stream = plain.connect().await;
    talk_in_frames(&mut stream).await;
    assert_eq!(plain.hello().await.peer, stream.local_addr().unwrap());
    let ended = tokio::spawn(plain.listener.stop(Duration::from_secs(600)));
    expect(&mut stream, b"\x88\x00").await;
    drop(stream);
    ended.await.unwrap();

    let mut port = port(Transport::WebSocket(Some(config)), Limits::default()).await;
    let mut stream = secured(&port, &connector(&server, &TLS12, Some(&server))).await;
    talk_in_frames(&mut stream).await;
    let hello = port.hello().await;
    assert_eq!((hello.host.as_str(), hello.certificates), ("hub.test", server.chain()));
}

#[tokio::test]
async fn other_requests_and_broken_frames_are_refused() {
    let port = port(Transport::WebSocket(None), Limits::default()).await;
    let mut stream = port.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hub.test\r\n\r\n").await.unwrap();
    assert!(answered(&mut stream).await.starts_with("HTTP/1.1 404"));
    let mut stream = port.connect().await;
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    answered(&mut stream).await;
    stream.write_all(b"\x82\x05naked").await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty() || rest == b"\x88\x00", "{rest:?}");
}
