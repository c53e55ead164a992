//! Members that die, stop and come back, under writers and watchers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::store::{
    Change, CommitError, Compare, Entry, ReadError, Revision, Store, Transaction, Write,
};
use farshore_store::EtcdStore;
use rustix::process::Signal;
use tokio::time::timeout;

use crate::cluster::{BRISK, Cluster, DEADLINE, NAMES};

const WRITERS: usize = 4;

fn create(key: &str, value: &str) -> Transaction {
    Transaction {
        compares: vec![Compare::Absent(key.into())],
        writes: vec![Write::Put(key.into(), value.into()), Write::Put(format!("twin/{key}"), value.into())],
    }
}

/// What a writer knows of its keys.
#[derive(Debug, Default)]
struct Written {
    /// Committed at this revision, as the store said.
    acknowledged: BTreeMap<String, Revision>,
    /// The store did not say; a read did.
    resolved: BTreeMap<String, Revision>,
}

/// Creates numbered keys until `stop`; each at most once, whatever the store answers.
async fn write(store: EtcdStore, writer: usize, stop: tokio::sync::watch::Receiver<bool>) -> Written {
    let mut written = Written::default();
    for number in 0.. {
        if *stop.borrow() {
            break;
        }
        let key = format!("k/{writer}/{number:06}");
        settle(&store, &key, &mut written).await;
    }
    written
}

