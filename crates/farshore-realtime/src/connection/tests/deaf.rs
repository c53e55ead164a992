//! Clients that are there and take nothing.

use tokio::io::{DuplexStream, duplex};

use super::super::{Newcomer, Socket, begin};
use super::*;
use crate::connection::client::SimpleMode;
use crate::frames::{Data, Message, Protocol, Sender};
use crate::hub::Arrival;
use crate::hub::call::{Call, Scope};
use crate::names::ConnectionId;
use crate::permission::Permissions;
use crate::ws::close_frame;

/// An empty ping, masked.
const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];

/// A client's end of a connection that holds little.
fn client(hub: &Arc<LiveHub>) -> DuplexStream {
    let (near, far) = duplex(1024);
    let arrival = Arrival {
        connection: ConnectionId::parse("deaf").unwrap(),
        user: None,
        protocol: Protocol::Json,
        permissions: Permissions::default(),
        groups: Vec::new(),
        state: None,
    };
    let newcomer = Newcomer { arrival, subprotocol: None, simple: SimpleMode::SendEvent, handled: false };
    begin(Arc::clone(hub), newcomer, true, Socket { socket: near, read: bytes::Bytes::new(), place: None });
    far
}

async fn send(hub: &Arc<LiveHub>, bytes: usize) {
    let message = Arc::new(Message::new(Sender::Server, Data::text(&"x".repeat(bytes))));
    hub.ask(Call::Send { to: Scope::All, message, exclude: Vec::new(), filter: None }).await.unwrap();
}

/// It says that it lives, and reads nothing, until it is cut off.
async fn is_cut_off(mut client: DuplexStream) {
    let cut = async {
        while client.write_all(&PING).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, cut).await.expect("its connection is held for ever");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_cut_off_when_it_is_closed() {
    let hub = hub(Vec::new());
    let client = client(&hub);
    send(&hub, 10_000).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    hub.ask(Call::Close { who: Scope::All, exclude: Vec::new(), reason: "enough".to_owned() }).await.unwrap();
    assert_eq!(hub.counts().sessions, 0);
    is_cut_off(client).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_cut_off_when_too_much_waits_for_it() {
    let hub = hub(Vec::new());
    let client = client(&hub);
    for _ in 0..18 {
        send(&hub, 1_000_000).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(hub.counts().sessions, 0, "closed as a slow one");
    is_cut_off(client).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_gets_all_that_was_sent_before_its_end() {
    let hub = hub(Vec::new());
    let mut client = client(&hub);
    send(&hub, 10_000).await;
    send(&hub, 10_000).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    hub.ask(Call::Close { who: Scope::All, exclude: Vec::new(), reason: "enough".to_owned() }).await.unwrap();
    let (mut read, mut piece) = (Vec::new(), [0; 1_000]);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match client.read(&mut piece).await.unwrap() {
            0 => break,
            count => read.extend_from_slice(&piece[..count]),
        }
    }
    assert!(read.len() > 20_000, "it was cut off after {} bytes", read.len());
    assert!(read.ends_with(&close_frame(1000, "enough")), "its close frame is missing");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_drips_is_cut_off_in_the_end() {
    let hub = hub(Vec::new());
    let mut client = client(&hub);
    send(&hub, 1_000_000).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    hub.ask(Call::Close { who: Scope::All, exclude: Vec::new(), reason: "enough".to_owned() }).await.unwrap();
    let drips = async {
        while client.read_u8().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    // What was in its buffers already takes it a while.
    let cut = tokio::time::timeout(Duration::from_secs(2_000), drips).await;
    cut.expect("it is held for ever");
}
