//! Keeps the write-ahead log from starting again before all of it has been seen.
//!
//! SQLite starts the log from its beginning when everything in it is in the database file and no reader needs it. A *pin* is a
//! read transaction. While one is held that began when the log had `m` committed frames, then either the log does not start
//! again, or it starts again exactly once, with nothing between frame `m` and the new beginning:
//! - a pin that needs the log (some of it was not in the database file) keeps it as it is;
//! - a pin that needs only the database file keeps others from copying into that file; so once anything follows frame `m`,
//!   the log cannot come to an end, and it can start again only if nothing followed.
//!
//! So a *turn* never lets a pin go before the next one is held and the caller has seen to all that is in the log: then nothing
//! is missed, whenever the log starts again. A turn takes the lock that writers need only when they never pause
//! ([`Lent::enter`]), and then for moments.
//!
//! **Nobody else in this process may open and close the database file**: closing any descriptor of it drops all locks that
//! this process has on it (that is what POSIX says). The log's file is free of that: it carries no locks.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

/// How long another process may keep us from a lock that is held for moments only (recovery of the index).
const BUSY: Duration = Duration::from_secs(5);
/// How long a quiet turn waits for writers before it is given up for now: less than any app's patience.
const QUIET_BUSY: Duration = Duration::from_millis(100);

/// How often the index is asked while a writer is changing it, which takes it less than a microsecond.
const INDEX_ATTEMPTS: u32 = 100;
/// How long to wait in between: a hundred times as long.
const INDEX_PAUSE: Duration = Duration::from_micros(100);

/// Two connections, of which one always holds a pin. The other is lent out for the part of a turn that waits for disks. A
/// third never holds anything: it is there to ask the index with.
#[derive(Debug)]
pub(super) struct Pins {
    held: Connection,
    free: Option<Connection>,
    index: Connection,
}

/// The connection that a turn works with.
#[derive(Debug)]
pub(super) struct Lent(Connection);

/// A connection to a database that exists. Closing it, even as the last one, leaves the log where it is.
pub(super) fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags)?;
    db.busy_timeout(BUSY)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    db.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-256")?;
    Ok(db)
}

/// Starts a read transaction that sees what is committed now.
pub(super) fn pin(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch("BEGIN")?;
    let seen = db.query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |_| Ok(())).optional();
    if let Err(error) = seen {
        unpin(db);
        return Err(error);
    }
    Ok(())
}

/// Ends it. A transaction that only read cannot fail to end.
pub(super) fn unpin(db: &Connection) {
    if !db.is_autocommit() {
        let _ = db.execute_batch("ROLLBACK");
    }
}

impl Pins {
    /// Pins a database that is in WAL mode.
    pub(super) fn hold(file: &Path) -> rusqlite::Result<Self> {
        let (held, free, index) = (connect(file)?, connect(file)?, connect(file)?);
        pin(&held)?;
        // It has to have read once, to know that there is a log.
        pin(&index)?;
        unpin(&index);
        Ok(Self { held, free: Some(free), index })
    }

    /// How many frames of the log are committed now, as the index says: what every reader goes by. 0 also from the moment
    /// on in which a writer starts the log again, which is before the log's file shows it.
    pub(super) fn committed(&self) -> rusqlite::Result<u64> {
        for _ in 0..INDEX_ATTEMPTS {
            // The checkpoint that does nothing takes no lock, and tells how long the log is.
            let (busy, frames): (bool, i64) =
                self.index
                    .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if let (false, Ok(frames)) = (busy, u64::try_from(frames)) {
                return Ok(frames);
            }
            std::thread::sleep(INDEX_PAUSE);
        }
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        Err(rusqlite::Error::SqliteFailure(
            busy,
            Some("the log's index is being changed all the time".to_owned()),
        ))
    }

    /// Whether a turn is under way.
    pub(super) fn is_lent(&self) -> bool {
        self.free.is_none()
    }

    /// First step of a turn: a fresh pin stands beside the old one. Then the caller sees to all that is in the log.
    pub(super) fn cover(&mut self) -> rusqlite::Result<()> {
        let Some(free) = self.free.as_mut() else { return Ok(()) };
        if !free.is_autocommit() {
            // An earlier turn ended between its steps: both its pins still stand.
            return Ok(());
        }
        pin(free)?;
        std::mem::swap(&mut self.held, free);
        Ok(())
    }

    /// Second step: lets the older pin go, and lends its connection out, to copy with it ([`Lent::copy`]).
    pub(super) fn lend(&mut self) -> Option<Lent> {
        self.free.take().map(|free| {
            unpin(&free);
            Lent(free)
        })
    }

    /// Third step: the connection comes back and pins beside the pin of the first step. Then the caller sees to all that is
    /// in the log once more, and calls [`Self::finish`]. After an error the pin of the first step is held.
    pub(super) fn take_back(&mut self, lent: Lent) -> rusqlite::Result<()> {
        unpin(&lent.0);
        self.free = Some(lent.0);
        self.cover()
    }

    /// Last step: lets the older pin go. If nobody has written since the copying, the next writer starts the log again.
    pub(super) fn finish(&mut self) {
        if let Some(free) = &self.free {
            unpin(free);
        }
    }

    /// Instead of the third step, when `lent` makes writers wait ([`Lent::enter`]) and the caller has seen to all that is in
    /// the log: copies the rest, pins, and lets writers go on. After an error nothing is pinned.
    pub(super) fn leave(&mut self, lent: Lent) -> rusqlite::Result<()> {
        // Nobody writes now, so nothing can slip in between the two pins.
        unpin(&self.held);
        let done = checkpoint(&self.held).and_then(|()| pin(&self.held));
        unpin(&lent.0);
        self.free = Some(lent.0);
        done
    }

    /// Asks the database something.
    pub(super) fn ask(&self) -> rusqlite::Result<()> {
        self.held.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
    }
}

impl Lent {
    /// Copies from the log into the database file as far as the pins let it. Waits for disks and for nobody else.
    pub(super) fn copy(&self) -> rusqlite::Result<()> {
        checkpoint(&self.0)
    }

    /// Makes writers wait. False when one would not let us in.
    pub(super) fn enter(&self) -> rusqlite::Result<bool> {
        self.0.busy_timeout(QUIET_BUSY)?;
        let entered = self.0.execute_batch("BEGIN IMMEDIATE");
        self.0.busy_timeout(BUSY)?;
        Ok(entered.is_ok())
    }
}

/// Copies what no reader needs from the log into the database file, without waiting for anybody.
fn checkpoint(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_asked_without_copying_anything_or_keeping_anybody_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.db");
        let db = Connection::open(&file).unwrap();
        db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)").unwrap();
        let pins = Pins::hold(&file).unwrap();
        let (database, before) = (std::fs::read(&file).unwrap(), pins.committed().unwrap());
        db.execute_batch("BEGIN; INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(pins.committed().unwrap(), before, "it is not committed");
        db.execute_batch("COMMIT").unwrap();
        assert_eq!(pins.committed().unwrap(), before + 1);
        assert_eq!(std::fs::read(&file).unwrap(), database);
        db.busy_timeout(Duration::ZERO).unwrap();
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(pins.committed().unwrap(), before + 1);
        db.execute_batch("COMMIT; PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    }
}
