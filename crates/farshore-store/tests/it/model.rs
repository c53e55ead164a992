//! Random transactions against the plainest possible store: memory, redb, etcd and the model never differ, also when the
//! redb file is closed and opened again in between, and when another client goes on with etcd.

use std::collections::BTreeMap;
use std::path::Path;

use farshore_core::store::{Change, CommitError, Compare, Entry, Revision, Store, Transaction, Write};
use farshore_store::{EtcdStore, MemStore, RedbStore};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::cluster::{Cluster, PATIENT};

#[derive(Debug, Default)]
struct Model {
    revision: u64,
    entries: BTreeMap<String, (Vec<u8>, u64)>,
    changes: Vec<Change>,
}

impl Model {
    fn commit(&mut self, transaction: &Transaction) -> Result<u64, String> {
        let mut keys: Vec<_> = transaction.writes.iter().map(key_of).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("invalid".into());
        }
        for compare in &transaction.compares {
            let (key, expected) = match compare {
                Compare::Absent(key) => (key, None),
                Compare::At(key, revision) => (key, Some(revision.0)),
            };
            if self.entries.get(key).map(|(_, revision)| *revision) != expected {
                return Err(key.clone());
            }
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        for write in transaction.writes.clone() {
            match write {
                Write::Put(key, value) => {
                    self.entries.insert(key.clone(), (value.clone(), revision.0));
                    self.changes.push(Change::Put(Entry { key, value, revision }));
                }
                Write::Delete(key) if self.entries.remove(&key).is_some() => {
                    self.changes.push(Change::Deleted { key, revision });
                }
                Write::Delete(_) => {}
            }
        }
        Ok(self.revision)
    }

    fn list(&self, prefix: &str) -> Vec<Entry> {
        let matching = self.entries.iter().filter(|(key, _)| key.starts_with(prefix));
        let entry = |(key, (value, revision)): (&String, &(Vec<u8>, u64))| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: Revision(*revision),
        };
        matching.map(entry).collect()
    }
}

fn key_of(write: &Write) -> &String {
    match write {
        Write::Put(key, _) | Write::Delete(key) => key,
    }
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Transaction),
    Reopen,
}

fn keys() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a/b", "a/b/c", "a0", "b", "é"]).prop_map(str::to_owned)
}

/// Revisions are guessed near the number of steps, so that many compares hold.
fn compares() -> impl Strategy<Value = Compare> {
    prop_oneof![
        keys().prop_map(Compare::Absent),
        (keys(), 0..40_u64).prop_map(|(key, revision)| Compare::At(key, Revision(revision))),
    ]
}

