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
