//! SIGKILL at any moment: what was acknowledged is there, whole, and nothing else is half there.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use farshore_core::store::{Compare, Revision, Store, Transaction, Write};
use farshore_store::RedbStore;

/// Set in the child, to the store's file.
const STORE: &str = "FARSHORE_TEST_CRASH_STORE";

/// How often a child is killed; each goes on in the file of the one before.
const KILLS: u64 = 12;

/// Commits at a time, so that kills meet shared commits too.
const COMMITTERS: u64 = 4;

/// In the child: commits numbered transactions and prints each number when it is acknowledged, until it is killed.
/// As a test of its own it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let store = Arc::new(RedbStore::open(Path::new(&path)).unwrap());
    let (_, start) = store.list("n/").await.unwrap();
    let committers: Vec<_> =
        (0..COMMITTERS).map(|n| tokio::spawn(commit(Arc::clone(&store), start, n))).collect();
    for committer in committers {
        committer.await.unwrap();
    }
}

async fn commit(store: Arc<RedbStore>, start: Revision, committer: u64) {
    for n in 0..100_000 {
        let key = format!("{}-{committer}-{n}", start.0);
        let put = |table: &str| Write::Put(format!("{table}/{key}"), key.clone().into_bytes());
        let compares = vec![Compare::Absent(format!("n/{key}"))];
        let revision =
            store.commit(Transaction { compares, writes: vec![put("n"), put("twin")] }).await.unwrap();
        let line = format!("acknowledged {} {key}\n", revision.0);
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

fn spawn(path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::child", "--nocapture"]).env(STORE, path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Reads acknowledgements, kills the child after `lines` of them, and returns all that it still managed to print.
fn kill_after(mut child: Child, lines: u64) -> Vec<(u64, String)> {
    let mut acknowledged = Vec::new();
    let mut killed = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The test harness prints, too, and may have begun the line.
        let Some((_, rest)) = line.split_once("acknowledged ") else { continue };
        let (revision, key) = rest.split_once(' ').unwrap();
        acknowledged.push((revision.parse().unwrap(), key.to_owned()));
        if acknowledged.len() as u64 >= lines && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself after {acknowledged:?}");
    acknowledged
}

async fn check(path: &Path, acknowledged: &[(u64, String)]) {
    let store = RedbStore::open(path).unwrap();
    let (numbers, revision) = store.list("n/").await.unwrap();
    let (twins, _) = store.list("twin/").await.unwrap();
    let twin = |key: &str| key.replacen("n/", "twin/", 1);
    let whole = numbers.iter().map(|entry| (twin(&entry.key), entry.revision));
    assert!(whole.eq(twins.iter().map(|entry| (entry.key.clone(), entry.revision))), "half a transaction");
    assert_eq!(revision, Revision(numbers.len() as u64), "each revision is one transaction");
    for (revision, key) in acknowledged {
        let entry = store.get(&format!("n/{key}")).await.unwrap().unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!(entry.revision, Revision(*revision));
    }
    let mut watch = store.watch("n/", Revision(0)).await.unwrap();
    for revision in 1..=revision.0 {
        let change = watch.next().await.unwrap();
        assert!(matches!(change, farshore_core::store::Change::Put(entry) if entry.revision.0 == revision));
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        // Spread over creation, the first commits and a steady stream.
        let lines = 1 + round * round * 3;
        acknowledged.extend(kill_after(spawn(&path), lines));
        check(&path, &acknowledged).await;
    }
}
