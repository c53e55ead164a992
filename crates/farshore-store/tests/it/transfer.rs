//! Backups are whole or refused, and what is restored is what was there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use farshore_core::store::{CommitError, Entry, ReadError, Revision, Store, Transaction, Watch, Write};
use farshore_store::transfer::{self, TransferError, backup, fill, open_backup, read_backup};
use farshore_store::{MemStore, RedbStore};

use crate::cluster::{Cluster, PATIENT};

async fn put(store: &dyn Store, key: &str, value: &[u8]) {
    let writes = vec![Write::Put(key.into(), value.to_vec())];
    store.commit(Transaction { compares: vec![], writes }).await.unwrap();
}

async fn sample(store: &dyn Store) {
    put(store, "meta", br#"{"cluster":"c1","incarnation":3}"#).await;
    put(store, "items/machine/web-1/own", "{\"é\":\"\n\"}".as_bytes()).await;
    put(store, "bin", &[0, 255, 10]).await;
    put(store, "empty", b"").await;
    put(store, "gone", b"x").await;
    let writes = vec![Write::Delete("gone".into())];
    store.commit(Transaction { compares: vec![], writes }).await.unwrap();
}

async fn contents(store: &dyn Store) -> BTreeMap<String, Vec<u8>> {
    store.list("").await.unwrap().0.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

#[tokio::test]
async fn a_backup_is_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backup.jsonl");
    let store = MemStore::new();
    sample(&store).await;
    let header = backup(&store, &path).await.unwrap();
    assert_eq!((header.cluster.as_str(), header.incarnation, header.revision, header.count), ("c1", 3, 6, 4));
    let other = RedbStore::open(&directory.path().join("store.redb")).unwrap();
    fill(&other, read_backup(&path).unwrap()).await.unwrap();
    assert_eq!(contents(&other).await, contents(&store).await);

    let refused = backup(&store, &path).await.unwrap_err().to_string();
    assert!(refused.contains("backup.jsonl") && refused.contains("exists"), "{refused}");
    let refused = fill(&other, read_backup(&path).unwrap()).await.unwrap_err();
    assert!(matches!(refused, TransferError::NotEmpty { keys: 4, .. }), "{refused}");
    assert_eq!(contents(&other).await, contents(&store).await);

    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing else is left: {names:?}");
}

fn damaged(path: &Path, bytes: &[u8]) -> usize {
    fs::write(path, bytes).unwrap();
    match open_backup(path) {
        Err(TransferError::Damaged { line, .. }) => line,
        other => panic!("not called damaged: {other:?}"),
    }
}

/// Every byte changed, every line missing, every length: nothing passes, and the line is right or the one after.
#[tokio::test]
async fn a_damaged_backup_is_refused_with_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backup.jsonl");
    let store = MemStore::new();
    sample(&store).await;
    backup(&store, &path).await.unwrap();
    let whole = fs::read(&path).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let mut number = 1;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        match open_backup(&path) {
            Err(TransferError::Damaged { line, .. }) => {
                let last = lines.len() + 1;
                assert!(
                    line == number || number == 1 || line >= last - 1,
                    "byte {at} of line {number}: {line}"
                );
            }
            Err(TransferError::Version { .. }) => assert_eq!(number, 1),
            other => panic!("byte {at} changed, and {other:?}"),
        }
        if whole[at] == b'\n' {
            number += 1;
        }
    }
    for missing in 1..lines.len() {
        let rest: Vec<u8> = lines
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != missing)
            .flat_map(|(_, line)| line.to_vec())
            .collect();
        damaged(&path, &rest);
    }
    for len in 0..whole.len() {
        damaged(&path, &whole[..len]);
    }
    let mut flipped = whole.clone();
    let at = whole.len() - lines[5].len() - lines[4].len() + 30;
    flipped[at] ^= 1;
    assert_eq!(damaged(&path, &flipped), 5);
    let text = fs::read_to_string({
        fs::write(&path, &whole).unwrap();
        &path
    })
    .unwrap();
    fs::write(&path, text.replace("\"farshore_backup\":1", "\"farshore_backup\":2")).unwrap();
    assert!(matches!(open_backup(&path), Err(TransferError::Version { version: 2, .. })));
}

/// More than fits one transaction, both ways between redb and a real etcd; and over something that was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_store_goes_to_etcd_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let redb = RedbStore::open(&directory.path().join("store.redb")).unwrap();
    for round in 0..20 {
        let writes = (0..100).map(|n| Write::Put(format!("items/{round}/{n}"), vec![b'x'; n * 50])).collect();
        redb.commit(Transaction { compares: vec![], writes }).await.unwrap();
    }
    put(&redb, "big", &vec![7; 1 << 20]).await;
    let cluster = Cluster::start().await;
    let etcd = cluster.store(PATIENT);
    let path = directory.path().join("one.jsonl");
    backup(&redb, &path).await.unwrap();
    fill(&etcd, read_backup(&path).unwrap()).await.unwrap();
    assert!(contents(&etcd).await == contents(&redb).await);

    let back = directory.path().join("two.jsonl");
    backup(&etcd, &back).await.unwrap();
    put(&etcd, "later", b"lost").await;
    transfer::replace(&etcd, read_backup(&back).unwrap()).await.unwrap();
    assert!(contents(&etcd).await == contents(&redb).await);
}

/// A store that takes so many transactions, and then breaks.
#[derive(Debug)]
struct Breaks {
    store: MemStore,
    left: AtomicUsize,
}

#[async_trait]
impl Store for Breaks {
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), ReadError> {
        self.store.list(prefix).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(_) => self.store.commit(transaction).await,
            Err(_) => Err(CommitError::Unavailable("broken on purpose".into())),
        }
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        self.store.watch(prefix, after).await
    }
}

/// Interrupted after each of its transactions: what is there names no cluster, until all of it is there; and it can be
/// repeated, without forgetting the incarnation that was there before.
#[tokio::test]
async fn a_store_that_is_filled_half_is_no_store() {
    let entries = |incarnation: u64| {
        let meta = format!(r#"{{"cluster":"c1","incarnation":{incarnation}}}"#).into_bytes();
        let many = (0..300).map(|n| (format!("k/{n:03}"), vec![b'x'; n]));
        many.chain([("meta".to_owned(), meta)]).collect::<Vec<_>>()
    };
    let whole: BTreeMap<_, _> = entries(4).into_iter().collect();
    for transactions in 0.. {
        let store = Breaks { store: MemStore::new(), left: AtomicUsize::new(usize::MAX) };
        fill(&store, entries(7)).await.unwrap();
        put(&store, "later", b"").await;
        store.left.store(transactions, Ordering::Relaxed);
        if transfer::replace(&store, entries(4)).await.is_ok() {
            assert!(transactions > 5, "it was interrupted in between");
            assert!(contents(&store).await == whole);
            return;
        }
        let meta = contents(&store).await.remove("meta").unwrap();
        let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
        assert_eq!(meta.get("cluster").is_some(), transactions == 0, "after {transactions}");
        store.left.store(usize::MAX, Ordering::Relaxed);
        assert_eq!(transfer::incarnation(&store).await.unwrap(), 7);
        transfer::replace(&store, entries(4)).await.unwrap();
        assert!(contents(&store).await == whole);
    }
}
