//! A database that an app uses, as a [`Live`]: a task that looks whenever the log changes, and answers for a replica.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::pins::{connect, pin, unpin};
use super::record::Record;
use super::snapshot::{Snapshot, copy_database, count_rows, reading};
use super::source::{Mark, Source, sqlite};
use super::watch::Watch;
use super::wire::{Answer, Body, Offer, Place, Request, Want, decode, encode};
use super::{LiveOptions, blocking, chance, database_file, ship_dir};
use crate::data::{BackupMeta, Behind, DataError, Engine, Live, Position, now};

/// How long to wait after a failure before looking again.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// A commit is in the log's file as soon as it is written, and in its index, which gives no notice, when the disk has it: how
/// soon to look whether it is. Each further look comes after twice as long.
const AWAIT_INDEX: Duration = Duration::from_millis(1);
/// And after how long at most: the writer may have died, and then no look finds anything.
const AWAIT_INDEX_MAX: Duration = Duration::from_millis(64);
/// How often an exact place for a backup is tried without asking writers to wait.
const EXACT_ATTEMPTS: u32 = 5;

/// See the module.
#[derive(Debug)]
pub(super) struct SqliteLive {
    shared: Arc<Shared>,
    looking: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    source: Mutex<Option<Source>>,
    probe: Mutex<Probe>,
    seen: watch::Sender<Seen>,
    confirmed: watch::Sender<Confirmed>,
    snapshot: tokio::sync::Mutex<Begin>,
    trouble: Mutex<Option<String>>,
    /// Held while a turn has a connection of its own.
    turning: Mutex<()>,
}

/// What [`Live::is_settled`] looks at.
#[derive(Debug)]
struct Probe {
    log: Arc<File>,
    mark: Mark,
    chain: u64,
}

/// How far the database has been read.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    chain: u64,
    end: u64,
    position: Position,
}

/// What the replica has said.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Confirmed {
    chain: u64,
    frames: u64,
    position: Option<Position>,
}

/// The snapshot that a replica begins with.
#[derive(Debug)]
enum Begin {
    None,
    Making(JoinHandle<Result<Snapshot, DataError>>),
    Ready(Arc<Snapshot>),
}

impl SqliteLive {
    pub(super) async fn open(
        dir: &Path,
        from: Position,
        options: LiveOptions,
    ) -> Result<Arc<Self>, DataError> {
        let path = dir.to_owned();
        let source = blocking(move || {
            clear_snapshots(&path);
            let mut source = Source::open(&path, from, options)?;
            source.go_on_from(from)?;
            Ok(source)
        })
        .await?;
        let seen = Seen { chain: source.chain(), end: source.end(), position: source.position() };
        let probe = Probe { log: source.log(), mark: source.mark(), chain: source.chain() };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            source: Mutex::new(Some(source)),
            probe: Mutex::new(probe),
            seen: watch::Sender::new(seen),
            confirmed: watch::Sender::new(Confirmed::default()),
            snapshot: tokio::sync::Mutex::new(Begin::None),
            trouble: Mutex::new(None),
            turning: Mutex::new(()),
        });
        let looking = tokio::spawn(look(Arc::clone(&shared), Watch::open(dir)));
        Ok(Arc::new(Self { shared, looking }))
    }
}

impl Drop for SqliteLive {
    fn drop(&mut self) {
        self.looking.abort();
        // The task may outlive this for a moment; the files must not be held by two.
        *locked(&self.shared.source) = None;
    }
}

/// Looks whenever something may have changed, until the database is stopped.
async fn look(shared: Arc<Shared>, watch: Watch) {
    let mut again = AWAIT_INDEX;
    loop {
        let began = Instant::now();
        let awaits_index = match shared.advance().await {
            Ok(awaits_index) => awaits_index,
            Err(DataError::Stopped(_)) => return,
            Err(_) => {
                tokio::time::sleep(AFTER_FAILURE).await;
                true
            }
        };
        let took = began.elapsed();
        let turning = Arc::clone(&shared);
        if let Err(error) = blocking(move || turn(&turning).and(sync_record(&turning))).await {
            tracing::warn!(database = %shared.dir.display(), %error, "the log does not start again");
        }
        // A transaction that grows for a long time is looked at for at most half of it.
        if took > Duration::from_millis(5) {
            tokio::time::sleep(took).await;
        }
        if !awaits_index {
            watch.changed().await;
        } else if tokio::time::timeout(again, watch.changed()).await.is_err() {
            again = (again * 2).min(AWAIT_INDEX_MAX);
            continue;
        }
        again = AWAIT_INDEX;
    }
}

