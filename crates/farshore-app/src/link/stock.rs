//! What a region has of an app: its charter, scripts, releases, backups and database. What the link gives and takes.
//!
//! Must always hold: what [`Stock::has`] tells is durable; a charter is taken over only when the files of its live release are here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::ids::{Epoch, ItemId};
use farshore_core::workload::Watermark;
use tokio::sync::watch;

use super::wire::{Has, print};
use crate::charter::{Charter, CharterError};
use crate::data::{Engine, Live, Position, Replica};
use crate::releases::{ReleaseError, Releases};
use crate::scripts::{Refs, Repository, ScriptsError};

/// See the module.
#[derive(Debug)]
pub struct Stock {
    /// The app.
    pub item: ItemId,
    /// Its directory.
    pub dir: PathBuf,
    /// Its scripts.
    pub repository: Arc<Repository>,
    /// Its releases' files.
    pub releases: Releases,
    charter: Mutex<Charter>,
    refs: Mutex<Refs>,
    here: Mutex<BTreeSet<u64>>,
    backups: Mutex<BTreeSet<String>>,
    database: Mutex<Kept>,
    changed: watch::Sender<u64>,
}

/// The database, as it is kept here now.
#[derive(Debug, Clone, Default)]
pub enum Kept {
    /// It is closed, or there is none.
    #[default]
    Closed,
    /// Used by the app's processes, or was until now.
    Live(Arc<dyn Live>),
    /// Follows another region's.
    Replica(Arc<dyn Replica>),
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stock {
    /// What is in this directory, with this charter.
    ///
    /// # Errors
    /// The repository or the releases cannot be read.
    pub fn open(
        item: ItemId,
        dir: &Path,
        charter: Charter,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let repository = Arc::new(Repository::open_or_init(dir.join("git"))?);
        let releases = Releases::open(&dir.join("releases"))?;
        let here = releases.list()?;
        Ok(Self {
            item,
            dir: dir.to_owned(),
            repository,
            releases,
            charter: Mutex::new(charter),
            refs: Mutex::default(),
            here: Mutex::new(here),
            backups: Mutex::default(),
            database: Mutex::default(),
            changed: watch::Sender::new(0),
        })
    }

    /// As it is now.
    pub fn charter(&self) -> MutexGuard<'_, Charter> {
        lock(&self.charter)
    }

    /// Changes the charter under the right of `epoch`: durably, or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn change(&self, epoch: Epoch, change: impl FnOnce(&mut Charter)) -> Result<(), CharterError> {
        let mut charter = self.charter();
        let mut changed = charter.clone();
        change(&mut changed);
        (changed.tag.epoch, changed.tag.version) = (epoch, charter.tag.version + 1);
        changed.save(&self.dir)?;
        *charter = changed;
        drop(charter);
        self.tell();
        Ok(())
    }

    /// Takes over the active region's charter: durable on return.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn adopt(&self, theirs: Charter) -> Result<(), CharterError> {
        theirs.save(&self.dir)?;
        *self.charter() = theirs;
        self.tell();
        Ok(())
    }

    /// Something is new here: whoever waits for that is told.
    pub fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Told of each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The branches, when they were last looked at.
    #[must_use]
    pub fn refs(&self) -> Refs {
        lock(&self.refs).clone()
    }

    /// Looks at the branches.
    ///
    /// # Errors
    /// As git says.
    pub async fn look_at_refs(&self) -> Result<(), ScriptsError> {
        let refs = self.repository.refs().await?;
        let is_new = std::mem::replace(&mut *lock(&self.refs), refs.clone()) != refs;
        if is_new {
            self.tell();
        }
        Ok(())
    }

    /// The releases whose files are here.
    #[must_use]
    pub fn here(&self) -> BTreeSet<u64> {
        lock(&self.here).clone()
    }

    /// Looks which releases' files are here.
    ///
    /// # Errors
    /// As the file system says.
    pub fn look_at_releases(&self) -> Result<(), ReleaseError> {
        *lock(&self.here) = self.releases.list()?;
        self.tell();
        Ok(())
    }

    /// The backups that are here, as [`Stock::set_backups`] said.
    #[must_use]
    pub fn backups(&self) -> BTreeSet<String> {
        lock(&self.backups).clone()
    }

    /// These backups are here.
    pub fn set_backups(&self, ids: BTreeSet<String>) {
        let is_new = std::mem::replace(&mut *lock(&self.backups), ids.clone()) != ids;
        if is_new {
            self.tell();
        }
    }

    /// What the app's database is, when Farshore keeps it.
    #[must_use]
    pub fn engine(&self) -> Option<Engine> {
        self.charter().engine()
    }

    /// The database as it is kept now.
    #[must_use]
    pub fn kept(&self) -> Kept {
        lock(&self.database).clone()
    }

    /// Keeps it so from now on; what was kept before is returned, to be ended.
    pub fn keep(&self, kept: Kept) -> Kept {
        let before = std::mem::replace(&mut *lock(&self.database), kept);
        self.tell();
        before
    }

    /// The database that the app uses.
    #[must_use]
    pub fn live(&self) -> Option<Arc<dyn Live>> {
        match self.kept() {
            Kept::Live(live) => Some(live),
            _ => None,
        }
    }

    /// The database's copy.
    #[must_use]
    pub fn replica(&self) -> Option<Arc<dyn Replica>> {
        match self.kept() {
            Kept::Replica(replica) => Some(replica),
            _ => None,
        }
    }

    /// How far the database is here, when it is open.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self.kept() {
            Kept::Closed => None,
            Kept::Live(live) => Some(live.position()),
            Kept::Replica(replica) => Some(replica.position()),
        }
    }

    /// How far the app is here: its database's commits, or its charter's changes when it has none. `closed`: how far the database was
    /// when it was closed.
    #[must_use]
    pub fn watermark(&self, epoch: Epoch, closed: Position) -> Watermark {
        if self.engine().is_none() {
            let seq = self.charter().tag.version;
            return Watermark { epoch, seq, bytes: 0, at: closed.at };
        }
        let Position { commits, bytes, at } = self.position().unwrap_or(closed);
        Watermark { epoch, seq: commits, bytes, at }
    }

    /// Whether the app could be recovered from what is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let (is_known, live) = {
            let charter = self.charter();
            (charter.is_known(), charter.live)
        };
        let has_files = live.is_none_or(|live| lock(&self.here).contains(&live));
        let has_rows = self.engine().is_none() || self.replica().is_some_and(|replica| replica.is_whole());
        is_known && has_files && has_rows
    }

    /// What is durable here.
    #[must_use]
    pub fn has(&self) -> Has {
        let (copied, of) = self.replica().map_or((0, 0), |replica| replica.progress());
        // One after the other: what is borrowed for a field would be held to the end of all.
        let charter = self.charter().tag;
        let refs = print(&lock(&self.refs));
        Has {
            charter,
            refs,
            releases: self.here(),
            backups: self.backups(),
            is_whole: self.is_whole(),
            copied,
            of,
        }
    }
}
