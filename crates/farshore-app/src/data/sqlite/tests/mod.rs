//! A database and its replica, driven by hand: every exchange is one call, and nothing waits for a clock.

mod followed;
mod home;
mod killed;
mod own_code;
mod random;
mod traps;
mod unfinished;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::*;

/// Small enough that a test turns the log often.
const SMALL: LiveOptions = LiveOptions { turn_bytes: 64 << 10, backlog_bytes: 1 << 20 };
/// More than any of these tests needs; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(120);

/// Two regions' directories, and who works in them.
struct Pair {
    home: tempfile::TempDir,
    live: Arc<dyn Live>,
    replica: Arc<dyn Replica>,
}

impl Pair {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("source");
        create(&dir).await.unwrap();
        let live = open_live(&dir, Position::default(), SMALL).await.unwrap();
        let replica = open_replica(&home.path().join("replica")).await.unwrap();
        Self { home, live, replica }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn app(&self) -> Connection {
        app(&self.path("source"))
    }

    /// One exchange. True when it brought something.
    async fn step(&self) -> bool {
        let answer = self.live.ship(&self.replica.request(), Duration::ZERO).await.unwrap();
        self.replica.apply(&answer).await.unwrap()
    }

    /// The exchange in which a replica learns of its snapshot.
    async fn begin(&self) {
        let answer = self.live.ship(&self.replica.request(), LONG).await.unwrap();
        assert!(self.replica.apply(&answer).await.unwrap());
    }

    /// Exchanges until the replica has everything, and the source knows.
    async fn follow(&self) {
        let followed = async {
            loop {
                let brought = self.step().await;
                if !brought && self.replica.is_whole() && self.live.settle(Duration::ZERO).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(LONG, followed).await.expect("the replica follows");
        assert_eq!(self.replica.position().commits, self.live.position().commits);
        assert_eq!(self.replica.position().bytes, self.live.position().bytes);
    }

    /// The source's node is gone and has come back: its files are as they were.
    async fn restart_source(self) -> Self {
        let Self { home, live, replica } = self;
        drop(live);
        let live = open_live(&home.path().join("source"), Position::default(), SMALL).await.unwrap();
        Self { home, live, replica }
    }

    async fn restart_replica(self) -> Self {
        let Self { home, live, replica } = self;
        replica.close().await;
        drop(replica);
        let replica = open_replica(&home.path().join("replica")).await.unwrap();
        Self { home, live, replica }
    }

    /// What the replica restores to.
    async fn restored(&self, name: &str) -> BTreeMap<String, Vec<String>> {
        let into = self.path(name);
        let position = self.replica.restore(&into).await.unwrap();
        assert_eq!(position, self.replica.position());
        content(&into)
    }
}

/// As an app opens its database: in whatever mode it finds it. Only processes die in these tests, so nothing is synced.
fn app(dir: &Path) -> Connection {
    let db = Connection::open(database_file(dir)).unwrap();
    db.busy_timeout(LONG).unwrap();
    db.execute_batch("PRAGMA synchronous=OFF").unwrap();
    db
}

/// Checkpoints in this mode, as an app may. It hardly waits: pins may hold it up for good.
fn app_checkpoint(db: &Connection, mode: &str) {
    db.busy_timeout(Duration::from_millis(20)).unwrap();
    db.execute_batch(&format!("PRAGMA wal_checkpoint({mode})")).unwrap();
    db.busy_timeout(LONG).unwrap();
}

/// A table with `rows` rows of `bytes` bytes, each a transaction.
fn fill(db: &Connection, rows: u32, bytes: u32) {
    db.execute_batch("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, v)").unwrap();
    for _ in 0..rows {
        db.execute("INSERT INTO t(v) VALUES (hex(randomblob(?1)))", [bytes / 2]).unwrap();
    }
}

/// Everything in a database that nobody uses: its schema, and every row of every table as text.
fn content(dir: &Path) -> BTreeMap<String, Vec<String>> {
    let db = app(dir);
    let mut tables = db.prepare("SELECT name, sql FROM sqlite_schema WHERE type='table'").unwrap();
    let tables: Vec<(String, String)> =
        tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    tables.into_iter().map(|(name, sql)| (format!("{name}: {sql}"), rows(&db, &name))).collect()
}

fn rows(db: &Connection, table: &str) -> Vec<String> {
    let mut all = db.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY 1, 2")).unwrap();
    let columns = all.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        let cell = |column| row.get::<_, rusqlite::types::Value>(column).map(|value| format!("{value:?}"));
        (0..columns).map(cell).collect::<Result<Vec<_>, _>>().map(|cells| cells.join("|"))
    };
    all.query_map([], row).unwrap().map(Result::unwrap).collect()
}
