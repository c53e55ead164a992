//! Jobs while what carries them out is killed, frozen or leaderless.

use serde_json::{Value, json};

use crate::cluster_lan::REGIONS;
use crate::cluster_net::{ITEM, Net, text, until, when_writable};

/// Long enough to be caught in the middle of its first copy.
const DISK_MIB: usize = 128;

impl Net {
    /// Makes the item of most tests in paris, with a disk full of data.
    async fn create_full(&self) {
        let size = DISK_MIB << 20;
        let disks = json!([{"name": "root", "size_bytes": size}, {"name": "data", "size_bytes": 65536}]);
        let body = json!({"kind": "machine", "name": "web-1", "region": "paris", "spec": {"disks": disks}});
        self.api("paris").carry_out("items", &body).await.unwrap();
        let uri = self.uris("paris").await[0].clone();
        let fill = move || {
            let mut disk =
                farshore_machine::nbd::Client::connect(&uri, crate::cluster_net::PATIENCE).unwrap();
            for index in 0..DISK_MIB {
                let block: Vec<u8> = (0..1_usize << 20).map(|at| (at / 7 + index) as u8).collect();
                disk.write((index as u64) << 20, &block, false).unwrap();
            }
            disk.flush().unwrap();
        };
        self.lan().inside("paris", fill);
    }

    /// Asks the control node of `region` to protect the item, and waits until the copy is under way.
    async fn seeding(&self, region: &str) -> String {
        let api = self.api(region);
        let job = api.post(&format!("items/{ITEM}/protect"), &json!({"target": "oslo"})).await.unwrap();
        let id = job["id"].as_str().unwrap().to_owned();
        let seeds = async || {
            let job = api.get(&format!("jobs/{id}")).await.unwrap();
            assert_eq!(job["state"], "running", "it was to be caught in the middle: {job}");
            (job["step"] == "seed").then_some(())
        };
        until("the first copy under way", seeds).await;
        id
    }

    /// The job's record, as the member of etcd in `region` has it.
    fn record(&self, region: &str, job: &str) -> Value {
        let url = self.etcd_url(region);
        let words = format!("etcdctl --endpoints {url} get --print-value-only /farshore/jobs/{job}");
        let said = self.exec(region, &words);
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&said)))
    }

    async fn succeeds(&self, regions: &[&str], job: &str) -> Value {
        let api = self.api_of(regions);
        let ended = async || {
            let job = api.get(&format!("jobs/{job}")).await.ok()?;
            (job["ended"] == true).then_some(job)
        };
        let job = until("the end of the job", ended).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        job
    }
}

/// Whose start carries the job out.
fn executor(record: &Value) -> &str {
    record["executor"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_though_the_leader_of_etcd_is_killed_in_the_middle() {
    let mut net = Net::start().await;
    net.create_full().await;
    let leader = until("a leader", async || net.etcd_leader()).await;
    let job = net.seeding("bergen").await;
    net.kill_etcd(leader);
    net.succeeds(&REGIONS, &job).await;
    until("another leader", async || net.etcd_leader().filter(|other| *other != leader)).await;
    net.start_region(leader).await;
    let api = net.api_of(&REGIONS);
    when_writable(async || api.verb(ITEM, "failover", json!({"planned": true})).await).await.unwrap();
    assert_eq!(net.item(leader).await["source"], "oslo");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_control_node_is_killed_is_ended_by_another() {
    let mut net = Net::start().await;
    net.create_full().await;
    let job = net.seeding("bergen").await;
    let before = net.record("oslo", &job);
    assert!(executor(&before).starts_with("bergen/"), "whoever is asked begins: {before}");
    net.kill("bergen");
    net.succeeds(&["paris", "oslo"], &job).await;
    let after = net.record("oslo", &job);
    assert!(!executor(&after).starts_with("bergen/"), "{after}");
    assert!(after["executor_epoch"].as_u64() > before["executor_epoch"].as_u64(), "{before}, then {after}");
    net.start_region("bergen").await;
    assert_eq!(net.item("bergen").await["phase"], "Protected");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_executor_still_orders_when_it_thaws_changes_nothing() {
    let net = Net::start().await;
    net.create_full().await;
    let job = net.seeding("bergen").await;
    net.stop_node("bergen");
    net.succeeds(&["paris", "oslo"], &job).await;
    // Far beyond what the frozen one was about to do.
    let others = net.api_of(&["paris", "oslo"]);
    for (verb, body) in [("failover", json!({"planned": true})), ("commit", json!({}))] {
        others.verb(ITEM, verb, body).await.unwrap();
    }
    let (ended, item) = (net.record("oslo", &job), net.item("oslo").await);
    net.cont("bergen");
    // It has seen all of it, and is of use again.
    let thawed = net.api("bergen");
    until("the present state in bergen", async || {
        let seen = thawed.get(&format!("items/{ITEM}")).await.ok()?;
        (seen["phase"] == "Committed").then_some(())
    })
    .await;
    thawed.verb(ITEM, "reprotect", json!({})).await.unwrap();
    assert_eq!(net.record("oslo", &job), ended, "an ended job stays as it is");
    let active = |item: &Value| Net::role(item, "oslo") == "active" && Net::role(item, "paris") == "target";
    let now = net.item_until("oslo", "oslo serving and paris following", active).await;
    assert_eq!((&now["source"], &now["phase"]), (&item["source"], &json!("Protected")), "{now}");
    assert!(net.farshore("bergen", "audit verify").status.success());
}
