//! A region is emptied by hand while messages are sent: official clients leave in the pace that was asked for, with their sessions.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::realtime_rig::Rig;
use crate::realtime_sdk_failover::application;

const PER_SECOND: u32 = 10;
const EACH: u64 = 10;
/// Nothing here takes as long: only a hang does. A client that misses the close of its connection finds out by a ping, every 20 s.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_found_shelter_are_drained_and_lose_nothing() {
    let mut rig = Rig::start("active-active").await;
    let clients = [("paris", "region"), ("paris", "pair")];
    let mut chat = application(&rig, "failover.js", clients, json!({"each": EACH})).await;
    chat.publishes(100).await;
    rig.clients_are([2 * EACH, 0]).await;
    rig.cluster.kill("paris").await.unwrap();
    rig.away().await;
    chat.publishes(100).await;
    rig.cluster.start_region("paris").await.unwrap();
    rig.at_home().await;
    rig.clients_are([0, 2 * EACH]).await;

    let began = Instant::now();
    let said = rig.farshore(&format!("drain chat --region oslo --per-second {PER_SECOND}")).await;
    assert_eq!(said, format!("{} connections in oslo are being closed, {PER_SECOND} a second", 2 * EACH));
    rig.clients_are([2 * EACH, 0]).await;
    let least = Duration::from_secs(2 * EACH - 1) / PER_SECOND;
    assert!(began.elapsed() >= least, "all were closed in {:?}, faster than asked for", began.elapsed());

    chat.publishes(100).await;
    chat.go_on().await;
    let said = chat.ends_well(2).await;
    let figures = said.last().unwrap();
    println!("{figures}");
    assert_eq!(figures["began_anew"], 0, "sessions went with their clients: {figures}");
}

/// In a busy group nobody has ever acknowledged everything.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_always_owed_something_are_drained_too() {
    let rig = Rig::start("active-active").await;
    let clients = [("oslo", "region"), ("oslo", "region")];
    let mut chat = application(&rig, "failover.js", clients, json!({"each": EACH})).await;
    chat.publishes(100).await;
    rig.clients_are([0, 2 * EACH]).await;
    rig.farshore(&format!("drain chat --region oslo --per-second {PER_SECOND}")).await;
    let end = Instant::now() + PATIENCE;
    while rig.figures("opened").await[1] < Some(4 * EACH) {
        assert!(Instant::now() < end, "not all were closed in {PATIENCE:?}");
        chat.publishes(20).await;
    }
    rig.clients_are([0, 2 * EACH]).await;
}
