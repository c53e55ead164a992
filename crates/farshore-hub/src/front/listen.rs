//! The sockets of a node's hubs: MQTT and provisioning on one, REST and WebSocket on another, AMQP on the third.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::moment::Moment;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Either};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::Fronts;
use crate::mqtt::connection::Mqtt;
use crate::mqtt::listener::{Door, Limits, Listener, Origin, Transport};
use crate::mqtt::websocket;
use crate::provision::{Front, Provisioning};
use crate::{amqp, rest};

/// For a TLS handshake, and for a request's head.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);
/// Connections of back ends at once, beside those of devices by WebSocket, which soon leave this count.
const REQUESTERS_MAX: usize = 10_000;
/// Connections of back ends by AMQP at once.
const SENDERS_MAX: usize = 1_000;
/// Connections get so long to end well.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Where a node listens for its hubs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Devices, by MQTT.
    pub mqtt: SocketAddr,
    /// Back ends, by REST; and devices, by WebSocket.
    pub https: SocketAddr,
    /// Back ends, by AMQP.
    pub amqp: SocketAddr,
}

/// An address that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for device hubs: {source}; set another address for {key} in [hubs]")]
pub struct ListenError {
    /// Which.
    pub address: SocketAddr,
    /// The configuration's key.
    pub key: &'static str,
    /// Why.
    pub source: std::io::Error,
}

/// Open sockets.
#[derive(Debug)]
pub struct Listeners {
    bound: Addresses,
    mqtt: Listener,
    others: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Listeners {
    /// Listens on behalf of these hubs. `tls` is what clients are shown.
    ///
    /// # Errors
    /// [`ListenError`]; then nothing is listened on.
    pub async fn open(
        addresses: Addresses,
        tls: Option<Arc<ServerConfig>>,
        fronts: Arc<Fronts>,
        clock: fn() -> Moment,
    ) -> Result<Self, ListenError> {
        let mqtt = bind(addresses.mqtt, "mqtt").await?;
        let https = bind(addresses.https, "https").await?;
        let amqps = bind(addresses.amqp, "amqp").await?;
        let at = |listener: &TcpListener, wished: SocketAddr| listener.local_addr().unwrap_or(wished);
        let bound = Addresses {
            mqtt: at(&mqtt, addresses.mqtt),
            https: at(&https, addresses.https),
            amqp: at(&amqps, addresses.amqp),
        };
        let devices = Arc::new(Mqtt::new(Arc::clone(&fronts) as Arc<_>, clock));
        let asking = Arc::new(Provisioning::new(Arc::clone(&fronts) as Arc<_>, clock));
        let front = Arc::new(Front::new(asking, devices));
        let transport = tls.clone().map_or(Transport::Plain, Transport::Tls);
        let mqtt = Listener::spawn(mqtt, transport, front, Limits::default())
            .map_err(|source| ListenError { address: addresses.mqtt, key: "mqtt", source })?;
        let (stop, stopped) = watch::channel(false);
        let mut others = JoinSet::new();
        let amqp_options = amqp::Options { tls: tls.clone(), connections_max: SENDERS_MAX, now: clock };
        others.spawn(amqp::serve(amqps, Arc::clone(&fronts) as Arc<_>, amqp_options, stopped.clone()));
        let requests = Requests { fronts, door: mqtt.door(), tls: tls.map(TlsAcceptor::from) };
        others.spawn(requests.serve(https, stopped));
        Ok(Self { bound, mqtt, others, stop })
    }

    /// Where.
    #[must_use]
    pub fn bound(&self) -> Addresses {
        self.bound
    }

    /// Ends all of them, with their connections.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        self.mqtt.stop(STOP_WITHIN).await;
        let ended = async { while self.others.join_next().await.is_some() {} };
        let _ = timeout(STOP_WITHIN, ended).await;
    }
}

async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, key, source })
}

/// What is done with requests.
#[derive(Clone)]
struct Requests {
    fronts: Arc<Fronts>,
    door: Door,
    tls: Option<TlsAcceptor>,
}

impl Requests {
    async fn serve(self, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(REQUESTERS_MAX));
        let mut guests = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = listener.accept() => accepted,
            };
            while guests.try_join_next().is_some() {}
            match accepted {
                Ok((socket, peer)) => {
                    let requests = self.clone();
                    guests.spawn(async move {
                        let _place = place;
                        requests.one(socket, peer).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the hubs cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn one(self, socket: TcpStream, peer: SocketAddr) {
        let _ = socket.set_nodelay(true);
        let mut origin = Origin { peer, server_name: None, certificates: Vec::new() };
        match &self.tls {
            None => self.answer(TokioIo::new(socket), origin).await,
            Some(tls) => {
                let Ok(Ok(stream)) = timeout(HANDSHAKE_WITHIN, tls.accept(socket)).await else { return };
                let (_, session) = stream.get_ref();
                origin.server_name = session.server_name().map(str::to_owned);
                let shown = session.peer_certificates().unwrap_or_default();
                origin.certificates = shown.iter().map(|one| one.clone().into_owned()).collect();
                self.answer(TokioIo::new(stream), origin).await;
            }
        }
    }

    async fn answer<I>(&self, io: I, origin: Origin)
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let service = service_fn(|request: Request<Incoming>| {
            let (fronts, door, origin) = (Arc::clone(&self.fronts), self.door.clone(), origin.clone());
            async move { Ok::<_, std::convert::Infallible>(respond(fronts, &door, origin, request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE_WITHIN)
            .serve_connection(io, service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the hubs ended");
        }
    }
}

type Body = Either<rest::Body, http_body_util::combinators::BoxBody<bytes::Bytes, std::convert::Infallible>>;

async fn respond(
    fronts: Arc<Fronts>,
    door: &Door,
    origin: Origin,
    request: Request<Incoming>,
) -> Response<Body> {
    if request.uri().path().eq_ignore_ascii_case(websocket::PATH) {
        return websocket::upgrade(request, origin, door).map(|body| Either::Right(body.boxed()));
    }
    rest::serve(&*fronts, request).await.map(Either::Left)
}
