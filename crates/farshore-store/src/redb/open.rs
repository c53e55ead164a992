//! Look before you touch: a store is opened in a rehearsal first, and in earnest only when all of it verified.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use farshore_core::store::{ReadError, Revision};
use redb::backends::FileBackend;
use redb::{Builder, Database, Durability, Error, ReadableDatabase as _};

use super::file::{Access, Faults, Rehearsal, Tracked};
use super::tables;

/// Memory for pages of the store: the whole of a usual one. redb's own default is 1 GiB.
const CACHE_BYTES: usize = 32 << 20;

/// Why a store was not opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open.
    #[error(
        "the store {} is held by another process: stop that node first, or ask it through its API; two regions \
         need two data directories", path.display()
    )]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// It is not a store, or not a whole one.
    #[error(
        "the store {} is damaged ({what}): nothing was changed; stop the node, move the file aside (never delete \
         it) and restore it from a backup", path.display()
    )]
    Damaged {
        /// The store's file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It was written by another version.
    #[error(
        "the store {} has format {found}, this program reads format {}: use the version that wrote it",
        path.display(), tables::FORMAT
    )]
    Format {
        /// The store's file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The file or its directory cannot be used.
    #[error("cannot {doing} the store {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The store's file, or its directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A database that is open in earnest.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) database: Database,
    pub(crate) faults: Faults,
    pub(crate) revision: Revision,
}

/// Opens the store `path`, or creates it.
pub(crate) fn open_or_create(path: &Path) -> Result<Opened, OpenError> {
    let exists = path.try_exists().map_err(io_error("find", path))?;
    match exists {
        true => open(path),
        false => create(path),
    }
}

/// Opens an existing store.
pub(crate) fn open(path: &Path) -> Result<Opened, OpenError> {
    drop(rehearse(path, Access::Alone)?);
    guarded(path, || {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let faults = Faults::default();
        let backend = Tracked::new(FileBackend::new(file)?, faults.clone());
        let database = builder().create_with_backend(backend)?;
        let (_, revision) = tables::log_range(&database.begin_read()?)?;
        Ok(Opened { database, faults, revision })
    })
}

/// Opens an existing store without changing its file, and verifies all of it.
pub(crate) fn rehearse(path: &Path, access: Access) -> Result<Database, OpenError> {
    let file = OpenOptions::new().read(true).write(access == Access::Alone).open(path);
    let file = file.map_err(io_error("open", path))?;
    let length = file.metadata().map_err(io_error("open", path))?.len();
    if length == 0 {
        return Err(damaged(path, "it is empty"));
    }
    let (database, clean) = guarded(path, || {
        let backend = Rehearsal::new(FileBackend::new(file)?, access)?;
        let mut database = builder().create_with_backend(backend)?;
        let clean = database.check_integrity()?;
        Ok((database, clean))
    })?;
    if !clean {
        return Err(damaged(path, "its page accounts do not add up"));
    }
    let (format, newest, revision) = guarded(path, || tables::look(&database.begin_read()?))?;
    if format != tables::FORMAT {
        return Err(OpenError::Format { path: path.to_owned(), found: format });
    }
    if newest > revision {
        return Err(damaged(path, "it holds changes newer than its own revision"));
    }
    Ok(database)
}

/// Creates an empty store beside `path` and gives it its name when it is whole: a crash leaves a store or none.
fn create(path: &Path) -> Result<Opened, OpenError> {
    let mut unborn = path.as_os_str().to_owned();
    unborn.push(".creating");
    let unborn = PathBuf::from(unborn);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(&unborn);
    let file = file.map_err(io_error("create", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(io_error("lock", path)(error)),
    }
    // Under the lock: whoever was faster has given the file its name, and it is not ours to empty.
    if path.try_exists().map_err(io_error("find", path))? {
        return open(path);
    }
    file.set_len(0).map_err(io_error("create", path))?;
    let faults = Faults::default();
    let database = guarded(path, || {
        let database =
            builder().create_with_backend(Tracked::new(FileBackend::new(file)?, faults.clone()))?;
        let mut txn = database.begin_write()?;
        make_durable(&mut txn)?;
        tables::create(&txn)?;
        txn.commit()?;
        Ok(database)
    })?;
    name(&unborn, path).map_err(io_error("create", path))?;
    Ok(Opened { database, faults, revision: Revision(0) })
}

/// Gives a whole file its name, durably; never replaces another.
fn name(unborn: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(unborn, path)?;
    fs::remove_file(unborn)?;
    match path.parent() {
        Some(directory) if directory != Path::new("") => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Makes `txn` durable when it commits.
///
/// In two phases, because after a crash redb takes an unverifiable single-phase commit for one that did not happen and
/// falls back to the one before: a flipped bit would then silently take back what was acknowledged.
pub(crate) fn make_durable(txn: &mut redb::WriteTransaction) -> Result<(), Error> {
    txn.set_durability(Durability::Immediate)?;
    txn.set_two_phase_commit(true);
    Ok(())
}

/// That the store `path` is damaged.
pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), what: what.into() }
}

/// What a failed read of an open store means.
pub(crate) fn read_error(path: &Path, error: &Error) -> ReadError {
    match error {
        Error::Io(_) | Error::PreviousIo | Error::DatabaseClosed | Error::LockPoisoned(_) => {
            ReadError::Unavailable(format!("{}: {error}", path.display()))
        }
        other => ReadError::Damaged(damaged(path, other.to_string()).to_string()),
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Runs `what`, which reads a file nobody vouches for: redb answers most damage with an error, some with a panic.
fn guarded<T>(path: &Path, what: impl FnOnce() -> Result<T, Error>) -> Result<T, OpenError> {
    match catch_unwind(AssertUnwindSafe(what)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(open_error(path, error)),
        Err(_) => Err(damaged(path, "its contents make no sense")),
    }
}

fn open_error(path: &Path, error: Error) -> OpenError {
    match error {
        Error::DatabaseAlreadyOpen => OpenError::InUse { path: path.to_owned() },
        // redb's own words for a file that is not its own, or ends too early.
        Error::Io(error)
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            damaged(path, error.to_string())
        }
        Error::Io(error) => io_error("read", path)(error),
        other => damaged(path, other.to_string()),
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { doing, path, source }
}
