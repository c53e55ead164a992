use std::sync::Arc;

use rusqlite::Connection;

use super::*;

struct Home {
    dir: tempfile::TempDir,
    live: Arc<dyn Live>,
    backups: Backups,
}

impl Home {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        sqlite::create(&source).await.unwrap();
        let db = Connection::open(sqlite::database_file(&source)).unwrap();
        db.execute_batch("CREATE TABLE todo(text); INSERT INTO todo VALUES ('a'), ('b')").unwrap();
        let live =
            sqlite::open_live(&source, Position::default(), sqlite::LiveOptions::default()).await.unwrap();
        let backups = Backups::open(&dir.path().join("backups")).await.unwrap();
        Self { dir, live, backups }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn app(&self) -> Connection {
        Connection::open(sqlite::database_file(&self.path("source"))).unwrap()
    }

    async fn ids(&self) -> Vec<String> {
        self.backups.list().await.unwrap().into_iter().map(|backup| backup.id).collect()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path("backups"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn todo(dir: &Path) -> Vec<String> {
    let db = Connection::open(sqlite::database_file(dir)).unwrap();
    let mut all = db.prepare("SELECT text FROM todo ORDER BY 1").unwrap();
    all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_backup_is_proved_when_it_is_taken_and_restores_to_what_it_was() {
    let home = Home::new().await;
    let taken = home.backups.take_of(&*home.live, "asked for", Some(3)).await.unwrap();
    assert!(taken.ok && taken.verified_at.is_some());
    assert_eq!((taken.release, taken.why.as_str(), taken.rows["todo"]), (Some(3), "asked for", 2));
    home.app().execute_batch("DELETE FROM todo").unwrap();
    assert_eq!(home.backups.list().await.unwrap(), std::slice::from_ref(&taken));
    assert_eq!(home.names(), [taken.id.as_str()], "the proof is gone");
    let into = home.path("restored");
    let meta = home.backups.restore(&taken.id, &into).await.unwrap();
    assert_eq!(meta.position, taken.position);
    assert_eq!(todo(&into), ["a", "b"]);
}

#[tokio::test]
async fn a_restore_never_writes_to_a_database_that_exists() {
    let home = Home::new().await;
    let taken = home.backups.take(&*home.live, "").await.unwrap();
    home.app().execute_batch("INSERT INTO todo VALUES ('c')").unwrap();
    let refused = home.backups.restore(&taken.id, &home.path("source")).await.unwrap_err();
    assert!(matches!(refused, DataError::Exists(_)), "{refused}");
    assert_eq!(todo(&home.path("source")), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_damaged_backup_is_named_and_never_restored() {
    let home = Home::new().await;
    let taken = home.backups.take(&*home.live, "").await.unwrap();
    let data = home.path("backups").join(&taken.id).join("data");
    let mut bytes = std::fs::read(&data).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let refused = home.backups.restore(&taken.id, &home.path("restored")).await.unwrap_err();
    assert!(refused.to_string().contains("not what was written"), "{refused}");
    let refused = home.backups.verify(&taken.id).await.unwrap_err();
    assert!(matches!(refused, DataError::Corrupt { .. }), "{refused}");
    let told = home.backups.list().await.unwrap().remove(0);
    assert!(!told.ok && told.why.contains("not what was written"), "{told:?}");
    home.backups.restore(&taken.id, &home.path("restored")).await.unwrap_err();
    assert!(!home.path("restored").exists());
}

/// As the link does it: its files come, one by one, into a directory beside the others.
async fn sent(home: &Home, id: &str, change: impl Fn(&str, &mut Vec<u8>)) -> Backups {
    let (coming, there) = (home.path("coming"), home.path("there"));
    std::fs::create_dir(&coming).unwrap();
    for name in ["backup.json", "data"] {
        let mut bytes = std::fs::read(home.path("backups").join(id).join(name)).unwrap();
        change(name, &mut bytes);
        std::fs::write(coming.join(name), bytes).unwrap();
    }
    let backups = Backups::open(&there).await.unwrap();
    // What a removal that was broken off has left is no backup.
    std::fs::create_dir(there.join(id)).unwrap();
    std::fs::write(there.join(id).join("data"), "old").unwrap();
    assert!(!has_one(&there, id));
    take_in(&coming, &there, id).await.unwrap();
    assert!(has_one(&there, id) && !coming.exists());
    backups
}

#[tokio::test]
async fn a_backup_that_was_sent_is_good_once_it_is_proved_here() {
    let home = Home::new().await;
    let taken = home.backups.take_of(&*home.live, "asked for", Some(3)).await.unwrap();
    let there = sent(&home, &taken.id, |_, _| {}).await;
    let all = there.list().await.unwrap();
    assert_eq!((all[0].ok, all[0].verified_at), (false, None), "who proved it did not prove this copy");
    assert_eq!(there.unproved(&all, now()), Some(taken.id.clone()));
    let proved = there.verify(&taken.id).await.unwrap();
    assert_eq!(Backup { verified_at: taken.verified_at, ..proved }, taken);
    assert_eq!(there.unproved(&there.list().await.unwrap(), now()), None);
}

#[tokio::test]
async fn a_backup_that_came_changed_is_bad_and_is_never_restored() {
    for (changed, by) in [("data", 1), ("backup.json", b'\n' ^ b'}')] {
        let home = Home::new().await;
        let taken = home.backups.take(&*home.live, "").await.unwrap();
        let flip = |name: &str, bytes: &mut Vec<u8>| {
            if name == changed {
                *bytes.last_mut().unwrap() ^= by;
            }
        };
        let there = sent(&home, &taken.id, flip).await;
        let told = there.list().await.unwrap().remove(0);
        assert!(!told.ok && told.why != taken.why, "{told:?}");
        there.restore(&taken.id, &home.path("restored")).await.unwrap_err();
        assert!(!home.path("restored").exists());
    }
}

#[tokio::test]
async fn a_proof_without_a_verdict_is_tried_again_after_a_while_and_the_newest_first() {
    let home = Home::new().await;
    let all = [backup("1", false), backup("2", false), backup("3", true)];
    assert_eq!(home.backups.unproved(&all, now()).as_deref(), Some("2"));
    // They are not there, so nothing is found out.
    home.backups.verify("2").await.unwrap_err();
    assert_eq!(home.backups.unproved(&all, now()).as_deref(), Some("1"));
    home.backups.verify("1").await.unwrap_err();
    assert_eq!(home.backups.unproved(&all, now()), None);
    let later = now().after(PROVE_AGAIN_AFTER);
    assert_eq!(home.backups.unproved(&all, later).as_deref(), Some("2"));
}

#[tokio::test]
async fn a_backup_that_leaves_data_out_is_no_good_backup() {
    let home = Home::new().await;
    let taken = home.backups.take(&*home.live, "").await.unwrap();
    let dir = home.path("backups").join(&taken.id);
    let mut manifest = Manifest::read(&dir).unwrap();
    manifest.meta.rows.insert("orders".to_owned(), 7);
    manifest.write(&dir).unwrap();
    let refused = home.backups.verify(&taken.id).await.unwrap_err();
    assert!(refused.to_string().contains("orders: 7 became no table"), "{refused}");
}

#[tokio::test]
async fn a_description_that_is_damaged_is_told_and_not_believed() {
    let home = Home::new().await;
    let taken = home.backups.take(&*home.live, "").await.unwrap();
    let dir = home.path("backups").join(&taken.id);
    let moved = home.path("backups").join("20200101-000000-000");
    std::fs::rename(&dir, &moved).unwrap();
    let told = home.backups.list().await.unwrap().remove(0);
    assert!(!told.ok && told.why.contains("another backup"), "{told:?}");
    std::fs::write(moved.join("backup.json"), "{").unwrap();
    assert!(!home.backups.list().await.unwrap()[0].ok);
    home.backups.restore("20200101-000000-000", &home.path("restored")).await.unwrap_err();
    for name in ["", "..", "../source", "nope", "/etc"] {
        let refused = home.backups.restore(name, &home.path("restored")).await.unwrap_err();
        assert!(matches!(refused, DataError::Missing { .. }), "{name}: {refused}");
    }
}

#[tokio::test]
async fn what_an_interrupted_backup_left_is_removed_and_never_listed() {
    let home = Home::new().await;
    let taken = home.backups.take(&*home.live, "").await.unwrap();
    let dir = home.path("backups");
    let id = "20200101-000000-000";
    let hidden = [format!(".{id}.proof.partial"), format!(".{id}.making.partial")];
    let plain = ["making", "proof", "proof.partial", "proof.restoring"].map(|kind| format!("{id}.{kind}"));
    for left in hidden.into_iter().chain(plain) {
        std::fs::create_dir_all(dir.join(&left)).unwrap();
        std::fs::write(dir.join(&left).join("data"), "half").unwrap();
    }
    assert_eq!(home.ids().await, [taken.id.as_str()]);
    Backups::open(&dir).await.unwrap();
    assert_eq!(home.names(), [taken.id.as_str()]);
}

#[tokio::test]
async fn a_proof_that_fails_leaves_nothing_behind() {
    let home = Home::new().await;
    let taken = home.backups.take(&*home.live, "").await.unwrap();
    let dir = home.path("backups").join(&taken.id);
    for engine in [Engine::Sqlite, Engine::Postgres] {
        // No database, though it is what was written.
        std::fs::write(dir.join("data"), "no database").unwrap();
        let mut manifest = Manifest::read(&dir).unwrap();
        manifest.sha256 = hash_of(dir.join("data")).await.unwrap();
        (manifest.meta.engine, manifest.verdict) = (engine, Verdict::Unproved);
        manifest.write(&dir).unwrap();
        home.backups.verify(&taken.id).await.unwrap_err();
        assert_eq!(home.names(), [taken.id.as_str()]);
        home.backups.restore(&taken.id, &home.path("restored")).await.unwrap_err();
        let names = std::fs::read_dir(home.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let restored: Vec<_> = names.filter(|name| name.to_string_lossy().contains("restored")).collect();
        assert!(restored.is_empty(), "{restored:?}");
    }
}

#[tokio::test]
async fn old_backups_go_and_the_newest_good_one_stays() {
    let home = Home::new().await;
    for _ in 0..3 {
        home.backups.take(&*home.live, "").await.unwrap();
    }
    let ids = home.ids().await;
    assert!(ids.is_sorted(), "oldest first: {ids:?}");
    home.backups.keep_only(2).await.unwrap();
    assert_eq!(home.ids().await, ids[1..]);
    home.backups.keep_only(0).await.unwrap();
    assert_eq!(home.ids().await, ids[2..]);
    assert_eq!(home.names(), ids[2..]);
}

fn backup(id: &str, ok: bool) -> Backup {
    Backup {
        id: id.to_owned(),
        at: Moment(0),
        engine: Engine::Sqlite,
        bytes: 0,
        position: Position::default(),
        release: None,
        verified_at: None,
        ok,
        why: String::new(),
        rows: Rows::new(),
    }
}

#[test]
fn bad_backups_never_push_good_ones_out() {
    let check = |all: &[(&str, bool)], keep, gone: &[&str]| {
        let all: Vec<Backup> = all.iter().map(|(id, ok)| backup(id, *ok)).collect();
        assert_eq!(surplus(&all, keep), gone, "{all:?} keep {keep}");
    };
    check(&[], 3, &[]);
    check(&[("1", true), ("2", true), ("3", true)], 2, &["1"]);
    check(&[("1", true), ("2", false), ("3", false)], 1, &[]);
    check(&[("1", true), ("2", false), ("3", true)], 1, &["2", "1"]);
    check(&[("1", true), ("2", false), ("3", true)], 2, &[]);
    check(&[("1", true), ("2", true)], 0, &["1"]);
    check(&[("1", false), ("2", false)], 0, &[]);
}

#[test]
fn of_those_that_are_not_good_only_the_newest_stay() {
    let all: Vec<Backup> = (0..=100).map(|n| backup(&format!("{n:03}"), n == 0)).collect();
    let stay = |keep| {
        let gone = surplus(&all, keep);
        let stay =
            all.iter().map(|backup| backup.id.as_str()).filter(|id| gone.iter().all(|gone| gone != id));
        stay.collect::<Vec<_>>()
    };
    assert_eq!(stay(1), ["000", "098", "099", "100"]);
    assert_eq!((stay(24).len(), stay(24)[1], stay(200).len()), (25, "077", 101));
}

#[test]
fn the_schedule_counts_from_the_last_good_one_and_tries_again_soon() {
    let minute = |minutes: u64| Moment(minutes * 60_000_000);
    assert_eq!(due(0, None, None), None);
    assert_eq!(due(60, None, None), Some(Moment(0)), "at once");
    assert_eq!(due(60, Some(minute(5)), Some(minute(5))), Some(minute(65)));
    assert_eq!(due(60, None, Some(minute(5))), Some(minute(6)), "it failed");
    assert_eq!(due(60, Some(minute(5)), Some(minute(70))), Some(minute(71)), "it failed");
    assert_eq!(due(60, Some(minute(5)), Some(minute(6))), Some(minute(65)), "one by hand failed");
}

#[test]
fn one_that_could_not_be_proved_is_not_taken_again_before_the_schedule_says_so() {
    let minute = |minutes: u64| Moment(minutes * 60_000_000);
    let mut all = vec![backup("1", true)];
    // The node is full: one is taken, and its proof comes to no verdict.
    let mut times = Vec::new();
    for now in 1..=190 {
        let tried = times.last().copied().map(minute);
        if due(60, last_taken(&all), tried).is_some_and(|due| due <= minute(now)) {
            times.push(now);
            all.push(Backup { at: minute(now), ..backup(&format!("{now}"), false) });
        }
    }
    assert_eq!(times, [60, 120, 180]);
    // A bad one is none.
    all.push(Backup { at: minute(200), verified_at: Some(minute(201)), ..backup("200", false) });
    assert_eq!(last_taken(&all), Some(minute(180)));
    assert_eq!(last_taken(&[]), None);
}

#[test]
fn names_are_times_that_sort() {
    let at: Moment = "2026-11-21T05:00:00.250Z".parse().unwrap();
    assert_eq!(name_of(at), "20261121-050000-250");
    assert!(is_id(&name_of(at)) && is_id(&name_of(Moment(u64::MAX))));
}
