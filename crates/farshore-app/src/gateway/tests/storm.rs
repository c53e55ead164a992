//! Many clients at once, some of whom hang up in the middle: every answer is the one to its request.

use std::sync::Arc;

use rand_steps::Steps;
use tokio::io::AsyncReadExt as _;

use super::doubles::{Client, HOST, Instance, Rig, here, until};

const CLIENTS: u64 = 24;
const REQUESTS: u64 = 40;

/// Numbers that look random and are the same in each run.
mod rand_steps {
    pub(super) struct Steps(pub(super) u64);

    impl Steps {
        pub(super) fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }
}

async fn client(rig: Arc<Rig>, number: u64) {
    let mut steps = Steps(number);
    let mut client = rig.client().await;
    for request in 0..REQUESTS {
        let length = [0, 1, 100, 20_000, 200_000][usize::try_from(steps.below(5)).unwrap()];
        let body = format!("{number}.{request};").repeat(1 + length / 6);
        let head = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", body.len());
        match steps.below(8) {
            // Hangs up in the middle of what it sends, or of what it gets.
            0 => {
                client.send(&head).await;
                client.send(&body[..body.len() / 2]).await;
                client = rig.client().await;
            }
            1 => {
                client.send(&format!("GET /{number} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
                client.stream.read_exact(&mut [0; 5]).await.unwrap();
                client = rig.client().await;
            }
            2 => assert_eq!(client.get("/").await.body, "one"),
            _ => exchange(&mut client, &head, &body).await,
        }
    }
}

async fn exchange(client: &mut Client, head: &str, body: &str) {
    client.send(head).await;
    client.send(body).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200);
    // The echo knows the length, or sends in pieces.
    let whole = match answer.header("content-length") {
        Some(_) => answer.body.clone(),
        None => without_chunks(&answer.body),
    };
    assert!(whole == body, "{} of {} bytes", whole.len(), body.len());
}

fn without_chunks(mut text: &str) -> String {
    let mut whole = String::new();
    loop {
        let (length, rest) = text.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.push_str(&rest[..length]);
        text = &rest[length + 2..];
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_the_one_to_its_request() {
    let (one, also) = (Instance::start("one").await, Instance::start("one").await);
    let rig = Arc::new(Rig::new(here(&[one.address, also.address])).await);
    let clients = (0..CLIENTS).map(|number| tokio::spawn(client(Arc::clone(&rig), number)));
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    until("nothing is under way", || rig.site.figures().under_way == 0).await;
    let connections = one.connections.load(std::sync::atomic::Ordering::SeqCst);
    assert!(connections < 400, "{connections}: connections are used again");
}
