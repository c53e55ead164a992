//! A control plane that forgets: its store restored from a backup that is older than what the regions know.

use farshore::demo::workload::History;
use serde_json::json;

use crate::cluster_lan::REGIONS;
use crate::cluster_net::{ITEM, Net, text};
use crate::cluster_writer::written;

fn done(net: &Net, words: &str) {
    let output = net.farshore("bergen", words);
    assert!(output.status.success(), "{words}: {}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_restored_from_before_a_failover_acts_on_nothing_until_a_person_decides() {
    let mut net = Net::start().await;
    net.create("hold").await;
    net.api("paris").verb(ITEM, "protect", json!({"target": "oslo"})).await.unwrap();
    let uris = net.uris("paris").await;
    let (file, config) = (net.data("bergen").join("backup"), net.config("bergen"));
    done(&net, &format!("store backup {} --config {}", file.display(), config.display()));
    net.api("bergen").verb(ITEM, "failover", json!({"planned": true})).await.unwrap();
    let writer = net.writer("oslo", &uris, History::default());
    written(&writer, 100).await;
    let history = tokio::task::spawn_blocking(move || writer.stop()).await.unwrap();

    for region in REGIONS {
        net.kill_node(region);
    }
    done(&net, &format!("store restore {} --config {} --replace", file.display(), config.display()));
    for region in REGIONS {
        net.start_node(region).await;
    }
    let item = net.item_until("bergen", "a question to a person", |item| item["phase"] == "NeedsUser").await;
    assert!(item["next_actions"].as_array().unwrap().contains(&"adopt".into()), "{item}");
    assert_ne!(Net::role(&item, "paris"), "active", "what the store believes is not acted on: {item}");
    let refused = net.api("paris").verb(ITEM, "failover", json!({})).await.unwrap_err().to_string();
    assert!(refused.contains("409"), "{refused}");

    done(&net, &format!("adopt {ITEM} --region oslo"));
    let served = |item: &serde_json::Value| {
        item["source"] == "oslo"
            && Net::role(item, "oslo") == "active"
            && Net::role(item, "paris") != "active"
    };
    net.item_until("paris", "oslo serving", served).await;
    let verdict = net.check("oslo", &uris, &history);
    assert!(verdict.is_prefix && verdict.kept == history.records.len(), "{verdict:?}");
    done(&net, "audit verify");
}
