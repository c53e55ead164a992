//! Regions that are lost as a whole, and a store that is lost everywhere.

use farshore::demo::workload::History;
use serde_json::json;

use crate::cluster_lan::REGIONS;
use crate::cluster_net::{ITEM, Net, when_writable};
use crate::cluster_partition::{LONGER_THAN_W, protected, self_fencing, the_audit_verifies};
use crate::cluster_writer::{assert_disjoint, written};

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_killed_with_its_member_and_control_node_is_failed_over_by_itself() {
    let mut net = Net::start().await;
    let disks = json!([{"name": "root", "size_bytes": 4_000_512}, {"name": "data", "size_bytes": 65536}]);
    let body = json!({"kind": "machine", "name": "web-1", "region": "paris", "spec": {"disks": disks},
        "on_control_loss": "fence", "automatic_failover": true});
    net.api("oslo").carry_out("items", &body).await.unwrap();
    net.api("oslo").verb(ITEM, "protect", json!({"target": "oslo"})).await.unwrap();
    let uri = net.uris("oslo").await[0].clone();
    let (old, new) = (net.witness("paris", &uri), net.witness("oslo", &uri));
    old.is_served().await;
    net.kill("paris");
    net.item_until("bergen", "oslo as the active region", |item| item["source"] == "oslo").await;
    new.is_served().await;
    net.start_region("paris").await;
    net.item_until("paris", "a fenced paris", |item| Net::role(item, "paris") == "fenced").await;
    new.is_served().await;
    assert_disjoint(&old, &new);
    assert_eq!(net.item("oslo").await["operators_words"], json!([]), "nobody gave a word");
    the_audit_verifies(&net, "paris");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_for_a_while_demotes_nobody() {
    let mut net = Net::start().await;
    protected(&net, "hold").await;
    let before = net.item("paris").await;
    let uris = net.uris("paris").await;
    let writer = net.writer("paris", &uris, History::default());
    written(&writer, 50).await;
    for region in REGIONS {
        net.kill_etcd(region);
    }
    tokio::time::sleep(LONGER_THAN_W).await;
    written(&writer, 50).await;
    for region in REGIONS {
        net.start_region(region).await;
    }
    // It works again as soon as a leader is elected, and what was asked before the outage is still so.
    let oslo = net.api("oslo");
    when_writable(async || oslo.verb(ITEM, "test-failover", json!({})).await).await.unwrap();
    oslo.verb(ITEM, "cleanup", json!({})).await.unwrap();
    let after = net.item("oslo").await;
    assert_eq!((&after["source"], &after["epoch"]), (&before["source"], &before["epoch"]), "{after}");
    let gap = writer.longest_interruption();
    let history = tokio::task::spawn_blocking(move || writer.stop()).await.unwrap();
    let verdict = net.check("paris", &uris, &history);
    assert!(verdict.is_prefix && verdict.kept == history.records.len(), "{verdict:?} after a gap of {gap:?}");
    the_audit_verifies(&net, "bergen");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_stopped_by_itself_is_served_again_when_the_store_is_back() {
    let (mut net, old, new) = self_fencing().await;
    for region in REGIONS {
        net.kill_etcd(region);
    }
    tokio::time::sleep(LONGER_THAN_W).await;
    let stopped = old.acknowledged().len();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(old.acknowledged().len(), stopped, "without a store nothing is acknowledged");
    for region in REGIONS {
        net.start_region(region).await;
    }
    old.is_served().await;
    assert!(new.acknowledged().is_empty(), "nobody failed over");
    assert_eq!(net.item("oslo").await["source"], "paris");
}
