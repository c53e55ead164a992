//! The copy in the other region, as a [`Replica`].
//!
//! Its directory holds `replica.json`, which names the copy that can be restored and the next one that is being fetched, and
//! one directory `copy-ID` for each (see [`super::part`]). The copy stays whole and restorable until the next one is; then
//! `replica.json` names that one alone, and only then the older is removed: an older copy is never restored by mistake.
//! `guess.db`, when it is there, is an older state of the same database, to compare pages with.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::fetch::{Fetch, part_file};
use super::part::{Base, Part, PartRecord, View, replace_file, sync_dir};
use super::snapshot::check_whole;
use super::wire::{Answer, Body, Offer, Request, Want, decode, encode};
use super::{blocking, database_file};
use crate::data::unfinished::Unfinished;
use crate::data::{DataError, Position, Replica};

const RECORD_VERSION: u32 = 1;
/// After a fold that failed, usually of a full disk: each try writes the whole database.
const FOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct SqliteReplica {
    state: Arc<Mutex<State>>,
    told: Arc<Mutex<Told>>,
    folding: Mutex<Option<JoinHandle<()>>>,
}

/// What an observer is told without waiting for disks.
#[derive(Debug, Clone)]
struct Told {
    request: Vec<u8>,
    position: Position,
    theirs: Position,
    is_whole: bool,
    progress: (u64, u64),
}

#[derive(Debug)]
struct State {
    dir: PathBuf,
    copy: Option<Part>,
    next: Next,
    theirs: Position,
    folding: Folding,
    /// `replica.json` says what is here.
    is_stored: bool,
}

/// Whether frames are being put into the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Folding {
    No,
    Running,
    /// The last try failed; none is made before this.
    NotBefore(Instant),
}

/// What will take the copy's place.
#[derive(Debug)]
enum Next {
    None,
    Fetching(Fetch),
    /// Its snapshot is here; some frames are needed until it is whole.
    CatchingUp(Part),
}

/// `replica.json`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    copy: Option<PartRecord>,
    next: Option<PartRecord>,
}

impl SqliteReplica {
    pub(super) async fn open(dir: &Path) -> Result<Arc<Self>, DataError> {
        let dir = dir.to_owned();
        let state = blocking(move || State::open(&dir)).await?;
        let told = Arc::new(Mutex::new(state.told()));
        let state = Arc::new(Mutex::new(state));
        Ok(Arc::new(Self { state, told, folding: Mutex::new(None) }))
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        locked(&self.told)
    }

    /// Makes one file of pages and frames, beside everything else.
    fn fold(&self, fold: Fold) {
        let state = Arc::clone(&self.state);
        let task = tokio::task::spawn_blocking(move || {
            let folded = fold.view.fold(&fold.dir);
            locked(&state).end_fold(&fold.dir, folded, Instant::now());
        });
        *locked(&self.folding) = Some(task);
    }
}

/// Work to be done without the lock.
#[derive(Debug)]
struct Fold {
    view: View,
    dir: PathBuf,
}

impl State {
    fn open(dir: &Path) -> Result<Self, DataError> {
        std::fs::create_dir_all(dir).map_err(DataError::io("create", dir))?;
        let record = Record::read(dir)?;
        let part = |record: Option<PartRecord>| {
            record.map(|record| Part::open(&copy_dir(dir, record.snapshot), record)).transpose()
        };
        let copy = part(record.copy)?;
        let next = match part(record.next)?.filter(|next| next.damage.is_none()) {
            Some(next) => Next::CatchingUp(next),
            None => Next::None,
        };
        if let Some(what) = copy.as_ref().and_then(|copy| copy.damage.as_ref()) {
            tracing::error!(dir = %dir.display(), what, "the replica is damaged: a new copy is fetched");
        }
        let theirs = copy.as_ref().map_or(Position::default(), Part::position);
        let mut state =
            Self { dir: dir.to_owned(), copy, next, theirs, folding: Folding::No, is_stored: true };
        // What is damaged is not looked for again: it is about to be removed.
        state.is_stored = state.record() == record;
        if let Err(error) = state.settle_next() {
            // A full disk keeps nobody from what is here.
            tracing::warn!(dir = %dir.display(), %error, "the replica is opened as it was");
        }
        state.keep_fetched();
        if state.is_stored {
            state.remove_others();
        }
        Ok(state)
    }

