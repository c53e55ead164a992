//! An answer goes on only when what it says is safe.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::SiteState;
use super::doubles::{HOST, Instance, PassDouble, Rig};

async fn rig(instance: &Instance, free: bool, answer: Result<(), &'static str>) -> (Rig, Arc<PassDouble>) {
    let pass = Arc::new(PassDouble { free, answer, asked: AtomicUsize::new(0) });
    let state = SiteState::Here { instances: [instance.address].into(), pass: Some(pass.clone()) };
    (Rig::new(state).await, pass)
}

#[tokio::test]
async fn an_answer_is_held_until_it_is_safe() {
    let instance = Instance::start("one").await;
    let (rig, pass) = rig(&instance, false, Ok(())).await;
    let post = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(rig.client().await.ask(&post).await.body, "hi");
    assert_eq!(pass.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_safe_already_is_not_waited_for() {
    let instance = Instance::start("one").await;
    let (rig, pass) = rig(&instance, true, Err("never asked")).await;
    assert_eq!(rig.get("/").await.body, "one");
    assert_eq!(pass.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_that_is_not_safe_is_not_given() {
    let instance = Instance::start("one").await;
    let (rig, _) = rig(&instance, false, Err("region oslo does not confirm")).await;
    let post = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nhi");
    let answer = rig.client().await.ask(&post).await;
    answer.check_problem(503, &["region oslo does not confirm", "may have been done", "not safe yet"]);
    assert_eq!(answer.header("retry-after"), Some("1"));
    let upgrade =
        format!("GET /upgrade HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    assert_eq!(rig.client().await.ask(&upgrade).await.status, 503);
    assert_eq!(rig.site.figures().tunnels, 0);
}
