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
//! ([`Pins::enter`]), and then for moments.
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

/// Two connections, of which one always holds a pin.
#[derive(Debug)]
pub(super) struct Pins {
    held: Connection,
    free: Connection,
}

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
        let (held, free) = (connect(file)?, connect(file)?);
        pin(&held)?;
        Ok(Self { held, free })
    }

    /// First step of a turn: a fresh pin stands beside the old one. Then the caller sees to all that is in the log.
    pub(super) fn cover(&mut self) -> rusqlite::Result<()> {
        if !self.free.is_autocommit() {
            // An earlier turn ended between its steps: both its pins still stand.
            return Ok(());
        }
        pin(&self.free)?;
        std::mem::swap(&mut self.held, &mut self.free);
        Ok(())
    }

    /// Second step: lets the old pin go, copies into the database file, and pins again beside the pin of the first step. Then
    /// the caller sees to all that is in the log once more. After an error the pin of the first step is held.
    pub(super) fn copy(&mut self) -> rusqlite::Result<()> {
        unpin(&self.free);
        checkpoint(&self.free)?;
        self.cover()
    }

    /// Last step: lets the older pin go. If nobody has written since the copying, the next writer starts the log again.
    pub(super) fn finish(&mut self) {
        unpin(&self.free);
    }

    /// Instead of the second step, when writers never pause: makes them wait. False when one would not let us in: then
    /// nothing has changed. Else the caller sees to all that is in the log, quickly, and calls [`Self::leave`].
    pub(super) fn enter(&mut self) -> rusqlite::Result<bool> {
        unpin(&self.free);
        self.free.busy_timeout(QUIET_BUSY)?;
        let entered = self.free.execute_batch("BEGIN IMMEDIATE");
        self.free.busy_timeout(BUSY)?;
        Ok(entered.is_ok())
    }

    /// Copies all that no reader of the app keeps from being copied, and lets writers go on. After an error nothing is pinned.
    pub(super) fn leave(&mut self) -> rusqlite::Result<()> {
        // Nobody writes now, so nothing can slip in between the two pins.
        unpin(&self.held);
        let done = checkpoint(&self.held).and_then(|()| pin(&self.held));
        unpin(&self.free);
        done
    }

    /// Asks the database something.
    pub(super) fn ask(&self) -> rusqlite::Result<()> {
        self.free.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
    }
}

/// Copies what no reader needs from the log into the database file, without waiting for anybody.
fn checkpoint(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
