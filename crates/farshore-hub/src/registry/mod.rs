//! Where a hub's identities, twins, messages and settings are kept: one redb file per hub and region.
//!
//! Read in this order: `state` (what the file says of itself), `file` (how it is opened), `transaction` (one change),
//! `writer` (many changes, one sync), `bulk` and `fresh` (many identities at once), `queue` (messages to devices), `shared`
//! (groups, policies, rules), `settings`, `replicate`
//! (what goes to the other region and comes from there), `report` (what a merge does, for people).
//!
//! Must always hold: what was answered with `Ok` is on the disk; a change is decided in sight of all changes before it;
//! every entry has one number in the region's log, its newest; joining a batch and noting how far it went are one
//! transaction.

mod bulk;
mod file;
mod fresh;
mod queue;
mod replicate;
mod report;
mod settings;
mod shared;
mod state;
mod transaction;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use serde_json::Value;
use tokio::sync::broadcast;

pub use crate::record::{
    Ack, Auth, Conflict, Cursor, Device, Edit, Feedback, Group, Invalid, MergePolicy, Message, NewDevice,
    Outcome, Policy, Rights, Rules, Scope, Section, Side,
};
pub use bulk::{Became, Proposal, Proposed, Results};
pub use queue::{MESSAGES_PENDING_MAX, PushError};
pub use replicate::{Batch, JoinError, Joined};
pub use report::MergeReport;
pub use settings::{BadSetting, SETTING_BYTES_MAX, SETTINGS_MAX};
pub use state::Counts;

use crate::names::{DeviceId, Key};
use crate::record::{Entry, EntryKey, Unreadable};
use file::Store;
use transaction::Transaction;
use writer::Writer;

/// How many changes a listener may be behind before it is told that it missed some.
const CHANGES_BEHIND_MAX: usize = 8192;
/// Changes per transaction of a bulk operation: the writer's memory and the wait of others stay small, and a sync costs
/// little for each.
pub const BULK_CHANGES_MAX: usize = 8192;

/// What went wrong with the file. What was asked for was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// The file cannot be read or written.
    #[error("the registry {} cannot be used: {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system or the database said.
        what: String,
    },
    /// There is no room for a change.
    #[error("the registry {} has no room: free space on its disk; nothing was changed", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else has it open.
    #[error("the registry {} is held by another process: stop that one first", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another region.
    #[error("the registry {} is that of region {found}, not of {wanted}: give each region a directory of its own", path.display())]
    OtherRegion {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: Region,
        /// Who came.
        wanted: Region,
    },
    /// It holds what nobody wrote.
    #[error("the registry is damaged: {0}; move it aside and let the region fetch it from its partner")]
    Damaged(#[from] Unreadable),
    /// A setting that cannot be.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// The registry was closed.
    #[error("the registry is closed")]
    Closed,
    /// The one who asked broke off while deciding.
    #[error("the change broke off while it was decided: nothing was changed")]
    Panicked,
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError<E> {
    /// The one who asked decided against it.
    #[error("{0}")]
    Refused(E),
    /// It makes no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The file.
    #[error("{0}")]
    Registry(String),
}

/// What a change did.
#[derive(Debug, Clone)]
pub struct Changed {
    /// As it was; `None`: it was not there.
    pub before: Option<Arc<Device>>,
    /// As it is; `None`: it is not there.
    pub after: Option<Arc<Device>>,
}

/// A device or module changed, here or by what came from elsewhere.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which.
    pub key: Key,
    /// As it was; `None`: it was not there.
    pub before: Option<Arc<Device>>,
    /// As it is; `None`: it is not there.
    pub after: Option<Arc<Device>>,
    /// What a device is to be told of its desired properties: the patch, where there is one.
    pub desired_patch: Option<Value>,
    /// Messages to it changed, not the device.
    pub messages: bool,
}

/// What a registry is opened with.
#[derive(Clone)]
pub struct Options {
    /// Memory for pages of the file.
    pub cache_bytes: usize,
    /// Tells the time.
    pub wall: Arc<dyn Fn() -> Moment + Send + Sync>,
}

/// Memory for pages: the inner pages of a million identities, and the leaves that are in use. redb's own default is 1 GiB.
pub const CACHE_BYTES: usize = 128 << 20;

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: CACHE_BYTES, wall: Arc::new(now) }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("cache_bytes", &self.cache_bytes).finish_non_exhaustive()
    }
}

fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// A hub's registry. Clones are the same registry; the file is released when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Registry {
    store: Arc<Store>,
    writer: Arc<Writer>,
    changes: broadcast::Sender<Arc<Change>>,
}

/// One change of many: decides in sight of the device.
pub type Decide<E> = Box<dyn FnOnce(Option<&Device>) -> Result<Vec<Edit>, E> + Send>;

impl Registry {
    /// Opens the registry in the directory `dir`, or makes it. Blocks while the file is looked at.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing was changed.
    pub fn open(dir: &Path, region: Region) -> Result<Self, RegistryError> {
        Self::open_with(dir, region, Options::default())
    }

