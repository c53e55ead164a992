//! Databases that nobody uses: a backup is restored; an old source that has come back is counted and becomes a replica.

use std::fs::File;
use std::path::Path;

use rusqlite::Connection;

use super::part::sync_dir;
use super::pins::connect;
use super::record::Record;
use super::replica::{begin_dir, guess_file};
use super::snapshot::{check_whole, copy_database, count_rows, judge, reading};
use super::source::{Source, sqlite};
use super::{LiveOptions, blocking, database_file};
use crate::data::{DataError, Loss, Position, Rows};

/// A write that is taken back.
const WRITE_PROBE: &str = "BEGIN IMMEDIATE; CREATE TABLE \"farshore looks whether it can write\" (x); \
                           INSERT INTO \"farshore looks whether it can write\" VALUES (1); ROLLBACK";

/// Counts what an old source committed that is not in `kept`, the position up to which the other region had it. The database
/// stays as it is; no app may use it.
///
/// # Errors
/// [`DataError::Missing`] when the database is not there, or when it cannot be known: its log is not the one that was being
/// followed, because somebody used the file meanwhile or a power cut took something away. Or when it cannot be read.
pub async fn commits_after(dir_of_old_source: &Path, kept: Position) -> Result<Loss, DataError> {
    let dir = dir_of_old_source.to_owned();
    blocking(move || {
        // Opening would write one: a database that was never followed says nothing of where it stands.
        let was_followed = Record::read(&dir).is_some();
        let source = Source::open(&dir, kept, LiveOptions::default())?;
        source.committed_after(kept).filter(|_| was_followed).ok_or_else(|| uncounted(&dir, kept))
    })
    .await
}

fn uncounted(dir: &Path, kept: Position) -> DataError {
    let what = format!(
        "the write-ahead log of {} from commit {} on (without it nobody can count what was committed after that: the bound \
         that was known at the failover stands)",
        database_file(dir).display(),
        kept.commits
    );
    DataError::Missing { what }
}

/// Gives a replica the old source's database to compare pages with, so that only pages that differ travel. The old database
/// stays as it is; no app may use it.
///
/// # Errors
/// When it cannot be read or copied.
pub async fn adopt_old(dir_of_old_database: &Path, replica_dir: &Path) -> Result<(), DataError> {
    let (file, replica) = (database_file(dir_of_old_database), replica_dir.to_owned());
    blocking(move || {
        if !file.exists() {
            return Err(DataError::Missing { what: format!("the old database {}", file.display()) });
        }
        std::fs::create_dir_all(&replica).map_err(DataError::io("create", &replica))?;
        let guess = guess_file(&replica);
        // Through SQLite, so that its log and our record stay as they are: who counts again finds the same.
        let copied = reading(&file, |db| copy_database(db, &guess))?;
        copied.file.sync_all().map_err(DataError::io("sync", &guess))
    })
    .await
}

/// Makes the new directory `into` a database out of a backup, checks it as a whole, and counts its rows. All or nothing; the
/// backup is only read.
///
/// # Errors
/// When `into` exists, or the backup is damaged.
pub async fn restore_backup(backup: &Path, into: &Path) -> Result<Rows, DataError> {
    let (backup, into) = (backup.to_owned(), into.to_owned());
    blocking(move || {
        let partial = begin_dir(&into)?;
        let file = database_file(partial.path());
        std::fs::copy(&backup, &file).map_err(DataError::io("copy the backup to", &file))?;
        check_whole(&file)?;
        let db = Connection::open(&file).map_err(sqlite("open the database", &file))?;
        let rows = count_rows(&db, &file)?;
        drop(db);
        File::open(&file).and_then(|file| file.sync_all()).map_err(DataError::io("sync", &file))?;
        sync_dir(partial.path())?;
        partial.finish()?;
        Ok(rows)
    })
    .await
}

/// Whether an app can be given this database, which nobody uses: it is whole, every row can be read, and it can be written to. Its log
/// stays where it is, and so does all that is known of it.
///
/// # Errors
/// When it is not there, is damaged, or cannot be written to.
pub async fn prove(dir: &Path) -> Result<(), DataError> {
    let file = database_file(dir);
    blocking(move || {
        if !file.exists() {
            return Err(DataError::Missing { what: format!("the database {}", file.display()) });
        }
        let db = connect(&file).map_err(sqlite("open the database", &file))?;
        judge(&db, &file)?;
        count_rows(&db, &file)?;
        db.execute_batch(WRITE_PROBE).map_err(sqlite("write to the database", &file))
    })
    .await
}
