//! How the file is opened and read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use farshore_core::ids::Region;
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, WriteTransaction,
};
use tokio::sync::watch;

use super::RegistryError;
use super::state::State;
use crate::record::{Entry, EntryKey, Unreadable};

/// Entry key to its number in the log (eight bytes, little endian) and its bytes.
pub(super) const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
/// Number to entry key: every entry once, under its newest number.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Numbers of entries that may be forgotten, or parts of them.
pub(super) const GRAVES: TableDefinition<'_, u64, ()> = TableDefinition::new("graves");
/// Keys of entries in which something had to be decided.
pub(super) const CONFLICTS: TableDefinition<'_, &[u8], ()> = TableDefinition::new("conflicts");
/// Keys of messages whose senders have yet to hear of their end.
pub(super) const FEEDBACK: TableDefinition<'_, &[u8], ()> = TableDefinition::new("feedback");
/// One row: the state.
pub(super) const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");

const FILE: &str = "registry.redb";

/// The open file, and its state after the newest transaction.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    cache_bytes: usize,
    /// `None`: it is being opened again, or that failed.
    database: RwLock<Option<Arc<Database>>>,
    state: RwLock<Arc<State>>,
    /// Changes of settings that are on the disk.
    settings: watch::Sender<u64>,
}

impl Store {
    pub(super) fn open(dir: &Path, region: Region, cache_bytes: usize) -> Result<Self, RegistryError> {
        let path = dir.join(FILE);
        let io = |error: std::io::Error| RegistryError::Io { path: path.clone(), what: error.to_string() };
        fs::create_dir_all(dir).map_err(io)?;
        let opened = Builder::new().set_cache_size(cache_bytes).create(&path);
        let database = opened.map_err(|error| fault(&path, error.into()))?;
        let state = prepare(&database, &region).map_err(|error| fault(&path, error))?;
        let state = State::from_bytes(&state)
            .map_err(|what| RegistryError::Io { path: path.clone(), what: what.to_owned() })?;
        if state.region != region {
            return Err(RegistryError::OtherRegion { path, found: state.region, wanted: region });
        }
        // A new file's name must be as durable as what will be in it.
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        let database = RwLock::new(Some(Arc::new(database)));
        let settings = watch::Sender::new(state.settings);
        Ok(Self { path, cache_bytes, database, state: RwLock::new(Arc::new(state)), settings })
    }

    fn database(&self) -> Result<Arc<Database>, RegistryError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.clone().ok_or_else(|| self.fault(redb::Error::DatabaseClosed))
    }

    /// Opens the file again after there was no room for a write: redb answers nothing more then, not even what it has. What was
    /// synced before is intact. For the writer's thread only, which may wait.
    pub(super) fn reopen(&self) -> Result<(), RegistryError> {
        let mut place = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = place.take() {
            let still_read = Arc::downgrade(&old);
            drop(old);
            // Readers are in the middle of an error; new ones wait for the lock.
            while still_read.strong_count() > 0 {
                std::thread::yield_now();
            }
        }
        let opened = Builder::new().set_cache_size(self.cache_bytes).open(&self.path);
        *place = Some(Arc::new(opened.map_err(|error| self.fault(error.into()))?));
        Ok(())
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn publish(&self, state: State) {
        let settings = state.settings;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
        self.settings.send_if_modified(|known| std::mem::replace(known, settings) != settings);
    }

    /// Counts the changes of settings.
    pub(super) fn settings(&self) -> watch::Receiver<u64> {
        self.settings.subscribe()
    }

    pub(super) fn fault(&self, error: redb::Error) -> RegistryError {
        fault(&self.path, error)
    }

    /// A transaction that is durable when it has committed.
    ///
    /// In two phases: after a crash redb takes a single-phase commit that it cannot verify for one that did not happen, so a flipped bit
    /// would silently take back what was acknowledged.
    pub(super) fn begin(&self) -> Result<WriteTransaction, RegistryError> {
        let database = self.database()?;
        let begin = || -> Result<_, redb::Error> {
            let mut txn = database.begin_write()?;
            txn.set_durability(Durability::Immediate)?;
            txn.set_two_phase_commit(true);
            Ok(txn)
        };
        begin().map_err(|error| self.fault(error))
    }

    /// A look at everything as it is now.
    pub(super) fn read(&self) -> Result<Look<'_>, RegistryError> {
        let database = self.database()?;
        let begin = || -> Result<_, redb::Error> {
            let txn = database.begin_read()?;
            Ok((txn.open_table(ENTRIES)?, txn))
        };
        let (entries, txn) = begin().map_err(|error| self.fault(error))?;
        Ok(Look { store: self, txn, entries, _database: database })
    }
}

