//! What is acknowledged is kept, and nothing is acknowledged by a hub that may not.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::fleet::InvokeError;
use crate::mqtt::behind::{Closing, NotKept, TwinError};

#[tokio::test]
async fn acknowledged_telemetry_is_there_after_a_restart() {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    let session = hub.connect("pump", &sas).await;
    within(session.telemetry(event("1"))).await.unwrap();
    drop(session);
    let Hub { fleet, dir } = hub;
    fleet.stop_acknowledging().await;
    drop(fleet);
    let again = Hub { fleet: reopened(&dir).await, dir };
    assert_eq!(again.stored(), ["1"]);
    again.fleet.open_to_devices(Epoch(2), Standing::Current);
    again.connect("pump", &sas).await;
}

/// Opens a directory that another hub of this process has just let go of.
async fn reopened(dir: &TempDir) -> Fleet {
    within(async {
        loop {
            match Fleet::open(options("oslo", dir)) {
                Ok(fleet) => return fleet,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_acknowledged_while_a_hub_is_fenced_is_in_its_log_and_the_log_is_final() {
    for round in 0..5 {
        let hub = open("oslo");
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let mut publishers = Vec::new();
        for number in 0..24 {
            let id = format!("pump-{number}");
            let sas = hub.register(&id).await;
            let session = hub.connect(&id, &sas).await;
            let acknowledged = Arc::clone(&acknowledged);
            publishers.push(tokio::spawn(async move {
                for count in 0.. {
                    let body = format!("{number}/{count}");
                    match session.telemetry(event(&body)).await {
                        Ok(()) => assert!(acknowledged.lock().unwrap().insert(body)),
                        Err(error) => return error,
                    }
                }
                unreachable!("a publisher ends when it is refused")
            }));
        }
        within(async {
            while acknowledged.lock().unwrap().len() < 100 * (round + 1) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        within(hub.fleet.stop_acknowledging()).await;
        let ends = hub.fleet.telemetry().ends();
        for publisher in publishers {
            assert_eq!(within(publisher).await.unwrap(), NotKept::Fenced);
        }
        assert_eq!(hub.fleet.telemetry().ends(), ends, "something was written after the fence");
        let stored: BTreeSet<String> = hub.stored().into_iter().collect();
        let acknowledged = acknowledged.lock().unwrap();
        assert!(acknowledged.is_subset(&stored), "acknowledged and lost");
    }
}

#[tokio::test]
async fn what_was_stored_and_not_yet_acknowledged_when_the_fence_came_is_never_acknowledged() {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    let session = hub.connect("pump", &sas).await;
    // Nobody asks for the answer meanwhile: the fence does not wait for that.
    let unasked = session.telemetry(event("late"));
    within(hub.fleet.stop_acknowledging()).await;
    assert_eq!(hub.stored(), ["late"], "it was stored: whoever pulls has it");
    assert_eq!(within(unasked).await, Err(NotKept::Fenced));
    assert_eq!(within(session.telemetry(event("after"))).await, Err(NotKept::Fenced));
    assert!(matches!(session.report(json!({ "a": 1 })).await, Err(TwinError::Unavailable(_))));
    assert!(matches!(session.twin().await, Err(TwinError::Unavailable(_))));
    assert_eq!(session.subscribe(ALL).await, Err(NotKept::Fenced));
    assert!(is_quiet(&session).await, "connections stay until they are evacuated");
    hub.fleet.fence().await;
    assert_eq!(next(&session).await, Outgoing::Close(Closing::Leaving));
    hub.fleet.open_to_devices(Epoch(3), Standing::Current);
    assert_eq!(within(session.telemetry(event("zombie"))).await, Err(NotKept::Fenced));
    assert_eq!(hub.stored(), ["late"]);
}

#[tokio::test]
async fn a_hub_whose_lease_has_ended_acknowledges_nothing_though_nobody_told_it() {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    let session = hub.connect("pump", &sas).await;
    let holds = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&holds);
    hub.fleet.acknowledge_while(Some(Arc::new(move || asked.load(Ordering::SeqCst))));
    within(session.telemetry(event("1"))).await.unwrap();
    let late = session.telemetry(event("2"));
    holds.store(false, Ordering::SeqCst);
    assert_eq!(within(late).await, Err(NotKept::Fenced));
    assert_eq!(within(session.telemetry(event("3"))).await, Err(NotKept::Fenced));
    assert!(!hub.fleet.is_serving());
    assert!(matches!(hub.admit(hello("pump", &sas)).await, Verdict::Unavailable));
    assert_eq!(hub.fleet.invoke(&key("pump"), call("start")).await, Err(InvokeError::NotServing));
}

#[tokio::test]
async fn evacuation_spares_those_who_came_since_the_hub_was_opened_again() {
    let hub = open("oslo");
    let sas = hub.register("old").await;
    let old = hub.connect("old", &sas).await;
    hub.fleet.stop_acknowledging().await;
    hub.fleet.open_to_devices(Epoch(3), Standing::Current);
    let sas = hub.register("new").await;
    let new = hub.connect("new", &sas).await;
    assert_eq!(next(&old).await, Outgoing::Close(Closing::Leaving));
    hub.fleet.evacuate(std::num::NonZeroU32::new(1000));
    hub.fleet.open_to_devices(Epoch(3), Standing::Behind);
    assert!(is_quiet(&new).await);
    within(new.telemetry(event("1"))).await.unwrap();
}

#[tokio::test]
async fn a_method_in_flight_fails_at_once_when_the_hub_is_fenced() {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    let session = hub.connect("pump", &sas).await;
    session.subscribe(ALL).await.unwrap();
    let fleet = hub.fleet.clone();
    let called = tokio::spawn(async move { fleet.invoke(&key("pump"), call("start")).await });
    assert!(matches!(next(&session).await, Outgoing::Method { .. }));
    let fleet = hub.fleet.clone();
    let waits = MethodCall { connect_timeout: PATIENCE * 2, ..call("start") };
    hub.register("away").await;
    let waits = tokio::spawn(async move { fleet.invoke(&key("away"), waits).await });
    hub.fleet.fence().await;
    assert_eq!(within(called).await.unwrap(), Err(InvokeError::NotServing));
    assert_eq!(within(waits).await.unwrap(), Err(InvokeError::NotServing));
}

#[tokio::test]
async fn telemetry_is_acknowledged_when_the_other_region_has_it_or_is_not_waited_for() {
    let hub = open("oslo");
    let sas = hub.register("pump").await;
    let session = hub.connect("pump", &sas).await;
    let has = tokio::sync::watch::Sender::new(Some(0));
    hub.fleet.acknowledge_after(Some(has.subscribe()));
    let mut first = tokio::spawn(session.telemetry(event("1")));
    let mut second = tokio::spawn(session.telemetry(event("2")));
    assert!(timeout(Duration::from_millis(50), &mut first).await.is_err(), "nobody else has it");
    has.send_replace(Some(1));
    within(first).await.unwrap().unwrap();
    assert!(timeout(Duration::from_millis(50), &mut second).await.is_err(), "nobody else has this one");
    has.send_replace(None);
    within(second).await.unwrap().unwrap();
    within(session.telemetry(event("3"))).await.unwrap();
    has.send_replace(Some(2));
    let late = tokio::spawn(session.telemetry(event("4")));
    tokio::task::yield_now().await;
    within(hub.fleet.stop_acknowledging()).await;
    assert_eq!(within(late).await.unwrap(), Err(NotKept::Fenced), "a fence waits for nobody");
    assert_eq!(hub.stored(), ["1", "2", "3", "4"]);
}
