//! What a node knows of names outlives its process, and never goes back.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farshore::names::{Directory, DirectoryError, follow};
use farshore_core::store::{Store, Transaction, Write};
use farshore_store::mem::MemStore;

use crate::names_stage::{self as stage, key, record, records};

fn open(dir: &Path) -> Directory {
    Directory::open(&dir.join("directory.copy"), key())
}

/// What the concierge says about web-1: status and active region.
async fn active(directory: &Directory) -> (u16, String) {
    let concierge = stage::concierge(directory).await;
    let answer =
        reqwest::get(format!("http://{}/concierge/v1/web-1.machine", concierge.address)).await.unwrap();
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.unwrap();
    (status, body["active"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_answers_before_it_reaches_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let serial = stage::directory(dir.path()).serial();
    let directory = open(dir.path());
    assert_eq!((directory.len(), directory.serial()), (records().len(), serial));
    assert!(directory.stale_since().is_some());
    // Nobody has heard from the store yet: a word about it changes nothing.
    directory.stale(None);
    assert!(directory.stale_since().is_some());
    assert_eq!(active(&directory).await, (200, "paris".to_owned()));
    directory.update(1, 100, records()).unwrap();
    assert_eq!((directory.stale_since(), directory.serial()), (None, serial));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_copy_is_found_out_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("directory.copy");
    stage::directory(dir.path());
    let whole = fs::read(&path).unwrap();
    for at in [0, 20, 30, 90, 120, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        fs::write(&path, &damaged).unwrap();
        assert!(open(dir.path()).is_empty(), "byte {at} was changed");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(open(dir.path()).is_empty(), "cut at {at}");
    }
    let directory = open(dir.path());
    assert_eq!(active(&directory).await, (503, String::new()));
    // The store's answer puts it right, on disk, too.
    directory.update(1, 100, records()).unwrap();
    assert_eq!(open(dir.path()).len(), records().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_never_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let directory = stage::directory(dir.path());
    let older = DirectoryError::Older { incarnation: 1, revision: 99 };
    assert_eq!(directory.update(1, 99, Vec::new()), Err(older));
    assert!(matches!(directory.update(0, 500, Vec::new()), Err(DirectoryError::Older { .. })));
    // Of an earlier epoch, at a later revision: a store that was mended by hand.
    directory.update(1, 101, vec![record("machine/web-1", 2, "oslo", &["nbd://192.0.2.8:1/x"])]).unwrap();
    assert_eq!(active(&directory).await.1, "paris");
    // Restored from a backup: a new life begins, with other revisions and epochs.
    let before = directory.serial();
    directory.update(2, 7, vec![record("machine/web-1", 1, "oslo", &["nbd://192.0.2.8:1/x"])]).unwrap();
    assert_eq!(active(&directory).await.1, "oslo");
    assert!(
        farshore_core::directory::Serial(directory.serial())
            .is_after(farshore_core::directory::Serial(before))
    );
    assert!(directory.update(1, 1000, records()).is_err());
    // A store that was moved counts anew; the copy still guards each name, and the serial rises.
    let again = open(dir.path());
    let before = again.serial();
    again.update(2, 3, vec![record("machine/web-1", 2, "paris", &["nbd://192.0.2.7:1/x"])]).unwrap();
    assert_eq!(active(&again).await.1, "paris");
    assert!(
        farshore_core::directory::Serial(again.serial()).is_after(farshore_core::directory::Serial(before))
    );
}

async fn put(store: &dyn Store, epoch: u64, region: &str) {
    let (name, record) = record("machine/web-1", epoch, region, &["nbd://192.0.2.7:1/x"]);
    let value = serde_json::to_vec(&record).unwrap();
    let write = Write::Put(format!("directory/{name}"), value);
    store.commit(Transaction { compares: Vec::new(), writes: vec![write] }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_follows_its_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(MemStore::new());
    let directory = open(dir.path());
    let following = tokio::spawn(follow(directory.clone(), Arc::clone(&store) as Arc<dyn Store>, 1));
    for (epoch, region) in [(1, "paris"), (2, "oslo"), (3, "paris")] {
        put(&*store, epoch, region).await;
        let told = tokio::time::timeout(Duration::from_secs(20), async {
            while active(&directory).await.1 != region {}
        });
        told.await.unwrap_or_else(|_| panic!("epoch {epoch} was never told"));
    }
    assert_eq!(directory.stale_since(), None);
    following.abort();
}
