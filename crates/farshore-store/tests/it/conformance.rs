//! Every rule on every store.

mod mem {
    use std::sync::Arc;

    use farshore_store::{MemStore, conformance};

    async fn make() -> conformance::Subject {
        Arc::new(MemStore::new())
    }

    farshore_store::conformance_tests!(make);

    #[tokio::test]
    async fn the_revisions_of_an_own_store_are_counted() {
        conformance::the_revisions_of_an_own_store_are_counted(make().await).await;
    }

    #[tokio::test]
    async fn a_watch_from_before_the_log_is_told() {
        conformance::a_watch_from_before_the_log_is_told(make().await).await;
    }
}

mod redb {
    use std::sync::Arc;

    use async_trait::async_trait;
    use farshore_core::store::{CommitError, Entry, ReadError, Revision, Store, Transaction, Watch};
    use farshore_store::{RedbStore, conformance};
    use tempfile::TempDir;

    /// A store that takes its directory with it.
    #[derive(Debug)]
    struct Temporary {
        store: RedbStore,
        _directory: TempDir,
    }

    #[async_trait]
    impl Store for Temporary {
        async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
            self.store.get(key).await
        }
        async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), ReadError> {
            self.store.list(prefix).await
        }
        async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
            self.store.commit(transaction).await
        }
        async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
            self.store.watch(prefix, after).await
        }
    }

    async fn make() -> conformance::Subject {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = RedbStore::open(&directory.path().join("store.redb")).expect("an empty directory");
        Arc::new(Temporary { store, _directory: directory })
    }

    farshore_store::conformance_tests!(make);

    #[tokio::test]
    async fn the_revisions_of_an_own_store_are_counted() {
        conformance::the_revisions_of_an_own_store_are_counted(make().await).await;
    }

    #[tokio::test]
    async fn a_watch_from_before_the_log_is_told() {
        conformance::a_watch_from_before_the_log_is_told(make().await).await;
    }

    #[tokio::test]
    async fn a_watch_of_a_closed_store_ends() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("store.redb");
        let store = RedbStore::open(&path).unwrap();
        let mut watch = store.watch("", Revision(0)).await.unwrap();
        drop(store);
        assert!(watch.next().await.is_err());
        RedbStore::open(&path).expect("a watch does not hold the file");
    }
}

mod etcd {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use farshore_store::conformance;

    use crate::cluster::{Cluster, PATIENT};

    /// One cluster for all rules: a member costs half a second and an election.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_rule_on_three_members() {
        let cluster = Cluster::start().await;
        let rules = AtomicU64::new(0);
        let make = async || {
            let prefix = format!("/rule/{}/", rules.fetch_add(1, Ordering::Relaxed));
            let store = cluster.store_at(&cluster.members.endpoints(), &prefix, PATIENT);
            Arc::new(store) as conformance::Subject
        };
        conformance::conformance(make).await;
    }
}
