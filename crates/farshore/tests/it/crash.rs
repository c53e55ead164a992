//! SIGKILL of the source, the target and the control plane at moments that chance chooses, while a client writes.
//!
//! Three regions as real processes: paris (source), rome (target), oslo (control). The client's own history decides: what is
//! there afterwards must be what a prefix of it leaves behind, byte by byte over both disks, with everything that was
//! acknowledged. `FARSHORE_SEED` repeats a run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore::demo::client::{Client, two_uris};
use farshore::demo::workload::{History, Resolver, Verdict, Writer, read_images};
use farshore::up::{Cluster, ClusterOptions};
use farshore_core::ids::Region;
use serde_json::{Value, json};

const ITEM: &str = "machine/web-1";
/// Nothing here takes as long: only a hang does.
const PATIENCE: Duration = Duration::from_secs(100);

/// Numbers from a seed, which is printed.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let given = std::env::var("FARSHORE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| farshore::engine::now().0);
        println!("FARSHORE_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

struct World {
    cluster: Cluster,
    api: Client,
    chance: Chance,
    _dir: tempfile::TempDir,
}

impl World {
    async fn begin() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = ClusterOptions {
            regions: ["paris", "rome", "oslo"].map(|name| Region::parse(name).unwrap()).into(),
            point_seconds: 1,
            program: Some(env!("CARGO_BIN_EXE_farshore").into()),
            ..ClusterOptions::new(dir.path())
        };
        let cluster = Cluster::start(options).await.unwrap();
        let api = Client::new(cluster.api_url(), cluster.token()).unwrap();
        let world = Self { cluster, api, chance: Chance::new(), _dir: dir };
        let disks =
            json!([{"name": "root", "size_bytes": 4_000_512}, {"name": "data", "size_bytes": 3_000_321}]);
        let body = json!({"kind": "machine", "name": "web-1", "region": "paris", "spec": {"disks": disks}});
        world.api.carry_out("items", &body).await.unwrap();
        world
    }

    fn writer(&self) -> Writer {
        self.writer_after(History::default())
    }

    /// A client that goes on from what was brought back.
    fn writer_after(&self, history: History) -> Writer {
        let next = history.records.last().map_or(1, |last| last.number + 1_000_000);
        let (api, runtime) = (self.api.clone(), tokio::runtime::Handle::current());
        let resolver: Resolver = Arc::new(move || {
            let record = runtime.block_on(api.get("directory/web-1.machine")).ok()?;
            two_uris(&record["endpoints"])
        });
        Writer::start(history, next, resolver)
    }

    async fn written(&self, writer: &Writer, count: usize) {
        let goal = writer.acknowledged() + count;
        let until = Instant::now() + PATIENCE;
        while writer.acknowledged() < goal {
            assert!(Instant::now() < until, "no acknowledgement any more: {}", self.item().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn item(&self) -> Value {
        self.api.get(&format!("items/{ITEM}")).await.unwrap_or_default()
    }

    async fn verb(&self, verb: &str, body: Value) {
        self.api.verb(ITEM, verb, body).await.unwrap_or_else(|error| panic!("{verb}: {error}"));
    }

    async fn restart(&mut self, region: &str) {
        self.cluster.kill_node(region).unwrap();
        self.cluster.start_region(region).await.unwrap();
    }

    async fn end(self, writer: Writer) -> (Self, History) {
        let history = tokio::task::spawn_blocking(move || writer.stop()).await.unwrap();
        (self, history)
    }

    /// Waits until the target has everything that is written by now. What was seen last may be from before that, and the next look
    /// may have begun before it: the third is from afterwards.
    async fn settled(&self) {
        let seen = |item: &Value, region: &Value| {
            let regions = item["regions"].as_array().cloned().unwrap_or_default();
            regions.into_iter().find(|seen| seen["region"] == *region).unwrap_or_default()
        };
        let seq = |seen: &Value| seen["observation"]["watermark"]["seq"].as_u64();
        let mut looks = BTreeSet::new();
        let settled = |item: &Value| {
            let (source, target) = (seen(item, &item["source"]), seen(item, &item["target"]));
            if let (Some(at), Value::Null) = (source["at"].as_str(), &source["error"]) {
                looks.insert(at.to_owned());
            }
            let heads = seq(&source).zip(seq(&target));
            looks.len() >= 3
                && item["replication"]["state"] == "streaming"
                && heads.is_some_and(|(source, target)| source == target)
        };
        self.api.wait_for(ITEM, "everything at the target", settled).await.unwrap();
    }

    async fn active(&self, history: &History) -> Verdict {
        let served = |item: &Value| two_uris(&item["endpoints"]).is_some();
        let item = self.api.wait_for(ITEM, "a serving region", served).await.unwrap();
        check(two_uris(&item["endpoints"]).unwrap(), history).await
    }

    async fn drill(&self, point: &str, history: &History) -> Verdict {
        self.verb("test-failover", json!({ "point": point })).await;
        let item = self.item().await;
        let verdict = check(two_uris(&item["drill"]["endpoints"]).unwrap(), history).await;
        self.verb("cleanup", Value::Null).await;
        verdict
    }

    async fn points(&self) -> Vec<String> {
        let listed = self.api.get(&format!("items/{ITEM}/points")).await.unwrap();
        listed["points"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

async fn check(uris: [String; 2], history: &History) -> Verdict {
    let history = history.clone();
    tokio::task::spawn_blocking(move || history.check(&read_images(&uris).unwrap())).await.unwrap()
}

fn whole(verdict: Verdict, history: &History) {
    assert!(verdict.is_prefix, "{verdict:?}");
    assert_eq!(verdict.kept, history.records.len(), "everything acknowledged is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_killed_again_and_again_loses_nothing_it_acknowledged() {
    let mut world = World::begin().await;
    world.verb("protect", json!({"target": "rome"})).await;
    let writer = world.writer();
    for _ in 0..4 {
        let count = 20 + usize::try_from(world.chance.below(200)).unwrap();
        world.written(&writer, count).await;
        world.restart("paris").await;
    }
    world.written(&writer, 50).await;
    let (world, history) = world.end(writer).await;
    whole(world.active(&history).await, &history);
    world.settled().await;
    whole(world.drill("latest", &history).await, &history);
    let moved = world.item().await["replication"]["moved_bytes"].as_u64().unwrap();
    assert!(moved < 7_000_000, "{moved} bytes since the last start: a delta, not a copy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_killed_again_and_again_offers_only_prefixes_and_catches_up() {
    let mut world = World::begin().await;
    let writer = world.writer();
    world.written(&writer, 50).await;
    world.verb("protect", json!({"target": "rome"})).await;
    for _ in 0..4 {
        let count = 20 + usize::try_from(world.chance.below(300)).unwrap();
        world.written(&writer, count).await;
        world.restart("rome").await;
    }
    world.written(&writer, 50).await;
    let (world, history) = world.end(writer).await;
    world.settled().await;
    whole(world.drill("latest", &history).await, &history);
    let points = world.points().await;
    for point in [&points[0], &points[points.len() / 2]] {
        let verdict = world.drill(point, &history).await;
        assert!(verdict.is_prefix, "point {point}: {verdict:?}");
    }
    whole(world.active(&history).await, &history);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_killed_in_every_job_takes_it_up_again() {
    let mut world = World::begin().await;
    let writer = world.writer();
    world.written(&writer, 50).await;
    let life = [
        ("protect", json!({"target": "rome"}), "Protected"),
        ("test-failover", json!({"point": "latest"}), "Protected"),
        ("cleanup", json!({}), "Protected"),
        ("failover", json!({"planned": true}), "FailedOver"),
        ("change-point", json!({"point": "latest"}), "FailedOver"),
        ("commit", json!({}), "Committed"),
        ("reprotect", json!({}), "Protected"),
        ("failback", json!({}), "FailedOver"),
        ("commit", json!({}), "Committed"),
        ("reprotect", json!({}), "Protected"),
    ];
    for (verb, body, phase) in life {
        let acknowledged = writer.acknowledged();
        let job = world.api.post(&format!("items/{ITEM}/{verb}"), &body).await.unwrap();
        let id = job["id"].as_str().unwrap().to_owned();
        tokio::time::sleep(Duration::from_millis(world.chance.below(80))).await;
        world.restart("oslo").await;
        let until = Instant::now() + PATIENCE;
        loop {
            let job = world.api.get(&format!("jobs/{id}")).await.unwrap_or_default();
            match job["state"].as_str().unwrap_or("running") {
                "succeeded" => break,
                "running" | "unwinding" => {}
                state => panic!("{verb} ended {state}: {}", job["notes"]),
            }
            assert!(Instant::now() < until, "{verb} does not end: {job}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(world.item().await["phase"], phase, "after {verb}");
        // The death of the control plane alone stops nobody's writes.
        assert!(writer.acknowledged() >= acknowledged);
        world.written(&writer, 20).await;
    }
    let (world, history) = world.end(writer).await;
    whole(world.active(&history).await, &history);
    assert_eq!(world.item().await["source"], "paris");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_source_that_thaws_after_the_failover_is_fenced_and_its_late_writes_are_counted() {
    let world = World::begin().await;
    world.verb("protect", json!({"target": "rome"})).await;
    let writer = world.writer();
    world.written(&writer, 200).await;
    writer.be_mortal();
    let pid = world.cluster.pid("paris").and_then(|pid| i32::try_from(pid).ok()).unwrap();
    let paris = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(paris, rustix::process::Signal::STOP).unwrap();
    world.verb("failover", json!({"source_is_down": true})).await;
    let promoted = world.item().await;
    let here = two_uris(&promoted["endpoints"]).unwrap();
    rustix::process::kill_process(paris, rustix::process::Signal::CONT).unwrap();
    let history = tokio::task::spawn_blocking(move || writer.wait()).await.unwrap();
    let known = |item: &Value| !item["failover"]["rpo"]["final"].is_null();
    let item = world.api.wait_for(ITEM, "the exact loss", known).await.unwrap();
    let kept = check(here, &history).await;
    assert!(kept.is_prefix, "{kept:?}");
    let lost = item["failover"]["rpo"]["final"]["writes"].as_u64().unwrap();
    let (acknowledged, ..) = history.lost_after(kept.kept);
    let unanswered = (history.records.len() - kept.kept) as u64;
    assert!(
        (acknowledged..=unanswered).contains(&lost),
        "{lost} writes reported, {acknowledged} acknowledged and {unanswered} asked for after the point"
    );
    assert_eq!(item["source"], "rome");
    let paris =
        item["regions"].as_array().unwrap().iter().find(|seen| seen["region"] == "paris").unwrap().clone();
    assert_eq!(paris["observation"]["role"], "fenced", "{paris}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_active_region_that_is_killed_keeps_what_it_acknowledged_all_the_way_home() {
    let mut world = World::begin().await;
    world.verb("protect", json!({"target": "rome"})).await;
    let writer = world.writer();
    world.written(&writer, 200).await;
    writer.be_mortal();
    world.cluster.kill_node("paris").unwrap();
    let mut history = tokio::task::spawn_blocking(move || writer.wait()).await.unwrap();
    world.verb("failover", json!({"source_is_down": true})).await;
    let verdict = world.active(&history).await;
    assert!(verdict.is_prefix, "{verdict:?}");
    history.records.truncate(verdict.kept);
    let writer = world.writer_after(history);
    world.written(&writer, 100).await;
    world.restart("rome").await;
    world.written(&writer, 100).await;
    world.verb("commit", Value::Null).await;
    world.restart("rome").await;
    world.written(&writer, 100).await;
    world.cluster.start_region("paris").await.unwrap();
    let job = world.api.post(&format!("items/{ITEM}/reprotect"), &json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_millis(world.chance.below(150))).await;
    world.restart("paris").await;
    let id = job["id"].as_str().unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        // Read once: it may end between two looks.
        let job = world.api.get(&format!("jobs/{id}")).await.unwrap();
        if job["state"] == "succeeded" {
            break;
        }
        assert!(Instant::now() < until && job["state"] == "running", "{job}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.verb("failback", Value::Null).await;
    world.written(&writer, 50).await;
    let (world, history) = world.end(writer).await;
    whole(world.active(&history).await, &history);
    assert_eq!(world.item().await["source"], "paris");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_sync_mode_a_flush_waits_for_the_target_and_is_never_lost() {
    use farshore_machine::nbd::Client as Disk;
    let mut world = World::begin().await;
    world.verb("protect", json!({"target": "rome", "replication": "sync"})).await;
    let uri = two_uris(&world.item().await["endpoints"]).unwrap()[0].clone();
    let pid = world.cluster.pid("rome").and_then(|pid| i32::try_from(pid).ok()).unwrap();
    let rome = rustix::process::Pid::from_raw(pid).unwrap();
    let mut disk = Disk::connect(&uri, PATIENCE).unwrap();
    disk.write(0, &[1; 4096], false).unwrap();
    disk.flush().unwrap();
    rustix::process::kill_process(rome, rustix::process::Signal::STOP).unwrap();
    disk.write(4096, &[2; 4096], false).unwrap();
    let flushing = tokio::task::spawn_blocking(move || (disk.flush(), disk));
    let lagging = |item: &Value| item["replication"]["lag"]["writes"].as_u64() > Some(0);
    world.api.wait_for(ITEM, "a lag while the target is frozen", lagging).await.unwrap();
    assert!(!flushing.is_finished(), "the target cannot have it: it is frozen");
    rustix::process::kill_process(rome, rustix::process::Signal::CONT).unwrap();
    let (flushed, disk) = flushing.await.unwrap();
    flushed.unwrap();
    // Lost in the moment after the acknowledgement.
    world.cluster.kill_node("paris").unwrap();
    drop(disk);
    world.verb("failover", json!({"source_is_down": true})).await;
    let uri = two_uris(&world.item().await["endpoints"]).unwrap()[0].clone();
    let mut found = [0; 8192];
    Disk::connect(&uri, PATIENCE).unwrap().read(0, &mut found).unwrap();
    assert!(found[..4096] == [1; 4096] && found[4096..] == [2; 4096], "what was flushed is on the far shore");
}
