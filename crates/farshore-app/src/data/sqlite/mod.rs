//! SQLite: the app opens its file by itself, and every commit is read out of the write-ahead log and shipped.
//!
//! Read in this order: [`wal`] (the log as SQLite writes it), [`pins`] (why nothing in it is missed), [`frame_log`] (frames
//! in files of our own), [`wire`] (what the regions say to each other), [`snapshot`] (how a replica begins), [`record`] and
//! [`source`] (the side that is followed), [`watch`] and [`live`] (it as a [`Live`]), [`part`], [`fetch`] and [`replica`] (the side that
//! follows), [`home`] (the way back).
//!
//! On disk, in a database's directory: `app.db` and the files that SQLite puts beside it, and `ship/` with what the source
//! must know after a restart. A replica's directory is described in [`replica`].
//!
//! Must always hold: a replica takes only whole committed transactions for restorable, in the order in which they were
//! committed; frames with one number are the same in both regions; whenever that cannot be proved, a new snapshot is taken.

mod fetch;
mod frame_log;
mod home;
mod live;
mod part;
mod pins;
mod record;
mod replica;
mod snapshot;
mod source;
mod wal;
mod watch;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::home::{adopt_old, commits_after, prove, restore_backup};
use crate::data::{DataError, Live, Position, Replica, now};

/// When the log is turned, and how much is kept for a replica that lags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveOptions {
    /// Bytes of the write-ahead log after which it is made to start again. SQLite's own habit is about as much.
    pub turn_bytes: u64,
    /// Bytes of unconfirmed frames that are kept for a replica, or the database's size if that is more. Past that it needs a
    /// new snapshot, of which only pages that differ travel.
    pub backlog_bytes: u64,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self { turn_bytes: 4 << 20, backlog_bytes: 256 << 20 }
    }
}

/// Makes an empty database in the new directory `dir`.
///
/// # Errors
/// When there is one already, or it cannot be written.
pub async fn create(dir: &Path) -> Result<(), DataError> {
    let dir = dir.to_owned();
    blocking(move || {
        let file = database_file(&dir);
        if file.exists() {
            return Err(DataError::Exists(file));
        }
        let ship = ship_dir(&dir);
        std::fs::create_dir_all(&ship).map_err(DataError::io("create", &ship))?;
        let make = || -> rusqlite::Result<u32> {
            let db = rusqlite::Connection::open(&file)?;
            db.execute_batch("PRAGMA journal_mode=WAL; BEGIN IMMEDIATE; PRAGMA user_version=0; COMMIT")?;
            db.query_row("PRAGMA page_size", [], |row| row.get(0))
        };
        let page_size = make().map_err(source::sqlite("create the database", &file))?;
        let none = Position::default();
        record::Record::first(none, page_size, None).write_durably(&dir, none)
    })
    .await
}

/// Opens a database for the app's processes, which must not run yet. Its numbers go on from `from`, or from its own when they are
/// farther: `from` is what a restore returned, or what the database before it had come to; else zero.
///
/// # Errors
/// When it is not there, or another process keeps it out of WAL mode.
pub async fn open_live(dir: &Path, from: Position, options: LiveOptions) -> Result<Arc<dyn Live>, DataError> {
    Ok(live::SqliteLive::open(dir, from, options).await?)
}

/// Opens a replica, or makes an empty one.
///
/// # Errors
/// When its directory cannot be read or written. Damage inside is no error here: a new copy is fetched.
pub async fn open_replica(dir: &Path) -> Result<Arc<dyn Replica>, DataError> {
    Ok(replica::SqliteReplica::open(dir).await?)
}

/// The database's file.
#[must_use]
pub fn database_file(dir: &Path) -> PathBuf {
    dir.join("app.db")
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("app.db-wal")
}

fn index_file(dir: &Path) -> PathBuf {
    dir.join("app.db-shm")
}

fn ship_dir(dir: &Path) -> PathBuf {
    dir.join("ship")
}

/// Runs what waits for disks where that may be done.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DataError> + Send + 'static,
) -> Result<T, DataError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(DataError::Missing { what: "the runtime, which is shutting down,".to_owned() }),
    }
}

/// A number that no other chain and no other snapshot has.
fn chance() -> u64 {
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0; 8];
    match ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        // Without chance the clock tells chains apart.
        Err(_) => now().0.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)),
    }
}

#[cfg(test)]
mod tests;
