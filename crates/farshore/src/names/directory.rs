//! What this node knows of the directory: one immutable view, replaced as a whole, so that looking up waits for nobody.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use farshore_core::directory::{Serial, Verdict, verdict};
use farshore_core::moment::Moment;
use tokio::sync::watch;

use super::answer::Entry;
use super::copy::{self, Copy, CopyError, Named};
use super::signature::SigningKey;
use crate::engine::{DirectoryRecord, now};

/// Records that are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// They are from before what is known.
    #[error(
        "the directory at incarnation {incarnation}, revision {revision} is older than what this node knows: was an old \
         backup put in place by hand? farshore store restore raises the incarnation"
    )]
    Older {
        /// Of what was offered.
        incarnation: u64,
        /// Of what was offered.
        revision: u64,
    },
}

/// The node's view of all names. Clones are the same view.
#[derive(Debug, Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    key: SigningKey,
    copy_path: PathBuf,
    view: RwLock<Arc<View>>,
    /// Held by whoever makes the next view.
    updating: Mutex<()>,
    /// Rises with each new view.
    version: watch::Sender<u64>,
}

/// All names at one revision.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) entries: HashMap<String, Arc<Entry>>,
    pub(super) serial: Serial,
    /// When it was last known to be current; `None`: it is.
    pub(super) stale: Option<Moment>,
    incarnation: u64,
    revision: u64,
    origin: Origin,
}

/// Where a view is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Nothing was ever known: no name can be said to be absent.
    Nothing,
    /// Of an earlier process: a store that was moved meanwhile may count its revisions anew.
    Copy,
    Store,
}

impl View {
    /// Whether a name that is not here is known not to exist.
    pub(super) fn is_known(&self) -> bool {
        self.origin != Origin::Nothing
    }

    fn empty(at: Moment) -> Self {
        Self {
            entries: HashMap::new(),
            serial: Serial(1),
            stale: Some(at),
            incarnation: 0,
            revision: 0,
            origin: Origin::Nothing,
        }
    }

    fn of_copy(copy: Copy) -> Self {
        let entries = copy.records.into_iter().map(|Named { name, incarnation, record }| {
            (name.clone(), Arc::new(Entry::new(name, incarnation, record)))
        });
        Self {
            entries: entries.collect(),
            serial: Serial(copy.serial),
            stale: Some(copy.saved),
            incarnation: copy.incarnation,
            revision: copy.revision,
            origin: Origin::Copy,
        }
    }

    fn to_copy(&self, saved: Moment) -> Copy {
        let named = |entry: &Arc<Entry>| Named {
            name: entry.name.clone(),
            incarnation: entry.token.incarnation,
            record: entry.record.clone(),
        };
        let mut records: Vec<_> = self.entries.values().map(named).collect();
        records.sort_by(|left, right| left.name.cmp(&right.name));
        Copy { incarnation: self.incarnation, revision: self.revision, serial: self.serial.0, saved, records }
    }

    /// The view after all records of the store were read at `revision`. `None`: they are from before this view.
    fn next(&self, incarnation: u64, revision: u64, records: Vec<(String, DirectoryRecord)>) -> Option<Self> {
        let back = match self.origin {
            Origin::Store => (incarnation, revision) < (self.incarnation, self.revision),
            Origin::Nothing | Origin::Copy => incarnation < self.incarnation,
        };
        if back {
            return None;
        }
        let offered =
            records.into_iter().map(|(name, record)| (name.clone(), self.newest(name, incarnation, record)));
        let entries: HashMap<_, _> = offered.collect();
        let same = entries.len() == self.entries.len()
            && entries
                .iter()
                .all(|(name, entry)| self.entries.get(name).is_some_and(|known| Arc::ptr_eq(known, entry)));
        let serial =
            if same && self.is_known() { self.serial } else { self.next_serial(incarnation, revision) };
        Some(Self { entries, serial, stale: None, incarnation, revision, origin: Origin::Store })
    }

