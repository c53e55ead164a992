//! Sharing requests out, and instances that fail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::doubles::{HOST, Instance, PATIENCE, Rig, dying, here, nowhere, until};

#[tokio::test]
async fn equals_take_turns() {
    let (one, two) = (Instance::start("one").await, Instance::start("two").await);
    let rig = Rig::new(here(&[one.address, two.address])).await;
    let mut client = rig.client().await;
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        seen.insert(client.get("/").await.body);
    }
    assert_eq!(seen, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
}

#[tokio::test]
async fn an_instance_that_is_gone_is_passed_over() {
    let (gone, alive) = (nowhere().await, Instance::start("alive").await);
    let rig = Rig::new(here(&[gone, alive.address])).await;
    for _ in 0..4 {
        let post = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nhi");
        assert_eq!(rig.client().await.ask(&post).await.body, "hi");
    }
}

#[tokio::test]
async fn what_only_reads_is_tried_again_and_what_writes_is_not() {
    let ((breaks, count), alive) = (dying().await, Instance::start("alive").await);
    let rig = Rig::new(here(&[breaks, alive.address])).await;
    for _ in 0..4 {
        assert_eq!(rig.get("/").await.body, "alive");
    }
    assert!(count.load(Ordering::SeqCst) > 0);
    let rig = Rig::new(here(&[breaks])).await;
    let before = count.load(Ordering::SeqCst);
    let post = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nhi");
    rig.client().await.ask(&post).await.check_problem(502, &["todo", "may have done", "read before"]);
    assert_eq!(count.load(Ordering::SeqCst), before + 1);
    assert_eq!(rig.site.figures().errors, 1);
}

#[tokio::test]
async fn without_an_instance_the_client_comes_again() {
    let rig = Rig::new(here(&[])).await;
    let answer = rig.get("/").await;
    answer.check_problem(503, &["todo", "none has started yet", "try again"]);
    assert_eq!(answer.header("retry-after"), Some("1"));
    let rig = Rig::new(here(&[nowhere().await])).await;
    rig.get("/").await.check_problem(503, &["nothing was done", "try again"]);
    assert_eq!(rig.site.figures().errors, 1);
}

#[tokio::test]
async fn an_instance_that_restarts_between_two_requests_is_no_error() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let mut client = rig.client().await;
    // The instance closes this connection after its answer; the gateway does not use it again.
    for _ in 0..3 {
        assert_eq!(client.get("/hop-by-hop").await.status, 200);
        let post = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nhi");
        assert_eq!(client.ask(&post).await.body, "hi");
    }
    assert_eq!(rig.site.figures().errors, 0);
}

#[tokio::test]
async fn whoever_finds_the_instances_replaced_goes_to_the_new_ones() {
    let (gone, alive) = (nowhere().await, Instance::start("alive").await);
    let rig = Arc::new(Rig::new(here(&[gone])).await);
    let ended = Arc::new(AtomicBool::new(false));
    let replacing = tokio::spawn({
        let (rig, ended) = (Arc::clone(&rig), Arc::clone(&ended));
        async move {
            // The first request that fails found nobody else; from then on there is somebody.
            until("a request found nobody", || rig.site.figures().errors > 0).await;
            rig.site.set(alive.here());
            ended.store(true, Ordering::SeqCst);
            alive
        }
    });
    let mut client = rig.client().await;
    while !ended.load(Ordering::SeqCst) {
        assert!([200, 503].contains(&client.get("/").await.status));
    }
    let _alive = replacing.await.unwrap();
    for _ in 0..5 {
        assert_eq!(client.get("/").await.body, "alive");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_under_load_fails_no_request() {
    let rig = Arc::new(Rig::new(here(&[])).await);
    let mut before = Instance::start("one").await;
    rig.site.set(before.here());
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(load(Arc::clone(&rig), Arc::clone(&done)))).collect();
    for _ in 0..10 {
        let next = Instance::start("one").await;
        let seen = rig.site.figures().requests;
        until("clients are at work", || rig.site.figures().requests > seen + 20).await;
        rig.site.set(next.here());
        assert!(rig.site.drained(PATIENCE).await);
        // Nobody who saw it is left: it may end.
        before.end();
        before = next;
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(rig.site.figures().errors, 0);
}

async fn load(rig: Arc<Rig>, done: Arc<AtomicBool>) {
    let mut client = rig.client().await;
    while !done.load(Ordering::SeqCst) {
        let post = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nhi");
        assert_eq!(client.ask(&post).await.body, "hi");
    }
}