    fn told(&self) -> Told {
        let whole = self.whole();
        let progress = match &self.next {
            Next::Fetching(fetch) => fetch.progress(),
            Next::CatchingUp(_) | Next::None => {
                let bytes = whole.map_or(0, |copy| copy.record.base.bytes);
                (bytes, bytes)
            }
        };
        Told {
            request: encode(&self.request()),
            position: whole.map_or(Position::default(), Part::position),
            theirs: self.theirs,
            is_whole: whole.is_some(),
            progress,
        }
    }

    fn whole(&self) -> Option<&Part> {
        self.copy.as_ref().filter(|copy| copy.is_whole())
    }

    fn request(&self) -> Request {
        let whole = self.whole();
        let want = match (&self.next, whole) {
            (Next::Fetching(fetch), _) => fetch.want().unwrap_or(Want::Snapshot),
            (Next::CatchingUp(next), _) => Want::Frames { from: next.place(), whole: false },
            (Next::None, Some(copy)) => Want::Frames { from: copy.place(), whole: true },
            (Next::None, None) => Want::Snapshot,
        };
        Request { position: whole.map_or(Position::default(), Part::position), want }
    }

    fn apply(&mut self, answer: &[u8], now: Instant) -> Result<(bool, Option<Fold>), DataError> {
        let answer: Answer = decode(answer)?;
        let got = match answer.body {
            Body::Nothing => Ok(false),
            Body::Offer(offer) => self.take_offer(offer),
            Body::Hashes { snapshot, from, hashes } => {
                self.fetching(|fetch| fetch.take_hashes(snapshot, from, &hashes))
            }
            Body::Pages { snapshot, ranges, pages } => {
                self.fetching(|fetch| fetch.take_pages(snapshot, &ranges, &pages))
            }
            Body::Frames { chain, from, at, frames } => match (&mut self.next, &mut self.copy) {
                (Next::CatchingUp(part), _) | (Next::None, Some(part)) => part.take(chain, from, at, &frames),
                _ => Ok(false),
            },
        }?;
        self.theirs = answer.theirs;
        self.settle_next()?;
        Ok((got, self.begin_fold(now)))
    }

    fn fetching(
        &mut self,
        take: impl FnOnce(&mut Fetch) -> Result<bool, DataError>,
    ) -> Result<bool, DataError> {
        match &mut self.next {
            Next::Fetching(fetch) => take(fetch),
            Next::CatchingUp(_) | Next::None => Ok(false),
        }
    }

    fn take_offer(&mut self, offer: Offer) -> Result<bool, DataError> {
        if matches!(&self.next, Next::Fetching(fetch) if fetch.offer.snapshot == offer.snapshot) {
            return Ok(false);
        }
        check_offer(&offer)?;
        self.next = Next::None;
        self.write_record()?;
        self.remove_others();
        let dir = copy_dir(&self.dir, offer.snapshot);
        std::fs::create_dir_all(&dir).map_err(DataError::io("create", &dir))?;
        let fetch = Fetch::begin(&dir, offer, |path| self.guess(path))?;
        self.next = Next::Fetching(fetch);
        Ok(true)
    }

    /// Puts the best that is here to compare a snapshot with to `path`. False when there is nothing.
    fn guess(&self, path: &Path) -> Result<bool, DataError> {
        let adopted = guess_file(&self.dir);
        if adopted.exists() {
            std::fs::rename(&adopted, path).map_err(DataError::io("take the old database to", path))?;
            return Ok(true);
        }
        let Some(copy) = &self.copy else { return Ok(false) };
        // A guess may be wrong anywhere: hashes decide.
        Ok(copy.view().is_ok_and(|view| view.write(path).is_ok()))
    }