    /// The known entry if it says the same, or what is offered is from before it.
    fn newest(&self, name: String, incarnation: u64, record: DirectoryRecord) -> Arc<Entry> {
        let Some(known) = self.entries.get(&name) else {
            return Arc::new(Entry::new(name, incarnation, record));
        };
        if known.record == record && known.token.incarnation == incarnation {
            return Arc::clone(known);
        }
        let offered = Entry::new(name, incarnation, record);
        match verdict(known.standing(), offered.standing()) {
            Verdict::Take => Arc::new(offered),
            Verdict::Refuse => {
                tracing::error!(name = %known.name, known = %known.token, offered = %offered.token,
                    "the store holds an older record of a name: the newer one is told on");
                Arc::clone(known)
            }
        }
    }

    /// The store's, so that all nodes have the same; never one that does not rise.
    fn next_serial(&self, incarnation: u64, revision: u64) -> Serial {
        let of_store = Serial::of(incarnation, revision);
        let rises = !self.is_known() || of_store.is_after(self.serial);
        if rises { of_store } else { Serial(self.serial.0.wrapping_add(1)) }
    }
}

impl Directory {
    /// Begins with the copy at `copy_path`, as far as it is whole: a damaged one is told in the log, and names are unknown
    /// until the first update.
    #[must_use]
    pub fn open(copy_path: &Path, key: SigningKey) -> Self {
        let view = match copy::read(copy_path) {
            Ok(Some(copy)) => View::of_copy(copy),
            Ok(None) => View::empty(now()),
            Err(error) => {
                tracing::warn!(%error, "the directory starts empty");
                View::empty(now())
            }
        };
        let shared = Shared {
            key,
            copy_path: copy_path.to_owned(),
            view: RwLock::new(Arc::new(view)),
            updating: Mutex::new(()),
            version: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// All records of the store as they were at `revision`: names that are not among them are gone. From the return on
    /// answers are from them, unless a name's record is newer than the one offered. The copy on disk is replaced if
    /// anything changed, so this may wait for the disk: call it where that does no harm.
    ///
    /// # Errors
    /// When all of them are from before what is known: nothing was changed.
    pub fn update(
        &self,
        incarnation: u64,
        revision: u64,
        records: Vec<(String, DirectoryRecord)>,
    ) -> Result<(), DirectoryError> {
        let _one_at_a_time = self.shared.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.view();
        let Some(next) = known.next(incarnation, revision, records) else {
            return Err(DirectoryError::Older { incarnation, revision });
        };
        let changed =
            next.serial != known.serial || next.incarnation != known.incarnation || !known.is_known();
        let next = Arc::new(next);
        self.put(Arc::clone(&next));
        if changed && let Err(error) = self.save(&next) {
            tracing::error!(%error, "a restart of this node would answer names with older records");
        }
        Ok(())
    }

    /// Since when the view may be behind the store; `None`: it is not. Answers go on.
    pub fn stale(&self, since: Option<Moment>) {
        let _one_at_a_time = self.shared.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.view();
        // Before the first update the copy's own age is the truth.
        if known.origin == Origin::Store && known.stale != since {
            self.put(Arc::new(View { stale: since, ..(*known).clone() }));
        }
    }

    /// How many names are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.view().entries.len()
    }

    /// Whether no name is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the view was last known to be current; `None`: it is.
    #[must_use]
    pub fn stale_since(&self) -> Option<Moment> {
        self.view().stale
    }

    /// The serial that the zone has now.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.view().serial.0
    }

    pub(super) fn key(&self) -> &SigningKey {
        &self.shared.key
    }

    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.shared.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Whoever calls it holds `updating`.
    fn put(&self, view: Arc<View>) {
        *self.shared.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        self.shared.version.send_modify(|version| *version += 1);
    }

    fn save(&self, view: &View) -> Result<(), CopyError> {
        copy::write(&self.shared.copy_path, &view.to_copy(now()))
    }
}
