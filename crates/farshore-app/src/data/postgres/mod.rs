//! PostgreSQL: one server for one app, run by the node; its write-ahead log is followed by the other region.
//!
//! Read in this order: `programs` (where PostgreSQL is, and as whom it runs), `cluster` (a database's directory), `server` (a
//! running one), `wire` (how it is spoken to), `records` (what its log says); then what serves: `tail` (follows the log),
//! `base` (a copy of the files on its way), `keeper` (keeps the server running), `live`; `parcel` (what the regions say to each
//! other); and the other region: `copy` (one chain), `replica`, `restore`; `loss` (what an old source has too much).
//!
//! Must always hold: the server answers only this machine, and nobody without the app's password or the node's own user; it
//! ends when the node ends; a commit that waited for the other region is durable there.

mod base;
mod cluster;
mod copy;
mod keeper;
mod live;
mod loss;
mod parcel;
mod programs;
mod records;
mod replica;
mod restore;
mod server;
mod tail;
mod wire;

use std::path::Path;
use std::sync::Arc;

use self::cluster::Cluster;
use self::programs::Programs;
use self::records::Reach;
use self::wire::WireError;
use super::{DataError, Engine, Live, Loss, Position, Replica, Rows};

/// The user that owns the server; only the node is it.
const ADMIN: &str = "farshore";
/// The app's user.
const USER: &str = "app";
/// The app's database.
const DATABASE: &str = "app";
/// What commits wait for in synchronous mode: our own connection that follows the log, by this name.
const STANDBY: &str = "farshore_replica";

/// Memory of a server that only proves a backup, beside those that serve.
const PROOF_BUFFERS_MIB: u32 = 16;

/// How a database's server runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// A commit returns when the other region has it. Without it: when it is on this region's disk.
    pub synchronous: bool,
    /// Memory for the server's pages.
    pub shared_buffers_mib: u32,
    /// Whether the files of a new database are made durable before it is used. Off in tests only.
    pub sync_new_files: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { synchronous: false, shared_buffers_mib: 64, sync_new_files: true }
    }
}

/// What PostgreSQL, or the lack of it, says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// No complete set of its programs was found.
    #[error(
        "PostgreSQL is not installed here: install the package `postgresql` (server and client programs)"
    )]
    NotInstalled,
    /// The server never runs as root, and there is nobody else to run it as.
    #[error("there is no user to run PostgreSQL as: make a user `postgres` (the package `postgresql` does)")]
    NoUser,
    /// One of its programs failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Which.
        program: &'static str,
        /// Its own words.
        said: String,
    },
    /// The server ended when it should have served.
    #[error("the server ended ({status}); it said:\n{said}")]
    Ended {
        /// How.
        status: String,
        /// Its last lines.
        said: String,
    },
    /// The server did not come up in time.
    #[error("the server does not serve after {waited:?}; it said last:\n{said}")]
    Late {
        /// How long was waited.
        waited: std::time::Duration,
        /// Its last lines.
        said: String,
    },
    /// The server could not be asked.
    #[error("{0}")]
    Asked(Box<dyn std::error::Error + Send + Sync>),
}

impl From<WireError> for PostgresError {
    fn from(error: WireError) -> Self {
        Self::Asked(Box::new(error))
    }
}

/// Makes an empty database in `dir`, which must be empty or not exist.
pub async fn create(dir: &Path, options: &Options) -> Result<(), DataError> {
    let programs = Programs::find().map_err(cannot("be run", dir))?;
    Cluster::at(dir).init(&programs, options).await
}

/// Opens a database for its app: ends what is left of an earlier server, starts one, waits until it answers. Commits are
/// counted on from `from` when the directory itself knows of fewer.
pub async fn open_live(dir: &Path, from: Position, options: Options) -> Result<Arc<dyn Live>, DataError> {
    Ok(live::open(dir, from, options).await?)
}

/// Opens the replica in `dir`; an empty one is made there.
pub async fn open_replica(dir: &Path) -> Result<Arc<dyn Replica>, DataError> {
    Ok(replica::open(dir).await?)
}

/// Makes `into`, which must not exist, a database directory from a file that [`Live::backup`] made. Everything in the file is
/// checked; then a server replays its log, reads every row of every table, and ends. `position` is what the backup's
/// description says. Returns the rows by table.
pub async fn restore_backup(backup: &Path, into: &Path, position: Position) -> Result<Rows, DataError> {
    let programs = Programs::find().map_err(cannot("be run", into))?;
    let base = std::fs::File::open(backup).map_err(DataError::io("open the backup", backup))?;
    let reach = Reach::at(0, position);
    let (base_path, dir) = (backup.to_owned(), into.to_owned());
    let source = restore::Source { base, base_path, segments: Vec::new(), reach };
    blocking(move || restore::build(&programs, source, &dir)).await?;
    let rows = first_rows(into, position).await;
    if rows.is_err() {
        // Nobody may take it for a database; the error says what matters.
        tokio::fs::remove_dir_all(into).await.unwrap_or_default();
    }
    rows
}

/// What a server finds that opens a database for the first time.
async fn first_rows(dir: &Path, position: Position) -> Result<Rows, DataError> {
    let options = Options { shared_buffers_mib: PROOF_BUFFERS_MIB, ..Options::default() };
    let live = live::open(dir, position, options).await?;
    let rows = live.rows().await;
    live.stop().await?;
    rows
}

/// Whether an app can be given the database in `dir`, which nobody uses: a server starts on it, reads every row of every table, writes
/// something, takes it back, and ends. Commits are counted as [`open_live`] counts them. Returns where it stands.
pub async fn prove(dir: &Path, from: Position) -> Result<Position, DataError> {
    let options = Options { shared_buffers_mib: PROOF_BUFFERS_MIB, ..Options::default() };
    let live = live::open(dir, from, options).await?;
    let proved = async {
        live.rows().await?;
        live.can_write().await
    };
    let proved = proved.await;
    let stopped = live.stop().await;
    proved.and(stopped)
}

/// What the files of an old source hold that was committed after `position`: exact. Nothing may run on them.
pub async fn commits_after(dir: &Path, position: Position) -> Result<Loss, DataError> {
    let dir = dir.to_owned();
    blocking(move || loss::count_after(&dir, position)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DataError> + Send + 'static,
) -> Result<T, DataError> {
    let failed = |error| DataError::Foreign(format!("a panic: {error}"));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed(error)))
}

/// An error of this engine, for `map_err`.
fn cannot<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
    at: &Path,
) -> impl FnOnce(E) -> DataError {
    DataError::engine(Engine::Postgres, what, at)
}

#[cfg(test)]
mod tests;
