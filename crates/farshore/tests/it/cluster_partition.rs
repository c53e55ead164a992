//! Regions that are cut off, frozen or out of time. What decides is what clients in the regions saw acknowledged, and when.

use std::time::Duration;

use farshore::demo::workload::History;
use serde_json::json;

use crate::cluster_net::{ITEM, Net, text, until, when_writable};
use crate::cluster_writer::{Witness, assert_disjoint, written};

/// Longer than a silent region is waited for: the timings of these clusters give W = 9.06 s.
pub(crate) const LONGER_THAN_W: Duration = Duration::from_secs(12);

/// Protects the item of most tests to oslo.
pub(crate) async fn protected(net: &Net, on_control_loss: &str) {
    net.create(on_control_loss).await;
    net.api("paris").verb(ITEM, "protect", json!({"target": "oslo"})).await.unwrap();
}

/// A self-fencing item with a client in paris, and one in oslo that waits to be served.
pub(crate) async fn self_fencing() -> (Net, Witness, Witness) {
    let net = Net::start().await;
    protected(&net, "fence").await;
    let uri = net.uris("paris").await[0].clone();
    let (old, new) = (net.witness("paris", &uri), net.witness("oslo", &uri));
    old.is_served().await;
    (net, old, new)
}

/// Fails over without anybody's word; on return oslo is active and serves.
async fn fail_over_without_a_word(net: &Net, new: &Witness) {
    let others = net.api_of(&["oslo", "bergen"]);
    when_writable(async || others.verb(ITEM, "failover", json!({})).await).await.unwrap();
    new.is_served().await;
    assert_eq!(net.item("oslo").await["source"], "oslo");
}

/// The old region says itself that it is fenced, and nothing more was acknowledged there.
async fn the_old_region_stays_fenced(net: &Net, old: &Witness, new: &Witness) {
    net.item_until("bergen", "a fenced paris", |item| Net::role(item, "paris") == "fenced").await;
    new.is_served().await;
    assert_disjoint(old, new);
    the_audit_verifies(net, "bergen");
}