    /// Lets what is being fetched take the next step that needs nothing from the source. A copy is the one that is confirmed only
    /// when that is on the disk: after a restart an older one would be found, or none, and the source counts on what it was told.
    fn settle_next(&mut self) -> Result<(), DataError> {
        if let Next::Fetching(fetch) = &mut self.next
            && fetch.want().is_none()
            && let Some(part) = fetch.finish()?
        {
            self.next = Next::CatchingUp(part);
            self.is_stored = false;
        }
        let arrived = match &self.next {
            Next::CatchingUp(next) if next.is_whole() => next.record,
            _ if self.is_stored => return Ok(()),
            _ => return self.write_record(),
        };
        self.is_stored = false;
        Record { version: RECORD_VERSION, copy: Some(arrived), next: None }.write(&self.dir)?;
        self.is_stored = true;
        if let Next::CatchingUp(next) = std::mem::replace(&mut self.next, Next::None) {
            self.copy = Some(next);
            self.remove_others();
            let _ = std::fs::remove_file(guess_file(&self.dir));
        }
        Ok(())
    }

    /// What is to be made one file of pages, when that is due. What hinders it hinders no frames.
    fn begin_fold(&mut self, now: Instant) -> Option<Fold> {
        let may = match self.folding {
            Folding::No => true,
            Folding::Running => false,
            Folding::NotBefore(then) => then <= now,
        };
        let copy = self.copy.as_mut().filter(|copy| may && copy.wants_folding())?;
        let dir = copy.dir().to_owned();
        match copy.begin_fold() {
            Ok(view) => {
                self.folding = Folding::Running;
                Some(Fold { view, dir })
            }
            Err(error) => {
                self.put_off_folding(&dir, &error, now);
                None
            }
        }
    }

    fn end_fold(&mut self, dir: &Path, folded: Result<Base, DataError>, now: Instant) {
        self.folding = Folding::No;
        if let Err(error) = folded.and_then(|base| self.use_folded(dir, base)) {
            if let Some(copy) = self.copy.as_mut().filter(|copy| copy.dir() == dir) {
                copy.note_damage(&error);
            }
            self.put_off_folding(dir, &error, now);
        }
    }

    fn use_folded(&mut self, dir: &Path, base: Base) -> Result<(), DataError> {
        let Some(copy) = self.copy.as_mut().filter(|copy| copy.dir() == dir) else { return Ok(()) };
        copy.end_fold(base);
        // When this fails, all that the old record names is still here: no answer has to wait for it.
        self.record().write(&self.dir)?;
        if let Some(copy) = &mut self.copy {
            copy.forget_folded();
        }
        Ok(())
    }

    fn put_off_folding(&mut self, dir: &Path, error: &DataError, now: Instant) {
        tracing::warn!(dir = %dir.display(), %error, "frames are not put into the pages");
        self.folding = Folding::NotBefore(now + FOLD_AGAIN_AFTER);
    }

    fn record(&self) -> Record {
        let next = match &self.next {
            Next::CatchingUp(next) => Some(next.record),
            Next::Fetching(_) | Next::None => None,
        };
        Record { version: RECORD_VERSION, copy: self.copy.as_ref().map(|copy| copy.record), next }
    }

    /// When it fails, the next answer tries it again.
    fn write_record(&mut self) -> Result<(), DataError> {
        self.is_stored = false;
        self.record().write(&self.dir)?;
        self.is_stored = true;
        Ok(())
    }

    /// What was fetched of a snapshot when this was killed is the best guess for the next.
    fn keep_fetched(&self) {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| part_file(&entry.path())).filter(|path| path.exists()) {
            let _ = std::fs::rename(path, guess_file(&self.dir));
        }
    }

    /// Removes directories that nothing names.
    fn remove_others(&self) {
        let record = self.record();
        let kept = [record.copy, record.next].map(|part| part.map(|part| copy_dir(&self.dir, part.snapshot)));
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| is_copy_dir(path)) {
            if !kept.contains(&Some(path.clone()))
                && let Err(error) = std::fs::remove_dir_all(&path)
            {
                tracing::warn!(path = %path.display(), %error, "an old copy stays");
            }
        }
    }

    fn view(&self) -> Result<View, DataError> {
        let whole = |copy: &&Part| copy.is_whole() || copy.damage.is_some();
        match self.copy.as_ref().filter(whole) {
            Some(copy) => copy.view(),
            None => {
                let (have, of) = self.told().progress;
                Err(DataError::NotWhole { path: self.dir.clone(), have, of })
            }
        }
    }
}