async fn settle(store: &EtcdStore, key: &str, written: &mut Written) {
    let mut unknown = false;
    loop {
        match store.commit(create(key, key)).await {
            Ok(revision) => {
                written.acknowledged.insert(key.into(), revision);
                return;
            }
            Err(CommitError::Conflict { key: named }) => {
                assert!(unknown, "{named} was created by nobody else");
                let entry = read(store, key).await.expect("what exists can be read");
                written.resolved.insert(key.into(), entry.revision);
                return;
            }
            Err(CommitError::Unknown(_)) => unknown = true,
            Err(CommitError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn read(store: &EtcdStore, key: &str) -> Option<Entry> {
    loop {
        if let Ok(entry) = store.get(key).await {
            return entry;
        }
    }
}

async fn list(store: &EtcdStore, prefix: &str) -> Vec<Entry> {
    let attempts = async {
        loop {
            if let Ok((entries, _)) = store.list(prefix).await {
                return entries;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(DEADLINE, attempts).await.expect("the store answers again")
}

/// Waits until the store has `more` keys than now.
async fn progress(store: &EtcdStore, more: usize) {
    let now = list(store, "k/").await.len();
    timeout(DEADLINE, async { while list(store, "k/").await.len() < now + more {} })
        .await
        .expect("writers make progress");
}

struct Load {
    stop: tokio::sync::watch::Sender<bool>,
    writers: Vec<tokio::task::JoinHandle<Written>>,
}

impl Load {
    fn start(store: &EtcdStore) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let writers = (0..WRITERS).map(|n| tokio::spawn(write(store.clone(), n, stopped.clone()))).collect();
        Self { stop, writers }
    }

    async fn end(self) -> Written {
        self.stop.send(true).unwrap();
        let mut all = Written::default();
        for writer in self.writers {
            let written = writer.await.unwrap();
            all.acknowledged.extend(written.acknowledged);
            all.resolved.extend(written.resolved);
        }
        all
    }
}

/// The store holds what was acknowledged or resolved, whole and at that revision, and nothing else.
async fn verify(store: &EtcdStore, written: &Written) {
    let found = list(store, "k/").await;
    let twins = list(store, "twin/").await;
    assert_eq!(found.len(), twins.len());
    assert!(
        found.iter().zip(&twins).all(|(one, two)| one.revision == two.revision && one.value == two.value)
    );
    let found: BTreeMap<_, _> = found.into_iter().map(|entry| (entry.key, entry.revision)).collect();
    let mut expected = written.acknowledged.clone();
    expected.extend(written.resolved.clone());
    assert!(found == expected, "{} found, {} expected", found.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_transaction_is_lost_when_the_leader_dies() {
    let mut cluster = Cluster::start().await;
    let store = cluster.store(BRISK);
    let load = Load::start(&store);
    progress(&store, 50).await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.members.kill(&leader).await.unwrap();
        progress(&store, 50).await;
        cluster.members.restart(&leader).await.unwrap();
    }
    let written = load.end().await;
    verify(&store, &written).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_misses_nothing_while_every_member_dies_once() {
    let mut cluster = Cluster::start().await;
    let store = cluster.store(BRISK);
    // Another client: the watch starts at another member, and the writers do not tell it what they learn.
    let mut endpoints = cluster.members.endpoints();
    endpoints.rotate_left(1);
    let watcher = cluster.store_at(&endpoints, "/farshore/", BRISK);
    let mut watch = watcher.watch("k/", Revision(0)).await.unwrap();
    let load = Load::start(&store);
    let mut seen = BTreeMap::new();
    let following = tokio::spawn(async move {
        loop {
            match watch.next().await.unwrap() {
                Change::Put(entry) if entry.key == "k/end" => return seen,
                Change::Put(entry) => {
                    assert!(seen.values().all(|earlier| *earlier < entry.revision), "out of order or twice");
                    seen.insert(entry.key, entry.revision);
                }
                Change::Deleted { key, .. } => panic!("nobody removed {key}"),
            }
        }
    });
    for name in NAMES {
        progress(&store, 20).await;
        cluster.members.kill(name).await.unwrap();
        progress(&store, 20).await;
        cluster.members.restart(name).await.unwrap();
    }
    let mut written = load.end().await;
    settle(&store, "k/end", &mut written).await;
    let seen = timeout(DEADLINE, following).await.expect("the watch goes on").unwrap();
    written.acknowledged.extend(written.resolved);
    written.acknowledged.remove("k/end");
    assert!(seen == written.acknowledged, "{} seen, {} written", seen.len(), written.acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_member_holds_nobody_up() {
    let cluster = Cluster::start().await;
    let store = cluster.store(BRISK);
    let leader = cluster.leader().await;
    let follower = NAMES.into_iter().find(|name| *name != leader).unwrap();
    // All calls and the watch begin at the member that will stop.
    let mut endpoints = cluster.members.endpoints();
    endpoints.sort_by_key(|endpoint| *endpoint != cluster.members.endpoint(follower));
    let first = cluster.store_at(&endpoints, "/farshore/", BRISK);
    let mut watch = first.watch("k/", Revision(0)).await.unwrap();
    first.commit(create("k/0", "before")).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), Change::Put(entry) if entry.key == "k/0"));

    cluster.signal(follower, Signal::STOP);
    let mut written = Written::default();
    settle(&store, "k/1", &mut written).await;
    let next = timeout(DEADLINE, watch.next()).await.expect("the watch moves to another member");
    assert!(matches!(next.unwrap(), Change::Put(entry) if entry.key == "k/1"));
    assert_eq!(first.get("k/1").await.unwrap().unwrap().value, b"k/1");
    settle(&first, "k/2", &mut written).await;
    cluster.signal(follower, Signal::CONT);
    verify_keys(&first, &["k/0", "k/1", "k/2"]).await;
}

async fn verify_keys(store: &EtcdStore, expected: &[&str]) {
    let found: Vec<_> = list(store, "k/").await.into_iter().map(|entry| entry.key).collect();
    assert_eq!(found, expected);
}

/// One of three can neither write nor say what is stored; and it never claims a success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_says_nothing_and_a_majority_recovers() {
    let mut cluster = Cluster::start().await;
    let store = cluster.store(BRISK);
    store.commit(create("k/0", "before")).await.unwrap();
    let mut watch = store.watch("k/", Revision(0)).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), Change::Put(entry) if entry.key == "k/0"));
    for name in ["paris", "oslo"] {
        cluster.members.kill(name).await.unwrap();
    }
    for number in 0..3 {
        let refused = store.commit(create(&format!("lost/{number}"), "")).await;
        assert!(
            matches!(refused, Err(CommitError::Unavailable(_) | CommitError::Unknown(_))),
            "committed by a minority: {refused:?}"
        );
        let unread = store.get("k/0").await;
        assert!(matches!(unread, Err(ReadError::Unavailable(_))), "read from a minority: {unread:?}");
        assert!(store.list("k/").await.is_err());
        assert!(store.watch("k/", Revision(0)).await.is_err());
    }
    cluster.members.launch("paris").await.unwrap();
    cluster.members.restart("oslo").await.unwrap();
    let mut written = Written::default();
    settle(&store, "k/1", &mut written).await;
    verify_keys(&store, &["k/0", "k/1"]).await;
    let next = timeout(DEADLINE, watch.next()).await.expect("the watch goes on");
    assert!(matches!(next.unwrap(), Change::Put(entry) if entry.key == "k/1"));
}

/// What etcd has forgotten is said, and a watch from a list goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_what_was_compacted_is_told_to_list_again() {
    let cluster = Cluster::start().await;
    let store = Arc::new(cluster.store(BRISK));
    for number in 0..10 {
        store.commit(create(&format!("k/{number}"), "v")).await.unwrap();
    }
    let (_, revision) = store.list("k/").await.unwrap();
    let endpoint = cluster.members.endpoint("paris");
    let done = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &endpoint, "compact", &revision.0.to_string()])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let mut late = store.watch("k/", Revision(1)).await.unwrap();
    let refused = late.next().await.unwrap_err().to_string();
    assert!(refused.contains("compacted") && refused.contains("list again"), "{refused}");
    let mut watch = store.watch("k/", revision).await.unwrap();
    store.commit(create("k/after", "v")).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), Change::Put(entry) if entry.key == "k/after"));
}
