//! Troubles that meet: whatever comes together, two regions never acknowledge at the same time.

use serde_json::json;

use crate::cluster_net::{ITEM, Net, until, when_writable};
use crate::cluster_partition::{LONGER_THAN_W, self_fencing};
use crate::cluster_writer::assert_disjoint;

#[tokio::test(flavor = "multi_thread")]
async fn a_control_node_that_dies_while_it_waits_for_a_silent_region_is_replaced_by_one_that_waits_too() {
    let (mut net, old, new) = self_fencing().await;
    net.lan().cut("paris");
    let (bergen, verb) = (net.api("bergen"), format!("items/{ITEM}/failover"));
    let job = when_writable(async || bergen.post(&verb, &json!({})).await).await.unwrap();
    let path = format!("jobs/{}", job["id"].as_str().unwrap());
    let waits = async || {
        let job = bergen.get(&path).await.ok()?;
        assert_eq!(job["ended"], false, "{job}");
        (job["step"] == "fence" || job["step"] == "wait").then_some(())
    };
    until("a control node that waits", waits).await;
    net.kill_node("bergen");
    let oslo = net.api("oslo");
    let ended = async || oslo.get(&path).await.ok().filter(|job| job["ended"] == true);
    let job = until("the end of the failover", ended).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    new.is_served().await;
    net.lan().heal();
    net.item_until("oslo", "a fenced paris", |item| Net::role(item, "paris") == "fenced").await;
    new.is_served().await;
    assert_disjoint(&old, &new);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_regions_that_lost_each_other_but_not_the_third_never_both_serve() {
    let (net, old, new) = self_fencing().await;
    net.lan().cut_between("paris", "oslo");
    // Its right goes on: a majority hears it.
    tokio::time::sleep(LONGER_THAN_W).await;
    old.is_served().await;
    net.api("oslo").verb(ITEM, "failover", json!({})).await.unwrap();
    new.is_served().await;
    net.item_until("bergen", "a fenced paris", |item| Net::role(item, "paris") == "fenced").await;
    assert_disjoint(&old, &new);
    net.lan().heal();
    new.is_served().await;
    assert_disjoint(&old, &new);
}
