//! Files in and out, on real registries.

mod killed;

use std::io::Cursor;

use farshore_core::ids::{Epoch, Region};
use serde_json::{Value, json};

use super::*;
use crate::names::Key;
use crate::registry::Registry;

struct Hub {
    registry: Registry,
    _dir: tempfile::TempDir,
}

impl Hub {
    fn new(region: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { registry: Registry::open(dir.path(), Region::parse(region).unwrap()).unwrap(), _dir: dir }
    }

    async fn import(&self, text: impl Into<Vec<u8>>) -> (Imported, Vec<Value>) {
        let mut errors = Vec::new();
        let imported = import(&self.registry, Cursor::new(text.into()), &mut errors).await.unwrap();
        let errors = errors.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        (imported, errors.map(|line| serde_json::from_slice(line).unwrap()).collect())
    }

    fn export(&self, keys: Keys) -> String {
        let mut out = Vec::new();
        export(&self.registry, &mut out, keys).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn get(&self, key: &str) -> std::sync::Arc<crate::record::Device> {
        self.registry.get(&Key::parse(key).unwrap()).unwrap().unwrap()
    }
}

#[tokio::test]
async fn bad_lines_are_reported_by_number_and_the_rest_is_imported() {
    let hub = Hub::new("oslo");
    let long = format!("{{\"id\":\"long\",\"tags\":{{\"a\":\"{}\"}}}}", "x".repeat(LINE_BYTES_MAX));
    let mut text = b"\xef\xbb\xbf{\"id\":\"first\"}\r\n\n{\"id\":\"a b\"}\n{\"id\":\n".to_vec();
    text.extend_from_slice(b"{\"id\":\"\xff\"}\n{\"id\":\"m\",\"importMode\":\"upsert\"}\n");
    text.extend_from_slice(long.as_bytes());
    text.extend_from_slice(
        b"\n{\"id\":\"gone\",\"importMode\":\"DELETE\"}\n{\"id\":\"x\",\"moduleId\":\"y\"}\n",
    );
    text.extend_from_slice(
        b"{\"id\":\"k\",\"authentication\":{\"type\":\"sas\",\"symmetricKey\":{\"primaryKey\":\"?\"}}}\n",
    );
    text.extend_from_slice(b"{\"id\":\"t\",\"tags\":{\"a.b\":1}}\n{\"id\":\"last\"}");
    let (imported, errors) = hub.import(text).await;
    assert_eq!((imported.lines, imported.created, imported.failed), (11, 2, 9));
    let numbers: Vec<_> = errors.iter().map(|error| error["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [3, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(errors[5]["errorCode"], "DeviceNotFound");
    assert_eq!(errors[5]["id"], "gone");
    assert!(errors[3]["errorMessage"].as_str().unwrap().contains("\"upsert\" is no import mode"));
    assert!(hub.get("last").enabled && hub.get("first").enabled);
}

#[tokio::test]
async fn an_export_imported_elsewhere_is_the_same() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    oslo.registry.activate(Epoch(7));
    let lines = [
        json!({"id": "edge", "capabilities": {"iotEdge": true}, "parentScopes": ["a", "b"], "deviceScope": "c",
            "tags": {"site": {"floor": 3, "empty": {}}}, "properties": {"desired": {"rate": [1, null], "$version": 9}, "reported": {"fw": "1.2"}}}),
        json!({"id": "edge", "moduleId": "$edgeAgent", "properties": {"desired": {"schemaVersion": "1.1"}}}),
        json!({"id": "edge", "moduleId": "$edgeHub"}),
        json!({"id": "cert", "status": "disabled", "statusReason": "lost", "authentication":
            {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "A".repeat(40)}}}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(oslo.import(text).await.0.created, 4);
    let exported = oslo.export(Keys::Included);
    let (imported, errors) = paris.import(exported.clone()).await;
    assert_eq!((imported.created, errors), (4, vec![]));
    assert_eq!(without_times(&paris.export(Keys::Included)), without_times(&exported));
    let (edge, there) = (oslo.get("edge"), paris.get("edge"));
    assert_eq!(
        (&edge.generation, &edge.etag, &edge.twin_etag),
        (&there.generation, &there.etag, &there.twin_etag)
    );
    assert_eq!((edge.desired.version, edge.auth.clone()), (there.desired.version, there.auth.clone()));
    let (again, _) = paris.import(exported).await;
    assert_eq!((again.unchanged, again.failed), (4, 0), "importing the same file again changes nothing");
    let without = oslo.export(Keys::Excluded);
    assert!(!without.contains(&match &edge.auth {
        crate::record::Auth::Sas { primary, .. } => primary.clone(),
        other => panic!("{other:?}"),
    }));
    assert_eq!(paris.import(without).await.0.unchanged, 4, "missing keys stay as they are");
}

#[tokio::test]
async fn etags_of_other_hubs_are_kept_until_something_changes() {
    let hub = Hub::new("oslo");
    hub.registry.activate(Epoch(2));
    let line = json!({"id": "a", "eTag": "MTIz", "twinETag": "AAA=", "generationId": "6377", "properties": {"desired": {"x": 1, "$version": 4}}});
    hub.import(line.to_string()).await;
    let device = hub.get("a");
    assert_eq!(
        (device.etag.as_str(), device.twin_etag.as_str(), device.generation.as_ref()),
        ("MTIz", "AAA=", "6377")
    );
    hub.import(json!({"id": "a", "status": "disabled"}).to_string()).await;
    let device = hub.get("a");
    assert_ne!(device.etag, "MTIz");
    assert_eq!(device.twin_etag, "AAA=");
}

#[tokio::test]
async fn lines_of_one_file_are_in_sight_of_those_above() {
    let hub = Hub::new("oslo");
    let lines = [
        json!({"id": "a", "moduleId": "m"}),
        json!({"id": "a"}),
        json!({"id": "a", "moduleId": "m"}),
        json!({"id": "a", "status": "disabled"}),
        json!({"id": "a", "importMode": "create"}),
        json!({"id": "a", "moduleId": "m"}),
        json!({"id": "a", "importMode": "delete"}),
        json!({"id": "a", "moduleId": "m"}),
        json!({"id": "a", "tags": {"life": 2}}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let (imported, errors) = hub.import(text).await;
    let Imported { created, updated, deleted, unchanged, failed, .. } = imported;
    assert_eq!((created, updated, deleted, unchanged, failed), (3, 1, 1, 1, 3));
    let told: Vec<_> = errors
        .iter()
        .map(|error| (error["line"].as_u64().unwrap(), error["errorCode"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [(1, "DeviceNotFound"), (5, "DeviceAlreadyExists"), (8, "DeviceNotFound")]);
    let counts = hub.registry.counts();
    assert_eq!((counts.devices, counts.enabled, counts.modules), (1, 1, 0));
    assert_eq!(hub.get("a").tags, json!({"life": 2}));
}

/// Devices and modules that are made, changed and deleted in any order, among those that are there.
fn jumbled(seed: u64) -> Vec<Value> {
    let mut state = seed;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let lines = (0..400).map(|number| {
        let mode = ["", "", "", "create", "update", "delete"][next(6) as usize];
        let mut line = json!({"id": format!("d{:03}", next(150)), "importMode": mode, "tags": {"n": number}});
        if next(4) == 0 {
            line["moduleId"] = json!(format!("m{}", next(2)));
        }
        line
    });
    lines.collect()
}

#[tokio::test]
async fn an_import_leaves_what_the_same_changes_leave_one_by_one() {
    let (together, one_by_one) = (Hub::new("oslo"), Hub::new("oslo"));
    for seed in 1..5 {
        let lines = jumbled(seed);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let (imported, errors) = together.import(text).await;
        let mut wrong = Vec::new();
        for (number, line) in (1..).zip(&lines) {
            let (key, decide) = Line::parse(line.to_string().as_bytes()).unwrap().decide().unwrap();
            if let Err(error) = one_by_one.registry.change(key, decide).await {
                wrong.push((number, LineError::from(error).code()));
            }
        }
        let told: Vec<(u64, &str)> = errors
            .iter()
            .map(|error| (error["line"].as_u64().unwrap(), error["errorCode"].as_str().unwrap()))
            .collect();
        assert_eq!(told, wrong, "seed {seed}");
        assert_eq!((imported.lines, imported.failed), (400, wrong.len() as u64));
        let (one, two) = (&together.registry, &one_by_one.registry);
        let shown = |registry: &Registry| {
            let page = registry.page(None, usize::MAX).unwrap();
            page.iter()
                .map(|device| (device.key.clone(), device.tags.clone(), device.enabled))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(one), shown(two), "seed {seed}");
        assert_eq!((one.counts(), one.own()), (two.counts(), two.own()));
        let batch = one.since(0, usize::MAX).unwrap();
        assert_eq!(batch.entries.len(), two.since(0, usize::MAX).unwrap().entries.len());
    }
}

#[tokio::test]
async fn identities_that_are_made_reach_the_other_region_and_who_waits_for_news() {
    let (oslo, paris) = (Hub::new("oslo"), Hub::new("paris"));
    let mut changes = oslo.registry.changed();
    let text: String = (0..50).map(|i| format!("{{\"id\":\"d{i:02}\",\"tags\":{{\"n\":{i}}}}}\n")).collect();
    oslo.import(text).await;
    let change = changes.try_recv().unwrap();
    assert_eq!((change.key.to_string(), change.before.is_none()), ("d49".to_owned(), true));
    assert_eq!(change.after.as_deref(), Some(&*oslo.get("d49")));
    assert!(changes.try_recv().is_err(), "one stands for all");
    let batch = oslo.registry.since(0, usize::MAX).unwrap();
    assert_eq!((batch.entries.len(), batch.upto), (50, 50));
    paris.registry.join(&oslo.registry.region(), batch).await.unwrap();
    assert_eq!(paris.registry.page(None, 99).unwrap(), oslo.registry.page(None, 99).unwrap());
    assert_eq!(paris.registry.counts(), oslo.registry.counts());
}

#[tokio::test]
async fn every_import_mode_does_what_its_name_says() {
    let hub = Hub::new("oslo");
    hub.import(json!({"id": "old"}).to_string()).await;
    let (etag, twin) = (hub.get("old").etag.clone(), hub.get("old").twin_etag.clone());
    for (id, mode, etag, twin_etag, wanted) in [
        ("old", "create", "", "", "DeviceAlreadyExists"),
        ("new", "CREATE", "", "", "created"),
        ("none", "Update", "", "", "DeviceNotFound"),
        ("none", "updateifmatchetag", "*", "", "DeviceNotFound"),
        ("old", "updateIfMatchETag", "no", "", "PreconditionFailed"),
        ("old", "updateIfMatchETag", &etag, "", "updated"),
        ("old", "createOrUpdateIfMatchETag", &etag, "", "PreconditionFailed"),
        ("third", "createOrUpdateIfMatchETag", "any", "", "created"),
        ("old", "updateTwinIfMatchETag", "", "no", "PreconditionFailed"),
        ("none", "updateTwin", "", "", "DeviceNotFound"),
        ("old", "updateTwinIfMatchETag", "", &twin, "updated"),
        ("old", "updateTwin", "", "", "unchanged"),
        ("old", "deleteIfMatchETag", "no", "", "PreconditionFailed"),
        ("old", "deleteIfMatchETag", "\"*\"", "", "deleted"),
        ("new", "delete", "", "", "deleted"),
        ("new", "", "", "", "created"),
    ] {
        let mut line = json!({"id": id, "importMode": mode, "statusReason": mode, "tags": {"a": 1}});
        if !etag.is_empty() {
            line["eTag"] = json!(etag);
        }
        if !twin_etag.is_empty() {
            line["twinETag"] = json!(twin_etag);
        }
        if mode == "updateIfMatchETag" {
            line["tags"] = json!({});
        }
        let (imported, errors) = hub.import(line.to_string()).await;
        let found = match imported {
            Imported { created: 1, .. } => "created",
            Imported { updated: 1, .. } => "updated",
            Imported { deleted: 1, .. } => "deleted",
            Imported { unchanged: 1, .. } => "unchanged",
            _ => errors[0]["errorCode"].as_str().unwrap(),
        };
        assert_eq!(found, wanted, "{line}");
    }
    let (_, errors) = hub.import(json!({"id": "new", "importMode": "deleteIfMatchETag"}).to_string()).await;
    assert_eq!(errors[0]["errorCode"], "ArgumentInvalid", "no etag was given");
}

/// Metadata says when this hub learned of a value.
fn without_times(export: &str) -> Vec<Value> {
    let lines = export.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for section in ["desired", "reported"] {
            line["properties"][section].as_object_mut().unwrap().remove("$metadata");
        }
        line
    });
    lines.collect()
}