/// Lets the log start again when it has grown. What waits for disks does not keep others from looking.
fn turn(shared: &Shared) -> Result<(), DataError> {
    let _turning = locked(&shared.turning);
    let file = database_file(&shared.dir);
    let Some(lent) = shared.with(|source, _| source.begin_turn())? else { return Ok(()) };
    // However the copying ends, the connection goes back.
    let copied = lent.copy().map_err(sqlite("copy the log into", &file));
    if let Some(lent) = shared.with(|source, _| source.end_turn(lent))? {
        let entered = lent.enter().map_err(sqlite("ask writers to wait at", &file));
        let is_in = matches!(entered, Ok(true));
        shared.with(|source, _| source.end_quiet_turn(lent, is_in))?;
        entered?;
    }
    copied
}

/// Waits for the disk where nobody else waits for it.
fn sync_record(shared: &Shared) -> Result<(), DataError> {
    match shared.with(|source, _| Ok(source.take_unsynced()))? {
        true => Record::sync(&shared.dir),
        false => Ok(()),
    }
}

impl Shared {
    /// Reads what has been committed, and tells those who wait. True when there is more, which is not committed yet.
    async fn advance(self: &Arc<Self>) -> Result<bool, DataError> {
        let shared = Arc::clone(self);
        let looked =
            move || shared.with(|source, shared| shared.advanced(source).map(|()| source.awaits_index()));
        blocking(looked).await
    }

    fn advanced(&self, source: &mut Source) -> Result<(), DataError> {
        let done = source.advance();
        *locked(&self.trouble) = done.as_ref().err().map(ToString::to_string);
        if let Err(error) = &done {
            tracing::warn!(database = %self.dir.display(), %error, "commits are not shipped");
        }
        self.publish(source);
        done.map(|_| ())
    }

    fn publish(&self, source: &Source) {
        *locked(&self.probe) = Probe { log: source.log(), mark: source.mark(), chain: source.chain() };
        let seen = Seen { chain: source.chain(), end: source.end(), position: source.position() };
        self.seen.send_if_modified(|old| std::mem::replace(old, seen) != seen);
    }

    fn with<T>(&self, work: impl FnOnce(&mut Source, &Self) -> Result<T, DataError>) -> Result<T, DataError> {
        let mut source = locked(&self.source);
        let source = source.as_mut().ok_or_else(|| DataError::Stopped(self.dir.clone()))?;
        work(source, self)
    }

    fn position(&self) -> Position {
        self.seen.borrow().position
    }

    fn confirm(&self, confirmed: Confirmed) {
        self.confirmed.send_if_modified(|old| std::mem::replace(old, confirmed) != confirmed);
    }

    /// What follows a place: at once if there is something, else when it comes. Nothing when it cannot be continued.
    async fn frames(
        self: &Arc<Self>,
        request: &Request,
        from: Place,
        whole: bool,
        until: Instant,
    ) -> Result<Option<Body>, DataError> {
        let mut seen = self.seen.subscribe();
        let position = request.position;
        loop {
            let shared = Arc::clone(self);
            let given = blocking(move || {
                shared.with(|source, shared| {
                    shared.advanced(source)?;
                    shared.give(source, from, whole.then_some(position))
                })
            });
            match given.await? {
                Given::Frames(body) => return Ok(Some(body)),
                Given::Foreign => return Ok(None),
                Given::NothingYet => {}
            }
            let more = seen.wait_for(|seen| seen.chain != from.chain || seen.end > from.frames);
            if tokio::time::timeout_at(until, more).await.is_err() {
                return Ok(Some(Body::Nothing));
            }
        }
    }

    fn give(
        &self,
        source: &mut Source,
        from: Place,
        restorable: Option<Position>,
    ) -> Result<Given, DataError> {
        if !source.can_continue(&from) {
            return Ok(Given::Foreign);
        }
        source.follow(from.frames)?;
        if let Some(position) = restorable {
            self.confirm(Confirmed { chain: from.chain, frames: from.frames, position: Some(position) });
        }
        Ok(match source.frames(from.frames)? {
            Some((frames, at)) => Given::Frames(Body::Frames {
                chain: from.chain,
                from: from.frames,
                at,
                frames: frames.into(),
            }),
            None => Given::NothingYet,
        })
    }

