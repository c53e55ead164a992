//! What the other region thinks of the backups that it was sent.

use super::*;

/// Paris has a backup of one row; its id.
async fn backed_up() -> (Place, String) {
    let paris = served().await;
    paris.add("row 1").await;
    let taken = paris.done(json!({ "ask": "backup-now" })).await;
    assert_eq!(taken["result"]["ok"], true, "{taken:#}");
    let id = taken["result"]["id"].as_str().unwrap().to_owned();
    (paris, id)
}

impl Place {
    fn backup_dir(&self, id: &str) -> std::path::PathBuf {
        self.item().dir().join("backups").join(id)
    }

    /// The backup as it is told here, once `is_so`.
    async fn backup(&self, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let give_up = Instant::now() + GIVE_UP;
        loop {
            let told = self.ask(json!({ "ask": "backups" })).await.unwrap();
            let found = told["backups"].as_array().unwrap().iter().find(|one| one["id"] == id).cloned();
            if let Some(found) = found.filter(|found| is_so(found)) {
                return found;
            }
            assert!(Instant::now() < give_up, "{id}: {told:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_sent_counts_once_it_was_restored_where_it_came_to() {
    let (paris, id) = backed_up().await;
    let there = paris.backup(&id, |told| told["ok"] == true).await;
    // Fetched in the moment between its making and its proof.
    let path = paris.backup_dir(&id).join("backup.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    (manifest["verdict"], manifest["verified_at"]) = (json!("unproved"), Value::Null);
    std::fs::write(&path, manifest.to_string()).unwrap();
    let oslo = follow(&paris, ReplicationMode::Async).await;
    let here = oslo.backup(&id, |told| told["ok"] == true).await;
    assert_ne!(here["verified_at"], there["verified_at"], "it was proved here");
    oslo.until("the backup is a point", |seen| seen.points.iter().any(|point| point.id == id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_came_damaged_is_told_of_and_is_no_point() {
    let (paris, id) = backed_up().await;
    let data = paris.backup_dir(&id).join("data");
    let mut bytes = std::fs::read(&data).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let oslo = follow(&paris, ReplicationMode::Async).await;
    let told = oslo.backup(&id, |told| !told["verified_at"].is_null()).await;
    assert!(
        told["ok"] == false && told["why"].as_str().unwrap().contains("not what was written"),
        "{told:#}"
    );
    assert!(oslo.look().await.points.iter().all(|point| point.id != id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_damaged_after_it_came_fails_its_proof() {
    let (paris, id) = backed_up().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    oslo.backup(&id, |told| told["ok"] == true).await;
    let oslo = {
        let path = oslo.backup_dir(&id);
        let (region, world, dir, http) = oslo.end().await;
        let read = std::fs::read(path.join("backup.json")).unwrap();
        let mut manifest: Value = serde_json::from_slice(&read).unwrap();
        (manifest["verdict"], manifest["verified_at"]) = (json!("unproved"), Value::Null);
        std::fs::write(path.join("backup.json"), manifest.to_string()).unwrap();
        std::fs::write(path.join("data"), "short").unwrap();
        Place::open_in(region.as_str(), &world, dir, http).await
    };
    let told = oslo.backup(&id, |told| !told["verified_at"].is_null()).await;
    assert!(
        told["ok"] == false && told["why"].as_str().unwrap().contains("not what was written"),
        "{told:#}"
    );
    assert!(oslo.look().await.points.iter().all(|point| point.id != id));
}

/// Paris has a backup that oslo never had, and follows oslo, which has one of its own: the two, and the regions.
async fn came_back(spec: Value) -> (Place, Place, String, String) {
    let paris = served_as(spec).await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.add("row 1").await;
    paris.arrived(&oslo).await;
    paris.world.is_cut.store(true, Ordering::SeqCst);
    let theirs = paris.done(json!({ "ask": "backup-now" })).await["result"]["id"].clone();
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    oslo.act(2, Action::Commit).await.unwrap();
    let ours = oslo.done(json!({ "ask": "backup-now" })).await["result"]["id"].clone();
    paris.world.is_cut.store(false, Ordering::SeqCst);
    let diverged_after = oslo.look().await.watermark;
    paris.act(2, Action::Follow { source: region("oslo"), diverged_after }).await.unwrap();
    replicate(&oslo, "paris", 2, ReplicationMode::Async).await;
    (paris, oslo, theirs.as_str().unwrap().to_owned(), ours.as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_follows_keeps_the_good_backups_that_only_it_has() {
    let (paris, _oslo, own, new) = came_back(spec()).await;
    paris.backup(&new, |told| told["ok"] == true).await;
    paris.backup(&own, |told| told["ok"] == true).await;
    paris
        .until("both are points", |seen| {
            [&own, &new].into_iter().all(|id| seen.points.iter().any(|point| point.id == *id))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_more_than_is_kept_goes_once_what_replaces_it_is_good_here() {
    let mut spec = spec();
    spec["backup_keep"] = json!(1);
    let (paris, _oslo, own, new) = came_back(spec).await;
    paris.backup(&new, |told| told["ok"] == true).await;
    let give_up = Instant::now() + GIVE_UP;
    while paris.backup_dir(&own).exists() {
        assert!(Instant::now() < give_up, "it stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    paris.backup(&new, |told| told["ok"] == true).await;
}
