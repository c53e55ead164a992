//! A disk that is full, or breaks, in the middle of a commit.

use std::io::ErrorKind;
use std::path::Path;

use farshore_core::store::{Change, CommitError, Revision, Store, Transaction, Write};

use super::RedbStore;
use super::file::{SYNCING, WRITING};

fn put(n: usize) -> Transaction {
    Transaction { compares: vec![], writes: vec![Write::Put(format!("k/{n}"), n.to_string().into_bytes())] }
}

async fn keys(store: &RedbStore) -> (usize, Revision) {
    let (entries, revision) = store.list("").await.unwrap();
    (entries.len(), revision)
}

async fn store_with_two(path: &Path) -> RedbStore {
    let store = RedbStore::open(path).unwrap();
    store.commit(put(0)).await.unwrap();
    store.commit(put(1)).await.unwrap();
    store
}

#[tokio::test]
async fn a_full_disk_refuses_a_commit_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = store_with_two(&path).await;
    let mut watch = store.watch("", Revision(2)).await.unwrap();
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge] {
        store.shared.inject(WRITING, kind);
        let refused = store.commit(put(2)).await;
        assert!(
            matches!(&refused, Err(CommitError::Unavailable(why)) if why.contains("no space")),
            "{refused:?}"
        );
        assert_eq!(keys(&store).await, (2, Revision(2)), "nothing was changed");
    }
    // There is space again.
    assert_eq!(store.commit(put(2)).await.unwrap(), Revision(3));
    assert!(matches!(watch.next().await.unwrap(), Change::Put(entry) if entry.key == "k/2"));
    drop(store);
    assert_eq!(keys(&RedbStore::open(&path).unwrap()).await, (3, Revision(3)));
}

#[tokio::test]
async fn all_who_share_a_refused_commit_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_two(&directory.path().join("store.redb")).await;
    store.shared.inject(WRITING, ErrorKind::StorageFull);
    let commits: Vec<_> = (2..40).map(|n| (store.clone(), n)).collect();
    let commits: Vec<_> = commits
        .into_iter()
        .map(|(store, n)| tokio::spawn(async move { store.commit(put(n)).await }))
        .collect();
    let mut done = 0;
    for commit in commits {
        match commit.await.unwrap() {
            Ok(_) => done += 1,
            Err(CommitError::Unavailable(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(keys(&store).await, (2 + done, Revision(2 + done as u64)));
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_promised() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = store_with_two(&path).await;
    let mut watch = store.watch("", Revision(2)).await.unwrap();
    store.shared.inject(SYNCING, ErrorKind::Other);
    let unknown = store.commit(put(2)).await;
    assert!(
        matches!(&unknown, Err(CommitError::Unknown(why)) if why.contains("restart the node")),
        "{unknown:?}"
    );
    assert!(matches!(store.commit(put(3)).await, Err(CommitError::Unavailable(_))));
    assert!(store.get("k/0").await.is_err(), "what is on the disk is not known");
    assert!(watch.next().await.is_err(), "a watch does not wait for ever");
    drop(store);
    let (count, revision) = keys(&RedbStore::open(&path).unwrap()).await;
    assert_eq!(count as u64, revision.0);
    assert!((2..=3).contains(&count), "it happened or it did not");
}
