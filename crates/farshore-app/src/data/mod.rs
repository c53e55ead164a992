//! The database of an app: served in one region, followed by a copy in another, backed up, brought back.
//!
//! Two engines stand behind two traits. A [`Live`] is a database that the app's processes use now; a [`Replica`] follows one
//! from another region by asking [`Live::ship`] again and again: its request says what is durable there, the answer brings
//! what is missing. What is in a request and an answer only the engine knows. A replica is never opened by an app: it is
//! restored into a new directory, which a `Live` then opens, and it stays as it was.
//!
//! Must always hold: what a replica has is a prefix of what its source committed; [`Live::confirmed`] never names more than
//! is durable there; nothing here writes to a database that someone else may be using; a copy that is offered was checked.

pub mod backup;
pub mod postgres;
pub mod sqlite;
pub(crate) mod unfinished;

use std::error::Error;
use std::fmt::{self, Debug};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

/// What keeps an app's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// One file in the app's directory.
    Sqlite,
    /// A server that the node runs for this app alone.
    Postgres,
}

impl Engine {
    /// The word that people use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no database engine: use sqlite or postgres")]
pub struct UnknownEngine(pub String);

impl FromStr for Engine {
    type Err = UnknownEngine;
    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        [Self::Sqlite, Self::Postgres]
            .into_iter()
            .find(|engine| engine.as_str() == text)
            .ok_or_else(|| UnknownEngine(text.to_owned()))
    }
}

/// How far a database is, counted since the app was created. Goes on rising across regions: a database that is restored from
/// a replica continues the replica's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Position {
    /// Transactions that changed something and were committed.
    pub commits: u64,
    /// Bytes that they put into the write-ahead log.
    pub bytes: u64,
    /// When the last of them was seen.
    pub at: Moment,
}

impl Position {
    /// What is here and not yet at `kept`. Zero when `kept` is as far or farther.
    #[must_use]
    pub fn beyond(self, kept: Self) -> Loss {
        let commits = self.commits.saturating_sub(kept.commits);
        let bytes = self.bytes.saturating_sub(kept.bytes);
        let nothing = commits == 0 && bytes == 0;
        let seconds = if nothing { 0.0 } else { self.at.since(kept.at).as_secs_f64() };
        Loss { commits, bytes, seconds }
    }

    /// No less than either.
    #[must_use]
    pub fn farthest(self, other: Self) -> Self {
        let (commits, bytes) = (self.commits.max(other.commits), self.bytes.max(other.bytes));
        Self { commits, bytes, at: self.at.max(other.at) }
    }

    /// Whether everything of `other` is in here. The clocks of two regions play no part in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.commits >= other.commits && self.bytes >= other.bytes
    }
}

/// Committed transactions that one side lacks, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Loss {
    /// How many.
    pub commits: u64,
    /// Their bytes in the write-ahead log.
    pub bytes: u64,
    /// Seconds between the last that both sides have and the last that one side lacks.
    pub seconds: f64,
}

/// The replica did not confirm everything in time. What was committed stays committed here.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error(
    "the other region has not confirmed {} commits ({} bytes) within {waited:?}: they are kept here and go on being sent",
    .lacks.commits, .lacks.bytes
)]
pub struct Behind {
    /// What is not yet durable there.
    pub lacks: Loss,
    /// How long was waited.
    pub waited: Duration,
}

/// Why something about a database could not be done. Says whether trying again can help: [`DataError::is_passing`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file system refused.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// A verb and its object's kind: `write the page file`.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The engine refused, or does not run.
    #[error("{engine} cannot {what} at {}: {source}", .at.display())]
    Engine {
        /// Which.
        engine: Engine,
        /// What was tried: `take a snapshot of the database`.
        what: &'static str,
        /// The database.
        at: PathBuf,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A file is not what was once written. It is left as it is, and never restored.
    #[error("{} is damaged: {what}; {mend}", .path.display())]
    Corrupt {
        /// What was found.
        what: String,
        /// Where.
        path: PathBuf,
        /// What the operator or the caller can do.
        mend: &'static str,
    },
    /// There is nothing complete to restore yet.
    #[error("the replica at {} is not whole yet: {have} of {of} bytes of its first snapshot are here", .path.display())]
    NotWhole {
        /// The replica.
        path: PathBuf,
        /// Bytes that are here.
        have: u64,
        /// Bytes in all; 0 while unknown.
        of: u64,
    },
    /// A restore never writes to what exists.
    #[error("{} exists already: restore into a new directory", .0.display())]
    Exists(PathBuf),
    /// There is no such database, replica or backup.
    #[error("{what} is not there")]
    Missing {
        /// What was looked for.
        what: String,
    },
    /// The other side sent what this side cannot read or must not take. Nothing of it was kept.
    #[error("the other region sent {0}")]
    Foreign(String),
    /// It was stopped.
    #[error("the database at {} has been stopped", .0.display())]
    Stopped(PathBuf),
}