fn writes() -> impl Strategy<Value = Write> {
    prop_oneof![
        3 => (keys(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(key, value)| Write::Put(key, value)),
        1 => keys().prop_map(Write::Delete),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let transaction = (prop::collection::vec(compares(), 0..2), prop::collection::vec(writes(), 0..4));
    prop_oneof![
        12 => transaction.prop_map(|(compares, writes)| Step::Commit(Transaction { compares, writes })),
        1 => Just(Step::Reopen),
    ]
}

fn verdict(result: Result<Revision, CommitError>) -> Result<u64, String> {
    match result {
        Ok(revision) => Ok(revision.0),
        Err(CommitError::Conflict { key }) => Err(key),
        Err(CommitError::Invalid(_)) => Err("invalid".into()),
        Err(other) => panic!("{other}"),
    }
}

async fn same(store: &impl Store, model: &Model, name: &str) {
    for prefix in ["", "a", "a/", "é"] {
        let expected = (model.list(prefix), Revision(model.revision));
        assert_eq!(store.list(prefix).await.unwrap(), expected, "{name} under {prefix:?}");
    }
    for after in [0, model.revision / 2] {
        let mut watch = store.watch("", Revision(after)).await.unwrap();
        for change in model.changes.iter().filter(|change| revision_of(change) > after) {
            assert_eq!(watch.next().await.unwrap(), *change, "{name} watched after {after}");
        }
    }
}

fn revision_of(change: &Change) -> u64 {
    match change {
        Change::Put(entry) => entry.revision.0,
        Change::Deleted { revision, .. } => revision.0,
    }
}

async fn run(steps: Vec<Step>, path: &Path) {
    let (mut model, mem, mut redb) = (Model::default(), MemStore::new(), RedbStore::open(path).unwrap());
    for step in steps {
        match step {
            Step::Commit(transaction) => {
                let expected = model.commit(&transaction);
                assert_eq!(verdict(mem.commit(transaction.clone()).await), expected, "mem: {transaction:?}");
                assert_eq!(
                    verdict(redb.commit(transaction.clone()).await),
                    expected,
                    "redb: {transaction:?}"
                );
            }
            Step::Reopen => {
                drop(redb);
                redb = RedbStore::open(path).unwrap();
                same(&redb, &model, "redb, opened again").await;
            }
        }
    }
    same(&mem, &model, "mem").await;
    same(&redb, &model, "redb").await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_stores_do_what_the_model_does(steps in prop::collection::vec(steps(), 1..50)) {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(steps, &directory.path().join("store.redb")));
    }
}

/// etcd's revisions for the model's: others write to it, too, so that they only rise.
#[derive(Debug)]
struct Revisions(Vec<u64>);

impl Revisions {
    fn of(&self, model: u64) -> Revision {
        // What the model has not reached yet, etcd has not reached either.
        let future = || self.0.last().unwrap() + 1_000_000;
        Revision(self.0.get(usize::try_from(model).unwrap()).copied().unwrap_or_else(future))
    }

    fn transaction(&self, transaction: Transaction) -> Transaction {
        let compares = transaction.compares.into_iter().map(|compare| match compare {
            Compare::At(key, Revision(model)) => Compare::At(key, self.of(model)),
            absent @ Compare::Absent(_) => absent,
        });
        Transaction { compares: compares.collect(), writes: transaction.writes }
    }

    fn entry(&self, entry: Entry) -> Entry {
        Entry { revision: self.of(entry.revision.0), ..entry }
    }

    fn change(&self, change: Change) -> Change {
        match change {
            Change::Put(entry) => Change::Put(self.entry(entry)),
            Change::Deleted { key, revision } => Change::Deleted { key, revision: self.of(revision.0) },
        }
    }
}

async fn run_on_etcd(steps: Vec<Step>, connect: impl Fn() -> EtcdStore) {
    let (mut model, mut etcd) = (Model::default(), connect());
    let mut revisions = Revisions(vec![0]);
    for step in steps {
        let Step::Commit(transaction) = step else {
            etcd = connect();
            continue;
        };
        let expected = model.commit(&transaction);
        let done = etcd.commit(revisions.transaction(transaction.clone())).await;
        if let (Ok(model), Ok(real)) = (&expected, &done) {
            assert!(real.0 > *revisions.0.last().unwrap(), "the revision does not rise");
            assert_eq!(revisions.0.len() as u64, *model);
            revisions.0.push(real.0);
        }
        assert_eq!(verdict(done).map(|_| ()), expected.map(|_| ()), "etcd: {transaction:?}");
    }
    for prefix in ["", "a", "a/", "é"] {
        let expected: Vec<_> = model.list(prefix).into_iter().map(|entry| revisions.entry(entry)).collect();
        assert_eq!(etcd.list(prefix).await.unwrap().0, expected, "under {prefix:?}");
    }
    let after = model.revision / 2;
    let mut watch = etcd.watch("", revisions.of(after)).await.unwrap();
    for change in model.changes.into_iter().filter(|change| revision_of(change) > after) {
        assert_eq!(watch.next().await.unwrap(), revisions.change(change), "watched after {after}");
    }
}

/// A case takes a hundred times longer than on the others: fewer of them.
#[test]
fn etcd_does_what_the_model_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = runtime.block_on(Cluster::start());
    let cases = std::sync::atomic::AtomicU64::new(0);
    let config = ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() };
    let steps = prop::collection::vec(steps(), 1..50);
    let done = TestRunner::new(config).run(&steps, |steps| {
        let prefix = format!("/case/{}/", cases.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let connect = || cluster.store_at(&cluster.members.endpoints(), &prefix, PATIENT);
        runtime.block_on(run_on_etcd(steps, connect));
        Ok(())
    });
    let _inside = runtime.enter();
    drop(cluster);
    done.unwrap();
}
