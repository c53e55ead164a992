//! An app whose schema needs functions and collations of its own, and whose rows break its own rules.

use std::process::Command;

use super::*;
use crate::data::sqlite::snapshot::check_whole;

/// Every place where a schema can name what only the app has.
const SCHEMA: &str = "
import os, sqlite3
db = sqlite3.connect(os.environ['DATABASE_FILE'], isolation_level=None)
db.create_function('norm', 1, lambda text: text and text.lower(), deterministic=True)
db.create_collation('own', lambda one, other: (one.lower() > other.lower()) - (one.lower() < other.lower()))
db.executescript('''
CREATE TABLE named(n INTEGER PRIMARY KEY, name TEXT COLLATE own UNIQUE, CHECK (norm(name) <> 'nobody'));
CREATE INDEX by_norm ON named(norm(name));
CREATE INDEX some ON named(n) WHERE norm(name) > 'b';
CREATE TABLE keyed(name TEXT COLLATE own PRIMARY KEY, n) WITHOUT ROWID;
CREATE INDEX by_n ON keyed(n);
COMPUTED
CREATE VIEW normed AS SELECT norm(name) FROM named;
''')
for n in range(200):
    name = 'aBcD'[n % 4] + str(n)
    db.execute('INSERT INTO named(name) VALUES (?)', [name])
    db.execute('INSERT INTO keyed VALUES (?, ?)', [name, n])
";
/// A column that is computed whenever it is looked at.
const COMPUTED: &str = "CREATE TABLE computed(name, normed TEXT AS (norm(name)) VIRTUAL NOT NULL);
INSERT INTO computed(name) VALUES ('A'), ('b');";

fn fill_by_the_app(dir: &Path, computed: &str) {
    let python = Command::new("python3")
        .args(["-c", &SCHEMA.replace("COMPUTED", computed)])
        .env("DATABASE_FILE", database_file(dir))
        .output()
        .unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
}

/// All that can be seen of it by others.
fn seen(dir: &Path) -> Vec<String> {
    let db = app(dir);
    let mut rows = db.prepare("SELECT n || hex(name) FROM named NOT INDEXED ORDER BY n").unwrap();
    let rows: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 200);
    rows
}

#[tokio::test]
async fn a_database_that_needs_its_apps_functions_and_collations_is_restored_and_backed_up() {
    for computed in ["", COMPUTED] {
        let pair = Pair::new().await;
        fill_by_the_app(&pair.path("source"), computed);
        pair.follow().await;
        let (into, file) = (pair.path("restored"), pair.path("backup.db"));
        pair.replica.restore(&into).await.unwrap();
        assert!(pair.replica.is_whole());
        assert_eq!(seen(&into), seen(&pair.path("source")));
        let meta = pair.live.backup(&file).await.unwrap();
        assert_eq!((meta.rows["named"], meta.rows["keyed"]), (200, 200));
        assert_eq!(meta.rows.get("computed").copied(), (!computed.is_empty()).then_some(2));
        let rows = restore_backup(&file, &pair.path("from-backup")).await.unwrap();
        assert_eq!(rows, meta.rows);
        assert_eq!(seen(&pair.path("from-backup")), seen(&into));
    }
}

#[tokio::test]
async fn damage_is_found_where_indexes_cannot_be_compared() {
    for computed in ["", COMPUTED] {
        let pair = Pair::new().await;
        fill_by_the_app(&pair.path("source"), computed);
        let file = pair.path("backup.db");
        pair.live.backup(&file).await.unwrap();
        check_whole(&file).unwrap();
        let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'keyed'";
        let db = Connection::open(&file).unwrap();
        let root: usize = db.query_row(root, [], |row| row.get::<_, u32>(0)).unwrap() as usize;
        let size: usize = db.query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0)).unwrap() as usize;
        drop(db);
        // Where its cells are.
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[(root - 1) * size + 12..][..8].fill(0xff);
        std::fs::write(&file, bytes).unwrap();
        let refused = check_whole(&file).unwrap_err();
        assert!(matches!(refused, DataError::Corrupt { .. }), "{refused}");
        std::fs::write(&file, "no database at all".repeat(1000)).unwrap();
        let refused = check_whole(&file).unwrap_err();
        assert!(matches!(refused, DataError::Corrupt { .. }), "{refused}");
    }
}

#[tokio::test]
async fn rows_that_break_the_apps_own_rules_are_no_damage() {
    let pair = Pair::new().await;
    let db = pair.app();
    db.execute_batch(
        "PRAGMA ignore_check_constraints=ON;
         CREATE TABLE t(n INTEGER PRIMARY KEY, v INTEGER CHECK (v > 0), s TEXT);
         CREATE TABLE strict(v INTEGER) STRICT;
         CREATE TABLE doc(id INTEGER PRIMARY KEY, body);
         CREATE VIRTUAL TABLE found USING fts4(content='doc', body);
         INSERT INTO doc(body) VALUES ('as it was');
         INSERT INTO found(docid, body) SELECT id, body FROM doc;
         UPDATE doc SET body = 'and is not any more';
         INSERT INTO t(v, s) VALUES (-1, NULL), (2, 'b'), (3, 'c');
         INSERT INTO strict VALUES (1);
         PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql = replace(replace(sql, 's TEXT', 's TEXT NOT NULL'), 'v INTEGER CHECK', 'v TEXT CHECK')
             WHERE name = 't';
         UPDATE sqlite_schema SET sql = replace(sql, 'v INTEGER', 'v TEXT') WHERE name = 'strict';
         PRAGMA writable_schema=RESET",
    )
    .unwrap();
    let said: Vec<String> = {
        let mut check = db.prepare("PRAGMA integrity_check").unwrap();
        check.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    for of in [
        "NUMERIC value in t.v",
        "NULL value in t.s",
        "non-TEXT value in strict.v",
        "malformed inverted index",
    ] {
        assert!(said.iter().any(|said| said.contains(of)), "{of}: {said:?}");
    }
    pair.follow().await;
    let file = pair.path("backup.db");
    pair.live.backup(&file).await.unwrap();
    restore_backup(&file, &pair.path("from-backup")).await.unwrap();
    pair.replica.restore(&pair.path("restored")).await.unwrap();
    // An index that lacks an entry stays damage among them.
    db.execute_batch(
        "CREATE INDEX by_v ON t(v); PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX by_v ON t(s)' WHERE name = 'by_v'; PRAGMA writable_schema=RESET",
    )
    .unwrap();
    pair.follow().await;
    let refused = pair.replica.restore(&pair.path("damaged")).await.unwrap_err();
    assert!(refused.to_string().contains("missing from index by_v"), "{refused}");
    assert!(!refused.to_string().contains("value in"), "{refused}");
}