impl DataError {
    /// Whether trying again, later and unchanged, can help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Engine { .. } | Self::NotWhole { .. } => true,
            Self::Corrupt { .. } | Self::Exists(_) | Self::Missing { .. } => false,
            Self::Foreign(_) | Self::Stopped(_) => false,
        }
    }

    /// A [`DataError::Io`], for `map_err`.
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// An [`DataError::Engine`], for `map_err`.
    pub fn engine<E: Into<Box<dyn Error + Send + Sync>>>(
        engine: Engine,
        what: &'static str,
        at: &Path,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let at = at.to_owned();
        move |source| Self::Engine { engine, what, at, source: source.into() }
    }
}

/// What a copy of a live database is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupMeta {
    /// What can restore it.
    pub engine: Engine,
    /// What is in it: everything up to here, and nothing later.
    pub position: Position,
    /// When it was begun.
    pub at: Moment,
    /// Bytes of its files.
    pub bytes: u64,
    /// Rows of each table, as the database itself counted them at that position. Empty when it was not counted.
    pub rows: Rows,
}

/// Rows by table, `schema.table` where there are schemas.
pub type Rows = std::collections::BTreeMap<String, u64>;

/// A database that the app's processes use now. Dropping it stops what it runs; [`Live::stop`] does it well.
#[async_trait]
pub trait Live: Send + Sync + Debug {
    /// What keeps it.
    fn engine(&self) -> Engine;
    /// What the app's processes get: `DATABASE_URL`, and `DATABASE_FILE` or `PG…`. Secret: it may hold a password.
    fn env(&self) -> Vec<(String, String)>;
    /// What is committed here.
    fn position(&self) -> Position;
    /// What is durable at the replica; nothing when no replica has asked since this was opened.
    fn confirmed(&self) -> Option<Position>;
    /// Whether all that is known to be committed is durable at the replica. Costs nothing: asked for every request.
    fn is_settled(&self) -> bool;
    /// Waits until all that is committed when this is called is durable at the replica.
    async fn settle(&self, within: Duration) -> Result<(), Behind>;
    /// From now on commits themselves wait until the replica has them, as soon as it has a whole copy; or no longer. An engine
    /// that cannot do so does nothing: [`Live::settle`] is for those who tell others.
    async fn hold(&self, synchronous: bool) -> Result<(), DataError> {
        let _ = synchronous;
        Ok(())
    }
    /// Answers a replica's request; waits up to `wait` for something new. What the request confirms counts at once.
    async fn ship(&self, request: &[u8], wait: Duration) -> Result<Vec<u8>, DataError>;
    /// A consistent copy as a new file or directory `into`, while the database is used.
    async fn backup(&self, into: &Path) -> Result<BackupMeta, DataError>;
    /// Asks the database something and gets an answer.
    async fn check(&self) -> Result<(), DataError>;
    /// What a person should know and mend: it stays so until it is mended.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    /// After the app's processes have ended: everything committed is in files, and nobody here holds them.
    async fn stop(&self) -> Result<Position, DataError>;
}

/// A copy that follows a live database of another region.
#[async_trait]
pub trait Replica: Send + Sync + Debug {
    /// What to ask the source next. Says what is durable here.
    fn request(&self) -> Vec<u8>;
    /// Takes an answer in. On return it is durable. True when it brought something.
    async fn apply(&self, answer: &[u8]) -> Result<bool, DataError>;
    /// What can be restored from here.
    fn position(&self) -> Position;
    /// How far the source was when it answered last.
    fn theirs(&self) -> Position;
    /// Whether it can be restored.
    fn is_whole(&self) -> bool;
    /// Bytes of the snapshot that is being fetched: here, and in all. Equal when none is.
    fn progress(&self) -> (u64, u64);
    /// Makes `into`, which must not exist, a database directory that a `Live` can open, checked as a whole. The replica is
    /// left as it is; called again after a failure it starts anew.
    async fn restore(&self, into: &Path) -> Result<Position, DataError>;
    /// Ends what it runs. Its files stay.
    async fn close(&self);
}

/// The wall clock, to label commits with.
#[must_use]
pub fn now() -> Moment {
    moment_of(SystemTime::now())
}

/// The same for a file's times.
pub(crate) fn moment_of(time: SystemTime) -> Moment {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_lacks_is_counted_and_never_negative() {
        let kept = Position { commits: 7, bytes: 700, at: Moment(1_000_000) };
        let last = Position { commits: 9, bytes: 950, at: Moment(3_500_000) };
        assert_eq!(last.beyond(kept), Loss { commits: 2, bytes: 250, seconds: 2.5 });
        assert_eq!(kept.beyond(last), Loss::default());
        assert_eq!(kept.beyond(Position { at: Moment(0), ..kept }), Loss::default());
        assert!(last.covers(kept) && !kept.covers(last) && kept.covers(kept));
    }

    #[test]
    fn engines_are_named_as_people_write_them() {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            assert_eq!(engine.as_str().parse(), Ok(engine));
            assert_eq!(serde_json::to_value(engine).unwrap(), serde_json::json!(engine.as_str()));
        }
        let error = "oracle".parse::<Engine>().unwrap_err();
        assert_eq!(error.to_string(), "\"oracle\" is no database engine: use sqlite or postgres");
    }
}