pub(crate) fn the_audit_verifies(net: &Net, region: &str) {
    let verified = net.farshore(region, "audit verify");
    assert!(verified.status.success(), "{}", text(&verified));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_region_that_is_cut_off_stops_by_itself_and_another_takes_over_without_a_word() {
    let (net, old, new) = self_fencing().await;
    net.lan().cut("paris");
    fail_over_without_a_word(&net, &new).await;
    assert_disjoint(&old, &new);
    net.lan().heal();
    the_old_region_stays_fenced(&net, &old, &new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_region_that_nobody_hears_stops_by_itself() {
    let (net, old, new) = self_fencing().await;
    net.lan().cut_one_way("paris", "oslo");
    net.lan().cut_one_way("paris", "bergen");
    fail_over_without_a_word(&net, &new).await;
    net.lan().heal();
    the_old_region_stays_fenced(&net, &old, &new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_region_that_hears_nobody_stops_by_itself() {
    let (net, old, new) = self_fencing().await;
    net.lan().cut_one_way("oslo", "paris");
    net.lan().cut_one_way("bergen", "paris");
    fail_over_without_a_word(&net, &new).await;
    net.lan().heal();
    the_old_region_stays_fenced(&net, &old, &new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_frozen_for_longer_than_the_wait_acknowledges_nothing_when_it_thaws() {
    let (net, old, new) = self_fencing().await;
    net.stop("paris");
    fail_over_without_a_word(&net, &new).await;
    // Also long enough for its own right to have ended by its own clock.
    tokio::time::sleep(LONGER_THAN_W).await;
    net.cont("paris");
    the_old_region_stays_fenced(&net, &old, &new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_by_days_change_nothing() {
    let mut net = Net::start().await;
    net.kill_node("paris");
    net.start_node_later("paris", 400_000).await;
    protected(&net, "fence").await;
    let uri = net.uris("paris").await[0].clone();
    let (old, new) = (net.witness("paris", &uri), net.witness("oslo", &uri));
    old.is_served().await;
    // Its right is renewed on and on.
    tokio::time::sleep(LONGER_THAN_W).await;
    old.is_served().await;
    net.lan().cut("paris");
    fail_over_without_a_word(&net, &new).await;
    net.lan().heal();
    the_old_region_stays_fenced(&net, &old, &new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_goes_on_without_the_control_plane_is_failed_over_only_with_somebodys_word() {
    let net = Net::start().await;
    protected(&net, "hold").await;
    let uris = net.uris("paris").await;
    let writer = net.writer("paris", &uris, History::default());
    written(&writer, 100).await;
    net.lan().cut("paris");
    let others = net.api_of(&["oslo", "bergen"]);
    let refused = when_writable(async || others.verb(ITEM, "failover", json!({})).await).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("409") && refused.contains("--source-is-down"), "{refused}");
    written(&writer, 100).await;
    others.verb(ITEM, "failover", json!({"source_is_down": true})).await.unwrap();
    assert_eq!(net.item("bergen").await["source"], "oslo");
    // It knows nothing of that yet.
    written(&writer, 100).await;
    writer.be_mortal();
    net.lan().heal();
    let history = tokio::task::spawn_blocking(move || writer.wait()).await.unwrap();
    let known = |item: &serde_json::Value| {
        Net::role(item, "paris") == "fenced" && !item["failover"]["rpo"]["final"].is_null()
    };
    let item = net.item_until("oslo", "the exact loss", known).await;
    let kept = net.check("oslo", &uris, &history);
    assert!(kept.is_prefix, "{kept:?}");
    let (lost, ..) = history.lost_after(kept.kept);
    let reported = item["failover"]["rpo"]["final"]["writes"].as_u64().unwrap();
    let asked = (history.records.len() - kept.kept) as u64;
    assert!(lost >= 100 && (lost..=asked).contains(&reported), "{reported} reported, {lost}..={asked} lost");
    assert!(!item["divergence"].is_null(), "its divergent writes are kept: {item}");
    the_audit_verifies(&net, "paris");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_halves_the_larger_works_and_the_smaller_only_tells_what_it_knew() {
    let net = Net::start().await;
    protected(&net, "hold").await;
    let uris = net.uris("paris").await;
    let writer = net.writer("paris", &uris, History::default());
    written(&writer, 50).await;
    let before = net.item("paris").await;
    net.lan().cut("paris");
    let (alone, most) = (net.api("paris"), net.api_of(&["oslo", "bergen"]));
    let refused = until("a refusal", async || {
        let error = alone.post(&format!("items/{ITEM}/disable"), &json!({})).await.err()?.to_string();
        error.contains("503").then_some(error)
    });
    println!("{}", refused.await);
    let known = alone.get(&format!("items/{ITEM}")).await.unwrap();
    assert_eq!((&known["epoch"], &known["source"]), (&before["epoch"], &before["source"]));
    let name = alone.get("directory/web-1.machine").await.unwrap();
    assert_eq!(name["region"], "paris", "{name}");
    let status = alone.get("status").await.unwrap();
    assert!(status["control"]["read_only_since"].is_string(), "{}", status["control"]);
    let body = json!({"kind": "machine", "name": "web-2", "region": "bergen",
        "spec": {"disks": [{"name": "root", "size_bytes": 65536}]}});
    when_writable(async || most.carry_out("items", &body).await).await.unwrap();
    assert!(alone.get("items/machine/web-2").await.is_err(), "the smaller half cannot know of it");
    net.lan().heal();
    until("what happened meanwhile", async || alone.get("items/machine/web-2").await.ok()).await;
    // A planned failover across the healed cut loses nothing.
    when_writable(async || alone.verb(ITEM, "failover", json!({"planned": true})).await).await.unwrap();
    writer.be_mortal();
    let history = tokio::task::spawn_blocking(move || writer.wait()).await.unwrap();
    let verdict = net.check("oslo", &uris, &history);
    assert!(verdict.is_prefix && verdict.kept >= history.acknowledged(), "{verdict:?}");
    assert_eq!(net.item("paris").await["source"], "oslo");
    the_audit_verifies(&net, "paris");
}
