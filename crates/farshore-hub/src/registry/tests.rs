//! The registry on a real file.

mod exchange;
mod full;
mod killed;
mod messages;
mod settings;

use serde_json::json;

use super::*;

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

/// A registry whose file is in memory where that is possible: these tests are about what is in it, not about the disk.
struct Hub {
    registry: Registry,
    dir: tempfile::TempDir,
}

impl Hub {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self { registry: Registry::open(dir.path(), region(name)).unwrap(), dir }
    }
}

impl std::ops::Deref for Hub {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.registry
    }
}

fn sas(key: &str) -> Auth {
    Auth::Sas { primary: key.into(), secondary: format!("{key}2") }
}

async fn edit(registry: &Registry, name: &str, edits: Vec<Edit>) -> Result<Changed, ChangeError<String>> {
    registry.change(key(name), move |_| Ok(edits)).await
}

async fn create(registry: &Registry, name: &str) -> Changed {
    edit(registry, name, vec![Edit::Create(NewDevice::with(sas(name)))]).await.unwrap()
}

async fn follow(from: &Registry, to: &Registry) -> Joined {
    let mut all = Joined::default();
    loop {
        let seen = to.seen(&from.region());
        let batch = from.since(seen, 300).unwrap();
        let is_last = batch.is_last();
        let joined = to.join(&from.region(), Batch::from_bytes(&batch.to_bytes()).unwrap()).await;
        let joined = match joined {
            // The number to go on from is another one now.
            Err(JoinError::StartOver(_) | JoinError::Gap { .. }) if seen > 0 => continue,
            joined => joined.unwrap(),
        };
        all.changed += joined.changed;
        all.conflicts.extend(joined.conflicts);
        if is_last {
            return all;
        }
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path(), region("oslo")).unwrap();
    registry.activate(Epoch(3));
    create(&registry, "pump").await;
    create(&registry, "pump/valve").await;
    let patch = json!({"level": 5, "deep": {"a": [1, null]}});
    edit(&registry, "pump", vec![Edit::Desired { patch, replace: false }]).await.unwrap();
    let before = registry.get(&key("pump")).unwrap().unwrap();
    assert_eq!(before.desired.version, 2 + (3 << 20));
    drop(registry);
    let registry = Registry::open(dir.path(), region("oslo")).unwrap();
    assert_eq!(registry.get(&key("pump")).unwrap().unwrap(), before);
    assert_eq!(registry.counts(), Counts { devices: 1, enabled: 1, disabled: 0, modules: 1 });
    assert_eq!(registry.modules(&DeviceId::parse("pump").unwrap()).unwrap().len(), 1);
    edit(&registry, "pump", vec![Edit::Delete]).await.unwrap();
    assert_eq!(registry.counts(), Counts::default());
    assert!(registry.page(None, 10).unwrap().is_empty());
    let wrong = Registry::open(dir.path(), region("paris")).unwrap_err().to_string();
    assert!(wrong.contains("held by another process"), "{wrong}");
}

#[tokio::test]
async fn regions_that_exchange_their_changes_are_the_same() {
    let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let oslo = Registry::open(dirs.0.path(), region("oslo")).unwrap();
    let paris = Registry::open(dirs.1.path(), region("paris")).unwrap();
    for i in 0..20 {
        create(&oslo, &format!("d{i}")).await;
    }
    assert_eq!(follow(&oslo, &paris).await.changed, 20);
    assert_eq!(follow(&oslo, &paris).await.changed, 0);
    assert_eq!(follow(&paris, &oslo).await.changed, 0);
    assert_eq!(oslo.page(None, 100).unwrap(), paris.page(None, 100).unwrap());
    edit(&oslo, "d3", vec![Edit::Status { enabled: false, reason: "stolen".into() }]).await.unwrap();
    edit(&paris, "d3", vec![Edit::Status { enabled: true, reason: "found".into() }]).await.unwrap();
    paris.activate(Epoch(2));
    edit(&paris, "d4", vec![Edit::Auth(sas("new"))]).await.unwrap();
    edit(&oslo, "d4", vec![Edit::Auth(sas("old"))]).await.unwrap();
    edit(&oslo, "d5", vec![Edit::Delete]).await.unwrap();
    edit(&paris, "d5", vec![Edit::Tags { patch: json!({"a": 1}), replace: false }]).await.unwrap();
    let batch = paris.since(oslo.seen(&region("paris")), 1 << 20).unwrap();
    let report = oslo.preview(&batch).unwrap();
    assert_eq!((report.updated, report.conflicts.len()), (1, 3), "{report}");
    assert!(report.to_string().contains("d5: tags a"), "{report}");
    follow(&paris, &oslo).await;
    follow(&oslo, &paris).await;
    assert_eq!(oslo.page(None, 100).unwrap(), paris.page(None, 100).unwrap());
    assert_eq!(oslo.conflicts(10).unwrap(), paris.conflicts(10).unwrap());
    let device = oslo.get(&key("d4")).unwrap().unwrap();
    assert_eq!((&device.auth, &device.quarantined), (&sas("new"), &vec![sas("old")]));
    assert!(!oslo.get(&key("d3")).unwrap().unwrap().enabled);
    assert!(oslo.get(&key("d5")).unwrap().is_none());
    for name in ["d3", "d4", "d5"] {
        edit(&paris, name, vec![Edit::Settle]).await.unwrap();
    }
    follow(&paris, &oslo).await;
    assert!(oslo.conflicts(10).unwrap().is_empty() && paris.conflicts(10).unwrap().is_empty());
    assert_eq!(oslo.get(&key("d4")).unwrap().unwrap().quarantined, vec![]);
}
