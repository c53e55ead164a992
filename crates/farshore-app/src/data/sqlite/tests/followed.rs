//! A replica that follows.

use super::*;
use crate::data::Engine;

#[tokio::test]
async fn a_replica_restores_to_what_its_source_committed() {
    let pair = Pair::new().await;
    let db = pair.app();
    fill(&db, 20, 100);
    pair.follow().await;
    fill(&db, 20, 5000);
    pair.follow().await;
    db.execute_batch("BEGIN; INSERT INTO t(v) VALUES ('not yet')").unwrap();
    assert!(!pair.step().await, "nothing is committed");
    assert_eq!(pair.live.position().commits, 41);
    let restored = pair.restored("restored").await;
    db.execute_batch("ROLLBACK").unwrap();
    assert_eq!(restored, content(&pair.path("source")));
}

#[tokio::test]
async fn a_log_that_starts_again_and_again_is_followed_without_a_second_snapshot() {
    let pair = Pair::new().await;
    let db = pair.app();
    fill(&db, 1, 100);
    pair.follow().await;
    let copies = || copies(&pair.path("replica"));
    let first = copies();
    let salts = || std::fs::read(log_file(&pair.path("source"))).unwrap()[16..24].to_vec();
    for _ in 0..5 {
        let before = salts();
        let turned = async {
            while salts() == before {
                fill(&db, 10, 4000);
                pair.follow().await;
            }
        };
        tokio::time::timeout(LONG, turned).await.expect("the log starts again");
    }
    assert_eq!(copies(), first);
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn what_a_replica_has_not_confirmed_is_kept_while_the_log_starts_again() {
    let pair = Pair::new().await;
    let db = pair.app();
    fill(&db, 1, 100);
    pair.follow().await;
    let first = copies(&pair.path("replica"));
    fill(&db, 50, 4000);
    wait_for_turn(&pair).await;
    pair.follow().await;
    assert_eq!(copies(&pair.path("replica")), first);
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn a_replica_that_is_too_far_behind_stays_restorable_and_gets_a_new_snapshot() {
    let pair = Pair::new().await;
    let db = pair.app();
    fill(&db, 5, 100);
    pair.follow().await;
    let (old, before) = (content(&pair.path("source")), copies(&pair.path("replica")));
    for _ in 0..8 {
        db.execute("DELETE FROM t WHERE n > 5", []).unwrap();
        fill(&db, 100, 4000);
        pair.live.settle(Duration::ZERO).await.unwrap_err();
    }
    assert_eq!(pair.restored("meanwhile").await, old);
    pair.follow().await;
    assert_ne!(copies(&pair.path("replica")), before);
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn both_sides_go_on_after_a_restart_where_they_were() {
    let pair = Pair::new().await;
    let db = pair.app();
    fill(&db, 30, 4000);
    pair.follow().await;
    let first = copies(&pair.path("replica"));
    let position = pair.live.position();
    drop(db);
    let pair = pair.restart_source().await.restart_replica().await;
    assert_eq!(pair.live.position().commits, position.commits);
    assert_eq!(pair.live.position().bytes, position.bytes);
    assert_eq!(pair.replica.position(), position);
    fill(&pair.app(), 30, 4000);
    pair.follow().await;
    assert_eq!(copies(&pair.path("replica")), first, "no second snapshot");
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn a_stopped_database_is_complete_in_its_files_and_goes_on_later() {
    let pair = Pair::new().await;
    fill(&pair.app(), 3, 100);
    let position = pair.live.stop().await.unwrap();
    assert_eq!(position.commits, 4);
    let refused = pair.live.ship(&pair.replica.request(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(refused, DataError::Stopped(_)), "{refused}");
    let pair = pair.restart_source().await;
    assert_eq!(pair.live.position().commits, 4);
    pair.follow().await;
}

#[tokio::test]
async fn a_restored_database_goes_on_counting_where_its_replica_was() {
    let pair = Pair::new().await;
    fill(&pair.app(), 7, 100);
    pair.follow().await;
    let there = pair.path("there");
    let position = pair.replica.restore(&there).await.unwrap();
    assert_eq!(position.commits, 8);
    let live = open_live(&there, position, SMALL).await.unwrap();
    fill(&app(&there), 1, 100);
    live.settle(Duration::ZERO).await.unwrap_err();
    // The table is there already, and one row was added.
    assert_eq!(live.position().commits, 9);
}

#[tokio::test]
async fn nothing_is_settled_until_the_replica_has_said_so() {
    let pair = Pair::new().await;
    let db = pair.app();
    assert!(!pair.live.is_settled() && pair.live.confirmed().is_none());
    pair.follow().await;
    assert!(pair.live.is_settled());
    fill(&db, 1, 10);
    assert!(!pair.live.is_settled(), "it is seen without waiting for anybody");
    let behind = pair.live.settle(Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(behind.lacks.commits, 2);
    let live = Arc::clone(&pair.live);
    let settled = tokio::spawn(async move { live.settle(LONG).await });
    pair.follow().await;
    settled.await.unwrap().unwrap();
    assert!(pair.live.is_settled());
    assert_eq!(pair.live.confirmed(), Some(pair.replica.position()));
}

#[tokio::test]
async fn a_commit_wakes_a_replica_that_waits() {
    let pair = Pair::new().await;
    let db = pair.app();
    fill(&db, 1, 10);
    pair.follow().await;
    let (live, request) = (Arc::clone(&pair.live), pair.replica.request());
    let answer = tokio::spawn(async move { live.ship(&request, LONG).await });
    fill(&db, 1, 10);
    let answer = tokio::time::timeout(LONG / 2, answer).await.expect("it is woken").unwrap().unwrap();
    assert!(pair.replica.apply(&answer).await.unwrap());
    assert_eq!(pair.replica.position().commits, 3);
}

#[tokio::test]
async fn the_app_is_told_where_its_database_is_and_may_change_it_as_it_likes() {
    let pair = Pair::new().await;
    let env: BTreeMap<_, _> = pair.live.env().into_iter().collect();
    assert_eq!(env["DATABASE_URL"], format!("sqlite://{}", env["DATABASE_FILE"]));
    let db = Connection::open(&env["DATABASE_FILE"]).unwrap();
    pair.live.check().await.unwrap();
    db.execute_batch("CREATE TABLE a(x); CREATE INDEX i ON a(x); INSERT INTO a VALUES (1), (2)").unwrap();
    pair.follow().await;
    db.execute_batch("DROP INDEX i; ALTER TABLE a ADD COLUMN y; DELETE FROM a WHERE x=1; VACUUM").unwrap();
    pair.follow().await;
    app_checkpoint(&db, "TRUNCATE");
    db.execute_batch("INSERT INTO a VALUES (3, 4)").unwrap();
    pair.follow().await;
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn a_backup_is_what_was_committed_when_it_was_taken() {
    let pair = Pair::new().await;
    let db = pair.app();
    fill(&db, 9, 3000);
    let then = content(&pair.path("source"));
    let into = pair.path("backup.db");
    let meta = pair.live.backup(&into).await.unwrap();
    fill(&db, 1, 10);
    assert_eq!((meta.engine, meta.position.commits, meta.rows["t"]), (Engine::Sqlite, 10, 9));
    assert_eq!(meta.bytes, std::fs::metadata(&into).unwrap().len());
    let rows = restore_backup(&into, &pair.path("restored")).await.unwrap();
    assert_eq!(rows, meta.rows);
    assert_eq!(content(&pair.path("restored")), then);
    for taken in [&into, &pair.path("restored")] {
        let refused = pair.live.backup(taken).await.unwrap_err();
        assert!(matches!(refused, DataError::Exists(_)), "{refused}");
    }
    let refused = restore_backup(&into, &pair.path("restored")).await.unwrap_err();
    assert!(matches!(refused, DataError::Exists(_)), "{refused}");
}

/// The names of the copies in a replica's directory.
pub(super) fn copies(replica: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(replica).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("copy-")).collect()
}

/// Until the source has put frames aside.
async fn wait_for_turn(pair: &Pair) {
    let ship = pair.path("source/ship");
    let kept = || {
        std::fs::read_dir(&ship)
            .unwrap()
            .any(|entry| entry.unwrap().path().extension().is_some_and(|e| e == "log"))
    };
    let turned = async {
        while !kept() {
            let _ = pair.live.settle(Duration::ZERO).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, turned).await.expect("the log is turned");
}