impl Record {
    fn read(dir: &Path) -> Result<Self, DataError> {
        let path = record_file(dir);
        let none = Self { version: RECORD_VERSION, copy: None, next: None };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(none),
            Err(error) => return Err(DataError::io("read", &path)(error)),
        };
        serde_json::from_slice(&bytes).map_err(|error| DataError::Corrupt {
            what: error.to_string(),
            path,
            mend: "move the replica's directory away: while the source lives a new copy is fetched by itself",
        })
    }

    fn write(&self, dir: &Path) -> Result<(), DataError> {
        let bytes = serde_json::to_vec(self).expect("plain fields have no fallible encoding");
        replace_file(&record_file(dir), &bytes)
    }
}

/// Writes a copy out as a database directory; all or nothing.
fn restore(view: &View, into: &Path) -> Result<Position, DataError> {
    let partial = begin_dir(into)?;
    let file = database_file(partial.path());
    drop(view.write(&file)?);
    check_whole(&file)?;
    sync_dir(partial.path())?;
    partial.finish()?;
    Ok(view.position())
}

/// An empty directory that becomes `into`, which does not exist.
pub(super) fn begin_dir(into: &Path) -> Result<Unfinished, DataError> {
    if into.exists() {
        return Err(DataError::Exists(into.to_owned()));
    }
    let partial = Unfinished::beside(into)?;
    let path = partial.path();
    std::fs::create_dir_all(path).map_err(DataError::io("create", path))?;
    Ok(partial)
}

/// An offer that SQLite could not have made is refused before room is made for it.
fn check_offer(offer: &Offer) -> Result<(), DataError> {
    let size = offer.page_size;
    if !(512..=65_536).contains(&size) || !size.is_power_of_two() || offer.pages == 0 {
        return Err(DataError::Foreign(format!("a snapshot of {} pages of {size} bytes", offer.pages)));
    }
    Ok(())
}

fn record_file(dir: &Path) -> PathBuf {
    dir.join("replica.json")
}

/// An older state of the database, left by [`super::adopt_old`].
pub(super) fn guess_file(dir: &Path) -> PathBuf {
    dir.join("guess.db")
}

fn copy_dir(dir: &Path, snapshot: u64) -> PathBuf {
    dir.join(format!("copy-{snapshot:016x}"))
}

fn is_copy_dir(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("copy-"))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Replica for SqliteReplica {
    fn request(&self) -> Vec<u8> {
        self.told().request.clone()
    }

    async fn apply(&self, answer: &[u8]) -> Result<bool, DataError> {
        let (state, told, answer) = (Arc::clone(&self.state), Arc::clone(&self.told), answer.to_vec());
        let (got, fold) = blocking(move || {
            let mut state = locked(&state);
            let applied = state.apply(&answer, Instant::now());
            *locked(&told) = state.told();
            applied
        })
        .await?;
        if let Some(fold) = fold {
            self.fold(fold);
        }
        Ok(got)
    }

    fn position(&self) -> Position {
        self.told().position
    }

    fn theirs(&self) -> Position {
        self.told().theirs
    }

    fn is_whole(&self) -> bool {
        self.told().is_whole
    }

    fn progress(&self) -> (u64, u64) {
        self.told().progress
    }

    async fn restore(&self, into: &Path) -> Result<Position, DataError> {
        let (state, told, into) = (Arc::clone(&self.state), Arc::clone(&self.told), into.to_owned());
        blocking(move || {
            let view = locked(&state).view()?;
            let restored = restore(&view, &into);
            if let Err(error @ DataError::Corrupt { .. }) = &restored {
                let mut state = locked(&state);
                if let Some(copy) = &mut state.copy {
                    copy.note_damage(error);
                }
                *locked(&told) = state.told();
            }
            restored
        })
        .await
    }

    async fn close(&self) {
        let folding = locked(&self.folding).take();
        if let Some(folding) = folding {
            let _ = folding.await;
        }
    }
}

#[cfg(test)]
mod tests;
