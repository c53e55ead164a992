//! Services and devices on one port.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::fixture::Fixture;
use crate::mqtt::listener::{Arrived, Limits, Listener, Origin, Serve, Stop, Transport};
use crate::rest::Service;

/// Tells who came in.
#[derive(Debug)]
struct Guests(mpsc::UnboundedSender<Origin>);

impl Serve for Guests {
    fn serve(&self, arrived: Arrived, _stop: Stop) -> BoxFuture<'static, ()> {
        let _ = self.0.send(arrived.origin);
        Box::pin(async {})
    }
}

/// The first line of the answer to a request.
async fn asked(service: Service, request: &str) -> String {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection_with_upgrades(TokioIo::new(server), service).await;
    });
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') {
        assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0);
    }
    String::from_utf8(answer).unwrap().lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn devices_by_websocket_and_services_share_a_port() {
    let hub = Fixture::new().await;
    let (guests, mut came) = mpsc::unbounded_channel();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener =
        Listener::spawn(socket, Transport::Plain, Arc::new(Guests(guests)), Limits::default()).unwrap();
    let origin = Origin { peer: listener.address(), server_name: None, certificates: Vec::new() };
    let alone = Service::new(Arc::new(Arc::clone(&hub.hub)));
    let service = alone.with_devices(listener.door(), origin);

    let device = "GET /$iothub/websocket HTTP/1.1\r\nhost: contoso.hub\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: mqtt\r\n\r\n";
    assert_eq!(asked(service.clone(), device).await, "HTTP/1.1 101 Switching Protocols");
    let guest = tokio::time::timeout(Duration::from_secs(30), came.recv()).await.unwrap().unwrap();
    assert_eq!(guest.peer, listener.address());
    let list = "GET /devices HTTP/1.1\r\nhost: contoso.hub\r\n\r\n";
    assert_eq!(asked(service, list).await, "HTTP/1.1 401 Unauthorized");
    assert_eq!(asked(alone, device).await, "HTTP/1.1 401 Unauthorized", "no devices are let in here");
    listener.stop(Duration::from_secs(1)).await;
}
