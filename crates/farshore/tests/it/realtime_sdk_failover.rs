//! Applications of the official SDKs on a pair of regions, while regions die and come back: nothing that was acknowledged is
//! lost, nothing comes twice, and everybody is at home again at the end.

use serde_json::{Value, json};

use crate::realtime_rig::{Program, Rig};

/// An application with clients of the regions' endpoints, which publishes through the pair.
pub(crate) async fn application(
    rig: &Rig,
    program: &str,
    clients: [(&str, &str); 2],
    more: Value,
) -> Program {
    let mut given = rig.given("paris", "pair").await;
    let mut connections = Vec::new();
    for (region, endpoint) in clients {
        connections.push(rig.given(region, endpoint).await["connection"].take());
    }
    given["connections"] = connections.into();
    given["publish"] = given["connection"].clone();
    for (key, value) in more.as_object().unwrap() {
        given[key] = value.clone();
    }
    Program::start(program, &given)
}

/// Official clients try for half a minute to recover a session before they begin anew: whoever had to wait so long was not
/// recovered.
const STALL_MS: u64 = 25_000;

/// So many clients are in paris and in oslo.
pub(crate) type Clients = [u64; 2];

/// Paris dies while messages are sent, and comes back: where the clients are `before` that and `after` it.
pub(crate) async fn paris_is_lost_and_back(
    mut rig: Rig,
    mut program: Program,
    before: Clients,
    after: Clients,
    publishes: u64,
) {
    program.publishes(publishes).await;
    rig.clients_are(before).await;
    rig.cluster.kill("paris").await.unwrap();
    rig.away().await;
    program.publishes(2 * publishes).await;
    rig.cluster.start_region("paris").await.unwrap();
    rig.at_home().await;
    rig.clients_are(after).await;
    program.publishes(publishes).await;
    program.go_on().await;
    let said = program.ends_well(2).await;
    let figures = said.last().unwrap();
    println!("{figures}");
    assert!(figures["longest_silence_ms"].as_u64().unwrap() < STALL_MS, "{figures}");
    assert_eq!(figures["began_anew"], 0, "sessions were taken over: {figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_in_javascript_loses_its_region_and_goes_on() {
    let rig = Rig::start("active-passive").await;
    let clients = [("paris", "pair"), ("paris", "region")];
    let chat = application(&rig, "failover.js", clients, json!({"each": 10})).await;
    paris_is_lost_and_back(rig, chat, [20, 0], [20, 0], 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_in_python_loses_its_region_and_goes_on() {
    let rig = Rig::start("active-passive").await;
    let clients = [("paris", "pair"), ("paris", "region")];
    let chat = application(&rig, "failover.py", clients, json!({"each": 5})).await;
    paris_is_lost_and_back(rig, chat, [10, 0], [10, 0], 100).await;
}

/// Both regions serve, and one of them dies: whoever found shelter in the other stays there until an operator drains.
async fn both_serve_and_one_dies(program: &str, each: u64) {
    let rig = Rig::start("active-active").await;
    let clients = [("paris", "region"), ("oslo", "region")];
    let chat = application(&rig, program, clients, json!({"each": each})).await;
    paris_is_lost_and_back(rig, chat, [each, each], [0, 2 * each], 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn active_active_clients_in_javascript_go_on_when_their_region_dies() {
    both_serve_and_one_dies("failover.js", 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn active_active_clients_in_python_go_on_when_their_region_dies() {
    both_serve_and_one_dies("failover.py", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_cluster_with_tls_go_on_when_their_region_dies() {
    let rig = Rig::start_with_tls("active-passive").await;
    let clients = [("paris", "pair"), ("paris", "region")];
    let chat = application(&rig, "failover.js", clients, json!({"each": 10})).await;
    paris_is_lost_and_back(rig, chat, [20, 0], [20, 0], 100).await;
}