    /// The snapshot to begin with: the one that is there, else a new one. Nothing while it is being taken.
    async fn begin(self: &Arc<Self>, until: Instant) -> Result<Option<Arc<Snapshot>>, DataError> {
        let Ok(mut begin) = tokio::time::timeout_at(until, self.snapshot.lock()).await else {
            return Ok(None);
        };
        if let Begin::Ready(snapshot) = &*begin {
            let from = snapshot.offer.from;
            if self.with(|source, _| Ok(source.can_continue(&from)))? {
                return Ok(Some(Arc::clone(snapshot)));
            }
            *begin = Begin::None;
        }
        if let Begin::None = &*begin {
            let shared = Arc::clone(self);
            *begin = Begin::Making(tokio::spawn(blocking(move || take_snapshot(&shared))));
        }
        let Begin::Making(making) = &mut *begin else { return Ok(None) };
        let Ok(made) = tokio::time::timeout_at(until, making).await else { return Ok(None) };
        *begin = Begin::None;
        let snapshot = match made {
            Ok(made) => Arc::new(made?),
            Err(_) => return Err(DataError::Stopped(self.dir.clone())),
        };
        *begin = Begin::Ready(Arc::clone(&snapshot));
        Ok(Some(snapshot))
    }

    /// Pieces of the snapshot that the replica has begun with; nothing when that is gone.
    async fn piece(self: &Arc<Self>, want: Want, until: Instant) -> Result<Option<Body>, DataError> {
        let Ok(begin) = tokio::time::timeout_at(until, self.snapshot.lock()).await else {
            return Ok(Some(Body::Nothing));
        };
        let Begin::Ready(snapshot) = &*begin else { return Ok(None) };
        let snapshot = Arc::clone(snapshot);
        drop(begin);
        let (id, from) = (snapshot.offer.snapshot, snapshot.offer.from);
        if !self.with(|source, _| Ok(source.can_continue(&from)))? {
            return Ok(None);
        }
        match want {
            Want::Hashes { snapshot: asked, from } if asked == id => {
                blocking(move || snapshot.hashes(from)).await.map(Some)
            }
            Want::Pages { snapshot: asked, ranges } if asked == id => {
                blocking(move || snapshot.pages(&ranges)).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    async fn answer(self: &Arc<Self>, request: Request, until: Instant) -> Result<Body, DataError> {
        if let Want::Frames { from, whole } = request.want {
            if let Some(body) = self.frames(&request, from, whole, until).await? {
                if whole {
                    self.forget_snapshot();
                }
                return Ok(body);
            }
        } else if request.want != Want::Snapshot
            && let Some(body) = self.piece(request.want.clone(), until).await?
        {
            return Ok(body);
        }
        let shared = Arc::clone(self);
        blocking(move || shared.with(|source, shared| shared.stranger(source, request.position))).await?;
        Ok(self.begin(until).await?.map_or(Body::Nothing, |snapshot| Body::Offer(snapshot.offer)))
    }

    /// A replica that cannot continue. What it has stays restorable until the new snapshot is whole there.
    fn stranger(&self, source: &mut Source, has: Position) -> Result<(), DataError> {
        let known = source.position();
        source.raise(has)?;
        self.publish(source);
        let both = if known.covers(has) { has } else { known };
        self.confirm(Confirmed { chain: 0, frames: 0, position: Some(both) });
        Ok(())
    }

    /// The replica is whole: the snapshot that it began with is not needed any more.
    fn forget_snapshot(&self) {
        if let Ok(mut begin) = self.snapshot.try_lock()
            && let Begin::Ready(_) = &*begin
        {
            *begin = Begin::None;
        }
    }

    /// What cannot be looked at may hold anything.
    fn is_settled(&self) -> bool {
        if locked(&self.trouble).is_some() {
            return false;
        }
        let probe = locked(&self.probe);
        let confirmed = self.confirmed.borrow();
        confirmed.chain == probe.chain
            && confirmed.frames >= probe.mark.end
            && !probe.mark.may_have_grown(&probe.log)
    }
}

/// What a source has behind a place.
enum Given {
    Frames(Body),
    NothingYet,
    /// It is not the place's.
    Foreign,
}

/// Frames from before the copying begins follow it, so it does not matter which of them the copy has already.
fn take_snapshot(shared: &Shared) -> Result<Snapshot, DataError> {
    let (from, base, page_size) = shared.with(|source, shared| {
        shared.advanced(source)?;
        source.follow(source.end())?;
        Ok((source.place(), source.position(), source.page_size()))
    })?;
    let snapshot = chance();
    let path = ship_dir(&shared.dir).join(format!("snapshot-{snapshot:016x}.db"));
    let copied = reading(&database_file(&shared.dir), |db| copy_database(db, &path))?;
    let whole_at = shared.with(|source, shared| {
        shared.advanced(source)?;
        Ok(source.end())
    })?;
    let pages = u32::try_from(copied.bytes / u64::from(page_size)).unwrap_or(u32::MAX);
    let offer = Offer { snapshot, from, whole_at, base, page_size, pages, sha256: copied.sha256 };
    Ok(Snapshot::new(offer, copied, path))
}

/// Removes what a killed node left.
fn clear_snapshots(dir: &Path) {
    let entries = std::fs::read_dir(ship_dir(dir)).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "db" || extension == "db-journal") {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A backup, with the position that is exactly its own.
fn take_backup(shared: &Shared, into: &Path) -> Result<BackupMeta, DataError> {
    if into.exists() {
        return Err(DataError::Exists(into.to_owned()));
    }
    let file = database_file(&shared.dir);
    let at = now();
    let db = connect(&file).map_err(sqlite("open the database", &file))?;
    let position = pin_exactly(shared, &db, &file)?;
    let rows = count_rows(&db, &file)?;
    let copied = copy_database(&db, into)?;
    unpin(&db);
    copied.file.sync_all().map_err(DataError::io("sync the backup", into))?;
    Ok(BackupMeta { engine: Engine::Sqlite, position, at, bytes: copied.bytes, rows })
}

/// Begins to read, and tells at what position: nothing may be committed between the two looks around it.
fn pin_exactly(shared: &Shared, db: &rusqlite::Connection, file: &Path) -> Result<Position, DataError> {
    let look =
        || shared.with(|source, shared| shared.advanced(source).map(|()| (source.end(), source.position())));
    let mut before = look()?;
    for _ in 0..EXACT_ATTEMPTS {
        pin(db).map_err(sqlite("begin to read", file))?;
        let after = look()?;
        if after.0 == before.0 {
            return Ok(after.1);
        }
        unpin(db);
        before = after;
    }
    // Writers never pause: they are made to, for the moment of the two.
    let writer = connect(file).map_err(sqlite("open the database", file))?;
    writer.execute_batch("BEGIN IMMEDIATE").map_err(sqlite("ask writers to wait at", file))?;
    pin(db).map_err(sqlite("begin to read", file))?;
    let position = look().map(|(_, position)| position);
    unpin(&writer);
    position
}

#[async_trait]
impl Live for SqliteLive {
    fn engine(&self) -> Engine {
        Engine::Sqlite
    }

    fn env(&self) -> Vec<(String, String)> {
        let file = database_file(&self.shared.dir);
        let file = std::path::absolute(&file).unwrap_or(file);
        let file = file.display().to_string();
        vec![("DATABASE_URL".to_owned(), format!("sqlite://{file}")), ("DATABASE_FILE".to_owned(), file)]
    }

    fn position(&self) -> Position {
        self.shared.position()
    }

    fn confirmed(&self) -> Option<Position> {
        self.shared.confirmed.borrow().position
    }

    fn is_settled(&self) -> bool {
        self.shared.is_settled()
    }

    async fn settle(&self, within: Duration) -> Result<(), Behind> {
        let until = Instant::now() + within;
        let mut confirmed = self.shared.confirmed.subscribe();
        // A failed look is no proof that nothing was committed: then only the time runs out.
        let looked = self.shared.advance().await.is_ok();
        let mut target = *self.shared.seen.borrow();
        let arrived = async {
            loop {
                let said = *confirmed.borrow_and_update();
                if looked && said.chain == target.chain && said.frames >= target.end {
                    return;
                }
                let seen = *self.shared.seen.borrow();
                if seen.chain != target.chain {
                    target = seen;
                    continue;
                }
                if confirmed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout_at(until, arrived).await.map_err(|_| {
            let kept = self.confirmed().unwrap_or_default();
            Behind { lacks: self.position().beyond(kept), waited: within }
        })
    }

    async fn ship(&self, request: &[u8], wait: Duration) -> Result<Vec<u8>, DataError> {
        let request: Request = decode(request)?;
        let body = self.shared.answer(request, Instant::now() + wait).await?;
        Ok(encode(&Answer { theirs: self.position(), body }))
    }

    async fn backup(&self, into: &Path) -> Result<BackupMeta, DataError> {
        let (shared, into) = (Arc::clone(&self.shared), into.to_owned());
        blocking(move || take_backup(&shared, &into)).await
    }

    async fn check(&self) -> Result<(), DataError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.with(|source, _| source.ask())).await
    }

    fn warnings(&self) -> Vec<String> {
        let trouble = locked(&self.shared.trouble);
        trouble.iter().map(|why| format!("commits do not reach the other region: {why}")).collect()
    }

    async fn stop(&self) -> Result<Position, DataError> {
        self.looking.abort();
        let shared = Arc::clone(&self.shared);
        let position = blocking(move || {
            let mut source = locked(&shared.source);
            let last = match source.as_mut() {
                Some(source) => shared.advanced(source).and_then(|()| source.write_record()),
                None => Ok(()),
            };
            // Let go in any case: nobody here holds the files afterwards.
            *source = None;
            drop(source);
            drop(locked(&shared.turning));
            last.map(|()| shared.position())
        });
        let position = position.await?;
        *self.shared.snapshot.lock().await = Begin::None;
        Ok(position)
    }
}
