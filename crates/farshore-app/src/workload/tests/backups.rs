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
