//! On real servers: what is acknowledged, killed, restored, counted.

mod region;

use std::time::Duration;

use tokio::process::Command;

use super::*;

fn quick(synchronous: bool) -> Options {
    Options { synchronous, shared_buffers_mib: 8, sync_new_files: false }
}

/// A new database in its own directory.
async fn new_live(dir: &Path, synchronous: bool) -> Arc<dyn Live> {
    create(dir, &quick(synchronous)).await.unwrap();
    open_live(dir, Position::default(), quick(synchronous)).await.unwrap()
}

/// What a client of the app's says to the database and hears from it: by the URL that the app gets.
async fn psql(live: &dyn Live, sql: &str) -> String {
    let output = psql_command(live, sql).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn psql_command(live: &dyn Live, sql: &str) -> Command {
    let url = live.env().into_iter().find(|(key, _)| key == "DATABASE_URL").unwrap().1;
    let mut command = Command::new("psql");
    command.args([&url, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", sql]).kill_on_drop(true);
    command
}

#[tokio::test]
async fn a_database_is_made_used_stopped_and_opened_again() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("databases/todo-e1");
    let live = new_live(&dir, false).await;
    psql(&*live, "CREATE TABLE todo (id serial PRIMARY KEY, text text)").await;
    psql(&*live, "INSERT INTO todo (text) VALUES ('milk')").await;
    live.check().await.unwrap();
    let position = live.stop().await.unwrap();
    assert_eq!(position.commits, 2);
    assert!(live.check().await.is_err());
    let live = open_live(&dir, Position::default(), quick(false)).await.unwrap();
    assert_eq!(psql(&*live, "SELECT text FROM todo").await, "milk");
    psql(&*live, "INSERT INTO todo (text) VALUES ('bread')").await;
    assert_eq!(live.stop().await.unwrap().commits, 3);
    tokio::time::timeout(Duration::from_secs(1), live.stop()).await.unwrap().unwrap();
}

/// Follows until the replica has everything that was committed when this was called.
async fn follow(live: &dyn Live, replica: &dyn Replica) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let settled = live.settle(Duration::from_secs(60));
    let asking = async {
        loop {
            assert!(tokio::time::Instant::now() < deadline, "{live:?} {replica:?}");
            let answer = live.ship(&replica.request(), Duration::from_millis(500)).await.unwrap();
            replica.apply(&answer).await.unwrap();
        }
    };
    tokio::select! {
        settled = settled => settled.unwrap(),
        () = asking => {}
    }
}

#[tokio::test]
async fn a_replica_is_restored_onto_a_new_timeline_and_followed_again() {
    let place = tempfile::tempdir().unwrap();
    let live = new_live(&place.path().join("paris/todo-e1"), false).await;
    let replica = open_replica(&place.path().join("oslo/replica")).await.unwrap();
    assert!(replica.restore(&place.path().join("oslo/early")).await.is_err());
    psql(&*live, "CREATE TABLE todo (id serial PRIMARY KEY, text text)").await;
    psql(&*live, "INSERT INTO todo (text) VALUES ('before the base')").await;
    follow(&*live, &*replica).await;
    psql(&*live, "INSERT INTO todo (text) VALUES ('after the base')").await;
    follow(&*live, &*replica).await;
    assert!(replica.is_whole() && !live.is_settled());
    let position = live.stop().await.unwrap();
    assert!(live.is_settled());
    assert_eq!((position.commits, replica.position()), (3, position));

    let there = place.path().join("oslo/todo-e2");
    assert_eq!(replica.restore(&there).await.unwrap(), position);
    let restored = open_live(&there, position, quick(false)).await.unwrap();
    assert_eq!(
        psql(&*restored, "SELECT string_agg(text, ',' ORDER BY id) FROM todo").await,
        "before the base,after the base"
    );
    assert_eq!(restored.position().commits, 3);
    psql(&*restored, "INSERT INTO todo (text) VALUES ('in the other region')").await;

    // The same replica follows the restored database: another chain, and the old copy stays until the new one is whole.
    follow(&*restored, &*replica).await;
    assert_eq!((replica.position().commits, restored.stop().await.unwrap().commits), (4, 4));
    let home = place.path().join("paris/todo-e3");
    replica.restore(&home).await.unwrap();
    let home = open_live(&home, replica.position(), quick(false)).await.unwrap();
    assert_eq!(psql(&*home, "SELECT count(*) FROM todo").await, "3");
    home.stop().await.unwrap();
}

#[tokio::test]
async fn commits_wait_for_a_whole_replica_and_not_for_one_that_is_gone() {
    let place = tempfile::tempdir().unwrap();
    let live = new_live(&place.path().join("todo"), true).await;
    let replica = open_replica(&place.path().join("replica")).await.unwrap();
    psql(&*live, "CREATE TABLE todo (n bigint)").await;
    for _ in 0..2 {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !live.is_settled() {
            assert!(tokio::time::Instant::now() < deadline, "{replica:?}");
            let answer = live.ship(&replica.request(), Duration::from_millis(100)).await.unwrap();
            replica.apply(&answer).await.unwrap();
        }
        // Nobody asks any more: it returns when the other region is given up.
        let waits = tokio::time::Instant::now();
        psql(&*live, "INSERT INTO todo VALUES (1)").await;
        assert!(!live.is_settled() && waits.elapsed() > Duration::from_secs(1));
    }
    // And not at all when it is not to wait any more.
    live.hold(false).await.unwrap();
    follow(&*live, &*replica).await;
    assert!(!live.is_settled());
    assert_eq!(replica.position(), live.stop().await.unwrap());
}

#[tokio::test]
async fn a_server_that_is_killed_comes_back_at_its_address_and_counts_on() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("todo");
    let live = new_live(&dir, false).await;
    psql(&*live, "CREATE TABLE todo (n bigint)").await;
    for round in 1..4 {
        server::end_leftovers(&dir.join("data")).unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        let mut insert = psql_command(&*live, "INSERT INTO todo VALUES (1)");
        while !insert.output().await.unwrap().status.success() {
            assert!(tokio::time::Instant::now() < deadline, "round {round}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(live.stop().await.unwrap().commits, 4);
}

#[tokio::test]
async fn a_replica_that_was_cut_off_anywhere_goes_on_or_begins_anew() {
    let place = tempfile::tempdir().unwrap();
    let (source, copy) = (place.path().join("todo"), place.path().join("replica"));
    let mut live = new_live(&source, false).await;
    psql(&*live, "CREATE TABLE todo AS SELECT generate_series(1, 10000) AS n").await;
    for cut in 0..12 {
        // Opened anew each time, as after a crash of its node.
        let replica = open_replica(&copy).await.unwrap();
        let answer = live.ship(&replica.request(), Duration::from_millis(200)).await.unwrap();
        replica.apply(&answer).await.unwrap();
        // An answer that comes twice, or comes too late, changes nothing.
        replica.apply(&answer).await.unwrap();
        if cut == 2 || cut == 9 {
            live.stop().await.unwrap();
            live = open_live(&source, Position::default(), quick(false)).await.unwrap();
        }
        psql(&*live, "INSERT INTO todo VALUES (0)").await;
    }
    let replica = open_replica(&copy).await.unwrap();
    follow(&*live, &*replica).await;
    let before = replica.position();
    replica.close().await;
    let replica = open_replica(&copy).await.unwrap();
    assert!(replica.is_whole() && replica.position() == before, "{before:?} {replica:?}");
    let there = place.path().join("there");
    replica.restore(&there).await.unwrap();
    let restored = open_live(&there, before, quick(false)).await.unwrap();
    assert_eq!(psql(&*restored, "SELECT count(*) FROM todo").await, "10012");
    assert_eq!(restored.position().commits, live.stop().await.unwrap().commits);
    restored.stop().await.unwrap();
}

#[tokio::test]
async fn numbers_go_on_rising_when_the_database_is_exchanged() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("other");
    let live = new_live(&dir, false).await;
    psql(&*live, "CREATE TABLE todo (n bigint)").await;
    let own = live.stop().await.unwrap();
    let from = Position { commits: 500, bytes: own.bytes + 1_000_000_000, at: own.at };
    let live = open_live(&dir, from, quick(false)).await.unwrap();
    assert_eq!((live.position().commits, live.position().bytes), (from.commits, from.bytes));
    psql(&*live, "INSERT INTO todo VALUES (1)").await;
    psql(&*live, "INSERT INTO todo VALUES (2)").await;
    let last = live.stop().await.unwrap();
    assert!(last.commits == 502 && last.bytes > from.bytes, "{last:?}");
    assert_eq!(commits_after(&dir, from).await.unwrap().commits, 2);
    assert_eq!(commits_after(&dir, last).await.unwrap(), Loss::default());
}

#[tokio::test]
async fn what_is_there_since_before_a_promotion_is_counted_on_both_timelines() {
    let place = tempfile::tempdir().unwrap();
    let live = new_live(&place.path().join("paris"), false).await;
    let replica = open_replica(&place.path().join("replica")).await.unwrap();
    psql(&*live, "CREATE TABLE todo (n bigint)").await;
    follow(&*live, &*replica).await;
    psql(&*live, "INSERT INTO todo VALUES (1)").await;
    // It ends the segment: the new timeline begins in a later one.
    let kept = live.backup(&place.path().join("backup")).await.unwrap().position;
    psql(&*live, "INSERT INTO todo VALUES (2)").await;
    follow(&*live, &*replica).await;
    let position = live.stop().await.unwrap();
    let there = place.path().join("oslo");
    replica.restore(&there).await.unwrap();
    let restored = open_live(&there, position, quick(false)).await.unwrap();
    psql(&*restored, "INSERT INTO todo VALUES (3)").await;
    let last = restored.stop().await.unwrap();
    assert_eq!(commits_after(&there, kept).await.unwrap().commits, 2);
    assert_eq!(commits_after(&there, position).await.unwrap().commits, 1);
    assert_eq!(commits_after(&there, last).await.unwrap(), Loss::default());
    // Where no record begins nothing can be counted, and nothing is not what is there.
    let within = Position { bytes: kept.bytes - 8, ..kept };
    let refused = commits_after(&there, within).await.unwrap_err();
    assert!(matches!(refused, DataError::Missing { .. }), "{refused}");
}

#[tokio::test]
async fn a_backup_is_restored_as_it_was_and_one_that_was_changed_is_not() {
    let place = tempfile::tempdir().unwrap();
    let live = new_live(&place.path().join("live"), false).await;
    psql(&*live, "CREATE TABLE todo AS SELECT generate_series(1, 1000) AS n").await;
    let file = place.path().join("backup");
    let meta = live.backup(&file).await.unwrap();
    psql(&*live, "DELETE FROM todo").await;
    assert!(matches!(live.backup(&file).await, Err(DataError::Exists(_))));
    assert_eq!((meta.position.commits, live.stop().await.unwrap().commits), (1, 2));

    let dir = place.path().join("restored");
    let rows = restore_backup(&file, &dir, meta.position).await.unwrap();
    assert_eq!(rows, Rows::from([("public.todo".to_owned(), 1000)]));
    assert!(matches!(restore_backup(&file, &dir, meta.position).await, Err(DataError::Exists(_))));
    let restored = open_live(&dir, meta.position, quick(false)).await.unwrap();
    assert_eq!(psql(&*restored, "SELECT count(*) FROM todo").await, "1000");
    restored.stop().await.unwrap();

    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = restore_backup(&file, &place.path().join("bad"), meta.position).await.unwrap_err();
    assert!(matches!(error, DataError::Corrupt { .. }), "{error}");
    assert!(!place.path().join("bad").exists());
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_settled() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("todo");
    let live = new_live(&dir, false).await;
    let replica = open_replica(&place.path().join("replica")).await.unwrap();
    psql(&*live, "CREATE TABLE todo (n bigint)").await;
    follow(&*live, &*replica).await;
    // It cannot be started again where it does not find its files.
    let (data, away) = (dir.join("data"), dir.join("away"));
    std::fs::rename(&data, &away).unwrap();
    std::fs::write(&data, "").unwrap();
    server::end_leftovers(&away).unwrap();
    assert!(live.check().await.is_err());
    live.settle(Duration::from_millis(500)).await.unwrap_err();
    std::fs::remove_file(&data).unwrap();
    std::fs::rename(&away, &data).unwrap();
    follow(&*live, &*replica).await;
    live.stop().await.unwrap();
}