/// Makes the tables where there are none, and reads the state.
fn prepare(database: &Database, region: &Region) -> Result<Vec<u8>, redb::Error> {
    let txn = database.begin_read()?;
    match txn.open_table(STATE) {
        Ok(table) => {
            if let Some(bytes) = table.get("state")? {
                return Ok(bytes.value().to_vec());
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    drop(txn);
    let bytes = State::new(region.clone(), rand::random()).to_bytes();
    let mut txn = database.begin_write()?;
    txn.set_two_phase_commit(true);
    txn.open_table(ENTRIES)?;
    txn.open_table(LOG)?;
    txn.open_table(GRAVES)?;
    txn.open_table(CONFLICTS)?;
    txn.open_table(FEEDBACK)?;
    txn.open_table(STATE)?.insert("state", bytes.as_slice())?;
    txn.commit()?;
    Ok(bytes)
}

fn fault(path: &Path, error: redb::Error) -> RegistryError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen => RegistryError::InUse { path },
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::StorageFull
                    | std::io::ErrorKind::QuotaExceeded
                    | std::io::ErrorKind::FileTooLarge
            ) =>
        {
            RegistryError::Full { path }
        }
        other => RegistryError::Io { path, what: other.to_string() },
    }
}

/// Splits what is stored under an entry's key.
pub(super) fn parse(stored: &[u8]) -> Result<(u64, &[u8]), Unreadable> {
    let (seq, bytes) = stored.split_first_chunk::<8>().ok_or(Unreadable("it is too short"))?;
    Ok((u64::from_le_bytes(*seq), bytes))
}

/// The file at one moment.
pub(super) struct Look<'a> {
    pub(super) store: &'a Store,
    pub(super) txn: ReadTransaction,
    entries: ReadOnlyTable<&'static [u8], &'static [u8]>,
    /// Last, so that it outlives what is read from it.
    _database: Arc<Database>,
}

impl Look<'_> {
    pub(super) fn fault(&self, error: impl Into<redb::Error>) -> RegistryError {
        self.store.fault(error.into())
    }

    /// The state as of this look, not as of now.
    pub(super) fn state(&self) -> Result<State, RegistryError> {
        let table = self.txn.open_table(STATE).map_err(|error| self.fault(error))?;
        let bytes = table.get("state").map_err(|error| self.fault(error))?;
        let bytes = bytes.ok_or(Unreadable("its state is missing"))?;
        State::from_bytes(bytes.value()).map_err(|what| Unreadable(what).into())
    }

    /// An entry, with its number in the log.
    pub(super) fn entry(&self, key: &[u8]) -> Result<Option<(u64, Entry)>, RegistryError> {
        let Some(stored) = self.entries.get(key).map_err(|error| self.fault(error))? else { return Ok(None) };
        let (seq, bytes) = parse(stored.value())?;
        Ok(Some((seq, Entry::from_bytes(bytes)?)))
    }

    /// The bytes of an entry.
    pub(super) fn bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RegistryError> {
        let Some(stored) = self.entries.get(key).map_err(|error| self.fault(error))? else { return Ok(None) };
        Ok(Some(parse(stored.value())?.1.to_vec()))
    }

    /// Every entry from `start` to before `end`, until `more` says no.
    pub(super) fn each(
        &self,
        start: &[u8],
        end: &[u8],
        mut more: impl FnMut(EntryKey, Entry) -> bool,
    ) -> Result<(), RegistryError> {
        for row in self.entries.range(start..end).map_err(|error| self.fault(error))? {
            let (key, stored) = row.map_err(|error| self.fault(error))?;
            let entry = Entry::from_bytes(parse(stored.value())?.1)?;
            if !more(EntryKey::from_bytes(key.value())?, entry) {
                break;
            }
        }
        Ok(())
    }

    /// Keys of entries with conflicts.
    pub(super) fn contested(&self, limit: usize) -> Result<Vec<Vec<u8>>, RegistryError> {
        self.keys(CONFLICTS, limit)
    }

    /// Keys of messages with news.
    pub(super) fn with_feedback(&self, limit: usize) -> Result<Vec<Vec<u8>>, RegistryError> {
        self.keys(FEEDBACK, limit)
    }

    fn keys(
        &self,
        table: TableDefinition<'_, &'static [u8], ()>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, RegistryError> {
        let list = || -> Result<_, redb::Error> {
            let mut keys = Vec::new();
            for row in self.txn.open_table(table)?.iter()?.take(limit) {
                keys.push(row?.0.value().to_vec());
            }
            Ok(keys)
        };
        list().map_err(|error| self.fault(error))
    }
}
