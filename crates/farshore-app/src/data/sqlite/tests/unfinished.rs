//! An app that dies in the middle of a commit: its frames are in the log's file, and no reader has ever seen them.

use std::process::{Command, Stdio};

use super::followed::copies;
use super::killed::{App, prefix};
use super::*;

/// How often the app is killed.
const ROUNDS: u64 = 20;
/// Commits, and takes the index back to where it was: what a process leaves that is killed while it waits for the disk.
const DIES: &str = "
import os, sqlite3, signal
file = os.environ['DATABASE_FILE']
db = sqlite3.connect(file, isolation_level=None)
db.execute('SELECT count(*) FROM t').fetchone()
shm = open(file + '-shm', 'r+b')
before = shm.read()
db.execute('BEGIN')
for n in range(20):
    db.execute('INSERT INTO t(v) VALUES (hex(randomblob(2000)))')
db.execute('COMMIT')
shm.seek(0)
shm.write(before)
shm.flush()
os.kill(os.getpid(), signal.SIGKILL)
";

fn dies_in_its_commit(dir: &Path) {
    let python = Command::new("python3")
        .args(["-c", DIES])
        .env("DATABASE_FILE", database_file(dir))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(python.status.code(), None, "{}", String::from_utf8_lossy(&python.stderr));
}

fn frames_in_file(dir: &Path) -> u64 {
    std::fs::metadata(log_file(dir)).unwrap().len()
}

#[tokio::test]
async fn a_commit_that_was_cut_off_is_not_shipped_and_what_is_written_over_it_is() {
    let pair = Pair::new().await;
    let source = pair.path("source");
    fill(&pair.app(), 5, 100);
    pair.follow().await;
    let (before, position) = (frames_in_file(&source), pair.live.position());
    let first = copies(&pair.path("replica"));
    dies_in_its_commit(&source);
    assert!(frames_in_file(&source) > before, "its frames are there");
    pair.follow().await;
    assert_eq!(pair.live.position(), position, "nobody can read it, so it is no commit");
    for rows in [1, 3, 40] {
        fill(&pair.app(), rows, 1000);
        assert!(!pair.live.is_settled(), "what was just written is nowhere else");
        pair.follow().await;
        pair.live.settle(Duration::ZERO).await.unwrap();
        assert_eq!(pair.restored(&format!("restored-{rows}")).await, content(&source));
    }
    assert_eq!(pair.live.position().commits, position.commits + 44);
    assert_eq!(copies(&pair.path("replica")), first, "no second snapshot");
}

#[tokio::test]
async fn a_commit_that_was_cut_off_is_gone_when_the_node_looks_anew() {
    let pair = Pair::new().await;
    fill(&pair.app(), 5, 100);
    pair.follow().await;
    dies_in_its_commit(&pair.path("source"));
    pair.follow().await;
    // Without anybody who holds the index, SQLite takes the frames for what they say: then they are a commit.
    let pair = pair.restart_source().await;
    fill(&pair.app(), 3, 1000);
    pair.follow().await;
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_is_killed_again_and_again_loses_nothing_that_it_acknowledged() {
    let pair = Pair::new().await;
    let source = pair.path("source");
    for round in 1..=ROUNDS {
        let app = App::start(&source, "FULL");
        let written = async {
            while app.said() < round * 5 {
                pair.step().await;
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, written).await.expect("the app writes");
        let said = app.kill();
        pair.follow().await;
        let into = pair.path(&format!("restored-{round}"));
        pair.replica.restore(&into).await.unwrap();
        let rows = prefix(&into);
        assert!(rows >= said, "round {round}: {rows} rows, {said} were acknowledged, and all was settled");
    }
}