    /// Opens it with options of one's own.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing was changed.
    pub fn open_with(dir: &Path, region: Region, options: Options) -> Result<Self, RegistryError> {
        let store = Arc::new(Store::open(dir, region, options.cache_bytes)?);
        let changes = broadcast::Sender::new(CHANGES_BEHIND_MAX);
        let writer = Arc::new(Writer::spawn(Arc::clone(&store), changes.clone(), options.wall));
        Ok(Self { store, writer, changes })
    }

    /// The region whose registry this is.
    #[must_use]
    pub fn region(&self) -> Region {
        self.store.state().region.clone()
    }

    /// Changes from now on are made under this right. It is remembered with the next change and never goes back.
    pub fn activate(&self, epoch: Epoch) {
        self.writer.raise(epoch);
    }

    /// A device or module as it reads now.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn get(&self, key: &Key) -> Result<Option<Arc<Device>>, RegistryError> {
        let bytes = EntryKey::Device(key.clone()).to_bytes();
        let rules = &self.store.state().rules;
        match self.store.read()?.entry(&bytes)? {
            Some((_, Entry::Device(record))) => Ok(record.device(key, rules).map(Arc::new)),
            _ => Ok(None),
        }
    }

    /// Devices and modules after `after`, by their keys; at most `limit`.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn page(&self, after: Option<&Key>, limit: usize) -> Result<Vec<Arc<Device>>, RegistryError> {
        let mut start = after.map_or_else(|| b"d".to_vec(), |key| EntryKey::Device(key.clone()).to_bytes());
        if after.is_some() {
            start.push(0);
        }
        self.range(&start, b"e", limit)
    }

    /// The modules of a device.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn modules(&self, device: &DeviceId) -> Result<Vec<Arc<Device>>, RegistryError> {
        let (start, end) = transaction::modules_of(device);
        self.range(&start, &end, usize::MAX)
    }

    /// Every device and module as of one moment, by their keys, until `more` says no.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn walk(&self, mut more: impl FnMut(Device) -> bool) -> Result<(), RegistryError> {
        let rules = &self.store.state().rules;
        self.store.read()?.each(b"d", b"e", |key, entry| match (key, entry) {
            (EntryKey::Device(key), Entry::Device(record)) => {
                record.device(&key, rules).is_none_or(&mut more)
            }
            _ => true,
        })
    }

    fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Arc<Device>>, RegistryError> {
        let rules = &self.store.state().rules;
        let mut found = Vec::new();
        self.store.read()?.each(start, end, |key, entry| {
            if let (EntryKey::Device(key), Entry::Device(record)) = (key, entry) {
                found.extend(record.device(&key, rules).map(Arc::new));
            }
            found.len() < limit
        })?;
        Ok(found)
    }

    /// How many there are. Costs nothing.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.store.state().counts
    }

    /// Changes a device or module. `decide` sees it as it is and nobody changes it meanwhile; no edits: nothing happens.
    /// What it did is on the disk on return.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing was changed.
    pub async fn change<E: Send + 'static>(
        &self,
        key: Key,
        decide: impl FnOnce(Option<&Device>) -> Result<Vec<Edit>, E> + Send + 'static,
    ) -> Result<Changed, ChangeError<E>> {
        let done = self.writer.submit(move |txn| txn.change(&key, decide)).await;
        done.unwrap_or_else(|error| Err(ChangeError::Registry(error.to_string())))
    }

    /// Many changes, a few thousand in a transaction; each stands for itself. What succeeded is on the disk on return.
    pub async fn change_many<E: Send + 'static>(
        &self,
        changes: Vec<(Key, Decide<E>)>,
    ) -> Vec<Result<Changed, ChangeError<E>>> {
        let mut results = Vec::with_capacity(changes.len());
        let mut rest = changes.into_iter().peekable();
        while rest.peek().is_some() {
            let some: Vec<_> = rest.by_ref().take(BULK_CHANGES_MAX).collect();
            let count = some.len();
            let work = move |txn: &mut Transaction<'_>| {
                some.into_iter().map(|(key, decide)| txn.change(&key, decide)).collect::<Result<Vec<_>, _>>()
            };
            match self.writer.submit(work).await {
                Ok(done) => results.extend(done),
                Err(error) => {
                    let failed = || Err(ChangeError::Registry(error.to_string()));
                    results.extend(std::iter::repeat_with(failed).take(count));
                }
            }
        }
        results
    }

    /// What changes from now on, here and by what comes from elsewhere. Of the identities that an import makes or another region
    /// brings where nothing was, only the last of a transaction is announced: nobody is connected as one that was not there.
    #[must_use]
    pub fn changed(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }

    /// What regions changed at once and nobody has decided since, at most `limit`.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub fn conflicts(&self, limit: usize) -> Result<Vec<Conflict>, RegistryError> {
        let rules = &self.store.state().rules;
        let read = self.store.read()?;
        let mut found = Vec::new();
        for bytes in read.contested(limit)? {
            if let Some((_, entry)) = read.entry(&bytes)? {
                found.extend(entry.conflicts(&EntryKey::from_bytes(&bytes)?, rules));
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
