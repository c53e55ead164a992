//! A region with thousands of clients of the official SDK dies and comes back: all of them knock at once, twice.

use serde_json::json;

use crate::realtime_rig::Rig;
use crate::realtime_sdk_failover::{application, paris_is_lost_and_back};

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_five_thousand_clients_loses_nothing() {
    let rig = Rig::start("active-passive").await;
    let clients = [("paris", "pair"), ("paris", "region")];
    let storm = application(&rig, "failover.js", clients, json!({"each": 2_500, "pace_ms": 1_000})).await;
    paris_is_lost_and_back(rig, storm, [5_000, 0], [5_000, 0], 5).await;
}
