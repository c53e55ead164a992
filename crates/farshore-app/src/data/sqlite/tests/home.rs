//! The way home.

use super::*;

/// The other region serves what it had of the source; the old source has `lost` commits of its own.
async fn failed_over(lost: u32, bytes: u32) -> (Pair, Position) {
    let pair = Pair::new().await;
    fill(&pair.app(), 60, 4000);
    pair.follow().await;
    let kept = pair.replica.position();
    for _ in 0..lost {
        fill(&pair.app(), 1, bytes);
        let _ = pair.live.settle(Duration::ZERO).await;
    }
    (pair, kept)
}

#[tokio::test]
async fn what_only_the_old_source_has_is_counted_exactly() {
    for lost in [0, 3, 60] {
        let (pair, kept) = failed_over(lost, 4000).await;
        let last = pair.live.position();
        drop(pair.live);
        let loss = commits_after(&pair.home.path().join("source"), kept).await.unwrap();
        assert_eq!((loss.commits, loss.bytes), (u64::from(lost), last.bytes - kept.bytes));
        assert!(loss.seconds >= 0.0 && loss.seconds < LONG.as_secs_f64());
    }
}

#[tokio::test]
async fn only_pages_that_differ_travel_to_an_old_source() {
    let (pair, kept) = failed_over(2, 100).await;
    let there = pair.path("there");
    let position = pair.replica.restore(&there).await.unwrap();
    assert_eq!(position, kept);
    let Pair { home, live, replica } = pair;
    drop((live, replica));
    let new = open_live(&there, position, SMALL).await.unwrap();
    app(&there).execute_batch("UPDATE t SET v = 'there' WHERE n = 7").unwrap();
    adopt_old(&home.path().join("source"), &home.path().join("way-home")).await.unwrap();
    let loss = commits_after(&home.path().join("source"), kept).await.unwrap();
    assert_eq!(loss.commits, 2, "it was only read");
    let back = open_replica(&home.path().join("way-home")).await.unwrap();
    let mut moved = 0;
    while !back.is_whole() || !new.is_settled() {
        let answer = new.ship(&back.request(), Duration::ZERO).await.unwrap();
        moved += answer.len() as u64;
        back.apply(&answer).await.unwrap();
    }
    let whole = std::fs::metadata(database_file(&there)).unwrap().len();
    assert!(moved < whole / 5, "{moved} of {whole} bytes");
    back.restore(&home.path().join("restored")).await.unwrap();
    assert_eq!(content(&home.path().join("restored")), content(&there));
    let own = content(&home.path().join("source"));
    assert_eq!(own["t: CREATE TABLE t(n INTEGER PRIMARY KEY, v)"].len(), 62, "it can still be looked at");
}

#[tokio::test]
async fn there_is_nothing_to_count_or_adopt_where_no_database_is() {
    let home = tempfile::tempdir().unwrap();
    let refused = commits_after(home.path(), Position::default()).await.unwrap_err();
    assert!(matches!(refused, DataError::Missing { .. }), "{refused}");
    let refused = adopt_old(home.path(), &home.path().join("replica")).await.unwrap_err();
    assert!(matches!(refused, DataError::Missing { .. }), "{refused}");
}

/// The database of a source that has ended, and what its replica had.
async fn ended(rows: u32) -> (Pair, PathBuf, Position) {
    let (pair, kept) = failed_over(rows, 500).await;
    pair.live.stop().await.unwrap();
    let dir = pair.path("source");
    (pair, dir, kept)
}

async fn cannot_be_counted(dir: &Path, kept: Position) {
    let before = std::fs::read(database_file(dir)).unwrap();
    for _ in 0..2 {
        let refused = commits_after(dir, kept).await.unwrap_err();
        assert!(matches!(refused, DataError::Missing { .. }), "{refused}");
    }
    assert!(std::fs::read(database_file(dir)).unwrap() == before, "it was only read");
}

#[tokio::test]
async fn what_was_written_while_nobody_looked_is_unknown_and_not_nothing() {
    for checkpoint in
        ["PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA wal_checkpoint(RESTART); INSERT INTO t(v) VALUES (1)"]
    {
        let (_pair, dir, kept) = ended(0).await;
        let db = app(&dir);
        fill(&db, 50, 100);
        db.execute_batch(checkpoint).unwrap_or_default();
        drop(db);
        cannot_be_counted(&dir, kept).await;
        // Nor does a node that serves it for a while know better.
        let live = open_live(&dir, Position::default(), SMALL).await.unwrap();
        fill(&app(&dir), 1, 100);
        live.stop().await.unwrap();
        cannot_be_counted(&dir, kept).await;
    }
}

