//! What names say, at every control node, while ownership changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use farshore::demo::client::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cluster_lan::REGIONS;
use crate::cluster_net::{ITEM, Net, until, when_writable};
use crate::cluster_partition::protected;

const NAME: &str = "directory/web-1.machine";

/// What a control node said of the name: the epoch, and the region that it points at.
type Said = (u64, String);

/// Asks one control node again and again, for the item and then for its name, until told to stop.
async fn listen(api: Client, stop: Arc<AtomicBool>) -> Vec<Said> {
    let mut heard: Vec<Said> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let Ok(item) = api.get(&format!("items/{ITEM}")).await else { continue };
        let Ok(name) = api.get(NAME).await else { continue };
        let said = (name["epoch"].as_u64().unwrap(), name["region"].as_str().unwrap().to_owned());
        // Asked later, so it knows at least as much.
        if item["phase"] != "FailingOver" {
            assert!(said.0 >= item["epoch"].as_u64().unwrap(), "{name} of {item}");
            let of_another = said.0 != item["epoch"].as_u64().unwrap();
            assert!(of_another || said.1 == item["source"].as_str().unwrap(), "{name} of {item}");
        }
        assert_ne!(item["health"]["state"], "Unhealthy", "a planned move is no fault: {item}");
        if heard.last() != Some(&said) {
            heard.push(said);
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_points_at_the_old_region_once_another_has_the_item() {
    let net = Net::start().await;
    protected(&net, "hold").await;
    let stop = Arc::<AtomicBool>::default();
    let mut listeners = JoinSet::new();
    for region in REGIONS {
        listeners.spawn(listen(net.api(region), Arc::clone(&stop)));
    }
    let home = [("failover", "oslo"), ("failback", "paris")];
    for (verb, region) in home {
        let body = if verb == "failover" { json!({"planned": true}) } else { json!({}) };
        net.api("bergen").verb(ITEM, verb, body).await.unwrap();
        for at in REGIONS {
            let api = net.api(at);
            let told = async || (api.get(NAME).await.ok()?["region"] == region).then_some(());
            until("the new region at every node", told).await;
        }
        for verb in ["commit", "reprotect"] {
            net.api("bergen").verb(ITEM, verb, json!({})).await.unwrap();
        }
    }
    stop.store(true, Ordering::SeqCst);
    for heard in listeners.join_all().await {
        let regions: Vec<&str> = heard.iter().map(|(_, region)| region.as_str()).collect();
        assert_eq!(regions, ["paris", "oslo", "paris"], "each node tells of each change once: {heard:?}");
        assert!(heard.is_sorted(), "no node ever goes back: {heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_node_without_a_majority_answers_names_with_the_last_record() {
    let net = Net::start().await;
    protected(&net, "hold").await;
    let before = net.api("bergen").get(NAME).await.unwrap();
    net.lan().cut("bergen");
    let others = net.api_of(&["paris", "oslo"]);
    when_writable(async || others.verb(ITEM, "failover", json!({"planned": true})).await).await.unwrap();
    let alone = net.api("bergen");
    let read_only =
        async || alone.get("status").await.ok()?["control"]["read_only_since"].is_string().then_some(());
    until("a control node that knows that it is alone", read_only).await;
    assert_eq!(alone.get(NAME).await.unwrap(), before, "the last that it knew");
    net.lan().heal();
    let present = async || (alone.get(NAME).await.ok()?["region"] == "oslo").then_some(());
    until("the present record", present).await;
    let live =
        async || (alone.get("status").await.ok()?["control"]["read_only_since"] == Value::Null).then_some(());
    until("a control node that is live again", live).await;
}
