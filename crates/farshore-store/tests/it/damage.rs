//! A damaged file is refused, named and left alone; a file that is not refused says what was committed.

use std::fs;
use std::path::{Path, PathBuf};

use farshore_core::store::{Change, Entry, Revision, Store, Transaction, Write};
use farshore_store::{OpenError, RedbStore};

/// redb's header: magic, geometry and two commit slots.
const HEADER_LEN: usize = 320;

/// The byte of the header that says which slot is the last commit, and whether the file was closed.
const FLAGS: usize = 9;

/// A store with some history, closed cleanly, and the same as a crash would have left it.
async fn images(directory: &Path) -> [(&'static str, Vec<u8>); 2] {
    let path = directory.join("origin.redb");
    let store = RedbStore::open(&path).unwrap();
    for n in 0..30 {
        let value = vec![b'a' + (n % 20); 500];
        let writes =
            vec![Write::Put(format!("k/{}", n % 9), value), Write::Delete(format!("k/{}", (n + 4) % 9))];
        store.commit(Transaction { compares: vec![], writes }).await.unwrap();
    }
    let crashed = fs::read(&path).unwrap();
    drop(store);
    [("crashed", crashed), ("closed", fs::read(&path).unwrap())]
}

async fn content(path: &Path) -> Result<(Vec<Entry>, Revision, usize), OpenError> {
    let store = RedbStore::open(path)?;
    let (entries, revision) = store.list("").await.unwrap();
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    let end = Transaction { compares: vec![], writes: vec![Write::Put("end".into(), vec![])] };
    let end = store.commit(end).await.unwrap();
    assert_eq!(end.0, revision.0 + 1);
    let mut changes = 0;
    while !matches!(watch.next().await.unwrap(), Change::Put(entry) if entry.key == "end") {
        changes += 1;
    }
    Ok((entries, revision, changes))
}

/// Writes `bytes`, opens them, and says whether they were refused.
async fn refused(path: &Path, bytes: &[u8], whole: &(Vec<Entry>, Revision, usize), what: &str) -> bool {
    fs::write(path, bytes).unwrap();
    match content(path).await {
        Ok(found) => {
            assert!(found == *whole, "{what}: opened with another content, revision {:?}", found.1);
            false
        }
        Err(OpenError::Damaged { path: named, .. }) => {
            assert_eq!(named, path);
            assert!(fs::read(path).unwrap() == bytes, "{what}: the refused file was changed");
            true
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

#[tokio::test]
async fn a_flipped_bit_is_refused_or_harmless() {
    let directory = tempfile::tempdir().unwrap();
    for (state, image) in images(directory.path()).await {
        let path = directory.path().join("store.redb");
        fs::write(&path, &image).unwrap();
        let whole = content(&path).await.unwrap();
        assert_eq!(whole.1, Revision(30));
        let used = image.iter().rposition(|byte| *byte != 0).unwrap();
        let header = (0..HEADER_LEN).step_by(3).map(|place| (place, place % 8));
        // One bit is not in the sample: after a crash, which of two valid slots is the last commit. Flipped, the
        // file says exactly what it says while a commit is being written: the commit before. Nothing in the file
        // tells the two apart; whoever starts on a store asks the agents whether they are ahead of it.
        let flags = (0..8).filter(|bit| state == "closed" || *bit != 0).map(|bit| (FLAGS, bit));
        let pages = (4096..used).step_by(8101).map(|place| (place, place % 8));
        let mut count = 0;
        for (place, bit) in header.chain(flags).chain(pages) {
            let mut bytes = image.clone();
            bytes[place] ^= 1 << bit;
            let what = format!("{state}, byte {place}, bit {bit}");
            count += usize::from(refused(&path, &bytes, &whole, &what).await);
        }
        assert!(count > 20, "{state}: only {count} flips were noticed");
    }
}

#[tokio::test]
async fn rubbish_and_torn_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let whole = (vec![], Revision(0), 0);
    for (state, image) in images(directory.path()).await {
        for len in [0, 1, 9, 63, 320, 4095, 4096, 8192, image.len() / 2, image.len() - 4096, image.len() - 1]
        {
            assert!(refused(&path, &image[..len], &whole, &format!("{state}, cut to {len}")).await);
        }
        let mut holed = image.clone();
        holed[4096..].fill(0);
        assert!(refused(&path, &holed, &whole, &format!("{state}, zeroed behind the header")).await);
    }
    let rubbish: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert!(refused(&path, &rubbish, &whole, "rubbish").await);
    assert!(refused(&path, b"not a store\n", &whole, "text").await);
}

#[tokio::test]
async fn the_errors_say_which_file_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let error = |path: &Path| RedbStore::open(path).unwrap_err().to_string();
    let named = path.display().to_string();

    fs::write(&path, "rubbish").unwrap();
    let text = error(&path);
    for part in [named.as_str(), "damaged", "stop the node", "move the file aside", "never delete", "restore"]
    {
        assert!(text.contains(part), "{text}");
    }
    fs::remove_file(&path).unwrap();
    let _store = RedbStore::open(&path).unwrap();
    let text = error(&path);
    for part in [named.as_str(), "held by another process", "stop that node", "API"] {
        assert!(text.contains(part), "{text}");
    }
    let nowhere: PathBuf = directory.path().join("no/such/directory/store.redb");
    let text = error(&nowhere);
    assert!(text.contains("cannot create") && text.contains("no/such/directory"), "{text}");
    let text = error(directory.path());
    assert!(text.contains("cannot open"), "{text}");
}

#[tokio::test]
async fn what_a_crash_left_while_creating_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    fs::write(directory.path().join("store.redb.creating"), "half a store").unwrap();
    let store = RedbStore::open(&path).unwrap();
    store.commit(Transaction::default()).await.unwrap();
    drop(store);
    assert_eq!(RedbStore::open(&path).unwrap().list("").await.unwrap().1, Revision(1));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
}