#[tokio::test]
async fn numbers_go_on_rising_when_the_database_is_exchanged() {
    let pair = Pair::new().await;
    fill(&pair.app(), 3, 100);
    pair.follow().await;
    let own = pair.live.stop().await.unwrap();
    let from = Position { commits: 500, bytes: own.bytes + 1_000_000, at: own.at };
    let Pair { home, live, replica } = pair;
    drop(live);
    let dir = home.path().join("source");
    let live = open_live(&dir, from, SMALL).await.unwrap();
    assert!(live.position().covers(from), "{:?}", live.position());
    let pair = Pair { home, live, replica };
    fill(&pair.app(), 60, 100);
    let last = pair.live.stop().await.unwrap();
    assert!(last.commits >= from.commits + 60, "{last:?}");
    cannot_be_counted(&dir, from).await;
    // A replica that has numbers of its own gets these, and what follows is counted from them.
    let pair = pair.restart_source().await;
    assert_eq!(pair.live.position().commits, last.commits, "they rise once");
    pair.follow().await;
    let kept = pair.replica.position();
    fill(&pair.app(), 2, 100);
    pair.live.stop().await.unwrap();
    assert_eq!(commits_after(&dir, kept).await.unwrap().commits, 2);
    drop(pair.live);
    // A database that has gone on farther by itself goes on from there.
    let again = open_live(&dir, from, SMALL).await.unwrap();
    assert_eq!(again.position().commits, kept.commits + 2);
}

#[tokio::test]
async fn what_a_power_cut_took_is_unknown() {
    let (_pair, dir, kept) = ended(3).await;
    let log = std::fs::File::options().read(true).write(true).open(log_file(&dir)).unwrap();
    let header = wal::Header::read(&log).unwrap().unwrap();
    let all = header.scan(&log, header.start(), u64::MAX).unwrap().cursor.frames;
    log.set_len(header.offset(all - 1)).unwrap();
    std::fs::remove_file(dir.join("app.db-shm")).unwrap();
    cannot_be_counted(&dir, kept).await;
}

#[tokio::test]
async fn without_a_record_it_is_unknown_what_only_the_old_source_has() {
    for record in [None, Some("{}"), Some("")] {
        let (_pair, dir, kept) = ended(2).await;
        let path = ship_dir(&dir).join("record.json");
        match record {
            None => std::fs::remove_file(path).unwrap(),
            Some(text) => std::fs::write(path, text).unwrap(),
        }
        cannot_be_counted(&dir, kept).await;
    }
}

#[tokio::test]
async fn a_record_that_was_written_long_ago_does_not_make_a_later_number_known() {
    // More was confirmed than the record knows of, and than the database has now: the numbers begin anew below it.
    let (pair, dir, kept) = ended(0).await;
    drop(pair.live);
    app(&dir)
        .execute_batch("INSERT INTO t(v) VALUES (1); PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap_or_default();
    let live = open_live(&dir, Position::default(), SMALL).await.unwrap();
    fill(&app(&dir), 30, 100);
    live.stop().await.unwrap();
    for ahead in [0, 2, 10, 100] {
        let kept = Position { commits: kept.commits + ahead, bytes: kept.bytes + ahead * 5000, at: kept.at };
        cannot_be_counted(&dir, kept).await;
    }
}

#[tokio::test]
async fn a_new_snapshot_makes_it_known_again() {
    let (pair, dir, _) = ended(0).await;
    app(&dir)
        .execute_batch("INSERT INTO t(v) VALUES (1); PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap_or_default();
    let pair = pair.restart_source().await;
    pair.follow().await;
    let kept = pair.replica.position();
    assert_eq!(pair.live.stop().await.unwrap().beyond(kept).commits, 0);
    assert_eq!(commits_after(&dir, kept).await.unwrap(), crate::data::Loss::default());
    let pair = pair.restart_source().await;
    fill(&pair.app(), 7, 100);
    pair.live.stop().await.unwrap();
    assert_eq!(commits_after(&dir, kept).await.unwrap().commits, 7);
}

#[tokio::test]
async fn a_log_that_was_emptied_while_it_was_followed_can_be_counted() {
    let (pair, kept) = failed_over(3, 500).await;
    let dir = pair.path("source");
    let emptied = async {
        loop {
            let _ = pair.live.settle(Duration::ZERO).await;
            // The pins may still need the log.
            let db = pair.app();
            app_checkpoint(&db, "TRUNCATE");
            if std::fs::metadata(log_file(&dir)).unwrap().len() == 0 {
                return;
            }
            fill(&db, 5, 4000);
            pair.follow().await;
        }
    };
    tokio::time::timeout(LONG, emptied).await.expect("the app empties the log");
    let last = pair.live.stop().await.unwrap();
    for _ in 0..2 {
        assert_eq!(commits_after(&dir, kept).await.unwrap(), last.beyond(kept));
    }
    // Somebody writes one row, and all of it is in the file again.
    app(&dir)
        .execute_batch("INSERT INTO t(v) VALUES (1); PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap_or_default();
    cannot_be_counted(&dir, kept).await;
}

#[tokio::test]
async fn a_database_that_was_never_written_has_lost_nothing() {
    let home = tempfile::tempdir().unwrap();
    create(home.path()).await.unwrap();
    let none = crate::data::Loss::default();
    assert_eq!(commits_after(home.path(), Position::default()).await.unwrap(), none);
    let live = open_live(home.path(), Position::default(), SMALL).await.unwrap();
    live.stop().await.unwrap();
    assert_eq!(commits_after(home.path(), Position::default()).await.unwrap(), none);
    // Nor has one that was brought here, followed, and never written.
    let pair = Pair::new().await;
    fill(&pair.app(), 4, 100);
    pair.follow().await;
    let there = pair.path("there");
    let position = pair.replica.restore(&there).await.unwrap();
    for _ in 0..2 {
        open_live(&there, position, SMALL).await.unwrap().stop().await.unwrap();
    }
    assert_eq!(commits_after(&there, position).await.unwrap(), none);
}
