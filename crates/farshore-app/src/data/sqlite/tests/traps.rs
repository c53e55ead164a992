//! Each trap that others fell into, by name.

use std::os::unix::fs::FileExt;

use super::followed::copies;
use super::*;

/// The only file in the replica's copy whose name begins so.
fn copy_file(pair: &Pair, begins: &str) -> PathBuf {
    let replica = pair.path("replica");
    let copy = replica.join(copies(&replica).remove(0));
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(copy).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(begins));
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

/// The replica cannot be restored, says so, and mends itself while the source lives.
async fn refused_and_mended(pair: &Pair, says: &str) {
    let refused = pair.replica.restore(&pair.path("refused")).await.unwrap_err();
    assert!(matches!(refused, DataError::Corrupt { .. }), "{refused}");
    assert!(refused.to_string().contains(says), "{refused}");
    assert!(!pair.path("refused").exists() && !pair.replica.is_whole());
    pair.follow().await;
    assert_eq!(pair.restored("mended").await, content(&pair.path("source")));
}

async fn filled() -> Pair {
    let pair = Pair::new().await;
    fill(&pair.app(), 5, 3000);
    pair.follow().await;
    fill(&pair.app(), 5, 3000);
    pair.follow().await;
    pair
}

#[tokio::test]
async fn a_checkpoint_while_the_shipper_was_down_begins_a_new_chain() {
    let Pair { home, live, replica } = filled().await;
    let before = copies(&home.path().join("replica"));
    let position = live.stop().await.unwrap();
    let source = home.path().join("source");
    let db = app(&source);
    fill(&db, 3, 3000);
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    fill(&db, 2, 3000);
    drop(db);
    let live = open_live(&source, Position::default(), SMALL).await.unwrap();
    let pair = Pair { home, live, replica };
    assert!(pair.live.position().commits > position.commits, "numbers never go back");
    pair.step().await;
    assert_eq!(pair.restored("meanwhile").await["t: CREATE TABLE t(n INTEGER PRIMARY KEY, v)"].len(), 10);
    pair.follow().await;
    assert_ne!(copies(&pair.path("replica")), before);
    assert_eq!(pair.restored("restored").await, content(&source));
}

#[tokio::test]
async fn a_missing_first_segment_is_named_and_never_skipped() {
    let pair = filled().await;
    std::fs::remove_file(copy_file(&pair, "frames-")).unwrap();
    let pair = pair.restart_replica().await;
    refused_and_mended(&pair, "not what was written").await;
}

#[tokio::test]
async fn missing_pages_are_named() {
    let pair = filled().await;
    std::fs::remove_file(copy_file(&pair, "base-")).unwrap();
    let pair = pair.restart_replica().await;
    refused_and_mended(&pair, "missing").await;
}

