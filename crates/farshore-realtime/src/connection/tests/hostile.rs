//! Bytes that no client would send, and clients that stop in the middle.

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tokio::net::TcpStream;

use super::*;
use crate::hub::call::{Call, Scope};

impl Node {
    pub(super) async fn tcp(&self) -> TcpStream {
        let address = self.url.trim_start_matches("http://").split('/').next().unwrap();
        TcpStream::connect(address).await.unwrap()
    }

    /// A client that was let in and speaks for itself from then on.
    async fn raw_client(&self, subprotocol: &str) -> TcpStream {
        let url = self.invitation("eve", &["g"]);
        let (_, path) = url.split_once("/client").unwrap();
        let mut stream = self.tcp().await;
        let request = format!(
            "GET /client{path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n",
            stream.peer_addr().unwrap()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream
    }

    async fn sessions_become(&self, count: usize) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while self.hub.counts().sessions != count {
            assert!(tokio::time::Instant::now() < until, "{:?}", self.hub.counts());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// It still has its group, and its messages come.
async fn is_well(witness: &mut Talk, number: u64) {
    let send = format!(
        r#"{{"type":"sendToGroup","group":"own","dataType":"text","data":"{number}","ackId":{number}}}"#
    );
    let heard = [witness.asks(&send).await, witness.hears().await].concat();
    let message = format!(r#""fromUserId":"witness","dataType":"text","data":"{number}""#);
    assert!(heard.contains(&message), "{heard}");
    assert!(heard.contains(&format!(r#""ackId":{number},"success":true"#)), "{heard}");
}

/// Frames that begin as they should, and bytes that never were a frame.
fn rubbish(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(1..400)];
    random.fill_bytes(&mut bytes);
    if random.random_range(0..4) > 0 {
        let opcode = [0x81, 0x82, 0x01, 0x00, 0x89, 0x88, 0x8A][random.random_range(0..7)];
        let length: &[u8] = match random.random_range(0..4) {
            0 => &[0xFE, 0x40, 0x00],
            1 => &[0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
            2 => &[0xFF, 0, 0, 0, 0, 0, 0x0F, 0xFF, 0xFF],
            _ => &[0x8A],
        };
        bytes.splice(0..0, [&[opcode], length].concat());
    }
    bytes
}

#[tokio::test]
async fn whatever_clients_send_and_wherever_they_stop_nobody_else_is_disturbed_and_nothing_is_left() {
    let node = Node::start(Vec::new()).await;
    let mut witness = node.client("witness", &["own"]).await;
    let protocols = [
        RELIABLE,
        "json.webpubsub.azure.v1",
        "protobuf.webpubsub.azure.v1",
        "protobuf.reliable.webpubsub.azure.v1",
        "none",
    ];
    let mut stopped = Vec::new();
    for seed in 0..150 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut eve = node.raw_client(protocols[random.random_range(0..protocols.len())]).await;
        for _ in 0..random.random_range(1..4) {
            // It may have been closed already.
            let _ = eve.write_all(&rubbish(&mut random)).await;
        }
        if random.random() {
            drop(eve)
        } else {
            stopped.push(eve)
        }
        is_well(&mut witness, 2 * seed + 1).await;
    }
    // Whoever stopped in the middle of a frame costs little, and goes with its connection or when it is told to.
    let who = Scope::Group(GroupName::parse("g").unwrap());
    node.hub.ask(Call::Close { who, exclude: Vec::new(), reason: "enough".to_owned() }).await.unwrap();
    node.sessions_become(1).await;
    is_well(&mut witness, 1_000).await;
}

#[tokio::test]
async fn whatever_is_no_request_is_answered_by_an_error_or_ended() {
    let node = Node::start(Vec::new()).await;
    let mut witness = node.client("witness", &["own"]).await;
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    let path = format!("GET /client/hubs/{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(100_000));
    let forged =
        format!("GET /client/hubs/chat?access_token={} HTTP/1.1\r\nHost: a\r\n\r\n", "a.".repeat(30_000));
    let requests: [&[u8]; 12] = [
        b"\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/hubs/chat/:send HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/hubs/chat/:send HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET /client/hubs/chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /negotiate HTTP/1.1\r\nHost: \xff\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
        path.as_bytes(),
        forged.as_bytes(),
    ];
    for (number, request) in (1..).zip(requests) {
        let mut stream = node.tcp().await;
        // It may be answered before it is whole.
        let _ = stream.write_all(request).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        let _ = read.unwrap_or_else(|_| panic!("request {number} is neither answered nor ended"));
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.starts_with("HTTP/1.1 4"), "request {number}: {text}");
        is_well(&mut witness, number).await;
    }
}
