//! The copy in memory: equal to the store when it is live, and honest when it cannot know.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::store::{Entry, Revision, Store, Transaction, Write};
use farshore_store::MemStore;
use farshore_store::mirror::{Mirror, MirrorState};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::cluster::{BRISK, Cluster, DEADLINE, NAMES};

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    let writes = vec![Write::Put(key.into(), value.into())];
    store.commit(Transaction { compares: vec![], writes }).await.unwrap()
}

async fn until(mirror: &Mirror, what: &str, holds: impl Fn(&MirrorState) -> bool) {
    let wait = async {
        loop {
            let changed = mirror.changed();
            if holds(&mirror.state()) {
                return;
            }
            changed.await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "it is not {what} but {:?}", mirror.state());
}

fn value(mirror: &Mirror, key: &str) -> Option<Vec<u8>> {
    mirror.get(key).map(|entry| entry.value)
}

#[tokio::test]
async fn a_mirror_follows_its_prefix() {
    let store: Arc<dyn Store> = Arc::new(MemStore::new());
    put(&*store, "items/a", "1").await;
    put(&*store, "other", "x").await;
    let mirror = Mirror::start(Arc::clone(&store), "items/");
    assert!(matches!(mirror.state(), MirrorState::Starting { .. }));
    until(&mirror, "live", |state| *state == MirrorState::Live).await;
    assert_eq!(value(&mirror, "items/a").unwrap(), b"1");
    assert_eq!(value(&mirror, "other"), None);
    let writes = vec![Write::Put("items/b".into(), b"2".into()), Write::Delete("items/a".into())];
    let changed = mirror.changed();
    let revision = store.commit(Transaction { compares: vec![], writes }).await.unwrap();
    assert!(mirror.reach(revision, DEADLINE).await);
    changed.await;
    let expected = [Entry { key: "items/b".into(), value: b"2".into(), revision }];
    assert_eq!(mirror.list(""), expected);
    assert_eq!(mirror.list("items/b"), expected);
    assert_eq!(mirror.list("items/c"), []);
    // A revision without a change of the prefix is reached, too.
    let elsewhere = put(&*store, "other", "y").await;
    assert!(mirror.reach(elsewhere, DEADLINE).await);
    assert_eq!(mirror.list(""), expected);
    assert!(!mirror.reach(Revision(elsewhere.0 + 1), Duration::from_millis(300)).await);
}

/// While transactions move amounts between keys, no look sees half of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_is_never_half_a_transaction() {
    let store: Arc<dyn Store> = Arc::new(MemStore::new());
    let mirror = Mirror::start(Arc::clone(&store), "a/");
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut last = Revision(0);
            for n in 0..500_i64 {
                let put =
                    |key: i64, value: i64| Write::Put(format!("a/{key}"), value.to_string().into_bytes());
                let writes = (0..10).map(|key| put(key, if key == 0 { -9 * n } else { n })).collect();
                last = store.commit(Transaction { compares: vec![], writes }).await.unwrap();
                tokio::task::yield_now().await;
            }
            last
        })
    };
    while !writer.is_finished() {
        let values = mirror.list("");
        let sum: i64 = values
            .iter()
            .map(|entry| std::str::from_utf8(&entry.value).unwrap().parse::<i64>().unwrap())
            .sum();
        assert_eq!(sum, 0, "{values:?}");
        tokio::task::yield_now().await;
    }
    assert!(mirror.reach(writer.await.unwrap(), DEADLINE).await);
    assert_eq!(mirror.list(""), store.list("a/").await.unwrap().0);
}

/// The control plane is cut off: the last values are served and called stale; afterwards nothing was missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_of_a_stopped_etcd_says_so_and_recovers() {
    let cluster = Cluster::start().await;
    let store: Arc<dyn Store> = Arc::new(cluster.store(BRISK));
    put(&*store, "directory/a", "1").await;
    let mirror = Mirror::start(Arc::clone(&store), "");
    until(&mirror, "live", |state| *state == MirrorState::Live).await;
    assert_eq!(value(&mirror, "directory/a").unwrap(), b"1");

    for name in NAMES {
        cluster.signal(name, Signal::STOP);
    }
    until(&mirror, "stale", |state| matches!(state, MirrorState::Stale { .. })).await;
    assert_eq!(value(&mirror, "directory/a").unwrap(), b"1");
    let MirrorState::Stale { why, .. } = mirror.state() else { panic!("it cannot know") };
    assert!(why.contains("did not answer"), "{why}");

    for name in NAMES {
        cluster.signal(name, Signal::CONT);
    }
    // Another client writes before this one has noticed that it can.
    let other = cluster.store(BRISK);
    let revision = loop {
        let writes = vec![Write::Put("directory/a".into(), b"2".into()), Write::Put("b".into(), b"2".into())];
        if let Ok(revision) = other.commit(Transaction { compares: vec![], writes }).await {
            break revision;
        }
    };
    assert!(mirror.reach(revision, DEADLINE).await);
    assert_eq!(value(&mirror, "directory/a").unwrap(), b"2");
    until(&mirror, "live", |state| *state == MirrorState::Live).await;
    assert_eq!(mirror.list(""), store.list("").await.unwrap().0);
}

/// The one member that a client can reach is up, and cut off from the others: its open stream does not make the copy live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_of_a_member_without_a_majority_is_stale() {
    let cluster = Cluster::start().await;
    let store: Arc<dyn Store> =
        Arc::new(cluster.store_at(&[cluster.members.endpoint("paris")], "/farshore/", BRISK));
    let revision = put(&*store, "a", "1").await;
    let mirror = Mirror::start(Arc::clone(&store), "");
    assert!(mirror.reach(revision, DEADLINE).await);
    for name in ["oslo", "bergen"] {
        cluster.signal(name, Signal::STOP);
    }
    until(&mirror, "stale", |state| matches!(state, MirrorState::Stale { .. })).await;
    assert_eq!(value(&mirror, "a").unwrap(), b"1");
    for name in ["oslo", "bergen"] {
        cluster.signal(name, Signal::CONT);
    }
    until(&mirror, "live", |state| *state == MirrorState::Live).await;
}

/// One member that is cut off is left for another: the copy stays live and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_leaves_a_stopped_member() {
    let cluster = Cluster::start().await;
    let store: Arc<dyn Store> = Arc::new(cluster.store(BRISK));
    let mirror = Mirror::start(Arc::clone(&store), "");
    until(&mirror, "live", |state| *state == MirrorState::Live).await;
    cluster.signal("paris", Signal::STOP);
    let other = cluster.store_at(&[cluster.members.endpoint("oslo")], "/farshore/", BRISK);
    let revision = loop {
        let writes = vec![Write::Put("a".into(), b"1".into())];
        if let Ok(revision) = other.commit(Transaction { compares: vec![], writes }).await {
            break revision;
        }
    };
    assert!(mirror.reach(revision, DEADLINE).await);
    until(&mirror, "live", |state| *state == MirrorState::Live).await;
    cluster.signal("paris", Signal::CONT);
}

#[tokio::test]
async fn a_mirror_that_never_read_anything_is_starting() {
    let options = farshore_store::etcd::EtcdOptions {
        endpoints: vec!["http://127.0.0.1:9".into()],
        ..Default::default()
    };
    let store = Arc::new(farshore_store::EtcdStore::connect(options).unwrap());
    let mirror = Mirror::start(store, "");
    until(
        &mirror,
        "starting with a reason",
        |state| matches!(state, MirrorState::Starting { why, .. } if why.contains("127.0.0.1:9")),
    )
    .await;
}