#[tokio::test]
async fn an_older_copy_is_never_restored_by_mistake() {
    let pair = filled().await;
    let replica = pair.path("replica");
    let old = replica.join(copies(&replica).remove(0));
    let planted = replica.join("copy-0000000000000000");
    std::fs::create_dir(&planted).unwrap();
    for entry in std::fs::read_dir(&old).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, planted.join(path.file_name().unwrap())).unwrap();
    }
    fill(&pair.app(), 5, 3000);
    pair.follow().await;
    let pair = pair.restart_replica().await;
    assert!(!planted.exists());
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn a_torn_tail_is_written_again_and_nothing_before_it_is_lost() {
    let pair = filled().await;
    let (frames, mark) = (copy_file(&pair, "frames-"), copy_file(&pair, "mark"));
    let old_mark = std::fs::read(&mark).unwrap();
    fill(&pair.app(), 1, 3000);
    pair.follow().await;
    let kept = pair.replica.position().commits;
    // A power cut in the middle of a write: neither the frames nor the mark are on the disk.
    let file = std::fs::File::options().write(true).open(frames).unwrap();
    file.set_len(file.metadata().unwrap().len() - 100).unwrap();
    std::fs::write(&mark, old_mark).unwrap();
    let pair = pair.restart_replica().await;
    assert_eq!((pair.replica.position().commits, pair.replica.is_whole()), (kept - 1, true));
    pair.restored("before").await;
    pair.follow().await;
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn a_confirmed_tail_that_is_gone_is_damage_and_no_torn_write() {
    let pair = filled().await;
    let file = std::fs::File::options().write(true).open(copy_file(&pair, "frames-")).unwrap();
    file.set_len(file.metadata().unwrap().len() - 100).unwrap();
    let pair = pair.restart_replica().await;
    refused_and_mended(&pair, "not what was written").await;
}

#[tokio::test]
async fn a_flipped_bit_in_the_frames_is_never_restored() {
    let pair = filled().await;
    flip(&copy_file(&pair, "frames-"), 3000);
    refused_and_mended(&pair, "not what was written").await;
}

#[tokio::test]
async fn a_flipped_bit_in_the_frames_is_found_when_the_replica_is_opened() {
    let pair = filled().await;
    flip(&copy_file(&pair, "frames-"), 3000);
    let pair = pair.restart_replica().await;
    refused_and_mended(&pair, "not what was written").await;
}

#[tokio::test]
async fn a_flipped_bit_in_the_pages_is_never_restored() {
    let pair = filled().await;
    flip(&copy_file(&pair, "base-"), 5000);
    refused_and_mended(&pair, "pages are not what was written").await;
}

#[tokio::test]
async fn a_source_that_lost_its_tail_never_uses_its_numbers_again() {
    let Pair { home, live, replica } = filled().await;
    let confirmed = replica.position();
    // A power cut: the app did not sync its commits, and the log's end is gone. Nobody wrote down where that was.
    let source = home.path().join("source");
    let record = ship_dir(&source).join("record.json");
    let written = std::fs::read(&record).unwrap();
    live.stop().await.unwrap();
    std::fs::write(&record, written).unwrap();
    let log = std::fs::File::options().write(true).open(log_file(&source)).unwrap();
    log.set_len(log.metadata().unwrap().len() - 10_000).unwrap();
    std::fs::remove_file(source.join("app.db-shm")).unwrap();
    let live = open_live(&source, Position::default(), SMALL).await.unwrap();
    assert!(!live.position().covers(confirmed));
    let pair = Pair { home, live, replica };
    fill(&pair.app(), 9, 3000);
    pair.step().await;
    assert_eq!(pair.replica.position(), confirmed, "what it has is not contradicted");
    pair.follow().await;
    assert!(pair.live.position().commits > confirmed.commits);
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn an_app_that_puts_another_file_in_place_is_followed_again() {
    let pair = filled().await;
    let source = pair.path("source");
    let other = pair.path("other");
    create(&other).await.unwrap();
    fill(&app(&other), 2, 50);
    std::fs::rename(database_file(&other), database_file(&source)).unwrap();
    for name in ["app.db-wal", "app.db-shm"] {
        std::fs::remove_file(source.join(name)).unwrap();
    }
    let before = pair.live.position();
    fill(&app(&source), 1, 50);
    pair.follow().await;
    assert!(pair.live.position().commits > before.commits && pair.live.warnings().is_empty());
    assert_eq!(pair.restored("restored").await, content(&source));
}

#[tokio::test]
async fn nothing_is_settled_while_the_database_is_not_there_or_cannot_be_looked_at() {
    let pair = filled().await;
    let source = pair.path("source");
    let (file, aside) = (database_file(&source), pair.path("aside.db"));
    std::fs::rename(&file, &aside).unwrap();
    pair.live.settle(Duration::ZERO).await.unwrap_err();
    assert!(!pair.live.is_settled(), "it was looked for in vain");
    std::fs::rename(&aside, &file).unwrap();
    pair.follow().await;
    assert!(pair.live.is_settled());
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        std::fs::remove_file(source.join(name)).unwrap();
    }
    assert!(!pair.live.is_settled(), "before anybody has looked");
    let db = Connection::open(&file).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=OFF").unwrap();
    fill(&db, 1, 50);
    assert!(!pair.live.is_settled(), "it is the app's alone");
    drop(db);
    pair.follow().await;
    assert!(pair.live.is_settled());
    assert_eq!(pair.restored("restored").await, content(&source));
}

#[tokio::test]
async fn a_database_out_of_wal_mode_is_put_back_into_it() {
    let pair = filled().await;
    pair.live.stop().await.unwrap();
    let mode: String = pair.app().query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    fill(&pair.app(), 1, 50);
    let pair = pair.restart_source().await;
    // While it is followed an app cannot turn the log off.
    let refused = pair.app().query_row("PRAGMA journal_mode=DELETE", [], |row| row.get::<_, String>(0));
    assert!(refused.is_err(), "{refused:?}");
    fill(&pair.app(), 1, 50);
    pair.follow().await;
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn a_snapshot_that_changes_on_its_way_is_not_taken() {
    let pair = Pair::new().await;
    fill(&pair.app(), 50, 3000);
    pair.begin().await;
    // Its bytes are changed where it waits to be sent.
    let ship = pair.path("source/ship");
    let snapshot = std::fs::read_dir(ship).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = snapshot.into_iter().find(|path| path.extension().is_some_and(|e| e == "db")).unwrap();
    flip(&snapshot, 9000);
    pair.step().await;
    pair.step().await;
    assert!(!pair.replica.is_whole());
    flip(&snapshot, 9000);
    pair.follow().await;
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn a_replica_that_is_killed_while_it_fetches_goes_on_with_what_it_has() {
    let pair = Pair::new().await;
    fill(&pair.app(), 2, 6 << 20);
    pair.begin().await;
    pair.step().await;
    let (here, all) = pair.replica.progress();
    assert!(here > 1 << 20 && here < all, "{here} of {all} bytes");
    let pair = pair.restart_replica().await;
    assert!(!pair.replica.is_whole());
    pair.begin().await;
    pair.step().await;
    assert_eq!(pair.replica.progress(), (here, all), "the same pages were found right");
    pair.follow().await;
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn what_is_no_message_changes_nothing() {
    let pair = filled().await;
    for bytes in [&b""[..], b"nonsense", &[1, 0, 0, 0, 0], &[0xff; 200]] {
        let refused = pair.live.ship(bytes, Duration::ZERO).await.unwrap_err();
        assert!(matches!(refused, DataError::Foreign(_)), "{refused}");
        let refused = pair.replica.apply(bytes).await.unwrap_err();
        assert!(matches!(refused, DataError::Foreign(_)), "{refused}");
    }
    fill(&pair.app(), 1, 10);
    let answer = pair.live.ship(&pair.replica.request(), Duration::ZERO).await.unwrap();
    assert!(pair.replica.apply(&answer).await.unwrap());
    assert!(!pair.replica.apply(&answer).await.unwrap(), "a repetition brings nothing");
    pair.follow().await;
    assert_eq!(pair.restored("restored").await, content(&pair.path("source")));
}

#[tokio::test]
async fn nothing_is_restored_before_the_first_snapshot_is_whole_or_over_what_exists() {
    let pair = Pair::new().await;
    let refused = pair.replica.restore(&pair.path("there")).await.unwrap_err();
    assert!(matches!(refused, DataError::NotWhole { .. }), "{refused}");
    pair.follow().await;
    let refused = pair.replica.restore(&pair.path("source")).await.unwrap_err();
    assert!(matches!(refused, DataError::Exists(_)), "{refused}");
    // What a killed restore left is in nobody's way.
    std::fs::create_dir_all(pair.path(".there.partial/app.db")).unwrap();
    pair.restored("there").await;
    let refused = create(&pair.path("there")).await.unwrap_err();
    assert!(matches!(refused, DataError::Exists(_)), "{refused}");
}
